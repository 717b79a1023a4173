local moonbus = require "moonbus"
local process = require "tests.support.process"
local stores = require "tests.support.stores"
local support = require "tests.support.bus"
local tmp = require "tests.support.tmp"
local wait = require "tests.support.wait"

local registry = moonbus.new_registry()
local Paid = moonbus.event("Paid", { aggregate_type = "Account", n = "integer" },
  { registry = registry })

local OPTIONS = { event_registry = registry, partitions = 1, max_retries = 2 }

local bus, lines, second
local epoch = 0 -- of the event ids: each test has its own
local consumed = {} -- bus -> before the test

local db = stores.share(function()
  bus, lines = support.bus(OPTIONS)
  second = support.bus(OPTIONS)
  support.consume(bus, second)
  return bus, second
end)
local keep = db.keep

before_each(function()
  epoch = epoch + 1
  for _, each in ipairs { bus, second } do
    local stats = each:get_stats_dict()
    consumed[each] = stats.events_consumed
  end
end)

after_each(function()
  for i in ipairs(lines) do lines[i] = nil end
end)

local function id_of(n)
  return support.uuid(epoch * 10000 + n)
end

-- An event of that number; the same id for the same number.
local function paid(n)
  return Paid { aggregate_id = support.uuid(n), event_id = id_of(n), n = n }
end

local function publish(numbers, to)
  local events = {}
  for i, n in ipairs(numbers) do events[i] = paid(n) end
  assert((to or bus):publish(events))
end

-- All that was published in the test, so many, is settled.
local function settled(count, on)
  wait.settled(on or bus, consumed[on or bus] + count)
end

-- How many of the bus's dead letters there are more than before; their list.
local function letters()
  local list = {}
  for _, letter in ipairs(assert(bus:get_dlq_messages())) do
    local n = letter.payload.event_id
    for i = 1, 1000 do
      if n == id_of(i) then list[#list + 1] = letter end
    end
  end
  return list
end

-- For tests in which events are read again: those of earlier tests must not be among them.
local function with_own_bus(body)
  return function()
    local shared, shared_lines = bus, lines
    bus, lines = support.bus(OPTIONS)
    consumed[bus] = 0
    support.consume(bus)
    local ok, err = pcall(body)
    bus:disconnect()
    bus, lines = shared, shared_lines
    if not ok then error(err, 0) end
  end
end

local function range(first, last)
  local list = {}
  for n = first, last do list[#list + 1] = n end
  return list
end

-- ---- on both databases ----

local EFFECTS = "CREATE TABLE IF NOT EXISTS effects (n INTEGER, run TEXT)"

local function both(make)
  local store

  before_each(function()
    store = make()
    store:transaction(function(tx)
      tx:execute "DROP TABLE IF EXISTS effects"
      tx:execute(EFFECTS)
    end)
  end)

  -- The numbers whose effect is there, sorted, with repeats.
  local function effects()
    local list = store:transaction(function(tx)
      return tx:query "SELECT n FROM effects ORDER BY n"
    end)
    for i, row in ipairs(list) do list[i] = row.n end
    return list
  end

  local function insert(event, tx)
    tx:execute("INSERT INTO effects (n) VALUES (?)", event.n)
  end

  it("keep the effect of each event once, however often it comes", function()
    local runs = 0
    bus:subscribe(Paid, moonbus.idempotent(function(event, tx, ctx)
      runs = runs + 1
      assert.equal("Paid", ctx.event_type)
      insert(event, tx)
    end, { store = store }))
    publish(range(1, 20))
    publish(range(1, 25))
    settled(45)
    assert.equal(25, runs)
    assert.same(range(1, 25), effects())
    assert.is_true(store:marked(bus.config.consumer_group, "handler", id_of(3)))
  end)

  it("undo what a failed run did, alone", function()
    local failures = 0
    bus:subscribe(Paid, moonbus.idempotent(function(event, tx)
      insert(event, tx)
      if event.n == 5 and failures < 2 then
        failures = failures + 1
        error "not yet"
      end
      if event.n == 6 then return nil, "never" end
      if event.n == 7 then moonbus.dead "no good" end
    end, { store = store }))
    publish(range(1, 10))
    settled(10)
    assert.same({ 1, 2, 3, 4, 5, 8, 9, 10 }, effects())
    assert.equal(2, #letters())
    assert.is_false(store:marked(bus.config.consumer_group, "handler", id_of(6)))
  end)

  it("leave in a dead letter where a handler failed", function()
    bus:subscribe(Paid, moonbus.idempotent(function() error "here it is" end, { store = store }),
      { max_retries = 0 })
    publish({ 1 })
    settled(1)
    local headers = letters()[1].headers
    assert.matches("_spec.lua:%d+: here it is", headers.dlq_error_message)
    assert.matches("idempotent_spec", headers.dlq_handler)
  end)

  it("fail an event whose handler swallowed an error of the database", function()
    local swallow = true
    bus:subscribe(Paid, moonbus.idempotent(function(event, tx)
      insert(event, tx)
      if event.n == 3 and swallow then
        swallow = false
        pcall(tx.execute, tx, "INSERT INTO nowhere VALUES (1)")
      end
    end, { store = store }))
    publish(range(1, 5))
    settled(5)
    assert.same(range(1, 5), effects())
    assert.equal(1, #support.lines_with(lines, "warn", "nowhere"))
  end)

  it("run apart: one that fails takes nothing from another of the same event", function()
    bus:subscribe(Paid, moonbus.idempotent(insert, { store = store, name = "first" }))
    local tried = 0
    bus:subscribe(Paid, moonbus.idempotent(function(event, tx)
      tried = tried + 1
      tx:execute("INSERT INTO effects (n) VALUES (?)", event.n + 100)
      if tried == 1 then error "once" end
    end, { store = store, name = "second" }))
    publish({ 1 })
    settled(1)
    assert.same({ 1, 101 }, effects())
    assert.equal(2, tried)
  end)

  it("hold no lock once there is nothing to do", function()
    bus:subscribe(Paid, moonbus.idempotent(insert, { store = store }))
    publish(range(1, 3))
    settled(3)
    local other = make { busy_timeout_ms = 1 }
    assert.equal(3, other:transaction(function(tx) return tx:execute "DELETE FROM effects" end))
    assert.is_false(store.open)
  end)

  it("take a key of one's own", function()
    bus:subscribe(Paid, moonbus.idempotent(insert, { store = store, key = function(event)
      return "parity " .. event.n % 2
    end }))
    publish(range(1, 6))
    settled(6)
    assert.same({ 1, 2 }, effects())
  end)

  it("can be called by hand, inside another handler too", function()
    local inner = moonbus.idempotent(insert, { store = store, name = "inner" })
    inner:handle(paid(1))
    inner:handle(paid(1))
    assert.same({ 1 }, effects())
    assert.same({ nil, "no" }, { moonbus.idempotent(function(event, tx)
      insert(event, tx)
      return nil, "no"
    end, { store = store, name = "refuses" }):handle(paid(2)) })
    bus:subscribe(Paid, moonbus.idempotent(function(event, tx)
      inner:handle(event)
      tx:execute("INSERT INTO effects (n) VALUES (?)", event.n + 100)
    end, { store = store, name = "outer" }))
    publish({ 1, 3, 3 })
    settled(3)
    assert.same({ 1, 3, 101, 103 }, effects())
  end)

  it("of two buses on one store do not mix: who waits inside keeps the other out", function()
    local failed = second:get_stats_dict().events_processed_failed
    bus:subscribe(Paid, moonbus.idempotent(function(event, tx)
      insert(event, tx)
      publish({ 2 }, second)
      wait.till(function()
        return second:get_stats_dict().events_processed_failed > failed
      end, "the other bus being refused")
      if event.n == 1 then error "in the end it fails" end
    end, { store = store }), { max_retries = 0 })
    second:subscribe(Paid, moonbus.idempotent(insert, { store = store }), { max_retries = 20 })
    publish { 1 }
    settled(1)
    settled(1, second)
    assert.same({ 2 }, effects())
  end)

  it("lose nothing when the store is closed between two of a step", with_own_bus(function()
    bus:subscribe(Paid, moonbus.idempotent(insert, { store = store }))
    bus:subscribe(Paid, function(event) if event.n == 5 then store:close() end end)
    publish(range(1, 10))
    wait.till(function() return #effects() == 10 end, "the effects")
    assert.same(range(1, 10), effects())
    assert.equal(0, #letters())
  end))

  local function spin(seconds)
    local stop = moonbus.now() + seconds
    repeat until moonbus.now() > stop
  end

  local function with_strict_bus(body)
    local strict = support.bus { event_registry = registry, partitions = 1, max_retries = 0,
                                 guard = "strict", handler_timeout_ms = 200 }
    consumed[strict] = 0
    support.consume(strict)
    local ok, err = pcall(body, strict)
    strict:disconnect()
    if not ok then error(err, 0) end
  end

  it("are undone where a limit ends them, in a transaction by hand too", function()
    local mine = store
    with_strict_bus(function(strict)
      strict:subscribe(Paid, moonbus.idempotent(function(event, tx)
        insert(event, tx)
        if event.n == 2 then spin(5) end
      end, { store = mine }))
      strict:subscribe(Paid, function(event)
        mine:transaction(function(tx)
          tx:execute("INSERT INTO effects (n) VALUES (?)", 10 + event.n)
          if event.n == 3 then mine:transaction(function() spin(5) end) end
        end)
      end)
      publish(range(1, 4), strict)
      settled(4, strict)
    end)
    assert.equal(0, mine.depth)
    store = make() -- sees what was committed
    assert.same({ 1, 3, 4, 11, 12, 14 }, effects())
  end)

  it("go on after one that a limit ended while its transaction began", function()
    local kept, slow = store.kept, true
    local execute = kept.execute
    function kept.execute(self, text, ...)
      local changed = execute(self, text, ...)
      if slow and text == store.dialect.begin then
        slow = false
        spin(5)
      end
      return changed
    end
    local mine = store
    with_strict_bus(function(strict)
      strict:subscribe(Paid, moonbus.idempotent(insert, { store = mine }))
      publish(range(1, 4), strict)
      settled(4, strict)
    end)
    assert.is_false(slow)
    store = make()
    assert.same({ 2, 3, 4 }, effects())
  end)
end

describe("idempotent handlers on SQLite", function()
  local path
  before_each(function() path = ("%s/%s.db"):format(db.dir, moonbus.uuid()) end)
  both(function(options)
    return keep(moonbus.stores.sqlite { path = path, busy_timeout_ms = options
      and options.busy_timeout_ms })
  end)
end)

describe("idempotent handlers on PostgreSQL", function()
  local function make(options)
    return keep(moonbus.stores.postgres { dsn = db.server.dsn, busy_timeout_ms = options
      and options.busy_timeout_ms })
  end
  both(make)

  local function count(what)
    return tonumber(db.server:sql("SELECT count(*) FROM " .. what))
  end

  local function numbers()
    return db.server:sql "SELECT string_agg(n::text, ' ' ORDER BY n) FROM effects"
  end

  it("share a transaction with the other events of a step, and with each other", function()
    local store = make()
    db.server:sql "DROP TABLE IF EXISTS effects; CREATE TABLE effects (n INTEGER, txid BIGINT)"
    for _, name in ipairs { "one", "two" } do
      bus:subscribe(Paid, moonbus.idempotent(function(event, tx)
        tx:execute("INSERT INTO effects (n, txid) VALUES (?, txid_current())", event.n)
      end, { store = store, name = name }))
    end
    publish(range(1, 200))
    settled(200)
    assert.equal(400, count "effects")
    -- a step is what is there, up to a tenth of a second's work: on a slow machine that is less
    assert.is_true(count "(SELECT DISTINCT txid FROM effects) AS d" <= 100)
    assert.equal(200, count "(SELECT DISTINCT n, txid FROM effects) AS d")
  end)

  it("go one by one after a refused commit: only the culprit fails", with_own_bus(function()
    local store = make()
    db.server:sql [[DROP TABLE IF EXISTS effects;
      CREATE TABLE effects (n INTEGER, u INTEGER UNIQUE DEFERRABLE INITIALLY DEFERRED);
      INSERT INTO effects VALUES (0, 7)]]
    bus:subscribe(Paid, moonbus.idempotent(function(event, tx)
      tx:execute("INSERT INTO effects (n, u) VALUES (?, ?)", event.n, event.n)
    end, { store = store }))
    publish(range(1, 40))
    wait.till(function() return #letters() == 1 end, "the dead letter")
    wait.till(function() return count "effects" == 40 end, function() return numbers() end)
    assert.equal((table.concat(range(0, 40), " "):gsub(" 7 ", " ")), numbers())
    assert.is_true(#support.lines_with(lines, "warn", "are read again") >= 1)
    assert.equal(0, tonumber(db.server:sql("SELECT count(*) FROM moonbus_marks WHERE event_id = '"
      .. id_of(7) .. "'")))
  end))

  it("lose nothing by what the database refuses to another bus", with_own_bus(function()
    local store = make()
    db.server:sql [[DROP TABLE IF EXISTS effects;
      CREATE TABLE effects (n INTEGER, u INTEGER UNIQUE DEFERRABLE INITIALLY DEFERRED);
      INSERT INTO effects VALUES (0, 7)]]
    local function apply(event, tx)
      tx:execute("INSERT INTO effects (n, u) VALUES (?, ?)", event.n, event.n)
    end
    bus:subscribe(Paid, moonbus.idempotent(apply, { store = store }))
    local failed = second:get_stats_dict().events_processed_failed
    bus:subscribe(Paid, function() -- waits with its step's transaction open
      publish({ 7 }, second)
      wait.till(function()
        return second:get_stats_dict().events_processed_failed > failed
      end, "the other bus's failure")
    end)
    second:subscribe(Paid, moonbus.idempotent(apply, { store = store, name = "second" }),
      { max_retries = 0 })
    publish { 1 }
    settled(1)
    settled(1, second)
    assert.equal("0 1", numbers())
  end))

  it("lose nothing when the connection is lost, wherever", with_own_bus(function()
    local store = make()
    db.server:sql "DROP TABLE IF EXISTS effects; CREATE TABLE effects (n INTEGER)"
    local cuts = { [10] = "before", [20] = "after", [60] = "before", [61] = "after" }
    bus:subscribe(Paid, moonbus.idempotent(function(event, tx)
      local cut = cuts[event.n]
      cuts[event.n] = nil
      if cut == "before" then db.server:cut() end
      tx:execute("INSERT INTO effects (n) VALUES (?)", event.n)
      if cut == "after" then db.server:cut() end
    end, { store = store }), { max_retries = 5 })
    publish(range(1, 100))
    wait.till(function() return count "effects" >= 100 end, numbers)
    settled(100)
    assert.equal(table.concat(range(1, 100), " "), numbers())
    assert.equal(0, #letters())
  end))

  it("wait for a server that is down, and lose no event", with_own_bus(function()
    local store = make()
    db.server:sql "DROP TABLE IF EXISTS effects; CREATE TABLE effects (n INTEGER)"
    bus:subscribe(Paid, moonbus.idempotent(function(event, tx)
      tx:execute("INSERT INTO effects (n) VALUES (?)", event.n)
    end, { store = store }), { max_retries = 30 })
    publish(range(1, 5))
    settled(5)
    db.server:down()
    publish(range(6, 15))
    local failed = bus:get_stats_dict().events_processed_failed
    wait.till(function()
      return bus:get_stats_dict().events_processed_failed >= failed + 10
    end, "failures")
    db.server:up()
    wait.till(function() return count "effects" >= 15 end, numbers)
    settled(15)
    assert.equal(table.concat(range(1, 15), " "), numbers())
  end))
end)

describe("idempotent handlers without transactions", function()
  it("run once for each event of a store in memory, again after a failure", function()
    local runs, failed = {}, false
    bus:subscribe(Paid, moonbus.idempotent(function(event, tx, ctx)
      assert.is_nil(tx)
      assert.equal("Paid", ctx.event_type)
      runs[#runs + 1] = event.n
      if event.n == 2 and not failed then
        failed = true
        error "once"
      end
    end, { store = moonbus.stores.memory() }))
    publish({ 1, 2, 3, 1, 3 })
    settled(5)
    table.sort(runs)
    assert.same({ 1, 2, 2, 3 }, runs)
  end)

  it("wait for a claim of somebody else, and take it over when it expires", function()
    local store, runs = moonbus.stores.memory(), 0
    local begun = moonbus.now()
    store:claim(bus.config.consumer_group, "handler", id_of(1), 0.3)
    bus:subscribe(Paid, moonbus.idempotent(function() runs = runs + 1 end, { store = store }))
    publish({ 1 })
    settled(1)
    assert.equal(1, runs)
    assert.is_true(moonbus.now() - begun >= 0.3)
    assert.equal(0, #letters())
  end)

  it("work on a store of one's own", function()
    local calls, done = {}, {}
    local own = {}
    function own.claim(_, scope, handler, id, seconds)
      calls[#calls + 1] = ("claim %s %s %d"):format(scope == bus.config.consumer_group and "group"
        or scope, handler, seconds)
      return done[id] and "done" or "new"
    end
    function own.done(_, _, handler, id, ttl)
      calls[#calls + 1] = ("done %s %d"):format(handler, ttl)
      done[id] = true
    end
    bus:subscribe(Paid, moonbus.idempotent(function() calls[#calls + 1] = "run" end,
      { store = own, name = "mine", ttl = 9, claim_ttl = 7 }))
    publish({ 1, 1 })
    settled(2)
    assert.same({ "claim group mine 7", "run", "done mine 9", "claim group mine 7" }, calls)
  end)

  it("fail while a store of one's own cannot say whether they ran", function()
    local answers, runs = { { nil, "it is away" }, { "claimed" }, { "new" } }, 0
    local asked = 0
    local own = { done = function() end, claim = function()
      asked = asked + 1
      return unpack(answers[asked])
    end }
    bus:subscribe(Paid, moonbus.idempotent(function() runs = runs + 1 end,
      { store = own, claim_ttl = 0.05 }))
    publish { 1 }
    settled(1)
    assert.equal(1, runs)
    assert.equal(1, #support.lines_with(lines, "warn", "got nil, it is away"))
  end)
end)

describe("moonbus.idempotent", function()
  local function refusal(...)
    local ok, err = pcall(...)
    assert.is_false(ok)
    return err
  end

  it("refuses what it cannot work with", function()
    local store = moonbus.stores.memory()
    local function handler() end
    assert.matches("a handler is a function", refusal(moonbus.idempotent, 1, { store = store }))
    assert.matches("store: one of moonbus.stores", refusal(moonbus.idempotent, handler, {}))
    assert.matches("store: one of moonbus.stores", refusal(moonbus.idempotent, handler,
      { store = {} }))
    assert.matches('no option "tll"', refusal(moonbus.idempotent, handler,
      { store = store, tll = 1 }))
    assert.matches("ttl: expected seconds above 0", refusal(moonbus.idempotent, handler,
      { store = store, ttl = 0 }))
  end)

  it("refuses two handlers of one name on one bus, and takes one twice", function()
    local store = moonbus.stores.memory()
    local one = moonbus.idempotent(function() end, { store = store })
    bus:subscribe(Paid, one)
    bus:subscribe("Other", one)
    local other = moonbus.idempotent(function() end, { store = store })
    assert.matches('both called "handler"; give each a name',
      refusal(bus.subscribe, bus, Paid, other))
    bus:subscribe(Paid, moonbus.idempotent(function() end, { store = store, name = "other" }))
    assert.is_true(bus:unsubscribe(Paid, one))
    assert.is_true(bus:unsubscribe("Other", one))
    bus:subscribe(Paid, other)
  end)

  it("takes objects, and projections as subscribe_all does", function()
    local store = moonbus.stores.memory()
    local seen = {}
    bus:subscribe_all(moonbus.idempotent({
      name = "object",
      subscribed_to = function() return { Paid } end,
      handle = function(self, event) seen[#seen + 1] = self.name .. event.n end,
    }, { store = store }))
    publish({ 1, 1, 2 })
    settled(3)
    assert.same({ "object1", "object2" }, seen)
  end)

  it("fails an event whose key is no text", function()
    local store = moonbus.stores.memory()
    bus:subscribe(Paid, moonbus.idempotent(function() end, { store = store, name = "keyed",
      key = function() end }), { max_retries = 0 })
    publish({ 1 })
    settled(1)
    assert.matches("keyed: key: expected a string that is not empty, got nil",
      letters()[1].headers.dlq_error_message)
  end)

  it("leaves databases alone when a script is only checked", function()
    local path = db.dir .. "/checked.db"
    local script = tmp.file("checked.lua", ([[
      local moonbus = require "moonbus"
      local store = moonbus.stores.sqlite { path = "%s" }
      store:transaction(function(tx)
        tx:execute "CREATE TABLE orders (id TEXT)"
        assert(#tx:query "SELECT * FROM orders" == 0)
      end)
      local Paid = moonbus.event("Paid", { aggregate_type = "Account" })
      local event, runs = Paid { aggregate_id = moonbus.uuid() }, 0
      local function run(_, tx)
        runs = runs + tx:execute "DELETE FROM orders" + 1
      end
      local handler = moonbus.idempotent(run, { store = store })
      moonbus.bus {}:subscribe(Paid, handler)
      handler:handle(event)
      local model = moonbus.projection("model", { store = store, handles = { [Paid] = run },
        truncate = function(tx) run(nil, tx) end })
      model:handle(event)
      model:truncate()
      assert(runs == 3)
    ]]):format(path))
    local run = process.run(process.moonbus("check", script))
    assert.equal(0, run.code, run.stderr)
    assert.is_nil(io.open(path))
  end)
end)
