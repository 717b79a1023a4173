--- workers.lua: scripts/bench's case of several workers: moonbus run workers.lua --workers N.
-- Each worker adds a line to BENCH_OUT for every assignment it had: events, first, last (seconds),
-- processor seconds, peak memory. Until it shares the partitions with the others it goes slowly, so
-- that the last assignment has nearly all of the events.
local dir = assert(os.getenv "BENCH_DIR")
local ffi = require "ffi"
local measure = dofile(dir .. "/measure.lua")
local moonbus = require "moonbus"

local workers, partitions = tonumber(os.getenv "BENCH_WORKERS"), 4
local seen, alone = 0, true

local OrderPlaced = moonbus.event("OrderPlaced", {
  aggregate_type = "Order",
  { "customer_id", "string" },
  { "total_amount", "number" },
  { "currency", "string" },
  { "sent_us", "integer" },
})

local bus = moonbus.bus {
  topic_prefix = os.getenv "BENCH_PREFIX",
  consumer_group = os.getenv "BENCH_GROUP",
  heartbeat_interval_ms = 200, -- how soon a member hears of another
  log_level = "error",
  on_assigned = function(list)
    seen, alone = 0, #list > partitions / workers
  end,
  on_revoked = function()
    if seen == 0 then return end
    local file = assert(io.open(os.getenv "BENCH_OUT", "a"))
    file:write(moonbus.json.encode(measure.result(seen, { alone = alone })), "\n")
    file:close()
  end,
}

ffi.cdef [[ int usleep(unsigned int microseconds); ]]

local sum = 0
bus:subscribe(OrderPlaced, function(event)
  if event.customer_id ~= "" then sum = sum + event.total_amount end
  seen = seen + 1
  if seen == 1 then measure.start() end
  if alone then ffi.C.usleep(5000) end
  if alone or seen % 100 == 0 then measure.stop() end
end)
