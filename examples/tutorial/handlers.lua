-- Handlers: functions, objects, projections, and one that sees everything.
--
-- shows   subscribe, subscribe_all, subscribe_to_all_events, unsubscribe, moonbus.projection
-- run     luajit examples/tutorial/handlers.lua
-- prints  per event what each handler did with it, then the projection's orders

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
  topic_prefix = "handlers",
  consumer_group = "handlers-tutorial",
  log_level = "warn",
}

-- A function gets the event, and a context that knows the record it came in.

local function on_placed(event, ctx)
  print(("function: order of $%.2f, attempt %d"):format(event.total, ctx.attempt))
end
bus:subscribe(OrderPlaced, on_placed)

-- An object with a handle method keeps state of its own.

local Notifier = {}
Notifier.__index = Notifier

function Notifier:handle(event)
  self.sent = self.sent + 1
  print("object: mail to " .. event.customer_id)
end

local notifier = setmetatable({ sent = 0 }, Notifier)
bus:subscribe(OrderPlaced, notifier)

-- A projection builds a read model from several types; subscribe_all subscribes it to each.

local orders = moonbus.projection("orders", {
  rows = {},
  handles = {
    [OrderPlaced] = function(self, event)
      self.rows[event.aggregate_id] = {
        customer = event.customer_id, total = event.total, status = "placed",
      }
    end,
    [OrderShipped] = function(self, event)
      local row = self.rows[event.aggregate_id]
      if row then row.status = "shipped" end
    end,
  },
  truncate = function(self) self.rows = {} end,
})
bus:subscribe_all(orders)

-- For all events, whatever their type: audits, metrics.

local audited = 0
bus:subscribe_to_all_events(function(event)
  audited = audited + 1
  print(("audit: %s at %s"):format(event.event_type, event.occurred_at))
end)

-- A handler can be taken back.

bus:subscribe(OrderShipped, on_placed)
print("taken back: " .. tostring(bus:unsubscribe(OrderShipped, on_placed)))
print(("handlers: %d for OrderPlaced, %d for all"):format(
  bus:subscriber_count(OrderPlaced), bus:wildcard_subscriber_count()))

assert(bus:connect())
local order = "00000000-0000-4000-8000-000000000001"
assert(bus:publish {
  OrderPlaced { aggregate_id = order, customer_id = "CUST-001", total = 99.99 },
  OrderShipped { aggregate_id = order, aggregate_version = 2, tracking_number = "TRACK-12345" },
})
assert(bus:start_consuming { until_idle = 1 })

for id, row in pairs(orders.rows) do
  print(("projection: order %s of %s is %s"):format(id:sub(-4), row.customer, row.status))
end
print(("notified %d, audited %d"):format(notifier.sent, audited))

-- to build it again, with a new consumer group for example, which reads from the beginning
orders:truncate()
print("after truncate: " .. tostring(next(orders.rows)))
assert(bus:disconnect())
