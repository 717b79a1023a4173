--- whole.lua COUNT COMMAND: runs a command of the shell that publishes COUNT events; prints, as one
-- line of JSON, the time from its start to its end, its processor time and its peak of memory.
local ffi = require "ffi"
local moonbus = require "moonbus"

ffi.cdef [[
typedef struct { long seconds, microseconds; } whole_time;
typedef struct { whole_time user, system; long peak_kb, others[13]; } whole_usage;
int getrusage(int who, whole_usage *usage);
]]
local CHILDREN = -1

local count, command = assert(tonumber(arg[1])), assert(arg[2])
local start = moonbus.now()
local code = os.execute(command)
local seconds = moonbus.now() - start
local usage = ffi.new "whole_usage"
ffi.C.getrusage(CHILDREN, usage)
if code ~= 0 then
  io.stderr:write(("whole.lua: %s: exit status %s\n"):format(command, tostring(code)))
  os.exit(1)
end
print(moonbus.json.encode {
  events = count, seconds = seconds, peak_kb = tonumber(usage.peak_kb),
  cpu_seconds = tonumber(usage.user.seconds + usage.system.seconds)
    + tonumber(usage.user.microseconds + usage.system.microseconds) / 1e6,
})
