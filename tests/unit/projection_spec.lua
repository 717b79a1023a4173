local moonbus = require "moonbus"
local support = require "tests.support.bus"

local ID = support.uuid(1)
local registry = moonbus.new_registry()
local Placed = moonbus.event("Placed", { aggregate_type = "Order", total = "number" },
  { registry = registry })
local Shipped = moonbus.event("Shipped", { aggregate_type = "Order" }, { registry = registry })
local Other = moonbus.event("Other", { aggregate_type = "Order" }, { registry = registry })

local function totals()
  return moonbus.projection("Totals", {
    sum = 0, shipped = 0,
    handles = {
      [Placed] = function(self, event) self.sum = self.sum + event.total end,
      [Shipped] = function(self, _, context) self.shipped = context end,
    },
    truncate = function(self) self.sum, self.shipped = 0, 0 end,
  })
end

describe("a projection", function()
  it("has its name and its own state", function()
    local projection = totals()
    assert.equal("projection Totals", tostring(projection))
    assert.equal("Totals", projection.name)
    assert.equal(0, projection.sum)
  end)

  it("names the types it handles", function() -- 15
    local kinds = totals():subscribed_to()
    table.sort(kinds, function(a, b) return a.name < b.name end)
    assert.same({ Placed, Shipped }, kinds)
  end)

  it("gives each event to the handler of its type, with the context", function()
    local projection = totals()
    projection:handle(Placed { aggregate_id = ID, total = 5 })
    projection:handle(Placed { aggregate_id = ID, total = 2.5 })
    projection:handle(Shipped { aggregate_id = ID }, "context")
    assert.equal(7.5, projection.sum)
    assert.equal("context", projection.shipped)
  end)

  it("leaves an event it has no handler for alone", function()
    local projection = totals()
    assert.is_nil(projection:handle(Other { aggregate_id = ID }))
    assert.equal(0, projection.sum)
  end)

  it("takes names for types", function()
    local seen
    local projection = moonbus.projection("ByName", {
      handles = { Placed = function(_, event) seen = event end, Unknown = function() end },
    })
    local event = Placed { aggregate_id = ID, total = 1 }
    projection:handle(event)
    assert.equal(event, seen)
    assert.same({ "Placed", "Unknown" }, projection:subscribed_to())
  end)

  it("passes on what its handler returns and raises", function()
    local projection = moonbus.projection("Failing", { handles = {
      [Placed] = function() return nil, "not now" end,
      [Shipped] = function() error({ type = "Broken" }) end,
    } })
    local got, why = projection:handle(Placed { aggregate_id = ID, total = 1 })
    assert.is_nil(got)
    assert.equal("not now", why)
    local ok, raised = pcall(projection.handle, projection, Shipped { aggregate_id = ID })
    assert.is_false(ok)
    assert.equal("Broken", raised.type)
  end)

  it("empties its read model", function()
    local projection = totals()
    projection:handle(Placed { aggregate_id = ID, total = 5 })
    projection:truncate()
    assert.equal(0, projection.sum)
  end)

  it("without truncate has nothing to empty", function()
    moonbus.projection("Plain", { handles = { [Placed] = function() end } }):truncate()
  end)

  it("keeps apart from another of the same kind", function()
    local first, second = totals(), totals()
    first:handle(Placed { aggregate_id = ID, total = 5 })
    assert.equal(0, second.sum)
  end)

  it("is subscribed to all its types at once", function() -- 15
    local bus = support.new { event_registry = registry }
    local projection = totals()
    assert.equal(bus, bus:subscribe_all(projection))
    assert.equal(1, bus:subscriber_count(Placed))
    assert.equal(1, bus:subscriber_count(Shipped))
    assert.equal(2, bus:subscriber_count())
    assert.is_true(bus:unsubscribe(Placed, projection))
    support.close()
  end)
end)

describe("declaring a projection", function()
  local function raises(text, ...)
    local arguments = { ... }
    local line
    local ok, why = pcall(function()
      line = debug.getinfo(1, "l").currentline + 1
      local made = moonbus.projection(unpack(arguments, 1, 2))
      return made
    end)
    assert.is_false(ok)
    assert.matches(text, why, 1, true)
    assert.matches(("projection_spec.lua:%d: "):format(line), why, 1, true)
  end

  it("needs a name", function()
    raises("needs a name", nil, {})
    raises("needs a name", "", {})
  end)

  it("needs handlers", function()
    raises("P: handles", "P")
    raises("P: handles", "P", {})
    raises("P: handles", "P", { handles = {} })
    raises("P: handles", "P", { handles = print })
  end)

  it("refuses keys that are no event types and handlers that are no functions", function()
    raises("P: the keys of handles", "P", { handles = { print } })
    raises("P: the keys of handles", "P", { handles = { [{}] = print } })
    raises("P: the handler of event type Placed", "P", { handles = { [Placed] = "x" } })
    raises("P: truncate", "P", { handles = { [Placed] = print }, truncate = "x" })
  end)

  it("with a store refuses what does not go with one", function()
    local store = moonbus.stores.sqlite { path = "/nowhere/model.db" }
    local function with(more)
      local spec = { store = store, handles = { [Placed] = print } }
      for key, value in pairs(more) do spec[key] = value end
      return spec
    end
    raises('P: with a store there is no "sum"', "P", with { sum = 0 })
    raises("P: init: expected a function", "P", with { init = "CREATE TABLE" })
    raises("P: truncate is no function", "P", with { truncate = "x" })
    raises("P: ttl: expected seconds above 0", "P", with { ttl = 0 })
    raises("P: store: expected one of moonbus.stores", "P", with { store = "x" })
    raises("P: store: moonbus.stores.sqlite or", "P", with { store = moonbus.stores.memory() })
    raises("P: the keys of handles", "P", with { handles = { print } })
    local made = moonbus.projection("P", with {})
    assert.equal("projection P", tostring(made))
    assert.same({ Placed }, made:subscribed_to())
  end)
end)
