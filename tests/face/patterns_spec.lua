-- The patterns of idempotent handlers, given the same again: their events are published twice, and
-- their process is killed before it commits anything, so that the next one is given all of them.
local DBI = require "DBI"
local process = require "tests.support.process"
local support = require "tests.support.bus"
local tmp = require "tests.support.tmp"

local examples = assert(os.getenv "MOONBUS_SOURCE", "MOONBUS_SOURCE is not set")
  .. "/examples/patterns/"
local SECONDS = 120

-- A pattern on a broker and with a file of its own.
local function pattern(name)
  local self = { broker = support.broker(), db = tmp.dir() .. "/model.db" }

  -- Only what is asked for is committed: nothing for an hour.
  function self.start(...)
    return process.start(process.moonbus("run", examples .. name .. ".lua",
      "--bootstrap-servers", self.broker.address, "--set", "commit_interval_ms=3600000",
      "--set", "session_timeout_ms=6000", "--set", "heartbeat_interval_ms=1000",
      "--set", "fetch_wait_max_ms=10", ...), { env = { DB = self.db } })
  end

  -- What the read model holds, row by row.
  function self.rows(query)
    local db = assert(DBI.Connect("SQLite3", self.db))
    local statement = assert(db:prepare(query))
    assert(statement:execute())
    local list = {}
    for row in statement:rows(false) do list[#list + 1] = table.concat(row, " ") end
    statement:close() -- SQLite keeps a connection open as long as it has one
    db:close()
    return list
  end

  -- How many records the topic holds.
  function self.records()
    return #self.broker:consume(name .. ".stream")
  end

  return self
end

local function ended_well(run)
  run:wait(SECONDS)
  assert.equal(0, run.code, run.stdout .. run.stderr)
  return run.stdout
end

describe("a handler with", function()
  teardown(function()
    process.clean()
    tmp.clean()
  end)

  it("natural idempotency gives the same rows, however often its events come", function()
    local natural = pattern "natural"
    local rows = {
      "00000000-0000-4000-8000-000000000001 10 1", "00000000-0000-4000-8000-000000000002 20 0",
      "00000000-0000-4000-8000-000000000003 30 0",
    }
    local query = "SELECT id, total, shipped FROM orders ORDER BY id"
    local first = natural.start()
    first:wait_for("8 events handled", SECONDS)
    assert.equal(process.SIGKILL, first:stop(process.SIGKILL).killed_by)
    assert.same(rows, natural.rows(query))
    local second = ended_well(natural.start("--until-idle", "2"))
    assert.equal(16, natural.records())
    assert.matches("\n16 events handled\n", second) -- all of the first one's came again
    assert.matches("\norders 3, total 60, shipped 1\n", second)
    assert.same(rows, natural.rows(query))
    local third = ended_well(natural.start("--until-idle", "2"))
    assert.matches("\n8 events handled\norders 3, total 60, shipped 1\n", third)
    assert.same(rows, natural.rows(query))
  end)

  it("marks by event id adds each event up once, however often it comes", function()
    local dedup = pattern "dedup"
    local query = "SELECT orders, total FROM sales"
    local first = dedup.start()
    first:wait_for(function()
      local made, rows = pcall(dedup.rows, query) -- until then there is no such table
      return made and rows[1] == "3 60"
    end, SECONDS)
    assert.equal(process.SIGKILL, first:stop(process.SIGKILL).killed_by)
    assert.equal("3 orders, total 60\n", ended_well(dedup.start("--until-idle", "2")))
    assert.equal(12, dedup.records())
    assert.same({ "3 60" }, dedup.rows(query))
  end)

  it("version checks applies each change once, however often its events come", function()
    local versions = pattern "versions"
    local rows = { "00000000-0000-4000-8000-000000000001 60 3" }
    local query = "SELECT id, balance, version FROM accounts"
    local first = versions.start()
    -- the last of them, the gap, is a dead letter: all before it was handled
    first:wait_for(function()
      -- until the topic is there, kcat may write an error
      local read, letters = pcall(versions.broker.consume, versions.broker, "versions.stream.dlq")
      return read and #letters == 1
    end, SECONDS)
    assert.equal(process.SIGKILL, first:stop(process.SIGKILL).killed_by)
    assert.matches("3 changes applied\n", first.stdout)
    assert.same(rows, versions.rows(query))
    local second = ended_well(versions.start("--until-idle", "2"))
    assert.equal(14, versions.records())
    assert.not_matches("applied\n", second)
    assert.matches("balance 60 at version 3, 3 dead letters: Account ", second)
    assert.same(rows, versions.rows(query))
  end)
end)
