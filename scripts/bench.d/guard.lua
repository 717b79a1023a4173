-- guard.lua: what limits on handlers cost, on the embedded broker.
-- eval "$(scripts/setup --env)"; luajit scripts/bench.d/guard.lua [EVENTS] [ROUNDS]
-- Prints processor time per event of the thread that handles, from the first event to the last: the
-- least of the rounds, which take turns.
local ffi = require "ffi"
local moonbus = require "moonbus"

ffi.cdef [[
typedef struct { long seconds, nanoseconds; } guard_time;
int clock_gettime(int clock, guard_time *now);
]]

local EVENTS, ROUNDS = tonumber(arg[1]) or 40000, tonumber(arg[2]) or 3
local THREAD_CPUTIME = 3

local Job = moonbus.event("Job", { aggregate_type = "Job", n = "integer", name = "string" })

local handlers = {
  { "two fields read", function(event) return event.n + #event.name end },
  { "50 tables made", function(event)
    local list = {}
    for i = 1, 50 do list[i] = { i, event.n } end
    return #list
  end },
  { "2000 rounds of arithmetic", function(event)
    local sum = 0
    for i = 1, 2000 do sum = (sum + i * event.n) % 7 end
    return sum
  end },
}

local guards = {
  { "fast", {} },
  { "memory", { lua_memory_max_bytes = 4e9 } },
  { "strict", { guard = "strict", handler_timeout_ms = 60000 } },
}

local now = ffi.new "guard_time"
local function clock()
  ffi.C.clock_gettime(THREAD_CPUTIME, now)
  return tonumber(now.seconds) + tonumber(now.nanoseconds) / 1e9
end

local function publish(bus)
  for from = 1, EVENTS, 1000 do
    local list = {}
    for n = from, math.min(from + 999, EVENTS) do
      list[#list + 1] = Job { aggregate_id = moonbus.uuid(), n = n, name = "CUST-001" }
    end
    assert(bus:publish(list))
  end
end

-- Microseconds per event.
local function measure(handler, limits)
  local options = { bootstrap_servers = "embedded", topic_prefix = "guard-" .. moonbus.uuid(),
    consumer_group = "guard", fetch_wait_max_ms = 10, log_level = "error" }
  for key, value in pairs(limits) do options[key] = value end
  local bus = moonbus.bus(options)
  local count, began, took = 0, nil, nil
  bus:subscribe(Job, function(event)
    count = count + 1
    began = began or clock()
    handler(event)
    if count == EVENTS then
      took = clock() - began
      bus:stop_consuming()
    end
  end)
  assert(bus:connect())
  publish(bus)
  collectgarbage()
  assert(bus:start_consuming())
  bus:disconnect()
  return took / EVENTS * 1e6
end

print(("%-26s %s"):format("us per event", "fast   memory         strict"))
for _, row in ipairs(handlers) do
  local least = {}
  for _ = 1, ROUNDS do
    for _, guard in ipairs(guards) do
      local took = measure(row[2], guard[2])
      least[guard[1]] = math.min(least[guard[1]] or math.huge, took)
    end
  end
  print(("%-26s %5.2f  %5.2f (x%.1f)  %5.2f (x%.1f)"):format(row[1], least.fast, least.memory,
    least.memory / least.fast, least.strict, least.strict / least.fast))
end
