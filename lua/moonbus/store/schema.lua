--- The tables that stores keep for themselves, made and brought up to date when a store connects.
-- Append steps, never change one: databases out there have taken the earlier ones.
local base = require "moonbus.base"

local ipairs = base.ipairs

local schema = {}

-- step number -> dialect -> statements
local STEPS = {
  {
    sqlite = {
      [[CREATE TABLE moonbus_handlers (
          id INTEGER PRIMARY KEY, scope TEXT NOT NULL, handler TEXT NOT NULL,
          UNIQUE (scope, handler))]],
      [[CREATE TABLE moonbus_marks (
          handler INTEGER NOT NULL, event_id TEXT NOT NULL, marked_at INTEGER NOT NULL,
          PRIMARY KEY (handler, event_id)) WITHOUT ROWID]],
    },
    postgres = {
      [[CREATE TABLE moonbus_handlers (
          id INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
          scope TEXT NOT NULL, handler TEXT NOT NULL, UNIQUE (scope, handler))]],
      [[CREATE TABLE moonbus_marks (
          handler INTEGER NOT NULL, event_id TEXT NOT NULL, marked_at BIGINT NOT NULL,
          PRIMARY KEY (handler, event_id))]],
    },
  },
  {
    sqlite = {
      [[CREATE TABLE moonbus_projections (
          name TEXT PRIMARY KEY, marks INTEGER NOT NULL, passing INTEGER NOT NULL)]],
      [[CREATE TABLE moonbus_positions (
          marks INTEGER NOT NULL, topic TEXT NOT NULL, part INTEGER NOT NULL,
          position INTEGER NOT NULL, applied INTEGER NOT NULL,
          PRIMARY KEY (marks, topic, part)) WITHOUT ROWID]],
    },
    postgres = {
      [[CREATE TABLE moonbus_projections (
          name TEXT PRIMARY KEY, marks INTEGER NOT NULL, passing INTEGER NOT NULL)]],
      [[CREATE TABLE moonbus_positions (
          marks INTEGER NOT NULL, topic TEXT NOT NULL, part INTEGER NOT NULL,
          position BIGINT NOT NULL, applied BIGINT NOT NULL,
          PRIMARY KEY (marks, topic, part))]],
    },
  },
}

--- Bring the database up to date, inside a transaction that no other start runs beside.
-- tx: of that transaction; dialect: "sqlite" or "postgres". A reason if it cannot be.
function schema.migrate(tx, dialect)
  tx:execute "CREATE TABLE IF NOT EXISTS moonbus_schema (version INTEGER NOT NULL)"
  local row = tx:one "SELECT version FROM moonbus_schema"
  local version = row and row.version or 0
  if version == #STEPS then return end
  if version > #STEPS then
    return ("its tables are of version %d, made by a newer moonbus; this one knows %d")
      :format(version, #STEPS)
  end
  for step = version + 1, #STEPS do
    for _, statement in ipairs(STEPS[step][dialect]) do tx:execute(statement) end
  end
  if row then tx:execute("UPDATE moonbus_schema SET version = ?", #STEPS)
  else tx:execute("INSERT INTO moonbus_schema (version) VALUES (?)", #STEPS) end
end

return schema
