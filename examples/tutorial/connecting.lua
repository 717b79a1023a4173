-- Connecting: is Kafka there, connect and disconnect by hand, or let `with` do both.
--
-- shows   moonbus.available, moonbus.features, is_connected, is_consuming, moonbus.with
-- run     luajit examples/tutorial/connecting.lua
-- prints  connected: false, then true, then false; and what `with` returned

local moonbus = require "moonbus"

-- Is everything in place?

print("available: " .. tostring(moonbus.available()))
local features = moonbus.features()
print("librdkafka with TLS: " .. tostring(features.abilities.ssl == true))

local OrderPlaced = moonbus.event("OrderPlaced", {
  aggregate_type = "Order",
  customer_id = "string",
  total = "number",
})

local config = {
  bootstrap_servers = "embedded",
  topic_prefix = "orders",
  consumer_group = "order-handlers",
}

-- By hand. Connecting finds the broker and the topic; the consumer group is joined only by
-- start_consuming, so a process that just publishes never takes partitions away from others.

local bus = moonbus.bus(config)
print("connected: " .. tostring(bus:is_connected()))
print("consuming: " .. tostring(bus:is_consuming()))

assert(bus:connect(5)) -- seconds to try
print("connected: " .. tostring(bus:is_connected()))

assert(bus:disconnect())
print("connected: " .. tostring(bus:is_connected()))

-- What goes wrong in the world comes back as nil, a sentence, and a code.

local nobody = moonbus.bus { bootstrap_servers = "localhost:1", log_level = "error" }
-- (an environment variable or a flag that names a broker wins over the line above)
if nobody.config.bootstrap_servers == "localhost:1" then
  local ok, message, code = nobody:connect(0.5)
  if not ok then print(("nobody there: %s\n  %s"):format(code, message)) end
end

-- With a function: the bus is disconnected on every way out, an error included.

local receipt = assert(moonbus.with(config, function(open)
  print("inside with: " .. tostring(open:is_connected()))
  return open:publish(OrderPlaced {
    aggregate_id = moonbus.uuid(), customer_id = "CUST-001", total = 99.99,
  })
end))
print("published inside with: " .. receipt.count)
