-- Handlers that wait side by side, on a real Kafka: workers that die, partitions that move, inboxes
-- that are full for long.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"

local registry = moonbus.new_registry()
local Counted = moonbus.event("Counted", { aggregate_type = "Counter", number = "integer" },
  { registry = registry })

local function new_bus(options)
  options.event_registry = registry
  options.concurrency = options.concurrency or 32
  options.commit_interval_ms = 50
  return kafka.bus(options)
end

local function uuid(number) return ("00000000-0000-4000-8000-%012d"):format(number) end

local function make_events(count, keys)
  local events = {}
  for n = 1, count do events[n] = Counted { aggregate_id = uuid(n % keys), number = n } end
  return events
end

local function group_of(partitions)
  local options = { topic_prefix = kafka.name("concur"), consumer_group = kafka.name("group") }
  kafka.create(options.topic_prefix .. ".stream", partitions)
  return options, options.topic_prefix .. ".stream", options.consumer_group
end

local function copy(options, more)
  local all = {}
  for key, value in pairs(options) do all[key] = value end
  for key, value in pairs(more or {}) do all[key] = value end
  return all
end

-- A script that prints each begin and end of a handler; body: what the handler does.
local function write_script(options, body)
  return kafka.write_file(kafka.temp_dir() .. "/script.lua", ([[
    local ffi = require "ffi"
    local moonbus = require "moonbus"
    ffi.cdef "int getpid(void); int kill(int pid, int signal);"
    io.stdout:setvbuf "no"
    math.randomseed(moonbus.now() * 1000)
    local Counted = moonbus.event("Counted", { aggregate_type = "Counter", number = "integer" })
    local bus = moonbus.bus { bootstrap_servers = %q, topic_prefix = %q, consumer_group = %q,
      session_timeout_ms = 6000, heartbeat_interval_ms = 100, commit_interval_ms = 50,
      retry_base_delay = 0.01, retry_max_delay = 0.1, max_retries = 1, concurrency = 32 }
    bus:subscribe(Counted, function(event)
      local number = event.number
      io.stdout:write(("begin %%d\n"):format(number))
      %s
      io.stdout:write(("end %%d\n"):format(number))
    end)
  ]]):format(kafka.address, options.topic_prefix, options.consumer_group, body))
end

local function wait_shared(...)
  for _, bus in ipairs { ... } do
    kafka.wait("two partitions each", function()
      return kafka.stats(bus, "assigned_count") == 2
    end)
  end
end

local function count_of(text, what)
  local _, count = text:gsub(what, "")
  return count
end

-- Read what lives printed: each begins an event of a key only after those before it have ended in
-- some life, and no two of a key run at once. Which events ended.
local function check_order(lives, keys)
  local ended, over = {}, {}
  for i, text in ipairs(lives) do
    local running = {}
    for what, number in text:gmatch "(%a+) (%d+)\n" do
      local n = tonumber(number)
      local key = n % keys
      if what == "begin" then
        assert(not running[key], ("life %d: %d begins while %s runs"):format(i, n,
          tostring(running[key])))
        for before = n - keys, 1, -keys do
          assert(ended[before], ("life %d: %d begins, %d never ended"):format(i, n, before))
        end
        running[key] = n
      else
        ended[n], running[key] = true, nil
      end
    end
  end
  for n in pairs(ended) do over[#over + 1] = n end
  return over
end

kafka.describe("a worker killed with events running", function()
  it("loses nothing, keeps the order of each key, and ends what it began", function()
    local options = group_of(4)
    -- Far more than any life has time for: it is killed at work.
    local keys, total = 60, 6000
    local script = write_script(options, "moonbus.sleep(math.random() * 0.02)")
    local publisher = new_bus { topic_prefix = options.topic_prefix }
    assert(publisher:publish(make_events(total, keys)))
    local lives = {}
    for life = 1, 4 do
      local process = kafka.spawn { kafka.build .. "/moonbus", "run", script }
      kafka.wait("events of life " .. life, function()
        return count_of(process:output(), "end %d+\n") >= 150
      end)
      process:kill()
      process:wait_end()
      lives[life] = process:output():gsub("[^\n]*$", "")
      assert(count_of(lives[life], "begin %d+\n") > count_of(lives[life], "end %d+\n"))
    end
    local last = kafka.spawn { kafka.build .. "/moonbus", "run", script, "--until-idle", "1" }
    last:wait_end()
    lives[5] = last:output()
    assert.are.equal(total, #check_order(lives, keys))
  end)

  it("has noted what is settled past one that is running, and only that runs again", function()
    local options, topic, group = group_of(1)
    local script = write_script(options, "if number == 3 then moonbus.sleep(3600) end")
    local publisher = new_bus { topic_prefix = options.topic_prefix }
    assert(publisher:publish(make_events(40, 40)))
    local process = kafka.spawn { kafka.build .. "/moonbus", "run", script }
    kafka.wait(function() return "the marks, got " .. tostring(kafka.notes(group, topic)[0]) end,
      function() return (kafka.notes(group, topic)[0] or ""):match " 2 1 37$" end)
    process:kill()
    process:wait_end()
    local again = {}
    local bus = new_bus(copy(options))
    bus:subscribe(Counted, function(event) again[#again + 1] = event.number end)
    kafka.consume(bus, 1)
    kafka.wait("the end", function() return #again > 0 and bus.native:is_idle() end)
    assert.are.same({ 3 }, again)
  end)

  it("under a supervisor is charged to the event whose code ran, not to those that wait", function()
    local options = group_of(4)
    local script = write_script(options, [[
      moonbus.sleep(number == 7 and 0.2 or 0.1)
      if number == 7 then ffi.C.kill(ffi.C.getpid(), 11) end
    ]])
    local publisher = new_bus { topic_prefix = options.topic_prefix }
    assert(publisher:publish(make_events(30, 30)))
    local process = kafka.spawn { kafka.build .. "/moonbus", "run", script, "--workers", "1" }
    kafka.wait("one dead letter and 29 handled", function()
      local ended = {}
      for n in process:output():gmatch "end (%d+)\n" do ended[n] = true end
      local count = 0
      for _ in pairs(ended) do count = count + 1 end
      return count == 29 and publisher:get_dlq_message_count() == 1
    end)
    process:kill(15)
    process:wait_end()
    local letters = assert(publisher:get_dlq_messages { limit = 10 })
    assert.are.equal(7, letters[1].payload.number)
    assert.are.equal("worker_crashed", letters[1].headers.dlq_reason)
  end)
end)

kafka.describe("partitions that move while events are running", function()
  it("lose nothing, and within a member no two of a key run at once", function()
    local options = group_of(4)
    local keys, total = 80, 2400
    local buses, seen, count, together, disorder = {}, {}, 0, 0, 0
    local last = {} -- by key, the highest that ended
    local function member()
      local bus = new_bus(copy(options))
      local running = {}
      bus:subscribe(Counted, function(event)
        local n = event.number
        local key = n % keys
        if running[key] then together = together + 1 end
        running[key] = n
        if n > (last[key] or (key - 1) % keys + 1 - keys) + keys then disorder = disorder + 1 end
        moonbus.sleep(math.random() * 0.03)
        running[key] = nil
        last[key] = math.max(last[key] or n, n)
        if not seen[n] then count = count + 1 end
        seen[n] = (seen[n] or 0) + 1
      end)
      buses[#buses + 1] = bus
      assert(bus:start_consuming_in_background())
      return bus
    end
    local first = member()
    assert(first:publish(make_events(total, keys)))
    kafka.wait("some", function() return count > 200 end)
    local second = member()
    wait_shared(first, second)
    kafka.wait("some more", function() return count > 800 end)
    assert(first:stop_consuming())
    assert(first:start_consuming_in_background())
    kafka.wait("all of them", function() return count == total end)
    assert.are.equal(0, together)
    assert.are.equal(0, disorder)
    kafka.wait("the end", function()
      return kafka.stats(first, "events_running") + kafka.stats(second, "events_running") == 0
    end)
  end)
end)

kafka.describe("a full inbox", function()
  it("costs no membership: polls go on, partitions are given away, all is handled", function()
    local options = group_of(4)
    local total, go, lost, counts = 6000, false, 0, { 0, 0 }
    local function member(i)
      local bus = new_bus(copy(options, { concurrency = 2, session_timeout_ms = 6000,
        max_poll_interval_ms = 6000, prefetch_max_events = 500,
        on_lost = function() lost = lost + 1 end }))
      bus:subscribe(Counted, function()
        while not go do moonbus.sleep(0.05) end
        counts[i] = counts[i] + 1
      end)
      return bus
    end
    local first, second = member(1), member(2)
    local events = make_events(total, 3000)
    for i = 1, total, 1000 do assert(first:publish({ unpack(events, i, i + 999) })) end
    assert(first:start_consuming_in_background())
    kafka.wait("two that run", function() return kafka.stats(first, "events_running") == 2 end)
    local began, cpu = moonbus.now(), os.clock()
    kafka.wait("eight seconds", function() return moonbus.now() - began > 8 end)
    assert(os.clock() - cpu < 3, os.clock() - cpu)
    assert.are.equal(0, lost)
    assert.are.equal(1, kafka.stats(first, "rebalance_count"))
    assert.are.equal("green", first:get_health().status)
    assert(second:start_consuming_in_background())
    wait_shared(first, second)
    go = true
    kafka.wait(function() return ("all, got %d and %d"):format(counts[1], counts[2]) end, function()
      return first.native:is_idle() and second.native:is_idle()
    end)
    assert.are.equal(0, lost)
    -- what was abandoned when partitions moved may have run twice
    assert(counts[1] + counts[2] >= total and counts[1] + counts[2] <= total + 4)
    assert.are.equal(total, kafka.stats(first, "events_processed_success")
      + kafka.stats(second, "events_processed_success"))
  end)
end)
