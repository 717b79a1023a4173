-- Consuming: in the foreground with limits, in the background beside other work, for some time.
--
-- shows   start_consuming, start_consuming_in_background, moonbus.sleep, stop_consuming, task:wait
-- run     luajit examples/tutorial/consuming.lua
-- prints  foreground: 3 handled; background: 5 handled while consuming; for a while: 2 handled

local moonbus = require "moonbus"

local Ticked = moonbus.event("Ticked", { aggregate_type = "Clock", n = "integer" })

local handled

local function open(name)
  local bus = moonbus.bus {
    bootstrap_servers = "embedded",
    topic_prefix = "consuming." .. name,
    consumer_group = "consuming-" .. name,
    log_level = "warn",
  }
  handled = 0
  bus:subscribe(Ticked, function() handled = handled + 1 end)
  assert(bus:connect())
  return bus
end

local function publish(bus, n)
  assert(bus:publish(Ticked { aggregate_id = moonbus.uuid(), n = n }))
end

-- In the foreground: start_consuming returns when it is stopped (from a handler, or by Ctrl-C under
-- `moonbus run`), or when a limit is reached: nothing new for a second, or half a minute in all.

local bus = open "foreground"
for n = 1, 3 do publish(bus, n) end
assert(bus:start_consuming { until_idle = 1, for_seconds = 30 })
print("foreground: " .. handled .. " handled")
assert(bus:disconnect())

-- In the background: the bus works whenever this script waits, in moonbus.sleep or task:wait.

bus = open "background"
local task = assert(bus:start_consuming_in_background())
for n = 1, 5 do
  publish(bus, n)
  moonbus.sleep(0.1) -- other work would go here
end
local deadline = moonbus.now() + 30
while handled < 5 and moonbus.now() < deadline do moonbus.sleep(0.1) end
print(("background: %d handled, consuming %s"):format(handled, tostring(bus:is_consuming())))

bus:stop_consuming() -- finishes the event in hand, commits, leaves the group
assert(task:wait())
print("stopped: consuming " .. tostring(bus:is_consuming()))
assert(bus:disconnect())

-- For some time. A lost connection is restored in the background, with waits of 1 to 60 seconds;
-- auto_reconnect = false makes it an error of start_consuming or task:wait instead.

local function consume_for(seconds)
  local job = assert(bus:start_consuming_in_background { auto_reconnect = false })
  moonbus.sleep(seconds)
  job:cancel()
  return job:wait()
end

bus = open "while"
publish(bus, 1)
publish(bus, 2)
assert(consume_for(6)) -- joining a group takes 3 of them on the embedded broker
print("for a while: " .. handled .. " handled")
assert(bus:disconnect())
