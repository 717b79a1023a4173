-- A group's coordinator that moves to another broker: on two brokers of the spec's own, the second
-- of which dies with the coordinator on it.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"
local ticks = require "tests.support.ticks"

local SETTINGS = {
  "default.replication.factor=2", "offsets.topic.replication.factor=2",
  "transaction.state.log.replication.factor=2",
  "leader.imbalance.check.interval.seconds=1", -- what has moved moves back when the broker is back
}

kafka.describe("a coordinator that moves", function()
  local first, second

  setup(function()
    first = kafka.broker { set = SETTINGS }
    second = kafka.broker { set = SETTINGS, join = first }
  end)
  before_each(function()
    pcall(second.signal, second, "CONT") -- unless it is down
    second:up()
  end)

  local function new_bus(options)
    local all = { event_registry = ticks.registry, delivery_timeout_ms = 60000,
      bootstrap_servers = first.address .. "," .. second.address, reconnect_backoff_ms = 100,
      reconnect_backoff_max_ms = 500, commit_interval_ms = 100 }
    for key, value in pairs(options) do all[key] = value end
    return kafka.bus(all)
  end

  -- The name of a group whose coordinator is the second broker.
  local function group_of_second()
    return kafka.wait("a group that the second broker coordinates", function()
      local name = kafka.name("group")
      local known, group = pcall(kafka.group, name, first.address)
      return known and group.coordinator == 2 and name
    end)
  end

  local function run_through(bus, source, handled)
    local group = bus.config.consumer_group
    kafka.consume(bus)
    ticks.publish(source, 1, 100)
    kafka.wait("the first events", function() return handled(1, 100) end)
    second:down(true)
    ticks.publish(source, 101, 200)
    kafka.wait(function() return "the events; " .. table.concat(bus.lines, "\n") end,
      function() return handled(1, 200) end)
    kafka.wait(function() return "the offsets; " .. table.concat(bus.lines, "\n") end, function()
      local known, found = pcall(kafka.group, group, first.address)
      if not known or found.coordinator ~= 1 then return false end
      if bus.config.delivery == "exactly_once" then return kafka.stats(bus, "lag") == 0 end
      local offsets = kafka.offsets(group, bus.config.topic_name, first.address)
      local ends = kafka.ends(bus.config.topic_name, first.address)
      return kafka.sum(offsets) == kafka.sum(ends)
    end)
    assert.is_true(bus:is_consuming())
    assert(bus:stop_consuming())
  end

  it("costs no event, and offsets are committed to the new one", function()
    local prefix = kafka.name("moved")
    local source = new_bus { topic_prefix = prefix }
    local bus = new_bus { topic_prefix = prefix, consumer_group = group_of_second() }
    local seen = {}
    bus:subscribe(ticks.Ticked, function(event) seen[event.number] = true end)
    run_through(bus, source, function(from, to)
      return ticks.has(seen, from, to)
    end)
  end)

  -- The results share the topic, with the marks that end their transactions: no offset of a record
  -- is the last one, but results are only read once they are committed together with the offsets.
  it("costs no result and doubles none, exactly once", function()
    local prefix = kafka.name("moved")
    local source = new_bus { topic_prefix = prefix }
    local bus = new_bus { topic_prefix = prefix, consumer_group = group_of_second(),
      delivery = "exactly_once" }
    bus:subscribe(ticks.Ticked, function(event)
      assert(bus:publish(ticks.Result { aggregate_id = event.aggregate_id, number = event.number }))
    end)
    run_through(bus, source, function(from, to)
      return ticks.has(ticks.results(source), from, to)
    end)
    local seen = ticks.results(source)
    for n = 1, 200 do assert.are.equal(1, seen[n], "result " .. n) end
  end)

  -- The cluster does without a broker that hangs after 9 s (broker.session.timeout.ms); a
  -- client sees no closed connection, only requests that are not answered.
  it("is found without the minute that librdkafka waits for an answer, if its broker hangs",
    function()
      local prefix = kafka.name("hung")
      local source = new_bus { topic_prefix = prefix }
      local bus = new_bus { topic_prefix = prefix, consumer_group = group_of_second() }
      local seen = {}
      bus:subscribe(ticks.Ticked, function(event) seen[event.number] = true end)
      kafka.consume(bus)
      ticks.publish(source, 1, 100)
      kafka.wait("the first events", function() return ticks.has(seen, 1, 100) end)
      second:signal "STOP"
      local begin = moonbus.now()
      ticks.publish(source, 101, 200)
      kafka.wait(function() return "the events; " .. table.concat(bus.lines, "\n") end,
        function() return ticks.has(seen, 101, 200) end)
      local group, topic = bus.config.consumer_group, bus.config.topic_name
      kafka.wait("the offsets", function()
        local known, offsets = pcall(kafka.offsets, group, topic, first.address)
        return known and kafka.sum(offsets) == 200
      end)
      assert.is_true(moonbus.now() - begin < 55)
      assert(bus:stop_consuming())
    end)
end)
