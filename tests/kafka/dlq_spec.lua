-- Dead letters on a real Kafka. Numbers in brackets: the conformance list.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"
local wait = require "tests.support.wait"

local registry = moonbus.new_registry()
local Paid = moonbus.event("Paid", { aggregate_type = "Bill", number = "integer" },
  { registry = registry })
local Sent = moonbus.event("Sent", { aggregate_type = "Bill" }, { registry = registry })

local DEAD = { "dlq_reason", "dlq_error_type", "dlq_error_message", "dlq_retry_count",
  "dlq_timestamp", "dlq_original_topic", "dlq_original_partition", "dlq_original_offset",
  "dlq_consumer_group", "dlq_attempts", "dlq_first_failed_at", "dlq_handler" }

local function new_bus(options)
  options.event_registry = registry
  options.topic_prefix = options.topic_prefix or kafka.name("dlq")
  options.max_retries = options.max_retries or 1
  return kafka.bus(options)
end

local function paid(n)
  return Paid { aggregate_id = moonbus.uuid(), number = n or 1 }
end

local function refuse(bus, message)
  bus:subscribe(Paid, function() error(message or "refused", 0) end)
end

local function wait_dead(bus, n)
  kafka.wait(n .. " dead letters", function()
    return kafka.stats(bus, "messages_sent_to_dlq") == n
  end)
end

local function wait_handled(bus, n)
  kafka.wait(n .. " handled", function()
    return kafka.stats(bus, "events_processed_success") == n
  end)
end

local function header(record, name)
  for _, each in ipairs(record.headers) do
    if each[1] == name then return each[2] end
  end
end

local function names_of(record)
  local names = {}
  for i, each in ipairs(record.headers) do names[i] = each[1] end
  return names
end

local function joined(...)
  local all = {}
  for _, list in ipairs { ... } do
    for _, each in ipairs(list) do all[#all + 1] = each end
  end
  return all
end

-- Publish one event that dies; the dead letter as written, and the event's receipt.
local function one_dead(bus, event)
  local receipt = assert(bus:publish(event or paid()))
  local before = kafka.stats(bus, "messages_sent_to_dlq")
  wait_dead(bus, before + 1)
  local records = kafka.dump(bus.config.dlq_topic_name)
  return records[#records], receipt
end

kafka.describe("dead letters on Kafka:", function()
  describe("the record", function()
    it("keeps key, value and headers, and says why, in order [20, 31, 46]", function()
      local bus = new_bus { max_retries = 2 }
      refuse(bus, { type = "CardExpired", message = "karta wygasła" })
      kafka.consume(bus)
      local event = paid(42)
      event.actor_id = "user:1"
      local encoded = bus.native:encode(event)
      local dead, receipt = one_dead(bus, event)
      local original = kafka.dump(bus.config.topic_name)[1]
      assert.are.equal(encoded.key, dead.key)
      assert.are.equal(encoded.value, dead.value)
      assert.are.same(joined(names_of(original), DEAD), names_of(dead))
      for i, each in ipairs(original.headers) do assert.are.same(each, dead.headers[i]) end
      assert.are.equal("max_retries_exceeded", header(dead, "dlq_reason"))
      assert.are.equal("CardExpired", header(dead, "dlq_error_type"))
      assert.are.equal("karta wygasła", header(dead, "dlq_error_message"))
      assert.are.equal("2", header(dead, "dlq_retry_count"))
      assert.is_truthy(header(dead, "dlq_timestamp"):match("^%d+%-%d+%-%d+T[%d:.]+%+00:00$"))
      assert.are.equal(bus.config.topic_name, header(dead, "dlq_original_topic"))
      assert.are.equal(tostring(receipt.partitions[1]), header(dead, "dlq_original_partition"))
      assert.are.equal(tostring(receipt.offsets[1]), header(dead, "dlq_original_offset"))
      assert.are.equal(bus.config.consumer_group, header(dead, "dlq_consumer_group"))
      local stats = bus:get_stats_dict()
      assert.are.equal(3, stats.handler_errors)
      assert.are.equal(2, stats.retries)
      assert.are.equal(0, stats.events_processed_success)
      assert.are.equal(0, stats.events_parked)
    end)

    it("names one failing handler's error, and several together [28]", function()
      local bus = new_bus { max_retries = 0 }
      local good = 0
      refuse(bus, "first")
      kafka.consume(bus)
      local dead = one_dead(bus)
      assert.are.equal("LuaError", header(dead, "dlq_error_type"))
      assert.are.equal("first", header(dead, "dlq_error_message"))
      assert.are.equal("0", header(dead, "dlq_retry_count"))
      refuse(bus, "second")
      bus:subscribe(Paid, function() good = good + 1 end)
      one_dead(bus)
      local types = {}
      for _, record in ipairs(kafka.dump(bus.config.dlq_topic_name)) do
        types[#types + 1] = header(record, "dlq_error_type")
      end
      table.sort(types)
      assert.are.same({ "HandlerDispatchError", "LuaError" }, types)
      assert.are.equal(1, good)
    end)

    it("cuts the message at 1000 characters, not bytes", function()
      local bus = new_bus { max_retries = 0 }
      refuse(bus, ("ł"):rep(1500))
      kafka.consume(bus)
      assert.are.equal(("ł"):rep(1000), header(one_dead(bus), "dlq_error_message"))
    end)

    it("has UTF-8 headers whatever bytes the error had [7.7]", function()
      local bus = new_bus { max_retries = 0 }
      refuse(bus, { type = "T\255", message = "bytes \255\254 and \237\160\128 end" })
      kafka.consume(bus)
      local dead = one_dead(bus)
      for _, each in ipairs(dead.headers) do
        assert.is_truthy(moonbus.json.encode(each[2]), each[1] .. " is not UTF-8")
      end
    end)

    it("of a value too large for the topic points to the original, replay follows", function()
      local prefix = kafka.name("pointer")
      kafka.create(prefix .. ".stream.dlq", 2, { "max.message.bytes=4000" })
      local bus = new_bus { topic_prefix = prefix, max_retries = 0, compression_type = "none" }
      local open, got = false, nil
      bus:subscribe(Paid, function(event)
        if not open then error("refused", 0) end
        got = event
      end)
      kafka.consume(bus)
      local event = paid(5)
      event.metadata = { text = ("x"):rep(8000) }
      local dead = one_dead(bus, event)
      assert.is_nil(dead.value)
      assert.are.equal(event.aggregate_id, dead.key)
      assert.are.equal(#bus.native:encode(event).value,
        tonumber(header(dead, "dlq_value_omitted_bytes")))
      open = true
      assert(bus:replay_dlq_message { partition = dead.partition, offset = dead.offset })
      wait_handled(bus, 1)
      assert.are.same(event, got)
    end)
  end)

  describe("an event", function()
    it("that cannot be decoded dies at once, without retries [5, 29]", function()
      local bus = new_bus { max_retries = 5 }
      local calls = 0
      bus:subscribe(Paid, function() calls = calls + 1 end)
      kafka.consume(bus)
      local value = bus.native:encode(paid(1)).value
      local bad = {
        { value = (value:gsub('"number":1', '"number":"many"')) },
        { value = (value:gsub(',"number":1', "")) },
        { value = value:sub(1, -2) },
        { value = "\239\187\191" .. value, headers = { { "event_type", "Paid" } } },
        { value = "not JSON", headers = { { "event_type", "Paid" } } },
        { value = "[1]", headers = { { "event_type", "Paid" } } },
        { value = "", headers = { { "event_type", "Paid" } } },
        { headers = { { "event_type", "Paid" } } },
        { value = "no type at all" },
        {},
      }
      kafka.produce(bus.config.topic_name, bad)
      wait_dead(bus, #bad)
      assert(bus:publish(paid(2)))
      wait_handled(bus, 1)
      local dead = kafka.dump(bus.config.dlq_topic_name)
      assert.are.equal(#bad, #dead)
      for _, record in ipairs(dead) do
        assert.are.equal("deserialization_error", header(record, "dlq_reason"))
        assert.are.equal("DeserializationError", header(record, "dlq_error_type"))
        assert.are.equal("0", header(record, "dlq_retry_count"))
        assert.is_true(#header(record, "dlq_error_message") > 0)
      end
      assert.are.equal(1, calls)
      local stats = bus:get_stats_dict()
      assert.are.equal(0, stats.retries)
      assert.are.equal(0, stats.events_processed_failed)
      assert.are.equal(#bad + 1, stats.events_consumed)
    end)

    it("of a type nobody subscribes to is skipped, not dead [49, 7.8]", function()
      local bus = new_bus { max_retries = 0 }
      bus:subscribe(Paid, function() end)
      kafka.consume(bus)
      local id = moonbus.uuid()
      assert(bus:publish { Sent { aggregate_id = id }, Sent { aggregate_id = id } })
      kafka.produce(bus.config.topic_name, { { value = '{"event_type":"Strange","x":1}' } })
      assert(bus:publish(paid()))
      kafka.wait("4 events", function() return kafka.stats(bus, "events_consumed") == 4 end)
      local stats = bus:get_stats_dict()
      assert.are.equal(3, stats.events_skipped)
      assert.are.equal(1, stats.events_processed_success)
      assert.are.equal(0, stats.messages_sent_to_dlq)
      assert.are.equal(0, assert(bus:get_dlq_message_count()))
    end)

    it("that fails for good with enable_dlq=false is dropped, counted, committed [30]", function()
      local bus = new_bus { enable_dlq = false }
      refuse(bus)
      kafka.consume(bus)
      assert(bus:publish { paid(1), paid(2), paid(3) })
      kafka.wait("the drops", function() return kafka.stats(bus, "events_dropped") == 3 end)
      assert.is_truthy(kafka.logged(bus, "dropped .* enable_dlq is false"))
      local topic, group = bus.config.topic_name, bus.config.consumer_group
      assert(bus:stop_consuming())
      assert.are.equal(3, kafka.sum(kafka.offsets(group, topic)))
      assert.are.equal(0, kafka.stats(bus, "messages_sent_to_dlq"))
    end)

    it("that dies while its bus disconnects is committed with its dead letter [27]", function()
      local prefix = kafka.name("leaving")
      kafka.create(prefix .. ".stream", 1)
      local bus = new_bus { topic_prefix = prefix, max_retries = 0, linger_ms = 3000,
        commit_interval_ms = 3600000 }
      refuse(bus)
      kafka.consume(bus, 1)
      assert(bus:publish { paid(1), paid(2), paid(3) })
      kafka.wait("the failures", function() return kafka.stats(bus, "handler_errors") == 3 end)
      assert.is_true(kafka.stats(bus, "events_parked") > 0) -- they linger
      assert(bus:disconnect())
      assert.are.equal(3, kafka.stats(bus, "messages_sent_to_dlq"))
      assert.are.equal(3, kafka.sum(kafka.ends(prefix .. ".stream.dlq")))
      assert.are.equal(3, kafka.offsets(bus.config.consumer_group, prefix .. ".stream")[0])
    end)

    it("whose dead letter is refused stays uncommitted, and others go on [29, 30]", function()
      local prefix = kafka.name("refused")
      kafka.create(prefix .. ".stream", 1)
      kafka.create(prefix .. ".stream.dlq", 1, { "max.message.bytes=100" })
      local bus = new_bus { topic_prefix = prefix, max_retries = 0 }
      local events = {}
      for i = 1, 10 do events[i] = paid(i) end
      bus:subscribe(Paid, function(event)
        if event.number == 4 then error("refused", 0) end
      end)
      kafka.consume(bus, 1)
      assert(bus:publish(events))
      wait_handled(bus, 9)
      kafka.wait("the log line", function()
        return kafka.logged(bus, "dead letter .* not written")
      end)
      assert.are.equal(0, kafka.stats(bus, "messages_sent_to_dlq"))
      assert.are.equal(1, kafka.stats(bus, "events_parked"))
      assert(bus:stop_consuming())
      assert.are.equal(3, kafka.offsets(bus.config.consumer_group, prefix .. ".stream")[0])
    end)
  end)

  describe("looking after them", function()
    it("counts and lists them with payload, headers and place [15, 35, 46]", function()
      local bus = new_bus { max_retries = 0 }
      refuse(bus)
      kafka.consume(bus)
      assert.are.equal(0, bus:get_dlq_message_count())
      assert.are.same({}, bus:get_dlq_messages())
      local events, by_key = {}, {}
      for i = 1, 25 do
        events[i] = paid(i)
        by_key[events[i].aggregate_id] = events[i]
      end
      assert(bus:publish(events))
      wait_dead(bus, 25)
      assert.are.equal(25, bus:get_dlq_message_count())
      local list
      wait.within(3, function() -- a list shorter than its limit ends [7.13]
        local before = moonbus.now()
        list = assert(bus:get_dlq_messages())
        return moonbus.now() - before
      end)
      assert.are.equal(25, #list)
      local partitions = {}
      for _, dead in ipairs(list) do
        local event = by_key[dead.key]
        by_key[dead.key] = nil
        assert.are.equal(bus.config.dlq_topic_name, dead.topic)
        assert.are.equal(event.event_id, dead.payload.event_id)
        assert.are.equal(event.number, dead.payload.number)
        assert.are.equal(event.event_id, dead.headers.event_id)
        assert.are.equal("max_retries_exceeded", dead.headers.dlq_reason)
        assert.are.equal(0, dead.replay_count)
        assert.is_true(dead.timestamp > 1.6e12)
        assert.is_true(dead.offset > (partitions[dead.partition] or -1), "oldest first")
        partitions[dead.partition] = dead.offset
      end
      assert.is_nil(next(by_key))
      assert.are.equal(7, #assert(bus:get_dlq_messages { limit = 7 }))
      assert.are.equal(0, #assert(bus:get_dlq_messages { limit = 0 }))
    end)

    it("lists what is no JSON as hexadecimal, tombstones without payload [7.13]", function()
      local bus = new_bus {}
      kafka.create(bus.config.dlq_topic_name, 1)
      kafka.produce(bus.config.dlq_topic_name, {
        { key = "a", value = "\0\1\255" }, { key = "b" },
        { value = '{"n":9007199254740993}', headers = { { "dlq_replay_count", "x" },
          { "odd", moonbus.null }, { "raw", "\255" } } },
      })
      local list = assert(bus:get_dlq_messages())
      assert.are.equal(3, #list)
      assert.are.equal("0001ff", list[1].payload)
      assert.is_nil(list[2].payload)
      assert.are.equal("b", list[2].key)
      assert.is_nil(list[3].key)
      assert.are.equal("9007199254740993LL", tostring(list[3].payload.n))
      assert.are.equal(0, list[3].replay_count)
      assert.are.equal(moonbus.null, list[3].headers.odd)
      assert.are.equal("\255", list[3].headers.raw)
    end)

    it("puts one back with its key and value, and it is handled [36]", function()
      local bus = new_bus {}
      local open, got = false, {}
      bus:subscribe(Paid, function(event, context)
        if not open then error("closed", 0) end
        got[#got + 1] = { event, context.attempt, context.headers.dlq_replay_count }
      end)
      kafka.consume(bus)
      local event = paid(9)
      local dead = one_dead(bus, event)
      open = true
      local ok, partition, offset =
        bus:replay_dlq_message { partition = dead.partition, offset = dead.offset }
      assert.is_true(ok)
      wait_handled(bus, 1)
      assert.are.same({ { event, 1, "1" } }, got)
      local records = kafka.dump(bus.config.topic_name)
      assert.are.equal(2, #records)
      local first, again = records[1], records[2]
      assert.are.same({ partition, offset }, { again.partition, again.offset })
      assert.are.equal(first.key, again.key)
      assert.are.equal(first.value, again.value)
      assert.are.same(joined(names_of(first), { "retry_count", "dlq_replay_count" }),
        names_of(again))
      assert.are.equal("0", header(again, "retry_count"))
      assert.are.equal("1", header(again, "dlq_replay_count"))
      assert.are.equal(1, bus:get_dlq_message_count())
    end)

    it("guards against replaying what keeps failing, unless forced [15, 7.14]", function()
      local bus = new_bus { max_retries = 0, dlq_max_replay_attempts = 2 }
      refuse(bus)
      kafka.consume(bus)
      local dead = one_dead(bus)
      local function replay(force)
        return bus:replay_dlq_message {
          partition = dead.partition, offset = dead.offset, force = force }
      end
      for round = 1, 2 do
        assert(replay())
        wait_dead(bus, 1 + round)
        local records = kafka.dump(bus.config.dlq_topic_name)
        dead = records[#records]
        assert.are.equal(tostring(round), header(dead, "dlq_replay_count"))
      end
      local done, err, code = replay()
      assert.is_nil(done)
      assert.are.equal("EREPLAY", code)
      assert.is_truthy(err:find("replayed 2 times already"))
      assert.is_true((replay(true)))
      wait_dead(bus, 4)
      local list = bus:get_dlq_messages()
      assert.are.equal(3, list[4].replay_count)
      -- one header of each name: those of the earlier death are gone
      local seen = {}
      for _, name in ipairs(names_of(kafka.dump(bus.config.dlq_topic_name)[4])) do
        assert.is_nil(seen[name], name .. " is there twice")
        seen[name] = true
      end
    end)

    it("says so when the broker does not take the replay", function()
      local prefix = kafka.name("refused")
      kafka.create(prefix .. ".stream", 1, { "max.message.bytes=2000" })
      kafka.create(prefix .. ".stream.dlq", 1)
      local bus = new_bus { topic_prefix = prefix, compression_type = "none" }
      kafka.produce(prefix .. ".stream.dlq", { { key = "k", value = ("x"):rep(3000),
        headers = { { "event_type", "Paid" }, { "dlq_reason", "max_retries_exceeded" } } } })
      local done, err, code = bus:replay_dlq_message { partition = 0, offset = 0 }
      assert.is_nil(done)
      assert.are.equal("EDELIVERY", code)
      assert.is_truthy(err:find("too large", 1, true), err)
      assert.are.equal(0, kafka.sum(kafka.ends(prefix .. ".stream")))
      assert.are.equal(1, bus:get_dlq_message_count())
    end)

    it("says so when there is nothing to replay, or no connection [36]", function()
      local bus = new_bus { max_retries = 0 }
      refuse(bus)
      kafka.consume(bus)
      local dead = one_dead(bus)
      local _, _, code = bus:replay_dlq_message { partition = dead.partition, offset = 77 }
      assert.are.equal("ENOENT", code)
      _, _, code = bus:replay_dlq_message { partition = 99, offset = 0 }
      assert.are.equal("ENOENT", code)
      bus:disconnect()
      local ok, err
      ok, err, code = bus:replay_dlq_message { partition = dead.partition, offset = dead.offset }
      assert.is_nil(ok)
      assert.is_truthy(err)
      assert.are.equal("ESTATE", code)
    end)
  end)

  describe("without their topic", function()
    it("consumption does not start where the broker refuses it: ETOPIC", function()
      local prefix = kafka.name("collide")
      -- Kafka makes no topic whose name differs from another's in nothing but . and _
      kafka.create(prefix .. ".stream_dlq", 1)
      local bus = new_bus { topic_prefix = prefix }
      refuse(bus)
      local started, err, code = bus:start_consuming_in_background()
      assert.is_nil(started)
      assert.are.equal("ETOPIC", code)
      assert.is_truthy(err:find(prefix .. ".stream.dlq", 1, true), err)
      assert.is_false(bus:is_consuming())
      local without = new_bus { topic_prefix = prefix, enable_dlq = false }
      assert(without:start_consuming_in_background())
    end)

    it("consumption does not start where the broker makes none: ETOPIC", function()
      local broker = kafka.broker { set = { "auto.create.topics.enable=false" } }
      local prefix = kafka.name("manual")
      local bus = kafka.new_bus { bootstrap_servers = broker.address, topic_prefix = prefix }
      local ok, err, code = bus:connect(60)
      assert.is_nil(ok)
      assert.are.equal("ETOPIC", code)
      assert.is_truthy(err:find(prefix .. ".stream", 1, true), err)
      assert.is_truthy(err:find("topics create", 1, true), err)
      assert(bus.native:topic_create(prefix .. ".stream", 2))
      assert(bus:connect(60))
      local started
      started, err, code = bus:start_consuming_in_background()
      assert.is_nil(started)
      assert.are.equal("ETOPIC", code)
      assert.is_truthy(err:find(prefix .. ".stream.dlq", 1, true), err)
      assert.is_truthy(err:find("topics create", 1, true), err)
      assert.are.equal(0, bus:get_dlq_message_count())
      assert.are.same({}, bus:get_dlq_messages())
      assert(bus.native:topic_create(prefix .. ".stream.dlq", 1))
      kafka.consume(bus, 2)
    end)
  end)
end)
