-- One topic, two implementations: ours and the real eventsource-py (interop.py).
local ffi = require "ffi"
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"

local COUNT = 1000

local registry = moonbus.new_registry()
local Measured = moonbus.event("Measured", {
  aggregate_type = "Probe",
  { "ref", "uuid" }, { "amount", "decimal" }, { "ratio", "number" }, { "count", "integer" },
  { "big", "integer" }, { "ok", "boolean" }, { "note", "string?" }, { "tags", "string[]" },
  { "readings", "integer[]" }, { "extra", "object" },
}, { registry = registry })

local function new_bus(prefix, options)
  options = options or {}
  options.topic_prefix = prefix
  options.event_registry = registry
  return kafka.bus(options)
end

-- Another version of eventsource-py than that of the other specs has a Python of its own.
local eventsource = os.getenv "MOONBUS_TEST_EVENTSOURCE" or kafka.python

local function python(...)
  return (kafka.run { eventsource, kafka.source .. "/tests/kafka/interop.py", kafka.address, ... })
end

local function json(text)
  return assert(moonbus.json.decode(text))
end

-- ---- fields as text that loses nothing: the counterpart of in_words in interop.py ----

local function digits(number)
  if type(number) == "cdata" then return (tostring(number):gsub("U?LL$", "")) end
  return ("%.0f"):format(number)
end

-- As Python's float.hex writes it.
local function hex_float(number)
  if number == 0 then return 1 / number < 0 and "-0x0.0p+0" or "0x0.0p+0" end
  local fraction, exponent = math.frexp(math.abs(number))
  fraction, exponent = fraction * 2, exponent - 1
  if exponent < -1022 then
    fraction, exponent = math.ldexp(fraction, exponent + 1022), -1022
  end
  local bits = ffi.new("union { double d; uint64_t u; }", { d = number }).u
  return ("%s0x%d.%05x%08xp%+d"):format(number < 0 and "-" or "", math.floor(fraction),
    tonumber(bits / 0x100000000ULL % 0x100000ULL), tonumber(bits % 0x100000000ULL), exponent)
end

local function or_null(value)
  if value == nil then return moonbus.null end
  return value
end

local function in_words(event)
  local words = {}
  for _, name in ipairs { "event_id", "event_type", "aggregate_id", "aggregate_type", "tenant_id",
    "actor_id", "correlation_id", "causation_id", "metadata", "ref", "amount", "ok", "note", "tags",
    "extra" } do
    words[name] = or_null(event[name])
  end
  words.ratio = hex_float(event.ratio)
  for _, name in ipairs { "count", "big", "event_version", "aggregate_version" } do
    words[name] = digits(event[name])
  end
  words.readings = moonbus.array {}
  for i, each in ipairs(event.readings) do words.readings[i] = digits(each) end
  words.occurred_at = event.occurred_at:gsub("Z$", "+00:00")
  return words
end

-- Deep equality that tells an empty array from an empty object, and 2^53 from 2^53 + 1.
local function text_of(value)
  return assert(moonbus.json.encode(value))
end

local TEXTS = { "", "plain", "zażółć gęślą jaźń", "日本語", "😀🚀", 'quotes " and \\ and /',
  "tab\tline\nfeed\1\127", ("a"):rep(3000) }
local FLOATS = { 0, -0.0, 1, 100, 0.1, 1e-5, 1e-7, 1e15, 1e16, 1e22, 1.7976931348623157e308, 5e-324,
  -2.2250738585072014e-308, 3.141592653589793 }
local DECIMALS = { "0", "-0.0", "12.340", "1E+3", "1E-10", "99999999999999999999.99", "-5" }
local INTS = { 0, 1, -1, 2^31, -2^31, 2^53, 9007199254740993LL, -9007199254740993LL,
  4611686018427387904LL, -4611686018427387904LL, 9223372036854775807LL,
  -9223372036854775807LL - 1LL }

local function pick(list)
  return list[math.random(#list)]
end

local function pick_several(list, most)
  local several = moonbus.array {}
  for i = 1, math.random(0, most) do several[i] = pick(list) end
  return several
end

local function make(number)
  local fields = {
    aggregate_id = moonbus.uuid(), aggregate_version = number,
    metadata = { source = pick(TEXTS), n = pick(INTS), empty = {}, none = moonbus.null,
      nested = { list = moonbus.array { 1, moonbus.null, true, { ["ü"] = moonbus.array {} } } } },
    ref = moonbus.uuid(), amount = pick(DECIMALS), ok = number % 2 == 0,
    ratio = number % 2 == 0 and pick(FLOATS) or (math.random() - 0.5) * 1e6,
    count = number, big = pick(INTS), tags = pick_several(TEXTS, 3),
    readings = pick_several(INTS, 4), extra = { deep = { moonbus.array {}, { x = pick(TEXTS) } } },
  }
  if number % 3 == 0 then fields.tenant_id = moonbus.uuid() end
  if number % 4 == 0 then fields.actor_id = "user:é" end
  if number % 5 == 0 then fields.causation_id = moonbus.uuid() end
  if number % 7 ~= 0 then fields.note = pick(TEXTS) end
  return Measured(fields)
end

local function several(n)
  local events = {}
  for i = 1, n do events[i] = make(i) end
  return events
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

kafka.describe("interop with eventsource-py on Kafka:", function()
  it("we read its " .. COUNT .. " events, every field equal", function()
    local prefix, path = kafka.name("from-python"), kafka.temp_dir() .. "/events"
    local bus = new_bus(prefix)
    local got = {}
    bus:subscribe(Measured, function(event) got[event.event_id] = event end)
    kafka.consume(bus)
    python("publish", prefix, COUNT, path)
    kafka.wait("its events", function()
      return kafka.stats(bus, "events_processed_success") == COUNT
    end)
    local compared = 0
    for line in io.lines(path) do
      local original = json(line)
      local words = in_words(assert(got[original.event_id], "not received"))
      for name in pairs(original) do assert.is_not_nil(words[name], name) end
      for name, value in pairs(words) do
        assert.are.equal(text_of(original[name]), text_of(value), name)
      end
      compared = compared + 1
    end
    assert.are.equal(COUNT, compared)
    assert.are.equal(0, kafka.stats(bus, "messages_sent_to_dlq"))
    assert.are.equal(COUNT, kafka.stats(bus, "events_consumed"))
  end)

  it("it reads our " .. COUNT .. " events, every field equal", function()
    local prefix, path = kafka.name("to-python"), kafka.temp_dir() .. "/events"
    local bus = new_bus(prefix)
    math.randomseed(COUNT)
    local events, lines = several(COUNT), {}
    for i, event in ipairs(events) do lines[i] = text_of(in_words(event)) .. "\n" end
    kafka.write_file(path, table.concat(lines))
    assert(bus:publish(events))
    local report = json(python("consume", prefix, COUNT, path))
    assert.are.equal("[]", text_of(report.wrong))
    assert.are.equal(COUNT, report.count)
    assert.are.equal(0, report.missing)
    assert.are.equal(0, report.dead)
    assert.are.equal(0, report.failed)
  end)

  it("a field that its class does not declare is ignored, or forbidden by the newest", function()
    local prefix, path = kafka.name("surplus"), kafka.temp_dir() .. "/events"
    local bus = new_bus(prefix)
    local events, lines = several(2), {}
    for i, event in ipairs(events) do
      local encoded = bus.native:encode(event)
      lines[i] = text_of(in_words(event)) .. "\n"
      kafka.produce(prefix .. ".stream", { { key = encoded.key, headers = encoded.headers,
        value = i == 1 and encoded.value:gsub("^{", '{"surplus":1,') or encoded.value } })
    end
    kafka.write_file(path, table.concat(lines))
    local report = json(python("consume", prefix, 2, path))
    local forbidden = eventsource ~= kafka.python and 1 or 0
    assert.are.equal("[]", text_of(report.wrong))
    assert.are.equal(2 - forbidden, report.count)
    assert.are.equal(forbidden, report.dead)
  end)

  it("its events, published again by us, keep key, headers and order of fields", function()
    local prefix, path = kafka.name("echo"), kafka.temp_dir() .. "/events"
    local bus = new_bus(prefix)
    python("publish", prefix, 100, path)
    for _, record in ipairs(kafka.dump(prefix .. ".stream")) do
      local event = assert(bus.native:decode(record.value, Measured.__moonbus))
      local encoded = bus.native:encode(event)
      assert.are.equal(record.key, encoded.key)
      assert.are.same(record.headers, encoded.headers)
      -- objects inside (metadata, extra) are written with sorted names, floats in the shortest form
      local again = assert(bus.native:decode(encoded.value, Measured.__moonbus))
      assert.are.equal(text_of(in_words(event)), text_of(in_words(again)))
      local order, our_order = {}, {}
      for name in record.value:gmatch('"([%l_]+)":') do order[#order + 1] = name end
      for name in encoded.value:gmatch('"([%l_]+)":') do our_order[#our_order + 1] = name end
      for i = 1, 11 do assert.are.equal(order[i], our_order[i]) end
    end
  end)

  it("we read its retries and its dead letter, and replay that", function()
    local prefix = kafka.name("its-dead")
    local bus = new_bus(prefix)
    local attempts, got = {}, {}
    bus:subscribe(Measured, function(event, context)
      attempts[#attempts + 1] = context.attempt
      got[#got + 1] = event
    end)
    kafka.consume(bus)
    local event = make(1)
    assert(bus:publish(event))
    local group = json(python("fail", prefix, 2)).group
    kafka.wait("its two retries", function() return #attempts == 3 end)
    assert.are.same({ 1, 2, 3 }, attempts)
    for _, each in ipairs(got) do assert.are.same(event, each) end
    local copies = kafka.dump(prefix .. ".stream")
    assert.are.equal("2", header(copies[3], "retry_count"))
    assert.is_truthy(tonumber(header(copies[3], "retry_after")))

    local list = assert(bus:get_dlq_messages())
    assert.are.equal(1, #list)
    assert.are.equal(1, bus:get_dlq_message_count())
    local headers = list[1].headers
    assert.are.equal("max_retries_exceeded", headers.dlq_reason)
    assert.are.equal("ValueError", headers.dlq_error_type)
    assert.are.equal("zły dzień", headers.dlq_error_message)
    assert.are.equal("2", headers.dlq_retry_count)
    assert.are.equal(prefix .. ".stream", headers.dlq_original_topic)
    assert.are.equal(group, headers.dlq_consumer_group)
    assert.are.equal(event.event_id, list[1].payload.event_id)
    assert.are.equal(event.aggregate_id, list[1].key)

    assert(bus:replay_dlq_message { partition = list[1].partition, offset = list[1].offset })
    kafka.wait("the replay", function() return #attempts == 4 end)
    assert.are.equal(1, attempts[4])
    copies = kafka.dump(prefix .. ".stream")
    assert.are.equal(copies[1].value, copies[4].value)
    assert.are.equal("0", header(copies[4], "retry_count"))
    assert.are.equal("1", header(copies[4], "dlq_replay_count"))
    -- by its rules: none of its dlq_ headers but the count; ours leaves out the stale time as well
    for _, name in ipairs(names_of(copies[4])) do
      assert.is_true(not name:find("^dlq_") or name == "dlq_replay_count", name)
      assert.are_not.equal("retry_after", name)
    end
  end)

  it("its retry_count counts against our max_retries", function()
    local prefix = kafka.name("its-count")
    local bus = new_bus(prefix, { max_retries = 2 })
    local attempts = {}
    python("publish", prefix, 1, kafka.temp_dir() .. "/events")
    local first = kafka.dump(prefix .. ".stream")[1]
    first.headers[#first.headers + 1] = { "retry_count", "1" }
    first.headers[#first.headers + 1] = { "retry_after", "99999999999.5" }
    kafka.produce(prefix .. ".stream", { first })
    bus:subscribe(Measured, function(_, context)
      attempts[#attempts + 1] = context.attempt
      error("refused", 0)
    end)
    kafka.consume(bus)
    kafka.wait("the dead letters", function()
      return kafka.stats(bus, "messages_sent_to_dlq") == 2
    end)
    table.sort(attempts)
    assert.are.same({ 1, 2, 2, 3, 3 }, attempts)
    for _, dead in ipairs(kafka.dump(prefix .. ".stream.dlq")) do
      assert.are.equal("2", header(dead, "dlq_retry_count"))
    end
  end)

  it("it reads our dead letters and replays one", function()
    local prefix = kafka.name("our-dead")
    local bus = new_bus(prefix, { max_retries = 1 })
    local open, got = false, {}
    bus:subscribe(Measured, function(event)
      if not open then error({ type = "TooHot", message = "zażółć" }) end
      got[#got + 1] = event
    end)
    kafka.consume(bus)
    local events, by_id = several(6), {}
    for _, event in ipairs(events) do by_id[event.event_id] = event end
    assert(bus:publish(events))
    kafka.wait("the dead letters", function()
      return kafka.stats(bus, "messages_sent_to_dlq") == 6
    end)
    -- one less than there are: it waits for ever for one more than asked for
    local list = json(python("dead", prefix, 5))
    assert.are.equal(5, #list)
    for _, dead in ipairs(list) do
      local event = by_id[dead.headers.event_id]
      assert.are.equal(event.aggregate_id, dead.key)
      assert.are.equal(event.event_id, dead.payload.event_id)
      assert.are.equal(event.amount, dead.payload.amount)
      assert.are.equal("max_retries_exceeded", dead.headers.dlq_reason)
      assert.are.equal("TooHot", dead.headers.dlq_error_type)
      assert.are.equal("zażółć", dead.headers.dlq_error_message)
      assert.are.equal("1", dead.headers.dlq_retry_count)
      assert.are.equal(0, dead.replay_count)
    end
    open = true
    assert.is_true(json(python("replay", prefix, list[1].partition, list[1].offset)))
    kafka.wait("the replay", function() return #got == 1 end)
    assert.are.same(by_id[list[1].headers.event_id], got[1])
    local ours = assert(bus:get_dlq_messages())
    assert.are.equal(6, #ours)
  end)

  it("shares a group with us: each event is handled once, keys stay in order", function()
    local prefix, group = kafka.name("shared"), kafka.name("group")
    local path = kafka.temp_dir() .. "/ids"
    local bus = new_bus(prefix, { consumer_group = group, consumer_name = "moonbus" })
    local ours, sequence = {}, {}
    bus:subscribe(Measured, function(event)
      ours[#ours + 1] = event.event_id
      local list = sequence[event.aggregate_id] or {}
      sequence[event.aggregate_id] = list
      list[#list + 1] = event.count
    end)
    kafka.consume(bus)
    local other = kafka.spawn { eventsource, kafka.source .. "/tests/kafka/interop.py",
      kafka.address, "share", prefix, group, path }
    kafka.wait(function() return "the share; " .. other:errors() end, function()
      return kafka.stats(bus, "assigned_count") == 2 and kafka.group(group).state == "STABLE"
    end)
    local found, owners = kafka.group(group), {}
    assert.are.equal("roundrobin", found.assignor)
    for _, member in ipairs(found.members) do
      assert.are.equal(2, #member.partitions)
      for _, name in ipairs(member.partitions) do
        assert.is_nil(owners[name])
        owners[name] = member.client_id
      end
    end
    local events, keys = several(400), {}
    -- the same each time: they reach every partition
    for i = 1, 20 do keys[i] = ("00000000-0000-4000-8000-%012d"):format(i) end
    for i, event in ipairs(events) do event.aggregate_id = keys[i % 20 + 1] end
    assert(bus:publish(events))
    local theirs
    kafka.wait(function() return ("400 events: %d + %d"):format(#ours, #theirs) end, function()
      theirs = {}
      for id in kafka.read_file(path):gmatch("(%S+)\n") do theirs[#theirs + 1] = id end
      return #ours + #theirs >= 400
    end)
    kafka.wait("the offsets", function() -- of an event handled, not committed, another run is due
      return kafka.sum(kafka.offsets(group, prefix .. ".stream")) == 400
    end)
    other:kill(15)
    other:wait_end()
    kafka.wait("its partitions", function() return kafka.stats(bus, "assigned_count") == 4 end)
    kafka.wait("the end", function() return bus.native:is_idle() end)
    local seen = {}
    for _, list in ipairs { ours, theirs } do
      assert.is_true(#list > 0)
      for _, id in ipairs(list) do
        assert.is_nil(seen[id], "handled twice")
        seen[id] = true
      end
    end
    for _, event in ipairs(events) do assert.is_true(seen[event.event_id]) end
    for _, list in pairs(sequence) do
      for i = 2, #list do assert.is_true(list[i] > list[i - 1]) end
    end
  end)
end)
