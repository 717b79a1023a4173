-- A shop's orders: events, a handler that answers them, and a read model in SQLite.
--
-- shows   a whole application, whose read model is right however often it is run, killed or rebuilt
-- run     moonbus run examples/orders/app.lua --embedded --until-idle 3
--         sqlite3 examples/orders/var/orders.db \
--           'select status,count(*),sum(total) from orders group by 1'
--         with a Kafka, also: --workers 4; moonbus projections examples/orders/app.lua;
--         moonbus rebuild examples/orders/app.lua
--         ORDERS_DB names another file
-- prints  nothing; sqlite3 prints cancelled|1|250000, paid|2|4480, shipped|2|12000

local folder = arg[0]:match "^(.*)/[^/]*$" or "."
package.path = folder .. "/?.lua;" .. package.path

local moonbus = require "moonbus"
local billing = require "billing"
local events = require "events"
local read_model = require "read_model"

local path = os.getenv "ORDERS_DB"
if not path then
  os.execute(("mkdir -p '%s/var'"):format((folder:gsub("'", "'\\''"))))
  path = folder .. "/var/orders.db"
end

local store = moonbus.stores.sqlite { path = path, init = billing.init }

local bus = moonbus.bus {
  topic_prefix = "shop",
  consumer_group = "shop-orders",
  log_level = "warn",
}

bus:subscribe_all(read_model.projection(store))
bus:subscribe(events.OrderPlaced, billing.handler(bus, store))

-- ---- some orders; their ids are fixed, so that another run brings the same ones ----

local function id(number, what)
  return ("0000000%d-0000-4000-8000-%012d"):format(what, number)
end

local function event(kind, number, what, fields)
  fields.aggregate_id, fields.event_id = id(number, 0), id(number, what)
  return kind(fields)
end

local orders = {
  { customer = "ada", total = 1990 }, { customer = "ada", total = 2490 },
  { customer = "bob", total = 4000, carrier = "pigeon" }, { customer = "eve", total = 250000 },
  { customer = "eve", total = 8000, carrier = "barge" },
}

assert(bus:connect())
for number, order in ipairs(orders) do
  assert(bus:publish(event(events.OrderPlaced, number, 1,
    { customer = order.customer, total = order.total })))
end

-- The warehouse ships what is paid; here the same script plays its part.
bus:subscribe(events.OrderPaid, function(paid)
  for number, order in ipairs(orders) do
    if id(number, 0) == paid.aggregate_id and order.carrier then
      local shipped = event(events.OrderShipped, number, 2, { carrier = order.carrier })
      assert(bus:publish(shipped:caused_by(paid)))
    end
  end
end, { name = "warehouse" })
