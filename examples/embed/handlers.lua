-- A script for host.c; it also runs by itself.
--
-- shows   the same script under a C program, `moonbus run` and luajit
-- run     ./host handlers.lua
-- prints  visit 1 by alice, visit 2 by bob, visit 3 by alice; 3 visits

local moonbus = require "moonbus"

local PageVisited = moonbus.event("PageVisited", { aggregate_type = "Page", visitor = "string" })

local bus = moonbus.bus {
  bootstrap_servers = "embedded",
  topic_prefix = "embed.visits",
  consumer_group = "embed-visits",
  log_level = "warn",
}

local visits = 0
bus:subscribe(PageVisited, function(event)
  visits = visits + 1
  print(("visit %d by %s"):format(visits, event.visitor))
end)

assert(bus:connect())
local page = moonbus.uuid()
for version, visitor in ipairs { "alice", "bob", "alice" } do
  assert(bus:publish(PageVisited {
    aggregate_id = page, aggregate_version = version, visitor = visitor,
  }))
end
assert(bus:start_consuming { until_idle = 1, for_seconds = 30 })
assert(bus:disconnect())
print(visits .. " visits")
