--- Buses that touch nothing, so that a script runs through without a broker: for `check`, and for
-- who else needs to know a script's options. Events are still checked against their types.
local base = require "moonbus.base"
local moonbus = require "moonbus"
local moonbus_bus = require "moonbus.bus"
local names = require "moonbus.names"
local script = require "moonbus.cli.script"
local task = require "moonbus.task"

local globals, debug, error, io, ipairs = base.globals, base.debug, base.error, base.io, base.ipairs
local jit, os, pairs, pcall, print = base.jit, base.os, base.pairs, base.pcall, base.print
local rawset, select, table, tostring = base.rawset, base.select, base.table, base.tostring
local type = base.type

local dry = { SECONDS = 5 } -- how long a script may run

local methods = {}

local function yes() return true end

function methods.connect(self)
  self.dry_connected = true
  return true
end

function methods.disconnect(self)
  self.dry_connected = false
  return true
end

function methods.publish(self, events, how)
  if type(events) ~= "table" then error("publish takes an event or a list of events", 2) end
  if not self.dry_connected then
    error("ESTATE: the bus is not connected; call bus:connect() first", 2)
  end
  local list = events.event_type ~= nil and { events } or events
  local receipt = { count = #list }
  if not (how and how.background) then
    receipt.partitions, receipt.offsets = moonbus.array {}, moonbus.array {}
  end
  for i, event in ipairs(list) do
    local ok, why = pcall(self.native.encode, self.native, event)
    if not ok then error(("event %d: %s"):format(i, tostring(why)), 2) end
    if receipt.partitions then receipt.partitions[i], receipt.offsets[i] = 0, 0 end
  end
  return receipt
end

function methods.get_dlq_messages() return moonbus.array {} end

function methods.get_dlq_message_count() return 0 end

function methods.reset_breaker() return 0 end

function methods.get_topic_info(self)
  return {
    topic = self.config.topic_name, partitions = 1, consumer_group = self.config.consumer_group,
    connected = self:is_connected(), consuming = false,
  }
end

function methods.replay_dlq()
  return { replayed = 0, refused = 0, failed = 0, skipped = 0, more = false, stopped = false,
    letters = moonbus.array {} }
end

methods.flush, methods.stop_consuming, methods.replay_dlq_message, methods.read = yes, yes, yes, yes
methods.each_dlq_message = yes

for _, name in ipairs(moonbus_bus.WORK) do
  if methods[name] then methods[name] = moonbus_bus.work(methods[name]) end
end
for name, method in pairs(methods) do
  methods[name] = names.guard(moonbus_bus.class, "bus", name, method)
end

local function apply(bus)
  for name, method in pairs(methods) do bus[name] = method end
  bus.dry_connected = false
end

--- Make a bus that dry.run gave a real one again.
function dry.lift(bus)
  for name in pairs(methods) do bus[name] = nil end
  bus.dry_connected = nil
  task.host.dry = false
end

-- A script that serves for ever at its top level is no error; what it declared until then counts.
local function limited(path)
  local deadline = moonbus.now() + dry.SECONDS
  jit.off()
  debug.sethook(function()
    if task.interrupted() or moonbus.now() > deadline then error(task.INTERRUPTED, 0) end
  end, "", 100000)
  local ok, wrong = script.run(path)
  debug.sethook()
  jit.on()
  return ok, wrong
end

--- Run a script with dry buses; what it prints goes to stderr. What script.run gives, and the buses
-- and registries it made. What goes wrong after it consumed, and so has not what that brings, is no
-- error: it is the fifth result.
function dry.run(path)
  local buses, registries = {}, { moonbus.registry }
  local seen = { [moonbus.registry] = true }
  task.host.dry = true
  task.host.on_bus = function(bus)
    buses[#buses + 1] = bus
    apply(bus)
    if seen[bus.registry] then return end
    seen[bus.registry] = true
    registries[#registries + 1] = bus.registry
  end
  rawset(globals, "print", function(...)
    local words = { n = select("#", ...), ... }
    for i = 1, words.n do words[i] = tostring(words[i]) end
    io.stderr:write(table.concat(words, "\t"), "\n")
  end)
  local theirs = globals.os
  rawset(theirs, "exit", function() error(script.EXITED, 0) end)
  io.output(io.stderr)
  local ok, wrong = limited(path)
  io.output(io.stdout)
  rawset(theirs, "exit", os.exit)
  rawset(globals, "print", print)
  task.host.on_bus = nil
  if not ok and task.host.consumed then return true, nil, buses, registries, wrong end
  return ok, wrong, buses, registries
end

return dry
