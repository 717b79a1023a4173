--- Random values and documents, and what it means for two values to be the same.
local ffi = require "ffi"
local moonbus = require "moonbus"

local values = {}

-- With the collector at every step, LuaJIT's compiled loops may leave their trace for the collector
-- and enter it again without end; seen with LuaJIT alone. Interpreted, they go on.
if os.getenv "MB_GC" then jit.off() end

-- ---- properties ----

--- Run body(random) so many times, each with a seed of its own that a failure names; with MB_SEED
-- in the environment, once, with that seed. Under MB_GC, which collects at every kilobyte, far
-- fewer times.
function values.property(count, body)
  if os.getenv "MB_GC" then count = math.ceil(count / 100) end
  local given = tonumber(os.getenv "MB_SEED")
  local first = given or os.time() * 1000 % 2000000000
  for seed = first, first + (given and 1 or count) - 1 do
    local ok, why = pcall(body, values.generator(seed))
    if not ok then error(("with MB_SEED=%d: %s"):format(seed, tostring(why)), 0) end
  end
end

-- ---- the same ----

local function is_integer_cdata(value)
  return ffi.istype("int64_t", value) or ffi.istype("uint64_t", value)
end

--- Whether two values are the same: type by type, cdata by kind and digits, -0 apart from 0, tables
-- member by member; and if not, where they differ.
function values.same(a, b, at)
  at = at or "value"
  if type(a) ~= type(b) then
    return false, ("%s: %s against %s"):format(at, type(a), type(b))
  end
  if type(a) == "table" then
    for key, value in pairs(a) do
      local ok, where = values.same(value, b[key], at .. "." .. tostring(key))
      if not ok then return false, where end
    end
    for key in pairs(b) do
      if a[key] == nil then
        return false, ("%s.%s: nothing on one side"):format(at, tostring(key))
      end
    end
    if getmetatable(a) ~= getmetatable(b) then return false, at .. ": another metatable" end
    return true
  end
  local same = a == b
  if is_integer_cdata(a) then same = tostring(a) == tostring(b)
  elseif type(a) == "number" and a == 0 then same = b == 0 and 1 / a == 1 / b end
  return same, ("%s: %s against %s"):format(at, tostring(a), tostring(b))
end

--- assert(values.same(...)) that says where.
function values.check_same(a, b)
  local ok, where = values.same(a, b)
  if not ok then error(where, 2) end
end

-- ---- random values ----

local Generator = {}
Generator.__index = Generator

function values.generator(seed)
  math.randomseed(seed)
  return setmetatable({ seed = seed }, Generator)
end

--- An integer from low to high.
function Generator.int(_, low, high) return math.random(low, high) end

function Generator.chance(_, share) return math.random() < share end

function Generator.pick(_, list) return list[math.random(#list)] end

local function utf8(code)
  if code < 0x80 then return string.char(code) end
  if code < 0x800 then return string.char(0xC0 + math.floor(code / 64), 0x80 + code % 64) end
  if code < 0x10000 then
    return string.char(0xE0 + math.floor(code / 4096), 0x80 + math.floor(code / 64) % 64,
      0x80 + code % 64)
  end
  return string.char(0xF0 + math.floor(code / 262144), 0x80 + math.floor(code / 4096) % 64,
    0x80 + math.floor(code / 64) % 64, 0x80 + code % 64)
end

local RANGES = {
  { 0x20, 0x7E }, { 0x20, 0x7E }, { 0, 0x1F }, { 0x22, 0x22 }, { 0x5C, 0x5C }, { 0x7F, 0x7FF },
  { 0x800, 0xD7FF }, { 0xE000, 0xFFFF }, { 0x10000, 0x10FFFF },
}

local function code_point(self)
  local range = self:pick(RANGES)
  return self:int(range[1], range[2])
end

--- UTF-8 text: control characters, quotes, the far planes.
function Generator:string(longest)
  local parts = {}
  for i = 1, self:int(0, longest or 12) do parts[i] = utf8(code_point(self)) end
  return table.concat(parts)
end

--- Any bytes.
function Generator:bytes(longest)
  local parts = {}
  for i = 1, self:int(0, longest) do parts[i] = string.char(self:int(0, 255)) end
  return table.concat(parts)
end

local Box = ffi.typeof "union { double d; uint32_t u[2]; }"

--- A finite double of any size.
function Generator:double()
  local box = Box()
  repeat
    box.u[0] = math.random(0, 4294967295)
    box.u[1] = math.random(0, 4294967295)
  until bit.band(box.u[1], 0x7ff00000) ~= 0x7ff00000 -- LuaJIT takes some NaNs for other values
  if self:chance(0.3) then return self:int(-1000000, 1000000) / 64 end
  return tonumber(box.d)
end

--- An integer in the form json.decode gives it: a number within 2^53, a cdata beyond.
function Generator:integer()
  if self:chance(0.5) then return self:int(-1000, 1000) end
  local bits = self:int(0, 4294967295) * 4294967296ULL + self:int(0, 4294967295)
  if self:chance(0.2) then
    if bits > 9223372036854775807ULL then return bits end
    bits = bits + 9223372036854775808ULL
    return bits
  end
  local signed = ffi.cast("int64_t", bits) / self:pick { 1LL, 1024LL, 1048576LL }
  if signed >= -9007199254740992LL and signed <= 9007199254740992LL then return tonumber(signed) end
  return signed
end

function Generator.uuid(_) return moonbus.uuid() end

function Generator:timestamp()
  return moonbus.timestamp(self:int(-2000000000, 2000000000) + self:int(0, 999999) / 1000000)
end

function Generator:decimal()
  local text = ("%s%d.%0" .. self:int(1, 9) .. "d"):format(self:pick { "", "-" },
    self:int(0, 99999), self:int(0, 9))
  return self:chance(0.2) and text .. self:pick { "E+3", "e-7", "E10" } or text
end

--- A value as json.decode gives it; depth bounds the nesting.
function Generator:value(depth)
  local kind = self:int(1, depth > 0 and 8 or 6)
  if kind == 1 then return moonbus.null end
  if kind == 2 then return self:chance(0.5) end
  if kind == 3 then return self:integer() end
  if kind == 4 then return self:double() end
  if kind <= 6 then return self:string() end
  if kind == 7 then return self:array(depth - 1) end
  return self:object(depth - 1)
end

function Generator:array(depth)
  local list = moonbus.array {}
  for i = 1, self:int(0, 5) do list[i] = self:value(depth) end
  return list
end

function Generator:object(depth)
  local object = {}
  for _ = 1, self:int(0, 5) do object[self:string(6)] = self:value(depth) end
  return object
end

-- ---- random documents ----

local function blank(self)
  if self:chance(0.7) then return "" end
  return self:pick { " ", "\n", "\t", "\r\n", "   " }
end

local SHORT = { '\\"', "\\\\", "\\/", "\\b", "\\f", "\\n", "\\r", "\\t" }

local function escaped(self, code)
  if code >= 0x10000 then
    local rest = code - 0x10000
    return ("\\u%04x\\u%04X"):format(0xD800 + math.floor(rest / 1024), 0xDC00 + rest % 1024)
  end
  return (self:chance(0.5) and "\\u%04x" or "\\u%04X"):format(code)
end

local function string_text(self)
  local parts = {}
  for i = 1, self:int(0, 8) do
    local code = code_point(self)
    if self:chance(0.1) then parts[i] = self:pick(SHORT)
    elseif code < 0x20 or code == 0x22 or code == 0x5C or self:chance(0.3) then
      parts[i] = escaped(self, code)
    else parts[i] = utf8(code) end
  end
  return '"' .. table.concat(parts) .. '"'
end

-- Numbers both decoders read exactly: integers of at most 2^53, the rest any double.
local function number_text(self)
  local kind = self:int(1, 4)
  if kind == 1 then return tostring(self:int(-1000000, 1000000)) end
  if kind == 2 then return ("%.17g"):format(self:double()):gsub("^(-?%d+)$", "%1.0") .. "" end
  if kind == 3 then return ("%d%s%d"):format(self:int(-99, 99), self:pick { "e", "E", "e+", "E-" },
    self:int(0, 300)) end
  return ("%d.%d"):format(self:int(-9999, 9999), self:int(0, 99999))
end

--- The text of a random JSON document, spaced and escaped at whim.
function Generator:document(depth)
  local kind = self:int(1, depth > 0 and 7 or 5)
  if kind == 1 then return self:pick { "null", "true", "false" } end
  if kind <= 3 then return number_text(self) end
  if kind <= 5 then return string_text(self) end
  local members = {}
  for i = 1, self:int(0, 5) do
    local member = blank(self) .. self:document(depth - 1) .. blank(self)
    if kind == 7 then member = blank(self) .. string_text(self) .. blank(self) .. ":" .. member end
    members[i] = member
  end
  local open, close = "[", "]"
  if kind == 7 then open, close = "{", "}" end
  return open .. blank(self) .. table.concat(members, ",") .. blank(self) .. close
end

local PIECES = { "{", "}", "[", "]", '"', ",", ":", "\\", "0", "-", "e" }

--- A text with one byte, or a few, changed, dropped, doubled or put in.
function Generator:mutated(text)
  for _ = 1, self:int(1, 3) do
    local at = self:int(1, math.max(#text, 1))
    local how = self:int(1, 4)
    local before, after = text:sub(1, at - 1), text:sub(at + 1)
    if how == 1 then text = before .. string.char(self:int(0, 255)) .. after
    elseif how == 2 then text = before .. after
    elseif how == 3 then text = before .. text:sub(at, at):rep(2) .. after
    else text = text:sub(1, at) .. self:pick(PIECES) .. after end
  end
  return text
end

return values
