-- Events of older versions on their way: what handlers are given, and what is left when it fails.
local cjson = require "cjson"
local moonbus = require "moonbus"
local support = require "tests.support.bus"
local wait = require "tests.support.wait"

local ID = support.uuid(1)
local registry = moonbus.new_registry()
local Priced = moonbus.event("Priced", {
  aggregate_type = "Item", event_version = 3, price = "decimal", currency = "string",
  upcast = {
    function(data)
      if data.amount == 0 then moonbus.dead "no price at all" end
      data.price = ("%.2f"):format(data.amount)
      return data
    end,
    function(data)
      data.currency = "EUR"
      return data
    end,
  },
}, { registry = registry })

local broker, bus

setup(function()
  broker = support.broker()
  bus = broker:bus { event_registry = registry, max_retries = 1, retry_base_delay = 0.01 }
  support.consume(bus)
end)

teardown(support.close)

after_each(function() bus:clear_subscribers() end)

-- As an older program would write it: a plain table of an undeclared type.
local function old(version, members)
  local event = { event_type = "Priced", event_version = version, aggregate_id = ID,
    aggregate_type = "Item" }
  for name, value in pairs(members) do event[name] = value end
  return event
end

local function publish(...)
  local consumed = bus:get_stats_dict().events_consumed
  assert(bus:publish { ... })
  wait.settled(bus, consumed + select("#", ...))
end

it("every handler, by type, by name and for all events, gets the declared version", function()
  local seen = {}
  local function note(event, ctx)
    seen[#seen + 1] = { event.price, event.currency, event.event_version, ctx.original_version,
      getmetatable(event) == Priced }
  end
  bus:subscribe(Priced, note)
  bus:subscribe("Priced", note)
  bus:subscribe_to_all_events(note)
  publish(old(1, { amount = 5 }), old(2, { price = "1.20" }),
    Priced { aggregate_id = ID, price = "9", currency = "USD" })
  local expected = {}
  for _, each in ipairs { { "5.00", "EUR", 3, 1, true }, { "1.20", "EUR", 3, 2, true },
    { "9", "USD", 3, 3, true } } do
    for _ = 1, 3 do expected[#expected + 1] = each end
  end
  assert.same(expected, seen)
end)

it("every attempt gets a fresh one", function()
  local seen = {}
  bus:subscribe(Priced, function(event, ctx)
    seen[#seen + 1] = event.price
    event.price = "changed"
    if ctx.attempt == 1 then error "once more" end
  end)
  publish(old(1, { amount = 5 }))
  assert.same({ "5.00", "5.00" }, seen)
end)

it("one that cannot be lifted is a dead letter at once, as it came, and can be replayed", function()
  local runs = 0
  bus:subscribe(Priced, function() runs = runs + 1 end)
  publish(old(1, { amount = 0, note = "as it came" }))
  local letters = broker:consume(bus.config.dlq_topic_name)
  local headers = {}
  for _, header in ipairs(letters[#letters].headers) do headers[header[1]] = header[2] end
  assert.equal("deserialization_error", headers.dlq_reason)
  assert.equal("DeserializationError", headers.dlq_error_type)
  assert.equal("Priced version 1, upcast to 3: no price at all", headers.dlq_error_message)
  assert.equal(0, runs)
  local records = broker:consume(bus.config.topic_name)
  assert.equal(records[#records].payload, letters[#letters].payload)
  local value = cjson.decode(letters[#letters].payload)
  assert.same({ 1, 0, "as it came" }, { value.event_version, value.amount, value.note })
  local consumed = bus:get_stats_dict().events_consumed
  assert(bus:replay_dlq_message { partition = 0, offset = letters[#letters].offset })
  wait.settled(bus, consumed + 1)
  records = broker:consume(bus.config.topic_name)
  assert.equal(letters[#letters].payload, records[#records].payload)
end)

it("one that is published again has the declared version on the topic", function()
  bus:subscribe(Priced, function(event, ctx)
    if ctx.original_version == 3 then return end
    assert(bus:publish({ event:with_metadata { copy = true } }, { background = true }))
  end)
  publish(old(1, { amount = 7 }))
  wait.till(function()
    local records = broker:consume(bus.config.topic_name)
    local last = cjson.decode(records[#records].payload)
    return last.metadata.copy and last.event_version == 3 and last.price == "7.00"
      and last.amount == nil
  end, "the copy")
end)
