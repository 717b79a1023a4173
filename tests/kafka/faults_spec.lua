-- Brokers that are not there, go away, come back or refuse: on brokers of the spec's own.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"
local wait = require "tests.support.wait"

local registry = moonbus.new_registry()
local Ticked = moonbus.event("Ticked", { aggregate_type = "Clock", number = "integer" },
  { registry = registry })

local broker

local function new_bus(options)
  options.event_registry = registry
  options.topic_prefix = options.topic_prefix or kafka.name("faults")
  options.bootstrap_servers = options.bootstrap_servers or broker.address
  options.shutdown_timeout = options.shutdown_timeout or 3
  return kafka.new_bus(options)
end

local function connected_bus(options)
  local bus = new_bus(options)
  assert(bus:connect(60))
  return bus
end

-- Options for a quick return after an outage.
local function soon(options)
  options.reconnect_backoff_ms, options.reconnect_backoff_max_ms = 100, 500
  return options
end

local number = 0

local function ticks(n)
  local events = {}
  for i = 1, n do
    number = number + 1
    events[i] = Ticked { aggregate_id = moonbus.uuid(), number = number }
  end
  return events
end

local function count_in(bus)
  local handled = {}
  bus:subscribe(Ticked, function(event)
    handled[event.event_id] = (handled[event.event_id] or 0) + 1
  end)
  return handled
end

local function all_in(events, handled)
  for _, event in ipairs(events) do
    if not handled[event.event_id] then return false end
  end
  return true
end

local function append(list, more)
  for _, each in ipairs(more) do list[#list + 1] = each end
end

-- What a failed connect says, after how many seconds.
local function refused(options, timeout)
  local bus = new_bus(options)
  local start = moonbus.now()
  local ok, err, code = bus:connect(timeout)
  assert.is_nil(ok)
  assert.is_false(bus:is_connected())
  return code, err, moonbus.now() - start
end

local function works(bus)
  local handled, events = count_in(bus), ticks(20)
  kafka.consume(bus)
  assert(bus:publish(events))
  kafka.wait("the events", function() return all_in(events, handled) end)
end

kafka.describe("faults of Kafka:", function()
  setup(function() broker = kafka.broker() end)
  before_each(function() broker:up() end)

  describe("a broker that is not there", function()
    it("fails connect within its time, and the error names the address [23]", function()
      for _, address in ipairs { "localhost:1", "no-such-host.invalid:9092" } do
        wait.within(2, function()
          local code, err, seconds = refused({ bootstrap_servers = address }, 1)
          assert.are.equal("ECONNECT", code)
          assert.is_truthy(err:find(address, 1, true), err)
          assert.is_true(seconds >= 0.9, "took " .. seconds)
          return seconds
        end)
      end
    end)

    it("but something that never answers fails connect the same way", function()
      local mute = kafka.spawn { kafka.python, "-uc", [[
import socket, time
s = socket.create_server(("127.0.0.1", 0))
print(s.getsockname()[1])
time.sleep(600)]] }
      local port = kafka.wait("the port", function() return mute:output():match("%d+") end)
      wait.within(2, function()
        local code, err, seconds = refused({ bootstrap_servers = "localhost:" .. port }, 1)
        assert.are.equal("ECONNECT", code)
        assert.is_truthy(err:find("localhost:" .. port, 1, true), err)
        assert.is_true(seconds >= 0.9, "took " .. seconds)
        return seconds
      end)
    end)

    it("does no harm as one of several", function()
      local bus = connected_bus { bootstrap_servers = "localhost:1," .. broker.address }
      works(bus)
    end)
  end)

  for _, kill in ipairs { false, true } do
    local how = kill and "is killed" or "is stopped"
    it("a broker that " .. how .. " and comes back costs no event [24]", function()
      local prefix = kafka.name("outage")
      -- A restart may take long where much else runs: no event may expire over it.
      local publisher = connected_bus(soon { topic_prefix = prefix, delivery_timeout_ms = 120000 })
      local consumer = connected_bus(soon { topic_prefix = prefix })
      local handled, events = count_in(consumer), {}
      local function publish(n)
        local more = ticks(n)
        append(events, more)
        assert(publisher:publish(more, { background = true }))
      end
      kafka.consume(consumer)
      publish(200)
      kafka.wait("the first events", function() return handled[events[50].event_id] end)
      publish(200)
      broker:down(kill)
      publish(200)
      kafka.wait("the news", function()
        return kafka.logged(consumer, "no broker can be reached")
      end)
      publish(200)
      broker:up()
      publish(200)
      assert(publisher:flush(90))
      assert.are.equal(0, kafka.stats(publisher, "publish_errors"))
      kafka.wait(function() return "all events; " .. table.concat(consumer.lines, "\n") end,
        function() return all_in(events, handled) end)
      assert.are.equal(#events, kafka.stats(publisher, "events_published"))
      assert.is_true(kafka.stats(consumer, "reconnections") >= 1)
      assert.is_true(consumer:is_consuming())
      assert.are_not.equal(moonbus.null, kafka.stats(consumer, "last_error_at"))
      -- idempotence: what was sent again is not stored again
      local topic = prefix .. ".stream"
      assert.are.equal(#events, kafka.sum(kafka.ends(topic, broker.address)))
      -- A member whose session ended over it can commit only once it has joined again.
      kafka.wait(function() return "the commits; " .. table.concat(consumer.lines, "\n") end,
        function()
          return kafka.sum(kafka.offsets(consumer.config.consumer_group, topic, broker.address))
            == #events
        end)
      assert(consumer:stop_consuming())
    end)
  end

  it("publish with the broker down fails by delivery_timeout_ms and names the events", function()
    local bus = connected_bus { delivery_timeout_ms = 4000 }
    assert(bus:publish(ticks(5)))
    broker:down()
    local events = ticks(3)
    local start = moonbus.now()
    local receipt, err, code, failures = bus:publish(events)
    local seconds = moonbus.now() - start
    assert.is_nil(receipt)
    assert.are.equal("EDELIVERY", code)
    assert.is_truthy(err:find("3 of 3 events not delivered", 1, true), err)
    assert.is_truthy(err:find(events[1].event_id, 1, true), err)
    assert.are.equal(3, #failures)
    for i, failure in ipairs(failures) do
      assert.are.equal(i, failure.index)
      assert.are.equal(events[i].event_id, failure.event_id)
      assert.are.equal("ETIMEOUT", failure.code)
    end
    assert.are.equal(3, kafka.stats(bus, "publish_errors"))
    assert.are.equal(5, kafka.stats(bus, "events_published"))
    assert.is_true(seconds >= 3.9 and seconds < 20, "took " .. seconds)
  end)

  it("background events that fail are reported, counted and logged; later publish works", function()
    local reported = {}
    local bus = connected_bus(soon { delivery_timeout_ms = 4000,
      on_publish_error = function(failure) reported[#reported + 1] = failure end })
    assert(bus:publish(ticks(2)))
    broker:down()
    local events = ticks(4)
    assert.are.equal(4, assert(bus:publish(events, { background = true })).count)
    local by_id = {}
    -- nobody calls flush
    kafka.wait("the callback", function() return #reported == 4 end)
    for _, failure in ipairs(reported) do by_id[failure.event_id] = failure end
    for _, event in ipairs(events) do
      local failure = by_id[event.event_id]
      assert.are.equal("Ticked", failure.event_type)
      assert.are.equal("ETIMEOUT", failure.code)
      assert.is_true(#failure.reason > 0)
    end
    kafka.wait("lines that name or count all of them", function()
      local sum = 0
      for _, line in ipairs(bus.lines) do
        local id = line:match "event Ticked (%S+) was not delivered"
        assert.is_truthy(not id or by_id[id], line)
        sum = sum + (id and 1 or tonumber(line:match "(%d+) more within .*not delivered") or 0)
      end
      return sum == 4
    end)
    assert.are.equal(4, kafka.stats(bus, "publish_errors"))
    assert.are.equal(2, kafka.stats(bus, "events_published"))
    kafka.wait("an empty queue", function() return kafka.stats(bus, "publish_queued") == 0 end)
    broker:up()
    kafka.wait("publish to work again", function() return bus:publish(ticks(1)) end)
    assert(bus:publish(ticks(5)))
    assert(bus:publish(ticks(5), { background = true }))
    assert(bus:flush(60))
    assert.are.equal(kafka.sum(kafka.ends(bus.config.topic_name, broker.address)),
      kafka.stats(bus, "events_published"))
  end)

  it("a queue that stays full blocks for queue_full_timeout_ms, then says EFULL", function()
    local failed = 0
    local bus = connected_bus(soon { delivery_timeout_ms = 6000, queue_full_timeout_ms = 300,
      producer_queue_max_events = 10, on_publish_error = function() failed = failed + 1 end })
    broker:down()
    local start = moonbus.now()
    local receipt, err, code, queued = bus:publish(ticks(15), { background = true })
    local seconds = moonbus.now() - start
    assert.is_nil(receipt)
    assert.are.equal("EFULL", code)
    assert.are.equal(10, queued)
    assert.is_true(seconds >= 0.25 and seconds < 5, "blocked for " .. seconds)
    assert.is_truthy(err:find("full", 1, true), err)
    assert.is_truthy(err:find("producer_queue_max_events", 1, true), err)
    local failures
    receipt, err, code, failures = bus:publish(ticks(2))
    assert.is_nil(receipt)
    assert.are.equal("EFULL", code)
    assert.is_truthy(err:find("2 of 2 events not delivered", 1, true), err)
    assert.are.same({ "EFULL", "EFULL" }, { failures[1].code, failures[2].code })
    kafka.wait("the ten to fail", function() return failed == 10 end)
    assert.are.equal(17, kafka.stats(bus, "publish_errors"))
    assert.are.equal(0, kafka.stats(bus, "events_published"))
  end)

  it("a full queue on a running broker waits for room and loses nothing", function()
    local bus = connected_bus { producer_queue_max_events = 20, linger_ms = 5 }
    assert.are.equal(2000, assert(bus:publish(ticks(2000), { background = true })).count)
    assert.are.equal(1000, assert(bus:publish(ticks(1000))).count)
    assert(bus:flush(60))
    assert.are.equal(3000, kafka.stats(bus, "events_published"))
    assert.are.equal(3000, kafka.sum(kafka.ends(bus.config.topic_name, broker.address)))
  end)

  it("with auto_reconnect=false a lost broker ends consumption with an error", function()
    local bus = connected_bus(soon {})
    local handled, events = count_in(bus), ticks(10)
    local task = assert(bus:start_consuming_in_background { auto_reconnect = false })
    assert(bus:publish(events))
    kafka.wait("the events", function() return all_in(events, handled) end)
    broker:down()
    local ok, err, code = task:wait(90)
    assert.is_nil(ok)
    assert.are.equal("ECONNECT", code)
    assert.is_truthy(err:find("consumption ended", 1, true), err)
    assert.is_true(task:done())
    assert.is_false(bus:is_consuming())
    assert.are.equal(0, kafka.stats(bus, "reconnections"))
    broker:up()
    events = ticks(10)
    kafka.wait("publish to work again", function() return bus:publish(events) end)
    kafka.consume(bus)
    kafka.wait("the new events", function() return all_in(events, handled) end)
  end)

  it("disconnect while the broker is down ends in time and counts what is lost", function()
    local bus = connected_bus { shutdown_timeout = 1 }
    kafka.consume(bus)
    broker:down(true)
    assert(bus:publish(ticks(7), { background = true }))
    local start = moonbus.now()
    local ok, err, code = bus:disconnect()
    local seconds = moonbus.now() - start
    broker:up()
    assert.is_nil(ok)
    assert.are.equal("EDELIVERY", code)
    assert.is_truthy(err:find("7 queued events", 1, true), err)
    assert.is_true(seconds < 20, "took " .. seconds)
    assert.is_false(bus:is_connected())
    assert.is_false(bus:is_consuming())
  end)
end)
