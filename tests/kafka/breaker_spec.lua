--- A flood of dead letters on a real Kafka: in transactions, for whoever gets the partition next,
-- and when it kills workers.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"

local registry = moonbus.new_registry()
local In = moonbus.event("In", { aggregate_type = "A", n = "integer" }, { registry = registry })
local Out = moonbus.event("Out", { aggregate_type = "A", n = "integer" }, { registry = registry })

-- An aggregate whose events go to that of two partitions.
local function aggregate(partition)
  while true do
    local id = moonbus.uuid()
    if moonbus.partition_of(id, 2) == partition then return id end
  end
end

local function feed(bus, from, to, id)
  local events = {}
  for n = from, to do events[#events + 1] = In { aggregate_id = id or moonbus.uuid(), n = n } end
  assert(bus:publish(events))
end

local function new_bus(prefix, options)
  local all = { event_registry = registry, topic_prefix = prefix, consumer_group = prefix,
    max_retries = 0, dlq_breaker_run = 10, dlq_breaker_pause_ms = 200 }
  for key, value in pairs(options or {}) do all[key] = value end
  return kafka.bus(all)
end

-- How often each n came out.
local function results(bus, count)
  local seen, list = kafka.outputs(bus), {}
  for n = 1, count do list[n] = seen[n] or 0 end
  return list
end

local function opened(bus)
  kafka.wait(function() return "the breaker: " .. moonbus.json.encode(bus:get_stats_dict()) end,
    function() return kafka.stats(bus, "breakers_open") == 1 end)
end

-- 1 for each n up to count, but 0 for those from first to last
local function once_but(count, first, last)
  local list = {}
  for n = 1, count do list[n] = (n < first or n > last) and 1 or 0 end
  return list
end

kafka.describe("a flood of dead letters on Kafka,", function()
  for _, publishes in ipairs { true, false } do
    local when = publishes and "after it published" or "before it publishes"
    it("exactly once, of a handler that fails " .. when .. ", loses no result", function()
      local prefix = kafka.name "eos-breaker"
      kafka.create(prefix .. ".stream", 2)
      local source = new_bus(prefix)
      feed(source, 1, 100, aggregate(0))
      local bus = new_bus(prefix, { delivery = "exactly_once", max_retries = 1 })
      local runs, broken = {}, true
      bus:subscribe(In, function(event)
        runs[event.n] = (runs[event.n] or 0) + 1
        local fails = broken and event.n > 20 and event.n <= 100
        if fails and not publishes then error "before publishing" end
        assert(bus:publish(Out { aggregate_id = event.aggregate_id, n = event.n }))
        if fails then error "after publishing" end
      end)
      kafka.consume(bus, 2)
      opened(bus)
      kafka.wait("tries of the event held back", function() return (runs[31] or 0) >= 5 end)
      assert.is_nil(runs[32])
      assert.are.equal(10, bus:get_dlq_message_count())
      assert.are.equal("breaker_open", bus:get_health().reasons[1].code)
      -- the other partition goes on, and its aborted transactions do not move the one held back
      local failed = {}
      bus:subscribe(In, function(event)
        if event.n == 150 and not failed[150] then
          failed[150] = true
          error "once"
        end
      end)
      feed(source, 101, 200, aggregate(1))
      kafka.wait("the other partition's events", function() return runs[200] end)
      kafka.wait("their transaction", function()
        return results(source, 200)[200] == 1
      end)
      assert.is_nil(runs[32])
      assert.are.equal(1, kafka.stats(bus, "breakers_open"))
      assert.are.equal(10, bus:get_dlq_message_count())
      broken = false
      kafka.wait("the rest", function() return runs[100] end)
      kafka.wait("their results", function() return results(source, 200)[100] == 1 end)
      assert.are.same(once_but(200, 21, 30), results(source, 200))
      assert.are.equal(10, bus:get_dlq_message_count())
      assert.are.equal(0, kafka.stats(bus, "breakers_open"))
    end)
  end

  it("is released by hand in exactly once, too", function()
    local prefix = kafka.name "eos-breaker"
    kafka.create(prefix .. ".stream", 1)
    local bus = new_bus(prefix, { delivery = "exactly_once", dlq_breaker_pause_ms = 600000 })
    feed(bus, 1, 25)
    bus:subscribe(In, function(event)
      assert(bus:publish(Out { aggregate_id = event.aggregate_id, n = event.n }))
      error "always"
    end)
    kafka.consume(bus, 1)
    for i = 1, 2 do
      opened(bus)
      kafka.wait("ten dead letters", function() return bus:get_dlq_message_count() == i * 10 end)
      assert.are.equal(1, bus:reset_breaker())
    end
    kafka.wait("all of them", function() return bus:get_dlq_message_count() == 25 end)
    assert.are.same(once_but(25, 1, 25), results(bus, 25))
    assert.are.equal("green", bus:get_health().status)
  end)

  it("leaves the offset in front of what is held back, for whoever gets the partition", function()
    local prefix = kafka.name "breaker"
    kafka.create(prefix .. ".stream", 1)
    local bus = new_bus(prefix, { dlq_breaker_pause_ms = 600000, commit_interval_ms = 10 })
    feed(bus, 1, 50)
    bus:subscribe(In, function() error "always" end)
    kafka.consume(bus, 1)
    opened(bus)
    kafka.wait("the offset", function()
      return kafka.offsets(prefix, prefix .. ".stream")[0] == 10
    end)
    bus:disconnect()
    assert.are.equal(10, kafka.offsets(prefix, prefix .. ".stream")[0])
    local heir, seen = new_bus(prefix), {}
    heir:subscribe(In, function(event) seen[#seen + 1] = event.n end)
    assert(heir:start_consuming { until_idle = 0.5, for_seconds = 90 })
    assert.are.equal(40, #seen)
    assert.are.equal(11, seen[1])
    assert.are.equal(10, heir:get_dlq_message_count())
  end)

  it("goes on over the deaths of workers, and ends --until-idle with its exit code", function()
    local prefix = kafka.name "breaker"
    kafka.create(prefix .. ".stream", 1)
    local source = new_bus(prefix)
    feed(source, 1, 8)
    local script = tmp.file("crash.lua", [[
local moonbus = require "moonbus"
local ffi = require "ffi"
ffi.cdef "int getpid(void); int kill(int pid, int number);"
local bus = moonbus.bus { max_retries = 0, dlq_breaker_run = 3, session_timeout_ms = 6000,
  heartbeat_interval_ms = 100 }
bus:subscribe("In", function(event)
  print("run " .. event.n)
  ffi.C.kill(ffi.C.getpid(), 9)
end)
]])
    local run = process.run(process.moonbus("run", script, "--workers", "1", "--until-idle", "1",
      "--bootstrap-servers", kafka.address, "--topic-prefix", prefix, "--consumer-group", prefix),
      { timeout = 120 })
    process.clean()
    tmp.clean()
    assert.are.equal(7, run.code, run.stderr)
    assert.are.equal("run 1\nrun 2\nrun 3\nrun 4\n", run.stdout, run.stderr)
    assert.are.equal(3, source:get_dlq_message_count())
    assert.is_truthy(run.stderr:find("EBREAKER: all is handled but what is held up in partition 0",
      1, true), run.stderr)
    assert.is_truthy(run.stderr:find("worker 1 is red", 1, true), run.stderr)
  end)
end)
