-- shows   a projection for workers, and for rebuilds that are slow enough to be caught at work
-- run     moonbus run tests/support/projected.lua --workers 2
--         moonbus rebuild tests/support/projected.lua
-- Its settings are in the environment, see tests/kafka/projection_rebuild_spec.lua; with SPEC_SLOW
-- each event takes so many milliseconds, and is a line in the file `applied`.
local moonbus = require "moonbus"

local dir, dsn = assert(os.getenv "SPEC_DIR"), os.getenv "SPEC_DSN"
local slow_s = (tonumber(os.getenv "SPEC_SLOW") or 0) / 1000

local store = dsn and moonbus.stores.postgres { dsn = dsn }
  or moonbus.stores.sqlite { path = assert(os.getenv "SPEC_DB") }

local Paid = moonbus.event("Paid", { aggregate_type = "Account", n = "integer" })

local bus = moonbus.bus {
  bootstrap_servers = os.getenv "SPEC_KAFKA",
  topic_prefix = os.getenv "SPEC_PREFIX",
  consumer_group = os.getenv "SPEC_PREFIX",
  max_retries = 10,
  retry_base_delay = 0.05,
  log_level = "warn",
}

local applied = slow_s > 0 and io.open(dir .. "/applied", "a")

local function work(event)
  if slow_s == 0 then return end
  local until_s = moonbus.now() + slow_s
  while moonbus.now() < until_s do end -- luacheck: ignore
  applied:write(event.n, "\n")
  applied:flush()
end

bus:subscribe_all(moonbus.projection("accounts", {
  store = store,
  init = os.getenv "SPEC_IN_PLACE" == nil and function(tx)
    tx:execute [[CREATE TABLE IF NOT EXISTS accounts (id TEXT PRIMARY KEY, sum BIGINT NOT NULL,
      events INTEGER NOT NULL)]]
  end or nil,
  truncate = function(tx) tx:execute "DELETE FROM accounts" end,
  handles = { [Paid] = function(event, tx)
    work(event)
    tx:execute([[INSERT INTO accounts VALUES (?, ?, 1) ON CONFLICT (id) DO UPDATE
      SET sum = accounts.sum + excluded.sum, events = accounts.events + 1]], event.aggregate_id,
      event.n)
  end },
}))
