--- PostgreSQL through LuaDBI: what differs from other databases.
-- LuaDBI writes numbers with 14 digits and reads integers as 32 bits. So numbers are bound as text,
-- and a query is wrapped into one that gives each row as JSON.
local base = require "moonbus.base"
local core = require "moonbus.core"
local ffi = require "ffi"

local error, ipairs, pairs, setmetatable = base.error, base.ipairs, base.pairs, base.setmetatable
local table, tonumber, tostring, type = base.table, base.tonumber, base.tostring, base.type

local int64, uint64, double = ffi.typeof "int64_t", ffi.typeof "uint64_t", ffi.typeof "double"

local postgres = {
  name = "postgres", driver = "PostgreSQL", package = "lua-dbi-postgresql",
  begin = "BEGIN",
  -- Tables are made by one start at a time.
  lock = "SELECT 1 FROM (SELECT pg_advisory_xact_lock(7232617)) AS locked",
  share = "FOR SHARE", -- a row that is to stay as it is until the transaction ends
  hold = "FOR UPDATE", -- that no other transaction may lock so
  skip_locked = "FOR UPDATE SKIP LOCKED", -- what another worker sweeps is left to it
}

--- A value as it is bound. nil, nil, reason if it cannot be.
function postgres.bind(value)
  local kind = type(value)
  if kind == "string" then
    if value:find("\0", 1, true) then return nil, nil, "a text with a NUL in it has no place" end
    return value, false
  elseif kind == "boolean" then
    return value, false
  elseif kind == "number" then
    if value % 1 ~= 0 or value >= 2 ^ 63 or value < -2 ^ 63 then
      return ("%.17g"):format(value), false
    end
    -- LuaDBI writes a smaller one exactly
    return value < 1e14 and value > -1e14 and value or ("%.0f"):format(value), false
  elseif ffi.istype(int64, value) or ffi.istype(uint64, value) then
    return (tostring(value):gsub("U?LL$", "")), false
  elseif ffi.istype(double, value) then
    return ("%.17g"):format(tonumber(value)), false
  end
  return nil, nil, ("a %s has no place in a statement"):format(kind)
end

--- The statement with its placeholders.
function postgres.text(pieces)
  local parts = { pieces[1] }
  for _, piece in ipairs(pieces) do
    if piece:gsub("'[^']*'", ""):find("?", 1, true) then -- LuaDBI would make it a placeholder
      error("a name with a question mark in it cannot be used on PostgreSQL", 0)
    end
  end
  for i = 2, #pieces do parts[#parts + 1] = ("$%d%s"):format(i - 1, pieces[i]) end
  return table.concat(parts)
end

--- What reads the same rows as JSON.
function postgres.wrap(_, text)
  return ("WITH moonbus_row AS (%s) SELECT row_to_json(moonbus_row)::text FROM moonbus_row")
    :format(text)
end

--- A fetched row as a table by column name; NULLs are absent.
function postgres.row(fetched)
  local row = core.json_decode(fetched[1])
  for name, value in pairs(row) do
    if value == core.null then row[name] = nil end
  end
  return setmetatable(row, nil)
end

--- Connect. nil, reason if it cannot be.
function postgres.connect(driver, options, run)
  local conn, err
  if options.dsn then conn, err = driver.New(options.dsn)
  else
    conn, err = driver.New(options.dbname, options.user, options.password,
      options.host, options.port)
  end
  if not conn then return nil, err end
  conn:autocommit(true) -- LuaDBI's own transactions hide a commit that failed
  run(conn, "SET client_min_messages = error") -- notices would go to stderr
  run(conn, ("SET lock_timeout = %d"):format(options.busy_timeout_ms))
  return conn
end

local CLAIM_S = 3
local REBUILDS = 7232618 -- locks of rebuilds, with a number made of the projection's name

--- One rebuild of a projection at a time, as long as this connection lasts. The server may take a
-- moment to notice that another one is gone. Raises.
function postgres.claim_rebuild(tx, name)
  local deadline = core.now() + CLAIM_S
  repeat
    local row = tx:one("SELECT pg_try_advisory_lock(?, hashtext(?)) AS ok", REBUILDS, name)
    if row.ok then return end
    core.turn({}, 0.05)
  until core.now() > deadline
  error(("ESTORE: projection %s is being rebuilt already"):format(name), 0)
end

--- Whether the connection can be used.
function postgres.alive(conn) return conn:ping() end

local ADVICE = {
  { "connection", "connects again at the next use; is the server there?" },
  { "database closed", "connects again at the next use" },
  { "terminat", "connects again at the next use" },
  { "lock timeout", "another transaction holds it; busy_timeout_ms waits longer" },
  { "deadlock detected", "another transaction held what this one wants; it is tried again" },
  { "could not serialize", "it is tried again" },
  { "No space left", "the server's disk is full: make room" },
  { "disk full", "the server's disk is full: make room" },
}

--- What to do about an error, or nil.
function postgres.advice(message)
  for _, each in ipairs(ADVICE) do
    if message:find(each[1], 1, true) then return each[2] end
  end
end

return postgres
