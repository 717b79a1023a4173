-- Health and lag while a broker is there but does not answer, and while a partition has no leader:
-- on two brokers of the spec's own, with topics that have one partition on each of them.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"
local ticks = require "tests.support.ticks"

kafka.describe("a partition that no broker answers for", function()
  local first, second

  setup(function()
    first = kafka.broker()
    second = kafka.broker { join = first }
  end)

  after_each(function()
    first:signal "CONT"
    pcall(second.signal, second, "CONT") -- unless it is down
    second:up()
  end)

  -- The reason with that code whose text has every piece in it.
  local function reason_of(bus, code, ...)
    local health = bus:get_health()
    for _, reason in ipairs(health.reasons) do
      local fits = reason.code == code
      for _, piece in ipairs { ... } do fits = fits and reason.text:find(piece, 1, true) end
      if fits then
        assert.are.equal("red", health.status)
        return reason
      end
    end
  end

  local function wait_for_reason(bus, code, ...)
    local pieces = { ... }
    return kafka.wait(function()
      return ("%s; it is %s\n%s"):format(code, moonbus.json.encode(bus:get_health()),
        table.concat(bus.lines, "\n"))
    end, function() return reason_of(bus, code, unpack(pieces)) end)
  end

  local function becomes_green(bus)
    kafka.wait(function() return "green; it is " .. moonbus.json.encode(bus:get_health()) end,
      function() return bus:get_health().status == "green" end)
  end

  local function lag_of(bus, partition)
    return bus:get_metrics()["kafka.eventbus.consumer.lag"].partitions[partition]
  end

  local function new_bus(prefix, options)
    local all = { event_registry = ticks.registry, topic_prefix = prefix,
      bootstrap_servers = first.address .. "," .. second.address, reconnect_backoff_ms = 100,
      reconnect_backoff_max_ms = 500, commit_interval_ms = 100, shutdown_timeout = 3 }
    for key, value in pairs(options or {}) do all[key] = value end
    return kafka.new_bus(all)
  end

  -- The name of a group that this broker coordinates, 1 or 2.
  local function group_of(number)
    return kafka.wait("a group that broker " .. number .. " coordinates", function()
      local name = kafka.name("group")
      local known, found = pcall(kafka.group, name, first.address)
      return known and found.coordinator == number and name
    end)
  end

  -- A bus that has read its topic to the end, and one that publishes there.
  local function start(brokers)
    local prefix, seen = kafka.name "answers", {}
    local bus, source = new_bus(prefix, { consumer_group = group_of(1) }), new_bus(prefix)
    kafka.place(bus.config.topic_name, brokers, first.address)
    assert(bus:connect(60))
    assert(source:connect(60))
    bus:subscribe(ticks.Ticked, function(event) seen[event.number] = true end)
    kafka.consume(bus, #brokers)
    ticks.publish(source, 1, 40)
    kafka.wait("the events", function() return ticks.has(seen, 1, 40) end)
    kafka.wait("no lag", function() return kafka.stats(bus, "lag") == 0 end)
    becomes_green(bus)
    return bus, source, seen
  end

  local function publish_in_background(source, from, to)
    local events = {}
    for n = from, to do
      events[#events + 1] = ticks.Ticked { aggregate_id = moonbus.uuid(), number = n }
    end
    assert(source:publish(events, { background = true }))
  end

  it("is reported while the broker is stopped, to consumers and to publishers", function()
    local bus, source, seen = start { 1 }
    first:signal "STOP"
    publish_in_background(source, 41, 80)
    local reason = wait_for_reason(bus, "no_answer", "no answer from broker 1, the leader of "
      .. bus.config.topic_name .. "[0], for ")
    assert.are.equal(0, reason.partition)
    assert.are.equal(-1, kafka.stats(bus, "lag"))
    assert.is_nil(lag_of(bus, 0)) -- not known
    wait_for_reason(source, "no_answer", "events wait to be published")
    first:signal "CONT"
    becomes_green(bus)
    becomes_green(source)
    kafka.wait("the events", function() return ticks.has(seen, 41, 80) end)
    kafka.wait("no lag", function() return kafka.stats(bus, "lag") == 0 end)
  end)

  it("is reported while it has no leader; consumption of the other one goes on", function()
    local bus, source, seen = start { 1, 2 }
    second:down(true)
    local reason = wait_for_reason(bus, "no_leader", bus.config.topic_name
      .. "[1] has had no leader for ")
    assert.are.equal(1, reason.partition)
    assert.are.equal(-1, kafka.stats(bus, "lag"))
    assert.is_nil(lag_of(bus, 1))
    assert.are.equal(0, lag_of(bus, 0))
    publish_in_background(source, 41, 80)
    wait_for_reason(source, "no_leader")
    kafka.wait("some of the events", function()
      for n = 41, 80 do
        if seen[n] then return true end
      end
    end)
    second:up()
    becomes_green(bus)
    becomes_green(source)
    kafka.wait("the events", function() return ticks.has(seen, 41, 80) end)
    kafka.wait("no lag", function() return kafka.stats(bus, "lag") == 0 end)
  end)

  it("is reported for the group's coordinator, by a commit without an answer", function()
    local group = group_of(2)
    local prefix, seen = kafka.name "answers", {}
    -- a session so long that the group does not miss the member
    local bus = new_bus(prefix, { consumer_group = group, session_timeout_ms = 60000 })
    local source = new_bus(prefix)
    kafka.place(bus.config.topic_name, { 1 }, first.address)
    assert(bus:connect(60))
    assert(source:connect(60))
    bus:subscribe(ticks.Ticked, function(event) seen[event.number] = true end)
    kafka.consume(bus, 1)
    ticks.publish(source, 1, 20)
    kafka.wait("the offsets", function()
      return kafka.sum(kafka.offsets(group, bus.config.topic_name, first.address)) == 20
    end)
    becomes_green(bus)
    second:signal "STOP"
    ticks.publish(source, 21, 40)
    kafka.wait("the events", function() return ticks.has(seen, 1, 40) end)
    kafka.wait(function() return moonbus.json.encode(bus:get_health()) end, function()
      return reason_of(bus, "no_answer", group) or reason_of(bus, "commits_refused", group)
    end)
    second:signal "CONT"
    becomes_green(bus)
    kafka.wait("the offsets", function()
      return kafka.sum(kafka.offsets(group, bus.config.topic_name, first.address)) == 40
    end)
  end)
end)
