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

-- How often each n came out, as a reader of committed records sees it.
local function results(bus)
  local seen, count = {}, 0
  assert(bus:read({ timeout_ms = 30000 }, function(record)
    if record.headers.event_type ~= "Out" then return end
    local n = moonbus.json.decode(record.value).n
    seen[n] = (seen[n] or 0) + 1
    count = count + 1
  end))
  return seen, count
end

local function once_each(bus, count, but)
  local seen, total = results(bus)
  for n = 1, count do
    assert.are.equal(but and but[n] and 0 or 1, seen[n] or 0, "result " .. n)
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
    assert(bus:start_consuming { until_idle = 1, for_seconds = 60 })
    once_each(source, 600, { [250] = true })
    assert.are.equal(1, bus:get_dlq_message_count())
    assert.is_true(bus:get_stats_dict().transactions_aborted > 0)
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
    assert(bus:start_consuming { until_idle = 1, for_seconds = 60 })
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
        checked, seen_inside = true, results(source)[10]
      end
    end)
    assert(bus:start_consuming { until_idle = 1, for_seconds = 60 })
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
    local _, count = results(bus)
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
end)
