local moonbus = require "moonbus"
local process = require "tests.support.process"
local stores = require "tests.support.stores"
local support = require "tests.support.bus"
local tmp = require "tests.support.tmp"
local wait = require "tests.support.wait"

local registry = moonbus.new_registry()
local Paid = moonbus.event("Paid", { aggregate_type = "Account", n = "integer" },
  { registry = registry })

local ACCOUNTS, EVENTS = 40, 2000
local TENANT = support.uuid(77)

local bus
local consumed, published = 0, 0

local function settled() wait.settled(bus, consumed) end

local function paid(n, more)
  local fields = { aggregate_id = support.uuid(n % ACCOUNTS), n = n }
  for key, value in pairs(more or {}) do fields[key] = value end
  return Paid(fields)
end

-- So many more events, each of them twice.
local function publish(count)
  local list = {}
  for i = 1, count do list[i] = paid(published + i) end
  published, consumed = published + count, consumed + 2 * count
  assert(bus:publish(list))
  assert(bus:publish(list))
end

local db = stores.share(function()
  bus = support.bus { event_registry = registry, partitions = 3, max_retries = 2,
                      retry_base_delay = 0.001 }
  support.consume(bus)
  publish(EVENTS)
  assert(bus:publish(paid(-1, { tenant_id = TENANT })))
  consumed = consumed + 1
  settled()
  return bus
end)
local keep = db.keep

local function init(tx)
  tx:execute [[CREATE TABLE IF NOT EXISTS accounts (id TEXT PRIMARY KEY, balance BIGINT NOT NULL,
    payments INTEGER NOT NULL, last BIGINT NOT NULL)]]
  tx:execute "CREATE INDEX IF NOT EXISTS accounts_balance ON accounts (balance)"
end

-- Adds up, and would not stand an event out of its key's order.
local function apply(event, tx)
  local row = tx:one("SELECT last FROM accounts WHERE id = ?", event.aggregate_id)
  if row and row.last >= event.n and event.n > 0 then
    return nil, ("%d after %d"):format(event.n, row.last)
  end
  tx:execute([[INSERT INTO accounts VALUES (?, ?, 1, ?) ON CONFLICT (id) DO UPDATE SET
    balance = accounts.balance + excluded.balance, payments = accounts.payments + 1,
    last = excluded.last]], event.aggregate_id, event.n, event.n)
end

local function refusal(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  return err
end

local function both(make)
  local store

  before_each(function() store = make() end)

  local function projection(more)
    local spec = { store = store, handles = { [Paid] = apply }, init = init }
    for key, value in pairs(more or {}) do spec[key] = value or nil end
    return moonbus.projection("accounts", spec)
  end

  -- One whose tables are made elsewhere.
  local function in_place(handler)
    store:transaction(init)
    return projection { init = false, handles = { [Paid] = handler or apply },
      truncate = function(tx) tx:execute "DELETE FROM accounts" end }
  end

  local function one(text, ...)
    return store:transaction(function(tx, ...) return tx:one(text, ...) end, ...)
  end

  local function totals(into)
    local row = one [[SELECT coalesce(sum(payments), 0) AS n, coalesce(sum(balance), 0) AS s
      FROM accounts]]
    if into then into[#into + 1] = row.n end
    return row.n, row.s
  end

  -- All that was published is in the read model, once.
  local function whole(less)
    local n, sum = totals()
    assert.equal(published + 1 - (less or 0), n)
    assert.equal(published * (published + 1) / 2 - 1, sum)
    local row = one([[SELECT sum(position) AS p, sum(applied) AS a FROM moonbus_positions]])
    assert.equal(consumed, row.p)
    assert.equal(consumed, row.a)
    assert.equal(n, one "SELECT count(*) AS n FROM moonbus_marks".n)
  end

  it("of a topic that does not hold all it was made from wants to be told so", function()
    local of = projection()
    assert(bus:rebuild(of))
    local other = support.bus { event_registry = registry }
    local _, err, code = other:rebuild(of)
    assert.equal("ETOPIC", code)
    assert.matches("holds events of " .. bus.config.topic_name .. "; they would be gone", err, 1,
      true)
    whole()
    store:transaction(function(tx)
      tx:execute "UPDATE moonbus_positions SET applied = applied + 1000000 WHERE part = 1"
    end)
    err, code = select(2, bus:rebuild(of))
    assert.equal("ETOPIC", code)
    assert.matches("was created again: the read model has events up to 100%d+; ", err)
    assert.matches("%-%-partial", err)
    assert(bus:rebuild(of, { partial = true }))
    whole()
    assert(bus:rebuild(of))
  end)

  it("makes a read model that never was there", function()
    local result = assert(bus:rebuild(projection()))
    assert.equal(consumed, result.events)
    assert.equal(published + 1, result.applied)
    assert.is_false(result.stopped)
    whole()
  end)

  it("puts right what an earlier handler did, and leaves other tables and marks alone", function()
    init(store:enter()); store:leave()
    store:transaction(function(tx)
      tx:execute "CREATE TABLE others (n INTEGER)"
      tx:execute "INSERT INTO others VALUES (7)"
    end)
    store:enter(); store:mark("g", "h", "e"); store:leave()
    local of = projection()
    for n = 1, 3 do of:handle(paid(n, { event_id = support.uuid(n) })) end
    store:transaction(function(tx) tx:execute "UPDATE accounts SET balance = 1000000" end)
    assert(bus:rebuild(of))
    assert.is_true(store:marked("g", "h", "e"))
    store:transaction(function(tx) tx:execute "DELETE FROM moonbus_marks WHERE event_id = 'e'" end)
    assert.equal(7, one "SELECT n FROM others".n)
    whole()
  end)

  it("loses and doubles nothing of what is published and applied meanwhile", function()
    local of = projection()
    bus:subscribe_all(of)
    publish(100)
    settled()
    assert.equal(100, (totals()))
    local seen, rounds = {}, 0
    assert(bus:rebuild(of, { on_progress = function()
      rounds = rounds + 1
      totals(seen)
      if rounds <= 12 then publish(25) end
    end }))
    assert.is_true(rounds >= 2)
    -- readers saw the old one, and what the live worker added to it
    assert.equal(100, seen[1])
    for i = 2, #seen do assert.is_true(seen[i] >= seen[i - 1] and seen[i] <= 100 + 25 * rounds) end
    publish(50)
    settled()
    whole()
  end)

  it("reads once more, with the others kept out, what they applied since it last looked", function()
    local of, live = projection(), true
    bus:subscribe_all(of)
    local second = require("moonbus.store.second_" .. store.kind)
    local open = second.open
    second.open = function(...)
      local place = open(...)
      local hold = place.hold
      function place.hold(self)
        if live then
          live = false
          publish(30)
          settled()
        end
        return hold(self)
      end
      return place
    end
    local ok, result = pcall(bus.rebuild, bus, of)
    second.open = open
    assert.is_true(ok, result)
    assert.is_false(live)
    assert.is_true(result.events >= consumed)
    whole()
  end)

  it("fails with a handler: nothing has changed then, and such events can be left out", function()
    local of = projection()
    of:handle(paid(0))
    local tries = 0
    of.handles[Paid] = function(event, tx)
      if event.n == 500 then
        tries = tries + 1
        error "this one"
      end
      return apply(event, tx)
    end
    local result, err, code = bus:rebuild(of)
    assert.is_nil(result)
    assert.equal("ESCRIPT", code)
    assert.matches("^ESCRIPT: spec.*%[%d%] offset %d+: Paid: .*this one; fix what fails, or leave "
      .. "such events out .*; the read model is as it was$", err)
    assert.equal(3, tries)
    assert.equal(1, (totals()))
    result = assert(bus:rebuild(of, { skip_failed = true }))
    assert.equal(2, #result.skipped) -- it was published twice
    assert.matches("this one", result.skipped[1].reason)
    assert.equal(published, (totals()))
  end)

  it("goes on after what was repaired meanwhile", function()
    local of, failures, retries = projection(), 0, 0
    of.handles[Paid] = function(event, tx)
      if event.n == 700 and failures < 2 then
        failures = failures + 1
        return nil, "not yet"
      end
      return apply(event, tx)
    end
    assert(bus:rebuild(of, { on_retry = function(why, seconds)
      assert.matches("Paid: not yet", why)
      assert.is_true(seconds > 0)
      retries = retries + 1
    end }))
    assert.equal(2, retries)
    whole()
  end)

  it("is refused while another one is under way", function()
    local of, err = projection(), nil
    assert(bus:rebuild(of, { on_progress = function()
      if not err then err = select(2, bus:rebuild(of)) end
    end }))
    assert.matches("^ESTORE: projection accounts is being rebuilt already", err)
    whole()
  end)

  it("leaves nothing but the read model", function()
    bus:rebuild(projection { handles = { [Paid] = function() error "no" end } })
    assert(bus:rebuild(projection()))
    assert(bus:rebuild(projection()))
    assert.equal(3, one "SELECT count(*) AS n FROM moonbus_positions".n)
    assert.equal(1, one "SELECT count(*) AS n FROM moonbus_handlers".n)
    whole()
  end)

  it("knows which tenants the projection was subscribed to", function()
    local of = projection()
    bus:subscribe_all(of, { tenant_id = "{" .. TENANT:upper() .. "}" })
    assert(bus:rebuild(of))
    assert.equal(1, (totals()))
    bus:clear_subscribers()
    bus:subscribe_all(of, { tenant_id = false })
    assert(bus:rebuild(of))
    assert.equal(published, (totals()))
  end)

  it("in place empties the read model first, and leaves live events to itself", function()
    local of = in_place()
    bus:subscribe_all(of)
    publish(100)
    settled()
    local seen, rounds = {}, 0
    local result = assert(bus:rebuild(of, { on_progress = function()
      rounds = rounds + 1
      totals(seen)
      if rounds <= 12 then publish(25) end
    end }))
    assert.is_true(result.in_place)
    for i = 2, #seen do assert.is_true(seen[i] >= seen[i - 1]) end
    publish(50)
    settled()
    whole()
  end)

  it("in place that broke off can be run again; until then events wait for it", function()
    local broken = true
    local of = in_place(function(event, tx)
      if broken and event.n == 900 then error "broken" end
      return apply(event, tx)
    end)
    bus:subscribe_all(of)
    local _, err = bus:rebuild(of)
    assert.matches("the read model is incomplete until a rebuild is finished$", err)
    local before = totals()
    publish(50)
    settled()
    assert.equal(before, (totals()))
    assert.matches("is being rebuilt in place", refusal(of.handle, of, paid(1)))
    broken = false
    assert(bus:rebuild(of))
    publish(50)
    settled()
    whole()
  end)

  it("refuses what it cannot do", function()
    local of = projection()
    assert.matches("a projection with a store", refusal(bus.rebuild, bus, {}))
    assert.matches('no option "inplace"', refusal(bus.rebuild, bus, of, { inplace = true }))
    assert.matches("partial: expected a boolean", refusal(bus.rebuild, bus, of, { partial = 1 }))
    assert.matches("it has no truncate", refusal(bus.rebuild, bus, of, { in_place = true }))
    assert.matches("it has no init", refusal(bus.rebuild, bus, projection { init = false }))
    assert.matches("^ESTATE: the bus is not connected",
      (refusal(bus.rebuild, support.new { event_registry = registry }, of):gsub("^.-:%d+: ", "")))
  end)
end

describe("rebuilding on SQLite", function()
  local path
  before_each(function() path = ("%s/%s.db"):format(db.dir, moonbus.uuid()) end)

  local function make() return keep(moonbus.stores.sqlite { path = path }) end

  both(make)

  local function left()
    local pipe = io.popen("ls " .. db.dir)
    local names = pipe:read "*a"
    pipe:close()
    return names:match "[^\n]*rebuild[^\n]*"
  end

  it("leaves no file behind, and takes away what a killed one left", function()
    local store = make()
    local of = moonbus.projection("a/b c", { store = store, init = init,
      handles = { [Paid] = apply } })
    local script = tmp.file("half.lua", [[
      local moonbus = require "moonbus"
      local store = moonbus.stores.sqlite { path = ... }
      local of = moonbus.projection("a/b c", { store = store, handles = { X = function() end },
        init = function(tx) tx:execute "CREATE TABLE half (n)" end })
      require "moonbus.store.second_sqlite".open(of)
      require("ffi").cdef "int kill(int, int); int getpid(void);"
      require("ffi").C.kill(require("ffi").C.getpid(), 9)
    ]])
    process.run { "luajit", script, path }
    assert.is_truthy(left())
    assert(bus:rebuild(of))
    assert.is_nil(left())
    assert.equal(published + 1, store:transaction(function(tx)
      return tx:one "SELECT sum(payments) AS n FROM accounts".n
    end))
  end)

  it("makes indexes, views and ids that are given once go on", function()
    local store = make()
    local of = moonbus.projection("all", { store = store, init = function(tx)
      tx:execute [[CREATE TABLE IF NOT EXISTS "odd ""name" (id INTEGER PRIMARY KEY AUTOINCREMENT,
        n INTEGER, twice INTEGER GENERATED ALWAYS AS (2 * n) STORED)]]
      tx:execute [[CREATE UNIQUE INDEX IF NOT EXISTS odd ON "odd ""name" (n)]]
      tx:execute [[CREATE VIEW IF NOT EXISTS sums AS SELECT sum(twice) AS s FROM "odd ""name"]]
    end, handles = { [Paid] = function(event, tx)
      tx:execute([[INSERT INTO "odd ""name" (n) VALUES (?)]], event.n)
    end } })
    for _ = 1, 2 do
      assert(bus:rebuild(of))
      store:transaction(function(tx)
        assert.equal(published * (published + 1) - 2, tx:one "SELECT s FROM sums".s)
        tx:execute [[DELETE FROM "odd ""name" WHERE n > 0]]
        tx:execute [[INSERT INTO "odd ""name" (n) VALUES (0)]]
        assert.equal(published + 2, tx:one [[SELECT max(id) AS id FROM "odd ""name"]].id)
        assert.equal(1, tx:one "SELECT count(*) AS n FROM sqlite_master WHERE name = 'odd'".n)
      end)
    end
  end)

  it("makes what has a name in capitals", function()
    local store = make()
    local of = moonbus.projection("capitals", { store = store, init = function(tx)
      tx:execute "CREATE TABLE IF NOT EXISTS PAYMENTS (N INTEGER)"
      tx:execute "CREATE INDEX IF NOT EXISTS BY_N ON PAYMENTS (N)"
      tx:execute "CREATE UNIQUE INDEX IF NOT EXISTS ONCE ON PAYMENTS (N)"
      tx:execute "CREATE VIEW IF NOT EXISTS TOTAL AS SELECT sum(N) AS s FROM PAYMENTS"
    end, handles = { [Paid] = function(event, tx)
      tx:execute("INSERT INTO PAYMENTS VALUES (?)", event.n)
    end } })
    assert(bus:rebuild(of))
    store:transaction(function(tx)
      assert.equal(published * (published + 1) / 2 - 1, tx:one "SELECT s FROM TOTAL".s)
      assert.equal(4, tx:one([[SELECT count(*) AS n FROM sqlite_master
        WHERE name IN ('PAYMENTS', 'BY_N', 'ONCE', 'TOTAL')]]).n)
    end)
  end)

  it("fails for a handler that needs a table its init does not make", function()
    local store = make()
    store:transaction(function(tx) tx:execute "CREATE TABLE elsewhere (n INTEGER)" end)
    local of = moonbus.projection("x", { store = store, init = init,
      handles = { [Paid] = function(_, tx) tx:execute "INSERT INTO elsewhere VALUES (1)" end } })
    assert.matches("no such table: elsewhere", select(2, bus:rebuild(of)))
    assert.is_nil(left())
  end)

  it("of a topic whose beginning is gone wants to be told so", function()
    local Big = moonbus.event("Big", { aggregate_type = "Big", pad = "string" },
      { registry = registry })
    local own = support.bus { event_registry = registry, partitions = 1, compression_type = "none" }
    local list = {}
    for i = 1, 70 do
      list[i] = Big { aggregate_id = support.uuid(i), pad = ("x"):rep(100000) }
    end
    assert(own:publish(list)) -- the embedded broker keeps 5 MiB
    local store, count = make(), 0
    local of = moonbus.projection("big", { store = store, init = init,
      handles = { [Big] = function() count = count + 1 end } })
    local _, err, code = own:rebuild(of)
    assert.equal("ETOPIC", code)
    assert.matches("begins at offset %d+: events before that are gone.*%-%-partial", err)
    assert.equal(0, count)
    assert(own:rebuild(of, { partial = true }))
    assert.is_true(count > 40 and count < 70)
    registry:remove "Big"
  end)

  it("refuses a database in memory", function()
    local of = moonbus.projection("x", { store = moonbus.stores.sqlite { path = ":memory:" },
      init = init, handles = { [Paid] = apply } })
    assert.matches("^ESTORE: a database in memory", select(2, bus:rebuild(of)))
  end)

  it("tries again when the file is locked at the end", function()
    local store = make()
    local of = moonbus.projection("accounts", { store = store, init = init,
      handles = { [Paid] = apply } })
    of:handle(paid(0))
    local other = keep(moonbus.stores.sqlite { path = path })
    store:close()
    store.options.busy_timeout_ms = 50
    local locked, retries = nil, 0
    assert(bus:rebuild(of, { on_progress = function()
      if locked == nil then
        locked = true
        other:enter()
      end
    end, on_retry = function(why)
      retries = retries + 1
      assert.matches("locked", why)
      if locked then other:undo() end
      locked = false
    end }))
    assert.is_true(retries >= 1)
    assert.equal(published + 1, store:transaction(function(tx)
      return tx:one "SELECT sum(payments) AS n FROM accounts".n
    end))
  end)

  it("stops at a disk that is full, and the read model is as it was", function()
    local store = make()
    local of = moonbus.projection("accounts", { store = store, init = function(tx)
      init(tx)
      tx:execute "PRAGMA max_page_count = 30"
    end, handles = { [Paid] = apply } })
    of:handle(paid(0))
    local _, err, code = bus:rebuild(of)
    assert.equal("ESTORE", code)
    assert.matches("is full.*make room; the read model is as it was$", err)
    assert.is_nil(left())
    assert.equal(1, store:transaction(function(tx)
      return tx:one "SELECT sum(payments) AS n FROM accounts".n
    end))
  end)
end)

describe("rebuilding on PostgreSQL", function()
  local made = 0
  local schema

  local function make()
    return keep(moonbus.stores.postgres {
      dsn = ("%s options=-csearch_path=%s"):format(db.server.dsn, schema),
    })
  end

  before_each(function()
    made = made + 1
    schema = "model_" .. made
    db.server:sql("CREATE SCHEMA " .. schema)
  end)

  both(make)

  local function schemas()
    return db.server:sql "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'moonbus_rebuild%'"
  end

  it("keeps the rights of others, and moves views and sequences", function()
    local store = make()
    db.server:sql "DROP ROLE IF EXISTS reader; CREATE ROLE reader"
    local of = moonbus.projection("all", { store = store, init = function(tx)
      tx:execute "CREATE SEQUENCE IF NOT EXISTS numbers START 100"
      tx:execute [[CREATE TABLE IF NOT EXISTS things (id SERIAL PRIMARY KEY,
        number INTEGER DEFAULT nextval('numbers'), n INTEGER)]]
      if not tx:one("SELECT 1 AS it FROM pg_views WHERE viewname = 'sums' AND schemaname = "
        .. "current_schema()") then
        tx:execute "CREATE VIEW sums AS SELECT sum(n) AS s FROM things"
      end
    end, handles = { [Paid] = function(event, tx)
      tx:execute("INSERT INTO things (n) VALUES (?)", event.n)
    end } })
    of:handle(paid(1))
    db.server:sql(("GRANT SELECT ON %s.things, %s.sums TO reader"):format(schema, schema))
    for _ = 1, 2 do
      assert(bus:rebuild(of))
      assert.equal("t|t|f", db.server:sql(([[SELECT
        has_table_privilege('reader', '%s.things', 'SELECT'),
        has_table_privilege('reader', '%s.sums', 'SELECT'),
        has_table_privilege('reader', '%s.things', 'INSERT')]]):format(schema, schema, schema)))
      assert.equal(("%d|%d"):format(published + 1, published + 100), db.server:sql((
        "SELECT count(*), max(number) FROM %s.things"):format(schema)))
      assert.equal(("%d"):format(published * (published + 1) / 2 - 1),
        db.server:sql(("SELECT s FROM %s.sums"):format(schema)))
    end
    assert.equal("0", schemas())
  end)

  it("fails for a handler that writes to a table its init does not make", function()
    local store = make()
    store:transaction(function(tx) tx:execute "CREATE TABLE elsewhere (n INTEGER)" end)
    local of = moonbus.projection("x", { store = store, init = init,
      handles = { [Paid] = function(_, tx) tx:execute "INSERT INTO elsewhere VALUES (1)" end } })
    assert.matches("writes to model_%d+.elsewhere, which its init does not make",
      select(2, bus:rebuild(of)))
    assert.equal("0", db.server:sql(("SELECT count(*) FROM %s.elsewhere"):format(schema)))
    assert.equal("0", schemas())
  end)

  it("changes nothing when something else depends on a table", function()
    local store = make()
    local of = moonbus.projection("x", { store = store, init = init, handles = { [Paid] = apply } })
    of:handle(paid(1))
    db.server:sql(("CREATE VIEW %s.theirs AS SELECT * FROM %s.accounts"):format(schema, schema))
    assert.matches("theirs depends on.*; the read model is as it was$", select(2, bus:rebuild(of)))
    assert.equal("1", db.server:sql(("SELECT count(*) FROM %s.theirs"):format(schema)))
    assert.equal("0", schemas())
  end)

  it("waits a moment for a rebuild that is just ending", function()
    local of = moonbus.projection("accounts", { store = make(), init = init,
      handles = { [Paid] = apply } })
    local lock = "(7232618, hashtext('accounts'))"
    local other = db.server:sql_later(("SELECT pg_advisory_lock%s; SELECT pg_sleep(0.2); "
      .. "SELECT pg_advisory_unlock%s"):format(lock, lock))
    wait.till(function()
      return db.server:sql "SELECT count(*) FROM pg_locks WHERE classid = 7232618" == "1"
    end, "the lock of the other")
    assert(bus:rebuild(of))
    other:wait()
  end)

  it("goes on after its connection was lost, and after a restart of the server", function()
    local store = make()
    local of = moonbus.projection("accounts", { store = store, init = init,
      handles = { [Paid] = apply } })
    local rounds, restarted = 0, false
    assert(bus:rebuild(of, { on_progress = function()
      rounds = rounds + 1
      if rounds == 1 then db.server:cut() end
      if rounds == 2 then
        db.server:down("KILL")
        db.server:up()
        restarted = true
      end
    end }))
    assert.is_true(restarted and rounds > 2)
    assert.equal(tostring(published + 1), db.server:sql((
      "SELECT sum(payments) FROM %s.accounts"):format(schema)))
  end)
end)
