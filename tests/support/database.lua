--- A database for programs that a spec runs, and the spec's way to ask it what is in there.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"

local database = {}

--- on: "SQLite" (a file in dir) or "PostgreSQL" (a schema of its own on the server). What to give
-- the environment of programs (a list of NAME=value: SPEC_DB, a path, or SPEC_DSN), and a function
-- that runs SQL, %s standing before each table's name, and returns what psql or sqlite3 prints.
function database.of(on, server, dir)
  if on == "PostgreSQL" then
    local schema = "spec_" .. moonbus.uuid():gsub("-", "")
    server:sql("CREATE SCHEMA " .. schema)
    return { ("SPEC_DSN=%s options=-csearch_path=%s"):format(server.dsn, schema) },
      function(text) return server:sql(text:format(schema .. ".")) end
  end
  local path = dir .. "/spec.db"
  return { "SPEC_DB=" .. path }, function(text)
    return (kafka.run { "sqlite3", "-cmd", ".timeout 20000", path, text:format("") }
      :gsub("%s+$", ""))
  end
end

return database
