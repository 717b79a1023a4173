--- JSON by the grammar of RFC 8259, over UTF-8 as RFC 3629 has it: slow, plain, and independent of
-- what it judges. It says of a text whether it is JSON, and else what is wrong with it.
local rfc = {}

-- Faults behind which reading goes on, because some reader takes them; all others end it.
-- cjson: lua-cjson 2.1.0 takes it. python: Python's json does. json: the RFC itself allows it, and
-- allows a reader to refuse it (section 9: limits on size, depth and range; 8.2: surrogates).
rfc.FAULTS = {
  control = { cjson = true, example = '["a\tb"]', what = "a control character in a string" },
  utf8 = { cjson = true, example = '["\192\128"]', what = "bytes in a string that are no UTF-8" },
  point = { cjson = true, example = "[1.]", what = "a point without a digit on each side" },
  nul = { cjson = true, example = "[1]\0]", what = "a NUL behind the value, and anything then" },
  range = { cjson = true, python = true, json = true, example = "[1e400]",
    what = "a number no double can hold" },
  surrogate = { python = true, json = true, example = [["\ud800"]],
    what = "an escaped surrogate without its other half" },
  depth = { json = true, example = ("["):rep(129) .. ("]"):rep(129),
    what = "more than 128 levels" },
}

rfc.DEPTH = 128 -- what moonbus promises to read
local BOTTOM = 1000 -- where reading ends, for this reader's own sake

-- What a document is read as: text and booleans as they are, the rest as tables of these kinds.
rfc.Number, rfc.Array, rfc.Object = {}, {}, {}
rfc.null = setmetatable({}, { __tostring = function() return "null" end })

local find, sub, byte = string.find, string.sub, string.byte

local function refuse(what, at)
  error({ what = what, at = at }, 0)
end

local function blank(r, at)
  local _, last = find(r.text, "^[ \t\n\r]*", at)
  return last + 1
end

-- ---- strings ----

local SEQUENCES = { -- RFC 3629, section 4
  "^[\194-\223][\128-\191]()", "^\224[\160-\191][\128-\191]()",
  "^[\225-\236\238\239][\128-\191][\128-\191]()", "^\237[\128-\159][\128-\191]()",
  "^\240[\144-\191][\128-\191][\128-\191]()", "^[\241-\243][\128-\191][\128-\191][\128-\191]()",
  "^\244[\128-\143][\128-\191][\128-\191]()",
}

local function sequence(text, at)
  for _, form in ipairs(SEQUENCES) do
    local behind = text:match(form, at)
    if behind then return behind end
  end
end

local function utf8(code)
  local floor, char = math.floor, string.char
  if code < 0x80 then return char(code) end
  if code < 0x800 then return char(0xC0 + floor(code / 64), 0x80 + code % 64) end
  local low = char(0x80 + floor(code / 64) % 64, 0x80 + code % 64)
  if code < 0x10000 then return char(0xE0 + floor(code / 4096)) .. low end
  return char(0xF0 + floor(code / 262144), 0x80 + floor(code / 4096) % 64) .. low
end

local NAMED = { ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r",
  t = "\t" }

-- at is at a backslash. What it means, and where it ends.
local function escape(r, at)
  local text = r.text
  local named = NAMED[sub(text, at + 1, at + 1)]
  if named then return named, at + 2 end
  local unit = tonumber(text:match("^\\u(%x%x%x%x)", at) or "", 16)
  if not unit then refuse("an escape that is none", at) end
  if unit < 0xD800 or unit > 0xDFFF then return utf8(unit), at + 6 end
  local low = unit < 0xDC00 and tonumber(text:match("^\\u([dD][c-fC-F]%x%x)", at + 6) or "", 16)
  if not low then
    r.faults.surrogate = true
    return "?", at + 6
  end
  return utf8(0x10000 + (unit - 0xD800) * 0x400 + (low - 0xDC00)), at + 12
end

-- at is at the opening quote. The string, and where it ends.
local function string_at(r, at)
  local text = r.text
  local _, last = find(text, '^[^%z\1-\31"\\\128-\255]*"', at + 1)
  if last then return sub(text, at + 1, last - 1), last + 1 end
  local parts = {}
  at = at + 1
  while true do
    local plain, stop = text:match('^([^%z\1-\31"\\\128-\255]*)()', at)
    local c = byte(text, stop)
    local piece
    parts[#parts + 1] = plain
    if c == 34 then return table.concat(parts), stop + 1 end
    if not c or c == 0 then refuse("a string without its end", stop) end
    if c == 92 then
      piece, at = escape(r, stop)
    elseif c < 32 then
      r.faults.control = true
      piece, at = sub(text, stop, stop), stop + 1
    else
      at = sequence(text, stop)
      if not at then r.faults.utf8 = true end
      at = at or stop + 1
      piece = sub(text, stop, at - 1)
    end
    parts[#parts + 1] = piece
  end
end

-- ---- numbers ----

-- LuaJIT makes nothing of exponents that are absurd.
local function is_beyond(raw)
  local number = tonumber(raw)
  if number then return math.abs(number) == math.huge end
  return raw:find "^[^eE]*[1-9]" and not raw:find "[eE]%-"
end

local function number_at(r, at)
  local text = r.text
  local _, last, digits = find(text, "^%-?(%d*)", at)
  if #digits > 1 and byte(digits) == 48 then refuse("a zero in front of a number", at) end
  local behind = last + 1
  if byte(text, behind) == 46 then
    local _, fraction = find(text, "^%d+", behind + 1)
    if digits == "" and not fraction then refuse("a number without digits", at) end
    if digits == "" or not fraction then r.faults.point = true end
    behind = (fraction or behind) + 1
  elseif digits == "" then
    refuse("a number without digits", at)
  end
  -- an exponent without digits is found by whoever expects something else there
  local _, exponent = find(text, "^[eE][+-]?%d+", behind)
  local raw = sub(text, at, (exponent or behind - 1))
  if is_beyond(raw) then r.faults.range = true end
  return setmetatable({ raw = raw }, rfc.Number), at + #raw
end

-- ---- values ----

local value_at

local function deeper(r, depth, at)
  if depth > rfc.DEPTH then r.faults.depth = true end
  if depth > BOTTOM then refuse("more levels than this reader has", at) end
end

-- Behind a value: true and where the next one is, or false and where the list ends.
local function more(r, at, close)
  at = blank(r, at)
  local c = byte(r.text, at)
  if c == 44 then return true, blank(r, at + 1) end
  if c ~= close then refuse("neither a comma nor an end", at) end
  return false, at + 1
end

local function array_at(r, at, depth)
  local list, another = setmetatable({}, rfc.Array), true
  deeper(r, depth, at)
  at = blank(r, at + 1)
  if byte(r.text, at) == 93 then return list, at + 1 end
  while another do
    list[#list + 1], at = value_at(r, at, depth)
    another, at = more(r, at, 93)
  end
  return list, at
end

local function object_at(r, at, depth)
  local members, another = setmetatable({}, rfc.Object), true
  deeper(r, depth, at)
  at = blank(r, at + 1)
  if byte(r.text, at) == 125 then return members, at + 1 end
  while another do
    if byte(r.text, at) ~= 34 then refuse("a member without a name", at) end
    local key, behind = string_at(r, at)
    at = blank(r, behind)
    if byte(r.text, at) ~= 58 then refuse("a member without a colon", at) end
    members[key], at = value_at(r, blank(r, at + 1), depth)
    another, at = more(r, at, 125)
  end
  return members, at
end

local WORDS = { t = { "true", true }, f = { "false", false }, n = { "null", rfc.null } }

function value_at(r, at, depth)
  local c = sub(r.text, at, at)
  if c == '"' then return string_at(r, at) end
  if c == "{" then return object_at(r, at, depth + 1) end
  if c == "[" then return array_at(r, at, depth + 1) end
  if find(c, "^[%d-]") then return number_at(r, at) end
  local word = WORDS[c]
  if not word or sub(r.text, at, at + #word[1] - 1) ~= word[1] then refuse("no value", at) end
  return word[2], at + #word[1]
end

local function document(r)
  local value, at = value_at(r, blank(r, 1), 0)
  at = blank(r, at)
  if at <= #r.text then
    -- at the first two bytes it says UTF-16 to lua-cjson
    if byte(r.text, at) ~= 0 or at <= 2 then refuse("something behind the value", at) end
    r.faults.nul = true
  end
  return value
end

--- Read a text: { value =, faults = a set of names of rfc.FAULTS, ended = what ended the reading,
-- or nil, at = the byte where }.
function rfc.read(text)
  local r = { text = text, faults = {} }
  local ok, value = pcall(document, r)
  if ok then
    r.value = value
  elseif type(value) == "table" then
    r.ended, r.at = value.what, value.at
  else
    error(value, 0)
  end
  return r
end

--- Whether a reader that takes the faults so marked ("cjson", "python", "json") takes the text. A
-- reader without a mark, like moonbus, takes none.
function rfc.takes(r, mark)
  if r.ended then return false end
  for name in pairs(r.faults) do
    if not rfc.FAULTS[name][mark] then return false end
  end
  return true
end

return rfc
