-- Order per key through retries and crashes, on a real Kafka.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"

local KEYS, EVENTS = 5, 40

local registry = moonbus.new_registry()
local Moved = moonbus.event("Moved", { aggregate_type = "Piece", number = "integer" },
  { registry = registry })

local function new_bus(options)
  options.event_registry = registry
  return kafka.bus(options)
end

-- 5 keys x 40 events, taking turns; and the number of each key.
local function make_events()
  local events, keys, index = {}, {}, {}
  for k = 1, KEYS do
    keys[k] = moonbus.uuid()
    index[keys[k]] = k
  end
  for n = 1, EVENTS do
    for k = 1, KEYS do events[#events + 1] = Moved { aggregate_id = keys[k], number = n } end
  end
  return events, index
end

-- Every key's attempts, in order, are 1, 1, 2, 3, 3, 3, ... to the last: never back, none left out.
local function assert_in_order(attempts, what)
  for k = 1, KEYS do
    local last = 0
    for _, n in ipairs(attempts[k]) do
      assert.is_true(n == last or n == last + 1,
        ("%s: key %d: %d after %d"):format(what, k, n, last))
      last = n
    end
    assert.are.equal(EVENTS, last)
  end
end

kafka.describe("retries on Kafka:", function()
  it("a key whose events fail at random keeps its order, others go on [33, 46]", function()
    local seed = os.time()
    math.randomseed(seed)
    local bus = new_bus { topic_prefix = kafka.name("order"), max_retries = 50,
      retry_base_delay = 0.02, retry_max_delay = 0.05 }
    local events, index = make_events()
    local attempts, handled, calls, failures = {}, {}, 0, 0
    for k = 1, KEYS do attempts[k], handled[k] = {}, {} end
    local healthy_done_at, flaky_done_at = 0, 0
    bus:subscribe(Moved, function(event, context)
      local k = index[event.aggregate_id]
      calls = calls + 1
      attempts[k][#attempts[k] + 1] = event.number
      if k <= 2 and context.attempt <= 3 and math.random() < 0.5 then
        failures = failures + 1
        error("at random")
      end
      handled[k][#handled[k] + 1] = event.number
      if k <= 2 then flaky_done_at = calls else healthy_done_at = calls end
    end)
    kafka.consume(bus)
    assert(bus:publish(events))
    kafka.wait(function()
      return ("the last event; seed %d, %d failures"):format(seed, failures)
    end, function() return kafka.stats(bus, "events_processed_success") == #events end)
    assert_in_order(attempts, "seed " .. seed)
    for k = 1, KEYS do
      for n = 1, EVENTS do assert.are.equal(n, handled[k][n]) end
      assert.are.equal(EVENTS, #handled[k])
    end
    assert.is_true(failures > 10)
    assert.is_true(healthy_done_at < flaky_done_at, "the others waited")
    local stats = bus:get_stats_dict()
    assert.are.equal(#events, stats.events_consumed)
    assert.are.equal(failures, stats.retries)
    assert.are.equal(failures, stats.handler_errors)
    assert.are.equal(0, stats.messages_sent_to_dlq)
    assert.are.equal(0, stats.events_parked)
    assert.are.equal(#events, kafka.sum(kafka.ends(bus.config.topic_name)), "nothing republished")
  end)

  it("of one partition let the other keys pass, and hold only their own", function()
    local prefix = kafka.name("lanes")
    kafka.create(prefix .. ".stream", 1)
    local bus = new_bus { topic_prefix = prefix, max_retries = 3, retry_base_delay = 2,
      retry_max_delay = 2, retry_jitter = 0 }
    local events, index = make_events()
    local order, failed_at, again_at = {}, nil, nil
    bus:subscribe(Moved, function(event)
      local k = index[event.aggregate_id]
      if k == 1 and event.number == 1 and not failed_at then
        failed_at = moonbus.now()
        error("once")
      end
      if k == 1 and event.number == 1 then again_at = moonbus.now() end
      order[#order + 1] = { k, event.number }
    end)
    assert(bus:publish(events))
    kafka.consume(bus, 1)
    kafka.wait("all events", function() return #order == #events end)
    assert.is_true(again_at - failed_at >= 1.99, "retried after " .. again_at - failed_at)
    for i, each in ipairs(order) do
      local held = i > EVENTS * (KEYS - 1)
      assert.are.equal(held, each[1] == 1)
      if held then assert.are.equal(i - EVENTS * (KEYS - 1), each[2]) end
    end
  end)

  it("with retry_scope=partition hold the whole partition", function()
    local prefix = kafka.name("scope")
    kafka.create(prefix .. ".stream", 1)
    local bus = new_bus { topic_prefix = prefix, max_retries = 3, retry_base_delay = 0.1,
      retry_scope = "partition" }
    local events = make_events()
    local got, failed = {}, {}
    bus:subscribe(Moved, function(event)
      if event.number % 13 == 0 and not failed[event.event_id] then
        failed[event.event_id] = true
        error("once")
      end
      got[#got + 1] = event.event_id
    end)
    assert(bus:publish(events))
    kafka.consume(bus, 1)
    kafka.wait("all events", function() return #got == #events end)
    for i, event in ipairs(events) do assert.are.equal(event.event_id, got[i]) end
  end)

  for option, bound in pairs { retry_parked_max = 10, retry_parked_max_kbytes = 5 } do
    it("beyond " .. option .. " pause the partition and lose nothing", function()
      local prefix = kafka.name("pause")
      kafka.create(prefix .. ".stream", 1)
      local bus = new_bus { topic_prefix = prefix, max_retries = 1000, retry_base_delay = 0.05,
        retry_max_delay = 0.05, [option] = bound }
      local events, index = make_events()
      local attempts, open, most = {}, false, 0
      for k = 1, KEYS do attempts[k] = {} end
      bus:subscribe(Moved, function(event)
        local k = index[event.aggregate_id]
        attempts[k][#attempts[k] + 1] = event.number
        most = math.max(most, kafka.stats(bus, "events_parked"))
        if k <= 2 and not open then error("closed") end
      end)
      assert(bus:publish(events))
      kafka.consume(bus, 1)
      kafka.wait("the pause", function() return kafka.logged(bus, "partition 0 paused") end)
      open = true
      kafka.wait("all events", function()
        return kafka.stats(bus, "events_processed_success") == #events
      end)
      assert_in_order(attempts, "paused")
      assert.is_truthy(kafka.logged(bus, "partition 0 resumed"))
      -- what was fetched before the pause may be parked as well, but not the rest of the topic
      assert.is_true(most < #events / 2, most .. " parked at once")
      assert.are.equal(#events, kafka.stats(bus, "events_consumed"))
    end)
  end

  it("survive kill -9: every event is handled, each key in order", function()
    local prefix, group = kafka.name("crash"), kafka.name("group")
    local dir = kafka.temp_dir()
    local events, index = make_events()
    assert(new_bus({ topic_prefix = prefix }):publish(events))
    local script = kafka.write_file(dir .. "/worker.lua", [[
      local moonbus = require "moonbus"
      local address, prefix, group, log = unpack(arg)
      local Moved = moonbus.event("Moved", { aggregate_type = "Piece", number = "integer" })
      local bus = moonbus.bus { bootstrap_servers = address, topic_prefix = prefix,
        consumer_group = group, session_timeout_ms = 2000, heartbeat_interval_ms = 200,
        commit_interval_events = 10, max_retries = 50, retry_base_delay = 0.02,
        retry_max_delay = 0.05 }
      local out = assert(io.open(log, "a"))
      out:setvbuf("no")
      local flaky = {}
      math.randomseed(os.time())
      bus:subscribe(Moved, function(event, context)
        local first = event.aggregate_id:sub(1, 1)
        flaky[first] = flaky[first] or math.random() < 0.4
        if flaky[first] and context.attempt <= 3 and math.random() < 0.5 then error("random") end
        out:write(("%s %d\n"):format(event.aggregate_id, event.number))
        moonbus.sleep(0.005)
      end)
      assert(bus:connect(60))
      assert(bus:start_consuming())
    ]])
    local logs, distinct = {}, {}
    local function read_logs()
      local lines, count = {}, 0
      distinct = {}
      for _, path in ipairs(logs) do
        local file = io.open(path)
        for line in file and file:lines() or function() end do
          local key, n = line:match("^(%x+%-%x+%-%x+%-%x+%-%x+) (%d+)$")
          if key then
            lines[#lines + 1] = { index[key], tonumber(n) }
            if not distinct[key .. n] then
              distinct[key .. n] = true
              count = count + 1
            end
          end
        end
        if file then file:close() end
      end
      return lines, count
    end
    local function start()
      logs[#logs + 1] = ("%s/log%d"):format(dir, #logs + 1)
      return kafka.spawn { "luajit", script, kafka.address, prefix, group, logs[#logs] }
    end
    local worker = start()
    for _, goal in ipairs { 40, 110 } do
      kafka.wait(function() return goal .. " events; " .. worker:errors() end,
        function() return select(2, read_logs()) >= goal end)
      worker:kill(9)
      worker:wait_end()
      worker = start()
    end
    kafka.wait(function()
      return ("all events, %d so far; %s"):format(select(2, read_logs()), worker:errors())
    end, function() return select(2, read_logs()) == #events end)
    local highest = {}
    for _, line in ipairs(read_logs()) do
      local k, n = line[1], line[2]
      local before = highest[k] or 0
      assert.is_true(n <= before + 1, ("key %d: %d handled after %d"):format(k, n, before))
      highest[k] = math.max(before, n)
    end
    for k = 1, KEYS do assert.are.equal(EVENTS, highest[k]) end
    worker:kill(15)
  end)
end)
