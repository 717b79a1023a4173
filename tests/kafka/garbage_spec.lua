-- Records nobody should have written, on a real Kafka: the partition goes on, the counts add up.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"

local registry = moonbus.new_registry()
local Good = moonbus.event("Good", { aggregate_type = "Thing", number = "integer" },
  { registry = registry })

local function new_bus(options)
  options = options or {}
  options.event_registry = registry
  options.topic_prefix = options.topic_prefix or kafka.name("garbage")
  options.max_retries = options.max_retries or 1
  return kafka.bus(options)
end

local function good(n)
  return Good { aggregate_id = moonbus.uuid(), number = n or 1 }
end

-- A good event as a raw record.
local function raw(bus, n)
  local encoded = bus.native:encode(good(n))
  return { key = encoded.key, value = encoded.value, headers = encoded.headers }
end

local function wait_consumed(bus, n)
  kafka.wait(function()
    return ("%d records, got %s"):format(n, moonbus.json.encode(bus:get_stats_dict()))
  end, function()
    local stats = bus:get_stats_dict()
    return stats.events_consumed >= n and stats.events_parked == 0
      and stats.events_processed_success + stats.messages_sent_to_dlq + stats.events_skipped >= n
  end)
end

-- What was handled, dead and skipped is what was produced, and all of it is committed.
local function assert_balance(bus, produced, handled, dead, skipped)
  wait_consumed(bus, produced)
  local stats = bus:get_stats_dict()
  assert.are.same(
    { consumed = produced, handled = handled, dead = dead, skipped = skipped, dropped = 0 },
    { consumed = stats.events_consumed, handled = stats.events_processed_success,
      dead = stats.messages_sent_to_dlq, skipped = stats.events_skipped,
      dropped = stats.events_dropped })
  local topic = bus.config.topic_name
  kafka.wait("the end", function() return bus.native:is_idle() end)
  assert.are.equal(0, kafka.stats(bus, "lag"))
  assert(bus:stop_consuming())
  assert.are.equal(produced, kafka.sum(kafka.ends(topic)))
  assert.are.equal(dead, kafka.sum(kafka.ends(topic .. ".dlq")))
  assert.are.equal(produced, kafka.sum(kafka.offsets(bus.config.consumer_group, topic)))
end

local function bytes(n)
  local list = {}
  for i = 1, n do list[i] = string.char(math.random(0, 255)) end
  return table.concat(list)
end

local function header(record, name)
  for _, each in ipairs(record.headers) do
    if each[1] == name then return each[2] end
  end
end

kafka.describe("garbage on Kafka:", function()
  it("random bytes among good events are dead letters, byte for byte", function()
    local seed = os.time()
    math.randomseed(seed)
    local bus = new_bus()
    local numbers, records, dead = {}, {}, {}
    bus:subscribe(Good, function(event) numbers[#numbers + 1] = event.number end)
    kafka.consume(bus)
    for i = 1, 400 do
      if i % 4 == 0 then
        records[i] = raw(bus, i)
      else
        records[i] = { value = "\255" .. bytes(math.random(0, 300)), key = bytes(8) }
        if i % 4 == 1 then records[i].headers = { { "event_type", "Good" }, { "x", bytes(9) } } end
        dead[records[i].key] = records[i]
      end
    end
    kafka.produce(bus.config.topic_name, records)
    assert_balance(bus, 400, 100, 300, 0)
    assert.are.equal(100, #numbers)
    for _, letter in ipairs(kafka.dump(bus.config.dlq_topic_name)) do
      local original = dead[letter.key]
      dead[letter.key] = nil
      assert.are.equal(original.value, letter.value)
      for i, each in ipairs(original.headers or {}) do assert.are.same(each, letter.headers[i]) end
      assert.are.equal("deserialization_error", header(letter, "dlq_reason"))
    end
    assert.is_nil(next(dead), "seed " .. seed)
  end)

  it("random damage to good events is handled, dead or skipped, never lost", function()
    local seed = os.time()
    math.randomseed(seed)
    local bus = new_bus { max_retries = 0 }
    bus:subscribe(Good, function() end)
    kafka.consume(bus)
    local records = {}
    for i = 1, 600 do
      local record = raw(bus, i)
      local at = math.random(#record.value)
      local kind = i % 3
      if kind == 0 then
        record.value = record.value:sub(1, at - 1) .. bytes(1) .. record.value:sub(at + 1)
      elseif kind == 1 then
        record.value = record.value:sub(1, at)
      else
        record.value = record.value:sub(1, at) .. record.value:sub(math.random(#record.value))
      end
      if i % 5 == 0 then record.headers = nil end
      records[i] = record
    end
    kafka.produce(bus.config.topic_name, records)
    wait_consumed(bus, 600)
    local stats = bus:get_stats_dict()
    assert.are.equal(600, stats.events_processed_success + stats.messages_sent_to_dlq
      + stats.events_skipped, "seed " .. seed)
    assert_balance(bus, 600, stats.events_processed_success, stats.messages_sent_to_dlq,
      stats.events_skipped)
  end)

  it("tombstones, empty values, missing keys and types are dead letters or skipped", function()
    local bus = new_bus()
    bus:subscribe(Good, function() end)
    kafka.consume(bus)
    local dead = {
      {}, { key = "k" }, { value = "" }, { headers = { { "event_type", "Good" } } },
      { headers = { { "event_type", moonbus.null } } }, { headers = { { "event_type", "" } } },
      { headers = { { "event_type", "\255" } }, value = "{}" }, { value = "{}" },
      { value = '{"event_type":null}' }, { value = '{"event_type":7}' },
      { value = '{"event_type":""}' }, { value = '{"event_type":"Good"}' },
      { value = ("["):rep(20000), headers = { { "event_type", "Good" } } },
      { value = ('{"a":'):rep(20000), headers = { { "event_type", "Good" } } },
      { value = '{"event_type":"Good","aggregate_id":"x"}' },
      { value = '"Good"', headers = { { "event_type", "Good" } } },
      { value = "null", headers = { { "event_type", "Good" } } },
    }
    local skipped = {
      { value = '{"event_type":"Other"}' }, { headers = { { "event_type", "Other" } } },
      { value = "\0\255", headers = { { "event_type", "Other" } } },
      { value = '{"event_type":"' .. ("T"):rep(5000) .. '"}' },
      { value = "", headers = { { "event_type", "good" } } },
    }
    local records = { raw(bus, 1) }
    for _, list in ipairs { dead, skipped } do
      for _, record in ipairs(list) do records[#records + 1] = record end
    end
    records[#records + 1] = raw(bus, 2)
    kafka.produce(bus.config.topic_name, records)
    assert_balance(bus, #records, 2, #dead, #skipped)
  end)

  it("the same for handlers of all events: what has a type and a shape is theirs", function()
    local bus = new_bus()
    local types = {}
    bus:subscribe_to_all_events(function(event) types[#types + 1] = event.event_type end)
    kafka.consume(bus)
    local id = moonbus.uuid()
    kafka.produce(bus.config.topic_name, {
      raw(bus, 1), { value = "rubbish" }, {}, { value = "{}" },
      { value = ('{"event_type":"Odd","aggregate_id":"%s","aggregate_type":"A"}'):format(id) },
    })
    assert_balance(bus, 5, 2, 3, 0)
    table.sort(types)
    assert.are.same({ "Good", "Odd" }, types)
  end)

  it("strange headers reach the handler, and the dead letter, as they are [7.7]", function()
    local prefix = kafka.name("garbage")
    kafka.create(prefix .. ".stream", 1)
    local bus = new_bus { topic_prefix = prefix, max_retries = 1 }
    local seen = {}
    bus:subscribe(Good, function(event, context)
      if context.attempt == 1 then
        seen[event.number] = context.headers
        seen[-event.number] = context:header("twice")
      end
      if event.number == 1 then error("refused", 0) end
    end)
    kafka.consume(bus, 1)
    local odd = raw(bus, 1)
    for _, each in ipairs {
      { "nothing", moonbus.null }, { "empty", "" }, { "twice", "a" }, { "twice", "b" },
      { "binary", "\0\1\255" }, { "event_id", "not the first" }, { "traceparent", moonbus.null },
      { ("n"):rep(300), "long name" }, { "é", "name" }, { "big", ("b"):rep(100000) },
    } do odd.headers[#odd.headers + 1] = each end
    kafka.produce(prefix .. ".stream", { odd, raw(bus, 2) })
    assert_balance(bus, 2, 1, 1, 0)
    assert.are.equal(moonbus.null, seen[1].nothing)
    assert.are.equal("", seen[1].empty)
    assert.are.equal("a", seen[1].twice)
    assert.are.equal("a", seen[-1])
    assert.are.equal("\0\1\255", seen[1].binary)
    assert.are.equal(36, #seen[1].event_id)
    assert.are.equal("name", seen[1]["é"])
    assert.is_nil(seen[2].twice)
    local letter = kafka.dump(prefix .. ".stream.dlq")[1]
    assert.are.equal(#odd.headers + 13, #letter.headers) -- 9 of the wire, 4 of our own
    for i, each in ipairs(odd.headers) do assert.are.same(each, letter.headers[i]) end
  end)

  it("counts in headers that are no counts are none [7.7]", function()
    local bus = new_bus { max_retries = 1 }
    local attempts = {}
    bus:subscribe(Good, function(_, context)
      attempts[#attempts + 1] = context.attempt
      error("refused", 0)
    end)
    kafka.consume(bus)
    local records = {}
    for i, value in ipairs { "-1", "x", "", moonbus.null, "99999999999999999999", "1e3", "\255" } do
      records[i] = raw(bus, i)
      table.insert(records[i].headers, { "retry_count", value })
      table.insert(records[i].headers, { "retry_after", "1e300" })
      table.insert(records[i].headers, { "dlq_replay_count", value })
    end
    kafka.produce(bus.config.topic_name, records)
    assert_balance(bus, 7, 0, 7, 0)
    table.sort(attempts)
    assert.are.same({ 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2 }, attempts)
    for _, dead in ipairs(assert(bus:get_dlq_messages())) do
      assert(bus:replay_dlq_message { partition = dead.partition, offset = dead.offset })
    end
    assert.are.equal(14, kafka.sum(kafka.ends(bus.config.topic_name)))
  end)

  it("keys that are null or binary are handled, retried in order, kept by dead letters", function()
    local prefix = kafka.name("garbage")
    kafka.create(prefix .. ".stream", 1)
    local bus = new_bus { topic_prefix = prefix, max_retries = 2 }
    local order, failed = {}, {}
    bus:subscribe(Good, function(event, context)
      if event.number % 10 == 5 and not failed[event.number] then
        failed[event.number] = true
        error("once", 0)
      end
      if event.number == 40 then error("always", 0) end
      order[#order + 1] = { context.key or "(none)", event.number }
    end)
    kafka.consume(bus, 1)
    local keys, records = { "\0", "\255\254", "", ("k"):rep(10000), "null" }, {}
    for i = 1, 60 do
      records[i] = raw(bus, i)
      records[i].key = keys[i % 6 + 1]
      if i % 6 == 5 then records[i].key = nil end
    end
    kafka.produce(prefix .. ".stream", records)
    assert_balance(bus, 60, 59, 1, 0)
    local last = {}
    for _, each in ipairs(order) do
      assert.is_true(each[2] > (last[each[1]] or 0))
      last[each[1]] = each[2]
    end
    assert.are.equal(records[40].key, kafka.dump(prefix .. ".stream.dlq")[1].key)
  end)

  it("events as large as may be arrive; larger ones are refused and named", function()
    local bus = new_bus()
    local sizes = {}
    bus:subscribe(Good, function(event) sizes[#sizes + 1] = #event.metadata.text end)
    kafka.consume(bus)
    local small, large = good(1), good(2)
    small.metadata = { text = ("x"):rep(998000) }
    large.metadata = { text = ("x"):rep(1001000) }
    assert(bus:publish(small))
    local receipt, err, code, failures = bus:publish { good(3), large }
    assert.is_nil(receipt)
    assert.are.equal("EDELIVERY", code)
    assert.is_truthy(err:find(large.event_id, 1, true), err)
    assert.is_truthy(err:lower():find("too large", 1, true), err)
    assert.are.equal(1, #failures)
    assert.are.equal(2, failures[1].index)
    kafka.wait("the large one", function() return sizes[1] end)
    assert.are.equal(998000, sizes[1])
  end)

  it("values near the broker's limit die as pointers, and replay finds them", function()
    local bus = new_bus { max_retries = 0 }
    local open, sizes = false, {}
    bus:subscribe(Good, function(event)
      if not open then error("refused", 0) end
      sizes[#sizes + 1] = #event.metadata.text
    end)
    kafka.consume(bus)
    -- one that just fits our producer, but not with a dead letter's headers; one of another's
    local ours = good(1)
    ours.metadata = { text = "" }
    local room = 1000000 - #bus.native:encode(ours).value - 600
    ours.metadata.text = ("x"):rep(room)
    assert(bus:publish(ours))
    local theirs = raw(bus, 2)
    theirs.value = theirs.value:gsub('"metadata":{}',
      '"metadata":{"text":"' .. ("y"):rep(1045000) .. '"}')
    local reports = kafka.produce(bus.config.topic_name, { theirs,
      { value = bytes(1000):rep(1045) } }, { "message.max.bytes=2000000" })
    for _, report in ipairs(reports) do assert.are.equal(moonbus.null, report.error) end
    kafka.wait("the dead letters", function()
      return kafka.stats(bus, "messages_sent_to_dlq") == 3
    end)
    local letters = kafka.dump(bus.config.dlq_topic_name)
    assert.are.equal(3, #letters)
    open = true
    for _, letter in ipairs(letters) do
      if header(letter, "dlq_reason") == "max_retries_exceeded" then
        assert.is_nil(letter.value)
        assert.is_true(tonumber(header(letter, "dlq_value_omitted_bytes")) > 900000)
        local ok, _, code =
          bus:replay_dlq_message { partition = letter.partition, offset = letter.offset }
        -- what another client may write, ours may not: it says so
        if letter.key == ours.aggregate_id then
          assert.is_true(ok)
        else
          assert.is_nil(ok)
          assert.are.equal("EDELIVERY", code)
        end
      end
    end
    kafka.wait("the replay", function() return sizes[1] end)
    assert.are.equal(room, sizes[1])
  end)

  for _, codec in ipairs { "gzip", "snappy", "lz4", "zstd" } do
    it("batches of kcat compressed with " .. codec .. " are read, good and bad", function()
      local bus = new_bus()
      local seen = {}
      bus:subscribe(Good, function(event) seen[event.number] = true end)
      kafka.consume(bus)
      local lines = {}
      for i = 1, 500 do
        local record = raw(bus, i)
        lines[i] = i % 5 == 0 and "rubbish " .. i or record.key .. "\t" .. record.value
      end
      kafka.run({ "kcat", "-P", "-b", kafka.address, "-t", bus.config.topic_name, "-K", "\t", "-z",
        codec, "-H", "nothing", "-H", "twice=1", "-H", "twice=2" },
        table.concat(lines, "\n") .. "\n")
      assert_balance(bus, 500, 400, 100, 0)
      for i = 1, 500 do assert.are.equal(i % 5 ~= 0 or nil, seen[i]) end
    end)
  end
end)
