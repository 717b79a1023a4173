--- measure.lua: time, processor time and memory of this process, as one line of JSON.
local ffi = require "ffi"
local moonbus = require "moonbus"

ffi.cdef [[
typedef struct { long seconds, microseconds; } bench_time;
typedef struct { bench_time user, system; long others[14]; } bench_usage;
int getrusage(int who, bench_usage *usage);
int mallctl(const char *name, void *old, size_t *old_size, void *new, size_t new_size);
]]

local measure = {}
local usage = ffi.new "bench_usage"

function measure.cpu_seconds()
  ffi.C.getrusage(0, usage)
  return tonumber(usage.user.seconds + usage.system.seconds)
    + tonumber(usage.user.microseconds + usage.system.microseconds) / 1e6
end

local function status_kb(key)
  for line in io.lines "/proc/self/status" do
    local kb = line:match("^" .. key .. ":%s*(%d+)")
    if kb then return tonumber(kb) end
  end
end

--- The most memory this process ever had resident, in KiB.
function measure.peak_kb() return status_kb "VmHWM" end

--- What it has resident now, in KiB.
function measure.resident_kb() return status_kb "VmRSS" end

-- What jemalloc was asked for since the process began, or nil where the program has another.
local function allocations()
  local has_it, mallctl = pcall(function() return ffi.C.mallctl end)
  if not has_it then return nil end
  local value, size = ffi.new "uint64_t[1]", ffi.new("size_t[1]", 8)
  value[0] = 1
  mallctl("epoch", nil, nil, value, 8)
  local sum = 0
  for _, of in ipairs { "small", "large" } do
    if mallctl("stats.arenas.4096." .. of .. ".nrequests", value, size, nil, 0) ~= 0 then
      return nil
    end
    sum = sum + tonumber(value[0])
  end
  return sum
end

local start, start_cpu, start_allocations, stop, stop_cpu, stop_allocations, lua_bytes

function measure.start()
  start_allocations = allocations()
  start_cpu, start = measure.cpu_seconds(), moonbus.now()
end

function measure.stop()
  stop, stop_cpu = moonbus.now(), measure.cpu_seconds()
  stop_allocations = allocations()
end

local counted_from

--- Lua's own allocations are counted from the one call to the other, while nothing is collected.
function measure.count_lua()
  collectgarbage "stop"
  counted_from = collectgarbage "count"
end

function measure.lua_counted(events)
  lua_bytes = (collectgarbage "count" - counted_from) * 1024 / events
  collectgarbage "restart"
end

--- What was measured between start and stop; more: further members.
function measure.result(events, more)
  local result = { events = events, seconds = stop - start, cpu_seconds = stop_cpu - start_cpu,
                   start = start, stop = stop, peak_kb = measure.peak_kb(),
                   lua_bytes_per_event = lua_bytes,
                   allocations = start_allocations and stop_allocations - start_allocations }
  for key, value in pairs(more or {}) do result[key] = value end
  return result
end

function measure.print(events, more)
  print(moonbus.json.encode(measure.result(events, more)))
end

return measure
