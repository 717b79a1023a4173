--- Numbered events, and a result for each: what specs count to find what is lost or made twice.
local moonbus = require "moonbus"

local ticks = { registry = moonbus.new_registry() }

for _, name in ipairs { "Ticked", "Result" } do
  ticks[name] = moonbus.event(name, { aggregate_type = "Clock", number = "integer" },
    { registry = ticks.registry })
end

--- Publish those with the numbers `from` to `to`, each with a key of its own.
function ticks.publish(bus, from, to)
  local events = {}
  for n = from, to do
    events[#events + 1] = ticks.Ticked { aggregate_id = moonbus.uuid(), number = n }
  end
  assert(bus:publish(events))
end

--- How often there is a result for each number, as a reader of committed records sees it.
function ticks.results(bus)
  local seen = {}
  bus:read({ timeout_ms = 30000 }, function(record)
    if record.headers.event_type ~= "Result" then return end
    local n = moonbus.json.decode(record.value).number
    seen[n] = (seen[n] or 0) + 1
  end)
  return seen
end

--- Whether `seen` has all numbers from `from` to `to`.
function ticks.has(seen, from, to)
  for n = from, to do
    if not seen[n] then return false end
  end
  return true
end

return ticks
