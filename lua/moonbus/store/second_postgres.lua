--- A second read model on PostgreSQL: in a schema of its own, where a rebuild's connection looks
-- first, and whose tables are moved to where the first ones are. Readers see the first until then;
-- the move takes a moment, for which they wait.
local base = require "moonbus.base"
local core = require "moonbus.core"

local error, ipairs, pcall, setmetatable = base.error, base.ipairs, base.pcall, base.setmetatable

local second = {}

local Second = {}
Second.__index = Second

local function quoted(name)
  return '"' .. name:gsub('"', '""') .. '"'
end

-- What is set for each connection: the lock that shows that this rebuild lives, and the path.
local function prepare(self, tx)
  self.store.dialect.claim_rebuild(tx, self.name)
  local row = tx:one [[SELECT current_schema() AS target, current_setting('search_path') AS path]]
  if not row.target then
    error("ESTORE: there is no schema for tables in the search_path of this user", 0)
  end
  self.target = row.target
  self.schema = "moonbus_rebuild_" .. tx:one("SELECT md5(?) AS it", self.name).it
  if not self.id then
    tx:execute(("DROP SCHEMA IF EXISTS %s CASCADE"):format(self.schema))
    tx:execute("CREATE SCHEMA " .. self.schema)
  end
  tx:query("SELECT set_config('search_path', ?, false) AS it", self.schema .. ", " .. row.path)
  if not self.id then self.init(tx) end
end

--- Make one, empty. Raises.
function second.open(projection)
  local store = projection.store:twin()
  local self = setmetatable({ name = projection.name, init = projection.init, store = store },
    Second)
  store:on_connect(function(tx) prepare(self, tx) end)
  self.id = store:transaction(function()
    return store:id_of("projection " .. self.name, core.uuid())
  end)
  return self
end

--- Before a commit: handlers must not have written to tables that init did not make, as these are
-- the ones that everybody sees. Raises.
function Second:check()
  local row = self.store.tx:one([[SELECT schemaname || '.' || relname AS name
    FROM pg_stat_xact_user_tables WHERE schemaname <> ? AND relname NOT LIKE 'moonbus\_%'
    AND n_tup_ins + n_tup_upd + n_tup_del > 0]], self.schema)
  if row then
    error(("ESTORE: projection %s writes to %s, which its init does not make: that cannot be made "
      .. "a second time"):format(self.name, row.name), 0)
  end
end

--- Begin the transaction of the end, which keeps the projection's other writers out. Its positions:
-- list of { topic =, part =, position =, applied = }. Raises.
function Second:hold()
  local store = self.store
  local tx = store:enter(nil)
  tx:query(store.dialect.lock) -- no start may make tables meanwhile
  return tx:query([[SELECT topic, part, position, applied FROM moonbus_positions
    WHERE marks = (SELECT marks FROM moonbus_projections WHERE name = ? FOR UPDATE)]], self.name)
end

--- End it without effect.
function Second:release() self.store:undo() end

local KINDS = { v = "VIEW", m = "MATERIALIZED VIEW", r = "TABLE", p = "TABLE", S = "SEQUENCE" }

-- Sequences of columns go where their tables go; parts of tables are moved, but go with the whole.
local OBJECTS = [[SELECT c.relname AS name, c.relkind::text AS kind FROM pg_class c
  WHERE c.relnamespace = CAST(? AS regnamespace) AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
    AND NOT (c.relkind = 'S' AND EXISTS (SELECT FROM pg_depend d
             WHERE d.objid = c.oid AND d.deptype IN ('a', 'i')))
  ORDER BY CASE c.relkind WHEN 'v' THEN 1 WHEN 'm' THEN 2 ELSE 3 END, c.oid DESC]]

local RIGHTS = [[SELECT c.relname AS name, a.privilege_type AS what, a.is_grantable AS more,
    CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END AS who
  FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a LEFT JOIN pg_roles r
    ON r.oid = a.grantee
  WHERE c.relnamespace = CAST(? AS regnamespace) AND a.grantee <> c.relowner]]

local function move_tables(self)
  local tx, target = self.store.tx, quoted(self.target)
  local objects, moved = tx:query(OBJECTS, self.schema), {}
  local rights = tx:query(RIGHTS, target)
  for _, each in ipairs(objects) do
    tx:execute(("DROP %s IF EXISTS %s.%s"):format(KINDS[each.kind], target, quoted(each.name)))
  end
  for _, each in ipairs(objects) do
    moved[each.name] = KINDS[each.kind] == "SEQUENCE" and "SEQUENCE" or "TABLE"
    tx:execute(("ALTER %s %s.%s SET SCHEMA %s"):format(KINDS[each.kind], self.schema,
      quoted(each.name), target))
  end
  for _, each in ipairs(rights) do
    if moved[each.name] then
      tx:execute(("GRANT %s ON %s %s.%s TO %s%s"):format(each.what, moved[each.name], target,
        quoted(each.name), each.who, each.more and " WITH GRANT OPTION" or ""))
    end
  end
  tx:execute("DROP SCHEMA " .. self.schema) -- refused if init made anything else
end

--- Take the place of the first, and end the transaction. Raises; nothing has changed then.
function Second:take()
  local store = self.store
  local ok, err = pcall(function()
    move_tables(self)
    store:replace_marks(self.name, self.id)
  end)
  if not ok then
    store:undo()
    error(err, 0)
  end
  store:leave()
  self.taken = true
end

--- Release it.
function Second:close()
  if not self.taken then
    pcall(self.store.transaction, self.store, function(tx)
      tx:execute(("DROP SCHEMA IF EXISTS %s CASCADE"):format(self.schema))
    end)
  end
  self.store:close()
end

return second
