-- Publishing: one event, a batch, in the background; and which partition an event goes to.
--
-- shows   publish, receipts, { background = true }, flush, on_publish_error, partition_of
-- run     luajit examples/tutorial/publishing.lua
-- prints  one: 1 event; batch: 100 events; two orders, each with its events in one partition

local moonbus = require "moonbus"

local OrderPlaced = moonbus.event("OrderPlaced", {
  aggregate_type = "Order",
  customer_id = "string",
  total = "number",
})
local OrderShipped = moonbus.event("OrderShipped", {
  aggregate_type = "Order",
  tracking_number = "string",
})

local bus = moonbus.bus {
  bootstrap_servers = "embedded",
  topic_prefix = "publishing",
  on_publish_error = function(failure) -- receives what went wrong in the background
    print("not delivered: " .. failure.event_type .. ": " .. failure.reason)
  end,
}
assert(bus:connect())

-- One event. publish returns once the broker has it, with a receipt.

local receipt = assert(bus:publish {
  OrderPlaced { aggregate_id = moonbus.uuid(), customer_id = "CUST-001", total = 99.99 },
})
print(("one: %d event, partition %d, offset %d"):format(
  receipt.count, receipt.partitions[1], receipt.offsets[1]))

-- Many at once: they travel together, and publish waits for all of them.

local events = {}
for i = 1, 100 do
  events[i] = OrderPlaced {
    aggregate_id = moonbus.uuid(), customer_id = ("CUST-%04d"):format(i), total = i * 10,
  }
end
print(("batch: %d events"):format(assert(bus:publish(events)).count))

-- In the background: publish returns before the broker has the event. Until then a crash of this
-- process loses it; flush waits for what is on its way.

local queued = assert(bus:publish(OrderPlaced {
  aggregate_id = moonbus.uuid(), customer_id = "CUST-002", total = 5,
}, { background = true }))
assert(bus:flush(10)) -- seconds
print(("background: %d event queued, then flushed"):format(queued.count))

-- Events of one aggregate go to one partition, and stay in order there.

local partitions = assert(bus:get_topic_info()).partitions
for i = 1, 2 do
  local order = ("00000000-0000-4000-8000-%012d"):format(i)
  local sent = assert(bus:publish {
    OrderPlaced { aggregate_id = order, customer_id = "CUST-003", total = 20 },
    OrderShipped { aggregate_id = order, aggregate_version = 2, tracking_number = "TRACK-1" },
  })
  print(("order %d: partitions %d and %d, foretold %d"):format(
    i, sent.partitions[1], sent.partitions[2], moonbus.partition_of(order, partitions)))
end

-- An event that does not fit its type is the caller's mistake: an error, and nothing is sent.

local ok, message = pcall(OrderPlaced, { aggregate_id = moonbus.uuid(), total = "much" })
assert(not ok)
print("refused: " .. message)

print("published in all: " .. bus:get_stats_dict().events_published)
assert(bus:disconnect())
