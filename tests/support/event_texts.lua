--- Random event types, and texts of their events: written as the bus writes them or at whim, with
-- values that fit and values that do not, and damaged.
local corpus = require "tests.support.json_corpus"
local declared = require "tests.support.declared"
local rfc = require "tests.support.rfc8259"

local texts = {}

-- ---- strings, written ----

local NAMED = { ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n",
  ["\r"] = "\\r", ["\t"] = "\\t" }

local function needed(char)
  return NAMED[char] or ("\\u%04x"):format(char:byte())
end

local function code_of(char)
  local lead = char:byte()
  if lead < 0x80 then return lead end
  local code = lead < 0xE0 and lead - 0xC0 or lead < 0xF0 and lead - 0xE0 or lead - 0xF0
  for i = 2, #char do code = code * 64 + char:byte(i) % 64 end
  return code
end

local function escaped(random, char)
  local code, form = code_of(char), random:pick { "\\u%04x", "\\u%04X" }
  if char == "/" then return "\\/" end
  if NAMED[char] and random:chance(0.5) then return NAMED[char] end
  if code < 0x10000 then return form:format(code) end
  code = code - 0x10000
  return form:format(0xD800 + math.floor(code / 0x400)) .. form:format(0xDC00 + code % 0x400)
end

-- With the escapes that are needed, or with some more.
local function quoted(text, random)
  if not random then return '"' .. text:gsub('[%z\1-\31"\\]', needed) .. '"' end
  return '"' .. text:gsub("[%z\1-\127\194-\244][\128-\191]*", function(char)
    if char:find '^[%z\1-\31"\\]' or random:chance(0.2) then return escaped(random, char) end
  end) .. '"'
end

-- ---- documents, written ----

local function blank(random)
  if not random or random:chance(0.6) then return "" end
  return random:pick { " ", " ", "\n", "\t", "\r\n", "  \n\t " }
end

local function shuffle(list, random)
  for i = #list, 2, -1 do
    local k = random:int(1, i)
    list[i], list[k] = list[k], list[i]
  end
end

local function enclosed(open, parts, close, random)
  return open .. blank(random) .. table.concat(parts, blank(random) .. "," .. blank(random))
    .. blank(random) .. close
end

-- The members of that order first.
local function member_names(object, order)
  local places, names = {}, {}
  for i, name in ipairs(order) do places[name] = i end
  for name in pairs(object) do names[#names + 1] = name end
  table.sort(names, function(a, b)
    local x, y = places[a] or math.huge, places[b] or math.huge
    return x < y or x == y and a < b
  end)
  return names
end

--- A document of rfc8259.lua as text: compact, with the members of the outermost object in that
-- order; or, given a random generator, with blanks and escapes at whim, in any order.
function texts.written(node, order, random)
  local kind = type(node) == "table" and getmetatable(node)
  if type(node) == "string" then return quoted(node, random) end
  if kind == rfc.Number then return node.raw end
  local parts = {}
  if kind == rfc.Array then
    for i, item in ipairs(node) do parts[i] = texts.written(item, {}, random) end
    return enclosed("[", parts, "]", random)
  elseif kind == rfc.Object then
    for i, name in ipairs(member_names(node, order)) do
      parts[i] = quoted(name, random) .. blank(random) .. ":" .. (random and " " or "")
        .. texts.written(node[name], {}, random)
    end
    if random then shuffle(parts, random) end
    return enclosed("{", parts, "}", random)
  end
  return tostring(node)
end

-- ---- types ----

local KINDS = { "string", "number", "integer", "boolean", "uuid", "timestamp", "decimal", "object",
  "array", "any" }

-- Names that begin alike, that look like base fields, with bytes of all kinds, and of lengths
-- around that up to which the decoder compares a name at one stroke.
local NAMES = { "a", "b", "ab", "abc", "abd", "customer_id", "event_i", "event_idx", "metadata2",
  "total", "note", " ", "with space", "a/b", "\195\169", "\240\159\152\128", "\127", "'", "{}", ":",
  "true", ("x"):rep(12), ("x"):rep(13), ("x"):rep(28) .. "a", ("x"):rep(28) .. "b",
  ("x"):rep(29) .. "a", ("y"):rep(30), ("y"):rep(29) .. "z", ("n"):rep(100) }

--- Fields to declare: { { name, spec }, ... }.
function texts.fields(random)
  local fields, names = {}, { unpack(NAMES) }
  shuffle(names, random)
  for i = 1, random:int(0, 14) do
    fields[i] = { names[i], random:pick(KINDS) .. (random:chance(0.3) and "[]" or "")
      .. (random:chance(0.5) and "?" or "") }
  end
  return fields
end

-- ---- values ----

local function integer_text(random)
  if random:chance(0.1) then return random:pick(corpus.integers) end
  return tostring(random:integer()):match "^%-?%d+"
end

local function number_text(random)
  if random:chance(0.2) then return integer_text(random) end
  if random:chance(0.3) then return random:pick(corpus.fractions) end
  if random:chance(0.3) then -- about as many digits as a double has
    return random:int(1, 1e8) .. "." .. random:int(1e4, 1e10)
  end
  return (("%.17g"):format(random:double()):gsub("^(-?%d+)$", "%1.0"))
end

local function uuid_text(random)
  local id = random:uuid()
  if random:chance(0.96) then return id end
  return random:pick(corpus.uuids(id))
end

local TEXTS = {
  string = function(random) return quoted(random:string(random:pick { 3, 12, 40 })) end,
  number = number_text,
  integer = function(random)
    if random:chance(0.05) then return quoted(random:pick(corpus.integers)) end
    if random:chance(0.05) then return random:pick(corpus.fractions) end
    if random:chance(0.02) then
      return quoted(random:pick(corpus.integer_texts))
    end
    return integer_text(random)
  end,
  boolean = function(random) return random:pick { "true", "false" } end,
  uuid = function(random) return quoted(uuid_text(random)) end,
  timestamp = function(random)
    if random:chance(0.04) then return random:pick(corpus.seconds) end
    return quoted(random:chance(0.05) and random:pick(corpus.times) or random:timestamp())
  end,
  decimal = function(random)
    if random:chance(0.3) then return number_text(random) end
    if random:chance(0.04) then
      return quoted(random:pick(corpus.decimals))
    end
    return quoted(random:decimal())
  end,
  object = function(random)
    if random:chance(0.4) then return random:pick { "{}", "{ }" } end
    return '{"a":' .. random:document(2) .. ',"b":{"' .. random:pick(NAMES) .. '":'
      .. random:document(1) .. "}}"
  end,
  array = function(random)
    if random:chance(0.3) then return random:pick { "[]", "[ ]" } end
    return "[" .. random:document(2) .. "," .. random:document(1) .. "]"
  end,
  any = function(random) return random:document(2) end,
}

local function value_text(random, spec)
  local kind, list, optional = spec:match "^(%a+)(%[?%]?)(%??)$"
  if random:chance(0.01) then return random:document(1) end
  if optional == "?" and random:chance(0.15) then return "null" end
  if list == "" then return TEXTS[kind](random) end
  local items = {}
  for i = 1, random:int(0, 4) do items[i] = value_text(random, kind) end
  return enclosed("[", items, "]", random:chance(0.2) and random)
end

-- ---- events ----

local function add(members, random, loose, name, text)
  members[#members + 1] = quoted(name, loose) .. blank(loose) .. ":" .. blank(loose) .. text
  -- the last of duplicates counts, whatever the first was
  if random:chance(0.01) then
    local before = random:int(1, #members)
    table.insert(members, before, quoted(name, random) .. ":" .. random:document(1))
  end
end

--- The text of an event of a type with these fields, mostly a good one.
function texts.event(random, own)
  local members, loose = {}, random:chance(0.5) and random
  for _, field in ipairs(declared.BASE) do
    local name, spec = field[1], field[2]
    local text = name == "event_type" and '"T"' or value_text(random, spec)
    if spec == "integer" and random:chance(0.97) then text = tostring(random:int(1, 1e6)) end
    if random:chance(0.005) then text = random:pick { "null", '""' } end
    if random:chance(0.99) then add(members, random, loose, name, text) end
  end
  for _, field in ipairs(own) do
    local lacks = random:chance(field[2]:sub(-1) == "?" and 0.2 or 0.01)
    if not lacks then add(members, random, loose, field[1], value_text(random, field[2])) end
    if random:chance(0.05) then
      add(members, random, loose, field[1] .. random:string(2), random:document(2))
    end
  end
  if loose and random:chance(0.5) then shuffle(members, random) end
  return blank(loose) .. enclosed("{", members, "}", loose) .. blank(loose)
end

-- ---- damage ----

local PIECES = { "\0", "\31", "\127", "\128", "\192\128", "\237\160\128", "\244\144\128\128",
  "\239\187\191", "\226\128\168", "\195", "\240\159\152", "\\u0000", "\\ud800", "\\udc00",
  "\\ud83d\\ude00", "\\u00", "\\x", "\\", '"', '\\"', "1.", "-.5", "01", "1e400", "-0", "1e", "+1",
  ".5", "NaN", "-Infinity", "9007199254740993", "18446744073709551616", "null", "true", "nul", "[",
  "]", "{", "}", ",", ":", " ", "\t", "\n", "\r", "\f", "\11", "\194\160", "//", "/*", "'", "{}",
  "[]", ',"a":1', '"":0,', '""', "0", "5", "-", "\8" }

-- Somewhere, often where something begins or ends.
local function place(random, text)
  local at = random:int(1, #text + 1)
  return random:chance(0.6) and text:find('[{}%[%],:"]', at) or at
end

local DAMAGES = {
  function(random, text) return random:mutated(text) end,
  function(random, text)
    local at = place(random, text)
    return text:sub(1, at - 1) .. random:pick(PIECES) .. text:sub(at + random:int(0, 1))
  end,
  function(random, text)
    local at = place(random, text) + 1
    return text:sub(1, at - 1) .. random:pick(PIECES) .. text:sub(at)
  end,
  function(random, text) return text:sub(1, random:int(0, #text - 1)) end,
  function(random, text)
    local from = place(random, text)
    return text:sub(1, from - 1) .. text:sub(from + random:int(1, 20))
  end,
  function(random, text, other)
    return text:sub(1, place(random, text) - 1) .. other:sub(place(random, other))
  end,
  function(random, text, other)
    local from, at = place(random, other), place(random, text)
    return text:sub(1, at - 1) .. other:sub(from, from + random:int(1, 30)) .. text:sub(at)
  end,
}

--- The text, damaged a little, perhaps with a part of the other.
function texts.damaged(random, text, other)
  return random:pick(DAMAGES)(random, text, other)
end

return texts
