--- Stores: where handlers keep what they write, and which events they handled.
--
-- moonbus.stores.sqlite and .postgres give a database store. Nothing is opened before its first
-- use; its tables are made then; a lost connection is made again at the next use.
--
--   store:transaction(fn, ...)  fn(tx, ...) in a transaction of its own; inside a handler's, as a
--                               part of it. Returns what fn returns; raises what it raises, and
--                               "ESTORE: ..." if the database refuses: nothing is kept then
--   store:close()               close the connection; the next use makes a new one
--   store:marked(scope, handler, event_id)   whether an idempotent handler is done with an event
--   store.kind                  "sqlite", "postgres" or "memory"
--   store.transactional         false for memory
--   store.name                  for messages
--
--   tx:execute(sql, ...)  -> rows changed
--   tx:query(sql, ...)    -> list of rows
--   tx:one(sql, ...)      -> first row or nil
--
-- A `?` stands for each value: nil or moonbus.null, a boolean, string, number or 64-bit integer.
-- Rows are tables by column name; integers are exact, NULLs absent. Errors are raised as
-- "ESTORE: ..."; after one everything else fails until the transaction ends, and so does its event,
-- whether the handler caught the error or not. To try something, do it in a store:transaction
-- inside.
--
-- To run an event's handler so that the events of one step of a bus share a transaction (what
-- moonbus.idempotent does):
--
--   local tx = store:enter(bus)   begin a frame, under a savepoint; raises. bus: the one whose
--                                 handler this is; nil: a transaction of its own
--   store:mark(scope, handler, event_id, ttl)   in a frame: false if it was marked already
--   store:leave()                 keep what was done; raises if that cannot be
--   store:undo()                  undo it. A handler that raises needs not call it: the bus does
--
-- The bus commits what its frames did at the end of its step, before it commits any offset. If
-- that fails, what was read since the last committed offset is read again, and each frame is a
-- transaction of its own for the next thousand. A handler that waits (moonbus.sleep) inside a
-- frame holds the transaction, and its locks, meanwhile.
--
-- A store of one's own, without transactions, has
--
--   store:claim(scope, handler, event_id, seconds)   "new", "done", or "claimed", seconds left
--   store:done(scope, handler, event_id, ttl)        it was handled; ttl in seconds or nil
--   store:release(scope, handler, event_id)          it was not; optional
local base = require "moonbus.base"
local database = require "moonbus.store.database"
local memory = require "moonbus.store.memory"
local names = require "moonbus.names"

local error, pairs, type = base.error, base.pairs, base.type

local store = {}

local function check(what, options, known)
  if type(options) ~= "table" then
    error(("moonbus.stores.%s takes a table of options"):format(what), 3)
  end
  for key, value in pairs(options) do
    if not known[key] then
      names.no_option("moonbus.stores." .. what, key, names.of(known), 3)
    elseif type(value) ~= known[key] then
      -- without the value, which may be a password
      error(("moonbus.stores.%s: %s: expected a %s, got a %s"):format(what, key, known[key],
        type(value)), 3)
    end
  end
end

local function own(options)
  local copy = { busy_timeout_ms = 5000 }
  for key, value in pairs(options) do copy[key] = value end
  return copy
end

--- Marks in memory, of the last `max` events (100,000): { max = }.
function store.memory(options)
  options = options or {}
  check("memory", options, { max = "number" })
  local max = options.max or 100000
  if max < 1 or max % 1 ~= 0 then
    error("moonbus.stores.memory: max is a whole number from 1", 2)
  end
  return memory.new(max)
end

--- A SQLite file: { path =, busy_timeout_ms = 5000, init = function(tx) }. init makes one's own
-- tables, each time the store connects and before anything else.
function store.sqlite(options)
  check("sqlite", options, { path = "string", busy_timeout_ms = "number", init = "function" })
  if not options.path then error("moonbus.stores.sqlite: path is missing", 2) end
  local sqlite = base.require_late "moonbus.store.sqlite"
  return database.new(sqlite, "sqlite " .. options.path, own(options))
end

--- A PostgreSQL database: { dsn = } as libpq takes it, or { host =, port =, dbname =, user =,
-- password = }; busy_timeout_ms (5000) is how long a lock is waited for; init as for sqlite.
function store.postgres(options)
  check("postgres", options, {
    dsn = "string", host = "string", port = "number", dbname = "string", user = "string",
    password = "string", busy_timeout_ms = "number", init = "function",
  })
  if options.dsn and (options.host or options.port or options.dbname or options.user
    or options.password) then
    error("moonbus.stores.postgres: dsn, or host, port, dbname, user and password", 2)
  elseif not options.dsn and not options.dbname then
    error("moonbus.stores.postgres: dsn or dbname is missing", 2)
  end
  local shown = options.dbname or options.dsn:match "dbname%s*=%s*'?([^%s']+)"
    or options.dsn:match "^postgres%w*://[^/]*/([^?]+)" or "?"
  local postgres = base.require_late "moonbus.store.postgres"
  return database.new(postgres, "postgres " .. shown, own(options))
end

return store
