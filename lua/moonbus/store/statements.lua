--- The prepared statements of one connection, by their texts.
local base = require "moonbus.base"
local sql = require "moonbus.store.sql"
local values = require "moonbus.values"

local error, ipairs, pairs, pcall = base.error, base.ipairs, base.pairs, base.pcall
local select, setmetatable, tostring = base.select, base.setmetatable, base.tostring
local unpack = base.unpack

local statements = {}

local Statements = {}
Statements.__index = Statements

local TEXTS_MAX = 256 -- kept prepared
local BITS = 50 -- kinds of values that fit a number

-- What changes rows: for anything else LuaDBI returns the count of the statement before.
local CHANGES = { INSERT = true, UPDATE = true, DELETE = true, REPLACE = true, WITH = true,
                  MERGE = true }

--- Those of a LuaDBI connection.
function statements.new(conn, dialect)
  return setmetatable({ conn = conn, dialect = dialect, entries = {}, count = 0 }, Statements)
end

-- LuaDBI raises some errors and returns others; here all are raised, as text.
local function prepare(conn, text)
  local ok, statement, err = pcall(conn.prepare, conn, text)
  if not ok then err = statement end
  if not ok or not statement then error(err or "cannot be prepared", 0) end
  return statement
end

local function execute(statement, ...)
  local ok, done, err = pcall(statement.execute, statement, ...)
  if ok and done then return true end
  return nil, tostring(ok and err or done)
end

local function fetch_all(statement, into, row, names)
  local count = 0
  local fetched = statement:fetch(false)
  while fetched do
    count = count + 1
    if into then into[count] = row(fetched, names) end
    fetched = statement:fetch(false)
  end
  return count
end

--- Run a text once, without keeping it; raises what the database says.
function statements.once(conn, text)
  local statement = prepare(conn, text)
  local ok, err = execute(statement)
  if ok then ok, err = pcall(fetch_all, statement) end
  statement:close()
  if not ok then error(err, 0) end
end

local function close_all(self)
  for _, entry in pairs(self.entries) do
    for _, kept in ipairs { entry.changing, entry.reading } do
      for _, statement in pairs(kept) do pcall(statement.close, statement) end
    end
  end
  self.entries, self.count = {}, 0
end

Statements.close = close_all

local function entry_of(self, text)
  local entry = self.entries[text]
  if entry then return entry end
  local parsed, why = sql.parse(text)
  if not parsed then error(why, 0) end
  if self.count >= TEXTS_MAX then close_all(self) end
  entry = {
    parsed = parsed, count = #parsed.pieces - 1, changing = {}, reading = {},
    changes = CHANGES[parsed.verb] or false,
  }
  self.entries[text] = entry
  self.count = self.count + 1
  return entry
end

local function columns(self, text)
  local statement = prepare(self.conn, text)
  local names = statement:columns()
  statement:close()
  return names
end

-- The statement of an entry for values of these kinds (whole[i]: the i-th is an integer).
local function statement_of(self, entry, kept, signature, whole)
  local statement = kept[signature]
  if statement then return statement end
  local text = self.dialect.text(entry.parsed.pieces, whole)
  if kept == entry.reading then
    local wrapped, names = self.dialect.wrap(entry.parsed, text, function(plain)
      return columns(self, plain)
    end)
    if not wrapped then error(names, 0) end
    text, entry.names = wrapped, names
  end
  statement = prepare(self.conn, text)
  kept[signature] = statement
  return statement
end

local bound, whole = {}, {} -- of the statement in hand

-- Fill them; what the kinds of the values are, in one word.
local function bind(self, n, ...)
  local signature, null = 0, values.null
  for i = 1, n do
    local value = (select(i, ...))
    local integer, why = false
    if value == null then value = nil end
    if value ~= nil then
      value, integer, why = self.dialect.bind(value)
      if why then error(("value %d: %s"):format(i, why), 0) end
    end
    bound[i], whole[i] = value, integer
    if i == BITS + 1 then signature = ("%.0f"):format(signature) end
    if i > BITS then signature = signature .. (integer and "1" or "0")
    else signature = signature * 2 + (integer and 1 or 0) end
  end
  return signature
end

local function run(self, entry, kept, n, ...)
  if n ~= entry.count then
    error(("the statement has %d placeholders, and %d values are given"):format(entry.count, n), 0)
  end
  local signature = bind(self, n, ...)
  local statement = statement_of(self, entry, kept, signature, whole)
  local ok, err = execute(statement, unpack(bound, 1, n))
  if ok then return statement, signature end
  if self.dialect.closes_failed then
    kept[signature] = nil
    statement:close()
  end
  error(err, 0)
end

--- Execute a text; how many rows it changed.
function Statements:execute(text, ...)
  local entry = entry_of(self, text)
  local statement = run(self, entry, entry.changing, select("#", ...), ...)
  if entry.yields == nil then entry.yields = #statement:columns() > 0 end
  -- rows that are not fetched would keep the statement, and what it reads, open
  local rows = entry.yields and fetch_all(statement)
  if not entry.changes then return 0 end
  return rows or statement:affected()
end

--- Execute a text; its rows, each a table by column name.
function Statements:query(text, ...)
  local entry = entry_of(self, text)
  local statement = run(self, entry, entry.reading, select("#", ...), ...)
  local rows = values.array {}
  fetch_all(statement, rows, self.dialect.row, entry.names)
  return rows
end

return statements
