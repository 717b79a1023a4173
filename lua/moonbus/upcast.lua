--- Upcasting: events of older versions become what their type declares now, before anybody sees
-- them.
local lua = require "moonbus.base"

local error, pairs, type = lua.error, lua.pairs, lua.type

local upcast = {}

-- The base fields stay what they were unless a step says otherwise; type and version are not its.
local function keep_base(data, base)
  for name, value in pairs(base) do
    if data[name] == nil then data[name] = value end
  end
  data.event_type = base.event_type
end

--- Check the steps of a type: { [1] = function(data) ... return data end, ... }, step n lifting
-- version n to n + 1. Raises at that level, as error counts.
function upcast.check(owner, steps, version, level)
  for from, step in pairs(steps) do
    if type(from) ~= "number" or from < 1 or from % 1 ~= 0 or type(step) ~= "function" then
      error(owner .. ": upcast is { [1] = function(data) ... return data end, ... }, "
        .. "step n lifting version n to n + 1", level + 1)
    elseif from >= version then
      error(("%s: upcast[%d] lifts to version %d, and event_version = %d is declared"):format(owner,
        from, from + 1, version), level + 1)
    end
  end
end

--- The steps that lack between version 1 and the declared one.
function upcast.missing(steps, version)
  local list = {}
  for from = 1, version - 1 do
    if not steps[from] then list[#list + 1] = from end
  end
  return list
end

--- A function(data, version) that takes a plain table through every step up to the declared
-- version, and returns the last one's.
function upcast.compile(steps, version, base_names)
  return function(data, from)
    local base = {}
    for name in pairs(base_names) do base[name] = data[name] end
    for at = from, version - 1 do
      local step = steps[at]
      if not step then error(("upcast[%d] is missing"):format(at), 0) end
      data = step(data)
      if type(data) ~= "table" then
        error(("upcast[%d] returned %s; it returns the data"):format(at,
          data == nil and "nothing" or "a " .. type(data)), 0)
      end
      keep_base(data, base)
      data.event_version = at + 1
    end
    return data
  end
end

return upcast
