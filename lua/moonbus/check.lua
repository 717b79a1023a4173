--- Checks of a caller's arguments. They raise, and blame the caller `level` calls up, as error
-- counts.
local base = require "moonbus.base"
local names = require "moonbus.names"

local error, math, next, pairs = base.error, base.math, base.next, base.pairs
local tostring, type = base.tostring, base.type

local check = {}

local SHOWN_MAX = 40 -- bytes of a string

--- A value as an error shows it: "abc", 5, nil, a table.
function check.shown(value)
  local kind = type(value)
  if kind == "string" then
    local cut = #value > SHOWN_MAX
    return ('"%s%s"'):format(cut and value:sub(1, SHOWN_MAX) or value, cut and "..." or "")
  end
  if kind == "number" or kind == "boolean" or kind == "nil" then return tostring(value) end
  return "a " .. kind
end

--- Raise "where: expected something, got this".
function check.refuse(where, expected, got, level)
  error(("%s: expected %s, got %s"):format(where, expected, check.shown(got)), level + 1)
end

--- A number of 0 or more; NaN is none.
function check.number(value, what, level)
  if type(value) ~= "number" or value ~= value or value < 0 then
    check.refuse(what, "a number of 0 or more", value, level + 1)
  end
  return value
end

--- A whole number of 0 or more, such as a partition or an offset.
function check.whole(value, what, level)
  if type(value) ~= "number" or not (value >= 0 and value < 2 ^ 53) or value % 1 ~= 0 then
    check.refuse(what, "a whole number of 0 or more", value, level + 1)
  end
  return value
end

--- Seconds (nil: so many) as milliseconds that fit a C int: some 24 days at most.
function check.milliseconds(seconds, default, what, level)
  if seconds == nil then seconds = default end
  return math.min(math.floor(check.number(seconds, what, level + 1) * 1000), 2147483647)
end

--- A table of options, or nil: {}. kinds: name -> "boolean", "number" (0 or more) or "string",
-- which may be false.
function check.options(options, kinds, level)
  if options == nil then return {} end
  if type(options) ~= "table" then
    check.refuse("options", "a table", options, level + 1)
  end
  for key, value in pairs(options) do
    local kind = kinds[key]
    if not kind then
      error(('no option "%s" here%s'):format(tostring(key), names.choices(key, names.of(kinds))),
        level + 1)
    end
    if type(value) ~= kind and not (kind == "string" and value == false) then
      check.refuse(key, "a " .. kind, value, level + 1)
    end
    if kind == "number" then check.number(value, key, level + 1) end
  end
  return options
end

--- A list, all of it: its length. An entry beyond a gap, or one with a name, would be passed over.
function check.list(list, what, level)
  local count, keys = #list, 0
  if count > 0 and next(list, count) == nil then return count end -- it is all array
  for _ in pairs(list) do keys = keys + 1 end
  if keys ~= count then
    error(("%s: expected a list without gaps or names, got a table of %d entries, of which a list "
      .. "would have %d"):format(what, keys, count), level + 1)
  end
  return count
end

return check
