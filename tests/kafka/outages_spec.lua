-- Brokers that go away under load: on brokers of the spec's own.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"
local process = require "tests.support.process"

-- scripts/chaos has outages of many lengths; the whole minute is here on request.
local OUTAGE_SECONDS = tonumber(os.getenv "MOONBUS_TEST_OUTAGE_SECONDS") or 10
local LONG = OUTAGE_SECONDS + 80
local START = 180 -- what scripts/kafka gives a broker to start on a busy machine

local registry = moonbus.new_registry()
local Ticked = moonbus.event("Ticked", { aggregate_type = "Clock", number = "integer" },
  { registry = registry })
local Result = moonbus.event("Result", { aggregate_type = "Clock", number = "integer" },
  { registry = registry })

local broker

-- A connected bus that rides an outage out.
local function new_bus(options)
  local all = { event_registry = registry, bootstrap_servers = broker.address,
    delivery_timeout_ms = 1000 * (LONG + 60), reconnect_backoff_ms = 100,
    reconnect_backoff_max_ms = 500 }
  for key, value in pairs(options) do all[key] = value end
  return kafka.bus(all)
end

local number = 0

local function ticks(n, key)
  local events = {}
  for i = 1, n do
    number = number + 1
    events[i] = Ticked { aggregate_id = key or moonbus.uuid(), number = number }
  end
  return events
end

local function count_in(bus)
  local handled = {}
  bus:subscribe(Ticked, function(event)
    handled[event.number] = (handled[event.number] or 0) + 1
  end)
  return handled
end

local function missing(handled, from, to)
  local list = {}
  for n = from, to do
    if not handled[n] then list[#list + 1] = n end
  end
  return list
end

-- The numbers of the events of one type, as a reader of committed records sees them.
local function numbers(bus, event_type)
  local list = {}
  assert(bus:read({ timeout_ms = 30000 }, function(record)
    if record.headers.event_type ~= event_type then return end
    list[#list + 1] = moonbus.json.decode(record.value).number
  end))
  return list
end

local function once_each(list, from, to)
  local seen = {}
  for _, n in ipairs(list) do seen[n] = (seen[n] or 0) + 1 end
  for n = from, to do assert.are.equal(1, seen[n] or 0, "event " .. n) end
  assert.are.equal(to - from + 1, #list)
end

-- Publishes in the foreground, ten at a time, until its input ends; says how many are acknowledged.
local FOREGROUND = [[
local moonbus = require "moonbus"
local prefix, address, timeout = arg[1], arg[2], tonumber(arg[3])
local Ticked = moonbus.event("Ticked", { aggregate_type = "Clock", number = "integer" })
local bus = moonbus.bus { topic_prefix = prefix, bootstrap_servers = address, log_level = "error",
  delivery_timeout_ms = timeout, reconnect_backoff_ms = 100, reconnect_backoff_max_ms = 500 }
assert(bus:connect(60))
io.stdout:setvbuf "line"
local ffi = require "ffi"
ffi.cdef "typedef struct { int fd; short events, revents; } pfd;"
ffi.cdef "int poll(pfd *, unsigned long, int);"
local stdin = ffi.new("pfd[1]", { { 0, 1, 0 } })
local n = 1000000
while ffi.C.poll(stdin, 1, 20) == 0 do
  local events = {}
  for i = 1, 10 do events[i] = Ticked { aggregate_id = moonbus.uuid(), number = n + i } end
  assert(bus:publish(events))
  n = n + 10
  print("acknowledged " .. n)
end
assert(bus:disconnect())
]]

local function start_foreground(prefix)
  local path = kafka.write_file(kafka.temp_dir() .. "/foreground.lua", FOREGROUND)
  return process.start({ "luajit", path, prefix, broker.address,
    tostring(1000 * (LONG + 60)) }, { keep_open = true })
end

-- To let the buses of this spec run while another process is waited for.
local function acknowledged(foreground)
  foreground:observe(0.001)
  if foreground.ended then error("the publisher ended: " .. foreground.stderr) end
  local last
  for n in foreground.stdout:gmatch "acknowledged (%d+)\n" do last = n end
  return tonumber(last) or 0
end

kafka.describe("outages of Kafka:", function()
  setup(function()
    broker = kafka.broker {
      set = { "transaction.abort.timed.out.transaction.cleanup.interval.ms=500" },
    }
  end)
  before_each(function()
    broker:up()
    number = 0
  end)
  after_each(process.clean)

  it("what is published before, during and after a long one is handled, and stats are true",
    function()
      local prefix = kafka.name("away")
      local publisher = new_bus { topic_prefix = prefix }
      local consumer = new_bus { topic_prefix = prefix }
      local handled = count_in(consumer)
      kafka.consume(consumer)
      local foreground = start_foreground(prefix)
      local function publish(n)
        assert(publisher:publish(ticks(n), { background = true }))
      end
      publish(500)
      kafka.wait("the first events", function()
        return handled[500] and handled[1000010] and acknowledged(foreground)
      end)
      broker:down(true)
      local back = moonbus.now() + OUTAGE_SECONDS
      while moonbus.now() < back do
        publish(20)
        moonbus.sleep(0.1)
      end
      kafka.wait("the news", function()
        return kafka.logged(consumer, "no broker can be reached")
      end)
      assert.is_true(consumer:is_consuming())
      kafka.wait("all to be counted", function() -- queued is for a moment what else comes in, too
        local stats = publisher:get_stats_dict()
        return stats.events_published + stats.publish_queued == number
      end)
      local before = acknowledged(foreground)
      broker:up()
      kafka.wait("the foreground to go on", function()
        return acknowledged(foreground) > before + 10
      end, LONG)
      publish(500)
      assert(publisher:flush(LONG))
      foreground:close_input()
      assert.are.equal(0, foreground:wait().code, foreground.stderr)
      local last = tonumber(foreground.stdout:match "(%d+)\n$")
      kafka.wait(function()
        return ("%d and %d events; %s"):format(#missing(handled, 1, number),
          #missing(handled, 1000001, last), table.concat(consumer.lines, "\n"))
      end, function()
        return #missing(handled, 1, number) == 0 and #missing(handled, 1000001, last) == 0
      end, LONG)
      local stats = publisher:get_stats_dict()
      assert.are.equal(number, stats.events_published)
      assert.are.equal(0, stats.publish_errors)
      kafka.wait("an empty queue", function()
        return kafka.stats(publisher, "publish_queued") == 0
      end)
      stats = consumer:get_stats_dict()
      assert.is_true(stats.reconnections >= 1)
      assert.are.equal(0, stats.events_parked)
      assert.is_true(stats.events_processed_success >= number + last - 1000000)
      kafka.wait("no lag", function() return consumer:get_stats_dict().lag == 0 end)
    end)

  it("one producer's events stay in order and single, however often the broker dies", function()
    local key = moonbus.uuid()
    local bus = new_bus { linger_ms = 1, batch_size = 4000 } -- many requests in flight
    for _ = 1, 3 do
      assert(bus:publish(ticks(1000, key), { background = true }))
      broker:down(true)
      assert(bus:publish(ticks(300, key), { background = true }))
      broker:up()
    end
    assert(bus:flush(LONG))
    local found = numbers(bus, "Ticked")
    assert.are.equal(number, #found)
    for i, n in ipairs(found) do assert.are.equal(i, n) end
  end)

  it("offsets that cannot be committed at a stop cost a second run, no event", function()
    local prefix, group = kafka.name("uncommitted"), kafka.name("group")
    local options = { topic_prefix = prefix, consumer_group = group, commit_interval_ms = 3600000,
      shutdown_timeout = 2 }
    local bus = new_bus(options)
    local handled = count_in(bus)
    kafka.consume(bus)
    assert(bus:publish(ticks(50)))
    kafka.wait("the events", function() return #missing(handled, 1, 50) == 0 end)
    broker:down(true)
    local start = moonbus.now()
    bus:stop_consuming()
    kafka.wait("the stop", function() return not bus:is_consuming() end)
    assert.is_true(moonbus.now() - start < 25, "took " .. moonbus.now() - start)
    assert.is_truthy(kafka.logged(bus, "offset %d+ of partition %d not committed"),
      table.concat(bus.lines, "\n"))
    broker:up()
    kafka.wait("the group's coordinator", function()
      local answers, offsets = pcall(kafka.offsets, group, prefix .. ".stream", broker.address)
      if answers then assert.are.same({}, offsets) end
      return answers
    end)
    local again = new_bus(options)
    local second = count_in(again)
    kafka.consume(again)
    kafka.wait("the events again", function() return #missing(second, 1, 50) == 0 end)
    again:stop_consuming()
    kafka.wait("the stop", function() return not again:is_consuming() end)
    assert.are.equal(50, kafka.sum(kafka.offsets(group, prefix .. ".stream", broker.address)))
  end)

  it("a stop in the middle of a transaction does not wait for them longer than it may", function()
    local prefix = kafka.name("stopped")
    local bus = new_bus { topic_prefix = prefix, consumer_group = prefix, shutdown_timeout = 2,
      delivery = "exactly_once", transaction_interval_ms = 60000 }
    local runs = 0
    bus:subscribe(Ticked, function(event)
      runs = runs + 1
      if runs > 1 then return end
      broker:down(true)
      assert(bus:publish(Result { aggregate_id = event.aggregate_id, number = event.number }))
      bus:stop_consuming()
    end)
    assert(bus:publish(ticks(50, moonbus.uuid())))
    kafka.consume(bus)
    kafka.wait("the first event", function() return runs == 1 end)
    local start = moonbus.now()
    kafka.wait("the stop", function() return not bus:is_consuming() end)
    bus:disconnect()
    assert.is_true(moonbus.now() - start < 20, "took " .. moonbus.now() - start)
    assert.are.equal(1, runs)
    broker:up()
  end)

  it("partitions lost meanwhile are not committed, and are read again", function()
    local lost = {}
    local bus = new_bus { commit_interval_ms = 3600000,
      on_lost = function(partitions) lost = partitions end }
    local handled = count_in(bus)
    kafka.consume(bus)
    assert(bus:publish(ticks(50)))
    kafka.wait("the events", function() return #missing(handled, 1, 50) == 0 end)
    broker:down(true)
    kafka.wait("the loss", function() return #lost == 4 end)
    assert.are.equal(0, kafka.stats(bus, "assigned_count"))
    broker:up()
    kafka.wait("the events again", function()
      for n = 1, 50 do
        if handled[n] < 2 then return false end
      end
      return true
    end)
    assert(bus:publish(ticks(50)))
    kafka.wait("more events", function() return #missing(handled, 51, 100) == 0 end)
  end)

  it("exactly once, a transaction that an outage outlasts is undone and done again", function()
    local prefix = kafka.name("eos")
    local source = new_bus { topic_prefix = prefix }
    local bus = new_bus { topic_prefix = prefix, delivery = "exactly_once",
      transaction_timeout_ms = 2000, transaction_interval_ms = 60000 }
    local runs = {}
    bus:subscribe(Ticked, function(event)
      runs[event.number] = (runs[event.number] or 0) + 1
      assert(bus:publish(Result { aggregate_id = event.aggregate_id, number = event.number }))
      if event.number == 60 and runs[60] == 1 then
        bus:flush() -- the broker has all of it, and waits for the end
        broker:down(true)
        moonbus.sleep(3)
        broker:up()
      end
    end)
    kafka.consume(bus)
    assert(source:publish(ticks(60)))
    kafka.wait(function() return table.concat(bus.lines, "\n") end, function()
      return kafka.stats(bus, "transactions_committed") > 0 and #missing(runs, 1, 60) == 0
    end, START + LONG) -- the handler starts the broker meanwhile
    assert(source:publish(ticks(40)))
    kafka.wait("the rest", function() return #missing(runs, 61, 100) == 0 end, LONG)
    bus:stop_consuming()
    kafka.wait("the stop", function() return not bus:is_consuming() end)
    once_each(numbers(source, "Result"), 1, 100)
  end)

  it("exactly once, a handler slower than transaction_timeout_ms is logged, and run again",
    function()
      local prefix = kafka.name("slow")
      local source = new_bus { topic_prefix = prefix }
      local bus = new_bus { topic_prefix = prefix, delivery = "exactly_once",
        transaction_timeout_ms = 2000 }
      local runs = 0
      bus:subscribe(Ticked, function(event)
        runs = runs + 1
        assert(bus:publish(Result { aggregate_id = event.aggregate_id, number = event.number }))
        bus:flush()
        if runs == 1 then moonbus.sleep(4) end -- the broker looks each half second
      end)
      kafka.consume(bus)
      assert(source:publish(ticks(1)))
      kafka.wait(function() return table.concat(bus.lines, "\n") end, function()
        return runs >= 2 and kafka.stats(bus, "transactions_committed") > 0
      end, LONG)
      assert.is_truthy(kafka.logged(bus, "raise it"), table.concat(bus.lines, "\n"))
      bus:stop_consuming()
      kafka.wait("the stop", function() return not bus:is_consuming() end)
      once_each(numbers(source, "Result"), 1, 1)
    end)
end)
