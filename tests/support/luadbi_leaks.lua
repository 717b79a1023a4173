--- What LuaDBI loses, without moonbus: luajit tests/support/luadbi_leaks.lua [DSN of a PostgreSQL]
-- prints how many bytes stay allocated for each failure, once the collector has been everywhere.
local DBI = require "DBI"
local ffi = require "ffi"

ffi.cdef [[
typedef struct { size_t arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks,
                 keepcost; } luadbi_mallinfo;
luadbi_mallinfo mallinfo2(void);
]]

local TIMES = 100

-- LuaJIT's own memory is not malloc's.
local function allocated()
  for _ = 1, 3 do collectgarbage() end
  return tonumber(ffi.C.mallinfo2().uordblks)
end

local function measure(what, fail)
  fail()
  local before = allocated()
  for _ = 1, TIMES do fail() end
  print(("%-40s %6.0f bytes"):format(what, (allocated() - before) / TIMES))
end

local function refused(...)
  local made, why = DBI.Connect(...)
  assert(not made and why, "this should have failed")
end

local function failing(connection, text)
  local statement = assert(connection:prepare(text))
  return function() assert(not statement:execute()) end
end

measure("SQLite: a file that cannot be opened", function() refused("SQLite3", "/nowhere/a.db") end)
measure("SQLite: a file that can", function() DBI.Connect("SQLite3", ":memory:"):close() end)
measure("PostgreSQL: a server that is not there", function()
  refused("PostgreSQL", "host=/nowhere dbname=none")
end)
if arg[1] then
  measure("PostgreSQL: a server that is", function() DBI.Connect("PostgreSQL", arg[1]):close() end)
  local connection = assert(DBI.Connect("PostgreSQL", arg[1]))
  connection:autocommit(true)
  measure("PostgreSQL: a statement that fails", failing(connection, "SELECT 1 / (SELECT 0)"))
  local fine = assert(connection:prepare "SELECT 1")
  measure("PostgreSQL: one that does not", function() assert(fine:execute()) end)
end
