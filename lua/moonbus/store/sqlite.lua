--- SQLite through LuaDBI: what differs from other databases.
-- LuaDBI binds every number as a double, and reads integers as 32 bits and texts up to a NUL. So
-- whole numbers are cast where they are bound, and a query is wrapped into one that gives values as
-- text with their type in front.
local base = require "moonbus.base"
local ffi = require "ffi"

local ipairs, string, table, tonumber = base.ipairs, base.string, base.table, base.tonumber
local tostring, type = base.tostring, base.type

local int64, uint64, double = ffi.typeof "int64_t", ffi.typeof "uint64_t", ffi.typeof "double"

local sqlite = {
  name = "sqlite", driver = "SQLite3", package = "lua-dbi-sqlite3",
  begin = "BEGIN IMMEDIATE", -- a transaction that would have to be upgraded could not wait its turn
  closes_failed = true, -- LuaDBI repeats the error of a statement that failed once
}

local WHOLE_MAX = 2 ^ 53

--- A value as it is bound, and whether it is to be an integer. nil, nil, reason if it cannot be.
function sqlite.bind(value)
  local kind = type(value)
  if kind == "string" or kind == "boolean" then return value, false end
  if kind == "number" then
    return value, value % 1 == 0 and value <= WHOLE_MAX and value >= -WHOLE_MAX
  elseif ffi.istype(int64, value)
    or ffi.istype(uint64, value) and value <= 0x7fffffffffffffffULL then
    return (tostring(value):gsub("U?LL$", "")), true
  elseif ffi.istype(double, value) then
    return tonumber(value), false
  end
  return nil, nil, ffi.istype(uint64, value) and "a number beyond 64 bits with sign"
    or ("a %s has no place in a statement"):format(kind)
end

--- The statement with its placeholders; whole[i]: the i-th value is an integer.
function sqlite.text(pieces, whole)
  local parts = { pieces[1] }
  for i = 2, #pieces do
    -- the plus takes away the affinity of the cast: what is compared is what was given
    parts[#parts + 1] = whole[i - 1] and "+CAST(? AS INTEGER)" or "?"
    parts[#parts + 1] = pieces[i]
  end
  return table.concat(parts)
end

local READS = { SELECT = true, VALUES = true, WITH = true }

--- What reads the same rows, each value marked with its type, and the names of the columns. nil and
-- a reason when it cannot be wrapped; columns(text): asks the database for the names.
function sqlite.wrap(parsed, text, columns)
  if not READS[parsed.verb] then
    return nil, ("rows cannot be read from %s; change with tx:execute, then read with SELECT")
      :format(parsed.verb == "PRAGMA" and "PRAGMA" or parsed.verb .. " ... RETURNING")
  end
  local names = columns(text)
  local list, marked = {}, {}
  for i = 1, #names do
    local c = "c" .. i
    list[i] = c
    marked[i] = ("CASE typeof(%s) WHEN 'integer' THEN 'i'||%s WHEN 'text' THEN CASE "
      .. "instr(%s, char(0)) WHEN 0 THEN 's'||%s ELSE 'b'||hex(%s) END "
      .. "WHEN 'blob' THEN 'b'||hex(%s) ELSE %s END"):format(c, c, c, c, c, c, c)
  end
  return ("WITH moonbus_row(%s) AS (%s) SELECT %s FROM moonbus_row"):format(
    table.concat(list, ","), text, table.concat(marked, ",")), names
end

local function whole(digits)
  if #digits <= 15 then return tonumber(digits) end
  local sign, head, tail = digits:match "^(%-?)(%d*)(%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d)$"
  local high, low = tonumber(head == "" and "0" or head), tonumber(tail)
  local exact = ffi.cast(int64, high) * 1000000000000000LL + ffi.cast(int64, low)
  if sign == "-" then exact = -exact end
  local near = tonumber(exact)
  return near < WHOLE_MAX and near > -WHOLE_MAX and near or exact
end

local function unhex(text)
  return (text:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

--- A fetched row as a table by column name; NULLs are absent.
function sqlite.row(fetched, names)
  local row = {}
  for i = 1, #names do
    local value = fetched[i]
    if type(value) == "string" then
      local mark, rest = value:byte(), value:sub(2)
      if mark == 105 then value = whole(rest) -- i
      elseif mark == 98 then value = unhex(rest) -- b
      else value = rest end
    end
    row[names[i]] = value
  end
  return row
end

--- Open the file. nil, reason if it cannot be.
function sqlite.connect(driver, options, run)
  local conn, err = driver.New(options.path)
  if not conn then return nil, err end
  conn:autocommit(true)
  run(conn, ("PRAGMA busy_timeout = %d"):format(options.busy_timeout_ms))
  -- A file for one process alone, and of no use once that is gone: see second_sqlite.lua.
  if options.scratch then run(conn, "PRAGMA main.locking_mode = EXCLUSIVE") end
  -- Readers do not wait for the writer, and a commit is one sync.
  run(conn, "PRAGMA journal_mode = WAL")
  -- A killed process loses nothing either way. With NORMAL a power cut takes back commits whose
  -- offsets Kafka may hold already: those events would be lost. A sync per batch is cheap.
  run(conn, "PRAGMA synchronous = FULL")
  if options.scratch then run(conn, "PRAGMA main.synchronous = OFF") end
  -- Marks go all over their table: a unit's pages should fit, and not be copied at every commit.
  run(conn, "PRAGMA cache_size = -32000")
  run(conn, "PRAGMA wal_autocheckpoint = 10000")
  return conn
end

--- Whether the connection can be used: a file does not go away.
function sqlite.alive() return true end

local ADVICE = {
  { "is locked", "another connection writes; busy_timeout_ms waits longer" },
  { "is full", "the disk, or the limit set for the file, is full: make room" },
  { "disk I/O error", "look at the disk and the file's rights" },
  { "unable to open", "the folder must exist and be writable" },
  { "readonly", "the file and its folder must be writable" },
  { "not a database", "the file is something else; give another path" },
  { "malformed", "the file is damaged; restore it" },
}

--- What to do about an error, or nil.
function sqlite.advice(message)
  for _, each in ipairs(ADVICE) do
    if message:find(each[1], 1, true) then return each[2] end
  end
end

return sqlite
