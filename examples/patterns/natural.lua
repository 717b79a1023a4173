-- Natural idempotency: what a handler writes is so that writing it again changes nothing.
--
-- shows   rows keyed by what they are about, values that are set and not added to
-- run     moonbus run examples/patterns/natural.lua --embedded --until-idle 2
--         DB=orders.db moonbus run ...                   (keeps the read model in that file)
-- prints  8 events handled
--         orders 3, total 60, shipped 1

local DBI = require "DBI"
local moonbus = require "moonbus"

local OrderPlaced = moonbus.event("OrderPlaced", { aggregate_type = "Order", total = "integer" })
local OrderShipped = moonbus.event("OrderShipped", { aggregate_type = "Order" })

-- ---- the read model ----

local db = assert(DBI.Connect("SQLite3", os.getenv "DB" or ":memory:"))
db:autocommit(true)

local function sql(text)
  local statement = assert(db:prepare(text))
  return function(...)
    assert(statement:execute(...))
    return statement
  end
end

sql [[CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, total INTEGER NOT NULL,
  shipped INTEGER NOT NULL DEFAULT 0)]] ()

-- An order is there or it is not: placed twice it is one row.
local place = sql "INSERT INTO orders (id, total) VALUES (?, ?) ON CONFLICT (id) DO NOTHING"
-- Shipped is shipped: set, and never set back by another event.
local ship = sql "UPDATE orders SET shipped = 1 WHERE id = ?"
-- Sums are asked for, not kept: "placed = placed + 1" would count every delivery.
local sums = sql "SELECT count(*), coalesce(sum(total), 0), coalesce(sum(shipped), 0) FROM orders"

-- ---- the handlers ----

local bus = moonbus.bus {
  bootstrap_servers = "embedded",
  topic_prefix = "natural",
  consumer_group = "natural",
  log_level = "warn",
}

local handled = 0

local function count()
  handled = handled + 1
  print(handled .. (handled == 1 and " event" or " events") .. " handled")
end

bus:subscribe(OrderPlaced, function(event)
  place(event.aggregate_id, event.total)
  count()
end)

bus:subscribe(OrderShipped, function(event)
  ship(event.aggregate_id)
  count()
end)

-- ---- four events, and every one of them once more ----

local events = {}
for i = 1, 3 do
  events[i] = OrderPlaced {
    event_id = ("00000000-0000-4000-9000-%012d"):format(i),
    aggregate_id = ("00000000-0000-4000-8000-%012d"):format(i), total = i * 10,
  }
end
events[4] = OrderShipped {
  event_id = "00000000-0000-4000-9000-000000000004",
  aggregate_id = events[1].aggregate_id, aggregate_version = 2,
}

assert(bus:connect())
assert(bus:publish(events))
assert(bus:publish(events))
assert(bus:start_consuming())

print(("orders %d, total %d, shipped %d"):format(unpack(sums():fetch())))
assert(bus:disconnect())
