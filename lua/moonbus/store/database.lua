--- A store in a database: connection, transactions, and marks of what was handled.
-- What differs between databases is in a dialect (sqlite.lua, postgres.lua).
--
-- A transaction is one of two kinds. A unit is shared by the events of one step of a bus: each is a
-- frame of it, under a savepoint, and the bus has the unit committed before it commits offsets. A
-- frame of its own, by hand or after a unit that could not be committed, is a whole transaction.
local base = require "moonbus.base"
local concurrent = require "moonbus.concurrent"
local core = require "moonbus.core"
local names = require "moonbus.names"
local marks = require "moonbus.store.marks"
local schema = require "moonbus.store.schema"
local statements = require "moonbus.store.statements"
local task = require "moonbus.task"

local error, ipairs, math, pairs = base.error, base.ipairs, base.math, base.pairs
local pcall, setmetatable, tostring = base.pcall, base.setmetatable, base.tostring

local database = {}

local Database = { transactional = true }
Database.__index = Database
Database.__tostring = function(self) return "store " .. self.name end
marks.install(Database)

local APART = 1000 -- frames that go one by one after a unit was lost
local RETRY_S, RETRY_MAX_S = 0.1, 5 -- between attempts to connect

-- ---- what a handler is given ----

local Tx = {}
Tx.__index = Tx

-- Errors are raised, and kept: an event whose handler swallowed one has failed all the same.
local function attempt(store, method, ...)
  if store.depth == 0 then error("ESTORE: the transaction is over: tx is good while its handler or "
    .. "function runs", 3) end
  if store.failed then error(store.failed, 0) end
  local ok, result = pcall(method, store.kept, ...)
  if ok then return result end
  store.failed = store:describe(result)
  error(store.failed, 0)
end

--- Execute a statement, `?` for each value; how many rows it changed.
function Tx:execute(text, ...)
  local store = self.store
  return attempt(store, store.kept.execute, text, ...)
end

--- The rows of a query, each a table by column name; NULLs are absent.
function Tx:query(text, ...)
  local store = self.store
  return attempt(store, store.kept.query, text, ...)
end

--- The first row of a query, or nil.
function Tx:one(text, ...)
  local store = self.store
  return attempt(store, store.kept.query, text, ...)[1]
end

names.class(Tx, "tx", {})

-- For scripts that are only checked: nothing is opened.
local dry_tx = {
  execute = function() return 0 end,
  query = function() return setmetatable({}, core.array_mark) end,
  one = function() return nil end,
}

-- ---- errors ----

-- An error's text: what the database says, without LuaDBI's words about where, and what to do.
function Database:describe(message)
  message = tostring(message)
  if message:find "^ESTORE: " then return message end
  message = message:gsub("^Execute failed ", ""):gsub("^Fetch failed ", "")
    :gsub("^Error [%a ]+: ", ""):gsub("^Failed to connect to database: ", "")
    :gsub("^ERROR:%s*", ""):gsub("%s+$", ""):gsub("%s*\n%s*", ", ")
  return ("ESTORE: %s: %s; %s"):format(self.name, message, self.dialect.advice(message)
    or "what was done in this transaction is undone")
end

local function alive(self)
  return self.conn ~= nil and self.dialect.alive(self.conn)
end

-- ---- the connection ----

--- Close the connection; the next use makes a new one. What handlers did in it and is not
-- committed yet is lost: their events come again.
function Database:close()
  local conn = self.conn
  if self.open and self.shared then self.broken = self:describe "it was closed meanwhile" end
  if self.kept then self.kept:close() end
  self.conn, self.kept, self.open, self.ready, self.inited = nil, nil, false, false, 0
  self:undone()
  if conn then pcall(conn.close, conn) end
end

local function load_driver(self)
  local ok, driver = pcall(base.require_late, "dbd." .. self.dialect.driver:lower())
  if ok then return driver end
  error(("ESTORE: %s: LuaDBI's %s driver is not there; install the Debian package %s")
    :format(self.name, self.dialect.driver, self.dialect.package), 0)
end

-- Settings wait for a lock that the database itself would not wait for.
local function patiently(self)
  return function(conn, text)
    local deadline = core.now() + self.options.busy_timeout_ms / 1000
    while true do
      local ok, err = pcall(statements.once, conn, text)
      if ok then return end
      if not err:find("is locked", 1, true) or core.now() > deadline then error(err, 0) end
      task.pause(0.01)
    end
  end
end

local function prepare_tables(self)
  local kept, tx = self.kept, self.tx
  kept:execute(self.dialect.begin)
  self.open, self.depth, self.failed = true, 1, nil
  if self.dialect.lock then kept:query(self.dialect.lock) end
  local why = schema.migrate(tx, self.dialect.name)
  if why then error(why, 0) end
  for i = self.inited + 1, #self.inits do self.inits[i](tx, self) end
  if self.failed then error(self.failed, 0) end
  kept:execute "COMMIT"
  self.open, self.depth, self.inited = false, 0, #self.inits
end

--- Have fn(tx, store) run whenever the store connects, before anything else; where it is connected,
-- before the next transaction.
function Database:on_connect(fn)
  self.inits[#self.inits + 1] = fn
end

local function connect(self)
  if self.ready and self.inited == #self.inits then return end
  local now = core.now()
  if self.next_try and now < self.next_try then error(self.refused, 0) end
  local ok, err = pcall(function()
    if not self.conn then
      local conn, why = self.dialect.connect(load_driver(self), self.options, patiently(self))
      if not conn then error(why, 0) end
      self.conn, self.kept = conn, statements.new(conn, self.dialect)
    end
    prepare_tables(self)
  end)
  self.open, self.depth = false, 0
  if ok then
    self.ready, self.next_try, self.wait = true, nil, nil
    return
  end
  self:close()
  self.wait = math.min((self.wait or RETRY_S / 2) * 2, RETRY_MAX_S)
  self.next_try, self.refused = now + self.wait, self:describe(err)
  error(self.refused, 0)
end

-- ---- transactions ----

local function raw(self, text)
  if not self.kept then return false, self.broken or "it was closed meanwhile" end
  return pcall(self.kept.execute, self.kept, text)
end

-- A connection that was lost while nothing was under way is made again.
local function begin(self)
  connect(self)
  local ok, err = raw(self, self.dialect.begin)
  if not ok and not alive(self) then
    self:close()
    connect(self)
    ok, err = raw(self, self.dialect.begin)
  end
  if not ok then error(self:describe(err), 0) end
  self.open = true
  self:forget()
end

local function rollback(self)
  local ok, err = true, nil
  if self.open then ok, err = raw(self, "ROLLBACK") end
  self.open = false
  self:undone()
  self:forget()
  -- an error may have ended the transaction already
  local over = ok or tostring(err):find("no transaction is active", 1, true)
  if not over or not alive(self) then self:close() end
end

-- Why it was not committed, or nil; whatever is the case, nothing is open afterwards.
local function commit(self)
  local ok, err = pcall(self.before_commit, self)
  if ok then ok, err = raw(self, "COMMIT") end
  if ok then
    self.open = false
    return nil
  end
  rollback(self)
  return self:describe(err)
end

--- The end of a step of the bus whose unit this is. true; false and the reason if what was done
-- in it is lost, so that its events must come again: these go one by one then.
function Database:end_unit(keep)
  local why = self.broken
  self.unit, self.broken = nil, nil
  if self.open then
    if keep and not why then why = commit(self)
    else rollback(self) end
  end
  if not why then return true end
  self.apart = APART
  return false, why
end

local function lose_unit(self, err)
  self.broken = self:describe(err)
  rollback(self)
end

-- Before a transaction of another caller: a unit of events that are all done is committed.
local function keep_unit(self)
  if self.open then
    self.broken = commit(self)
    if self.broken then error(self.broken, 0) end
  end
  self.shared = false
end

local function enter_alone(self)
  keep_unit(self)
  begin(self)
end

local function enter_unit(self)
  if not self.open then begin(self) end
  self.shared = true
  local ok, err = raw(self, "SAVEPOINT moonbus_1")
  if ok then return end
  lose_unit(self, err)
  error(self.broken, 0)
end

--- Begin a frame: a handler's writes, all or none. bus: whose handler runs, so that its events
-- share a unit; nil: a transaction of its own. Returns the tx; raises.
function Database:enter(bus)
  if self.depth > 0 then
    error(("ESTORE: %s: busy: a handler waits inside its transaction; give each bus a store of its "
      .. "own"):format(self.name), 0)
  end
  if self.broken then error(self.broken, 0) end
  self.level, self.moving = core.run_level(), true
  if bus and self.unit ~= bus then
    keep_unit(self)
    self.unit = bus
    bus:join_unit(self)
  end
  self.alone = not bus or self.apart > 0
  if self.alone then enter_alone(self)
  else enter_unit(self) end
  if self.alone and bus then self.apart = self.apart - 1 end
  self.depth, self.failed, self.moving = 1, nil, false
  return self.tx
end

--- Undo the frame.
function Database:undo()
  if self.depth == 0 then return end
  self.depth, self.moving = 0, true
  self:undone()
  if self.alone then rollback(self)
  else
    local ok, err = raw(self, "ROLLBACK TO SAVEPOINT moonbus_1")
    if ok then ok, err = raw(self, "RELEASE SAVEPOINT moonbus_1") end
    if not ok then lose_unit(self, self.failed or err) end
  end
  self.moving = false
end

--- Keep the frame. Raises, with the frame undone, if that cannot be or a statement in it failed.
function Database:leave()
  if self.failed then
    local failed = self.failed
    self:undo()
    error(failed, 0)
  end
  local why
  self.depth, self.moving = 0, true
  if self.alone then why = commit(self)
  else
    local ok, err = raw(self, "RELEASE SAVEPOINT moonbus_1")
    if not ok then
      lose_unit(self, err)
      why = self.broken
    end
  end
  self.moving = false
  if why then error(why, 0) end
end

-- A handler was ended by its limits, which nothing in here could catch.
local function give_up(self)
  if not self.moving then return self:undo() end
  -- without a unit nothing would reset this
  if self.shared and self.unit then
    self.broken = self:describe "a handler was ended at its beginning or end"
  end
  self.open, self.depth, self.moving = true, 0, false
  rollback(self)
end

-- level: of the run that was ended; what is under way below it is not its.
core.on_excess(function(level)
  for store in pairs(concurrent.stores) do
    if store.level >= level then give_up(store) end
  end
end)

local function keep_or_undo(self, ok, ...)
  if not ok then
    self:undo()
    error((...), 0)
  end
  self:leave()
  return ...
end

-- Inside a frame: under a savepoint of its own.
-- What fails in it is undone alone, and may be caught.
local function nested(self, fn, ...)
  local name = "moonbus_" .. self.depth + 1
  local function finish(ok, ...)
    self.depth = self.depth - 1
    if ok and not self.failed then
      attempt(self, self.kept.execute, "RELEASE SAVEPOINT " .. name)
      return ...
    end
    local failed = self.failed
    self:undone()
    if raw(self, "ROLLBACK TO SAVEPOINT " .. name) and raw(self, "RELEASE SAVEPOINT " .. name) then
      self.failed = nil
    end
    error(failed or (...), 0)
  end
  attempt(self, self.kept.execute, "SAVEPOINT " .. name)
  self.depth = self.depth + 1
  return finish(pcall(fn, self.tx, ...))
end

--- Run fn(tx, ...) in a transaction, or as a part of the one a handler is in, and return what it
-- returns. Raises what it raises, and what the database says; nothing is kept then.
function Database:transaction(fn, ...)
  if task.host.dry then return fn(dry_tx, ...) end
  if self.depth > 0 then return nested(self, fn, ...) end
  local tx = self:enter(nil)
  return keep_or_undo(self, pcall(fn, tx, ...))
end

-- ---- making one ----

names.class(Database, "store", {
  methods = { "transaction", "close", "marked", "enter", "mark", "leave", "undo" },
  fields = {
    "conn", "kept", "ready", "next_try", "wait", "refused", "failed", "unit", "broken", "alone",
    "release",
  },
})

--- Another store on the same database, with a connection of its own.
function Database:twin()
  local twin = database.new(self.dialect, self.name, self.options)
  for i, init in ipairs(self.inits) do twin.inits[i] = init end
  return twin
end

--- A store. Nothing is opened before its first use.
function database.new(dialect, name, options)
  local self = setmetatable({
    dialect = dialect, name = name, options = options, kind = dialect.name,
    depth = 0, -- frames: 0 none, 1 a handler's, more those nested in it
    open = false, -- a transaction is
    shared = false, -- and it is a unit's
    level = 0, moving = false, -- of the run in which a frame last began; it begins or ends
    unit = nil, -- the bus whose events share it
    apart = 0, -- frames that still go one by one
    failed = nil, -- the first error of a statement in the frame
    broken = nil, -- why the unit is lost
    inits = { options.init }, inited = 0, -- what runs at connecting, and how many of it have
    -- see marks.lua
    ids = {}, current = {}, moves = {}, made = {}, swept = {}, marks = 0, sweep_at = 0,
  }, Database)
  self.tx = setmetatable({ store = self }, Tx)
  concurrent.stores[self] = true
  return self
end

return database
