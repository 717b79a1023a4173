-- A stop while the broker is away, or takes requests and answers none: it ends soon, in every mode,
-- and says what was not committed.
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"

local UUID = "00000000-0000-4000-8000-%012d"
local MOST_S = 10

-- Commits only when it stops. BUSES: so many; SEND: each event publishes in the background.
local SCRIPT = [[
local moonbus = require "moonbus"
for i = 1, tonumber(os.getenv "BUSES" or 1) do
  local bus = moonbus.bus {
    consumer_group = "away" .. i, session_timeout_ms = 6000, heartbeat_interval_ms = 500,
    commit_interval_ms = 600000,
  }
  bus:subscribe("Tick", function(event)
    print(("tick %d."):format(event.n))
    if not os.getenv "SEND" or event.n ~= 8 then return end
    print "cut off now"
    io.read "*l"
    for n = 1, 10 do
      local id = moonbus.uuid()
      bus:publish({ event_type = "Tock", aggregate_type = "C", aggregate_id = id, n = n },
        { background = true })
    end
    print "queued"
  end)
end
]]

local function count(text, pattern)
  return select(2, text:gsub(pattern, ""))
end

describe("a stop while the broker is away", function()
  local script

  setup(function() script = tmp.file("away.lua", SCRIPT) end)

  after_each(process.clean)
  teardown(tmp.clean)

  local function start_broker()
    local broker = process.start(process.moonbus "broker")
    return broker, broker:wait_for(function(p) return p.stdout:match "^(%S+)\n" end)
  end

  local function publish(address)
    local lines = {}
    for i = 1, 8 do
      lines[i] = ('{"event_type":"Tick","aggregate_type":"C","aggregate_id":"%s","n":%d}')
        :format(UUID:format(i), i)
    end
    local sent = process.run(process.moonbus("publish", "-"), { input = table.concat(lines, "\n"),
      env = { MOONBUS_BOOTSTRAP_SERVERS = address } })
    assert.equal(0, sent.code, sent.stderr)
  end

  -- A run that has handled eight events and committed none.
  local function start_run(address, members, words, env)
    env = env or {}
    env.MOONBUS_BOOTSTRAP_SERVERS = address
    local run = process.start(process.moonbus("run", script, unpack(words or {})),
      { env = env, keep_open = true })
    run:wait_for(function(p) return count(p.stderr, "assigned partitions") >= members end)
    publish(address)
    run:wait_for(env.SEND and "cut off now" or function(p)
      return count(p.stdout, "tick %d+%.") >= 8 * tonumber(env.BUSES or 1)
    end)
    return run
  end

  local function ends_soon(run)
    local began = process.now()
    local ended = run:stop()
    local took = process.now() - began
    assert.is_true(took < MOST_S, ("took %.1f s\n%s"):format(took, ended.stderr))
    return ended
  end

  local modes = {
    { "one process", members = 1 },
    { "workers", members = 2, words = { "--workers", "2" } },
    { "until idle", members = 1, words = { "--until-idle", "600" } },
    { "three buses", members = 3, env = { BUSES = "3" } },
  }
  for _, mode in ipairs(modes) do
    for _, how in ipairs { "SIGKILL", "SIGSTOP" } do
      it(("%s, its broker gone by %s"):format(mode[1], how), function()
        local broker, address = start_broker()
        local run = start_run(address, mode.members, mode.words, mode.env)
        broker:signal(process[how])
        if how == "SIGKILL" then run:wait_for "no broker can be reached" end
        local ended = ends_soon(run)
        assert.equal(0, ended.code, ended.stderr)
        assert.matches("WARN [^\n]*offset %d+ of partition %d not committed", ended.stderr)
      end)
    end
  end

  it("with events queued that nobody takes: they are counted", function()
    local broker, address = start_broker()
    local run = start_run(address, 1, {}, { SEND = "1" })
    broker:signal(process.SIGKILL)
    broker:wait()
    run:write "\n"
    run:wait_for "queued"
    local ended = ends_soon(run)
    assert.equal(1, ended.code, ended.stderr)
    assert.matches("EDELIVERY: 10 queued events were not delivered", ended.stderr, 1, true)
  end)
end)
