--- measure.lua: time, processor time and memory of this process, as one line of JSON.
local ffi = require "ffi"
local moonbus = require "moonbus"

ffi.cdef [[
typedef struct { long seconds, microseconds; } bench_time;
typedef struct { bench_time user, system; long others[14]; } bench_usage;
int getrusage(int who, bench_usage *usage);
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

local start, start_cpu, stop, stop_cpu

function measure.start()
  start_cpu, start = measure.cpu_seconds(), moonbus.now()
end

function measure.stop()
  stop, stop_cpu = moonbus.now(), measure.cpu_seconds()
end

--- What was measured between start and stop; more: further members.
function measure.result(events, more)
  local result = { events = events, seconds = stop - start, cpu_seconds = stop_cpu - start_cpu,
                   start = start, stop = stop, peak_kb = measure.peak_kb() }
  for key, value in pairs(more or {}) do result[key] = value end
  return result
end

function measure.print(events, more)
  print(moonbus.json.encode(measure.result(events, more)))
end

return measure
