-- shows   a worker that is killed at every step of an event's way, life after life, and what
--         its idempotent handler, or its projection, does to a database all the same
-- run     moonbus run tests/support/killed.lua, again and again, or with --workers 1
-- Its settings are in the environment, see tests/kafka/idempotent_spec.lua; each life adds a line
-- to the file `lives`, and the step it dies at to `kills`.
local ffi = require "ffi"
local moonbus = require "moonbus"

ffi.cdef "int getpid(void); int kill(int pid, int signal);"

local dir = assert(os.getenv "SPEC_DIR")
local STEPS = { "before handler", "before commit", "after handler", "after commit",
                "before handler", "after offsets" }
local ROUNDS = 3
local WORK_S = 0.005 -- of the handler, so that a step of the bus is a few dozen events

local function append(name, line)
  local file = assert(io.open(dir .. "/" .. name, "a"))
  file:write(line, "\n")
  file:close()
end

local function count_lines(name)
  local count = 0
  for _ in io.lines(dir .. "/" .. name) do count = count + 1 end
  return count
end

append("lives", "")
local life = count_lines "lives"
local step = life <= #STEPS * ROUNDS and STEPS[(life - 1) % #STEPS + 1]
local left = step and step:find "handler" and 1 + life * 7 % 13 or 1

local function at(name)
  if name ~= step then return end
  left = left - 1
  if left > 0 then return end
  append("kills", name)
  ffi.C.kill(ffi.C.getpid(), 9)
end

local function init(tx)
  tx:execute "CREATE TABLE IF NOT EXISTS effects (n INTEGER)"
end

local dsn = os.getenv "SPEC_DSN"
local projects = os.getenv "SPEC_HANDLER" == "projection"
local first = not projects and init or nil
local store = dsn and moonbus.stores.postgres { dsn = dsn, init = first }
  or moonbus.stores.sqlite { path = assert(os.getenv "SPEC_DB"), init = first }

-- Deaths around the database's commit, and once the offsets of committed events are on their way.
local enter, end_unit = store.enter, store.end_unit
local kept = false
function store.enter(self, ...)
  if kept and not self.open then at "after offsets" end
  return enter(self, ...)
end
function store.end_unit(self, ...)
  at "before commit"
  local ok, why = end_unit(self, ...)
  at "after commit"
  kept = kept or ok
  return ok, why
end

local Paid = moonbus.event("Paid", { aggregate_type = "Account", n = "integer" })

local bus = moonbus.bus {
  bootstrap_servers = os.getenv "SPEC_KAFKA",
  topic_prefix = os.getenv "SPEC_PREFIX",
  consumer_group = os.getenv "SPEC_PREFIX",
  delivery = os.getenv "SPEC_DELIVERY",
  group_instance_id = "one",
  max_retries = 100,
  retry_base_delay = 0.05,
  commit_interval_events = 1,
  commit_interval_ms = 1,
}

local function apply(event, tx)
  at "before handler"
  local until_s = moonbus.now() + WORK_S
  tx:execute("INSERT INTO effects (n) VALUES (?)", event.n)
  while moonbus.now() < until_s do end -- luacheck: ignore
  at "after handler"
end

if projects then
  bus:subscribe_all(moonbus.projection("effects", {
    store = store, init = init, handles = { [Paid] = apply },
  }))
else
  bus:subscribe(Paid, moonbus.idempotent(apply, { store = store }))
end
