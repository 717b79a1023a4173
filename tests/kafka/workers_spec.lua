-- Supervised workers on a real Kafka. Under load they end with what is in hand finished and
-- committed; one that does not come to an end is killed, and its event comes again. A broker that
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
    session_timeout_ms = 6000, heartbeat_interval_ms = 500, commit_interval_ms = 60000,
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
  local function run(hang, address)
    return process.start(process.moonbus("run", script, "--workers", "3", "--bootstrap-servers",
      address or kafka.address),
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

  it("that are told to end under load finish what is in hand, and nothing is done twice", function()
    local goal = 300
    while true do
      local host = run()
      wait_handled(host, math.min(goal, EVENTS))
      assert.equal(0, host:stop(process.SIGTERM).code, host.stderr)
      if goal >= EVENTS then break end
      goal = select(2, handled()) + 900
    end
    local times = handled()
    for n = 1, EVENTS do assert.equal(1, times[n] or 0, "event " .. n) end
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
end)
