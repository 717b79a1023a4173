-- shows   workers that die with an event in hand: one event crashes its worker, one spins
--         for ever in compiled code, one eats memory; each becomes a dead letter, the others are
--         handled
-- run     moonbus run tests/support/poison.lua --workers 2
-- prints  handled 97 of 97, dead letters: 3 (worker_crashed, handler_timeout, out_of_memory)
local ffi = require "ffi"
local moonbus = require "moonbus"

ffi.cdef "int getppid(void);"

local Task = moonbus.event("Task", { aggregate_type = "Task", number = "integer", kind = "string" })

-- Everything of one run carries the supervisor's number.
local run = tonumber(ffi.C.getppid())
local effects = ("%s/moonbus-poison-%d"):format(os.getenv("TMPDIR") or "/tmp", run)

local bus = moonbus.bus {
  topic_prefix = "poison-" .. run,
  consumer_group = "poison-" .. run,
  max_retries = 1,
  retry_base_delay = 0.05,
  handler_timeout_ms = 2000,
  worker_memory_max_bytes = 150e6,
  commit_interval_ms = 100,
}

local function note(line)
  local file = assert(io.open(effects, "a"))
  file:write(line, "\n")
  file:close()
end

bus:subscribe(Task, function(event)
  if event.kind == "crash" then
    ffi.cast("int *", 8)[0] = 1
  elseif event.kind == "spin" then
    local n = 0
    while true do n = n + 1 end
  elseif event.kind == "memory" then
    local hoard = {}
    while true do hoard[#hoard + 1] = ("x"):rep(1e6) .. #hoard end
  end
  note(event.number)
end)

assert(bus:connect())

-- The first worker of the run publishes, once.
if os.getenv("MOONBUS_WORKER") == "1" and not io.open(effects) then
  note("begin")
  local kinds = { [20] = "crash", [50] = "spin", [80] = "memory" }
  local events = {}
  for i = 1, 100 do
    events[i] = Task { aggregate_id = moonbus.uuid(), number = i, kind = kinds[i] or "fine" }
  end
  assert(bus:publish(events))
end

-- Until the others are handled and the three are dead letters, or it takes too long.
local function handled()
  local seen, count = {}, 0
  local file = io.open(effects)
  if not file then return 97 end -- the first worker saw the end, and cleared up
  for line in file:lines() do
    if tonumber(line) and not seen[line] then
      seen[line] = true
      count = count + 1
    end
  end
  file:close()
  return count
end

local task = assert(bus:start_consuming_in_background { for_seconds = 300 })
while not task:done() do
  moonbus.sleep(0.2)
  if handled() == 97 and (bus:get_dlq_message_count() or 0) >= 3 then break end
end
bus:stop_consuming()

if os.getenv("MOONBUS_WORKER") == "1" or not os.getenv("MOONBUS_WORKER") then
  local reasons = {}
  for _, letter in ipairs(assert(bus:get_dlq_messages())) do
    reasons[#reasons + 1] = letter.headers.dlq_reason
  end
  table.sort(reasons)
  print(("handled %d of 97, dead letters: %d (%s)"):format(handled(), #reasons,
    table.concat(reasons, ", ")))
  os.remove(effects)
end
bus:disconnect()
