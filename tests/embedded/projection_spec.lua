local moonbus = require "moonbus"
local stores = require "tests.support.stores"
local support = require "tests.support.bus"
local wait = require "tests.support.wait"

local registry = moonbus.new_registry()
local Paid = moonbus.event("Paid", { aggregate_type = "Account", n = "integer" },
  { registry = registry })
local Closed = moonbus.event("Closed", { aggregate_type = "Account" }, { registry = registry })
local Other = moonbus.event("Other", { aggregate_type = "Account" }, { registry = registry })

local bus
local consumed = 0 -- by it, once all that was published is settled
local epoch = 0 -- of the event ids: each test has its own

local db = stores.share(function()
  bus = support.bus { event_registry = registry, partitions = 2, max_retries = 2 }
  support.consume(bus)
  return bus
end)
local keep = db.keep

before_each(function() epoch = epoch + 1 end)

local function range(first, last)
  local list = {}
  for n = first, last do list[#list + 1] = n end
  return list
end

local function id_of(n) return support.uuid(epoch * 1000 + n) end

local function paid(n)
  return Paid { aggregate_id = support.uuid(n), event_id = id_of(n), n = n }
end

local function payments(first, last)
  local list = {}
  for n = first, last do list[#list + 1] = paid(n) end
  return list
end

local function publish(...)
  for _, event in ipairs { ... } do
    if event.event_type then event = { event } end
    consumed = consumed + #event
    assert(bus:publish(event))
  end
end

local function settled() wait.settled(bus, consumed) end

local function init(tx)
  tx:execute "CREATE TABLE IF NOT EXISTS accounts (n INTEGER, closed INTEGER)"
end

local handles = {
  [Paid] = function(event, tx)
    tx:execute("INSERT INTO accounts VALUES (?, 0)", event.n)
  end,
  [Closed] = function(_, tx) tx:execute "UPDATE accounts SET closed = closed + 1" end,
}

local function both(make)
  local store

  before_each(function() store = make() end)

  local function projection(more)
    local spec = { store = store, handles = handles, init = init }
    for key, value in pairs(more or {}) do spec[key] = value end
    return moonbus.projection("accounts", spec)
  end

  local function numbers()
    local list = store:transaction(function(tx)
      return tx:query "SELECT n FROM accounts ORDER BY n"
    end)
    for i, row in ipairs(list) do list[i] = row.n end
    return list
  end

  -- The sum of the positions, and of what is after the last that was applied.
  local function positions()
    local row = store:transaction(function(tx)
      return tx:one([[SELECT sum(position) AS position, sum(applied) AS applied
        FROM moonbus_positions p JOIN moonbus_projections o ON o.marks = p.marks
        WHERE o.name = 'accounts' AND topic = ?]], bus.config.topic_name)
    end)
    return row.position, row.applied
  end

  it("keep the effect of each event once, and the position with it", function()
    bus:subscribe_all(projection())
    publish(payments(1, 30), payments(1, 40), Closed { aggregate_id = support.uuid(1) })
    settled()
    assert.same(range(1, 40), numbers())
    local position, applied = positions()
    assert.equal(consumed, position)
    assert.equal(consumed, applied)
    assert.equal(40, store:transaction(function(tx)
      return tx:one "SELECT sum(closed) AS n FROM accounts".n
    end))
  end)

  it("give their handlers the event, the transaction and the context", function()
    local got
    bus:subscribe_all(projection { handles = { Paid = function(event, tx, context)
      got = { event.n, tx:one "SELECT 7 AS it".it, context.event_type }
    end } })
    publish(paid(1))
    settled()
    assert.same({ 1, 7, "Paid" }, got)
  end)

  it("count an event once for the read model, whichever group and bus brings it", function()
    local of = projection()
    bus:subscribe_all(of)
    local from = 500 + 10 * epoch
    publish(payments(from + 1, from + 10))
    settled()
    local second = support.new { event_registry = registry, topic_prefix = bus.config.topic_prefix }
    assert(second:connect())
    second:subscribe_all(of)
    support.consume(second)
    wait.settled(second, consumed)
    -- what other tests published came to it, too
    assert.equal(10, store:transaction(function(tx)
      return tx:one("SELECT count(*) AS n FROM accounts WHERE n > ?", from).n
    end))
    second:disconnect()
  end)

  it("are at their low-water mark while an event waits, with later ones applied", function()
    local failures = 0
    bus:subscribe_all(projection { handles = { [Paid] = function(event, tx)
      tx:execute("INSERT INTO accounts VALUES (?, 0)", event.n)
      if event.n == 1 and failures < 1 then
        failures = failures + 1
        error { type = "NotYet", message = "not yet", moonbus_outcome = "retry", after = 2 }
      end
    end } })
    publish(payments(1, 20))
    wait.till(function() return #numbers() == 19 end, "the others")
    local position, applied = positions()
    assert.is_true(position < applied)
    settled()
    assert.same(range(1, 20), numbers())
    assert.equal(consumed, (positions()))
  end)

  it("go on past a dead letter, and apply it when it is replayed", function()
    local broken = true
    bus:subscribe_all(projection { handles = { [Paid] = function(event, tx)
      if event.n == 3 and broken then moonbus.dead "no good" end
      handles[Paid](event, tx)
    end } })
    publish(payments(1, 5))
    settled()
    assert.same({ 1, 2, 4, 5 }, numbers())
    broken = false
    assert.equal(1, assert(bus:replay_dlq { where = function(letter)
      return letter.payload.event_id == id_of(3)
    end }).replayed)
    consumed = consumed + 1
    settled()
    assert.same(range(1, 5), numbers())
    publish(payments(1, 5)) -- and does not apply it again
    settled()
    assert.same(range(1, 5), numbers())
    assert.equal(consumed, (positions()))
  end)

  it("apply the events of a topic that was recreated, though its offsets are below", function()
    bus:subscribe_all(projection())
    publish(payments(1, 20))
    settled()
    store:transaction(function(tx)
      tx:execute "UPDATE moonbus_positions SET position = 1000000, applied = 1000000"
    end)
    publish(payments(21, 25))
    settled()
    assert.same(range(1, 25), numbers())
    assert.is_true(positions() < 1500000) -- of one of the partitions at least it is true again
  end)

  it("are emptied by truncate, and apply everything again", function()
    local of = projection { truncate = function(tx) tx:execute "DELETE FROM accounts" end }
    of:handle(paid(1))
    of:handle(paid(1))
    of:handle(Other { aggregate_id = support.uuid(1) })
    assert.same({ 1 }, numbers())
    of:truncate()
    assert.same({}, numbers())
    of:handle(paid(1))
    assert.same({ 1 }, numbers())
    assert.has_error(function() projection():truncate() end)
  end)

  it("undo what a failed run did, its mark too", function()
    bus:subscribe_all(projection { handles = { [Paid] = function(event, tx)
      handles[Paid](event, tx)
      if event.n == 2 then return nil, "never" end
    end } })
    publish(payments(1, 3))
    settled()
    assert.same({ 1, 3 }, numbers())
    assert.equal(2, store:transaction(function(tx)
      return tx:one([[SELECT count(*) AS n FROM moonbus_marks m JOIN moonbus_projections p
        ON p.marks = m.handler WHERE p.name = 'accounts' AND event_id IN (?, ?, ?)]],
        id_of(1), id_of(2), id_of(3)).n
    end))
  end)

  it("share a transaction with each other and with idempotent handlers", function()
    bus:subscribe_all(projection())
    bus:subscribe_all(moonbus.projection("second", { store = store, handles = {
      [Paid] = function(event, tx) tx:execute("INSERT INTO accounts VALUES (?, 2)", event.n) end,
    } }))
    bus:subscribe(Paid, moonbus.idempotent(function(event, tx)
      tx:execute("INSERT INTO accounts VALUES (?, 3)", event.n)
    end, { store = store, name = "third" }))
    publish(paid(1), paid(1))
    settled()
    assert.same({ 1, 1, 1 }, numbers())
  end)

  it("refuse two of one name on a bus", function()
    bus:subscribe_all(projection())
    assert.has_error(function() bus:subscribe_all(projection()) end,
      'two projections of one store are both called "accounts"')
  end)
end

describe("projections on SQLite", function()
  both(function()
    return keep(moonbus.stores.sqlite { path = ("%s/%s.db"):format(db.dir, moonbus.uuid()) })
  end)
end)

describe("projections on PostgreSQL", function()
  local made = 0
  both(function()
    made = made + 1
    db.server:sql(("CREATE SCHEMA model_%d"):format(made))
    return keep(moonbus.stores.postgres {
      dsn = ("%s options=-csearch_path=model_%d"):format(db.server.dsn, made),
    })
  end)
end)
