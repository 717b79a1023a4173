--- Projections: objects that build a read model from several event types.
local projection = {}

local Projection = {}

--- The event types it handles, for bus:subscribe_all.
function Projection:subscribed_to()
  local kinds = {}
  for kind in pairs(self.handles) do kinds[#kinds + 1] = kind end
  table.sort(kinds, function(a, b) return tostring(a) < tostring(b) end)
  return kinds
end

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

--- A projection.
-- spec.handles: event type (or name) -> function(self, event, context); spec.truncate:
-- function(self) that empties the read model; anything else in spec is the projection's own state.
function projection.new(name, spec)
  if type(name) ~= "string" or name == "" then error("a projection needs a name", 2) end
  if type(spec) ~= "table" or type(spec.handles) ~= "table" or next(spec.handles) == nil then
    error(name .. ": handles = { [EventType] = function(self, event) ... end } is missing", 2)
  end
  local self = { name = name }
  for key, value in pairs(spec) do
    if key ~= "truncate" then self[key] = value end
  end
  for kind, handler in pairs(spec.handles) do
    if type(kind) ~= "string" and not (type(kind) == "table" and kind.__moonbus) then
      error(name .. ": the keys of handles are event types or their names", 2)
    end
    if type(handler) ~= "function" then
      error(("%s: the handler of %s is no function"):format(name, tostring(kind)), 2)
    end
  end
  if spec.truncate ~= nil and type(spec.truncate) ~= "function" then
    error(name .. ": truncate is no function", 2)
  end
  self.truncate_read_models = spec.truncate
  return setmetatable(self, Projection)
end

return projection
