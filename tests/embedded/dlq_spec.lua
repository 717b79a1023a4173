local moonbus = require "moonbus"
local support = require "tests.support.bus"
local wait = require "tests.support.wait"

local registry = moonbus.new_registry()
local Placed = moonbus.event("Placed", { aggregate_type = "Order", n = "integer",
  note = "string?" }, { registry = registry })

local ID = support.uuid(1)
local broker
local bus, off, tiny, guarded -- each on a topic of its own
local lines_off, lines_tiny

local function placed(n, note) return Placed { aggregate_id = ID, n = n, note = note } end

setup(function()
  broker = support.broker()
  local function new(options)
    options.event_registry = registry
    options.retry_base_delay = 0.01
    return broker:bus(options)
  end
  bus = new { max_retries = 1, dlq_consumer_group = support.name "reader" }
  off, lines_off = new { max_retries = 0, enable_dlq = false }
  tiny, lines_tiny = new { max_retries = 0, message_max_bytes = 1500 }
  guarded = new { max_retries = 0, dlq_max_replay_attempts = 1 }
  support.consume(bus, off, tiny, guarded)
end)

teardown(support.close)

after_each(function()
  for _, each in ipairs { bus, off, tiny, guarded } do each:clear_subscribers() end
end)

-- ---- what specs do to a bus ----

-- Put records on a bus's topic as they stand and wait until they are settled.
local function put(one, ...)
  local consumed = one:get_stats_dict().events_consumed
  for _, record in ipairs { ... } do
    record.topic = one.config.topic_name
    broker:produce(record)
  end
  wait.settled(one, consumed + select("#", ...))
end

-- Publish events and wait until they are settled.
local function publish(one, ...)
  local consumed = one:get_stats_dict().events_consumed
  assert(one:publish { ... })
  wait.settled(one, consumed + select("#", ...))
end

-- The newest dead letter, as kcat reads it and as the bus does; and how many there are.
local function letter(one)
  local raw = broker:consume(one.config.dlq_topic_name)
  local list = assert(one:get_dlq_messages { limit = 1000 })
  assert.equal(#raw, #list)
  return raw[#raw], list[#list], #list
end

-- The dead letter that body makes; fails unless it makes exactly one.
local function letter_of(one, body)
  local before = assert(one:get_dlq_message_count())
  body()
  local raw, read, count = letter(one)
  assert.equal(before + 1, count)
  return raw, read
end

local function names(headers)
  local list = {}
  for i, header in ipairs(headers) do list[i] = header[1] end
  return table.concat(list, " ")
end

local DEAD = "dlq_reason dlq_error_type dlq_error_message dlq_retry_count dlq_timestamp "
  .. "dlq_original_topic dlq_original_partition dlq_original_offset dlq_consumer_group"
-- Beyond what eventsource-py writes; a traceback only where the error was a text.
local MORE = " dlq_attempts dlq_first_failed_at dlq_handler"

local function failing(why)
  return function() error(why) end
end

-- ---- facts ----

describe("a dead letter", function()
  it("has the original's headers and then its own, in order and complete", function() -- 31
    bus:subscribe(Placed, failing { type = "Timeout", message = "too slow" })
    local event = placed(1)
    local receipt
    local raw, read = letter_of(bus, function()
      local consumed = bus:get_stats_dict().events_consumed
      receipt = assert(bus:publish(event))
      wait.settled(bus, consumed + 1)
    end)
    assert.equal("event_id event_type aggregate_id aggregate_type aggregate_version occurred_at "
      .. "correlation_id " .. DEAD .. MORE, names(raw.headers))
    local values = {}
    for _, header in ipairs(raw.headers) do values[header[1]] = header[2] end
    assert.equal(event.event_id, values.event_id)
    assert.equal("max_retries_exceeded", values.dlq_reason)
    assert.equal("Timeout", values.dlq_error_type)
    assert.equal("too slow", values.dlq_error_message)
    assert.equal("1", values.dlq_retry_count)
    assert.matches("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.?%d*%+00:00$", values.dlq_timestamp)
    assert(math.abs(moonbus.epoch(values.dlq_timestamp) - os.time()) < 100)
    assert.equal(bus.config.topic_name, values.dlq_original_topic)
    assert.equal(tostring(receipt.partitions[1]), values.dlq_original_partition)
    assert.equal(tostring(receipt.offsets[1]), values.dlq_original_offset)
    assert.equal(bus.config.consumer_group, values.dlq_consumer_group)
    assert.equal("2", values.dlq_attempts)
    assert(math.abs(moonbus.epoch(values.dlq_first_failed_at) - os.time()) < 100)
    assert.matches("dlq_spec.lua:%d+$", values.dlq_handler)
    assert.same(values, read.headers)
  end)

  it("has the original's key and value, byte for byte", function()
    bus:subscribe(Placed, failing "broken")
    local event = placed(1, "\195\169 \"\\\n\240\159\152\128")
    local _, read = letter_of(bus, function() publish(bus, event) end)
    assert.equal(ID, read.key)
    assert.equal(bus.native:encode(event).value, read.value)
    assert.same(event.note, read.payload.note)
  end)

  it("keeps what headers the original had: retry_count, strange ones, empty, null, doubled",
    function()
      bus:subscribe(Placed, failing "broken")
      local raw = letter_of(bus, function()
        put(bus, { key = ID, value = bus.native:encode(placed(1)).value, headers = {
          { "zeta", "1" }, { "event_type", "Placed" }, { "nothing" }, { "empty", "" },
          { "zeta", "2" }, { "retry_count", "1" }, { "retry_after", "1.5" }, { "event_id" },
          { "traceparent" } } })
      end)
      assert.equal("zeta event_type nothing empty zeta retry_count retry_after event_id "
        .. "traceparent " .. DEAD .. MORE .. " dlq_traceback", names(raw.headers))
      assert.equal(moonbus.null, raw.headers[8][2])
      assert.equal("1", raw.headers[1][2])
      assert.equal("2", raw.headers[5][2])
      assert.equal(moonbus.null, raw.headers[3][2])
      assert.equal("", raw.headers[4][2])
    end)

  -- A letter of another group, that somebody put back as it was: with the headers of its death,
  -- some of them doubled, and those that only some deaths have.
  local FORMER = {
    { "event_type", "Placed" }, { "retry_count", "7" }, { "retry_after", "1.5" },
    { "dlq_reason", "deserialization_error" }, { "dlq_error_type", "OldError" },
    { "dlq_error_message", "older" }, { "dlq_error_message", "old" }, { "dlq_retry_count", "7" },
    { "dlq_timestamp", "2001-01-01T00:00:00+00:00" }, { "dlq_original_topic", "elsewhere" },
    { "dlq_original_partition", "9" }, { "dlq_original_offset", "99" },
    { "dlq_consumer_group", "strangers" }, { "dlq_attempts", "8" },
    { "dlq_first_failed_at", "2001-01-01T00:00:00+00:00" }, { "dlq_handler", "old handler" },
    { "dlq_traceback", "old traceback" }, { "dlq_value_omitted_bytes", "5" },
    { "dlq_other", "of another client" }, { "dlq_replay_count", "1" }, { "dlq_replay_count", "2" },
    { "replay_group", "strangers" },
  }

  -- The replay_group of another group has its record skipped where its time says so, one in 64.
  local function put_until_dead(one, record)
    local before = assert(one:get_dlq_message_count())
    repeat put(one, record) until one:get_dlq_message_count() > before
  end

  it("has nothing of an earlier death that its record brought along", function()
    bus:subscribe(Placed, failing { type = "Timeout", message = "too slow" })
    local raw, read = letter_of(bus, function()
      put_until_dead(bus, { key = ID, value = bus.native:encode(placed(1)).value,
        headers = FORMER })
    end)
    assert.equal("event_type dlq_replay_count " .. DEAD .. MORE, names(raw.headers))
    local headers = read.headers
    assert.same({ "max_retries_exceeded", "Timeout", "too slow", "1", "2" },
      { headers.dlq_reason, headers.dlq_error_type, headers.dlq_error_message,
        headers.dlq_retry_count, headers.dlq_attempts })
    assert.same({ bus.config.topic_name, bus.config.consumer_group, "0" }, { headers
      .dlq_original_topic, headers.dlq_consumer_group, headers.dlq_original_partition })
    assert.equal(2, read.replay_count)
    assert.is_true(moonbus.epoch(headers.dlq_first_failed_at) > os.time() - 100)
  end)

  it("that was put back goes to whoever it failed with, not to another's address", function()
    bus:subscribe(Placed, failing "broken")
    local record = { key = ID, value = bus.native:encode(placed(77)).value, headers = FORMER }
    local _, read = letter_of(bus, function() put_until_dead(bus, record) end)
    bus:clear_subscribers()
    local handled = {}
    bus:subscribe(Placed, function(event, ctx)
      handled[#handled + 1] = { event.n, ctx.headers.replay_group, ctx.attempt }
    end)
    local consumed = bus:get_stats_dict().events_consumed
    assert(bus:replay_dlq_message { partition = read.partition, offset = read.offset })
    wait.settled(bus, consumed + 1)
    assert.same({ { 77, nil, 1 } }, handled)
  end)

  it("keeps the address that it failed at, and the attempts of a record that had not died",
    function()
      bus:subscribe(Placed, failing "broken")
      local raw, read = letter_of(bus, function()
        put(bus, { key = ID, value = bus.native:encode(placed(1)).value, headers = {
          { "replay_group", bus.config.consumer_group }, { "retry_count", "1" } } })
      end)
      assert.equal("replay_group retry_count " .. DEAD .. MORE .. " dlq_traceback",
        names(raw.headers))
      assert.equal("2", read.headers.dlq_attempts)
    end)

  it("whose headers are doubled is read by the last of them, as they are added at the end",
    function()
      local headers = {}
      for i, each in ipairs(FORMER) do headers[i] = each end
      for _, each in ipairs { { "dlq_reason", "handler_rejected" }, { "dlq_error_type", "New" },
        { "dlq_original_partition", "0" }, { "dlq_original_offset", "3" },
        { "dlq_consumer_group", "ours" }, { "dlq_timestamp", "2020-01-01T00:00:00+00:00" } } do
        headers[#headers + 1] = each
      end
      broker:produce { topic = bus.config.dlq_topic_name, key = ID, value = "{}",
        headers = headers }
      local function found(filter)
        filter.limit = 1000
        return #assert(bus:get_dlq_messages(filter))
      end
      assert.equal(0, found { error_type = "OldError" })
      assert.equal(1, found { error_type = "New", reason = "handler_rejected", original_offset = 3,
        original_partition = 0, failed_group = "ours", since = "2019-12-31", ["until"]
        = "2020-01-02" })
      local doubled = bus:get_dlq_messages { error_type = "New" }[1]
      assert.same({ "handler_rejected", "ours", "old", 2 }, { doubled.headers.dlq_reason,
        doubled.headers.dlq_consumer_group, doubled.headers.dlq_error_message,
        doubled.replay_count })
    end)

  it("names several failing handlers together", function() -- 28
    bus:subscribe(Placed, failing { type = "Timeout", message = "too slow" })
    bus:subscribe(Placed, failing "second reason")
    local _, read = letter_of(bus, function() publish(bus, placed(1)) end)
    assert.equal("HandlerDispatchError", read.headers.dlq_error_type)
    assert.matches("too slow", read.headers.dlq_error_message, 1, true)
    assert.matches("second reason", read.headers.dlq_error_message, 1, true)
  end)

  it("has the failure of the last attempt", function()
    local runs = 0
    bus:subscribe(Placed, function()
      runs = runs + 1
      error("attempt " .. runs, 0)
    end)
    local _, read = letter_of(bus, function() publish(bus, placed(1)) end)
    assert.equal("attempt 2", read.headers.dlq_error_message)
    assert.equal("LuaError", read.headers.dlq_error_type)
  end)

  it("carries the line of a script's error", function()
    bus:subscribe(Placed, function() error "here" end)
    local _, read = letter_of(bus, function() publish(bus, placed(1)) end)
    assert.matches("dlq_spec.lua:%d+: here", read.headers.dlq_error_message)
  end)

  it("cuts the message at 1000 characters, not bytes", function()
    bus:subscribe(Placed, function() error(("\195\169"):rep(1500), 0) end)
    local _, read = letter_of(bus, function() publish(bus, placed(1)) end)
    assert.is_true(read.headers.dlq_error_message == ("\195\169"):rep(1000))
  end)

  it("has UTF-8 in its headers, whatever the error's text holds", function() -- 7.7
    bus:subscribe(Placed, failing { type = "Bad\255Type", message = "bad \255 text" })
    local _, read = letter_of(bus, function() publish(bus, placed(1)) end)
    assert.is_string((moonbus.json.encode { read.headers.dlq_error_message }))
    assert.is_string((moonbus.json.encode { read.headers.dlq_error_type }))
    assert.matches("^bad .+ text$", read.headers.dlq_error_message)
  end)

  it("is written for an undeclared type, too", function()
    bus:subscribe("Unheard", failing "broken")
    local _, read = letter_of(bus, function()
      publish(bus, { event_type = "Unheard", aggregate_id = ID, aggregate_type = "A", n = 1 })
    end)
    assert.equal("Unheard", read.headers.event_type)
    assert.equal(1, read.payload.n)
  end)
end)

describe("a record that cannot be decoded", function()
  local function event_text(members)
    return ('{"event_type":"Placed","aggregate_id":"%s","aggregate_type":"Order"%s}')
      :format(ID, members)
  end

  -- One dead letter, no handler run, and the partition goes on.
  local function dead_at_once(record)
    local runs, good = 0, 0
    bus:subscribe(Placed, function(event)
      runs = runs + 1
      if event.n == 777 then good = good + 1 end
    end)
    local before = bus:get_stats_dict()
    local raw, read = letter_of(bus, function() put(bus, record) end)
    publish(bus, placed(777))
    assert.equal(1, good)
    assert.equal(1, runs)
    assert.equal("deserialization_error", read.headers.dlq_reason)
    assert.equal("DeserializationError", read.headers.dlq_error_type)
    assert.equal("0", read.headers.dlq_retry_count)
    assert(#read.headers.dlq_error_message > 0)
    local after = bus:get_stats_dict()
    assert.equal(0, after.events_processed_failed - before.events_processed_failed)
    assert.equal(0, after.handler_errors - before.handler_errors)
    assert.equal(0, after.retries - before.retries)
    assert.equal(1, after.messages_sent_to_dlq - before.messages_sent_to_dlq)
    return read, raw
  end

  it("for a field of another type is dead at once, and the message names it", function()
    local read = dead_at_once { key = ID, value = event_text ',"n":"many"',
      headers = { { "event_type", "Placed" } } }
    assert.matches("Placed.n: expected integer", read.headers.dlq_error_message, 1, true)
    assert.equal(event_text ',"n":"many"', read.value)
  end)

  it("for a missing field is dead at once", function()
    local read = dead_at_once { key = ID, value = event_text "" }
    assert.matches("Placed.n", read.headers.dlq_error_message, 1, true)
  end)

  it("for garbage is dead at once, its bytes kept and shown in hexadecimal", function()
    local read = dead_at_once { key = ID, value = "\1\2garbage\255",
      headers = { { "event_type", "Placed" } } }
    assert.equal("\1\2garbage\255", read.value)
    assert.equal("010267617262616765ff", read.payload)
  end)

  it("for garbage without headers is dead at once", function() -- 7.8
    dead_at_once { value = "garbage" }
  end)

  it("without a type says what is wrong with its value", function()
    for value, message in pairs {
      ["garbage"] = "value is not JSON: expected a value (byte 0); and no header has an event_type",
      ['{"n":1,}'] = "value is not JSON: expected a key (byte 7); and no header has an event_type",
      ['{"event_type":""} x'] = "value is not JSON: text after its end (byte 18); "
        .. "and no header has an event_type",
      ["[]"] = "neither the value, which is no object, nor the headers have an event_type",
      ['{"n":1}'] = "neither the value nor the headers have an event_type",
    } do
      assert.equal(message, dead_at_once({ value = value }).headers.dlq_error_message)
      bus:clear_subscribers()
    end
  end)

  it("for a tombstone is dead at once and stays one", function()
    local read = dead_at_once { key = ID, headers = { { "event_type", "Placed" } } }
    assert.is_nil(read.value)
    assert.is_nil(read.payload)
    assert.matches("tombstone", read.headers.dlq_error_message, 1, true)
  end)

  it("for a tombstone without headers is dead at once", function()
    local read = dead_at_once { key = ID }
    assert.is_nil(read.value)
    assert.is_nil(read.headers.event_type)
  end)

  it("for invalid UTF-8 is dead at once", function()
    dead_at_once { key = ID, value = event_text ',"n":1,"note":"\255"',
      headers = { { "event_type", "Placed" } } }
  end)

  it("for a truncated value is dead at once", function()
    dead_at_once { key = ID, value = event_text(',"n":1'):sub(1, -5),
      headers = { { "event_type", "Placed" } } }
  end)

  it("for JSON that is no object is dead at once", function()
    for _, value in ipairs { "[]", "5", '"Placed"', "null" } do
      dead_at_once { key = ID, value = value, headers = { { "event_type", "Placed" } } }
      bus:clear_subscribers()
    end
  end)

  it("for an event_type header that is no text is dead at once", function() -- 7.7
    dead_at_once { key = ID, value = "{}", headers = { { "event_type", "\255\254" } } }
    bus:clear_subscribers()
    dead_at_once { key = ID, value = "{}", headers = { { "event_type" } } }
    bus:clear_subscribers()
    dead_at_once { key = ID, value = "{}", headers = { { "event_type", "" } } }
  end)

  it("is one letter of that reason also with several handlers", function()
    bus:subscribe(Placed, function() end)
    bus:subscribe_to_all_events(function() end)
    dead_at_once { key = ID, value = event_text ',"n":"many"',
      headers = { { "event_type", "Placed" } } }
  end)

  it("does not run out of order: the next of its key waits for nothing", function()
    local got = {}
    bus:subscribe(Placed, function(event) got[#got + 1] = event.n end)
    put(bus, { key = ID, value = event_text ',"n":1' }, { key = ID, value = "garbage" },
      { key = ID, value = event_text ',"n":2' })
    assert.same({ 1, 2 }, got)
  end)
end)

describe("a record that is odd but can be decoded", function()
  local got

  before_each(function()
    got = {}
    bus:subscribe(Placed, function(event, context)
      got[#got + 1] = { event = event, key = context.key, headers = context.headers }
    end)
  end)

  it("without headers is handled", function()
    put(bus, { key = ID, value = bus.native:encode(placed(1)).value })
    assert.equal(1, got[1].event.n)
    assert.same({}, got[1].headers)
  end)

  it("without a key is handled", function()
    put(bus, { value = bus.native:encode(placed(1)).value })
    assert.equal(1, got[1].event.n)
    assert.is_nil(got[1].key)
  end)

  it("with the base fields in its headers alone is handled", function()
    put(bus, { key = ID, value = '{"n":1}', headers = { { "event_id", support.uuid(5) },
      { "event_type", "Placed" }, { "aggregate_id", ID }, { "aggregate_type", "Order" },
      { "aggregate_version", "7" }, { "occurred_at", "2026-01-02T03:04:05+00:00" },
      { "correlation_id", support.uuid(6) } } })
    local event = got[1].event
    assert.equal(support.uuid(5), event.event_id)
    assert.equal(support.uuid(6), event.correlation_id)
    assert.equal(ID, event.aggregate_id)
    assert.equal("Order", event.aggregate_type)
    assert.equal(1767323045, moonbus.epoch(event.occurred_at))
  end)

  it("with headers that are null is handled", function() -- 7.7
    put(bus, { key = ID, value = bus.native:encode(placed(1)).value, headers = {
      { "event_id" }, { "event_type" }, { "retry_count" }, { "traceparent" } } })
    assert.equal(1, got[1].event.n)
    assert.equal(moonbus.null, got[1].headers.event_id)
  end)

  it("with white space and members nobody declared is handled", function()
    put(bus, { key = ID, value = (' { "extra" : [ { } ] , "n" : 1 , "event_type" : "Placed",'
      .. '"aggregate_id":"%s","aggregate_type":"Order" } '):format(ID) })
    assert.equal(1, got[1].event.n)
  end)

  it("of a type nobody subscribes to is skipped, not dead-lettered", function() -- 7.8 49
    local before, letters = bus:get_stats_dict(), bus:get_dlq_message_count()
    put(bus, { key = ID, value = '{"event_type":"Unknown"}' },
      { key = ID, value = "garbage", headers = { { "event_type", "Unknown" } } },
      { key = ID, headers = { { "event_type", "Unknown" } } })
    assert.equal(3, bus:get_stats_dict().events_skipped - before.events_skipped)
    assert.equal(letters, bus:get_dlq_message_count())
    assert.same({}, got)
  end)
end)

describe("enable_dlq = false", function() -- 30
  it("drops what failed for good, with a warning, and goes on", function()
    local got = {}
    off:subscribe(Placed, function(event)
      if event.n == 1 then error "broken" end
      got[#got + 1] = event.n
    end)
    publish(off, placed(1), placed(2))
    assert.same({ 2 }, got)
    local stats = off:get_stats_dict()
    assert.equal(1, stats.events_dropped)
    assert.equal(0, stats.messages_sent_to_dlq)
    assert.equal(1, stats.events_processed_success)
    assert.equal(0, off:get_dlq_message_count())
    local warnings = support.lines_with(lines_off, "warn", "dropped")
    assert.matches("max_retries_exceeded", table.concat(warnings, "\n"), 1, true)
  end)

  it("drops what cannot be decoded", function()
    off:subscribe(Placed, function() end)
    local before = off:get_stats_dict().events_dropped
    put(off, { key = ID, value = "garbage" })
    assert.equal(1, off:get_stats_dict().events_dropped - before)
  end)
end)

describe("NUL bytes", function()
  it("of errors, their types and handlers' names are kept, and filters distinguish them", function()
    for _, mark in ipairs { "one", "two" } do
      bus:subscribe(Placed, failing { type = "Bad\0" .. mark,
        message = "why\0" .. mark }, { name = "handler\0" .. mark })
      local raw, read = letter_of(bus, function() publish(bus, placed(1)) end)
      assert.same({ "Bad\0" .. mark, "why\0" .. mark, "handler\0" .. mark },
        { read.headers.dlq_error_type, read.headers.dlq_error_message, read.headers.dlq_handler })
      assert.equal(#read.header_list, #raw.headers)
      bus:clear_subscribers()
    end
    local function count(kind)
      return #assert(bus:get_dlq_messages { error_type = kind, limit = 1000 })
    end
    assert.same({ 1, 1, 0, 0 }, { count "Bad\0one", count "Bad\0two", count "Bad",
      count "Bad\0thr" })
  end)

  it("of texts that are raised, returned, or come with another's are kept, and logged", function()
    local function message(...)
      for _, each in ipairs { ... } do bus:subscribe(Placed, each) end
      local _, read = letter_of(bus, function() publish(bus, placed(1)) end)
      bus:clear_subscribers()
      return read.headers.dlq_error_message
    end
    assert.equal("raised\0x", message(function() error("raised\0x", 0) end))
    assert.equal("returned\0x", message(function() return nil, "returned\0x" end))
    assert.equal("a\0b; LuaError: c\0d", message(function() error("a\0b", 0) end,
      function() error("c\0d", 0) end))
    local seen
    bus:subscribe(Placed, function() return nil, "asked\0x" end,
      { retry_if = function(err) seen = err end })
    publish(bus, placed(1))
    assert.equal("asked\0x", seen)
    off:subscribe(Placed, function() error("logged\0x", 0) end)
    publish(off, placed(1))
    assert.equal(1, #support.lines_with(lines_off, "warn", "logged\\u0000x"))
  end)

  it("are refused in names, which would be taken for what is before them", function()
    local function refuses(fn, ...)
      assert.error_matches(function(...) fn(...) end, "without NUL bytes", nil, nil, ...)
    end
    for _, fn in ipairs {
      function() bus:read({ topic = bus.config.topic_name .. "\0x" }, function() end) end,
      function() bus:get_dlq_messages { failed_group = "a\0x" } end,
      function() bus:replay_dlq { to = "other\0x" } end,
      function() bus:replay_dlq { group = "other\0x" } end,
    } do refuses(fn) end
  end)
end)

describe("a record that is too large", function()
  local LARGE = ("x"):rep(3000)
  local OPTIONS = { "message_max_bytes", "fetch_max_bytes", "max.message.bytes" }

  local function names_options(text)
    for _, option in ipairs(OPTIONS) do assert.matches(option, text, 1, true) end
  end

  it("names the options when it is a dead letter that is put back, alone or with others", function()
    broker:produce { topic = tiny.config.dlq_topic_name, key = ID, value = LARGE }
    local letters = tiny:get_dlq_messages { limit = 1000 }
    local last = letters[#letters]
    assert.equal(LARGE, last.value)
    local ok, err, code = tiny:replay_dlq_message { partition = last.partition,
      offset = last.offset }
    assert.same({ nil, "EDELIVERY" }, { ok, code })
    names_options(err)
    local result = assert(tiny:replay_dlq { partition = last.partition, offset = last.offset })
    assert.equal(1, result.failed)
    names_options(result.letters[1].reason)
  end)

  it("names them when it is published, in the background too", function()
    local _, err, code = tiny:publish(placed(1, LARGE))
    assert.equal("EDELIVERY", code)
    names_options(err)
    _, err, code = tiny:publish(placed(1, LARGE), { background = true })
    assert.equal("EDELIVERY", code)
    names_options(err)
  end)
end)

describe("the list of dead letters", function()
  it("has all about each, oldest first", function() -- 35 46
    bus:subscribe(Placed, failing "broken")
    local begin = os.time() * 1000
    local count = bus:get_dlq_message_count()
    publish(bus, placed(1), placed(2))
    local list = bus:get_dlq_messages { limit = 1000 }
    assert.equal(count + 2, #list)
    local one = list[#list - 1]
    assert.equal(1, one.payload.n)
    assert.equal(2, list[#list].payload.n)
    assert.equal(bus.config.dlq_topic_name, one.topic)
    assert.equal(0, one.partition)
    assert.equal(count, one.offset)
    assert.equal(ID, one.key)
    assert(one.timestamp >= begin - 1000)
    assert.equal("Placed", one.headers.event_type)
    assert.equal(0, one.replay_count)
    assert.equal("table", type(one.payload))
  end)

  it("ends at its limit", function() -- 35
    assert(bus:get_dlq_message_count() > 3)
    assert.equal(3, #bus:get_dlq_messages { limit = 3 })
    assert.equal(1, #bus:get_dlq_messages { limit = 1 })
    assert.equal(0, #bus:get_dlq_messages { limit = 0 })
    assert.equal(0, bus:get_dlq_messages({ limit = 1 })[1].offset)
  end)

  it("is 100 long by default, and returns at its end without waiting", function() -- 7.13
    wait.within(2, function()
      local begin = moonbus.now()
      local list = bus:get_dlq_messages()
      local passed = moonbus.now() - begin
      assert.equal(math.min(100, bus:get_dlq_message_count()), #list)
      return passed
    end)
  end)

  -- So slow that the whole read takes longer than its time limit.
  local function slowly()
    local stop = moonbus.now() + 0.6
    repeat until moonbus.now() > stop
    return true
  end

  it("takes longer than its time limit as long as letters come", function()
    bus:subscribe(Placed, failing "broken")
    while bus:get_dlq_message_count() < 5 do publish(bus, placed(1)) end
    local function in_time(what, begin)
      assert.is_true(moonbus.now() - begin > 2, what)
    end
    local begin = moonbus.now()
    assert.equal(5, #assert(bus:get_dlq_messages { limit = 5, timeout_ms = 2000, where = slowly }))
    in_time("the list", begin)
    local seen = 0
    begin = moonbus.now()
    assert(bus:each_dlq_message({ timeout_ms = 2000 }, function()
      seen = seen + 1
      return slowly() and seen < 5
    end))
    assert.equal(5, seen)
    in_time("one at a time", begin)
    assert.error_matches(function() bus:each_dlq_message({ limit = 1 }, slowly) end,
      'no option "limit"')
  end)

  it("may be read while the bus does not consume", function()
    local reader = broker:bus { event_registry = registry }
    assert.same({}, reader:get_dlq_messages())
    assert.equal(0, reader:get_dlq_message_count())
    reader:disconnect()
  end)

  it("as a consumer group goes on where the last one ended", function() -- 7.13
    bus:subscribe(Placed, failing "broken")
    publish(bus, placed(1), placed(2), placed(3))
    local count = bus:get_dlq_message_count()
    local first = assert(bus:get_dlq_messages { limit = 2, use_consumer_group = true })
    local second = assert(bus:get_dlq_messages { limit = 1000, use_consumer_group = true })
    assert.equal(2, #first)
    assert.equal(count - 2, #second)
    assert.equal(first[2].offset + 1, second[1].offset)
    assert.same({}, bus:get_dlq_messages { use_consumer_group = true })
    publish(bus, placed(4))
    assert.equal(4, bus:get_dlq_messages({ use_consumer_group = true })[1].payload.n)
  end)

  it("as a consumer group wants one", function()
    assert.error_matches(function() tiny:get_dlq_messages { use_consumer_group = true } end,
      "dlq_consumer_group")
  end)

  it("is still there after a task that ended was cancelled once more", function()
    local one = broker:bus { event_registry = registry, topic_prefix = bus.config.topic_prefix
      .. "-again", max_retries = 0 }
    one:subscribe(Placed, failing "broken")
    local task = support.consume(one)
    publish(one, placed(1))
    assert.is_true(one:stop_consuming())
    assert.is_true(task:wait())
    task:cancel()
    assert.equal(1, #one:get_dlq_messages())
    one:disconnect()
  end)
end)

describe("replaying", function()
  local function last_of(one)
    local _, read = letter(one)
    return read
  end

  it("puts the event back with key, value and headers, marked", function() -- 36
    local fail, got = true, nil
    bus:subscribe(Placed, function(event, context)
      if fail then error "broken" end
      got = { event = event, attempt = context.attempt, key = context.key, value = context.value,
        headers = context.headers }
    end)
    local event = placed(5)
    publish(bus, event)
    fail = false
    local dead = last_of(bus)
    local consumed = bus:get_stats_dict().events_consumed
    assert.is_true((bus:replay_dlq_message { partition = dead.partition, offset = dead.offset }))
    wait.settled(bus, consumed + 1)
    assert.equal(event.event_id, got.event.event_id)
    assert.equal(1, got.attempt)
    assert.equal(ID, got.key)
    assert.equal(dead.value, got.value)
    assert.equal("0", got.headers.retry_count)
    assert.equal("1", got.headers.dlq_replay_count)
    assert.is_nil(got.headers.dlq_reason)
    local records = broker:consume(bus.config.topic_name)
    assert.equal("event_id event_type aggregate_id aggregate_type aggregate_version occurred_at "
      .. "correlation_id retry_count dlq_replay_count", names(records[#records].headers))
  end)

  it("leaves the dead letter where it is", function()
    local dead = last_of(bus)
    assert.equal(dead.offset + 1, bus:get_dlq_message_count())
  end)

  it("counts in the letter of an event that fails again", function()
    guarded:subscribe(Placed, failing "still broken")
    publish(guarded, placed(1))
    local first = last_of(guarded)
    assert.equal(0, first.replay_count)
    local consumed = guarded:get_stats_dict().events_consumed
    assert(guarded:replay_dlq_message { partition = first.partition, offset = first.offset })
    wait.settled(guarded, consumed + 1)
    local raw, second, count = letter(guarded)
    assert.equal(2, count)
    assert.equal(1, second.replay_count)
    assert.equal("event_id event_type aggregate_id aggregate_type aggregate_version occurred_at "
      .. "correlation_id retry_count dlq_replay_count " .. DEAD .. MORE,
      (names(raw.headers):gsub(" dlq_traceback$", "")))
  end)

  it("stops at dlq_max_replay_attempts unless forced", function() -- 7.14
    local dead = last_of(guarded)
    assert.equal(1, dead.replay_count)
    local ok, why, code = guarded:replay_dlq_message { partition = 0, offset = dead.offset }
    assert.is_nil(ok)
    assert.equal("EREPLAY", code)
    assert.matches("^EREPLAY: .*dlq_max_replay_attempts", why)
    local got
    guarded:subscribe(Placed, function(_, context) got = context:header "dlq_replay_count" end)
    local consumed = guarded:get_stats_dict().events_consumed
    assert.is_true((guarded:replay_dlq_message { partition = 0, offset = dead.offset,
      force = true }))
    wait.settled(guarded, consumed + 1)
    assert.equal("2", got)
  end)

  it("stops at it also when the same letter is replayed over and over", function() -- 7.14
    guarded:subscribe(Placed, failing "broken")
    publish(guarded, placed(9))
    local dead = last_of(guarded)
    guarded:clear_subscribers()
    local consumed = guarded:get_stats_dict().events_consumed
    assert(guarded:replay_dlq_message { partition = 0, offset = dead.offset })
    wait.settled(guarded, consumed + 1)
    local ok, _, code = guarded:replay_dlq_message { partition = 0, offset = dead.offset }
    assert.is_nil(ok)
    assert.equal("EREPLAY", code)
  end)

  it("puts a tombstone back as one", function()
    bus:subscribe(Placed, function() end)
    put(bus, { key = ID, headers = { { "event_type", "Placed" } } })
    local dead = last_of(bus)
    local consumed = bus:get_stats_dict().events_consumed
    bus:clear_subscribers()
    assert(bus:replay_dlq_message { partition = 0, offset = dead.offset })
    wait.settled(bus, consumed + 1)
    local records = broker:consume(bus.config.topic_name)
    assert.equal(moonbus.null, records[#records].payload)
  end)

  it("of what is not there says so", function() -- 35
    for _, place in ipairs { { partition = 0, offset = 1000000 },
      { partition = 99, offset = 0 } } do
      local ok, why, code = bus:replay_dlq_message(place)
      assert.is_nil(ok)
      assert.equal("ENOENT", code)
      assert.is_string(why)
    end
  end)

  it("wants a partition and an offset", function()
    for _, wrong in ipairs { {}, { partition = 0 }, { offset = 0 }, { partition = "0", offset = 0 },
      5 } do
      assert.error_matches(function() bus:replay_dlq_message(wrong) end, "partition")
    end
    assert.error_matches(function() bus:replay_dlq_message() end, "partition")
    assert.error_matches(function() bus:replay_dlq_message { partition = -1, offset = 0 } end,
      "partition: expected a whole number")
  end)
end)

describe("a record too large for its dead letter", function()
  local event = Placed { aggregate_id = ID, n = 1, note = ("x"):rep(600) }
  local dead

  it("becomes a letter that points to it", function()
    tiny:subscribe(Placed, failing(("reason "):rep(100)))
    local raw, read = letter_of(tiny, function() publish(tiny, event) end)
    dead = read
    assert.is_nil(read.value)
    assert.equal(ID, read.key)
    assert.matches(DEAD .. " dlq_value_omitted_bytes$", names(raw.headers))
    assert.equal(tostring(#tiny.native:encode(event).value),
      read.headers.dlq_value_omitted_bytes)
    assert.equal(1, tiny:get_stats_dict().messages_sent_to_dlq)
    assert.equal(0, #support.lines_with(lines_tiny, "error", "not written"))
  end)

  it("is replayed whole", function()
    local got
    tiny:subscribe(Placed, function(replayed) got = replayed end)
    local consumed = tiny:get_stats_dict().events_consumed
    assert(tiny:replay_dlq_message { partition = dead.partition, offset = dead.offset })
    wait.settled(tiny, consumed + 1)
    assert.equal(event.note, got.note)
    assert.equal(event.event_id, got.event_id)
  end)
end)
