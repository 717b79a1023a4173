-- Brokers that die and leave others to take their place: on a cluster of three nodes of the spec's
-- own, where the node dies that leads a partition, coordinates the group or its transactions.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"
local ticks = require "tests.support.ticks"

local SECONDS = 240 -- three nodes on two processors, beside other tests
local KEY = "00000000-0000-4000-8000-000000000001"

kafka.describe("a cluster of three brokers", function()
  local cluster

  -- What the brokers say there is; nil while they do not.
  local function metadata()
    local known, text = pcall(kafka.run, { "kcat", "-L", "-J", "-m", "5", "-b", cluster.address })
    return known and moonbus.json.decode((text)) or nil
  end

  local function in_sync()
    local found = metadata()
    if not found or #found.brokers ~= 3 then return false end
    for _, topic in ipairs(found.topics) do
      for _, part in ipairs(topic.partitions) do
        if #part.isrs ~= 3 or part.leader < 1 then return false end
      end
    end
    return true
  end

  local function leader_of(name, number)
    for _, topic in ipairs(metadata().topics) do
      for _, part in ipairs(topic.topic == name and topic.partitions or {}) do
        if part.partition == number then return part.leader end
      end
    end
  end

  setup(function() cluster = kafka.broker { brokers = 3 } end)

  before_each(function()
    cluster:up()
    kafka.wait("three copies of everything", in_sync, SECONDS)
  end)

  local function new_bus(options)
    local all = { event_registry = ticks.registry, delivery_timeout_ms = SECONDS * 1000,
      bootstrap_servers = cluster.address, reconnect_backoff_ms = 100,
      reconnect_backoff_max_ms = 500, commit_interval_ms = 100 }
    for key, value in pairs(options) do all[key] = value end
    return kafka.bus(all)
  end

  -- A bus to publish on, and one that handles what is published.
  local function new_buses(delivery)
    local prefix = kafka.name("cluster")
    return new_bus { topic_prefix = prefix }, new_bus { topic_prefix = prefix, delivery = delivery }
  end

  -- Of one key, so that all are in one partition.
  local function publish(bus, from, to)
    local events = {}
    for n = from, to do
      events[#events + 1] = ticks.Ticked { aggregate_id = KEY, number = n }
    end
    assert(bus:publish(events))
  end

  local function partition_of_events(bus)
    for number, offset in pairs(kafka.ends(bus.config.topic_name, cluster.address)) do
      if offset > 0 then return number end
    end
  end

  local function wait_for(bus, what, condition)
    kafka.wait(function() return what .. "; " .. table.concat(bus.lines, "\n") end, condition,
      SECONDS)
  end

  -- The numbers of the events handled by the bus, each when it was handled for the first time.
  local function handle(bus)
    local seen, order = {}, {}
    bus:subscribe(ticks.Ticked, function(event)
      if not seen[event.number] then order[#order + 1] = event.number end
      seen[event.number] = true
    end)
    kafka.consume(bus)
    return seen, order
  end

  local function assert_in_order(order, count)
    assert.are.equal(count, #order)
    for n = 1, count do assert.are.equal(n, order[n]) end
  end

  it("loses no event and keeps their order when the leader of a partition dies", function()
    local source, bus = new_buses()
    local seen, order = handle(bus)
    publish(source, 1, 100)
    wait_for(bus, "the first events", function() return ticks.has(seen, 1, 100) end)
    local topic, number = bus.config.topic_name, partition_of_events(bus)
    local leader = leader_of(topic, number)
    cluster:kill_nodes(leader)
    publish(source, 101, 200)
    wait_for(bus, "the other events", function() return ticks.has(seen, 1, 200) end)
    assert_in_order(order, 200)
    assert.are_not.equal(leader, leader_of(topic, number))
    assert.is_true(bus:is_consuming())
    assert(bus:stop_consuming())
  end)

  it("loses no result and doubles none when the coordinator dies, exactly once", function()
    local source, bus = new_buses("exactly_once")
    bus:subscribe(ticks.Ticked, function(event)
      assert(bus:publish(ticks.Result { aggregate_id = event.aggregate_id, number = event.number }))
    end)
    kafka.consume(bus)
    local function results(count)
      return function() return ticks.has(ticks.results(source), 1, count) end
    end
    publish(source, 1, 100)
    wait_for(bus, "the first results", results(100))
    local group = bus.config.consumer_group
    local coordinator = kafka.group(group, cluster.address).coordinator
    cluster:kill_nodes(coordinator)
    publish(source, 101, 200)
    wait_for(bus, "the other results", results(200))
    local seen = ticks.results(source)
    for n = 1, 200 do assert.are.equal(1, seen[n], "result " .. n) end
    assert.are_not.equal(coordinator, kafka.group(group, cluster.address).coordinator)
    assert.is_true(bus:is_consuming())
    assert(bus:stop_consuming())
  end)

  it("that lost two of them takes events again when they are back", function()
    local source, bus = new_buses()
    local seen, order = handle(bus)
    publish(source, 1, 100)
    wait_for(bus, "the first events", function() return ticks.has(seen, 1, 100) end)
    cluster:kill_nodes("1,3")
    local coming = cluster:start_nodes("1,3", true)
    publish(source, 101, 200)
    wait_for(bus, "the other events", function() return ticks.has(seen, 1, 200) end)
    coming:wait_end(SECONDS)
    assert_in_order(order, 200)
    assert.is_true(bus:is_consuming())
    assert(bus:stop_consuming())
  end)
end)
