-- A read model that went wrong, built again from the events.
--
-- shows   bus:rebuild, and that the live application goes on meanwhile
-- run     moonbus run examples/orders/rebuild.lua --embedded
-- prints  before: 3 orders of ada, total 6000
--         a bug:  0 orders of ada, total 0
--         after:  4 orders of ada, total 7000

local folder = arg[0]:match "^(.*)/[^/]*$" or "."
package.path = folder .. "/?.lua;" .. package.path

local moonbus = require "moonbus"
local events = require "events"
local read_model = require "read_model"

local path = os.getenv "ORDERS_DB" or os.tmpname()
local store = moonbus.stores.sqlite { path = path }
local projection = read_model.projection(store)

local bus = moonbus.bus {
  topic_prefix = "shop",
  consumer_group = "shop-orders",
  log_level = "warn",
}
bus:subscribe_all(projection)

local function place(total)
  return events.OrderPlaced { aggregate_id = moonbus.uuid(), customer = "ada", total = total }
end

local function show(when)
  local row = read_model.query(store, [[SELECT count(*) AS n, coalesce(sum(total), 0) AS total
    FROM orders WHERE customer = 'ada']])[1] or { n = 0, total = 0 }
  print(("%-7s %d orders of ada, total %d"):format(when .. ":", row.n, row.total))
end

assert(bus:connect())
assert(bus:publish { place(1000), place(2000), place(3000) })
assert(bus:start_consuming { until_idle = 1 })
show "before"

store:transaction(function(tx) tx:execute "UPDATE orders SET customer = ''" end)
show "a bug"

-- A live worker, and an order that comes while the read model is being built again.
local worker = assert(bus:start_consuming_in_background())
assert(bus:publish(place(1000)))
assert(bus:rebuild(projection))
worker:cancel()
assert(worker:wait())
show "after"

assert(bus:disconnect())
store:close()
if not os.getenv "ORDERS_DB" then os.remove(path) end
