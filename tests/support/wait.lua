--- Waits on a condition with a limit, running every bus of the state meanwhile.
local moonbus = require "moonbus"

local wait = {}

local TURN = 0.01
local SECONDS = 90 -- what is waited for comes in one, but on a machine that is slow and busy

--- Wait until condition() is truthy and return what it gave; a failure after `seconds` (90).
-- what: said in the failure; text, or a function that tells how things stand.
function wait.till(condition, what, seconds)
  seconds = seconds or SECONDS
  local deadline = moonbus.now() + seconds
  while true do
    local got = condition()
    if got then return got end
    if moonbus.now() > deadline then
      if type(what) == "function" then what = what() end
      error(("waited %g s in vain: %s"):format(seconds, tostring(what)), 2)
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

--- A time that body(try) measures and returns is shorter than `limit` at least once in three tries:
-- a busy machine makes things slow at times, a fault does each time. Returns the shortest so far.
function wait.within(limit, body)
  local least = math.huge
  for try = 1, 3 do
    least = math.min(least, body(try))
    if least < limit then return least end
  end
  error(("%g s at least, in three tries; less than %g s is wanted"):format(least, limit), 2)
end

return wait
