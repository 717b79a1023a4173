-- What happens to an order. Money is in cents.
--
-- shows   event types that several scripts share
-- run     it is required by the others in this folder
-- prints  nothing

local moonbus = require "moonbus"

return {
  OrderPlaced = moonbus.event("OrderPlaced", {
    aggregate_type = "Order",
    customer = "string",
    total = "integer",
  }),

  OrderPaid = moonbus.event("OrderPaid", {
    aggregate_type = "Order",
    amount = "integer",
  }),

  OrderShipped = moonbus.event("OrderShipped", {
    aggregate_type = "Order",
    carrier = "string",
  }),

  OrderCancelled = moonbus.event("OrderCancelled", {
    aggregate_type = "Order",
    reason = "string",
  }),
}
