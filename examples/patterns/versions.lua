-- Version checks: a handler applies only the next version of each aggregate.
--
-- shows   moonbus.expect_version, a read model that knows the version it is at
-- run     moonbus run examples/patterns/versions.lua --embedded --until-idle 2
--         DB=accounts.db moonbus run ...                 (keeps the read model in that file)
-- prints  3 changes applied
--         balance 60 at version 3, 1 dead letter: Account 00000000-0000-4000-8000-000000000001:
--         version 5 came, 4 is next and has not come

local DBI = require "DBI"
local moonbus = require "moonbus"

local BalanceChanged = moonbus.event("BalanceChanged", {
  aggregate_type = "Account", amount = "integer",
})

-- ---- the read model ----

local db = assert(DBI.Connect("SQLite3", os.getenv "DB" or ":memory:"))
db:autocommit(true)

local function sql(text)
  local statement = assert(db:prepare(text))
  return function(...)
    assert(statement:execute(...))
    return statement
  end
end

sql [[CREATE TABLE IF NOT EXISTS accounts (id TEXT PRIMARY KEY, balance INTEGER NOT NULL,
  version INTEGER NOT NULL)]] ()

-- The change and the version it brings are one statement: neither is there without the other.
local change = sql [[INSERT INTO accounts (id, balance, version) VALUES (?, ?, ?)
  ON CONFLICT (id) DO UPDATE SET balance = balance + excluded.balance, version = excluded.version]]
local account_of = sql "SELECT balance, version FROM accounts WHERE id = ?"

-- ---- the handler ----

local bus = moonbus.bus {
  bootstrap_servers = "embedded",
  topic_prefix = "versions",
  consumer_group = "versions",
  log_level = "error",
}

local applied = 0

local function apply(event)
  change(event.aggregate_id, event.amount, event.aggregate_version)
  applied = applied + 1
  print(applied .. (applied == 1 and " change" or " changes") .. " applied")
end

bus:subscribe(BalanceChanged, moonbus.expect_version(apply, {
  current = function(event)
    local row = account_of(event.aggregate_id):fetch(true)
    return row and row.version
  end,
  on_repeat = "skip", -- it is applied already: nothing is left to do
  on_gap = "dead", -- put aside until the missing version was found; then `moonbus dlq replay`
}))

-- ---- three changes, each of them once more, and one that comes without the one before it ----

local account = "00000000-0000-4000-8000-000000000001"

local function changed(version)
  return BalanceChanged {
    event_id = ("00000000-0000-4000-9000-%012d"):format(version),
    aggregate_id = account, aggregate_version = version, amount = version * 10,
  }
end

assert(bus:connect())
assert(bus:publish { changed(1), changed(2), changed(3) })
assert(bus:publish { changed(1), changed(2), changed(3), changed(5) })
assert(bus:start_consuming())

local row = account_of(account):fetch(true)
local letters = assert(bus:get_dlq_messages())
print(("balance %d at version %d, %d dead letter%s: %s"):format(row.balance, row.version, #letters,
  #letters == 1 and "" or "s", letters[#letters].headers.dlq_error_message))
assert(bus:disconnect())
