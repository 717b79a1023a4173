--- A second read model on SQLite: in a file of its own beside the store's, filled by a rebuild, and
-- copied over the first in one transaction. So the store's other tables, and readers of the first,
-- are not disturbed meanwhile; writers to the file wait while rows are copied.
local base = require "moonbus.base"
local database = require "moonbus.store.database"
local statements = require "moonbus.store.statements"

local error, io, ipairs, os, pcall = base.error, base.io, base.ipairs, base.os, base.pcall
local setmetatable, table = base.setmetatable, base.table

local second = {}

local Second = {}
Second.__index = Second

local LIVE = "moonbus_live"

local function quoted(name)
  return '"' .. name:gsub('"', '""') .. '"'
end

local function remove(path)
  for _, suffix in ipairs { "", "-wal", "-shm", "-journal" } do os.remove(path .. suffix) end
end

local function exists(path)
  local file = io.open(path)
  if file then file:close() end
  return file ~= nil
end

local function scratch(store, path)
  return database.new(store.dialect, "sqlite " .. path,
    { path = path, busy_timeout_ms = 100, scratch = true })
end

-- What a rebuild that was killed left behind goes; one that is under way has the file locked.
local function clear(store, path, name)
  if not exists(path) then return end
  local left = scratch(store, path)
  local ok, err = pcall(left.transaction, left, function() end)
  left:close()
  if not ok and err:find("is locked", 1, true) then
    error(("ESTORE: projection %s is being rebuilt already, with %s"):format(name, path), 0)
  end
  remove(path)
end

--- Make one, empty. Raises.
function second.open(projection)
  local live, name = projection.store, projection.name
  local path = live.options.path
  if path == ":memory:" or path == "" then
    error("ESTORE: a database in memory cannot be rebuilt beside itself; give the store a file", 0)
  end
  path = ("%s-rebuild-%s"):format(path, (name:gsub("[^%w_-]", "_")))
  clear(live, path, name)
  local twin = live:twin() -- what it takes the place of is there from now on
  twin:transaction(function() end)
  twin:close()
  local self = setmetatable({ name = name, path = path, live_path = live.options.path,
                              store = scratch(live, path) }, Second)
  self.store:on_connect(function(tx)
    self.store:add_projection(name)
    projection.init(tx)
  end)
  self.id = self.store:transaction(function() return self.store:projection(name).marks end)
  -- from here on it waits for the store's other users
  self.store.kept:execute(("PRAGMA busy_timeout = %d"):format(live.options.busy_timeout_ms))
  return self
end

--- Nothing to look at before a commit: handlers find no tables but those that init made.
function Second.check() end

--- Begin the transaction of the end, which keeps the projection's other writers out. Its positions:
-- list of { topic =, part =, position =, applied = }. Raises.
function Second:hold()
  local store = self.store
  if not self.attached then
    store.kept:execute(("ATTACH DATABASE ? AS %s"):format(LIVE), self.live_path)
    self.attached = true
    store.kept:close() -- a BEGIN that was prepared before would not lock the file
  end
  local tx = store:enter(nil)
  return tx:query(([[SELECT topic, part, position, applied FROM %s.moonbus_positions p
    JOIN %s.moonbus_projections o ON o.marks = p.marks WHERE o.name = ?]]):format(LIVE, LIVE),
    self.name)
end

--- End it without effect.
function Second:release() self.store:undo() end

local function once(self, text, ...)
  statements.once(self.store.conn, text:format(...))
end

local OBJECTS = [[SELECT type, name, sql FROM main.sqlite_master WHERE sql IS NOT NULL
  AND name NOT LIKE 'moonbus\_%' ESCAPE '\' AND name NOT LIKE 'sqlite\_%' ESCAPE '\'
  AND tbl_name NOT LIKE 'moonbus\_%' ESCAPE '\']]

-- "CREATE TABLE orders (...)" -> the same in the store's file: SQLite keeps the text so, from the
-- name on as it was given.
local function create(self, object)
  local kind = object.type:upper()
  local head, rest = object.sql:match("^(CREATE " .. kind .. ") (.*)$")
  if not head then head, rest = object.sql:match "^(CREATE UNIQUE INDEX) (.*)$" end
  if not head then
    error(("ESTORE: %s: virtual tables cannot be copied; make it outside the projection's init")
      :format(object.name), 0)
  end
  once(self, "%s %s.%s", head, LIVE, rest)
end

local function copy_rows(self, name)
  local list = {}
  for i, row in ipairs(self.store.tx:query(
    "SELECT name FROM pragma_table_xinfo(?, 'main') WHERE hidden = 0", name)) do
    list[i] = quoted(row.name)
  end
  local columns = table.concat(list, ", ")
  once(self, "INSERT INTO %s.%s (%s) SELECT %s FROM main.%s", LIVE, quoted(name), columns, columns,
    quoted(name))
end

-- Where ids that are given once go on.
local function copy_sequences(self)
  local tx = self.store.tx
  if not tx:one "SELECT 1 AS it FROM main.sqlite_master WHERE name = 'sqlite_sequence'" then
    return
  end
  once(self, "DELETE FROM %s.sqlite_sequence WHERE name IN (SELECT name FROM main.sqlite_sequence)",
    LIVE)
  once(self, "INSERT INTO %s.sqlite_sequence SELECT * FROM main.sqlite_sequence", LIVE)
end

local function copy_tables(self)
  local by_type = { table = {}, index = {}, trigger = {}, view = {} }
  for _, object in ipairs(self.store.tx:query(OBJECTS)) do
    table.insert(by_type[object.type], object)
  end
  for _, kind in ipairs { "view", "table" } do
    for _, object in ipairs(by_type[kind]) do
      once(self, "DROP %s IF EXISTS %s.%s", kind, LIVE, quoted(object.name))
    end
  end
  for _, object in ipairs(by_type.table) do
    create(self, object)
    copy_rows(self, object.name)
  end
  copy_sequences(self)
  for _, kind in ipairs { "index", "trigger", "view" } do
    for _, object in ipairs(by_type[kind]) do create(self, object) end
  end
end

local function copy_marks(self)
  local tx, scope = self.store.tx, "projection " .. self.name
  tx:execute(([[INSERT INTO %s.moonbus_handlers (scope, handler)
    SELECT scope, handler FROM main.moonbus_handlers WHERE id = ?]]):format(LIVE), self.id)
  local id = tx:one(([[SELECT l.id FROM %s.moonbus_handlers l JOIN main.moonbus_handlers m
    ON m.scope = l.scope AND m.handler = l.handler WHERE m.id = ? AND l.scope = ?]]):format(LIVE),
    self.id, scope).id
  tx:execute(([[INSERT INTO %s.moonbus_marks (handler, event_id, marked_at)
    SELECT ?, event_id, marked_at FROM main.moonbus_marks WHERE handler = ?]]):format(LIVE), id,
    self.id)
  tx:execute(([[INSERT INTO %s.moonbus_positions (marks, topic, part, position, applied)
    SELECT ?, topic, part, position, applied FROM main.moonbus_positions WHERE marks = ?]])
    :format(LIVE), id, self.id)
  tx:execute(("UPDATE %s.moonbus_projections SET marks = ?, passing = 0 WHERE name = ?")
    :format(LIVE), id, self.name)
end

--- Take the place of the first, and end the transaction. Raises; nothing has changed then.
function Second:take()
  local ok, err = pcall(function()
    copy_tables(self)
    copy_marks(self)
  end)
  if not ok then
    self.store:undo()
    error(err, 0)
  end
  self.store:leave()
end

--- Release it.
function Second:close()
  self.store:close()
  remove(self.path)
end

return second
