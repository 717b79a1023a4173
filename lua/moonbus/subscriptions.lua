--- Which handlers a bus has, and for which events: methods of the bus.
local base = require "moonbus.base"
local check = require "moonbus.check"
local misses = require "moonbus.misses"
local names = require "moonbus.names"
local reads = require "moonbus.reads"

local debug, error, ipairs, pairs = base.debug, base.error, base.ipairs, base.pairs
local pcall, table, tostring, type = base.pcall, base.table, base.tostring, base.type

local subscriptions = {}

local methods = {}

local function type_name(kind, level)
  if type(kind) == "string" and kind ~= "" and not kind:find "%z" then return kind end
  if type(kind) == "table" and kind.__moonbus then return kind.name, kind.__moonbus end
  check.refuse("event type", "what moonbus.event returned, or a name", kind, level + 1)
end

-- The function to call, and perhaps the fields it reads. An object with a bind method learns whose
-- handler it is, and returns them.
local function as_function(self, handler, level)
  if type(handler) == "function" then return handler end
  if type(handler) == "table" and type(handler.bind) == "function" then
    return handler:bind(self)
  end
  if type(handler) == "table" and type(handler.handle) == "function" then
    return function(...) return handler:handle(...) end
  end
  error("a handler is a function, or an object with a handle method", level)
end

local HANDLER_OPTIONS = {
  name = "string", max_retries = "number", retry_if = "function", tenant_id = "UUID",
}
local TENANTS = "a UUID, false (events without a tenant), or a list of these"

-- "uuid" | false | { "uuid", false, ... } -> a list for the engine, where "" is no tenant
local function read_tenants(given, level)
  if given == nil then return nil end
  local list = {}
  for key, each in pairs(type(given) == "table" and given or { given }) do
    if type(key) ~= "number" or each ~= false and (type(each) ~= "string" or each == "") then
      check.refuse("tenant_id", TENANTS, type(key) == "number" and each or given, level + 1)
    end
    list[#list + 1] = each or ""
  end
  if #list == 0 then
    error(("tenant_id: expected %s, got an empty list, which takes none"):format(TENANTS),
      level + 1)
  end
  return list
end

local function check_handler_options(options, level)
  if options ~= nil and type(options) ~= "table" then
    error("a subscription takes a table of options", level)
  end
  for key, value in pairs(options or {}) do
    if not HANDLER_OPTIONS[key] then
      error(('no option "%s" of a subscription%s'):format(tostring(key),
        names.choices(key, names.of(HANDLER_OPTIONS))), level)
    elseif key ~= "tenant_id" and type(value) ~= HANDLER_OPTIONS[key]
      or key == "max_retries" and not (value >= 0 and value <= 1000 and value % 1 == 0) then
      check.refuse(key, key == "max_retries" and "a whole number up to 1000"
        or "a " .. HANDLER_OPTIONS[key], value, level)
    end
  end
  return options or {}
end

-- What dead letters call a handler that was given no name.
local function name_of(handler)
  if type(handler) == "table" then
    local name = handler.name or handler.where
    return type(name) == "string" and name or nil
  end
  local info = debug.getinfo(handler, "S")
  return ("%s:%d"):format(info.short_src, info.linedefined)
end

-- level: of the caller to blame, as error counts in here.
local function add(self, name, native_type, handler, options, level)
  local call, fields = as_function(self, handler, level + 1)
  local checked = check_handler_options(options, level + 1)
  local tenants = read_tenants(checked.tenant_id, level)
  local ok, id = pcall(self.native.subscribe, self.native, name, call, native_type, {
    name = checked.name or name_of(handler),
    max_retries = checked.max_retries,
    retry_if = checked.retry_if,
    tenants = tenants,
    reads = fields or reads(call),
  })
  if not ok then error(id, level) end
  local list = self.subscriptions
  list[#list + 1] = {
    name = name, handler = handler, id = id, tenants = tenants, typed = native_type ~= nil,
  }
  misses.warn_of(self, list[#list])
  return self
end

--- Call the handler with every event of the type: handler(event, context).
-- A handler that raises, or returns nil (or false) and a reason, has failed: it runs again later.
-- options: name (in dead letters), max_retries (of this handler), retry_if(err, context) (whether a
-- failure is worth a retry), tenant_id (only events of this tenant, or of those in a list; false
-- stands for events without one).
function methods:subscribe(kind, handler, options)
  local name, native_type = type_name(kind, 2)
  return (add(self, name, native_type, handler, options, 3))
end

--- Subscribe an object to every type it names: object:subscribed_to() lists them. options: as of
-- subscribe.
function methods:subscribe_all(object, options)
  if type(object) ~= "table" or type(object.subscribed_to) ~= "function"
    or type(object.handle) ~= "function" then
    error("subscribe_all takes an object with subscribed_to and handle methods", 2)
  end
  for _, kind in ipairs(object:subscribed_to()) do
    if type(kind) == "string" then kind = self.registry:get(kind) or kind end
    local name, native_type = type_name(kind, 2)
    add(self, name, native_type, object, options, 3)
  end
  return self
end

--- Call the handler with every event of any type.
function methods:subscribe_to_all_events(handler, options)
  return (add(self, nil, nil, handler, options, 3))
end

local function remove(self, name, handler)
  local list = self.subscriptions
  for i, each in ipairs(list) do
    if each.name == name and each.handler == handler then
      table.remove(list, i)
      return self.native:unsubscribe(each.id)
    end
  end
  return false
end

--- Take one subscription back; false if there is none such.
function methods:unsubscribe(kind, handler)
  return remove(self, (type_name(kind, 2)), handler)
end

function methods:unsubscribe_from_all_events(handler)
  return remove(self, nil, handler)
end

--- Take all subscriptions back.
function methods:clear_subscribers()
  for _, each in ipairs(self.subscriptions) do self.native:unsubscribe(each.id) end
  self.subscriptions = {}
end

--- How many handlers a type has, or there are for all events; without an argument, all together.
function methods:subscriber_count(kind)
  local count = 0
  local name = kind ~= nil and type_name(kind, 2)
  for _, each in ipairs(self.subscriptions) do
    if not name or each.name == name then count = count + 1 end
  end
  return count
end

function methods:wildcard_subscriber_count()
  local count = 0
  for _, each in ipairs(self.subscriptions) do
    if each.name == nil then count = count + 1 end
  end
  return count
end

--- Give a class these methods.
function subscriptions.install(class)
  for name, method in pairs(methods) do class[name] = method end
end

return subscriptions
