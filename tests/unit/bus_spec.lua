local moonbus = require "moonbus"
local support = require "tests.support.bus"

local ID = support.uuid(1)
local registry = moonbus.new_registry()
local Placed = moonbus.event("Placed", { aggregate_type = "Order" }, { registry = registry })
local Shipped = moonbus.event("Shipped", { aggregate_type = "Order" }, { registry = registry })

after_each(support.close)

-- body raises the text, at the line after the one it was called from
local function raises(body, text)
  local ok, why = pcall(body)
  assert.is_false(ok, "nothing was raised")
  assert.matches(text, why, 1, true)
  local line = debug.getinfo(body, "S").linedefined
  assert.matches(("bus_spec.lua:%d: "):format(line), why, 1, true)
end

local function new()
  return support.new { event_registry = registry }
end

describe("a bus that is not connected", function()
  it("raises at publish, even of nothing", function() -- 22
    local bus = new()
    raises(function() bus:publish(Placed { aggregate_id = ID }) end, "ESTATE: the bus is not")
    raises(function() bus:publish {} end, "ESTATE: the bus is not connected")
    raises(function() bus:publish({}, { background = true }) end, "ESTATE")
  end)

  it("has no dead letters to replay", function() -- 36
    local ok, why, code = new():replay_dlq_message { partition = 0, offset = 0 }
    assert.is_nil(ok)
    assert.equal("ESTATE", code)
    assert.is_string(why)
  end)

  it("says so, and is told apart from others", function()
    local bus = new()
    assert.is_false(bus:is_connected())
    assert.is_false(bus:is_consuming())
    assert.equal("bus on " .. bus.config.topic_name, tostring(bus))
  end)

  it("may be disconnected, also twice", function() -- 23 41
    local bus = new()
    assert.is_true(bus:disconnect())
    assert.is_true(bus:disconnect())
  end)

  it("has all counters at 0 and no times", function() -- 37
    local stats = new():get_stats_dict()
    for _, key in ipairs { "events_published", "events_consumed", "events_processed_success",
      "events_processed_failed", "messages_sent_to_dlq", "handler_errors", "reconnections",
      "rebalance_count" } do
      assert.equal(0, stats[key], key)
    end
    for _, key in ipairs { "last_publish_at", "last_consume_at", "last_error_at",
      "connected_at" } do
      assert.equal(moonbus.null, stats[key], key)
    end
  end)
end)

describe("connecting", function()
  it("works, twice as well as once, and again after disconnecting", function() -- 23 41
    local bus = new()
    assert.is_true(bus:connect())
    assert.is_true(bus:is_connected())
    assert.is_true(bus:connect())
    assert.is_true(bus:disconnect())
    assert.is_false(bus:is_connected())
    assert.is_true(bus:disconnect())
    assert.is_true(bus:connect())
    assert.is_true(bus:is_connected())
  end)

  it("does not consume, nor join the group", function() -- 7.18
    local bus = new()
    bus:connect()
    assert.is_false(bus:is_consuming())
    assert.equal(0, bus:get_stats_dict().assigned_count)
  end)

  it("to nobody fails with a code that says what to do, and leaves it as it was", function() -- 23
    local bus = support.new { bootstrap_servers = "127.0.0.1:1", consumer_group = "g" }
    local ok, why, code = bus:connect(0.3)
    assert.is_nil(ok)
    assert.equal("ECONNECT", code)
    assert.matches("^ECONNECT: no broker answers at 127.0.0.1:1.*bootstrap_servers", why)
    assert.is_false(bus:is_connected())
    assert.equal(moonbus.null, bus:get_stats_dict().connected_at)
  end)
end)

describe("publishing", function()
  it("nothing is done at once", function() -- 42
    local bus = new()
    bus:connect()
    assert.equal(0, bus:publish({}).count)
    assert.equal(0, bus:publish({}, { background = true }).count)
    assert.equal(0, bus:get_stats_dict().events_published)
    assert.equal(moonbus.null, bus:get_stats_dict().last_publish_at)
  end)

  it("takes an event or a list of events, and raises on anything else", function()
    local bus = new()
    bus:connect()
    raises(function() bus:publish() end, "publish takes an event or a list")
    raises(function() bus:publish "x" end, "publish takes an event or a list")
    raises(function() bus:publish { "x" } end, "event 1: expected an event, got string")
    raises(function() bus:publish { Placed { aggregate_id = ID }, 5 } end, "event 2: expected an")
    raises(function() bus:publish { Placed } end, "event 1")
    local placed = Placed { aggregate_id = ID }
    local gaps = { [3] = placed }
    raises(function() bus:publish(gaps) end, "got a table of 1 entries")
    gaps[1] = placed
    raises(function() bus:publish(gaps) end, "expected a list without gaps or names")
    raises(function() bus:publish { placed, extra = placed } end, "without gaps or names")
    raises(function() bus:publish { aggregate_id = ID, aggregate_type = "Order" } end,
      "an event (it has an event_type)")
    raises(function() bus:publish(placed, 5) end, "options: expected a table, got 5")
    raises(function() bus:publish(placed, { backgruond = true }) end, 'no option "backgruond" here')
    raises(function() bus:publish(Placed) end, "event 1")
    assert.equal(0, bus:get_stats_dict().events_published)
  end)

  it("a wrong event sends none of its list, and names event and field", function()
    local bus = new()
    bus:connect()
    local wrong = Placed { aggregate_id = ID }
    wrong.aggregate_id = "7"
    raises(function() bus:publish { Placed { aggregate_id = ID }, wrong } end,
      'event 2: Placed.aggregate_id: expected uuid, got "7"')
    assert.equal(0, bus:get_stats_dict().events_published)
    assert.equal(0, bus:get_stats_dict().publish_queued)
  end)
end)

describe("numbers", function()
  local NAN = 0 / 0

  it("are no NaN, no text, and not below 0 where that means nothing", function()
    local bus = new()
    bus:connect()
    for _, wrong in ipairs { NAN, -1, "x" } do
      raises(function() bus:connect(wrong) end, "timeout: expected a number of 0 or more")
      raises(function() bus:flush(wrong) end, "timeout: expected a number of 0 or more")
      for _, key in ipairs { "for_seconds", "until_idle" } do
        raises(function() bus:start_consuming { [key] = wrong } end, key .. ": expected a number")
        raises(function() bus:start_consuming_in_background { [key] = wrong } end, key)
      end
    end
    raises(function() bus:start_consuming(5) end, "options: expected a table, got 5")
    raises(function() moonbus.sleep(NAN) end, "moonbus.sleep takes a number of seconds")
    assert.is_nil(moonbus.sleep(-1))
    for _, place in ipairs { { 0, 1.5 }, { NAN, 1 }, { 0.5, 1 }, { 0, "1" }, { -1, 0 } } do
      raises(function() bus:replay_dlq_message { partition = place[1], offset = place[2] } end,
        "expected a whole number of 0 or more")
    end
    raises(function() bus:get_dlq_messages { partition = 1.5 } end,
      "partition: expected a whole number")
    raises(function() bus:get_dlq_messages { offset = { 1, 2.5 } } end,
      "offset: expected a whole number")
    raises(function() bus:read() end, "read takes a table of options and a function")
    raises(function() bus:read({ topc = "x" }, print) end, 'read has no option "topc"')
    raises(function() bus:read({ partition = "1" }, print) end,
      "read: partition: expected a number")
    raises(function() bus:read({ offset = NAN }, print) end, "read: offset: expected a number")
    for _, wrong in ipairs { -1, 0.5, NAN, "0" } do
      raises(function() bus:reset_breaker(wrong) end,
        "the number of a partition: expected a whole number")
    end
    for _, wrong in ipairs { -1, 0.5, NAN, 1001, 1e12, "1" } do
      raises(function() bus:subscribe("E", print, { max_retries = wrong }) end,
        "max_retries: expected a whole number up to 1000")
    end
    raises(function() bus:subscribe("E", print, "name") end, "takes a table of options")
  end)

  it("may be as large as they like", function()
    local bus = new()
    assert(bus:connect(math.huge))
    assert(bus:flush(math.huge))
  end)
end)

describe("subscriptions", function()
  local function handler() end
  local function another() end

  it("are counted by type, for all events, and together", function() -- 12 14 47
    local bus = new()
    assert.equal(0, bus:subscriber_count(Placed))
    bus:subscribe(Placed, handler):subscribe(Placed, another):subscribe(Shipped, handler)
    bus:subscribe_to_all_events(handler)
    assert.equal(2, bus:subscriber_count(Placed))
    assert.equal(2, bus:subscriber_count "Placed")
    assert.equal(1, bus:subscriber_count(Shipped))
    assert.equal(1, bus:wildcard_subscriber_count())
    assert.equal(4, bus:subscriber_count())
  end)

  it("may be doubled and are taken back one at a time", function() -- 12
    local bus = new()
    bus:subscribe(Placed, handler):subscribe(Placed, handler)
    assert.equal(2, bus:subscriber_count(Placed))
    assert.is_true(bus:unsubscribe(Placed, handler))
    assert.equal(1, bus:subscriber_count(Placed))
    assert.is_true(bus:unsubscribe(Placed, handler))
    assert.is_false(bus:unsubscribe(Placed, handler))
    assert.equal(0, bus:subscriber_count(Placed))
  end)

  it("are taken back by type and handler, nothing else", function() -- 12 43
    local bus = new()
    bus:subscribe(Placed, handler)
    assert.is_false(bus:unsubscribe(Placed, another))
    assert.is_false(bus:unsubscribe(Shipped, handler))
    assert.is_false(bus:unsubscribe_from_all_events(handler))
    assert.is_true(bus:unsubscribe("Placed", handler))
  end)

  it("for all events are their own", function()
    local bus = new()
    bus:subscribe_to_all_events(handler)
    assert.is_false(bus:unsubscribe(Placed, handler))
    assert.is_true(bus:unsubscribe_from_all_events(handler))
    assert.is_false(bus:unsubscribe_from_all_events(handler))
    assert.equal(0, bus:wildcard_subscriber_count())
  end)

  it("are all taken back at once", function() -- 14 49
    local bus = new()
    bus:subscribe(Placed, handler):subscribe(Shipped, handler):subscribe_to_all_events(handler)
    bus:clear_subscribers()
    assert.equal(0, bus:subscriber_count())
    assert.equal(0, bus:wildcard_subscriber_count())
    assert.is_false(bus:unsubscribe(Placed, handler))
    bus:subscribe(Placed, handler)
    assert.equal(1, bus:subscriber_count())
  end)

  it("belong to their bus", function()
    local one, two = new(), new()
    one:subscribe(Placed, handler)
    assert.equal(0, two:subscriber_count(Placed))
    assert.is_false(two:unsubscribe(Placed, handler))
  end)

  it("take functions, and objects with a handle method", function()
    local bus = new()
    local object = { handle = function() end }
    bus:subscribe(Placed, object)
    assert.is_true(bus:unsubscribe(Placed, object))
    local Class = {}
    Class.__index = Class
    function Class:handle() end -- luacheck: ignore self
    bus:subscribe(Placed, setmetatable({}, Class))
    assert.equal(1, bus:subscriber_count(Placed))
  end)

  it("take nothing else for a handler", function()
    local bus = new()
    raises(function() bus:subscribe(Placed, "x") end, "a handler is a function, or an object")
    raises(function() bus:subscribe(Placed) end, "a handler is a function, or an object")
    raises(function() bus:subscribe(Placed, {}) end, "a handler is a function, or an object")
    raises(function() bus:subscribe_to_all_events(5) end, "a handler is a function, or an object")
    assert.equal(0, bus:subscriber_count())
  end)

  it("take an event type or its name, nothing else", function()
    local bus = new()
    raises(function() bus:subscribe(nil, handler) end, "event type: expected what")
    raises(function() bus:subscribe("", handler) end, "event type: expected what")
    raises(function() bus:subscribe({}, handler) end, "event type: expected what")
    raises(function() bus:subscribe(5, handler) end, "event type: expected what")
    raises(function() bus:unsubscribe({}, handler) end, "event type: expected what")
    raises(function() bus:subscriber_count {} end, "event type: expected what")
  end)

  it("of an object need to know to what", function() -- 15
    local bus = new()
    raises(function() bus:subscribe_all {} end, "subscribed_to")
    raises(function() bus:subscribe_all(handler) end, "subscribed_to")
    local object = { subscribed_to = function() return { Placed, "Shipped", "Undeclared" } end,
      handle = function() end }
    bus:subscribe_all(object)
    assert.equal(1, bus:subscriber_count(Placed))
    assert.equal(1, bus:subscriber_count(Shipped))
    assert.equal(1, bus:subscriber_count "Undeclared")
  end)

  it("of an object without handle are refused, all of them", function()
    local bus = new()
    local object = { subscribed_to = function() return { Placed } end }
    raises(function() bus:subscribe_all(object) end, "handle")
    assert.equal(0, bus:subscriber_count())
  end)
end)

describe("the embedded broker", function()
  it("tells of the topic, with 4 partitions", function() -- 35 47
    local bus = new()
    bus:connect()
    assert.same({ topic = bus.config.topic_name, partitions = 4, connected = true,
      consumer_group = bus.config.consumer_group, consuming = false }, bus:get_topic_info())
  end)

  it("has no dead letters at first", function() -- 35
    local bus = new()
    bus:connect()
    assert.equal(0, bus:get_dlq_message_count())
    assert.same({}, bus:get_dlq_messages())
  end)

  it("makes a topic of as many partitions as it is given, once", function()
    local bus = new()
    local topic = support.name "made"
    assert.is_true(bus.native:topic_create(topic, 7, 1))
    bus:connect()
    assert.equal(7, bus.native:topic_partitions(topic))
    local ok, _, code = bus.native:topic_create(topic, 7, 1)
    assert.is_nil(ok)
    assert.equal("EINVAL", code)
    ok, _, code = bus.native:topic_create(topic .. "-0", 0, 1)
    assert.is_nil(ok)
    assert.equal("EINVAL", code)
  end)
end)

describe("moonbus.with", function()
  local function options() return { bootstrap_servers = "embedded", on_log = function() end } end

  it("connects, gives the bus, returns what the body returns, disconnects", function() -- 41
    local seen
    local a, b, c = moonbus.with(options(), function(bus)
      seen = bus
      assert.is_true(bus:is_connected())
      return 1, nil, 3
    end)
    assert.same({ 1, nil, 3 }, { a, b, c })
    assert.is_false(seen:is_connected())
  end)

  it("disconnects when the body raises, and lets the error through", function()
    local seen
    local ok, why = pcall(moonbus.with, options(), function(bus)
      seen = bus
      error "broken"
    end)
    assert.is_false(ok)
    assert.matches("broken", why, 1, true)
    assert.is_false(seen:is_connected())
    local thrown = { code = 7 }
    ok, why = pcall(moonbus.with, options(), function() error(thrown) end)
    assert.is_false(ok)
    assert.equal(thrown, why)
  end)

  it("raises without a body", function()
    raises(function() moonbus.with(options()) end, "moonbus.with takes options and a function")
  end)

  it("raises on a wrong option at the caller's line", function()
    raises(function() moonbus.with({ max_retries = -1 }, function() end) end, "max_retries")
  end)
end)
