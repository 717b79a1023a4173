-- Billing: charges each order that is placed, and says so on the bus.
--
-- shows   moonbus.idempotent with a transaction, events that a handler publishes, event:caused_by
-- run     it is required by the others in this folder
-- prints  nothing

local moonbus = require "moonbus"
local events = require "events"

local billing = {}

local LIMIT = 100000 -- what is charged without asking

--- Makes its table; for the store.
function billing.init(tx)
  tx:execute [[CREATE TABLE IF NOT EXISTS invoices (
    order_id TEXT PRIMARY KEY, amount INTEGER NOT NULL)]]
end

--- A handler for placed orders, which writes its invoices to the store.
-- Killed between publish and the commit of the invoice, it publishes once more: an order is then
-- paid twice on the bus, and once in the books. Its readers do not mind (see read_model.lua).
function billing.handler(bus, store)
  return moonbus.idempotent(function(event, tx)
    local answer
    if event.total > LIMIT then
      answer = events.OrderCancelled { aggregate_id = event.aggregate_id,
                                       reason = "over the limit" }
    else
      tx:execute("INSERT INTO invoices (order_id, amount) VALUES (?, ?)", event.aggregate_id,
        event.total)
      answer = events.OrderPaid { aggregate_id = event.aggregate_id, amount = event.total }
    end
    assert(bus:publish(answer:caused_by(event)))
  end, { store = store, name = "billing" })
end

return billing
