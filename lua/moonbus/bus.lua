--- The bus: connect, publish, consume. Handlers are in moonbus.subscriptions, dead letters in
-- moonbus.dlq, rebuilds of projections in moonbus.rebuild.
local base = require "moonbus.base"
local check = require "moonbus.check"
local core = require "moonbus.core"
local dlq = require "moonbus.dlq"
local event = require "moonbus.event"
local misses = require "moonbus.misses"
local metrics = require "moonbus.metrics"
local names = require "moonbus.names"
local rebuild = require "moonbus.rebuild"
local subscriptions = require "moonbus.subscriptions"
local task = require "moonbus.task"

local debug, error, ipairs, pairs = base.debug, base.error, base.ipairs, base.pairs
local pcall, rawset, setmetatable, table = base.pcall, base.rawset, base.setmetatable, base.table
local tonumber, tostring, type, unpack = base.tonumber, base.tostring, base.type, base.unpack
local xpcall = base.xpcall

local bus = { opened = {} } -- every bus made (or connected) and not disconnected, for the host

local Bus = {}
Bus.__index = Bus
Bus.__tostring = function(self) return "bus on " .. self.config.topic_name end
dlq.install(Bus)
rebuild.install(Bus)
subscriptions.install(Bus)

local function set_opened(self, opened)
  for i, each in ipairs(bus.opened) do
    if each == self then
      if not opened then table.remove(bus.opened, i) end
      return
    end
  end
  if opened then bus.opened[#bus.opened + 1] = self end
end

-- ---- making one ----

local LUA_ONLY = {
  event_registry = true, on_publish_error = true, on_log = true,
  on_assigned = true, on_revoked = true, on_lost = true,
}

local option_types = { topic_name = "string", dlq_topic_name = "string", kafka = "table" }
for name in pairs(LUA_ONLY) do option_types[name] = "lua" end
for _, option in ipairs(core.options()) do option_types[option.key] = option.type end
local option_names = names.of(option_types)

local function refuse_option(key, level)
  error(('option "%s": a bus keeps the options it was made with: moonbus.bus { %s = ... }'):format(
    tostring(key), tostring(key)), level + 1)
end

local function config_view(native)
  return setmetatable({}, {
    __index = function(_, key)
      local kind = option_types[key]
      if not kind then
        if names.is_protocol(key) then return nil end
        local renamed = type(key) == "string" and native:config(key) -- by the option's old name
        if renamed then return tonumber(renamed) or renamed end
        names.unknown("bus.config", key, option_names, 2)
      end
      local text = native:config(key)
      if text == nil then return nil end
      if kind == "integer" or kind == "number" then return tonumber(text) end
      if kind == "boolean" then return text == "true" end
      return text
    end,
    __newindex = function(_, key) refuse_option(key, 2) end,
  })
end

-- on_assigned, on_revoked, on_lost: function(partitions), called before it takes effect.
local function listen(native, config)
  if not (config.on_assigned or config.on_revoked or config.on_lost) then return end
  native:on_rebalance(function(what, partitions)
    local listener = config["on_" .. what]
    if listener then listener(partitions) end
  end)
end

--- Make a bus; nothing connects yet. Raises on an option that is unknown or not possible.
function bus.new(config)
  return (bus.make(config, 3))
end

-- level: of the caller to blame, as error counts.
function bus.make(config, level)
  if type(config) ~= "table" then error("a bus takes a table of options", level) end
  local options = {}
  for key, value in pairs(config) do
    if not LUA_ONLY[key] then options[key] = value
    elseif key ~= "event_registry" and type(value) ~= "function" then
      check.refuse(('option "%s"'):format(key), "a function", value, level)
    end
  end
  local registry = config.event_registry or event.registry
  if type(registry) ~= "table" or type(registry.types) ~= "table" then
    check.refuse('option "event_registry"', "a registry of moonbus.new_registry()", registry, level)
  end
  local native, err = core.bus_new(options, task.host.flags, registry.types)
  if not native then error(err, level) end
  local self = setmetatable({ native = native, config = config_view(native),
                              registry = registry, subscriptions = {}, worked = false }, Bus)
  if config.on_log then native:on_log(config.on_log) end
  if config.on_publish_error then native:on_publish_error(config.on_publish_error) end
  listen(native, config)
  set_opened(self, true)
  if task.host.on_bus then task.host.on_bus(self, level + 1) end
  return self
end

--- Run a function with a connected bus, and disconnect on every way out.
-- Returns what the function returns; nil, err, code when the bus cannot connect. Errors pass.
function bus.with(config, body)
  if type(body) ~= "function" then error("moonbus.with takes options and a function", 2) end
  local self = bus.make(config, 3)
  local ok, err, code = self:connect()
  if not ok then return nil, err, code end
  local results = { xpcall(function() return body(self) end, function(reason)
    return type(reason) == "string" and debug.traceback(reason, 2) or reason
  end) }
  self:disconnect()
  if not results[1] then error(results[2], 0) end
  return unpack(results, 2, table.maxn(results))
end

-- ---- connecting ----

--- Connect to the broker and find the topic; does not join the consumer group.
-- timeout in seconds, 10 unless given. true, or nil, err, code.
function Bus:connect(timeout)
  if task.host.dry then return true end
  local ok, err, code = self.native:connect(check.milliseconds(timeout, 10, "timeout", 2))
  task.note(self, err, code)
  if ok then
    set_opened(self, true)
    task.connected(self.native, true)
  end
  return ok, err, code
end

--- Stop consuming, deliver what is queued, close. Calling it twice does no harm.
function Bus:disconnect()
  if not self.native:in_handler() and self.native:stats().events_running > 0 then
    self:stop_consuming() -- which lets them finish
  end
  local ok, err, code = self.native:disconnect()
  if ok or code ~= "ESTATE" then
    task.forget(self)
    set_opened(self, false)
    task.connected(self.native, false)
  end
  return ok, err, code
end

--- Whether connect has succeeded, and disconnect has not come since.
function Bus:is_connected()
  return self.dry_connected or self.native:is_connected()
end

--- Whether it consumes.
function Bus:is_consuming()
  return self.native:is_consuming()
end

-- ---- publishing ----

-- level: of the caller to blame, as error counts. In a dry run only buses made for it are asked.
local function need_connection(self, level)
  if self:is_connected() or task.host.dry and self.dry_connected == nil then return end
  error("ESTATE: the bus is not connected; " .. (self.failure
    and "bus:connect() failed: " .. self.failure.err or "call bus:connect() first"), level + 1)
end

local function as_list(events)
  if type(events) ~= "table" then error("publish takes an event or a list of events", 3) end
  if events.event_type ~= nil then return { events } end
  check.list(events, "publish takes an event (it has an event_type) or a list of events", 3)
  return events
end

local PUBLISHING = {
  background = "boolean", traceparent = "string", tracestate = "string", baggage = "string",
}

--- Publish events: one, or a list.
-- Waits for every delivery report and returns a receipt; nil, err, code, failures when some were
-- not delivered. With { background = true } it returns once they are queued. traceparent,
-- tracestate, baggage: the trace context; nil: that of the event in hand, false: none. Raises when
-- the bus is not connected, or an event does not fit its type (then none is sent).
function Bus:publish(events, options)
  local list, how = as_list(events), check.options(options, PUBLISHING, 2)
  if task.host.dry then return { count = #list } end
  need_connection(self, 2)
  task.leave_if_interrupted()
  local ok, receipt, err, code, failures = pcall(self.native.publish, self.native, list,
    how.background, how.traceparent, how.tracestate, how.baggage)
  if not ok then error(receipt, 2) end
  return receipt, err, code, failures
end

--- Wait until everything published in the background is delivered or has failed.
function Bus:flush(timeout)
  return self.native:flush(check.milliseconds(timeout, 30, "timeout", 2))
end

-- ---- stores ----

-- What the stores answer when a step, or a handler that failed, is over: see src/group/unit.h.
local function end_units(units, what)
  local kept, why = true, nil
  for i = #units, 1, -1 do
    local store = units[i]
    if what == "fail" then
      store:undo()
      if store.broken then kept = false end
    else
      units[i] = nil
      local ok, reason = store:end_unit(what == "keep")
      if not ok then kept, why = false, reason end
    end
  end
  return kept, why
end

--- A store's transaction is to end with the step, before any offset is committed. For stores: see
-- Database:enter.
function Bus:join_unit(store)
  local units = self.units
  if not units then
    units = {}
    self.units = units
    self.native:on_unit(function(what) return end_units(units, what) end)
  end
  self.native:unit_begin()
  for _, each in ipairs(units) do
    if each == store then return end
  end
  units[#units + 1] = store
end

-- ---- consuming ----

local CONSUMING = { auto_reconnect = "boolean", until_idle = "number", for_seconds = "number" }

--- Start consuming and return a task; the work is done while something waits: task:wait(),
-- moonbus.sleep(), or start_consuming() of another bus. nil, err, code if it cannot start; raises
-- when the bus is not connected.
-- options: auto_reconnect (true), until_idle and for_seconds (limits, in seconds).
function Bus:start_consuming_in_background(options)
  check.options(options, CONSUMING, 2)
  need_connection(self, 2)
  misses.warn(self)
  return task.start(self, options or {})
end

--- Consume until stopped (or a limit is reached). true, or nil, err, code; raises when the bus is
-- not connected.
function Bus:start_consuming(options)
  check.options(options, CONSUMING, 2)
  need_connection(self, 2)
  misses.warn(self, true)
  local started, err, code = task.start(self, options or {})
  if not started then return nil, err, code end
  return started:wait()
end

--- Stop: the event in hand is finished, offsets are committed, the group is left.
-- From inside a handler of this bus it returns at once, and consumption ends after the handler.
-- Handlers that are waiting (concurrency above 1) have shutdown_timeout to finish.
function Bus:stop_consuming()
  self.native:stop() -- not consuming, it may be reading or replaying dead letters
  while self.native:is_consuming() and not self.native:in_handler() do task.turn(1) end
  task.reap()
  return true
end

-- ---- what can be asked ----

--- Counters and times; times are ISO 8601 text or moonbus.null.
function Bus:get_stats_dict()
  return self.native:stats()
end

--- How many events were skipped as nothing subscribes to them, by event type; under "" those of
-- further types, where there are more than 64.
function Bus:get_skipped_types()
  return self.native:skipped()
end

--- Metrics by name, since the bus was made: counters and gauges with a value (consumer.lag: one for
-- each partition in `partitions`), histograms with count, sum, max, p50, p95, p99, in ms or
-- messages. nil with enable_metrics = false.
function Bus:get_metrics()
  return metrics(self.native)
end

--- How the bus is at this moment: { status = "green" | "yellow" | "red", reasons = { ... } }, each
-- reason { status =, code =, text =, partition = (or nil) }. Green has none.
function Bus:get_health()
  return self.native:health()
end

--- Close the circuit breaker of a partition, or of all this member has: the event it held back runs
-- at once, and may become a dead letter, like those after it. How many were open; nil, err, code
-- ("ENOENT") when that partition's is not open.
function Bus:reset_breaker(partition)
  if partition ~= nil then check.whole(partition, "reset_breaker: the number of a partition", 2) end
  return self.native:reset_breaker(partition)
end

--- Deprecated: the old name of reset_breaker.
function Bus:release_brake(partition)
  self.native:log("warn", "bus:release_brake is deprecated; call bus:reset_breaker instead", {}, {})
  return self:reset_breaker(partition)
end

--- topic, partitions, consumer_group, connected, consuming. nil, err, code if the broker is silent.
function Bus:get_topic_info()
  local partitions, err, code = self.native:topic_partitions()
  if not partitions then return nil, err, code end
  return {
    topic = self.config.topic_name,
    partitions = partitions,
    consumer_group = self.config.consumer_group,
    connected = self:is_connected(),
    consuming = self:is_consuming(),
  }
end

local READING = {
  topic = "string", partition = "number", offset = "number", follow = "boolean",
  timeout_ms = "number",
}

--- Read records from outside any group, each as a table; fn returns false to end.
-- options: topic, partition, offset (-1 beginning, -2 end, -3 - N the last N), follow, timeout_ms.
function Bus:read(options, fn)
  if type(options) ~= "table" or type(fn) ~= "function" then
    error("read takes a table of options and a function", 2)
  end
  for key, value in pairs(options) do
    if not READING[key] then
      names.no_option("read", key, names.of(READING), 2)
    elseif type(value) ~= READING[key] or value ~= value then
      check.refuse("read: " .. key, "a " .. READING[key], value, 2)
    end
  end
  return self.native:read(options.topic, options, fn)
end

-- ---- names ----

-- What is kept in a bus, and may be nil.
local FIELDS = { "failure", "started", "units", "dry_connected", "warned", "worked" }
local fields = {}
for _, name in ipairs(FIELDS) do fields[name] = true end

-- What a bus may be made for besides consuming.
bus.WORK = {
  "publish", "read", "rebuild", "get_topic_info", "get_dlq_messages", "each_dlq_message",
  "get_dlq_message_count", "replay_dlq", "replay_dlq_message",
}

--- A method that notes that the bus is used.
function bus.work(method)
  return function(self, ...)
    self.worked = true
    return method(self, ...)
  end
end

for _, name in ipairs(bus.WORK) do Bus[name] = bus.work(Bus[name]) end

local join_unit = Bus.join_unit
names.class(Bus, "bus", {
  fields = FIELDS, asked = { "is_connected", "is_consuming" },
})
Bus.join_unit = join_unit
local known = names.of(option_types, Bus, { is_connected = true, is_consuming = true })

-- A script may keep values of its own in a bus, under names that mean nothing else.
function Bus.__newindex(self, name, value)
  if option_types[name] then refuse_option(name, 2) end
  if type(name) == "string" and not fields[name] and type(value) ~= "function" then
    local near = core.nearest(name, known, true)
    if near == name then
      error(("bus.%s is a method: only a function can take its place"):format(name), 2)
    elseif near then
      error(('a bus has no "%s"; did you mean "%s"?'):format(name, near), 2)
    end
  end
  rawset(self, name, value)
end

bus.class = Bus

return bus
