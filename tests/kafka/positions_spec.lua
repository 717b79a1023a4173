--- Where a group goes on when the log no longer holds what comes next, and where one begins that
-- has committed nothing: on topics of one partition.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"

local registry = moonbus.new_registry()
local Ticked = moonbus.event("Ticked", { aggregate_type = "Clock", number = "integer" },
  { registry = registry })

-- Take what comes before an offset out of the log, as retention does.
local function expire(topic, offset)
  kafka.run { kafka.python, "-c", [[
import sys
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
admin = AdminClient({"bootstrap.servers": sys.argv[1]})
place = TopicPartition(sys.argv[2], 0, int(sys.argv[3]))
for future in admin.delete_records([place]).values(): future.result(60)]],
    kafka.address, topic, tostring(offset) }
end

local function literal(text)
  return (text:gsub("%W", "%%%0"))
end

kafka.describe("the place of a group", function()
  local topic, options

  before_each(function()
    local prefix = kafka.name "place"
    topic = prefix .. ".stream"
    options = { event_registry = registry, topic_prefix = prefix, consumer_group = prefix }
    kafka.create(topic, 1)
  end)

  local function publish(from, to)
    local bus, events = kafka.bus(options), {}
    for n = from, to do
      events[#events + 1] = Ticked { aggregate_id = moonbus.uuid(), number = n }
    end
    assert(bus:publish(events))
    bus:disconnect()
  end

  -- Consume what there is; the numbers handled, in order, and the bus.
  local function consume(more)
    local all = {}
    for key, value in pairs(options) do all[key] = value end
    for key, value in pairs(more or {}) do all[key] = value end
    local bus, numbers = kafka.bus(all), {}
    bus:subscribe(Ticked, function(event) numbers[#numbers + 1] = event.number end)
    assert(bus:start_consuming { until_idle = 0.5, for_seconds = 90 })
    return numbers, bus
  end

  local function committed()
    return kafka.offsets(options.consumer_group, topic)[0]
  end

  local function range(from, to)
    local list = {}
    for n = from, to do list[#list + 1] = n end
    return list
  end

  for _, reset in ipairs { "earliest", "latest", "none" } do
    for _, delivery in ipairs { "at_least_once", "exactly_once" } do
      it("that expired is the start of the log: " .. reset .. ", " .. delivery, function()
        publish(0, 9)
        assert.are.same(range(0, 9), (consume { delivery = delivery }))
        local place = committed()
        publish(10, 29)
        expire(topic, place + 10)
        local handled, bus = consume { auto_offset_reset = reset, delivery = delivery }
        assert.are.same(range(20, 29), handled)
        assert.are.equal(10, kafka.stats(bus, "events_expired"))
        assert.is_truthy(kafka.logged(bus, ("WARN .*%s%%[0%%]: group %s goes on at offset %d; "
          .. "the log no longer holds the 10 offsets from %d on"):format(
          literal(topic), literal(options.consumer_group), place + 10, place)))
        assert.is_true(committed() >= place + 20)
      end)
    end
  end

  it("that expired is committed, also where nothing comes after it", function()
    publish(0, 9)
    consume()
    publish(10, 19)
    expire(topic, 20)
    local handled, bus = consume { auto_offset_reset = "latest" }
    assert.are.same({}, handled)
    assert.are.equal(10, kafka.stats(bus, "events_expired"))
    assert.are.equal(20, committed())
    handled, bus = consume()
    assert.are.same({}, handled)
    assert.are.equal(0, kafka.stats(bus, "events_expired"))
  end)

  it("in a gap that a transaction or compaction leaves has not expired", function()
    publish(0, 4)
    consume { delivery = "exactly_once" } -- commits, and so marks the topic, if it publishes
    local bus = kafka.bus { event_registry = registry, topic_prefix = options.topic_prefix,
      consumer_group = "other", delivery = "exactly_once" }
    assert(bus:publish(Ticked { aggregate_id = moonbus.uuid(), number = 5 }))
    assert(bus:publish(Ticked { aggregate_id = moonbus.uuid(), number = 6 }))
    local handled, reader = consume()
    assert.are.same({ 5, 6 }, handled)
    assert.are.equal(0, kafka.stats(reader, "events_expired"))
  end)

  it("that begins at the end is committed at once: what comes while it is away is not skipped",
    function()
      publish(0, 9)
      assert.are.same({}, (consume { auto_offset_reset = "latest" }))
      assert.are.equal(10, committed())
      publish(10, 14)
      assert.are.same(range(10, 14), (consume { auto_offset_reset = "latest" }))
    end)
end)
