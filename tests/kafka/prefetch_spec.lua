-- Fetching goes on while the queue of what was fetched ahead is emptied, however short that is.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"

local registry = moonbus.new_registry()
local Tick = moonbus.event("Tick", { aggregate_type = "Clock", n = "integer", text = "string" },
  { registry = registry })

local COUNT, STALL = 20000, 0.7 -- librdkafka's tick is 1 s
local MOST = 10 -- stalls that a busy machine may make; a tick for each fetch would be 50 of them

local function filled(prefix)
  kafka.create(prefix .. ".stream", 4)
  local bus = kafka.bus { topic_prefix = prefix, event_registry = registry,
    compression_type = "none" }
  local text = ("x"):rep(200)
  for from = 1, COUNT, 1000 do
    local list = {}
    for n = from, from + 999 do
      list[#list + 1] = Tick { aggregate_id = moonbus.uuid(), n = n, text = text }
    end
    assert(bus:publish(list))
  end
  return bus
end

kafka.describe("prefetching on Kafka", function()
  -- A fetch brings some 100 events from each partition: 50 fetches.
  local SHORT = { prefetch_max_events = 200, max_partition_fetch_bytes = 65536,
                  event_registry = registry }

  local function filled_bus()
    local prefix = kafka.name "prefetch"
    filled(prefix)
    local options = { topic_prefix = prefix }
    for key, value in pairs(SHORT) do options[key] = value end
    return kafka.bus(options)
  end

  -- note() is called for each event; counts() returns how many there were, and how many stalls.
  local function watch()
    local count, stalls, last = 0, 0, nil
    return function()
      local now = moonbus.now()
      if last and now - last > STALL then stalls = stalls + 1 end
      count, last = count + 1, now
    end, function() return count, stalls end
  end

  it("a short queue does not wait for a tick between fetches: consuming", function()
    local bus = filled_bus()
    local note, counts = watch()
    bus:subscribe(Tick, note)
    kafka.consume(bus)
    kafka.wait(function() return ("%d events, got %d"):format(COUNT, (counts())) end,
      function() return counts() == COUNT end)
    local _, stalls = counts()
    assert.is_true(stalls <= MOST, stalls .. " stalls")
  end)

  it("a short queue does not wait for a tick between fetches: reading", function()
    local bus = filled_bus()
    local note, counts = watch()
    assert(bus:read({ topic = bus.config.topic_name, offset = -1, timeout_ms = 60000 }, function()
      note()
      return true
    end))
    local count, stalls = counts()
    assert.equal(COUNT, count)
    assert.is_true(stalls <= MOST, stalls .. " stalls")
  end)
end)
