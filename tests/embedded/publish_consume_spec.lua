local moonbus = require "moonbus"
local support = require "tests.support.bus"
local wait = require "tests.support.wait"

local registry = moonbus.new_registry()
local Placed = moonbus.event("Placed", { aggregate_type = "Order", n = "integer" },
  { registry = registry })
local Shipped = moonbus.event("Shipped", { aggregate_type = "Order", note = "string?" },
  { registry = registry })

local bus, id

local function placed(n, aggregate)
  return Placed { aggregate_id = aggregate or id, n = n }
end

-- What changed in the counters while body ran; what others published is through before.
local function counted(body)
  wait.settled(bus, bus:get_stats_dict().events_published)
  local before = bus:get_stats_dict()
  body()
  local after = bus:get_stats_dict()
  return setmetatable({}, { __index = function(_, key) return after[key] - before[key] end })
end

setup(function()
  bus = support.bus { event_registry = registry }
  support.consume(bus)
end)

teardown(support.close)

before_each(function() id = moonbus.uuid() end)
after_each(function() bus:clear_subscribers() end)

describe("publishing", function()
  it("one event gives a receipt with its place", function() -- 42
    local stats = counted(function()
      local receipt = assert(bus:publish(placed(1)))
      assert.equal(1, receipt.count)
      assert.equal(moonbus.partition_of(id, 4), receipt.partitions[1])
      assert(receipt.offsets[1] >= 0)
    end)
    assert.equal(1, stats.events_published)
    assert.is_string(bus:get_stats_dict().last_publish_at)
  end)

  it("five events gives a receipt with the place of each", function() -- 42
    local stats = counted(function()
      local events = {}
      for i = 1, 5 do events[i] = placed(i) end
      local receipt = assert(bus:publish(events))
      assert.equal(5, receipt.count)
      for i = 1, 5 do
        assert.equal(receipt.partitions[1], receipt.partitions[i])
        assert.equal(receipt.offsets[1] + i - 1, receipt.offsets[i])
      end
    end)
    assert.equal(5, stats.events_published)
  end)

  it("mixed types counts them all", function() -- 42
    local stats = counted(function()
      bus:publish { placed(1), Shipped { aggregate_id = id }, { event_type = "Undeclared",
        aggregate_id = id, aggregate_type = "Order" } }
    end)
    assert.equal(3, stats.events_published)
    assert.equal(0, stats.publish_errors)
  end)

  it("hands events over in order, key by key", function() -- 20
    local events, last = {}, {}
    for i = 1, 100 do events[i] = placed(i, support.uuid(i % 7)) end
    local receipt = assert(bus:publish(events))
    for i = 1, 100 do
      local key = i % 7
      assert(receipt.offsets[i] > (last[key] or -1))
      last[key] = receipt.offsets[i]
    end
  end)

  it("in the background returns before the broker answers, and delivers", function() -- 16 22
    local got = {}
    bus:subscribe(Placed, function(event)
      if event.aggregate_id == id then got[#got + 1] = event.n end
    end)
    local events = {}
    for i = 1, 20 do events[i] = placed(i) end
    local stats = counted(function()
      local receipt = assert(bus:publish(events, { background = true }))
      assert.equal(20, receipt.count)
      assert.is_true(bus:get_stats_dict().publish_queued >= 20) -- a report counts, too
      assert.is_true(bus:flush(10))
      assert.equal(0, bus:get_stats_dict().publish_queued)
    end)
    assert.equal(20, stats.events_published)
    wait.count(got, 20)
  end)

  it("an event that is too large fails by name and place, and the call goes on", function() -- 21
    local huge = Shipped { aggregate_id = id, note = ("x"):rep(1100000) }
    local receipt, why, code, failures = bus:publish { placed(1), huge }
    assert.is_nil(receipt)
    assert.equal("EDELIVERY", code)
    assert.matches("1 of 2", why, 1, true)
    assert.matches(huge.event_id, why, 1, true)
    assert.equal(1, #failures)
    assert.equal(2, failures[1].index)
    assert.equal(huge.event_id, failures[1].event_id)
    assert.is_string(failures[1].reason)
    assert.is_string(failures[1].code)
    assert(bus:publish(placed(2)))
  end)
end)

describe("consuming", function()
  it("gives each event to its handler, once, with every field", function() -- 43 44
    local got = {}
    bus:subscribe(Placed, function(event)
      if event.aggregate_id == id then got[#got + 1] = event end
    end)
    local sent = {}
    local stats = counted(function()
      for i = 1, 10 do
        sent[i] = placed(i)
        assert(bus:publish(sent[i]))
      end
      wait.count(got, 10)
      wait.settled(bus, bus:get_stats_dict().events_published)
    end)
    for i = 1, 10 do assert.same(sent[i], got[i]) end
    assert.equal(10, stats.events_consumed)
    assert.equal(10, stats.events_processed_success)
    assert.equal(0, stats.events_processed_failed)
  end)

  it("gets a batch of twenty", function() -- 44
    local got, events = {}, {}
    bus:subscribe(Placed, function(event) got[#got + 1] = event.n end)
    for i = 1, 20 do events[i] = placed(i) end
    bus:publish(events)
    wait.count(got, 20)
    for i = 1, 20 do assert.equal(i, got[i]) end
  end)

  it("keeps the order of each aggregate", function()
    local got = {}
    bus:subscribe(Placed, function(event)
      local list = got[event.aggregate_id] or {}
      got[event.aggregate_id] = list
      list[#list + 1] = event.n
      got.count = (got.count or 0) + 1
    end)
    local events, keys = {}, {}
    for i = 1, 20 do keys[i] = moonbus.uuid() end
    for i = 1, 1000 do events[i] = placed(i, keys[i % 20 + 1]) end
    bus:publish(events)
    wait.till(function() return got.count == 1000 end, "1000 events")
    for _, key in ipairs(keys) do
      assert.equal(50, #got[key])
      for i = 2, 50 do assert(got[key][i] > got[key][i - 1]) end
    end
  end)

  it("brings back values of every type", function() -- 44
    local All = moonbus.event("AllTypes", { aggregate_type = "Order", s = "string", n = "number",
      i = "integer", b = "boolean", u = "uuid", t = "timestamp", d = "decimal", o = "object",
      a = "array", x = "any", l = "string[]", none = "string?" }, { registry = registry })
    local got
    bus:subscribe(All, function(event) got = event end)
    local event = All { aggregate_id = id, s = "\195\169 \"\\\0", n = 0.1,
      i = 9223372036854775807LL, b = false, u = moonbus.uuid(), t = "2026-01-02T03:04:05.678901Z",
      d = "12.340", o = { k = { 1, moonbus.null } }, a = { 1, "x" }, x = "any", l = {},
      metadata = { trace = "t" }, tenant_id = moonbus.uuid(), actor_id = "me" }
    bus:publish(event)
    wait.till(function() return got end, "the event")
    for name, value in pairs(event) do
      if name == "i" then assert.is_true(got.i == value)
      else assert.same(value, got[name], name) end
    end
    assert.equal(All, getmetatable(got))
    assert.is_nil(got.none)
  end)

  it("gives an undeclared type, subscribed to by name, fully decoded", function()
    local got
    bus:subscribe("NobodyDeclared", function(event) got = event end)
    bus:publish { event_type = "NobodyDeclared", aggregate_id = id, aggregate_type = "A",
      list = moonbus.array {}, nothing = moonbus.null, n = 5 }
    wait.till(function() return got end, "the event")
    assert.equal(5, got.n)
    assert.equal(moonbus.null, got.nothing)
    assert.equal("[]", moonbus.json.encode(got.list))
    assert.is_nil(got.tenant_id)
    assert.is_true(got:is "NobodyDeclared")
  end)

  it("gives a declared type, subscribed to by name, as that type", function()
    local got
    bus:subscribe("Shipped", function(event) got = event end)
    bus:publish(Shipped { aggregate_id = id })
    wait.till(function() return got end, "the event")
    assert.equal(Shipped, getmetatable(got))
  end)

  it("brings a large event", function()
    local got
    bus:subscribe(Shipped, function(event) got = event end)
    local note = ("\195\169"):rep(200000)
    bus:publish(Shipped { aggregate_id = id, note = note })
    wait.till(function() return got end, "the event")
    assert.is_true(got.note == note)
  end)

  it("counts what nobody subscribes to as skipped, and goes on", function()
    local got = {}
    bus:subscribe(Placed, function(event) got[#got + 1] = event.n end)
    local stats = counted(function()
      bus:publish { Shipped { aggregate_id = id }, Shipped { aggregate_id = id }, placed(1) }
      wait.count(got, 1)
    end)
    assert.equal(2, stats.events_skipped)
    assert.equal(3, stats.events_consumed)
    assert.equal(1, stats.events_processed_success)
    assert.equal(0, stats.messages_sent_to_dlq)
  end)
end)

describe("the context", function()
  it("has the place of the record, and what is on it", function() -- 19
    local seen
    bus:subscribe(Placed, function(event, context)
      seen = { topic = context.topic, partition = context.partition, offset = context.offset,
        timestamp = context.timestamp, attempt = context.attempt, key = context.key,
        value = context.value, event_type = context.event_type, headers = context.headers,
        header = context:header "event_type", none = context:header "no_such",
        other = select(2, pcall(function() return context.no_such end)), event = event }
    end)
    local receipt = bus:publish(placed(1))
    wait.till(function() return seen end, "the event")
    assert.equal(bus.config.topic_name, seen.topic)
    assert.equal(receipt.partitions[1], seen.partition)
    assert.equal(receipt.offsets[1], seen.offset)
    assert.equal(1, seen.attempt)
    assert.equal(id, seen.key)
    assert.equal("Placed", seen.event_type)
    assert.equal("Placed", seen.header)
    assert.equal("Placed", seen.headers.event_type)
    assert.equal(seen.event.event_id, seen.headers.event_id)
    assert.equal(id, seen.headers.aggregate_id)
    assert.equal(seen.event.n, moonbus.json.decode(seen.value).n)
    assert.is_number(seen.timestamp)
    assert.is_nil(seen.none)
    assert.matches('a context has no "no_such"', seen.other)
  end)

  it("is only good while its handler runs", function()
    local kept
    bus:subscribe(Placed, function(_, context) kept = context end)
    bus:publish(placed(1))
    wait.till(function() return kept end, "the event")
    assert.error_matches(function() return kept.offset end, "while its handler runs")
    assert.error_matches(function() return kept.headers end, "while its handler runs")
  end)
end)

describe("a bus of the same group, later,", function()
  it("goes on where the group stood: nothing lost, nothing twice", function()
    local prefix, group = support.name "resume", support.name "group"
    local function member()
      local got = {}
      local one = support.bus { topic_prefix = prefix, consumer_group = group,
        event_registry = registry }
      one:subscribe(Placed, function(event) got[#got + 1] = event.n end)
      return one, got
    end
    local first, got = member()
    first:publish { placed(1), placed(2), placed(3) }
    support.consume(first)
    wait.count(got, 3)
    assert.is_true(first:disconnect())
    local second, more = member()
    second:publish { placed(4), placed(5) }
    support.consume(second)
    wait.count(more, 2)
    assert.same({ 4, 5 }, more)
    -- and the same bus again
    assert.is_true(second:stop_consuming())
    second:publish { placed(6) }
    support.consume(second)
    wait.count(more, 3)
    assert.same({ 4, 5, 6 }, more)
    second:disconnect()
  end)
end)

describe("connecting to nobody", function()
  it("fails moonbus.with before its body is called", function() -- 23
    local called = false
    local got, why, code = moonbus.with({ bootstrap_servers = "127.0.0.1:1",
      on_log = function() end }, function() called = true end)
    assert.is_nil(got)
    assert.equal("ECONNECT", code)
    assert.matches("127.0.0.1:1", why, 1, true)
    assert.is_false(called)
  end)
end)
