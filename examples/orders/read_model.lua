-- The read model: one row for each order, in SQLite.
--
-- shows   a projection with a store: its rows, which events it has seen, and how far it is are
--         written in one transaction, so that a row is right whatever is delivered again
-- run     it is required by the others in this folder
-- prints  nothing

local moonbus = require "moonbus"
local events = require "events"

local read_model = {}

local function set_status(status)
  return function(event, tx)
    tx:execute("UPDATE orders SET status = ? WHERE id = ?", status, event.aggregate_id)
  end
end

--- The projection, in a store.
function read_model.projection(store)
  return moonbus.projection("orders", {
    store = store,

    -- Makes its tables, here and wherever a rebuild makes them a second time.
    init = function(tx)
      tx:execute [[CREATE TABLE IF NOT EXISTS orders (
        id TEXT PRIMARY KEY, customer TEXT NOT NULL, status TEXT NOT NULL, total INTEGER NOT NULL)]]
      tx:execute "CREATE INDEX IF NOT EXISTS orders_customer ON orders (customer)"
    end,

    handles = {
      [events.OrderPlaced] = function(event, tx)
        tx:execute("INSERT INTO orders (id, customer, status, total) VALUES (?, ?, 'placed', ?)",
          event.aggregate_id, event.customer, event.total)
      end,
      [events.OrderPaid] = set_status "paid",
      [events.OrderShipped] = set_status "shipped",
      [events.OrderCancelled] = set_status "cancelled",
    },
  })
end

--- The rows of a query of the read model, for those who look at it.
function read_model.query(store, ...)
  return store:transaction(function(tx, ...) return tx:query(...) end, ...)
end

return read_model
