-- How supervised workers end under load on a real Kafka: they finish what is in hand and commit it;
-- one that does not come to an end is killed, and its event comes again.
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
  local bus = moonbus.bus { topic_prefix = prefix, consumer_group = prefix, shutdown_timeout = 1,
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

kafka.describe("supervised workers on Kafka", function()
  local prefix, log, script

  before_each(function()
    local dir = kafka.temp_dir()
    prefix, log = kafka.name "drain", dir .. "/log"
    script = kafka.write_file(dir .. "/worker.lua", SCRIPT)
    local events = {}
    for i = 1, EVENTS do
      local key = ("00000000-0000-4000-8000-%012d"):format(i % KEYS)
      events[i] = Moved { aggregate_id = key, number = i }
    end
    local bus = kafka.bus { event_registry = registry, topic_prefix = prefix }
    assert(bus:publish(events))
  end)

  after_each(process.clean)

  local function run(hang)
    return process.start(process.moonbus("run", script, "--workers", "3", "--bootstrap-servers",
      kafka.address), { env = { PREFIX = prefix, LOG = log, HANG = hang } })
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
    of:wait_for(function() return select(2, handled()) >= goal end, 60)
  end

  it("that are told to end under load finish what is in hand, and nothing is done twice", function()
    local goal = 300
    while true do
      local host = run()
      wait_handled(host, math.min(goal, EVENTS))
      assert.equal(0, host:stop(process.SIGTERM, 10).code, host.stderr)
      if goal >= EVENTS then break end
      goal = select(2, handled()) + 900
    end
    local times = handled()
    for n = 1, EVENTS do assert.equal(1, times[n] or 0, "event " .. n) end
  end)

  it("that hang are killed after shutdown_timeout, and only their events come again", function()
    local host = run "500"
    host:wait_for(function() return (handled())[500] end, 60)
    local begin = moonbus.now()
    local ended = host:stop(process.SIGTERM, 20)
    assert.equal(128 + process.SIGKILL, ended.code, host.stderr)
    assert.is_true(moonbus.now() - begin < 10)
    assert.matches("shutdown_timeout %(signal 9[^\n]* in hand [^\n]*offset %d+", host.stderr)
    host = run()
    wait_handled(host, EVENTS)
    assert.equal(0, host:stop(process.SIGTERM, 10).code, host.stderr)
    -- The two others committed everything; what the third had done is known to no one but itself.
    local times, others = handled(), 0
    for n = 1, EVENTS do
      assert.is_true((times[n] or 0) >= 1, "event " .. n)
      if times[n] > 1 then others = others + 1 end
    end
    assert.is_true(others >= 1 and others < EVENTS / 2, others .. " events were handled again")
  end)
end)
