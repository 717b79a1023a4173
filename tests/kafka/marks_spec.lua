-- What is settled past the committed offset, on a real Kafka: whoever has the partition next runs
-- only what is left.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"

local registry = moonbus.new_registry()
local Counted = moonbus.event("Counted", { aggregate_type = "Counter", number = "integer" },
  { registry = registry })

local function new_bus(options)
  options.event_registry = registry
  options.max_retries = 5
  options.retry_base_delay, options.retry_max_delay = 600, 600
  options.commit_interval_ms = options.commit_interval_ms or 50
  return kafka.bus(options)
end

-- n events, each of a key of its own, but for those that share the key of the one whose number is
-- `first`.
local function make_events(n, first, same)
  local events = {}
  for i = 1, n do
    local key = same and same[i] and events[first].aggregate_id or moonbus.uuid()
    events[i] = Counted { aggregate_id = key, number = i }
  end
  return events
end

-- Handle events but the failing ones: calls by number, those handled in their order.
local function handle(bus, seen, failing)
  bus:subscribe(Counted, function(event)
    seen.calls[event.number] = (seen.calls[event.number] or 0) + 1
    if failing[event.number] then error "not yet" end
    seen.order[#seen.order + 1] = event.number
  end)
end

local function new_seen() return { calls = {}, order = {} } end

local function wait_handled(seen, n)
  kafka.wait(function() return ("%d handled, got %d"):format(n, #seen.order) end,
    function() return #seen.order >= n end)
end

local function one_partition()
  local prefix, group = kafka.name("marks"), kafka.name("group")
  kafka.create(prefix .. ".stream", 1)
  return { topic_prefix = prefix, consumer_group = group }, prefix .. ".stream", group
end

local function copy(options)
  local all = {}
  for key, value in pairs(options) do all[key] = value end
  return all
end

kafka.describe("events settled past the committed offset", function()
  it("do not run again after a restart; what waited does, in the order of its key", function()
    local options, topic, group = one_partition()
    local events = make_events(30, 8, { [11] = true, [25] = true })
    local seen = new_seen()
    local first = new_bus(copy(options))
    handle(first, seen, { [8] = true, [20] = true })
    assert(first:publish(events))
    kafka.consume(first, 1)
    wait_handled(seen, 26)
    assert(first:disconnect())
    assert.are.equal(7, kafka.offsets(group, topic)[0])
    assert.is_truthy(kafka.notes(group, topic)[0]:match " 7 1 2 1 8 1 4 1 5$")

    local again = new_seen()
    local second = new_bus(copy(options))
    handle(second, again, {})
    kafka.consume(second, 1)
    wait_handled(again, 4)
    kafka.wait("the end", function() return second.native:is_idle() end)
    table.sort(again.order, function(a, b) -- 20 has a key of its own: its place is anywhere
      return (a == 20 and 1000 or a) < (b == 20 and 1000 or b)
    end)
    assert.are.same({ 8, 11, 25, 20 }, again.order)
    assert(second:disconnect())
    assert.are.equal(30, kafka.offsets(group, topic)[0])
    assert.are.equal("", kafka.notes(group, topic)[0])
  end)

  it("do not run again when partitions change hands", function()
    local options = { topic_prefix = kafka.name("marks"), consumer_group = kafka.name("group") }
    local events, failing = make_events(80), {}
    for i = 1, 80, 20 do failing[i] = true end
    local seen = new_seen()
    local a, b = new_bus(copy(options)), new_bus(copy(options))
    handle(a, seen, failing)
    handle(b, seen, failing)
    kafka.consume(a)
    assert(a:publish(events))
    wait_handled(seen, 76)
    assert(b:start_consuming_in_background())
    kafka.wait("two partitions each", function()
      return kafka.stats(a, "assigned_count") == 2 and kafka.stats(b, "assigned_count") == 2
    end)
    kafka.wait("the waiting ones to fail once more", function()
      for number in pairs(failing) do if seen.calls[number] ~= 2 then return false end end
      return true
    end)
    kafka.wait("the end", function()
      return kafka.stats(a, "events_parked") + kafka.stats(b, "events_parked") == 4
    end)
    assert.are.equal(76, #seen.order)
    for number, calls in pairs(seen.calls) do
      assert.are.equal(failing[number] and 2 or 1, calls)
    end
  end)

  it("run again as far as nothing was committed before a kill -9", function()
    local options, topic, group = one_partition()
    local script = kafka.write_file(kafka.temp_dir() .. "/script.lua", ([[
      local moonbus = require "moonbus"
      io.stdout:setvbuf "no"
      local Counted = moonbus.event("Counted", { aggregate_type = "Counter", number = "integer" })
      local bus = moonbus.bus { bootstrap_servers = %q, topic_prefix = %q, consumer_group = %q,
        session_timeout_ms = 6000, heartbeat_interval_ms = 100, commit_interval_ms = 50,
        retry_base_delay = 600, retry_max_delay = 600 }
      bus:subscribe(Counted, function(event)
        if event.number == 3 then error "not yet" end
        io.stdout:write(event.number, "\n")
      end)
    ]]):format(kafka.address, options.topic_prefix, options.consumer_group))
    local publisher = new_bus { topic_prefix = options.topic_prefix }
    assert(publisher:publish(make_events(40)))
    local process = kafka.spawn { kafka.build .. "/moonbus", "run", script }
    kafka.wait("39 of 40", function()
      local _, lines = process:output():gsub("\n", "")
      return lines == 39
    end)
    kafka.wait(function() return "the marks, got " .. tostring(kafka.notes(group, topic)[0]) end,
      function() return (kafka.notes(group, topic)[0] or ""):match " 2 1 37$" end)
    process:kill()
    process:wait_end()
    local again = new_seen()
    local bus = new_bus(copy(options))
    handle(bus, again, {})
    kafka.consume(bus, 1)
    wait_handled(again, 1)
    kafka.wait("the end", function() return bus.native:is_idle() end)
    assert.are.same({ 3 }, again.order)
  end)

  it("are believed only of the offset and the cluster they were noted for", function()
    for _, text in ipairs { "mb1 elsewhere 0 0 10", "garbage", "mb1", "\195\169", "" } do
      local options, topic, group = one_partition()
      local bus = new_bus(copy(options))
      assert(bus:publish(make_events(10)))
      kafka.commit(group, topic, 0, 0, text)
      local seen = new_seen()
      handle(bus, seen, {})
      kafka.consume(bus, 1)
      wait_handled(seen, 10)
    end
  end)

  it("are forgotten when somebody sets the group back", function()
    local options, topic, group = one_partition()
    local seen = new_seen()
    local bus = new_bus(copy(options))
    handle(bus, seen, { [2] = true })
    assert(bus:publish(make_events(10)))
    kafka.consume(bus, 1)
    wait_handled(seen, 9)
    assert(bus:stop_consuming())
    local text = kafka.notes(group, topic)[0]
    assert.is_truthy(text:match " 1 1 8$")
    kafka.commit(group, topic, 0, 0, text)
    kafka.consume(bus, 1)
    wait_handled(seen, 18)
    assert.are.equal(2, seen.calls[1])
    assert.are.equal(2, seen.calls[10])
  end)

  describe("are forgotten when the topic is recreated under a running", function()
    local broker, prefix, group, topic

    local function make_topic() kafka.create(topic, 1, nil, broker.address) end

    -- n events of the new topic, by a bus of their own: a producer knows the old one.
    local function recreate(n)
      kafka.delete(topic, broker.address)
      make_topic()
      local more = {}
      for i = 1, n do more[i] = Counted { aggregate_id = moonbus.uuid(), number = 100 + i } end
      local bus = new_bus { topic_prefix = prefix, bootstrap_servers = broker.address }
      assert(bus:publish(more))
    end

    local function wait_committed(offset)
      kafka.wait(function() return "the commit, got " ..
        tostring(kafka.offsets(group, topic, broker.address)[0]) end,
        function() return kafka.offsets(group, topic, broker.address)[0] == offset end)
    end

    before_each(function()
      broker = kafka.broker { set = { "auto.create.topics.enable=false" } }
      prefix, group = kafka.name("marks"), kafka.name("group")
      topic = prefix .. ".stream"
      make_topic()
      kafka.create(topic .. ".dlq", 1, nil, broker.address)
    end)

    it("bus; what waits of the old one holds up no commit", function()
      local seen = new_seen()
      local bus = new_bus { topic_prefix = prefix, consumer_group = group,
        bootstrap_servers = broker.address }
      handle(bus, seen, { [8] = true, [103] = true })
      assert(bus:publish(make_events(10)))
      kafka.consume(bus, 1)
      wait_handled(seen, 9)
      kafka.wait("the marks", function()
        return (kafka.notes(group, topic, broker.address)[0] or ""):match " 7 1 2$"
      end)
      recreate(6)
      wait_handled(seen, 14)
      for i = 1, 6 do assert.are.equal(1, seen.calls[100 + i]) end
      assert.are.equal(2, kafka.stats(bus, "events_parked")) -- the one of the old topic still waits
      wait_committed(2)
      assert.is_truthy(kafka.notes(group, topic, broker.address)[0]:match " 2 1 3$")
    end)

    it("worker that has events of the old one in hand", function()
      local dir = kafka.temp_dir()
      local script = kafka.write_file(dir .. "/script.lua", ([[
        local moonbus = require "moonbus"
        io.stdout:setvbuf "no"
        local Counted = moonbus.event("Counted", { aggregate_type = "Counter", number = "integer" })
        local bus = moonbus.bus { bootstrap_servers = %q, topic_prefix = %q, consumer_group = %q,
          session_timeout_ms = 6000, heartbeat_interval_ms = 100, commit_interval_ms = 50,
          concurrency = 2 }
        bus:subscribe(Counted, function(event)
          if event.number < 3 then io.stdout:write "begun\n" end
          while event.number < 3 and not io.open(%q) do moonbus.sleep(0.05) end
          io.stdout:write(event.number, "\n")
        end)
      ]]):format(broker.address, prefix, group, dir .. "/go"))
      local bus = new_bus { topic_prefix = prefix, bootstrap_servers = broker.address }
      assert(bus:publish(make_events(40)))
      local process = kafka.spawn { kafka.build .. "/moonbus", "run", script, "--workers", "1" }
      kafka.wait("as many as may run", function() return process:output() == "begun\nbegun\n" end)
      recreate(6)
      kafka.wait(function() return "the new topic, got " .. process:errors() end,
        function() return process:errors():find("created again", 1, true) end)
      kafka.write_file(dir .. "/go", "")
      kafka.wait(function() return "the last event, got " .. process:output() end, function()
        return process:output():match "106\n"
      end)
      for i = 1, 6 do assert.is_truthy(process:output():find(("\n%d\n"):format(100 + i))) end
      wait_committed(6)
    end)
  end)

  it("run again where the broker takes no notes, and commits go on", function()
    local broker = kafka.broker { set = { "offset.metadata.max.bytes=8" } }
    local prefix, group = kafka.name("marks"), kafka.name("group")
    local topic = prefix .. ".stream"
    kafka.create(topic, 1, nil, broker.address)
    local options = { topic_prefix = prefix, consumer_group = group,
      bootstrap_servers = broker.address }
    local seen = new_seen()
    local bus = new_bus(copy(options))
    handle(bus, seen, { [5] = true })
    assert(bus:publish(make_events(10)))
    kafka.consume(bus, 1)
    wait_handled(seen, 9)
    kafka.wait("the commit", function()
      return kafka.offsets(group, topic, broker.address)[0] == 4
    end)
    assert.is_truthy(kafka.logged(bus, "offset.metadata.max.bytes"))
    assert(bus:disconnect())
    assert.are.equal(4, kafka.offsets(group, topic, broker.address)[0])
    local again = new_seen()
    local second = new_bus(copy(options))
    handle(second, again, {})
    kafka.consume(second, 1)
    wait_handled(again, 6)
    assert.are.equal(6, #again.order)
    assert(second:disconnect())
  end)
end)
