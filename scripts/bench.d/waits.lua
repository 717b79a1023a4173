-- waits.lua: the rate of handlers that wait side by side, on the embedded broker.
-- eval "$(scripts/setup --env)"; luajit scripts/bench.d/waits.lua [ROUNDS]
-- Prints, for each concurrency, events per second of a handler that sleeps 5 ms, and processor time
-- of the handling thread per event of one that does not wait: the best of the rounds.
local ffi = require "ffi"
local moonbus = require "moonbus"

ffi.cdef [[
typedef struct { long seconds, nanoseconds; } waits_time;
int clock_gettime(int clock, waits_time *now);
]]

local ROUNDS = tonumber(arg[1]) or 3
local KEYS, SLEEP_S, QUICK = 1000, 0.005, 40000
local THREAD_CPUTIME = 3

local Job = moonbus.event("Job", { aggregate_type = "Job", n = "integer" })

local now = ffi.new "waits_time"
local function clock()
  ffi.C.clock_gettime(THREAD_CPUTIME, now)
  return tonumber(now.seconds) + tonumber(now.nanoseconds) / 1e9
end

local function publish(bus, count)
  for from = 1, count, 1000 do
    local list = {}
    for n = from, math.min(from + 999, count) do
      list[#list + 1] = Job {
        aggregate_id = ("00000000-0000-4000-8000-%012d"):format(n % KEYS), n = n,
      }
    end
    assert(bus:publish(list))
  end
end

local round = 0

-- Wall and processor seconds from the first event to the last.
local function measure(concurrency, count, sleep_s)
  round = round + 1
  local bus = moonbus.bus {
    bootstrap_servers = "embedded", topic_prefix = "waits-" .. round, consumer_group = "waits",
    concurrency = concurrency, log_level = "error",
  }
  local done, began, busy, took, worked = 0, nil, nil, nil, nil
  bus:subscribe(Job, function(event)
    if not began then began, busy = moonbus.now(), clock() end
    if sleep_s > 0 then moonbus.sleep(sleep_s) end
    done = done + (event.n > 0 and 1 or 0)
    if done == count then
      took, worked = moonbus.now() - began, clock() - busy
      bus:stop_consuming()
    end
  end)
  assert(bus:connect())
  publish(bus, count)
  assert(bus:start_consuming())
  assert(bus:disconnect())
  return took, worked
end

for _, concurrency in ipairs { 1, 16, 256 } do
  local most, least = 0, math.huge
  local count = math.min(concurrency * 200, 20000)
  for _ = 1, ROUNDS do
    most = math.max(most, count / measure(concurrency, count, SLEEP_S))
    local _, worked = measure(concurrency, QUICK, 0)
    least = math.min(least, worked / QUICK)
  end
  print(("concurrency %3d: %6.0f events/s that sleep 5 ms; %.2f us of processor for one that does "
    .. "not wait"):format(concurrency, most, least * 1e6))
end
