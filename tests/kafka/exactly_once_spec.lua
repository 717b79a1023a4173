--- delivery = "exactly_once" on a real Kafka: what handlers publish is there once, or not at all.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"

local registry = moonbus.new_registry()
local In = moonbus.event("In", { aggregate_type = "A", n = "integer" }, { registry = registry })
local Out = moonbus.event("Out", { aggregate_type = "A", n = "integer" }, { registry = registry })

local function new_bus(prefix, options)
  local all = { event_registry = registry, topic_prefix = prefix, consumer_group = prefix,
    retry_base_delay = 0.02, retry_max_delay = 0.1 }
  for key, value in pairs(options or {}) do all[key] = value end
  return kafka.bus(all)
end

local function feed(bus, count)
  local events = {}
  for i = 1, count do events[i] = In { aggregate_id = moonbus.uuid(), n = i } end
  assert(bus:publish(events))
end

-- worker: the bus that made the results; its log tells why one is missing.
local function once_each(bus, count, but, worker)
  local seen, total = kafka.outputs(bus)
  for n = 1, count do
    local expected = but and but[n] and 0 or 1
    if (seen[n] or 0) ~= expected then
      assert.are.equal(expected, seen[n] or 0,
        ("result %d\n%s"):format(n, table.concat(worker and worker.lines or {}, "\n")))
    end
  end
  return total
end

kafka.describe("exactly once on Kafka:", function()
  it("every event's result is there once, whatever failed after publishing", function()
    local prefix = kafka.name "eos"
    local source = new_bus(prefix)
    feed(source, 600)
    local bus = new_bus(prefix, { delivery = "exactly_once", max_retries = 3 })
    local runs = {}
    bus:subscribe(In, function(event)
      assert(bus:publish(Out { aggregate_id = event.aggregate_id, n = event.n }))
      runs[event.n] = (runs[event.n] or 0) + 1
      if event.n % 100 == 0 and runs[event.n] < 3 then error "after publishing" end
      if event.n == 250 then error "always" end
    end)
    assert(bus:start_consuming { until_idle = 1, for_seconds = 90 })
    once_each(source, 600, { [250] = true }, bus)
    assert.are.equal(1, bus:get_dlq_message_count())
    assert.is_true(bus:get_stats_dict().transactions_aborted > 0)
  end)

  it("several that fail at once keep count of their attempts, and end as dead letters", function()
    local prefix = kafka.name "eos"
    local source = new_bus(prefix)
    feed(source, 80)
    local bus = new_bus(prefix, { delivery = "exactly_once", max_retries = 3 })
    local runs, dead = {}, {}
    for n = 10, 80, 10 do dead[n] = true end
    bus:subscribe(In, function(event)
      runs[event.n] = (runs[event.n] or 0) + 1
      assert(bus:publish(Out { aggregate_id = event.aggregate_id, n = event.n }))
      if dead[event.n] then error "always" end
    end)
    assert(bus:start_consuming { until_idle = 1, for_seconds = 90 })
    once_each(source, 80, dead, bus)
    assert.are.equal(8, bus:get_dlq_message_count())
    for n in pairs(dead) do assert.are.equal(4, runs[n], "runs of " .. n) end
  end)

  it("an event that waits for its retry holds up its key alone; nothing is made twice", function()
    local prefix = kafka.name "eos"
    kafka.create(prefix .. ".stream", 1)
    local source = new_bus(prefix)
    local events, key = {}, moonbus.uuid()
    for n = 1, 60 do
      events[n] = In { aggregate_id = n % 20 == 5 and key or moonbus.uuid(), n = n }
    end
    assert(source:publish(events))
    local function start(retry_delay)
      local bus = new_bus(prefix, { delivery = "exactly_once", retry_base_delay = retry_delay,
        retry_max_delay = retry_delay, max_retries = 100 })
      local seen = { runs = {} }
      bus:subscribe(In, function(event)
        seen.runs[event.n] = (seen.runs[event.n] or 0) + 1
        assert(bus:publish(Out { aggregate_id = event.aggregate_id, n = event.n }))
        if event.n == 5 and retry_delay > 1 then error "after publishing" end
      end)
      assert(bus:start_consuming_in_background())
      return bus, seen
    end
    local first, seen = start(600)
    kafka.wait("the others' results", function()
      local _, count = kafka.outputs(source)
      return count == 57
    end)
    assert.are.equal(1, seen.runs[5])
    assert.is_nil(seen.runs[25])
    assert.are.equal(3, kafka.stats(first, "events_parked"))
    assert(first:disconnect())
    assert.is_true(kafka.offsets(prefix, prefix .. ".stream")[0] <= 5)

    local second, again = start(0.02)
    kafka.wait("the rest", function()
      local _, count = kafka.outputs(source)
      return count >= 60 and second.native:is_idle()
    end)
    assert.are.same({ [5] = 1, [25] = 1, [45] = 1 }, again.runs)
    assert.are.equal(60, once_each(source, 60))
  end)

  it("no more events wait than their marks find room; the partition waits then", function()
    local prefix = kafka.name "eos"
    kafka.create(prefix .. ".stream", 1)
    local source = new_bus(prefix)
    feed(source, 1500)
    local bus = new_bus(prefix, { delivery = "exactly_once", max_retries = 1000 })
    local shut, most = true, 0
    bus:subscribe(In, function(event)
      most = math.max(most, kafka.stats(bus, "events_parked"))
      if shut and event.n % 2 == 0 then error "not yet" end
      assert(bus:publish(Out { aggregate_id = event.aggregate_id, n = event.n }))
    end)
    kafka.consume(bus, 1)
    kafka.wait("the pause", function() return kafka.logged(bus, "partition 0 paused") end)
    shut = false
    kafka.wait("the end", function()
      return kafka.stats(bus, "events_processed_success") >= 1500 and bus.native:is_idle()
    end)
    assert.is_true(most <= 100, most .. " waited")
    assert.are.equal(1500, once_each(source, 1500))
  end)

  it("where the broker takes no marks, the whole partition waits for a retry", function()
    local broker = kafka.broker { set = { "offset.metadata.max.bytes=8" } }
    local prefix = kafka.name "eos"
    kafka.create(prefix .. ".stream", 1, nil, broker.address)
    local source = new_bus(prefix, { bootstrap_servers = broker.address })
    feed(source, 60)
    local bus = new_bus(prefix, { bootstrap_servers = broker.address, delivery = "exactly_once",
      retry_base_delay = 0.5, retry_max_delay = 0.5 })
    local runs = {}
    bus:subscribe(In, function(event)
      runs[event.n] = (runs[event.n] or 0) + 1
      if event.n == 5 and runs[5] < 3 then error "twice" end
      assert(bus:publish(Out { aggregate_id = event.aggregate_id, n = event.n }))
    end)
    assert(bus:start_consuming { until_idle = 1, for_seconds = 90 })
    assert.is_truthy(kafka.logged(bus, "offset.metadata.max.bytes"))
    assert.are.equal(60, once_each(source, 60))
  end)

  it("a dead letter that its topic does not take whole goes as a pointer", function()
    local prefix = kafka.name "eos"
    kafka.create(prefix .. ".stream.dlq", 1, { "max.message.bytes=4000" })
    local source = new_bus(prefix)
    local Big = moonbus.event("Big", { aggregate_type = "A", text = "string" },
      { registry = moonbus.new_registry() })
    local noise = {}
    for i = 1, 10000 do noise[i] = string.char(math.random(97, 122)) end
    assert(source:publish(Big { aggregate_id = moonbus.uuid(), text = table.concat(noise) }))
    feed(source, 10)
    local bus = new_bus(prefix, { delivery = "exactly_once", max_retries = 1 })
    bus:subscribe("Big", function() error "always" end)
    bus:subscribe(In, function(event)
      assert(bus:publish(Out { aggregate_id = event.aggregate_id, n = event.n }))
    end)
    assert(bus:start_consuming { until_idle = 1, for_seconds = 90 })
    local letters = assert(bus:get_dlq_messages())
    assert.are.equal(1, #letters)
    assert.is_truthy(letters[1].headers.dlq_value_omitted_bytes)
    once_each(source, 10)
  end)

  it("consumption that stops at what cannot be decoded undoes what its event published", function()
    local prefix = kafka.name "eos"
    local source = new_bus(prefix)
    local bus = new_bus(prefix, { delivery = "exactly_once", on_undecodable = "stop" })
    local Other = moonbus.event("In", { aggregate_type = "A", n = "string" },
      { registry = moonbus.new_registry() })
    feed(source, 1)
    bus:subscribe("In", function(event)
      assert(bus:publish(Out { aggregate_id = event.aggregate_id, n = 1 }))
    end)
    bus:subscribe(Other, function() end)
    local ok, _, code = bus:start_consuming { until_idle = 1, for_seconds = 90 }
    assert.is_nil(ok)
    assert.are.equal("EDECODE", code)
    local _, count = kafka.outputs(source)
    assert.are.equal(0, count)
    assert.are.equal(0, source:get_dlq_message_count())
  end)

  it("a handler that fails before it publishes undoes nothing", function()
    local prefix = kafka.name "eos"
    local source = new_bus(prefix)
    feed(source, 50)
    local bus = new_bus(prefix, { delivery = "exactly_once" })
    local failed
    bus:subscribe(In, function(event)
      if event.n == 20 and not failed then
        failed = true
        error "before publishing"
      end
      assert(bus:publish(Out { aggregate_id = event.aggregate_id, n = event.n }))
    end)
    assert(bus:start_consuming { until_idle = 1, for_seconds = 90 })
    once_each(source, 50)
    assert.are.equal(0, bus:get_stats_dict().transactions_aborted)
  end)

  it("what was published in a transaction that is not committed is not seen", function()
    local prefix = kafka.name "eos"
    local source = new_bus(prefix)
    feed(source, 10)
    local bus = new_bus(prefix, { delivery = "exactly_once", transaction_interval_ms = 60000 })
    local checked, seen_inside = false, nil
    bus:subscribe(In, function(event)
      assert(bus:publish(Out { aggregate_id = event.aggregate_id, n = event.n }))
      if event.n == 10 then
        bus:flush()
        checked, seen_inside = true, kafka.outputs(source)[10]
      end
    end)
    assert(bus:start_consuming { until_idle = 1, for_seconds = 90 })
    assert.is_true(checked)
    assert.is_nil(seen_inside)
    once_each(source, 10)
  end)

  it("a publish outside handlers is a transaction of its own", function()
    local prefix = kafka.name "eos"
    local bus = new_bus(prefix, { delivery = "exactly_once" })
    local receipt = assert(bus:publish {
      Out { aggregate_id = moonbus.uuid(), n = 1 }, Out { aggregate_id = moonbus.uuid(), n = 2 },
    })
    assert.are.equal(2, receipt.count)
    local _, count = kafka.outputs(bus)
    assert.are.equal(2, count)
  end)

  it("a second producer of the same name ends the first", function()
    local prefix = kafka.name "eos"
    local options = { delivery = "exactly_once", transactional_id = prefix }
    local first = new_bus(prefix, options)
    feed(first, 1)
    local second = new_bus(prefix, options)
    feed(second, 1)
    local receipt, why = first:publish { In { aggregate_id = moonbus.uuid(), n = 2 } }
    assert.is_nil(receipt)
    assert.is_string(why)
  end)

  it("a producer that was ended in the middle of a transaction starts again when it reconnects",
    function()
      local prefix = kafka.name "eos"
      local options = { delivery = "exactly_once", transactional_id = prefix,
        transaction_interval_ms = 60000 }
      local first = new_bus(prefix, options)
      local runs = 0
      first:subscribe(In, function(event)
        runs = runs + 1
        if runs > 1 then return end
        assert(first:publish(Out { aggregate_id = event.aggregate_id, n = event.n }))
        assert(first:flush(30))
        assert(new_bus(prefix, options):publish(Out { aggregate_id = event.aggregate_id, n = 100 }))
        first:stop_consuming()
      end)
      local source, key, events = new_bus(prefix), moonbus.uuid(), {}
      for i = 1, 20 do events[i] = In { aggregate_id = key, n = i } end
      assert(source:publish(events))
      kafka.consume(first)
      kafka.wait("the stop", function() return runs == 1 and not first:is_consuming() end)
      first:disconnect()
      assert(first:connect())
      assert(first:publish { Out { aggregate_id = key, n = 101 } })
      local seen = kafka.outputs(source)
      assert.are.same({ [100] = 1, [101] = 1 }, seen)
    end)
end)
