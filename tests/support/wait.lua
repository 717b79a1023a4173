--- Waits on a condition with a limit, running every bus of the state meanwhile.
local moonbus = require "moonbus"

local wait = {}

local TURN = 0.01
local SECONDS = 90 -- what is waited for comes in one, but on a machine that is slow and busy
local FACTOR = os.getenv "MB_GC" and 5 or 1 -- that collector takes most of the time

--- Wait until condition() is truthy and return what it gave; a failure after `seconds` (90).
-- what: said in the failure; text, or a function that tells how things stand.
function wait.till(condition, what, seconds)
  seconds = (seconds or SECONDS) * FACTOR
  local deadline = moonbus.now() + seconds
  while true do
    local got = condition()
    if got then return got end
    if moonbus.now() > deadline then
      if type(what) == "function" then what = what() end
      error(("waited %g s without success: %s"):format(seconds, tostring(what)), 2)
    end
    moonbus.sleep(TURN)
  end
end

--- Wait until a list has so many elements; more of them are a failure too.
function wait.count(list, count, what, seconds)
  wait.till(function() return #list >= count end, function()
    return ("%s: %d of %d"):format(what or "elements", #list, count)
  end, seconds)
  assert(#list == count, ("%s: %d, not %d"):format(what or "elements", #list, count))
end

--- Wait until everything the bus was sent is settled: `consumed` records in, none parked, running
-- or queued.
function wait.settled(bus, consumed, seconds)
  local function stats() return bus:get_stats_dict() end
  wait.till(function()
    local now = stats()
    return now.events_consumed >= consumed and now.events_parked == 0 and now.events_running == 0
      and now.publish_queued == 0
  end, function()
    local now = stats()
    return ("%d of %d consumed, %d parked, %d running, %d queued"):format(now.events_consumed,
      consumed, now.events_parked, now.events_running, now.publish_queued)
  end, seconds)
end

local function spin()
  local n = 0
  for i = 1, 1e6 do n = n + i % 7 end
  return n
end

-- How many times longer than its processor time a computation takes just now: 1 on a quiet machine.
local function slowdown()
  local began, processor = moonbus.now(), os.clock()
  repeat spin() until os.clock() - processor >= 0.02
  return math.max(1, (moonbus.now() - began) / (os.clock() - processor))
end

--- A time that body(try) measures and returns is shorter than `limit` at least once in three tries:
-- a busy machine makes things slow at times, a fault does each time. The limit is for a quiet
-- machine; other work on the processors stretches it. Returns the shortest so far.
function wait.within(limit, body)
  local least, stretched = math.huge, nil
  for try = 1, 3 do
    local before = slowdown()
    local took = body(try)
    stretched = limit * math.max(before, slowdown())
    least = math.min(least, took)
    if took < stretched then return least end
  end
  error(("expected less than %g s (%g s on a quiet machine), got %g s in the best of three tries")
    :format(stretched, limit, least), 2)
end

return wait
