-- Quickstart: declare an event, handle it, publish one.
--
-- shows   moonbus.event, moonbus.bus, subscribe, connect, publish, start_consuming
-- run     moonbus run examples/quickstart.lua --embedded --until-idle 1
--         moonbus run examples/quickstart.lua --bootstrap-servers localhost:9092 --until-idle 3
--         luajit examples/quickstart.lua                  (until Ctrl-C)
-- prints  published OrderPlaced: orders.stream, partition 3, offset 0
--         order 7c9e6679-7425-40de-944b-e07fc1f90ae7 by CUST-001: $99.99

local moonbus = require "moonbus"

local OrderPlaced = moonbus.event("OrderPlaced", {
  aggregate_type = "Order",
  customer_id = "string",
  total = "number",
})

local bus = moonbus.bus {
  bootstrap_servers = "embedded", -- a flag or MOONBUS_BOOTSTRAP_SERVERS names a real Kafka instead
  topic_prefix = "orders",
  consumer_group = "order-handlers",
}

bus:subscribe(OrderPlaced, function(event)
  print(("order %s by %s: $%.2f"):format(event.aggregate_id, event.customer_id, event.total))
end)

assert(bus:connect())

local order = OrderPlaced { aggregate_id = moonbus.uuid(), customer_id = "CUST-001", total = 99.99 }
local receipt = assert(bus:publish { order })
print(("published %s: %s, partition %d, offset %d"):format(
  order.event_type, bus.config.topic_name, receipt.partitions[1], receipt.offsets[1]))

assert(bus:start_consuming()) -- until it is stopped, or a limit of `moonbus run` is reached
assert(bus:disconnect())
