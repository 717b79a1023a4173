--- Values that plain Lua has no word for: null, arrays that may be empty, exact integers, floats.
local base = require "moonbus.base"
local core = require "moonbus.core"
local ffi = require "ffi"

local setmetatable, table = base.setmetatable, base.table

local int64, uint64 = ffi.typeof("int64_t"), ffi.typeof("uint64_t")
local double = ffi.typeof("double")

-- The C side can neither make cdata nor distinguish its kinds.
core.set_int64(function(signed, high, low)
  local bits = ffi.cast(uint64, high) * 4294967296ULL + ffi.cast(uint64, low)
  return signed and ffi.cast(int64, bits) or bits
end, function(value)
  if ffi.istype(int64, value) then return "int" end
  if ffi.istype(uint64, value) then return "uint" end
  if ffi.istype(double, value) then return "float" end
end)
core.set_sort(table.sort)

local values = { null = core.null, json = {} }

--- Mark a table as an array: `moonbus.array{}` is written as [], a plain {} as {}.
function values.array(list)
  return setmetatable(list or {}, core.array_mark)
end

--- A number that is written with a decimal point even where it is whole: 1.0, not 1.
function values.float(number)
  return ffi.new(double, number)
end

--- Lua value to JSON text; nil and a reason if something has no place in JSON.
values.json.encode = core.json_encode

--- JSON text to a Lua value: nulls are moonbus.null, arrays keep their mark, integers are exact.
values.json.decode = core.json_decode

return values
