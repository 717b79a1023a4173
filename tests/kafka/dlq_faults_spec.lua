-- A dead letter topic that cannot be written: on a broker of the spec's own. (Records that are too
-- large for it are in dlq_spec.lua: they become pointers.)
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"

local registry = moonbus.new_registry()
local Ticked = moonbus.event("Ticked", { aggregate_type = "Clock", number = "integer" },
  { registry = registry })

local BOUND = 10 -- events that may wait, per partition

kafka.describe("a dead letter topic that", function()
  local broker

  setup(function()
    broker = kafka.broker { tls = true, set = {
      "auto.create.topics.enable=false", "super.users=User:ANONYMOUS",
      "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
      "allow.everyone.if.no.acl.found=true",
    } }
  end)

  -- With one partition, so that all keys share what becomes of it.
  local function new_bus()
    local prefix = kafka.name("unwritable")
    for _, topic in ipairs { ".stream", ".stream.dlq" } do
      kafka.create(prefix .. topic, 1, nil, broker.address)
    end
    return kafka.bus {
      event_registry = registry, topic_prefix = prefix, consumer_group = prefix, max_retries = 0,
      bootstrap_servers = "localhost:" .. broker.port + 4, security_protocol = "SASL_PLAINTEXT",
      sasl_mechanism = "PLAIN", sasl_username = "moonbus", sasl_password = "moonbus-secret",
      delivery_timeout_ms = 6000, retry_parked_max = BOUND, commit_interval_ms = 50,
    }
  end

  -- An event that fails has a negative number.
  local function publish(bus, numbers)
    local events = {}
    for i, number in ipairs(numbers) do
      events[i] = Ticked { aggregate_id = moonbus.uuid(), number = number }
    end
    assert(bus:publish(events))
  end

  local function committed(bus)
    return kafka.sum(kafka.offsets(bus.config.consumer_group, bus.config.topic_name,
      broker.address))
  end

  local function dead_numbers(bus)
    local found = {}
    assert(bus:read({ topic = bus.config.dlq_topic_name, timeout_ms = 20000 }, function(record)
      found[moonbus.json.decode(record.value).number] = true
    end))
    return found
  end

  -- A broker heeds such a change a moment after it has taken it.
  local function deny(topic)
    kafka.permit(topic, "moonbus", false, broker.address)
    kafka.wait("the refusal", function()
      local reports = kafka.produce(topic, { { value = '{"number":0}' } },
        { "security.protocol=SASL_PLAINTEXT", "sasl.mechanism=PLAIN", "sasl.username=moonbus",
          "sasl.password=moonbus-secret", "message.timeout.ms=10000" },
        "localhost:" .. broker.port + 4)
      return reports[1] and reports[1].error ~= moonbus.null
    end)
  end

  local faults = {
    { "is deleted holds its events back until it is there again",
      function(topic)
        kafka.delete(topic, broker.address)
        kafka.wait("its end", function() return not next(kafka.ends(topic, broker.address)) end)
      end,
      function(topic) kafka.create(topic, 1, nil, broker.address) end },
    { "may not be written holds its events back until it may",
      deny,
      function(topic) kafka.permit(topic, "moonbus", true, broker.address) end },
  }

  for _, fault in ipairs(faults) do
    local name, break_it, repair_it = unpack(fault)
    it(name, function()
      local bus = new_bus()
      local dlq = bus.config.dlq_topic_name
      local handled = {}
      bus:subscribe(Ticked, function(event)
        if event.number < 0 then error "refused" end
        handled[event.number] = (handled[event.number] or 0) + 1
      end)
      kafka.consume(bus, 1)
      publish(bus, { -1, 1 })
      kafka.wait("the first dead letter", function()
        return kafka.stats(bus, "messages_sent_to_dlq") == 1 and handled[1]
      end)
      kafka.wait("its offset", function() return committed(bus) == 2 end)

      break_it(dlq)
      publish(bus, { -2, 2, 3, 4 })
      kafka.wait("the other keys", function() return handled[2] and handled[3] and handled[4] end)
      kafka.wait("the news", function()
        return kafka.logged(bus, "dead letter of .* offset 2 not written: ")
      end)
      assert.are.equal(2, committed(bus)) -- nothing from the held one on
      assert.are.equal(1, kafka.stats(bus, "messages_sent_to_dlq"))
      assert.are.equal(1, kafka.stats(bus, "events_parked"))

      local more = {}
      for i = 1, BOUND + 20 do more[i] = -100 - i end
      more[#more + 1] = 5
      publish(bus, more)
      kafka.wait("the pause", function() return kafka.logged(bus, "partition 0 paused") end)
      assert.is_true(bus:is_consuming())

      repair_it(dlq)
      kafka.wait(function() return "the rest; " .. table.concat(bus.lines, "\n") end, function()
        return handled[5] and kafka.stats(bus, "events_parked") == 0
      end, 120)
      local dead = dead_numbers(bus)
      assert.is_truthy(dead[-2])
      for i = 1, BOUND + 20 do assert.is_truthy(dead[-100 - i], "event " .. -100 - i) end
      kafka.wait("the offsets", function() return committed(bus) == 6 + #more end)
      assert.are.same({ 1, 1, 1, 1, 1 }, handled)
    end)
  end
end)
