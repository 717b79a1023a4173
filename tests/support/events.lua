--- Random events of a type that has a field of every kind.
local moonbus = require "moonbus"

local events = {}

local SPECS = { "string", "number", "integer", "boolean", "uuid", "timestamp", "decimal",
  "object", "array", "any" }

local MAKERS = {
  string = function(random) return random:string() end,
  number = function(random) return random:double() end,
  integer = function(random) return random:integer() end,
  boolean = function(random) return random:chance(0.5) end,
  uuid = function(random) return random:uuid() end,
  timestamp = function(random) return random:timestamp() end,
  decimal = function(random) return random:decimal() end,
  object = function(random) return random:object(2) end,
  array = function(random) return random:array(2) end,
  any = function(random)
    local value = moonbus.null
    while value == moonbus.null do value = random:value(2) end
    return value
  end,
}

--- The fields to declare: of every kind one, an optional one, a list and an optional list.
function events.fields(more)
  local fields = { aggregate_type = "Random" }
  for _, spec in ipairs(SPECS) do
    fields[spec .. "_1"] = spec
    fields[spec .. "_o"] = spec .. "?"
    fields[spec .. "_l"] = spec .. "[]"
    fields[spec .. "_lo"] = spec .. "[]?"
  end
  for name, value in pairs(more or {}) do fields[name] = value end
  return fields
end

local function list(random, maker)
  local made = moonbus.array()
  for i = 1, random:int(0, 4) do made[i] = maker(random) end
  return made
end

--- What to give such a type to make an event.
function events.given(random, event_version)
  local given = { aggregate_id = random:uuid(), metadata = random:object(2),
    aggregate_version = random:int(1, 1e9), event_version = event_version or random:int(1, 9),
    tenant_id = random:chance(0.5) and random:uuid() or nil,
    causation_id = random:chance(0.5) and random:uuid() or nil,
    actor_id = random:chance(0.5) and random:string() or nil,
    occurred_at = random:timestamp() }
  for _, spec in ipairs(SPECS) do
    given[spec .. "_1"] = MAKERS[spec](random)
    given[spec .. "_l"] = list(random, MAKERS[spec])
    if random:chance(0.5) then given[spec .. "_o"] = MAKERS[spec](random) end
    if random:chance(0.5) then given[spec .. "_lo"] = list(random, MAKERS[spec]) end
  end
  return given
end

return events
