-- What becomes of events whose database does not do what it is asked: they are retried, never
-- marked and never lost, be their handler idempotent or a projection.
local ffi = require "ffi"
local moonbus = require "moonbus"
local postgres = require "tests.support.postgres"
local process = require "tests.support.process"
local stores = require "tests.support.stores"
local support = require "tests.support.bus"
local tmp = require "tests.support.tmp"
local wait = require "tests.support.wait"

local EVENTS = 60

local registry = moonbus.new_registry()
local Paid = moonbus.event("Paid", { aggregate_type = "Account", n = "integer", pad = "string" },
  { registry = registry })

local bus, lines
local epoch, consumed = 0, 0

local db = stores.share(function()
  bus, lines = support.bus { event_registry = registry, partitions = 2, max_retries = 200 }
  support.consume(bus)
  return bus
end)
local keep = db.keep

before_each(function()
  epoch = epoch + 1
  for i in ipairs(lines) do lines[i] = nil end
end)

local function id_of(n) return support.uuid(epoch * 1000 + n) end

local function publish(pad)
  local list = {}
  for n = 1, EVENTS do
    list[n] = Paid { aggregate_id = support.uuid(n), event_id = id_of(n), n = epoch * 1000 + n,
                     pad = pad and pad() or "" }
  end
  consumed = consumed + EVENTS
  assert(bus:publish(list))
end

local function init(tx) tx:execute "CREATE TABLE IF NOT EXISTS effects (n INTEGER, pad TEXT)" end

local HANDLERS = {
  ["an idempotent handler"] = function(store, apply)
    bus:subscribe(Paid, moonbus.idempotent(apply, { store = store, name = "effects" }))
  end,
  ["a projection"] = function(store, apply)
    bus:subscribe_all(moonbus.projection("effects", {
      store = store, init = init, handles = { [Paid] = apply },
    }))
  end,
}

-- The numbers of effects and marks of the test's events; those of earlier tests may come again, as
-- whatever was not committed does when a transaction is lost.
local function counts(store)
  return store:transaction(function(tx)
    local row = tx:one([[SELECT count(*) AS n, count(DISTINCT n) AS d FROM effects
      WHERE n > ? AND n < ?]], epoch * 1000, (epoch + 1) * 1000)
    return row.n, row.d, tx:one([[SELECT count(*) AS n FROM moonbus_marks
      WHERE event_id > ? AND event_id < ?]], id_of(0), id_of(1000)).n
  end)
end

-- For each kind of handler: events come while the fault is there, which is to show in the log, and
-- after it was repaired each has its effect once.
local function faulty(name, told, make)
  for what, subscribe in pairs(HANDLERS) do
    it(("%s: events of %s are retried, none is marked or lost"):format(name, what), function()
      local case = make()
      subscribe(case.store, function(event, tx)
        tx:execute("INSERT INTO effects VALUES (?, ?)", event.n, event.pad)
      end)
      case.begin()
      publish(case.pad)
      wait.till(function()
        return #support.lines_with(lines, "warn", told) > 0
          and bus:get_stats_dict().events_parked > 0
      end, "a failure that tells of " .. told)
      if case.meanwhile then case.meanwhile() end
      case.repair()
      local ok, n, distinct, marks
      wait.till(function() -- what was lost is read again: the bus may look idle before
        ok, n, distinct, marks = pcall(counts, case.other or case.store)
        return ok and n >= EVENTS
      end, function() return ("%s of %d effects"):format(tostring(n), EVENTS) end, 60)
      wait.settled(bus, consumed)
      n, distinct, marks = counts(case.other or case.store)
      assert.same({ EVENTS, EVENTS, EVENTS }, { n, distinct, marks })
      assert.equal(0, bus:get_dlq_message_count())
    end)
  end
end

local function file()
  return ("%s/%s.db"):format(db.dir, moonbus.uuid())
end

local function sqlite(path, options)
  local all = { path = path, init = init, busy_timeout_ms = 20 }
  for key, value in pairs(options or {}) do all[key] = value end
  return keep(moonbus.stores.sqlite(all))
end

describe("on SQLite,", function()
  faulty("a file that another writer holds", "is locked; another connection writes", function()
    local path = file()
    local other = sqlite(path)
    counts(other)
    return { store = sqlite(path), other = other,
      begin = function() other:enter() end,
      meanwhile = function()
        assert.equal(0, other.tx:one "SELECT count(*) AS n FROM moonbus_marks".n)
      end,
      repair = function() other:undo() end }
  end)

  faulty("a file that another one reads to write to it", "is locked", function()
    local path = file()
    local other = sqlite(path)
    counts(other)
    return { store = sqlite(path), other = other,
      begin = function()
        other:enter()
        other.tx:execute "INSERT INTO effects VALUES (0, '')"
      end,
      repair = function()
        other.tx:execute "DELETE FROM effects WHERE n = 0"
        other:leave()
      end }
  end)

  faulty("a file that may not grow", "is full; the disk, or the limit", function()
    local path, pages = file(), 40
    local store = sqlite(path)
    store:on_connect(function(tx) tx:execute(("PRAGMA max_page_count = %d"):format(pages)) end)
    local other = sqlite(path)
    return { store = store, other = other, pad = function() return ("x"):rep(5000) end,
      begin = function() end,
      meanwhile = function()
        local n, distinct, marks = counts(other)
        assert.is_true(n < EVENTS and n == distinct and n == marks)
      end,
      repair = function()
        pages = 100000
        store:close()
      end }
  end)

  faulty("a folder that is not there yet", "the folder must exist", function()
    local folder = ("%s/%s"):format(db.dir, moonbus.uuid())
    return { store = sqlite(folder .. "/model.db"), begin = function() end,
      repair = function() os.execute(("mkdir '%s'"):format(folder)) end }
  end)
end)

describe("on PostgreSQL,", function()
  local schema

  local function pg(options)
    local all = { dsn = ("%s options=-csearch_path=%s"):format(db.server.dsn, schema), init = init,
                  busy_timeout_ms = 50 }
    for key, value in pairs(options or {}) do all[key] = value end
    return keep(moonbus.stores.postgres(all))
  end

  before_each(function()
    schema = "faults_" .. epoch
    db.server:sql("CREATE SCHEMA " .. schema)
  end)

  faulty("a table that another one holds", "another transaction holds it", function()
    local other = pg()
    counts(other)
    return { store = pg(), other = other,
      begin = function()
        other:enter()
        other.tx:execute "LOCK TABLE effects IN ACCESS EXCLUSIVE MODE"
      end,
      meanwhile = function()
        assert.equal(0, other.tx:one "SELECT count(*) AS n FROM moonbus_marks".n)
      end,
      repair = function() other:undo() end }
  end)

  faulty("a server that was killed and comes back", "connects again at the next use", function()
    local store = pg()
    counts(store)
    return { store = store, begin = function() db.server:down "KILL" end,
      repair = function() db.server:up() end }
  end)

  faulty("a server that lets nobody write", "read-only transaction", function()
    local store = pg()
    counts(store)
    return { store = store,
      begin = function()
        db.server:sql "ALTER DATABASE postgres SET default_transaction_read_only = on"
        store:close()
      end,
      repair = function()
        db.server:sql "BEGIN READ WRITE; ALTER DATABASE postgres RESET ALL; COMMIT"
        db.server:cut()
      end }
  end)
end)

-- Its files on a small file system of its own.
describe("on PostgreSQL with", function()
  local MBYTES = 160
  local full, entered, data

  local function within(...)
    local words = { unpack(entered) }
    for _, word in ipairs { ... } do words[#words + 1] = word end
    local done = process.run(words)
    assert(done.code == 0, done.stderr)
    return done.stdout
  end

  setup(function()
    if ffi.C.geteuid() ~= 0 then return end -- a file system of one's own needs root
    data = tmp.dir()
    local holder = process.start({ "unshare", "-m", "sh", "-c", (
      "mount -t tmpfs -o size=%dm,mode=777 moonbus '%s' && echo mounted && exec cat")
      :format(MBYTES, data) }, { keep_open = true })
    holder:wait_for "mounted"
    -- with its root: in a chroot, that of a mount namespace is another
    entered = { "nsenter", "-t", tostring(holder.pid), "-m", "-r", "-w" }
    within("mkdir", data .. "/cluster")
    within("chown", "nobody", data .. "/cluster")
    full = postgres.start { data = data .. "/cluster", within = entered }
  end)

  teardown(function()
    if full then full:down "KILL" end
  end)

  if ffi.C.geteuid() ~= 0 then
    io.stderr:write("\n*** NOT TESTED: a full disk of PostgreSQL needs root for a file system\n")
    return pending("needs root")
  end

  local function noise() -- does not get smaller when it is compressed
    local list = {}
    for i = 1, 1500 do list[i] = moonbus.uuid() end
    return table.concat(list)
  end

  faulty("a full disk", "No space left", function()
    full:sql [[DROP TABLE IF EXISTS effects, moonbus_schema, moonbus_handlers, moonbus_marks,
      moonbus_positions, moonbus_projections]]
    local store = keep(moonbus.stores.postgres { dsn = full.dsn, init = init })
    counts(store)
    return { store = store, pad = noise,
      begin = function()
        full:sql "CHECKPOINT"
        within("sh", "-c", ("head -c $(( ($(df --output=avail -k %s | tail -1) - 800) * 1024 )) "
          .. "/dev/zero >%s/ballast"):format(data, data))
      end,
      repair = function()
        within("rm", data .. "/ballast")
        full:down "KILL" -- without room for its log it ends by itself
        full:up()
      end }
  end)
end)
