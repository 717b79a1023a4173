-- Specs of the read model and the handler: busted examples/orders/spec
--
-- shows   how to test projections and handlers: by hand, without a broker, and on the embedded one
-- run     eval "$(scripts/setup --env)"; luajit /usr/bin/busted examples/orders/spec
-- prints  6 successes

local folder = debug.getinfo(1, "S").source:match "^@(.*)/spec/[^/]*$" or ".."
package.path = folder .. "/?.lua;" .. package.path

local moonbus = require "moonbus"
local billing = require "billing"
local events = require "events"
local read_model = require "read_model"

local ORDER = "00000000-0000-4000-8000-000000000001"

local projection, store, path

before_each(function()
  path = os.tmpname()
  store = moonbus.stores.sqlite { path = path, init = billing.init }
  projection = read_model.projection(store)
end)

after_each(function()
  store:close()
  for _, suffix in ipairs { "", "-wal", "-shm" } do os.remove(path .. suffix) end
end)

local function placed(total)
  return events.OrderPlaced { aggregate_id = ORDER, customer = "ada", total = total or 1990 }
end

local function order()
  return read_model.query(store, "SELECT customer, status, total FROM orders WHERE id = ?",
    ORDER)[1]
end

describe("the read model", function()
  it("has a row for an order that was placed", function()
    projection:handle(placed(1990))
    assert.same({ customer = "ada", status = "placed", total = 1990 }, order())
  end)

  it("follows what happens to it", function()
    projection:handle(placed())
    projection:handle(events.OrderPaid { aggregate_id = ORDER, amount = 1990 })
    assert.equal("paid", order().status)
    projection:handle(events.OrderShipped { aggregate_id = ORDER, carrier = "pigeon" })
    assert.equal("shipped", order().status)
  end)

  it("takes each event once", function()
    local event = placed()
    projection:handle(event)
    projection:handle(event) -- the INSERT would fail
    assert.equal(1, #read_model.query(store, "SELECT 1 AS it FROM orders"))
  end)
end)

describe("billing", function()
  -- A bus that keeps what is published.
  local function fake_bus()
    local published = {}
    return { publish = function(_, event)
      published[#published + 1] = event
      return true
    end }, published
  end

  it("charges an order once, and says what caused it", function()
    local bus, published = fake_bus()
    local handler, event = billing.handler(bus, store), placed(1990)
    handler:handle(event)
    handler:handle(event)
    assert.equal(1, #published)
    assert.is_true(published[1]:is(events.OrderPaid))
    assert.equal(event.event_id, published[1].causation_id)
    assert.equal(event.correlation_id, published[1].correlation_id)
    assert.same({ { amount = 1990 } }, read_model.query(store, "SELECT amount FROM invoices"))
  end)

  it("cancels what is over the limit", function()
    local bus, published = fake_bus()
    billing.handler(bus, store):handle(placed(100001))
    assert.is_true(published[1]:is(events.OrderCancelled))
    assert.same({}, read_model.query(store, "SELECT * FROM invoices"))
  end)
end)

describe("the application", function()
  it("pays an order that was published, whatever comes twice, and can be rebuilt", function()
    local bus = moonbus.bus {
      bootstrap_servers = "embedded", topic_prefix = "spec", consumer_group = "spec",
      log_level = "error",
    }
    bus:subscribe_all(projection)
    bus:subscribe(events.OrderPlaced, billing.handler(bus, store))
    assert(bus:connect())
    local event = placed(1990)
    assert(bus:publish { event, event })
    assert(bus:start_consuming { until_idle = 1 })
    assert.same({ customer = "ada", status = "paid", total = 1990 }, order())
    store:transaction(function(tx) tx:execute "UPDATE orders SET total = 0" end)
    assert(bus:rebuild(projection))
    assert.same({ customer = "ada", status = "paid", total = 1990 }, order())
    assert(bus:disconnect())
  end)
end)
