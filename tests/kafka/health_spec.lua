--- What a bus says of itself while its broker goes and comes: on a broker of the spec's own.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"

local registry = moonbus.new_registry()
local Ticked = moonbus.event("Ticked", { aggregate_type = "Clock", number = "integer" },
  { registry = registry })

local broker

local function new_bus(options)
  local all = { event_registry = registry, bootstrap_servers = broker.address,
    topic_prefix = kafka.name "health", shutdown_timeout = 3, reconnect_backoff_ms = 100,
    reconnect_backoff_max_ms = 500 }
  for key, value in pairs(options or {}) do all[key] = value end
  return kafka.new_bus(all)
end

local function connected_bus(options)
  local bus = new_bus(options)
  assert(bus:connect(60))
  return bus
end

local function tick(bus, n)
  local events = {}
  for i = 1, n do events[i] = Ticked { aggregate_id = moonbus.uuid(), number = i } end
  return bus:publish(events, { background = true })
end

-- "red no_broker,breaker_open"
local function told(bus)
  local health, codes = bus:get_health(), {}
  for i, reason in ipairs(health.reasons) do
    codes[i] = reason.code
    assert.is_true(#reason.text > 20, reason.text)
  end
  assert.are.equal(health.status, bus:get_stats_dict().health)
  return codes[1] and health.status .. " " .. table.concat(codes, ",") or health.status
end

local function becomes(bus, expected)
  kafka.wait(function()
    return ("%s; it is %s\n%s"):format(expected, told(bus), table.concat(bus.lines, "\n"))
  end, function() return told(bus) == expected end)
end

local function allow_bytes(topic, bytes)
  kafka.run { kafka.python, "-c", [[
import sys
from confluent_kafka.admin import AdminClient, ConfigResource
admin = AdminClient({"bootstrap.servers": sys.argv[1]})
resource = ConfigResource("topic", sys.argv[2], set_config={"max.message.bytes": sys.argv[3]})
for future in admin.alter_configs([resource]).values(): future.result(60)]],
    broker.address, topic, bytes }
end

kafka.describe("the health of a bus on Kafka", function()
  local function down()
    broker:down()
    broker.is_down = true
  end

  local function up()
    broker:up()
    broker.is_down = false
  end

  setup(function() broker = kafka.broker() end)

  before_each(function() if broker.is_down then up() end end)

  it("is red until it is connected, yellow while it joins, green then", function()
    local bus = new_bus()
    assert.are.equal("red not_connected", told(bus))
    assert(bus:connect(60))
    assert.are.equal("green", told(bus))
    bus:subscribe(Ticked, function() end)
    assert(bus:start_consuming_in_background())
    assert.are.equal("yellow joining", told(bus))
    becomes(bus, "green")
    assert(bus:stop_consuming())
    assert.are.equal("green", told(bus))
    bus:disconnect()
    assert.are.equal("red not_connected", told(bus))
  end)

  it("is red while the broker is away, green again once it is back, with nothing new coming",
    function()
      local prefix = kafka.name "health"
      local publisher = connected_bus { topic_prefix = prefix }
      local consumer = connected_bus { topic_prefix = prefix, commit_interval_ms = 10 }
      local handled = 0
      consumer:subscribe(Ticked, function() handled = handled + 1 end)
      assert(tick(publisher, 20))
      kafka.consume(consumer)
      kafka.wait("the events", function() return handled == 20 end)
      assert.are.equal("green", told(consumer))
      kafka.wait("their offsets", function()
        return kafka.sum(kafka.offsets(consumer.config.consumer_group, consumer.config.topic_name,
          broker.address)) == 20
      end)
      down()
      becomes(consumer, "red no_broker")
      becomes(publisher, "red no_broker")
      -- and stays so, for ever longer, whichever of its connections notices when
      local since = 0
      kafka.wait("an outage of some seconds", function()
        local now = consumer:get_health()
        assert.are.equal("red", now.status)
        local seconds = tonumber(now.reasons[1].text:match "reachable for (%d+) s")
        assert.is_true(seconds >= since, now.reasons[1].text)
        since = seconds
        return since >= 4
      end)
      local reason = consumer:get_health().reasons[1]
      assert.is_truthy(reason.text:find(broker.address, 1, true), reason.text)
      assert.is_nil(reason.partition)
      assert.are_not.equal(moonbus.null, kafka.stats(consumer, "last_error_at"))
      -- (a broker that shuts down may close one connection, take the next, and close that too)
      local before = kafka.stats(consumer, "reconnections")
      up()
      becomes(consumer, "green")
      becomes(publisher, "green")
      assert.are.equal(before + 1, kafka.stats(consumer, "reconnections"))
      -- and it is true: the first event after it passes
      assert(tick(publisher, 5))
      kafka.wait("the events after it", function() return handled == 25 end)
      kafka.wait("the reports", function()
        return kafka.stats(publisher, "events_published") == 25
      end)
      assert.are.equal(0, kafka.stats(publisher, "publish_errors"))
      kafka.wait("an empty queue", function()
        return kafka.stats(publisher, "publish_queued") == 0
      end)
      local stats = consumer:get_stats_dict()
      assert.are.equal(25, stats.events_consumed)
      assert.are.equal(25, stats.events_processed_success)
      kafka.wait("the lag", function() return kafka.stats(consumer, "lag") == 0 end)
    end)

  it("is red when consumption ended, until it is started again", function()
    local bus = connected_bus()
    bus:subscribe(Ticked, function() end)
    local task = assert(bus:start_consuming_in_background { auto_reconnect = false })
    becomes(bus, "green")
    down()
    local ok, _, code = task:wait(90)
    assert.is_nil(ok)
    assert.are.equal("ECONNECT", code)
    assert.is_truthy(told(bus):find("consumption_ended", 1, true), told(bus))
    up()
    becomes(bus, "red consumption_ended")
    assert(bus:start_consuming_in_background())
    becomes(bus, "green")
  end)

  it("is red while a dead letter cannot be written, green once it is", function()
    local bus = connected_bus { max_retries = 0 }
    bus:subscribe(Ticked, function() error "always" end)
    kafka.consume(bus)
    assert.are.equal("green", told(bus))
    local topic = bus.config.dlq_topic_name
    allow_bytes(topic, 100)
    kafka.wait("the broker to heed that", function()
      local large = { { value = ("x"):rep(200) } }
      return kafka.produce(topic, large, nil, broker.address)[1].error ~= moonbus.null
    end)
    local before = assert(bus:get_dlq_message_count())
    assert(tick(bus, 1))
    becomes(bus, "red dlq_unwritable")
    assert.is_truthy(bus:get_health().reasons[1].text:find(topic, 1, true))
    assert.are.equal(before, bus:get_dlq_message_count())
    allow_bytes(topic, 1000000)
    becomes(bus, "green")
    assert.are.equal(before + 1, bus:get_dlq_message_count())
    assert.are.equal(1, kafka.stats(bus, "messages_sent_to_dlq"))
  end)

  for _, delivery in ipairs { "at_least_once", "exactly_once" } do
    it("a dead letter that is refused does not keep until_idle waiting, " .. delivery, function()
      local bus = connected_bus { max_retries = 0, delivery = delivery }
      local handled = {}
      bus:subscribe(Ticked, function(event)
        handled[event.number] = true
        if event.number == 2 then error "always" end
      end)
      local topic, key = bus.config.dlq_topic_name, moonbus.uuid()
      kafka.create(topic, 1, { "max.message.bytes=100" }, broker.address)
      local events = {}
      for n = 1, 40 do
        events[n] = Ticked { aggregate_id = n <= 3 and key or moonbus.uuid(), number = n }
      end
      assert(bus:publish(events))
      local ok, err, code = bus:start_consuming { until_idle = 1, for_seconds = 90 }
      assert.is_nil(ok)
      assert.are.equal("EBREAKER", code)
      assert.is_truthy(err:find("dead letter of .* was not written in %d+ tries"), err)
      for n = 4, 40 do assert.is_true(handled[n], "event " .. n) end
      assert.is_nil(handled[3]) -- it waits behind the dead letter of its key
      -- and nothing of it is lost
      allow_bytes(topic, 1000000)
      assert(bus:connect(60))
      assert(bus:start_consuming { until_idle = 1, for_seconds = 90 })
      assert.is_true(handled[3])
      assert.are.equal(1, #assert(bus:get_dlq_messages()))
    end)
  end
end)
