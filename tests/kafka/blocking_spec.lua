-- Calls into librdkafka that do not return: a preloaded library (tests/support/blocking.c) holds
-- one of them until it may return. Events go on, exactly once, and stops are in time.
local kafka = require "tests.support.kafka"
local compiler = require "tests.support.compiler"
local ticks = require "tests.support.ticks"

local EVENTS = 50

-- Handles Ticked events and publishes a Result for each, until the program is stopped. The event
-- with the number FAIL fails once, after that.
local WORKER = [[
local moonbus = require "moonbus"
local Ticked = moonbus.event("Ticked", { aggregate_type = "Clock", number = "integer" })
local Result = moonbus.event("Result", { aggregate_type = "Clock", number = "integer" })
local bus = moonbus.bus { topic_prefix = os.getenv "PREFIX",
  bootstrap_servers = os.getenv "ADDRESS", consumer_group = os.getenv "GROUP",
  group_instance_id = os.getenv "INSTANCE", delivery = os.getenv "DELIVERY", shutdown_timeout = 3,
  transaction_timeout_ms = 3000, heartbeat_interval_ms = 100, session_timeout_ms = 6000,
  reconnect_backoff_ms = 100, reconnect_backoff_max_ms = 500, commit_interval_ms = 50 }
local fail = tonumber(os.getenv "FAIL")
bus:subscribe(Ticked, function(event)
  assert(bus:publish(Result { aggregate_id = event.aggregate_id, number = event.number }))
  if event.number == fail then
    fail = nil
    error "once"
  end
end)
]]

kafka.describe("a call into librdkafka that does not return", function()
  local library

  before_each(function()
    library = kafka.temp_dir() .. "/blocking.so"
    assert.equal(0, os.execute(("%s -shared -fPIC -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror "
      .. "-o %s %s -ldl"):format(compiler.program, kafka.quote(library),
      kafka.quote(kafka.source .. "/tests/support/blocking.c"))))
  end)

  local function exists(path)
    local file = io.open(path)
    if file then file:close() end
    return file ~= nil
  end

  local function block(worker, call)
    kafka.write_file(worker.file .. ".new", call)
    assert(os.rename(worker.file .. ".new", worker.file))
  end

  -- A worker in which a call, once it is armed, does not return. armed: one that is from the start.
  local function start(prefix, delivery, armed, more)
    local dir = kafka.temp_dir()
    local self = { file = dir .. "/block" }
    kafka.write_file(dir .. "/worker.lua", WORKER)
    if armed then block(self, armed) end
    local group = kafka.name "group"
    self.process = kafka.spawn { "env", "LD_PRELOAD=" .. library, "MB_BLOCK_FILE=" .. self.file,
      "PREFIX=" .. prefix, "ADDRESS=" .. kafka.address, "GROUP=" .. group,
      "INSTANCE=" .. (more and "" or group), -- supervised workers get ids of their own
      "DELIVERY=" .. delivery, "FAIL=" .. EVENTS + 10, kafka.build .. "/moonbus", "run",
      dir .. "/worker.lua", unpack(more or {}) }
    return self
  end

  local function wait_blocked(worker)
    kafka.wait(function() return "the call; " .. worker.process:errors() end,
      function() return exists(worker.file .. ".now") end)
  end

  local function wait_results(worker, source, to)
    kafka.wait(function() return "results; " .. worker.process:errors() end, function()
      return ticks.has(ticks.results(source), 1, to)
    end, 120)
  end

  for _, call in ipairs { "rd_kafka_send_offsets_to_transaction", "rd_kafka_begin_transaction",
    "rd_kafka_commit_transaction", "rd_kafka_abort_transaction" } do
    it(call .. ": results come once, by another producer", function()
      local prefix = kafka.name "blocking"
      local source = kafka.bus { topic_prefix = prefix, event_registry = ticks.registry }
      local worker = start(prefix, "exactly_once")
      ticks.publish(source, 1, EVENTS)
      wait_results(worker, source, EVENTS)
      block(worker, call)
      ticks.publish(source, EVENTS + 1, 2 * EVENTS)
      wait_blocked(worker)
      wait_results(worker, source, 2 * EVENTS)
      os.remove(worker.file .. ".now") -- what was given up goes on, and must not count
      ticks.publish(source, 2 * EVENTS + 1, 3 * EVENTS)
      wait_results(worker, source, 3 * EVENTS)
      local seen = ticks.results(source)
      for n = 1, 3 * EVENTS do assert.equal(1, seen[n], "result " .. n) end
      worker.process:kill(15)
      worker.process:wait_end()
    end)
  end

  for _, case in ipairs {
    { "rd_kafka_send_offsets_to_transaction", "exactly_once" },
    { "rd_kafka_commit_transaction", "exactly_once" },
    { "rd_kafka_destroy_flags", "exactly_once" },
    { "rd_kafka_destroy_flags", "at_least_once" },
  } do
    local call, delivery = unpack(case)
    it(("%s, %s: SIGTERM ends the process all the same"):format(call, delivery), function()
      local prefix = kafka.name "blocking"
      local source = kafka.bus { topic_prefix = prefix, event_registry = ticks.registry }
      local worker = start(prefix, delivery)
      ticks.publish(source, 1, EVENTS)
      wait_results(worker, source, EVENTS)
      block(worker, call)
      if call ~= "rd_kafka_destroy_flags" then
        ticks.publish(source, EVENTS + 1, EVENTS + 1)
        wait_blocked(worker)
      end
      worker.process:kill(15)
      worker.process:wait_end(30) -- 4 s, on a machine that is busy; without an end it blocks
      assert.is_true(exists(worker.file .. ".now"))
    end)
  end

  for _, call in ipairs { "rd_kafka_metadata", "rd_kafka_init_transactions" } do
    it(call .. " at the start: SIGTERM ends the process, and the next start works", function()
      local prefix = kafka.name "blocking"
      local source = kafka.bus { topic_prefix = prefix, event_registry = ticks.registry }
      ticks.publish(source, 1, EVENTS)
      local worker = start(prefix, "exactly_once", call)
      wait_blocked(worker)
      worker.process:kill(15)
      worker.process:wait_end(30)
      assert.is_true(exists(worker.file .. ".now"))
      wait_results(start(prefix, "exactly_once"), source, EVENTS)
    end)
  end

  it("in one of two supervised workers: SIGTERM ends them all", function()
    local prefix = kafka.name "blocking"
    local source = kafka.bus { topic_prefix = prefix, event_registry = ticks.registry }
    local worker = start(prefix, "exactly_once", nil, { "--workers", "2" })
    ticks.publish(source, 1, EVENTS)
    wait_results(worker, source, EVENTS)
    block(worker, "rd_kafka_commit_transaction")
    ticks.publish(source, EVENTS + 1, 2 * EVENTS)
    wait_blocked(worker)
    worker.process:kill(15)
    worker.process:wait_end(60)
    assert.is_true(exists(worker.file .. ".now"))
  end)
end)
