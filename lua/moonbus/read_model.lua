--- Projections with a store: an event's writes, its mark and the position are one transaction.
local base = require "moonbus.base"
local frame = require "moonbus.frame"
local task = require "moonbus.task"

local error, getmetatable, ipairs = base.error, base.getmetatable, base.ipairs
local setmetatable, tostring = base.setmetatable, base.tostring

local read_model = {}

local ReadModel = {}
ReadModel.__index = ReadModel
ReadModel.__tostring = function(self) return "projection " .. self.name end

-- Events without a declared handler are marked as well: a projection is done with them.
local function call(self, event, tx, context)
  local handler = self.handles[getmetatable(event)] or self.handles[event.event_type]
  if handler then return handler(event, tx, context) end
end

local function keep(self, bus, id, context, ...)
  local store = self.store
  if not frame.failed(...) then store:moved(bus, id, context.partition, context.offset) end
  return frame.keep(store, ...)
end

-- Two of one name would each take the other's events for applied.
local function check_name(self, bus)
  for _, each in ipairs(bus.subscriptions) do
    local other = each.handler
    if other ~= self and getmetatable(other) == ReadModel and other.store == self.store
      and other.name == self.name then
      error(('two projections of one store are both called "%s"'):format(self.name), 0)
    end
  end
end

--- The function that a bus calls: the events of one step share a transaction.
function ReadModel:bind(bus)
  local store, name = self.store, self.name
  check_name(self, bus)
  return function(event, context)
    local tx = store:enter(bus)
    local row = store:projection(name)
    if row.passing or not store:mark_by(row.marks, event.event_id, self.ttl) then
      return keep(self, bus, row.marks, context)
    end
    return keep(self, bus, row.marks, context, call(self, event, tx, context))
  end
end

--- Apply an event by hand, unless it was applied: in a transaction of its own, or as a part of the
-- one a handler is in.
function ReadModel:handle(event, context)
  local store = self.store
  return frame.by_hand(store, function(tx)
    if task.host.dry then return call(self, event, tx, context) end
    local row = store:projection(self.name)
    if row.passing then
      error(("ESTORE: %s is being rebuilt in place: until that is done it applies nothing else")
        :format(tostring(self)), 0)
    end
    if store:mark_by(row.marks, event.event_id, self.ttl) then
      return call(self, event, tx, context)
    end
  end)
end

--- Apply an event in the frame at hand of any store, by that number of marks; whether it was new.
-- For rebuilds. Raises what the handler raises, or returns as its failure.
function ReadModel:apply(store, id, event, context)
  if not store:mark_by(id, event.event_id, self.ttl) then return false end
  local result, reason = call(self, event, store.tx, context)
  if frame.failed(result, reason) then error(reason, 0) end
  return true
end

--- Empty the read model, marks and position included, so that every event is applied again.
-- bus:rebuild does that, and reads them.
function ReadModel:truncate()
  if not self.empty then
    error(("%s: it has no truncate"):format(tostring(self)), 2)
  end
  local store = self.store
  return store:transaction(function(tx)
    if not task.host.dry then store:replace_marks(self.name) end
    self.empty(tx)
  end)
end

--- What projection.new makes of a spec with a store.
function read_model.new(name, spec)
  local self = setmetatable({
    name = name, store = spec.store, handles = spec.handles, init = spec.init,
    empty = spec.truncate, ttl = spec.ttl,
  }, ReadModel)
  self.store:on_connect(function(tx, store)
    store:add_projection(name)
    if self.init then self.init(tx) end
  end)
  return self
end

--- Whether a handler is a projection with a store.
function read_model.is(handler)
  return getmetatable(handler) == ReadModel
end

read_model.class = ReadModel

return read_model
