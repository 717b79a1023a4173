--- What a store remembers for handlers and projections, in the transaction of their writes: which
-- events were handled, and how far a projection has come. Methods of moonbus.store.database.
local base = require "moonbus.base"
local core = require "moonbus.core"

local error, ipairs, math, os, pairs = base.error, base.ipairs, base.math, base.os, base.pairs

local marks = {}

local methods = {}

local SWEEP_EVERY, SWEEP_S, SWEEP_MAX = 1000, 10, 5000 -- marks, seconds, rows at a time

-- ---- marks ----

--- The number of a handler's marks, made if it has none.
function methods:id_of(scope, handler)
  local key = scope .. "\0" .. handler
  local id = self.ids[key]
  if id then return id end
  local tx = self.tx
  local row = tx:one("SELECT id FROM moonbus_handlers WHERE scope = ? AND handler = ?", scope,
    handler)
  if not row then
    tx:execute("INSERT INTO moonbus_handlers (scope, handler) VALUES (?, ?) ON CONFLICT DO NOTHING",
      scope, handler)
    row = tx:one("SELECT id FROM moonbus_handlers WHERE scope = ? AND handler = ?", scope, handler)
    self.made[#self.made + 1] = row.id
  end
  self.ids[key] = row.id
  return row.id
end

--- Mark an event as handled, inside a frame; false if it was already. ttl: seconds, nil: for ever.
function methods:mark(scope, handler, event_id, ttl)
  return self:mark_by(self:id_of(scope, handler), event_id, ttl)
end

--- The same by the number that id_of gives.
function methods:mark_by(id, event_id, ttl)
  if ttl then
    local swept = self.swept[id]
    -- anywhere, so that a process that lives shortly does not sweep the same part for ever
    if not swept then self.swept[id] = { ttl = ttl, upto = core.uuid() }
    else swept.ttl = ttl end
    self.marks = self.marks + 1
  end
  return self.tx:execute("INSERT INTO moonbus_marks (handler, event_id, marked_at) "
    .. "VALUES (?, ?, ?) ON CONFLICT DO NOTHING", id, event_id, os.time()) == 1
end

--- Whether an event is marked.
function methods:marked(scope, handler, event_id)
  return self:transaction(function(tx)
    return tx:one("SELECT 1 AS it FROM moonbus_marks m JOIN moonbus_handlers h ON h.id = m.handler "
      .. "WHERE h.scope = ? AND h.handler = ? AND m.event_id = ?", scope, handler, event_id) ~= nil
  end)
end

local WINDOW = "SELECT max(event_id) AS last, count(*) AS n FROM (SELECT event_id FROM "
  .. "moonbus_marks WHERE handler = ? AND event_id > ? ORDER BY event_id LIMIT ?) AS following"
local SWEEP = "DELETE FROM moonbus_marks WHERE handler = ? AND event_id IN (SELECT event_id FROM "
  .. "moonbus_marks WHERE handler = ? AND event_id > ? AND event_id <= ? AND marked_at < ? %s)"

-- Delete marks that are too old, from a bounded stretch of the table, the next one each time: about
-- twice as many rows as were made since. So it needs no index by age, and stays near few pages.
local function sweep(self)
  local now = core.now()
  if self.marks == 0 or (self.marks < SWEEP_EVERY and now < self.sweep_at) then return end
  local most = math.min(2 * self.marks + 100, SWEEP_MAX)
  self.marks, self.sweep_at = 0, now + SWEEP_S
  for id, swept in pairs(self.swept) do
    local window = self.kept:query(WINDOW, id, swept.upto, most)[1]
    if window.last then
      self.kept:execute(SWEEP:format(self.dialect.skip_locked or ""), id, id, swept.upto,
        window.last, os.time() - swept.ttl)
    end
    swept.upto = window.n == most and window.last or ""
  end
end

-- ---- projections ----

-- A projection has its row in moonbus_projections: the number of its marks, which a rebuild
-- replaces, and whether it is passing, that is, leaves its events to a rebuild in place.
--
-- Marks decide whether an event is applied, position or not: a record below the position may be new
-- (a topic that was created again counts from 0 again), and one above it old (it was published
-- twice, or replayed). The position shows how far the read model is behind, and until where a
-- rebuild has to read before it may take the read model's place.

--- The row is there from now on; in a frame.
function methods:add_projection(name)
  local tx = self.tx
  if tx:one("SELECT name FROM moonbus_projections WHERE name = ?", name) then return end
  tx:execute("INSERT INTO moonbus_projections (name, marks, passing) VALUES (?, ?, 0) "
    .. "ON CONFLICT DO NOTHING", name, self:id_of("projection " .. name, core.uuid()))
end

--- A projection's row, which no rebuild changes until the transaction ends: { marks =, passing = }.
function methods:projection(name)
  local row = self.current[name]
  if row then return row end
  row = self.tx:one("SELECT marks, passing FROM moonbus_projections WHERE name = ? "
    .. (self.dialect.share or ""), name)
  if not row then
    error(("ESTORE: %s: projection %s is not in moonbus_projections; close the store, the next use "
      .. "makes it"):format(self.name, name), 0)
  end
  row.passing = row.passing ~= 0
  self.current[name] = row
  return row
end

--- Keep everybody else away from a projection until the transaction ends.
function methods:hold_projection(name)
  self.tx:query("SELECT marks FROM moonbus_projections WHERE name = ? "
    .. (self.dialect.hold or ""), name)
end

--- From here on the projection has these marks (nil: new, none yet); passing: see above.
function methods:replace_marks(name, id, passing)
  id = id or self:id_of("projection " .. name, core.uuid())
  self.tx:execute("UPDATE moonbus_projections SET marks = ?, passing = ? WHERE name = ?", id,
    passing and 1 or 0, name)
  self.current = {}
  return id
end

--- A projection is done with a record of its bus, in a frame that is kept.
function methods:moved(bus, id, partition, offset)
  local move = self.moves[id]
  if not move then
    move = { bus = bus, topic = bus.config.topic_name, applied = {} }
    self.moves[id] = move
  end
  local applied = move.applied
  if offset >= (applied[partition] or 0) then applied[partition] = offset + 1 end
end

local MOVE = [[INSERT INTO moonbus_positions (marks, topic, part, position, applied)
  VALUES (?, ?, ?, ?, ?) ON CONFLICT (marks, topic, part) DO UPDATE SET
  position = CASE WHEN excluded.position < 0 THEN moonbus_positions.position
                  ELSE excluded.position END,
  applied = CASE WHEN excluded.applied < moonbus_positions.applied THEN moonbus_positions.applied
                 ELSE excluded.applied END]]

--- How far a projection is: below position all is settled (-1: not known), at applied and after
-- nothing was applied yet. In a frame.
function methods:set_position(id, topic, partition, position, applied)
  self.kept:execute(MOVE, id, topic, partition, position, applied)
end

--- The positions of a projection by its marks: list of { topic =, part =, position =, applied = }.
function methods:positions(id)
  return self.tx:query("SELECT topic, part, position, applied FROM moonbus_positions "
    .. "WHERE marks = ? ORDER BY topic, part", id)
end

local UNUSED = "SELECT id FROM moonbus_handlers WHERE scope = ? AND id <> "
  .. "(SELECT marks FROM moonbus_projections WHERE name = ?)"
local SOME = "DELETE FROM moonbus_marks WHERE handler = ? AND event_id IN (SELECT event_id FROM "
  .. "moonbus_marks WHERE handler = ? ORDER BY event_id LIMIT ?)"

--- Delete the marks and positions that rebuilds of a projection left unused, in small transactions.
function methods:sweep_unused(name)
  local scope = "projection " .. name
  for _, row in ipairs(self:transaction(function(tx) return tx:query(UNUSED, scope, name) end)) do
    local function some(tx) return tx:execute(SOME, row.id, row.id, SWEEP_MAX) end
    repeat until self:transaction(some) < SWEEP_MAX
    self:transaction(function(tx)
      tx:execute("DELETE FROM moonbus_positions WHERE marks = ?", row.id)
      tx:execute("DELETE FROM moonbus_handlers WHERE id = ?", row.id)
    end)
  end
end

-- ---- within transactions ----

--- A transaction begins, or was undone.
function methods:forget()
  self.current, self.moves, self.made = {}, {}, {}
end

--- A transaction was undone, or a part of it: numbers that were made in it may be given to others,
-- whose marks are not to be swept by the ttl of the first.
function methods:undone()
  for _, id in ipairs(self.made) do self.swept[id] = nil end
  self.ids, self.current, self.made = {}, {}, {}
end

--- The last that is done in a transaction.
function methods:before_commit()
  for id, move in pairs(self.moves) do
    for partition, applied in pairs(move.applied) do
      self:set_position(id, move.topic, partition, move.bus.native:low_water(partition) or -1,
        applied)
    end
  end
  sweep(self)
end

--- Give a class these methods.
function marks.install(class)
  for name, method in pairs(methods) do class[name] = method end
end

return marks
