local moonbus = require "moonbus"
local support = require "tests.support.bus"
local wait = require "tests.support.wait"

local registry = moonbus.new_registry()
local Placed = moonbus.event("Placed", { aggregate_type = "Order", n = "integer" },
  { registry = registry })

after_each(support.close)

local function new(options)
  options = options or {}
  options.event_registry = registry
  return support.bus(options)
end

local function publish(bus, first, last)
  local events = {}
  for n = first, last do
    events[#events + 1] = Placed { aggregate_id = support.uuid(n % 5), n = n }
  end
  assert(bus:publish(events))
end

-- A list of the n of every event the bus gets.
local function collect(bus)
  local got = {}
  bus:subscribe(Placed, function(event) got[#got + 1] = event.n end)
  return got
end

local function seconds(body)
  local begin = moonbus.now()
  body()
  return moonbus.now() - begin
end

describe("consuming in the background", function()
  it("goes on while the script sleeps, and not while it does not wait", function()
    local bus = new()
    local got = collect(bus)
    local task = support.consume(bus)
    assert.is_false(task:done())
    assert.is_true(bus:is_consuming())
    publish(bus, 1, 10)
    assert.equal(0, #got)
    wait.count(got, 10)
    assert.is_false(task:done())
  end)

  it("a second time is refused, and leaves the first alone", function() -- 34
    local bus = new()
    local got = collect(bus)
    local task = support.consume(bus)
    local second, why, code = bus:start_consuming_in_background()
    assert.is_nil(second)
    assert.equal("ESTATE", code)
    assert.matches("consuming already", why, 1, true)
    second, why, code = bus:start_consuming()
    assert.is_nil(second)
    assert.equal("ESTATE", code)
    assert.is_string(why)
    publish(bus, 1, 3)
    wait.count(got, 3)
    assert.is_false(task:done())
  end)

  it("ends by stop_consuming: the task is done, the bus connected, and may start again",
    function() -- 34 48
      local bus = new()
      local got = collect(bus)
      local task
      wait.within(2, function()
        task = support.consume(bus)
        return seconds(function() assert.is_true(bus:stop_consuming()) end)
      end)
      assert.is_false(bus:is_consuming())
      assert.is_true(bus:is_connected())
      assert.is_true(task:wait(60))
      assert.is_true(task:done())
      publish(bus, 1, 2)
      support.consume(bus)
      wait.count(got, 2)
      assert.is_true(bus:stop_consuming())
      assert.is_true(bus:stop_consuming())
    end)

  it("ends by task:cancel, which does not wait", function()
    local bus = new()
    local task = support.consume(bus)
    task:cancel()
    assert.is_false(task:done())
    assert.is_true(bus:is_consuming())
    assert.is_true(task:wait(60))
    assert.is_true(task:done())
    assert.is_false(bus:is_consuming())
  end)

  it("ends by disconnecting, also with a slow handler at work", function() -- 27 48
    local bus = new()
    local finished = false
    bus:subscribe(Placed, function()
      local deadline = moonbus.now() + 0.2
      while moonbus.now() < deadline do end -- luacheck: ignore
      finished = true
    end)
    publish(bus, 1, 1)
    local task = support.consume(bus)
    wait.till(function() return finished end, "the handler")
    assert.is_true(bus:disconnect())
    assert.is_false(bus:is_consuming())
    assert.is_false(bus:is_connected())
    assert.is_true(task:done())
    assert.is_true(task:wait())
  end)

  it("task:wait with a limit says when it is not over yet", function()
    local bus = new()
    local task = support.consume(bus)
    wait.within(0.5, function()
      local ok, why, code
      local passed = seconds(function() ok, why, code = task:wait(0.1) end)
      assert.is_nil(ok)
      assert.equal("ETIMEOUT", code)
      assert.matches("^ETIMEOUT: ", why)
      assert(passed >= 0.1, passed)
      return passed
    end)
    assert.is_true(bus:is_consuming())
  end)

  it("an idle bus stops within a second of being asked, and uses little until then", function()
    local bus = new { fetch_wait_max_ms = 500 } -- 7.16
    local task
    local function consume()
      task = support.consume(bus)
      wait.till(function() return bus.native:is_idle() end, "idleness")
    end
    consume()
    wait.within(0.15, function()
      local cpu = os.clock()
      moonbus.sleep(1)
      return os.clock() - cpu
    end)
    wait.within(1.5, function(try)
      if try > 1 then consume() end
      return seconds(function() bus:stop_consuming() end)
    end)
    assert.is_true(task:done())
  end)
end)

describe("limits", function()
  it("for_seconds ends consumption in time", function()
    local bus = new()
    wait.within(2.5, function()
      local passed = seconds(function()
        assert.is_true(bus:start_consuming { for_seconds = 0.5 })
      end)
      assert(passed >= 0.5, passed)
      return passed
    end)
    assert.is_true(bus:is_connected())
    assert.is_false(bus:is_consuming())
  end)

  it("until_idle ends it once everything there was is handled and nothing new came", function()
    local bus = new()
    local got = collect(bus)
    publish(bus, 1, 50)
    local passed = seconds(function()
      assert.is_true(bus:start_consuming { until_idle = 0.5 })
    end)
    assert.equal(50, #got)
    assert(passed < 60, passed)
  end)

  it("until_idle counts the retries that wait", function()
    local bus = new { retry_base_delay = 1.2, retry_max_delay = 2 }
    local runs = 0
    bus:subscribe(Placed, function()
      runs = runs + 1
      if runs == 1 then error "once" end
    end)
    publish(bus, 1, 1)
    assert.is_true(bus:start_consuming { until_idle = 0.4 })
    assert.equal(2, runs)
  end)

  it("until_idle waits while events still come", function()
    local bus = new()
    local count, last = 0, nil
    bus:subscribe(Placed, function(event)
      count = count + 1
      if event.n < 20 then
        moonbus.sleep(0.1)
        bus:publish(Placed { aggregate_id = event.aggregate_id, n = event.n + 1 })
      end
      last = event.n
    end)
    publish(bus, 1, 1)
    assert.is_true(bus:start_consuming { until_idle = 2 })
    assert.equal(20, count)
    assert.equal(20, last)
  end)

  it("for_seconds cuts until_idle short", function()
    local bus = new()
    assert(seconds(function()
      assert.is_true(bus:start_consuming { for_seconds = 0.5, until_idle = 60 })
    end) < 30)
  end)

  it("of a task in the background are looked at while it is waited for", function()
    local bus = new()
    local task = assert(bus:start_consuming_in_background { for_seconds = 0.3 })
    assert.is_true(task:wait(60))
    assert.is_false(bus:is_consuming())
  end)
end)

describe("several buses in one script", function()
  it("of different topics consume side by side", function()
    local first, second = new(), new()
    local a, b = collect(first), collect(second)
    local one, two = support.consume(first, second)
    publish(first, 1, 30)
    publish(second, 101, 130)
    wait.count(a, 30)
    wait.count(b, 30)
    for _, n in ipairs(a) do assert(n <= 30) end
    for _, n in ipairs(b) do assert(n > 100) end
    assert.is_true(first:stop_consuming())
    assert.is_true(one:done())
    assert.is_false(two:done())
    publish(second, 131, 140)
    wait.count(b, 40)
  end)

  it("of different groups both get everything", function() -- 45
    local prefix = support.name "shared"
    local first, second = new { topic_prefix = prefix }, new { topic_prefix = prefix }
    local a, b = collect(first), collect(second)
    support.consume(first, second)
    publish(first, 1, 20)
    wait.count(a, 20)
    wait.count(b, 20)
    table.sort(a)
    table.sort(b)
    assert.same(a, b)
  end)

  it("of different groups do not get each other's retries", function() -- 7.4
    local prefix = support.name "shared"
    local first, second = new { topic_prefix = prefix }, new { topic_prefix = prefix }
    local b, runs = collect(second), 0
    first:subscribe(Placed, function()
      runs = runs + 1
      if runs <= 3 then error "again" end
    end)
    support.consume(first, second)
    publish(first, 1, 1)
    wait.till(function() return runs == 4 end, "the last retry")
    publish(first, 6, 6)
    wait.count(b, 2)
    assert.same({ 1, 6 }, b)
  end)

  it("of one group share the events, each handled once", function() -- 45
    local prefix, group = support.name "shared", support.name "group"
    local first = new { topic_prefix = prefix, consumer_group = group }
    local second = new { topic_prefix = prefix, consumer_group = group }
    local a, b = collect(first), collect(second)
    assert(first:start_consuming_in_background())
    assert(second:start_consuming_in_background())
    local function share(bus) return bus:get_stats_dict().assigned_count end
    wait.till(function() return share(first) == 2 and share(second) == 2 end,
      function() return ("shares %d and %d"):format(share(first), share(second)) end)
    local publisher = new { topic_prefix = prefix }
    publish(publisher, 1, 40)
    wait.till(function() return #a + #b >= 40 end, "40 events")
    local all = {}
    for _, list in ipairs { a, b } do
      for _, n in ipairs(list) do all[#all + 1] = n end
    end
    table.sort(all)
    assert.equal(40, #all)
    for n = 1, 40 do assert.equal(n, all[n]) end
    assert(#a > 0 and #b > 0)
  end)

  it("may publish to each other from their handlers", function()
    local first, second = new(), new()
    local got = {}
    first:subscribe(Placed, function(event)
      assert(second:publish(Placed { aggregate_id = event.aggregate_id, n = event.n * 10 }))
    end)
    second:subscribe(Placed, function(event) got[#got + 1] = event.n end)
    support.consume(first, second)
    publish(first, 1, 3)
    wait.count(got, 3)
    table.sort(got)
    assert.same({ 10, 20, 30 }, got)
  end)

  it("go on while a handler of one sleeps", function()
    local first, second = new(), new()
    local b, during = collect(second), nil
    first:subscribe(Placed, function()
      publish(second, 1, 5)
      wait.count(b, 5)
      during = #b
    end)
    support.consume(first, second)
    publish(first, 1, 1)
    wait.till(function() return during end, "the handler")
    assert.equal(5, during)
  end)

  it("may stop each other from their handlers", function()
    local first, second = new(), new()
    local stopped
    first:subscribe(Placed, function() stopped = second:stop_consuming() end)
    local _, task = support.consume(first, second)
    publish(first, 1, 1)
    wait.till(function() return stopped ~= nil end, "the handler")
    assert.is_true(stopped)
    assert.is_false(second:is_consuming())
    assert.is_true(task:done())
    assert.is_true(first:is_consuming())
  end)
end)

describe("a bus nobody holds any more", function()
  local function forget(prefix, body)
    local bus = moonbus.bus { bootstrap_servers = "embedded", topic_prefix = prefix,
      event_registry = registry, on_log = function() end }
    assert(bus:connect())
    body(bus)
    return setmetatable({ bus, bus.native }, { __mode = "v" })
  end

  it("is collected once it is disconnected, and does not disturb the others", function()
    local bus = new()
    local got = collect(bus)
    support.consume(bus)
    for _ = 1, 5 do
      local gone = forget(support.name "gone", function(one)
        one:subscribe(Placed, function() end)
        assert(one:disconnect())
      end)
      collectgarbage()
      collectgarbage()
      assert.is_nil(gone[1])
      assert.is_nil(gone[2])
    end
    publish(bus, 1, 5)
    wait.count(got, 5)
  end)

  it("is collected in a handler of another that disconnects it, and the round goes on", function()
    local bus, gone, seen = new(), {}, false
    for i = 1, 10 do
      gone[i] = moonbus.bus { bootstrap_servers = "embedded", on_log = function() end,
        topic_prefix = support.name "gone" }
    end
    bus:subscribe(Placed, function()
      for i = #gone, 1, -1 do
        gone[i]:disconnect()
        gone[i] = nil
      end
      collectgarbage()
      collectgarbage()
      for i = 1, 1000 do gone[-i] = ("x"):rep(i) end -- something else in their place
      seen = true
    end)
    support.consume(bus)
    for _, each in ipairs(gone) do assert(each:connect()) end
    assert(bus:publish(Placed { aggregate_id = support.uuid(1), n = 1 }))
    wait.till(function() return seen end, "the handler")
  end)

  it("still delivers what it took, as long as it is connected", function()
    local bus = new()
    local got = collect(bus)
    support.consume(bus)
    local forgotten = forget(bus.config.topic_prefix, function(one)
      assert(one:publish(Placed { aggregate_id = support.uuid(1), n = 7 }, { background = true }))
    end)
    collectgarbage()
    collectgarbage()
    wait.count(got, 1)
    assert.same({ 7 }, got)
    assert(forgotten[2]):disconnect()
  end)
end)
