-- Supervised workers on a real Kafka. Under load they end with what is in hand finished and
-- committed; one that does not end is killed, and its event comes again. A broker that
-- is away ends none of them.
local ffi = require "ffi"
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"
local process = require "tests.support.process"

local registry = moonbus.new_registry()
local Moved = moonbus.event("Moved", { aggregate_type = "Piece", number = "integer" },
  { registry = registry })

local EVENTS, KEYS = 3000, 40

local SCRIPT = [[
  local moonbus = require "moonbus"
  local ffi = require "ffi"
  ffi.cdef "int getpid(void);"
  local prefix, log, hang = os.getenv "PREFIX", os.getenv "LOG", os.getenv "HANG"
  local Moved = moonbus.event("Moved", { aggregate_type = "Piece", number = "integer" })
  local bus = moonbus.bus { topic_prefix = prefix, consumer_group = os.getenv "GROUP" or prefix,
    shutdown_timeout = hang and 3 or 60,
    heartbeat_interval_ms = 500, commit_interval_ms = 60000,
    commit_interval_events = 1000000 }
  local out = assert(io.open(("%s.%d"):format(log, ffi.C.getpid()), "a"))
  out:setvbuf "no"
  bus:subscribe(Moved, function(event)
    moonbus.sleep(0.002)
    out:write(event.number, "\n")
    if event.number == tonumber(hang) then
      while true do end
    end
  end)
]]

local function events(from, to)
  local list = {}
  for i = from, to do
    local key = ("00000000-0000-4000-8000-%012d"):format(i % KEYS)
    list[#list + 1] = Moved { aggregate_id = key, number = i }
  end
  return list
end

kafka.describe("supervised workers on Kafka", function()
  local prefix, log, group, script

  before_each(function()
    local dir = kafka.temp_dir()
    prefix, log, group = kafka.name "drain", dir .. "/log", nil
    script = kafka.write_file(dir .. "/worker.lua", SCRIPT)
    local bus = kafka.bus { event_registry = registry, topic_prefix = prefix }
    assert(bus:publish(events(1, EVENTS)))
  end)

  after_each(process.clean)

  -- hang: the number of an event whose handler does not return.
  local function run(hang, address, ...)
    return process.start(process.moonbus("run", script, "--workers", "3", "--bootstrap-servers",
      address or kafka.address, ...),
      { env = { PREFIX = prefix, LOG = log, HANG = hang, GROUP = group } })
  end

  -- number -> how often it was handled; and how many different ones.
  local function handled()
    local times, count = {}, 0
    local pipe = assert(io.popen("cat " .. kafka.quote(log) .. ".* 2>/dev/null"))
    for line in pipe:lines() do
      local n = tonumber(line)
      if not times[n] then count = count + 1 end
      times[n] = (times[n] or 0) + 1
    end
    pipe:close()
    return times, count
  end

  local function wait_handled(of, goal)
    of:wait_for(function() return select(2, handled()) >= goal end)
  end

  it("that are stopped under load finish what is in hand, and nothing is done twice", function()
    local goal, said = 300, {}
    while true do
      local host = run()
      wait_handled(host, math.min(goal, EVENTS))
      assert.equal(0, host:stop(process.SIGTERM).code, host.stderr)
      said[#said + 1] = host.stderr
      if goal >= EVENTS then break end
      goal = select(2, handled()) + 900
    end
    local times = handled()
    for n = 1, EVENTS do
      assert.equal(1, times[n] or 0, ("event %d; %s"):format(n, table.concat(said, "\n")))
    end
  end)

  it("that hang are killed after shutdown_timeout, and only their events come again", function()
    local host = run "500"
    host:wait_for(function() return (handled())[500] end)
    local begin = moonbus.now()
    local ended = host:stop(process.SIGTERM)
    assert.equal(128 + process.SIGKILL, ended.code, host.stderr)
    assert.is_true(moonbus.now() - begin < 30)
    assert.matches("shutdown_timeout %(signal 9[^\n]* in hand [^\n]*offset %d+", host.stderr)
    host = run()
    wait_handled(host, EVENTS)
    assert.equal(0, host:stop(process.SIGTERM).code, host.stderr)
    -- The two others committed everything; what the third had done is known to no one but itself.
    local times, others = handled(), 0
    for n = 1, EVENTS do
      assert.is_true((times[n] or 0) >= 1, "event " .. n)
      if times[n] > 1 then others = others + 1 end
    end
    assert.is_true(others >= 1 and others < EVENTS / 2, others .. " events were handled again")
  end)

  it("wait for a broker that is away, those that are replaced meanwhile too", function()
    local broker = kafka.broker()
    local bus = kafka.new_bus { event_registry = registry, topic_prefix = prefix,
      bootstrap_servers = broker.address }
    local host = run(nil, broker.address)
    assert(bus:connect(60))
    assert(bus:publish(events(1, 100)))
    wait_handled(host, 100)
    broker:down(true)
    ffi.C.kill(host:children()[1], process.SIGKILL)
    host:wait_for("worker_crashed")
    host:wait_for "ended (exit code 4); again in"
    broker:up()
    assert(bus:publish(events(101, 300)))
    wait_handled(host, 300)
    assert.equal(0, host:stop(process.SIGTERM).code, host.stderr)
  end)

  it("of another topic, begun in the same group, read that", function()
    group = kafka.name "group"
    local host = run()
    wait_handled(host, 100)
    assert.equal(0, host:stop(process.SIGTERM).code, host.stderr)
    prefix, log = kafka.name "other", log .. ".other"
    local bus = kafka.bus { event_registry = registry, topic_prefix = prefix }
    assert(bus:publish(events(9001, 9050)))
    host = run()
    wait_handled(host, 50)
    assert.equal(0, host:stop(process.SIGTERM).code, host.stderr)
    local times, count = handled()
    for n = 9001, 9050 do assert.equal(1, times[n] or 0, "event " .. n) end
    assert.equal(50, count)
    assert.is_nil(host.stderr:find("the consumer stopped", 1, true), host.stderr)
  end)

  -- Nobody waits for a member that left; for one that did not, until this is over.
  local function run_as(name)
    return run(nil, nil, "--set", "session_timeout_ms=300000", "--set", "static_members=" .. name)
  end

  local function stop_after(host, goal)
    wait_handled(host, goal)
    assert.equal(0, host:stop(process.SIGTERM).code, host.stderr)
  end

  it("leave the group when they end, so that those of another host go on at once", function()
    for number, name in ipairs { "auto", "off", "pod-a" } do
      stop_after(run_as(name), 300 * number)
    end
    local times = handled()
    for n, count in pairs(times) do assert.equal(1, count, "event " .. n) end
  end)

  it("of a name that comes back find their partitions waiting, without a rebalance", function()
    stop_after(run_as "pod-a", 300)
    local host = run_as "pod-a"
    wait_handled(host, 600)
    assert.equal(3, select(2, host.stderr:gsub("assigned partitions", "")), host.stderr)
    assert.equal(0, host:stop(process.SIGTERM).code, host.stderr)
  end)

  it("whose name another supervisor takes end, with an error that names it, and are not replaced",
    function()
      local first = run_as "pod-a"
      wait_handled(first, 100)
      local second = run_as "pod-a"
      local ended = first:wait()
      assert.equal(8, ended.code, first.stderr)
      assert.matches("EFENCED: consumption ended: group [^\n]* group_instance_id \"pod%-a%-",
        first.stderr)
      assert.not_matches("again in", first.stderr)
      wait_handled(second, EVENTS)
      assert.not_matches("EFENCED", second.stderr)
      assert.equal(0, second:stop(process.SIGTERM).code, second.stderr)
      local times = handled()
      for n = 1, EVENTS do assert.is_true(times[n] >= 1 and times[n] <= 2, "event " .. n) end
    end)

  it("bear the names they are given in their group", function()
    local path = kafka.write_file(kafka.temp_dir() .. "/names.lua", [[
      local moonbus = require "moonbus"
      local bus = moonbus.bus {}
      print("name " .. tostring(bus.config.group_instance_id))
      os.exit(0)
    ]])
    for _, case in ipairs { { "auto", "^%S+%-%d+%-[12]%-%x+$" }, { "pod-a", "^pod%-a%-[12]%-%x+$" },
      { "off", "^nil$" } } do
      local ended = process.run(process.moonbus("run", path, "--workers", "2", "--set",
        "static_members=" .. case[1]))
      for name in ended.stdout:gmatch "name (%S+)\n" do assert.matches(case[2], name) end
      assert.equal(2, select(2, ended.stdout:gsub("name ", "")), ended.stderr)
    end
  end)

  -- Ends each worker that handles its event.
  local CRASHES = [[
local moonbus = require "moonbus"
local ffi = require "ffi"
local bus = moonbus.bus { topic_prefix = os.getenv "PREFIX", consumer_group = os.getenv "PREFIX",
  max_retries = tonumber(os.getenv "RETRIES"), retry_base_delay = 0.01, retry_jitter = 0 }
bus:subscribe("Moved", function() print "before" end, { name = "before" })
bus:subscribe("Moved", function()
  print "run"
  ffi.cast("int *", 8)[0] = 1
end, { name = "crasher" })
]]

  it("that die with an event say how often it ran, in which handler, and since when", function()
    local path = kafka.write_file(kafka.temp_dir() .. "/crashes.lua", CRASHES)
    for _, case in ipairs { { retries = 0 }, { retries = 1 }, { retries = 2 } } do
      local topics = kafka.name "crash"
      local bus = kafka.bus { event_registry = registry, topic_prefix = topics }
      local host = process.start(process.moonbus("run", path, "--workers", "1",
        "--bootstrap-servers", kafka.address),
        { env = { PREFIX = topics, RETRIES = tostring(case.retries) } })
      host:wait_for "assigned partitions of"
      assert(bus:publish(events(1, 1)))
      local letters = {}
      host:wait_for(function()
        letters = bus:get_dlq_messages {}
        return #letters > 0
      end)
      local headers = letters[1].headers
      assert.equal("WorkerDied", headers.dlq_error_type)
      assert.equal(case.retries + 1, select(2, host.stdout:gsub("run\n", "")), host.stderr)
      assert.equal(tostring(case.retries + 1), headers.dlq_attempts, host.stderr)
      assert.equal(tostring(case.retries), headers.dlq_retry_count)
      assert.equal("crasher", headers.dlq_handler)
      assert.is_true(headers.dlq_first_failed_at < headers.dlq_timestamp)
      assert.matches("crasher", headers.dlq_traceback)
      assert.equal(0, host:stop(process.SIGTERM).code, host.stderr)
    end
  end)
end)
