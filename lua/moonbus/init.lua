--- moonbus: events, handlers, projections and buses on Apache Kafka.
-- The whole public interface; types and annotations are in moonbus/meta.lua.
local core = require "moonbus.core"
local bus = require "moonbus.bus"
local event = require "moonbus.event"
local projection = require "moonbus.projection"
local task = require "moonbus.task"
local values = require "moonbus.values"

local moonbus = {
  VERSION = core.version,
  null = values.null,
  array = values.array,
  float = values.float,
  json = values.json,
  event = event.define,
  registry = event.registry,
  new_registry = event.new_registry,
  projection = projection.new,
  bus = bus.new,
  with = bus.with,
  sleep = task.sleep,
  now = core.now,
  uuid = core.uuid,
  timestamp = core.timestamp,
  epoch = core.epoch,
  options = core.options,
  errors = core.errors,
  partition_of = core.partition_of,
}

local Outcome = { __tostring = function(self) return self.message end }

--- From inside a handler: the event becomes a dead letter now, without retries. Does not return.
function moonbus.dead(reason)
  error(setmetatable({
    moonbus_outcome = "dead", type = "Dead",
    message = tostring(reason or "given up by its handler"),
  }, Outcome), 0)
end

--- From inside a handler: the event has failed and runs again after so many seconds, up to
-- max_retries as any other: { after = 5, reason = "..." }. Does not return.
function moonbus.retry(options)
  options = options or {}
  if options.after ~= nil and (type(options.after) ~= "number" or options.after < 0) then
    error("moonbus.retry: after is a number of seconds", 2)
  end
  error(setmetatable({
    moonbus_outcome = "retry", type = "Retry", after = options.after,
    message = tostring(options.reason or "its handler asked for a retry"),
  }, Outcome), 0)
end

--- Whether Kafka can be used from here; always true once the module loads, as librdkafka is linked.
function moonbus.available()
  return core.rdkafka_version ~= nil
end

--- Versions of what moonbus stands on, and librdkafka's built-in abilities.
function moonbus.features()
  local abilities = {}
  for name in core.rdkafka_features:gmatch("[^,]+") do
    abilities[name] = true
  end
  return {
    moonbus = core.version,
    librdkafka = core.rdkafka_version,
    luajit = jit.version,
    abilities = abilities,
  }
end

return moonbus
