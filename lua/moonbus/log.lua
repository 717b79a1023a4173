--- moonbus.log: lines of a script in the log of its bus, in the form and from the level it has.
local base = require "moonbus.base"
local core = require "moonbus.core"
local bus = require "moonbus.bus"

local log = {}

local error, ipairs, pairs = base.error, base.ipairs, base.pairs
local tostring, type = base.tostring, base.type
local sort = base.table.sort

-- Members that a line of JSON may have already: a field of that name gets an underscore.
local TAKEN = {
  time = true, level = true, message = true, pid = true, worker = true, group = true, topic = true,
  partition = true, offset = true, event_type = true, event_id = true, key = true, handler = true,
  attempt = true, error_type = true, count = true,
}

-- The bus whose handler this is, else the latest; nil without any.
local function native_of()
  local opened = bus.opened
  for i = #opened, 1, -1 do
    if opened[i].native:in_handler() then return opened[i].native end
  end
  return opened[#opened] and opened[#opened].native
end

-- As text, unless JSON has the value itself.
local function plain(value)
  if type(value) == "boolean" or type(value) == "string" then return value end
  if type(value) == "number" and value - value == 0 then return value end
  return tostring(value)
end

local function lists(fields)
  local names, values = {}, {}
  for name in pairs(fields) do
    if type(name) ~= "string" then
      error("moonbus.log: fields: expected names as keys, got a " .. type(name), 4)
    end
    names[#names + 1] = name
  end
  sort(names)
  for i, name in ipairs(names) do
    values[i] = plain(fields[name])
    if TAKEN[name] then names[i] = name .. "_" end
  end
  return names, values
end

local function at(level)
  return function(message, fields)
    if type(message) ~= "string" then
      error(("moonbus.log.%s: expected a message, got a %s"):format(level, type(message)), 2)
    end
    if fields ~= nil and type(fields) ~= "table" then
      error(("moonbus.log.%s: expected a table of fields, got a %s"):format(level, type(fields)), 2)
    end
    local names, values = lists(fields or {})
    local native = native_of()
    if native then native:log(level, message, names, values)
    else core.log(level, message, names, values) end
  end
end

log.debug, log.info, log.warn, log.error = at "debug", at "info", at "warn", at "error"

return log
