local moonbus = require "moonbus"
local postgres = require "tests.support.postgres"
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"
local wait = require "tests.support.wait"

local dir, server
local opened = {}

setup(function()
  dir = tmp.dir()
  server = postgres.start()
end)

teardown(function()
  for _, each in ipairs(opened) do each:close() end
  if server then server:down() end
  process.clean()
  tmp.clean()
end)

local function keep(store)
  opened[#opened + 1] = store
  return store
end

local function sqlite(name, options)
  local all = { path = dir .. "/" .. name }
  for key, value in pairs(options or {}) do all[key] = value end
  return keep(moonbus.stores.sqlite(all))
end

local function pg(options)
  local all = { dsn = server.dsn }
  for key, value in pairs(options or {}) do all[key] = value end
  return keep(moonbus.stores.postgres(all))
end

-- The error a function raises.
local function refusal(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  return err
end

local function execute(store, ...)
  return store:transaction(function(tx, ...) return tx:execute(...) end, ...)
end

local function one(store, ...)
  return store:transaction(function(tx, ...) return tx:one(...) end, ...)
end

local function table_of(store, name, columns)
  execute(store, "DROP TABLE IF EXISTS " .. name)
  execute(store, ("CREATE TABLE %s (%s)"):format(name, columns))
end

-- ---- what both databases do ----

local function both(make, kind)
  local store

  setup(function() store = make("both.db") end)

  it("keeps what a transaction did, and returns what its function returns", function()
    table_of(store, "kept", "n INTEGER")
    assert.same({ 1, "two", nil, 4 }, { store:transaction(function(tx, four)
      return tx:execute "INSERT INTO kept VALUES (1)", "two", nil, four
    end, 4) })
    assert.equal(1, one(store, "SELECT count(*) AS n FROM kept").n)
    assert.equal(kind, store.kind)
    assert.is_true(store.transactional)
  end)

  it("keeps nothing of a transaction that raises, and passes the error on", function()
    table_of(store, "raised", "n INTEGER")
    local reason = {}
    assert.equal(reason, refusal(store.transaction, store, function(tx)
      tx:execute "INSERT INTO raised VALUES (1)"
      error(reason)
    end))
    assert.equal(0, one(store, "SELECT count(*) AS n FROM raised").n)
  end)

  it("gives back exactly what was given", function()
    table_of(store, "exact", "i BIGINT, r DOUBLE PRECISION, t TEXT")
    local whole = { 0, 1, -1, 2147483648, -2147483649, 2 ^ 53 - 1, -(2 ^ 53 - 1), 1e15 + 1,
      9007199254740993LL, 9223372036854775807LL, -9223372036854775807LL - 1 }
    for _, value in ipairs(whole) do
      execute(store, "DELETE FROM exact")
      execute(store, "INSERT INTO exact (i) VALUES (?)", value)
      local got = one(store, "SELECT i FROM exact WHERE i = ?", value).i
      assert.equal(tostring(value), tostring(got))
      assert.equal(type(value), type(got))
    end
    for _, value in ipairs { 0.1, 1 / 3, 1e300, -2.5, 5e-324, 123456789.123456789 } do
      execute(store, "DELETE FROM exact")
      execute(store, "INSERT INTO exact (r) VALUES (?)", value)
      assert.equal(value, one(store, "SELECT r FROM exact").r)
    end
    for _, value in ipairs { "", "it's", "a ? b -- c /* d", "é\n\"\\", "i5", "12",
                             ("x"):rep(70000) } do
      execute(store, "DELETE FROM exact")
      execute(store, "INSERT INTO exact (t) VALUES (?)", value)
      assert.equal(value, one(store, "SELECT t FROM exact WHERE t = ?", value).t)
    end
  end)

  it("writes whole numbers as integers, moonbus.float as what it says", function()
    table_of(store, "digits", "t TEXT")
    execute(store, "INSERT INTO digits VALUES (?)", 5)
    assert.equal("5", one(store, "SELECT t FROM digits").t)
    table_of(store, "floats", "r DOUBLE PRECISION")
    execute(store, "INSERT INTO floats VALUES (?)", moonbus.float(7))
    assert.equal(7, one(store, "SELECT r FROM floats").r)
  end)

  it("takes nil and moonbus.null for NULL, and leaves NULLs out of rows", function()
    table_of(store, "nulls", "a INTEGER, b TEXT, c INTEGER")
    execute(store, "INSERT INTO nulls VALUES (?, ?, ?)", nil, moonbus.null, 3)
    execute(store, "INSERT INTO nulls VALUES (?, ?, ?)", 1, "b", nil)
    assert.same({ { c = 3 }, { a = 1, b = "b" } }, store:transaction(function(tx)
      return tx:query "SELECT * FROM nulls ORDER BY coalesce(a, 0)"
    end))
    assert.is_nil(one(store, "SELECT a FROM nulls WHERE a = ?", 99))
  end)

  it("finds placeholders, but not in texts, names and comments", function()
    table_of(store, "marks", [["odd;" TEXT]])
    execute(store, [[INSERT INTO marks ("odd;") VALUES (?)]], "yes")
    assert.equal("yes", one(store, [[
      SELECT "odd;" AS it -- really?
      FROM marks /* is ? it */ WHERE '?' <> ? AND "odd;" = ?;]], "x", "yes").it)
  end)

  it("keeps the order of a query", function()
    table_of(store, "sorted", "n INTEGER")
    execute(store, "INSERT INTO sorted VALUES (3), (1), (2)")
    local list = {}
    for _, row in ipairs(store:transaction(function(tx)
      return tx:query "SELECT n FROM sorted ORDER BY n DESC"
    end)) do list[#list + 1] = row.n end
    assert.same({ 3, 2, 1 }, list)
  end)

  it("tells how many rows changed", function()
    table_of(store, "counted", "n INTEGER UNIQUE")
    assert.equal(3, execute(store, "INSERT INTO counted VALUES (1), (2), (3)"))
    assert.equal(0, execute(store, "INSERT INTO counted VALUES (1) ON CONFLICT DO NOTHING"))
    assert.equal(2, execute(store, "UPDATE counted SET n = n + 10 WHERE n > ?", 1))
    assert.equal(0, execute(store, "SELECT n FROM counted"))
    assert.equal(0, execute(store, "CREATE INDEX counted_n ON counted (n)"))
    assert.equal(1, execute(store, "INSERT INTO counted VALUES (50) RETURNING n"))
  end)

  it("refuses what is not one statement with a value for each question mark", function()
    assert.matches("^ESTORE: .*one statement at a time",
      refusal(execute, store, "SELECT 1; SELECT 2"))
    assert.matches("^ESTORE: .*has 1 placeholders, and 2 values",
      refusal(execute, store, "SELECT ?", 1, 2))
    assert.matches("question marks", refusal(execute, store, "SELECT $1", 1))
    assert.matches("value 1: a table has no place", refusal(execute, store, "SELECT ?", {}))
    assert.matches("the statement is empty", refusal(execute, store, " -- nothing"))
  end)

  it("fails the transaction whose function swallowed an error, and goes on after it", function()
    table_of(store, "swallowed", "n INTEGER")
    local err = refusal(store.transaction, store, function(tx)
      tx:execute "INSERT INTO swallowed VALUES (1)"
      assert.is_false((pcall(tx.execute, tx, "INSERT INTO nowhere VALUES (1)")))
      assert.matches("nowhere", refusal(tx.execute, tx, "INSERT INTO swallowed VALUES (2)"))
    end)
    assert.matches("^ESTORE: .*nowhere", err)
    assert.equal(0, one(store, "SELECT count(*) AS n FROM swallowed").n)
  end)

  it("undoes a part that was tried in a transaction inside", function()
    table_of(store, "tried", "n INTEGER UNIQUE")
    store:transaction(function(tx)
      tx:execute "INSERT INTO tried VALUES (1)"
      assert.matches("^ESTORE", refusal(store.transaction, store, function(inner)
        inner:execute "INSERT INTO tried VALUES (2)"
        inner:execute "INSERT INTO tried VALUES (1)"
      end))
      assert.equal("stays", store:transaction(function(inner)
        inner:execute "INSERT INTO tried VALUES (3)"
        return "stays"
      end))
    end)
    assert.same({ a = 1, b = 3, n = 2 },
      one(store, "SELECT min(n) AS a, max(n) AS b, count(*) AS n FROM tried"))
  end)

  it("gives a tx that is good only while its function runs", function()
    local kept
    store:transaction(function(tx) kept = tx end)
    assert.matches("the transaction is over", refusal(kept.execute, kept, "SELECT 1"))
  end)

  it("keeps working over more texts than it keeps prepared", function()
    table_of(store, "texts", "n INTEGER")
    store:transaction(function(tx)
      for i = 1, 600 do tx:execute(("INSERT INTO texts VALUES (%d)"):format(i)) end
    end)
    assert.equal(600, one(store, "SELECT count(*) AS n FROM texts").n)
  end)

  it("takes many values", function()
    local values, marks = {}, {}
    for i = 1, 90 do values[i], marks[i] = i % 2 == 0 and i or i + 0.5, "?" end
    table_of(store, "wide", "n DOUBLE PRECISION")
    for _ = 1, 2 do
      execute(store, ("INSERT INTO wide VALUES (%s)"):format(table.concat(marks, "), (")),
        unpack(values))
    end
    assert.equal(180, one(store, "SELECT count(*) AS n FROM wide").n)
    assert.equal(2 * (90 * 91 / 2 + 22.5), one(store, "SELECT sum(n) AS s FROM wide").s)
  end)

  it("tells kinds of values apart in a statement with many of them", function()
    local columns, marks, values = {}, {}, {}
    for i = 1, 60 do columns[i], marks[i], values[i] = "c" .. i .. " TEXT", "?", i end
    table_of(store, "kinds", table.concat(columns, ", "))
    local text = ("INSERT INTO kinds VALUES (%s)"):format(table.concat(marks, ", "))
    execute(store, text, unpack(values))
    for i = 1, 60 do
      values[i] = "text"
      execute(store, text, unpack(values))
      values[i] = i
      local texts = one(store, ("SELECT count(*) AS n FROM kinds WHERE c%d = 'text'"):format(i))
      assert.equal(1, texts.n)
    end
  end)

  it("works again after close", function()
    table_of(store, "closed", "n INTEGER")
    store:close()
    assert.equal(1, execute(store, "INSERT INTO closed VALUES (1)"))
  end)

  it("marks an event once for each scope and handler", function()
    local function mark(...)
      store:enter()
      local new = store:mark(...)
      store:leave()
      return new
    end
    assert.is_true(mark("g", "h", "e"))
    assert.is_false(mark("g", "h", "e"))
    assert.is_true(mark("g", "other", "e"))
    assert.is_true(mark("tenant", "h", "e"))
    assert.is_true(mark("g", "h", "f"))
    assert.is_true(store:marked("g", "h", "e"))
    assert.is_false(store:marked("g", "h", "x"))
    store:enter()
    store:mark("g", "h", "undone")
    store:mark("new scope", "h", "undone")
    store:undo()
    assert.is_false(store:marked("g", "h", "undone"))
    assert.is_true(mark("new scope", "h", "undone"))
  end)

  it("sweeps marks that are too old, bit by bit", function()
    local old, ttl = os.time() - 1000000, 100000 -- those of now are not that old for a day
    local function count() return one(store, "SELECT count(*) AS n FROM moonbus_marks").n end
    store:enter()
    store:mark("sweep", "h", "first", ttl)
    local tx = store.tx
    tx:execute "DELETE FROM moonbus_marks"
    local id = tx:one "SELECT id FROM moonbus_handlers WHERE scope = 'sweep'".id
    for i = 1, 3000 do
      tx:execute("INSERT INTO moonbus_marks (handler, event_id, marked_at) VALUES (?, ?, ?)", id,
        moonbus.uuid(), i % 2 == 0 and old or os.time())
    end
    store:leave()
    assert.is_true(count() > 1500)
    local function left()
      return one(store, "SELECT count(*) AS n FROM moonbus_marks WHERE marked_at <= ?", old).n
    end
    local rounds = 0
    repeat
      rounds = rounds + 1
      store:enter()
      for _ = 1, 1000 do store:mark("sweep", "h", moonbus.uuid(), ttl) end
      store:leave()
    until left() == 0 or rounds == 10
    assert.equal(0, left())
    assert.is_true(rounds > 1)
    assert.equal(1500 + 1000 * rounds, count())
  end)

  it("sweeps no marks by the ttl of a handler whose first run was undone", function()
    store:enter()
    store:mark("undone", "short", "e", 1)
    store:undo()
    store:enter() -- on SQLite, this handler's marks get the number that those would have had
    store:mark("undone", "for ever", "e")
    store.tx:execute("UPDATE moonbus_marks SET marked_at = 0 WHERE event_id = 'e'")
    store:leave()
    for _ = 1, 2 do
      store:enter()
      for _ = 1, 1000 do store:mark("undone", "short", moonbus.uuid(), 1e6) end
      store:leave()
    end
    assert.is_true(store:marked("undone", "for ever", "e"))
  end)

  it("makes its tables once, however many start at the same time", function()
    local fresh = make("starts.db")
    fresh:close()
    local script = tmp.file("start.lua", [[
      local moonbus = require "moonbus"
      local kind, where = ...
      local store = kind == "sqlite" and moonbus.stores.sqlite { path = where }
        or moonbus.stores.postgres { dsn = where .. " options=-csearch_path=starts" }
      store:enter()
      store:mark("g", "h", moonbus.uuid())
      store:leave()
    ]])
    if kind == "postgres" then server:sql "CREATE SCHEMA starts" end
    local all = {}
    for i = 1, 6 do
      all[i] = process.start { "luajit", script, kind,
        kind == "sqlite" and dir .. "/many.db" or server.dsn }
    end
    for _, each in ipairs(all) do
      each:wait(60)
      assert.equal("", each.stderr)
      assert.equal(0, each.code)
    end
  end)

  it("brings tables of an older version up to date, and keeps what is in them", function()
    local older = make("older.db")
    older:enter()
    older:mark("g", "h", "kept")
    older.tx:execute "DROP TABLE moonbus_projections"
    older.tx:execute "DROP TABLE moonbus_positions"
    older.tx:execute "UPDATE moonbus_schema SET version = 1"
    older:leave()
    older:close()
    assert.is_true(older:marked("g", "h", "kept"))
    assert.equal(0, one(older, "SELECT count(*) AS n FROM moonbus_positions").n)
    assert.equal(2, one(older, "SELECT version FROM moonbus_schema").version)
  end)

  it("runs what is added while it is connected before its next transaction, once", function()
    local store_on, runs = make("added.db"), 0
    execute(store_on, "SELECT 1")
    store_on:on_connect(function(tx)
      runs = runs + 1
      tx:execute "CREATE TABLE IF NOT EXISTS added_later (n INTEGER)"
    end)
    execute(store_on, "INSERT INTO added_later VALUES (1)")
    execute(store_on, "INSERT INTO added_later VALUES (1)")
    assert.equal(1, runs)
  end)

  it("refuses tables of a newer version", function()
    local newer = make("newer.db")
    execute(newer, "UPDATE moonbus_schema SET version = 1000")
    newer:close()
    assert.matches("ESTORE: .*version 1000, made by a newer moonbus",
      refusal(execute, newer, "SELECT 1"))
    if kind == "postgres" then
      server:sql [[DROP TABLE moonbus_schema, moonbus_handlers, moonbus_marks, moonbus_projections,
        moonbus_positions]]
    end
  end)

  it("runs init whenever it connects, before anything else", function()
    local runs = 0
    local store_with = make("init.db", { init = function(tx)
      runs = runs + 1
      tx:execute "CREATE TABLE IF NOT EXISTS by_init (n INTEGER)"
    end })
    execute(store_with, "INSERT INTO by_init VALUES (1)")
    store_with:close()
    execute(store_with, "INSERT INTO by_init VALUES (1)")
    assert.equal(2, runs)
  end)

  it("passes on what init raises, each time", function()
    local store_with = make("broken.db", { init = function() error("not today", 0) end })
    assert.matches("not today", refusal(execute, store_with, "SELECT 1"))
    assert.matches("not today", refusal(execute, store_with, "SELECT 1"))
  end)
end

describe("a SQLite store", function()
  both(sqlite, "sqlite")

  it("opens nothing before it is used", function()
    local path = dir .. "/untouched.db"
    moonbus.stores.sqlite { path = path }
    assert.is_nil(io.open(path))
  end)

  it("keeps bytes", function()
    local store = sqlite "bytes.db"
    table_of(store, "bytes", "t TEXT, b BLOB")
    execute(store, "INSERT INTO bytes VALUES (?, x'00ff41')", "a\0b")
    assert.same({ t = "a\0b", b = "\0\255A" }, one(store, "SELECT t, b FROM bytes"))
  end)

  it("says so where rows cannot be read exactly", function()
    local store = sqlite "returning.db"
    table_of(store, "r", "n INTEGER")
    assert.matches("RETURNING; change with tx:execute, then read with SELECT",
      refusal(one, store, "INSERT INTO r VALUES (1) RETURNING n"))
  end)

  it("survives a power cut: it waits for the disk", function()
    local store = sqlite "sync.db"
    assert.equal(2, one(store, "SELECT synchronous AS n FROM pragma_synchronous").n)
    assert.equal("wal", one(store, "SELECT journal_mode AS m FROM pragma_journal_mode").m)
  end)

  it("waits for another writer, then says that it is locked", function()
    local one_of = sqlite "locked.db"
    local other = sqlite("locked.db", { busy_timeout_ms = 50 })
    table_of(one_of, "l", "n INTEGER")
    execute(other, "SELECT 1")
    one_of:transaction(function(tx)
      tx:execute "INSERT INTO l VALUES (1)"
      local begun = moonbus.now()
      assert.matches("^ESTORE: sqlite .*locked; another connection writes",
        refusal(execute, other, "INSERT INTO l VALUES (2)"))
      assert.is_true(moonbus.now() - begun >= 0.05)
    end)
    assert.equal(1, execute(other, "INSERT INTO l VALUES (2)"))
  end)

  it("keeps nothing of a transaction for which there is no room, and goes on", function()
    local store = sqlite("full.db", { init = function(tx)
      tx:execute "CREATE TABLE IF NOT EXISTS big (t TEXT)"
      tx:execute "PRAGMA max_page_count = 20"
    end })
    execute(store, "INSERT INTO big VALUES ('small')")
    local err = refusal(store.transaction, store, function(tx)
      for _ = 1, 100 do tx:execute("INSERT INTO big VALUES (?)", ("x"):rep(4000)) end
    end)
    assert.matches("^ESTORE: sqlite .*full.*make room", err)
    assert.equal(1, one(store, "SELECT count(*) AS n FROM big").n)
    assert.equal(1, execute(store, "INSERT INTO big VALUES ('small')"))
  end)

  it("says what is wrong with its file", function()
    assert.matches("ESTORE: sqlite .*unable to open.*folder must exist",
      refusal(execute, sqlite "no/such/folder.db", "SELECT 1"))
    local path = tmp.file("text.db", ("this is no database\n"):rep(100))
    assert.matches("not a database; the file is something else",
      refusal(execute, keep(moonbus.stores.sqlite { path = path }), "SELECT 1"))
  end)

  it("names the Debian package when LuaDBI is not there", function()
    local run = process.run({ "luajit", "-e", [[
      package.preload["dbd.sqlite3"] = function() error "no driver" end
      local moonbus = require "moonbus"
      print(pcall(moonbus.stores.sqlite { path = "/dev/null/x" }.transaction,
        moonbus.stores.sqlite { path = "/dev/null/x" }, function() end))
    ]] })
    assert.matches("ESTORE: .*install the Debian package lua%-dbi%-sqlite3", run.stdout)
  end)
end)

describe("a PostgreSQL store", function()
  both(function(_, options) return pg(options) end, "postgres")

  it("reads what INSERT ... RETURNING gives, booleans and times", function()
    local store = pg()
    table_of(store, "returned", "id BIGINT GENERATED ALWAYS AS IDENTITY, b BOOLEAN, at TIMESTAMPTZ")
    local row = one(store, "INSERT INTO returned (b, at) VALUES (?, ?) RETURNING *", true,
      "2026-01-02T03:04:05Z")
    assert.equal(1, row.id)
    assert.is_true(row.b)
    assert.matches("^2026%-01%-02T03:04:05", row.at)
  end)

  it("connects again when its connection was ended while it was idle", function()
    local store = pg()
    table_of(store, "idle", "n INTEGER")
    server:cut()
    assert.equal(1, execute(store, "INSERT INTO idle VALUES (1)"))
  end)

  it("keeps nothing of a transaction whose connection is lost, and connects again", function()
    local store = pg()
    table_of(store, "lost", "n INTEGER")
    local err = refusal(store.transaction, store, function(tx)
      tx:execute "INSERT INTO lost VALUES (1)"
      server:cut()
      tx:execute "INSERT INTO lost VALUES (2)"
    end)
    assert.matches("^ESTORE: postgres postgres: .*connects again at the next use", err)
    assert.equal(0, one(store, "SELECT count(*) AS n FROM lost").n)
  end)

  it("fails the transaction whose connection is lost before its commit", function()
    local store = pg()
    table_of(store, "late", "n INTEGER")
    assert.matches("connects again at the next use", refusal(store.transaction, store, function(tx)
      tx:execute "INSERT INTO late VALUES (1)"
      server:cut()
    end))
    assert.equal(0, one(store, "SELECT count(*) AS n FROM late").n)
  end)

  it("tells a commit that the database refuses", function()
    local store = pg()
    table_of(store, "deferred", "n INTEGER UNIQUE DEFERRABLE INITIALLY DEFERRED")
    assert.matches("^ESTORE: .*duplicate key", refusal(store.transaction, store, function(tx)
      tx:execute "INSERT INTO deferred VALUES (1)"
      tx:execute "INSERT INTO deferred VALUES (1)"
    end))
    assert.equal(0, one(store, "SELECT count(*) AS n FROM deferred").n)
  end)

  it("waits for a lock, then says so", function()
    local one_of, other = pg(), pg { busy_timeout_ms = 50 }
    table_of(one_of, "locked", "n INTEGER")
    execute(one_of, "INSERT INTO locked VALUES (1)")
    one_of:transaction(function(tx)
      tx:execute "UPDATE locked SET n = 2"
      assert.matches("lock timeout.*; another transaction holds it",
        refusal(execute, other, "UPDATE locked SET n = 3"))
    end)
  end)

  it("does not ask a server that is down at every use, and finds it when it is back", function()
    local store, asked = pg(), 0
    local dialect = store.dialect
    execute(store, "SELECT 1")
    store.dialect = setmetatable({ connect = function(...)
      asked = asked + 1
      return dialect.connect(...)
    end }, { __index = dialect })
    server:down()
    local began = moonbus.now()
    assert.matches("^ESTORE: postgres postgres: .*is the server there",
      refusal(execute, store, "SELECT 1"))
    local first = refusal(execute, store, "SELECT 1")
    for _ = 1, 1000 do assert.equal(first, refusal(execute, store, "SELECT 1")) end
    -- after 0.1 s, then 0.2, 0.4 and so on until 3.2, then 5 each time
    assert.is_true(asked >= 1 and asked <= 8 + (moonbus.now() - began) / 5, asked)
    server:up()
    wait.till(function() return pcall(execute, store, "SELECT 1") end, "another connection")
  end)

  it("never shows a password", function()
    assert.equal("store postgres orders",
      tostring(moonbus.stores.postgres { dsn = "dbname=orders password=secret" }))
    assert.equal("store postgres orders",
      tostring(moonbus.stores.postgres { dsn = "postgresql://u:secret@h:1/orders?x=y" }))
    assert.equal("store postgres orders",
      tostring(moonbus.stores.postgres { dbname = "orders", password = "secret" }))
  end)
end)

describe("a store in memory", function()
  it("remembers what is done, and forgets what was used longest ago", function()
    local store = moonbus.stores.memory { max = 3 }
    for _, id in ipairs { "a", "b", "c" } do
      assert.equal("new", store:claim("g", "h", id, 60))
      store:done("g", "h", id)
    end
    assert.equal("done", store:claim("g", "h", "a", 60))
    assert.equal("new", store:claim("g", "h", "d", 60))
    assert.is_true(store:marked("g", "h", "a"))
    assert.is_false(store:marked("g", "h", "b"))
    assert.is_true(store:marked("g", "h", "c"))
  end)

  it("holds a claim until it is released or expires", function()
    local store = moonbus.stores.memory()
    assert.equal("new", store:claim("g", "h", "a", 60))
    local state, left = store:claim("g", "h", "a", 60)
    assert.equal("claimed", state)
    assert.is_true(left > 50 and left <= 60)
    store:release("g", "h", "a")
    assert.equal("new", store:claim("g", "h", "a", 0))
    assert.equal("new", store:claim("g", "h", "a", 60))
    assert.equal("new", store:claim("other", "h", "a", 60))
  end)

  it("does what a plain list would, whatever comes", function()
    local max, store, list = 7, moonbus.stores.memory { max = 7 }, {}
    local function at(key)
      for i, entry in ipairs(list) do if entry.key == key then return i, entry end end
    end
    local told = {}
    for n = 1, 20000 do
      local scope, handler, id = "s" .. math.random(2), "h" .. math.random(2), "e" .. math.random(4)
      local key, what = scope .. handler .. id, math.random(4)
      local i, entry = at(key)
      if what == 1 then
        local state = store:claim(scope, handler, id, 60)
        assert.equal(not entry and "new" or entry.done and "done" or "claimed", state, n)
        if i then table.remove(list, i) elseif #list == max then table.remove(list, 1) end
        list[#list + 1] = entry or { key = key, done = false }
        told[state] = true
      elseif what == 2 then
        store:done(scope, handler, id)
        if entry then entry.done = true end
      elseif what == 3 then
        store:release(scope, handler, id)
        if entry and not entry.done then table.remove(list, i) end
      else
        assert.equal(entry ~= nil and entry.done, store:marked(scope, handler, id), n)
      end
      assert.equal(#list, store.count)
    end
    assert.same({ new = true, done = true, claimed = true }, told)
  end)

  it("forgets what is older than its ttl", function()
    local store = moonbus.stores.memory()
    store:claim("g", "h", "a", 60)
    store:done("g", "h", "a", 0)
    assert.equal("new", store:claim("g", "h", "a", 60))
  end)
end)

describe("stores", function()
  it("refuse options that are unknown or wrong", function()
    assert.matches('no option "file"', refusal(moonbus.stores.sqlite, { file = "x" }))
    assert.matches("path is missing", refusal(moonbus.stores.sqlite, {}))
    assert.matches("path: expected a string, got a number",
      refusal(moonbus.stores.sqlite, { path = 1 }))
    assert.matches("dsn or dbname is missing", refusal(moonbus.stores.postgres, {}))
    assert.matches("dsn, or host", refusal(moonbus.stores.postgres, { dsn = "x", host = "y" }))
    assert.matches("a whole number from 1", refusal(moonbus.stores.memory, { max = 0 }))
  end)
end)
