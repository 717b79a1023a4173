--- What becomes of a document that is read as an event of a declared type: by what the manual and
-- the wire's contract say of types, from the document itself, knowing nothing of the codec.
local ffi = require "ffi"
local moonbus = require "moonbus"
local rfc = require "tests.support.rfc8259"
local timestamps = require "tests.support.timestamps"

local declared = {}

local Number, Array, Object = rfc.Number, rfc.Array, rfc.Object

-- ---- numbers ----

local function at_most(digits, limit)
  return #digits < #limit or #digits == #limit and digits <= limit
end

-- An integer of these digits as moonbus has it: a number within 2^53, a cdata of 64 bits beyond;
-- nil: it has more.
local function integer(negative, digits)
  digits = digits:gsub("^0+(%d)", "%1")
  if at_most(digits, "9007199254740992") then
    local small = tonumber(digits)
    return negative and small ~= 0 and -small or small
  end
  local bits = 0ULL
  for i = 1, #digits do bits = bits * 10ULL + (digits:byte(i) - 48) end
  if negative then
    return at_most(digits, "9223372036854775808") and ffi.cast("int64_t", -bits) or nil
  end
  if at_most(digits, "9223372036854775807") then return ffi.cast("int64_t", bits) end
  return at_most(digits, "18446744073709551615") and bits or nil
end

local function integer_of_text(text)
  local sign, digits = text:match "^([+-]?)(%d+)$"
  if digits then return integer(sign == "-", digits) end
end

-- The same for digits with a point or an exponent, by moving the point.
local function integer_of_number(raw)
  local sign, whole, rest = raw:match "^(%-?)(%d+)(.*)$"
  local fraction, exponent = rest:match "^%.(%d+)(.*)$"
  exponent = tonumber(((exponent or rest):match "^[eE](.*)$")) or 0
  local digits = (whole .. (fraction or "")):gsub("^0+", "")
  local point = #digits - #(fraction or "") + exponent
  digits = digits:gsub("0+$", "")
  if digits == "" then return 0 end
  if point < #digits or point > 20 then return nil end
  return integer(sign == "-", digits .. ("0"):rep(point - #digits))
end

-- A number as it comes: digits alone are an integer, if 64 bits hold it; else the nearest double,
-- which the C library said to lua-cjson.
local function exact_number(node, double)
  if node.raw:find "[.eE]" then return double end
  return integer_of_text(node.raw) or double
end

-- ---- any value ----

--- The value that a document stands for, as moonbus.json.decode gives it; theirs: what lua-cjson
-- made of it. An error: the two do not say the same.
function declared.exact(node, theirs)
  if node == rfc.null then
    assert(theirs == moonbus.null)
    return theirs
  end
  local kind = type(node) == "table" and getmetatable(node)
  if kind == Number then
    assert(type(theirs) == "number")
    return exact_number(node, theirs)
  end
  if not kind then
    assert(node == theirs, "text and booleans are the same to lua-cjson")
    return node
  end
  local made, count = kind == Array and moonbus.array() or {}, 0
  for key, value in pairs(node) do made[key] = declared.exact(value, theirs[key]) end
  for _ in pairs(theirs) do count = count + 1 end
  for _ in pairs(node) do count = count - 1 end
  assert(count == 0, "members and items are the same to lua-cjson")
  return made
end

-- ---- declared types ----

local function uuid(text)
  text = text:match "^urn:uuid:(.*)$" or text:match "^{(.*)}$" or text
  local digits = text
  if text:match "^%x+%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x+$" and #text == 36
    and text:sub(9, 9) == "-" then
    digits = text:gsub("-", "")
  end
  if #digits ~= 32 or digits:find "%X" then return nil end
  return (digits:lower():gsub("^(........)(....)(....)(....)", "%1-%2-%3-%4-"))
end

local function decimal(text)
  local number, exponent = text:match "^[+-]?([%d.]+)(.*)$"
  if not number or not (number:match "^%d+%.?%d*$" or number:match "^%.%d+$") then return nil end
  return (exponent == "" or exponent:match "^[eE][+-]?%d+$") and text or nil
end

local function text_as(read)
  return function(node) return type(node) == "string" and read(node) or nil end
end

local function kind_as(kind)
  return function(node, theirs)
    if type(node) == "table" and getmetatable(node) == kind then
      return declared.exact(node, theirs)
    end
  end
end

local function is_number(node)
  return type(node) == "table" and getmetatable(node) == Number
end

-- The value of a field of that type, from the document's node and what lua-cjson has there; nil:
-- it does not fit.
local READERS = {
  string = text_as(function(text) return text end),
  number = function(node, theirs)
    if not is_number(node) then return nil end
    return node.raw == "-0" and 0 or theirs -- an integer, as it stands, and so without a sign
  end,
  integer = function(node)
    if type(node) == "string" then return integer_of_text(node) end
    if not is_number(node) then return nil end
    return (node.raw:find "[.eE]" and integer_of_number or integer_of_text)(node.raw)
  end,
  boolean = function(node) if type(node) == "boolean" then return node end end,
  uuid = text_as(uuid),
  timestamp = function(node, theirs)
    if type(node) == "string" then return timestamps.of_text(node) end
    return is_number(node) and timestamps.of_number(node.raw, theirs) or nil
  end,
  decimal = function(node)
    if type(node) == "string" then return decimal(node) end
    return is_number(node) and node.raw or nil
  end,
  object = kind_as(Object),
  array = kind_as(Array),
  any = declared.exact,
}

--- The value of a field declared as spec, nil where null may be; and whether it fits. node: the
-- document's, nil when it is not there; theirs: lua-cjson's.
function declared.field(spec, node, theirs)
  local kind, list, optional = spec:match "^(%a+)(%[?%]?)(%??)$"
  if node == nil or node == rfc.null and optional == "?" then return nil, optional == "?" end
  if node == rfc.null and (kind ~= "any" or list ~= "") then return nil, false end
  if list == "" then
    local value = READERS[kind](node, theirs)
    return value, value ~= nil
  end
  if type(node) ~= "table" or getmetatable(node) ~= Array then return nil, false end
  local made = moonbus.array()
  for i, item in ipairs(node) do
    local value
    if item ~= rfc.null or kind == "any" then value = READERS[kind](item, theirs[i]) end
    if value == nil then return nil, false end
    made[i] = value
  end
  return made, true
end

-- ---- events ----

local BASE = { -- the wire's contract, section 2
  { "event_id", "uuid" }, { "event_type", "string" }, { "event_version", "integer" },
  { "occurred_at", "timestamp" }, { "aggregate_id", "uuid" }, { "aggregate_type", "string" },
  { "aggregate_version", "integer" }, { "tenant_id", "uuid?" }, { "actor_id", "string?" },
  { "correlation_id", "uuid" }, { "causation_id", "uuid?" }, { "metadata", "object" },
}
declared.BASE = BASE

-- What a base field is when the record has neither the member nor a header for it, and its topic
-- and time are not known.
local function filled(name, event, derived_id)
  if name == "event_id" then return derived_id end
  if name == "correlation_id" then return event.event_id end
  if name == "occurred_at" then return "1970-01-01T00:00:00Z" end
  if name == "event_version" or name == "aggregate_version" then return 1 end
  if name == "metadata" then return {} end
end

local function base_field(name, spec, node, theirs)
  if name == "event_type" and node == "" or node == rfc.null then node = nil end
  if node == nil then return nil, true end
  local value, fits = declared.field(spec, node, theirs)
  local version = name == "event_version" or name == "aggregate_version"
  if fits and version then fits = not ffi.istype("uint64_t", value) and value >= 1 end
  return value, fits
end

--- The event that an object is: its fields, with lua-cjson's reading of it; own: the fields that
-- are declared, { { name, spec }, ... }; derived_id: the id of events without one. And the names of
-- the fields that do not fit, in the order of the wire.
function declared.event(own, object, theirs, derived_id)
  local event, misfits = {}, {}
  for _, field in ipairs(BASE) do
    local name, spec = field[1], field[2]
    local value, fits = base_field(name, spec, object[name], theirs[name])
    if value == nil and fits then
      value = filled(name, event, derived_id)
      fits = value ~= nil or spec:sub(-1) == "?"
    end
    event[name] = value
    if not fits then misfits[#misfits + 1] = name end
  end
  for _, field in ipairs(own) do
    local name = field[1]
    local value, fits = declared.field(field[2], object[name], theirs[name])
    event[name] = value
    if not fits then misfits[#misfits + 1] = name end
  end
  return event, misfits
end

return declared
