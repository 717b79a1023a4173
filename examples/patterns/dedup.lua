-- Deduplication by event id: what was handled is marked, in one transaction with its effect.
--
-- shows   moonbus.idempotent, moonbus.stores.sqlite, a handler that writes through tx
-- run     moonbus run examples/patterns/dedup.lua --embedded --until-idle 2
--         DB=sales.db moonbus run ...                    (keeps the read model in that file)
-- prints  3 orders, total 60

local moonbus = require "moonbus"

local OrderPlaced = moonbus.event("OrderPlaced", { aggregate_type = "Order", total = "integer" })

local store = moonbus.stores.sqlite {
  path = os.getenv "DB" or ":memory:",
  init = function(tx)
    tx:execute "CREATE TABLE IF NOT EXISTS sales (orders INTEGER NOT NULL, total INTEGER NOT NULL)"
    if not tx:one "SELECT 1 FROM sales" then tx:execute "INSERT INTO sales VALUES (0, 0)" end
  end,
}

local bus = moonbus.bus {
  bootstrap_servers = "embedded",
  topic_prefix = "dedup",
  consumer_group = "dedup",
  log_level = "warn",
}

-- Adding up tolerates no repetition by itself: the marks see to it.
bus:subscribe(OrderPlaced, moonbus.idempotent(function(event, tx)
  tx:execute("UPDATE sales SET orders = orders + 1, total = total + ?", event.total)
end, { store = store, name = "sales" }))

-- ---- three events, and every one of them once more ----

local events = {}
for i = 1, 3 do
  events[i] = OrderPlaced {
    event_id = ("00000000-0000-4000-9000-%012d"):format(i),
    aggregate_id = ("00000000-0000-4000-8000-%012d"):format(i), total = i * 10,
  }
end

assert(bus:connect())
assert(bus:publish(events))
assert(bus:publish(events))
assert(bus:start_consuming())

store:transaction(function(tx)
  local row = tx:one "SELECT orders, total FROM sales"
  print(("%d orders, total %d"):format(row.orders, row.total))
end)
assert(bus:disconnect())
