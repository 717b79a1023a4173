--- Projections: objects that build a read model from several event types. Those with a store, whose
-- writes take effect once, are in moonbus.read_model.
local base = require "moonbus.base"
local check = require "moonbus.check"
local read_model = require "moonbus.read_model"

local error, getmetatable, next, pairs = base.error, base.getmetatable, base.next, base.pairs
local setmetatable, table, tostring, type = base.setmetatable, base.table, base.tostring, base.type

local projection = {}

local Projection = {}

--- The event types it handles, for bus:subscribe_all.
function Projection:subscribed_to()
  local kinds = {}
  for kind in pairs(self.handles) do kinds[#kinds + 1] = kind end
  table.sort(kinds, function(a, b) return tostring(a) < tostring(b) end)
  return kinds
end

read_model.class.subscribed_to = Projection.subscribed_to

--- Apply one event; one that no handler is declared for is left alone.
function Projection:handle(event, context)
  local handler = self.handles[getmetatable(event)] or self.handles[event.event_type]
  if handler then return handler(self, event, context) end
end

--- Empty the read model.
function Projection:truncate()
  if self.truncate_read_models then return self:truncate_read_models() end
end

Projection.__index = Projection
Projection.__tostring = function(self) return "projection " .. self.name end

local function check_handles(name, handles)
  for kind, handler in pairs(handles) do
    if type(kind) ~= "string" and not (type(kind) == "table" and kind.__moonbus) then
      error(name .. ": the keys of handles are event types or their names", 3)
    end
    if type(handler) ~= "function" then
      error(("%s: the handler of %s is no function"):format(name, tostring(kind)), 3)
    end
  end
end

local WITH_STORE = { store = "table", handles = "table", init = "function", truncate = "function",
                     ttl = "number" }

local function check_store(name, spec)
  for key, value in pairs(spec) do
    if not WITH_STORE[key] then
      error(('%s: with a store there is no "%s": handles, init, truncate, ttl; what it knows is in '
        .. "the database"):format(name, tostring(key)), 3)
    elseif type(value) ~= WITH_STORE[key] then
      check.refuse(("%s: %s"):format(name, key), "a " .. WITH_STORE[key], value, 3)
    end
  end
  if not spec.store.transactional then
    error(name .. ": store: moonbus.stores.sqlite or moonbus.stores.postgres", 3)
  elseif spec.ttl and spec.ttl <= 0 then
    check.refuse(name .. ": ttl", "seconds above 0", spec.ttl, 3)
  end
end

--- A projection.
-- spec.handles: event type (or name) -> function(self, event, context); spec.truncate:
-- function(self) that empties the read model; anything else in spec is the projection's own state.
-- With spec.store: function(event, tx, context), truncate(tx), init(tx); see meta.lua.
function projection.new(name, spec)
  if type(name) ~= "string" or name == "" then error("a projection needs a name", 2) end
  if type(spec) ~= "table" or type(spec.handles) ~= "table" or next(spec.handles) == nil then
    error(name .. ": handles = { [EventType] = function(self, event) ... end } is missing", 2)
  end
  check_handles(name, spec.handles)
  if spec.truncate ~= nil and type(spec.truncate) ~= "function" then
    error(name .. ": truncate is no function", 2)
  end
  if spec.store ~= nil then
    if type(spec.store) ~= "table" then
      check.refuse(name .. ": store", "one of moonbus.stores", spec.store, 2)
    end
    check_store(name, spec)
    return read_model.new(name, spec)
  end
  local self = { name = name }
  for key, value in pairs(spec) do
    if key ~= "truncate" then self[key] = value end
  end
  self.truncate_read_models = spec.truncate
  return setmetatable(self, Projection)
end

return projection
