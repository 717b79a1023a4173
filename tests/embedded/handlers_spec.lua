local moonbus = require "moonbus"
local support = require "tests.support.bus"
local wait = require "tests.support.wait"

local registry = moonbus.new_registry()
local function declare(name, fields)
  fields = fields or {}
  fields.aggregate_type = "Order"
  return moonbus.event(name, fields, { registry = registry })
end
local Placed = declare("Placed", { n = "integer?" })
local Shipped = declare("Shipped", { n = "integer?" })
local Marker = declare "Marker"

local bus, lines, consumption, id

local function placed(n) return Placed { aggregate_id = id, n = n } end

-- Publish and wait until the bus is through with it: a marker of the same key comes last.
local function publish_through(events)
  local marked = false
  local function mark(event) marked = marked or event.aggregate_id == id end
  bus:subscribe(Marker, mark)
  assert(bus:publish(events))
  assert(bus:publish(Marker { aggregate_id = id }))
  wait.till(function() return marked end, "the marker")
  bus:unsubscribe(Marker, mark)
end

setup(function()
  bus, lines = support.bus { event_registry = registry, max_retries = 0 }
  consumption = support.consume(bus)
end)

teardown(support.close)

before_each(function() id = moonbus.uuid() end)
after_each(function() bus:clear_subscribers() end)

describe("handlers", function()
  it("of one type all get the event", function() -- 43
    local first, second = {}, {}
    bus:subscribe(Placed, function(event) first[#first + 1] = event.n end)
    bus:subscribe(Placed, function(event) second[#second + 1] = event.n end)
    publish_through { placed(1), placed(2) }
    assert.same({ 1, 2 }, first)
    assert.same({ 1, 2 }, second)
  end)

  it("of another type do not", function() -- 6 17
    local called = 0
    bus:subscribe(Shipped, function() called = called + 1 end)
    publish_through { placed(1) }
    assert.equal(0, called)
  end)

  it("for all events get every type", function() -- 13 43
    local types = {}
    bus:subscribe_to_all_events(function(event) types[#types + 1] = event.event_type end)
    publish_through { placed(1), Shipped { aggregate_id = id }, { event_type = "Undeclared",
      aggregate_id = id, aggregate_type = "A" } }
    assert.same({ "Placed", "Shipped", "Undeclared", "Marker" }, types)
  end)

  it("for all events get declared types as such", function()
    local kind
    bus:subscribe_to_all_events(function(event) kind = kind or getmetatable(event) end)
    publish_through { placed(1) }
    assert.equal(Placed, kind)
  end)

  it("run in the order of their subscription: the type's own, then those for all", function() -- 6
    local order = {}
    local function named(name)
      return function(event) if event:is(Placed) then order[#order + 1] = name end end
    end
    bus:subscribe_to_all_events(named "all 1")
    bus:subscribe(Placed, named "own 1")
    bus:subscribe_to_all_events(named "all 2")
    bus:subscribe(Placed, named "own 2")
    publish_through { placed(1) }
    assert.same({ "own 1", "own 2", "all 1", "all 2" }, order)
  end)

  it("subscribed twice run twice", function() -- 12
    local called = 0
    local function handler() called = called + 1 end
    bus:subscribe(Placed, handler):subscribe(Placed, handler)
    publish_through { placed(1) }
    assert.equal(2, called)
    bus:unsubscribe(Placed, handler)
    publish_through { placed(1) }
    assert.equal(3, called)
  end)

  it("unsubscribed get nothing more", function() -- 43
    local called, all = 0, 0
    local function handler() called = called + 1 end
    local function wildcard(event) if event:is(Placed) then all = all + 1 end end
    bus:subscribe(Placed, handler)
    bus:subscribe_to_all_events(wildcard)
    publish_through { placed(1) }
    assert.is_true(bus:unsubscribe(Placed, handler))
    assert.is_true(bus:unsubscribe_from_all_events(wildcard))
    publish_through { placed(2) }
    assert.equal(1, called)
    assert.equal(1, all)
  end)

  it("subscribed while the bus consumes get what comes then", function()
    publish_through { placed(1) }
    local got = {}
    bus:subscribe(Placed, function(event) got[#got + 1] = event.n end)
    publish_through { placed(2) }
    assert.same({ 2 }, got)
  end)

  it("may be objects with a handle method, which get themselves", function()
    local object = { seen = {} }
    function object:handle(event, context)
      self.seen[#self.seen + 1] = event.n + context.attempt
    end
    bus:subscribe(Placed, object)
    publish_through { placed(1) }
    assert.same({ 2 }, object.seen)
    assert.is_true(bus:unsubscribe(Placed, object))
    publish_through { placed(1) }
    assert.same({ 2 }, object.seen)
  end)

  it("may be projections, subscribed to all their types", function() -- 15
    local projection = moonbus.projection("Counts", {
      placed = 0, shipped = 0,
      handles = {
        [Placed] = function(self, event) self.placed = self.placed + event.n end,
        Shipped = function(self) self.shipped = self.shipped + 1 end,
      },
      truncate = function(self) self.placed, self.shipped = 0, 0 end,
    })
    bus:subscribe_all(projection)
    publish_through { placed(5), Shipped { aggregate_id = id }, placed(6) }
    assert.equal(11, projection.placed)
    assert.equal(1, projection.shipped)
    projection:truncate()
    assert.equal(0, projection.placed)
  end)

  it("each get an event of their own: what one changes, no other sees", function()
    local seen = {}
    bus:subscribe(Placed, function(event) event.n = event.n + 1 end)
    bus:subscribe(Placed, function(event) seen[#seen + 1] = event.n end)
    publish_through { placed(1), placed(1) }
    assert.are.same({ 1, 1 }, seen)
  end)
end)

describe("a handler that fails", function()
  it("by raising does not keep the others from the event", function() -- 28
    local before, called = bus:get_stats_dict(), {}
    bus:subscribe(Placed, function() called[#called + 1] = "first" error "broken" end)
    bus:subscribe(Placed, function() called[#called + 1] = "second" end)
    bus:subscribe_to_all_events(function(event)
      if event:is(Placed) then called[#called + 1] = "all" end
    end)
    publish_through { placed(1) }
    assert.same({ "first", "second", "all" }, called)
    local after = bus:get_stats_dict()
    assert.equal(1, after.handler_errors - before.handler_errors)
    assert.equal(1, after.events_processed_failed - before.events_processed_failed)
  end)

  it("does so by nil or false and a reason, too", function()
    local before = bus:get_stats_dict().handler_errors
    bus:subscribe(Placed, function() return nil, "nil and a reason" end)
    bus:subscribe(Placed, function() return false, "false and a reason" end)
    publish_through { placed(1) }
    assert.equal(2, bus:get_stats_dict().handler_errors - before)
    assert.equal(1, #support.lines_with(lines, "warn", "nil and a reason"))
  end)

  it("does not do so by returning nothing, nil, false, or a value and more", function()
    local before = bus:get_stats_dict().handler_errors
    bus:subscribe(Placed, function() end)
    bus:subscribe(Placed, function() return nil end)
    bus:subscribe(Placed, function() return false end)
    bus:subscribe(Placed, function() return true, "fine" end)
    bus:subscribe(Placed, function() return 5 end)
    publish_through { placed(1) }
    assert.equal(0, bus:get_stats_dict().handler_errors - before)
  end)

  it("is logged with record, attempt, type and message", function()
    bus:subscribe(Placed, function() error({ type = "Timeout", message = "too slow today" }) end)
    publish_through { placed(1) }
    local warnings = support.lines_with(lines, "warn", "Timeout: too slow today")
    assert.equal(1, #warnings)
    assert.matches(bus.config.topic_name .. "[", warnings[1], 1, true)
    assert.matches("attempt 1", warnings[1], 1, true)
  end)

  it("may raise anything", function()
    local before = bus:get_stats_dict().handler_errors
    for _, thrown in ipairs { 5, true, {}, print, { message = {} }, { type = 7 } } do
      bus:subscribe(Placed, function() error(thrown) end)
    end
    bus:subscribe(Placed, function() error() end)
    publish_through { placed(1) }
    assert.equal(7, bus:get_stats_dict().handler_errors - before)
  end)

  it("with an object is logged with its type and message, or its __tostring", function()
    local class = { type = "Refused" }
    class.__index = class
    function class:__tostring() return "refused " .. self.what end
    local thrown
    bus:subscribe(Placed, function() error(setmetatable(thrown, class)) end)
    thrown = { what = "by an object" }
    publish_through { placed(1) }
    assert.equal(1, #support.lines_with(lines, "warn", "Refused: refused by an object"))
    thrown = { message = "by a message" }
    publish_through { placed(2) }
    assert.equal(1, #support.lines_with(lines, "warn", "Refused: by a message"))
  end)

  it("with an object that cannot be read is a failure like any other", function()
    local before, seen, name = bus:get_stats_dict().handler_errors, 0, nil
    bus:subscribe(Placed, function()
      error(setmetatable({}, { [name] = function() error "broken object" end }))
    end)
    bus:subscribe(Placed, function() seen = seen + 1 end)
    for i, each in ipairs { "__index", "__tostring" } do
      name = each
      publish_through { placed(i) }
      assert.equal(i, bus:get_stats_dict().handler_errors - before)
      assert.equal(i, seen)
      wait.till(function() -- the second one is counted in a line that comes within a second
        return #support.lines_with(lines, "warn", "a table that cannot be read: ") == i
      end, "a line for each")
    end
  end)

  it("may raise tables that inherit, and some that raise when they are looked into", function()
    local before = #support.lines_with(lines, "warn", "a table that cannot be read: ")
    local Refused = { type = "Refused", message = "of the class" }
    Refused.__index = Refused
    local endless = {}
    endless.__index = setmetatable(endless, endless)
    for _, thrown in ipairs {
      setmetatable({}, Refused), endless,
      setmetatable({}, { __index = function() error "inside" end }),
      setmetatable({}, { __index = "text", __tostring = function() error "inside" end }),
    } do
      bus:subscribe(Placed, function() error(thrown) end)
      publish_through { placed(1) }
      bus:clear_subscribers()
    end
    assert.equal(1, #support.lines_with(lines, "warn", "Refused: of the class"))
    assert.equal(3, #support.lines_with(lines, "warn", "a table that cannot be read: ") - before)
  end)

  it("by overflowing the stack is a failure like any other", function()
    local before = bus:get_stats_dict().handler_errors
    local function deep() return 1 + deep() end
    bus:subscribe(Placed, function() return deep() end)
    publish_through { placed(1) }
    assert.equal(1, bus:get_stats_dict().handler_errors - before)
  end)
end)

describe("inside a handler", function()
  it("unsubscribing itself leaves the others their event", function()
    local called = {}
    local function once()
      called[#called + 1] = "once"
      bus:unsubscribe(Placed, once)
    end
    bus:subscribe(Placed, once)
    bus:subscribe(Placed, function() called[#called + 1] = "always" end)
    publish_through { placed(1), placed(2) }
    assert.same({ "once", "always", "always" }, called)
  end)

  it("unsubscribing a later handler keeps it from this event", function()
    local called = {}
    local function later() called[#called + 1] = "later" end
    bus:subscribe(Placed, function() bus:unsubscribe(Placed, later) end)
    bus:subscribe(Placed, later)
    publish_through { placed(1), placed(2) }
    assert.same({}, called)
  end)

  it("clearing all subscriptions is possible", function()
    local called = 0
    bus:subscribe(Placed, function()
      called = called + 1
      bus:clear_subscribers()
    end)
    bus:subscribe(Placed, function() called = called + 10 end)
    bus:publish { placed(1), placed(2) }
    wait.till(function() return called > 0 end, "the handler")
    publish_through {}
    assert.equal(1, called)
  end)

  it("subscribing another has effect from the next event on", function()
    local called = {}
    local function added(event) called[#called + 1] = event.n end
    local done = false
    bus:subscribe(Placed, function()
      if done then return end
      done = true
      bus:subscribe(Placed, added)
    end)
    publish_through { placed(1), placed(2) }
    assert.same({ 2 }, called)
  end)

  it("publishing works, and what is published comes", function()
    local got = {}
    bus:subscribe(Placed, function(event)
      assert(bus:publish(Shipped { aggregate_id = event.aggregate_id, n = event.n }
        :caused_by(event)))
    end)
    bus:subscribe(Shipped, function(event) got[#got + 1] = event end)
    local first = placed(7)
    publish_through { first }
    wait.count(got, 1)
    assert.equal(7, got[1].n)
    assert.equal(first.event_id, got[1].causation_id)
    assert.equal(first.correlation_id, got[1].correlation_id)
  end)

  it("publishing in the background works, too", function()
    local got = {}
    bus:subscribe(Placed, function(event)
      assert(bus:publish(Shipped { aggregate_id = id, n = event.n }, { background = true }))
    end)
    bus:subscribe(Shipped, function(event) got[#got + 1] = event.n end)
    bus:publish { placed(1), placed(2), placed(3) }
    wait.count(got, 3)
    assert.same({ 1, 2, 3 }, got)
  end)

  it("publishing a wrong event fails the handler, and nothing else", function()
    local before, called = bus:get_stats_dict().handler_errors, false
    bus:subscribe(Placed, function()
      bus:publish { Placed { aggregate_id = "nobody" } }
    end)
    bus:subscribe(Placed, function() called = true end)
    publish_through { placed(1) }
    assert.is_true(called)
    assert.equal(1, bus:get_stats_dict().handler_errors - before)
  end)

  it("moonbus.sleep lets the time pass, and no other event in", function()
    local order, slept = {}, nil
    bus:subscribe(Placed, function(event)
      order[#order + 1] = "begin " .. event.n
      local begin = moonbus.now()
      moonbus.sleep(0.05)
      slept = moonbus.now() - begin
      order[#order + 1] = "end " .. event.n
    end)
    publish_through { placed(1), placed(2) }
    assert.same({ "begin 1", "end 1", "begin 2", "end 2" }, order)
    assert(slept >= 0.05 and slept < 30, slept)
  end)

  it("the context is still good after a sleep", function()
    local before, after
    bus:subscribe(Placed, function(_, context)
      before = context.offset
      moonbus.sleep(0.02)
      after = context.offset
    end)
    publish_through { placed(1) }
    assert.equal(before, after)
  end)

  it("disconnecting its own bus is refused", function()
    local result
    bus:subscribe(Placed, function() result = { bus:disconnect() } end)
    publish_through { placed(1) }
    assert.is_nil(result[1])
    assert.equal("ESTATE", result[3])
    assert.is_true(bus:is_connected())
    assert.is_true(bus:is_consuming())
  end)

  it("waiting for the end of its own consumption is refused", function()
    local result
    bus:subscribe(Placed, function() result = { consumption:wait() } end)
    publish_through { placed(1) }
    assert.matches("a handler cannot wait for what it is part of", result[2])
    assert.equal("ESTATE", result[3])
  end)

  it("starting to consume is refused", function()
    local result
    bus:subscribe(Placed, function() result = { bus:start_consuming() } end)
    publish_through { placed(1) }
    assert.is_nil(result[1])
    assert.equal("ESTATE", result[3])
  end)

  it("a coroutine may be used, and its error caught", function()
    local got
    bus:subscribe(Placed, function(event)
      local co = coroutine.wrap(function()
        coroutine.yield(event.n)
        moonbus.sleep(0.01)
        error "inside"
      end)
      got = { co(), pcall(co) }
    end)
    publish_through { placed(3) }
    assert.equal(3, got[1])
    assert.is_false(got[2])
    assert.matches("inside", got[3], 1, true)
  end)

  it("a coroutine may use the bus, and be collected: the next handler runs where it did", function()
    local seen, events = 0, {}
    bus:subscribe(Placed, function()
      coroutine.wrap(function() bus:get_stats_dict() end)()
      collectgarbage()
      for _ = 1, 20 do coroutine.create(function() end) end -- something else in its place
      seen = seen + 1
    end)
    for n = 1, 50 do events[n] = placed(n) end
    publish_through(events)
    assert.equal(50, seen)
  end)

  it("asking the bus for its state works", function()
    local stats, consuming
    bus:subscribe(Placed, function()
      stats = bus:get_stats_dict()
      consuming = bus:is_consuming()
    end)
    publish_through { placed(1) }
    assert.is_true(consuming)
    assert(stats.events_consumed > 0)
  end)

  it("reading dead letters and topic information works", function()
    local count, info
    bus:subscribe(Placed, function()
      count = bus:get_dlq_message_count()
      info = bus:get_topic_info()
    end)
    publish_through { placed(1) }
    assert.is_number(count)
    assert.equal(4, info.partitions)
  end)
end)

describe("stop_consuming in a handler", function() -- 34
  it("returns at once and ends consumption after the event in hand", function()
    local called, returned = 0, nil
    bus:subscribe(Placed, function()
      called = called + 1
      if returned == nil then
        returned = bus:stop_consuming()
        assert(bus:is_consuming())
      end
    end)
    bus:publish { placed(1), placed(2), placed(3) }
    wait.till(function() return not bus:is_consuming() end, "the end of consumption")
    assert.is_true(returned)
    assert.equal(1, called)
    assert.is_true(bus:is_connected())
    -- what was not handled comes at the next start, what was does not come again
    local task = support.consume(bus)
    wait.till(function() return called >= 3 end, "the other two")
    publish_through {}
    assert.equal(3, called)
    assert.is_false(task:done())
  end)
end)
