-- A broker refuses all records of a batch for what is wrong with one of them, or with the batch:
-- only the culprit is refused here, whatever writes.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"

local registry = moonbus.new_registry()
local Paid = moonbus.event("Paid", { aggregate_type = "Account", n = "integer", text = "string?" },
  { registry = registry })

local SMALL, LIMIT = 100, 2000 -- events; bytes that the topic takes

-- Larger than the topic takes, compressed too.
local function large()
  local parts = {}
  for i = 1, 200 do parts[i] = moonbus.uuid() end
  return table.concat(parts)
end

local KEYS = { moonbus.uuid(), moonbus.uuid(), moonbus.uuid() }

local function paid(n, text)
  return Paid { aggregate_id = KEYS[n % #KEYS + 1], n = n, text = text }
end

local function small()
  local events = {}
  for n = 1, SMALL do events[n] = paid(n) end
  return events
end

-- A bus on a topic of one partition that takes no more than LIMIT bytes at a time.
local function new_bus(more)
  local prefix = kafka.name "refused"
  kafka.create(prefix .. ".stream", 1, { "max.message.bytes=" .. LIMIT })
  local all = { topic_prefix = prefix, event_registry = registry, linger_ms = 50, max_retries = 0 }
  for key, value in pairs(more or {}) do all[key] = value end
  local bus = kafka.bus(all)
  -- Of a producer's first records a broker takes any: it does not know yet that some are missing.
  assert(bus:publish(paid(0)))
  return bus
end

-- The numbers in the topic; fails where a key's are not in their order, which is kept in the main
-- topic.
local function numbers(bus, topic)
  local list, last = {}, {}
  assert(bus:read({ topic = topic }, function(record)
    local n = moonbus.json.decode(record.value).n
    local before = last[record.key] or -1
    assert.is_true(topic ~= nil or n > before, ("%d behind %d"):format(n, before))
    last[record.key] = n
    if n > 0 then list[#list + 1] = n end
  end))
  return list
end

local function all_but(...)
  local left_out, list = {}, {}
  for _, n in ipairs { ... } do left_out[n] = true end
  for n = 1, SMALL do if not left_out[n] then list[#list + 1] = n end end
  return list
end

local function sorted(list)
  table.sort(list)
  return list
end

kafka.describe("of a batch that the broker refuses", function()
  for _, delivery in ipairs { "at_least_once", "exactly_once" } do
    it("all small events are written: publish, " .. delivery, function()
      local bus = new_bus { delivery = delivery }
      local receipt = assert(bus:publish(small()))
      assert.equal(SMALL, #receipt.offsets)
      assert.same(all_but(), sorted(numbers(bus)))
      assert.equal(SMALL + 1, kafka.stats(bus, "events_published"))
      assert.equal(0, kafka.stats(bus, "publish_errors"))
      assert(bus:publish(paid(SMALL + 1)))
    end)
  end

  it("only the culprit is refused, and keys keep their order", function()
    local bus = new_bus()
    local events = small()
    events[40] = paid(40, large())
    local ok, err, code = bus:publish(events)
    assert.same({ nil, "EDELIVERY" }, { ok, code })
    assert.matches("^EDELIVERY: 1 of 100 events not delivered .*max.message.bytes", err)
    assert.same(all_but(40), sorted(numbers(bus)))
    assert.equal(1, kafka.stats(bus, "publish_errors"))
  end)

  it("a transaction with a culprit is refused as a whole, and names that", function()
    local bus = new_bus { delivery = "exactly_once" }
    local events = small()
    events[40] = paid(40, large())
    local ok, err = bus:publish(events)
    assert.is_nil(ok)
    assert.matches("Paid " .. events[40].event_id, err, 1, true)
    assert.same({}, numbers(bus))
    assert(bus:publish(small()))
    assert.same(all_but(), sorted(numbers(bus)))
  end)

  it("the same holds in the background, where callers go on meanwhile", function()
    local failed = {}
    local bus = new_bus { on_publish_error = function(failure) failed[#failed + 1] = failure end }
    for n = 1, SMALL do
      assert(bus:publish(paid(n, n % 50 == 0 and large() or nil), { background = true }))
    end
    assert(bus:flush(60))
    assert.same(all_but(50, 100), sorted(numbers(bus)))
    assert.equal(2, #failed)
    assert.equal(SMALL - 1, kafka.stats(bus, "events_published"))
    assert.equal(0, kafka.stats(bus, "publish_queued"))
  end)

  it("dead letters are written, each with its event, and so are replays", function()
    local bus = new_bus()
    local dead = bus.config.dlq_topic_name
    kafka.create(dead, 1, { "max.message.bytes=" .. LIMIT })
    local broken = true
    local handled = {}
    bus:subscribe(Paid, function(event)
      if broken then error("broken", 0) end
      handled[event.n] = (handled[event.n] or 0) + 1
    end)
    kafka.consume(bus, 1)
    assert(bus:publish(small()))
    kafka.wait("the dead letters", function()
      return kafka.stats(bus, "messages_sent_to_dlq") == SMALL + 1
    end)
    assert.same(all_but(), sorted(numbers(bus, dead)))
    broken = false
    local result = assert(bus:replay_dlq())
    assert.same({ SMALL + 1, 0 }, { result.replayed, result.failed })
    kafka.wait("the replays", function() return #handled == SMALL end)
  end)
end)
