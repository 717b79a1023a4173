local moonbus = require "moonbus"
local support = require "tests.support.bus"
local wait = require "tests.support.wait"

local registry = moonbus.new_registry()
local Placed = moonbus.event("Placed", { aggregate_type = "Order", n = "integer" },
  { registry = registry })

local bus

local function placed(n) return Placed { aggregate_id = support.uuid(n % 3), n = n } end

setup(function()
  bus = support.bus { event_registry = registry, max_retries = 2 }
end)

teardown(support.close)

after_each(function() bus:clear_subscribers() end)

local ISO = "^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.?%d*%+00:00$"

-- The counters that are not 0, as text.
local function counts(stats)
  local list = {}
  for _, key in ipairs { "events_published", "events_consumed", "events_processed_success",
    "events_processed_failed", "messages_sent_to_dlq", "handler_errors", "reconnections",
    "publish_errors", "retries", "events_skipped", "events_dropped" } do
    if stats[key] ~= 0 then list[#list + 1] = key .. "=" .. stats[key] end
  end
  return table.concat(list, " ")
end

describe("the counters of a bus", function()
  it("are the tutorial's, and a few more", function() -- 37 47
    local stats = bus:get_stats_dict()
    for _, key in ipairs { "events_published", "events_consumed", "events_processed_success",
      "events_processed_failed", "messages_sent_to_dlq", "handler_errors", "reconnections",
      "rebalance_count" } do
      assert.equal(0, stats[key], key)
      stats[key] = nil
    end
    for _, key in ipairs { "last_publish_at", "last_consume_at", "last_error_at" } do
      assert.equal(moonbus.null, stats[key], key)
      stats[key] = nil
    end
    assert.matches(ISO, stats.connected_at)
    assert.equal("green", stats.health)
    stats.connected_at, stats.health = nil, nil
    for key, value in pairs(stats) do
      assert.equal("string", type(key))
      assert.equal("number", type(value), key)
    end
  end)

  it("are a copy each time", function()
    bus:get_stats_dict().events_published = 99
    assert.equal(0, bus:get_stats_dict().events_published)
  end)

  it("know nothing of the lag before partitions are assigned", function()
    assert.equal(-1, bus:get_stats_dict().lag)
    assert.equal(0, bus:get_stats_dict().assigned_count)
  end)

  it("count what is published, event by event", function() -- 42 47
    bus:publish { placed(1), placed(2), placed(3) }
    bus:publish(placed(4))
    bus:publish({ placed(5), placed(6) }, { background = true })
    assert.is_true(bus:flush())
    local stats = bus:get_stats_dict()
    assert.equal("events_published=6", counts(stats))
    assert.matches(ISO, stats.last_publish_at)
    assert(moonbus.epoch(stats.last_publish_at) >= moonbus.epoch(stats.connected_at))
    assert(math.abs(moonbus.epoch(stats.last_publish_at) - os.time()) < 30)
  end)

  it("do not count what is refused", function() -- 18
    pcall(bus.publish, bus, { placed(1), { event_type = "Wrong" } })
    assert.equal("events_published=6", counts(bus:get_stats_dict()))
  end)

  it("count what is consumed: handled, retried, dead, skipped", function() -- 44 47
    local runs = {}
    bus:subscribe(Placed, function(event)
      runs[event.n] = (runs[event.n] or 0) + 1
      if event.n == 2 and runs[2] == 1 then error "once" end
      if event.n == 3 then error "always" end
    end)
    bus:publish { event_type = "Other", aggregate_id = support.uuid(1), aggregate_type = "A" }
    support.consume(bus)
    wait.settled(bus, 7)
    local stats = bus:get_stats_dict()
    assert.equal("events_published=7 events_consumed=7 events_processed_success=5 "
      .. "events_processed_failed=4 messages_sent_to_dlq=1 handler_errors=4 retries=3 "
      .. "events_skipped=1", counts(stats))
    assert.equal(1, stats.rebalance_count)
    assert.equal(4, stats.assigned_count)
    assert.matches(ISO, stats.last_consume_at)
    assert.matches(ISO, stats.last_error_at)
    assert.equal(0, stats.events_parked)
    assert.equal(0, stats.publish_queued)
  end)

  it("count each handler's failure, and each run of the event", function() -- 39
    local before = bus:get_stats_dict()
    for _ = 1, 3 do bus:subscribe(Placed, function() error "broken" end) end
    bus:subscribe(Placed, function() end)
    bus:publish(placed(1))
    wait.settled(bus, before.events_consumed + 1)
    local after = bus:get_stats_dict()
    assert.equal(9, after.handler_errors - before.handler_errors)
    assert.equal(3, after.events_processed_failed - before.events_processed_failed)
    assert.equal(2, after.retries - before.retries)
    assert.equal(1, after.messages_sent_to_dlq - before.messages_sent_to_dlq)
    assert.equal(0, after.events_processed_success - before.events_processed_success)
  end)

  it("know how far behind the bus is", function()
    bus:subscribe(Placed, function() end)
    wait.till(function() return bus:get_stats_dict().lag == 0 end,
      function() return "a lag of 0; it is " .. bus:get_stats_dict().lag end)
    local worst = 0
    bus:clear_subscribers()
    bus:subscribe(Placed, function()
      worst = math.max(worst, bus:get_stats_dict().lag)
    end)
    local events = {}
    for n = 1, 200 do events[n] = placed(n) end
    local before = bus:get_stats_dict().events_consumed
    bus:publish(events)
    wait.settled(bus, before + 200)
    assert(worst > 0, "the lag never rose")
    wait.till(function() return bus:get_stats_dict().lag == 0 end,
      function() return "a lag of 0; it is " .. bus:get_stats_dict().lag end)
  end)

  it("count the events that are parked, while they are", function()
    local fail = true
    bus:subscribe(Placed, function() if fail then error "later" end end)
    local before = bus:get_stats_dict()
    bus:publish { placed(3), placed(6), placed(9) }
    wait.till(function() return bus:get_stats_dict().events_parked == 3 end, "3 parked")
    assert(bus:get_stats_dict().lag >= 3)
    fail = false
    wait.settled(bus, before.events_consumed + 3)
    assert.equal(0, bus:get_stats_dict().events_parked)
  end)

  it("stay after stopping and disconnecting; the connection's time goes", function()
    local before = bus:get_stats_dict()
    bus:disconnect()
    local after = bus:get_stats_dict()
    assert.equal(before.events_published, after.events_published)
    assert.equal(before.events_consumed, after.events_consumed)
    assert.equal(moonbus.null, after.connected_at)
    assert.equal(0, after.assigned_count)
    assert.equal(-1, after.lag)
  end)
end)

describe("metrics", function()
  it("have the tutorial's names, and say what happened", function() -- 37 39 40
    local one = support.bus { event_registry = registry, retry_base_delay = 0.01 }
    local runs = 0
    one:subscribe(Placed, function()
      runs = runs + 1
      if runs == 1 then error "once" end
      local begin = moonbus.now()
      while moonbus.now() - begin < 0.005 do runs = runs + 0 end
    end)
    one:subscribe_to_all_events(function() end)
    local before = one:get_metrics()
    assert.equal(1, before["kafka.eventbus.connections.active"].value)
    assert.equal(0, before["kafka.eventbus.handler.duration"].count)
    assert.equal(0, before["kafka.eventbus.handler.duration"].max)
    support.consume(one)
    assert(one:publish { placed(1), placed(2), placed(3) })
    wait.settled(one, 3)
    local metrics, names = one:get_metrics(), {}
    for name, metric in pairs(metrics) do
      names[#names + 1] = name:gsub("^kafka%.eventbus%.", "") .. " " .. metric.kind .. " "
        .. metric.unit
    end
    table.sort(names)
    assert.same({
      "batch.size histogram messages", "connections.active gauge connections",
      "consume.duration histogram ms", "consumer.lag gauge messages",
      "handler.duration histogram ms", "handler.errors counter errors",
      "handler.invocations counter invocations", "messages.consumed counter messages",
      "messages.dlq counter messages", "messages.published counter messages",
      "publish.duration histogram ms", "publish.errors counter errors",
      "rebalances counter rebalances", "reconnections counter reconnections",
    }, names)
    local function value(name) return metrics["kafka.eventbus." .. name].value end
    local function histogram(name) return metrics["kafka.eventbus." .. name] end
    assert.equal(3, value "messages.published")
    assert.equal(6, value "handler.invocations")
    assert.equal(1, value "handler.errors")
    assert.equal(1, value "rebalances")
    assert.equal(4, histogram("handler.duration").count)
    assert.equal(4, histogram("consume.duration").count)
    assert.equal(1, histogram("batch.size").count)
    assert.equal(3, histogram("batch.size").p99)
    assert.equal(1, histogram("publish.duration").count)
    local took = histogram "handler.duration"
    assert.is_true(took.sum >= 15 and took.max >= 5, took.sum .. " " .. took.max)
    assert.is_true(took.p50 >= 5 * 7 / 8 and took.p50 <= took.p95 and took.p95 <= took.p99
      and took.p99 <= took.max, took.p50 .. " " .. took.max)
    assert.is_true(histogram("consume.duration").sum >= took.sum)
    for _, lag in pairs(metrics["kafka.eventbus.consumer.lag"].partitions) do
      assert.equal(0, lag)
    end
    one:disconnect()
    assert.equal(0, one:get_metrics()["kafka.eventbus.connections.active"].value)
  end)
end)

describe("a bus without metrics and traces", function()
  it("works, and keeps its counters", function() -- 38 50
    local one = support.bus { event_registry = registry, enable_metrics = false,
      enable_tracing = false }
    local got = 0
    one:subscribe(Placed, function() got = got + 1 end)
    support.consume(one)
    assert(one:publish { placed(1), placed(2) })
    wait.settled(one, 2)
    assert.equal(2, got)
    assert.is_nil(one:get_metrics())
    assert.equal("events_published=2 events_consumed=2 events_processed_success=2",
      counts(one:get_stats_dict()))
  end)
end)

describe("topic information", function()
  it("has the tutorial's keys", function() -- 35 47
    local one = support.bus { event_registry = registry, partitions = 3 }
    assert.same({ topic = one.config.topic_name, partitions = 3, connected = true,
      consumer_group = one.config.consumer_group, consuming = false }, one:get_topic_info())
    support.consume(one)
    assert.is_true(one:get_topic_info().consuming)
  end)
end)
