-- worker.lua: what scripts/chaos lets loose on the events: handlers that do as the event says.
local ffi = require "ffi"
local moonbus = require "moonbus"

local exactly_once = os.getenv "CHAOS_DELIVERY" == "exactly_once"

local Step = moonbus.event("Step", {
  aggregate_type = "Key",
  { "seq", "integer" },
  { "mode", "string" },
})
local Effect = moonbus.event("Effect", { aggregate_type = "Key", { "seq", "integer" } })

local bus = moonbus.bus {
  topic_prefix = os.getenv "CHAOS_PREFIX",
  consumer_group = "chaos",
  delivery = os.getenv "CHAOS_DELIVERY",
  max_retries = 6,
  retry_base_delay = 0.05,
  retry_max_delay = 0.5,
  handler_timeout_ms = 2500,
  session_timeout_ms = 6000,
  heartbeat_interval_ms = 1000,
  reconnect_backoff_ms = 100,
  reconnect_backoff_max_ms = 2000,
  commit_interval_ms = 300,
  shutdown_timeout = 10,
  log_level = os.getenv "CHAOS_LOG" or "error",
}

-- One write(2) to a file opened for appending: it is there or not, whatever kills us, and the order
-- of the lines is the order of the effects over all workers.
ffi.cdef [[
int open(const char *path, int flags, int mode);
long write(int fd, const void *data, size_t size);
]]
local O_WRONLY, O_CREAT, O_APPEND = 1, 0x40, 0x400
local effects = ffi.C.open(os.getenv "CHAOS_EFFECTS", O_WRONLY + O_CREAT + O_APPEND,
  ffi.cast("int", 0x1a4))
assert(effects >= 0, "the file of effects cannot be opened")

local function take_effect(event)
  if exactly_once then
    assert(bus:publish(Effect { aggregate_id = event.aggregate_id, seq = event.seq }))
    return
  end
  local line = ("%s %d\n"):format(event.aggregate_id, event.seq)
  assert(ffi.C.write(effects, line, #line) == #line, "the effect was not written")
end

local modes = {}

function modes.fine() end

function modes.slow()
  moonbus.sleep(0.03)
end

-- Fails twice; in exactly-once mode after it published something that must not be seen.
function modes.fail(event, context)
  if context.attempt < 3 then
    if exactly_once then take_effect(event) end
    error("fails at attempt " .. context.attempt)
  end
end

function modes.dead(event)
  if exactly_once then take_effect(event) end
  error "fails always"
end

function modes.crash(_, context)
  if context.attempt < 2 then ffi.cast("int *", 8)[0] = 1 end
end

function modes.spin(_, context)
  local n = 0
  while context.attempt < 2 do n = n + 1 end
end

bus:subscribe(Step, function(event, context)
  modes[event.mode](event, context)
  take_effect(event)
end)
