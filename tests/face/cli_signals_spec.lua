-- Signals: what asks for an end is heard by every process, in order, and none is left behind.
local ffi = require "ffi"
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"

local C = ffi.C

local UUID = "00000000-0000-4000-8000-%012d"

-- Commits only when it stops. TICK=hang: its handler never returns.
local SCRIPT = [[
local moonbus = require "moonbus"
local ffi = require "ffi"
ffi.cdef "int getpid(void);"
local bus = moonbus.bus {
  consumer_group = "signals", session_timeout_ms = 6000, heartbeat_interval_ms = 500,
  commit_interval_ms = 600000, shutdown_timeout = tonumber(os.getenv "SHUTDOWN"),
}
bus:subscribe("Tick", function(event)
  print(("tick %d."):format(event.n))
  if os.getenv "TICK" == "hang" then while true do end end
  if os.getenv "TICK" == "slow" then
    local deadline = moonbus.now() + 1
    while moonbus.now() < deadline do end
    print(("done %d."):format(event.n))
  end
end)
print(("worker pid %d"):format(ffi.C.getpid()))
]]

local function count(text, pattern)
  return select(2, text:gsub(pattern, ""))
end

describe("a signal that asks for an end", function()
  local broker, address, script
  local topics = 0

  setup(function()
    script = tmp.file("signals.lua", SCRIPT)
    broker = process.start(process.moonbus "broker")
    address = broker:wait_for(function(p) return p.stdout:match "^(%S+)\n" end)
  end)

  teardown(function()
    process.clean()
    tmp.clean()
  end)

  local function place(more)
    local env = { MOONBUS_BOOTSTRAP_SERVERS = address, MOONBUS_TOPIC_PREFIX = "signals" .. topics }
    for name, value in pairs(more or {}) do env[name] = value end
    return env
  end

  before_each(function() topics = topics + 1 end)

  -- words before the program (nohup), its options; on a terminal if asked to.
  local function run(workers, options)
    options = options or {}
    local words = process.moonbus("run", script)
    if workers > 1 then
      words[#words + 1] = "--workers"
      words[#words + 1] = tostring(workers)
    end
    for i, word in ipairs(options.within or {}) do table.insert(words, i, word) end
    local started = process.start(words, { env = place(options.env), terminal = options.terminal })
    started:wait_for(function(p)
      return count(p.stdout .. p.stderr, "assigned partitions") >= workers
        and count(p.stdout, "worker pid %d+") >= workers
    end)
    return started
  end

  local function publish(n)
    local lines = {}
    for i = 1, n do
      lines[i] = ('{"event_type":"Tick","aggregate_type":"C","aggregate_id":"%s","n":%d}')
        :format(UUID:format(i), i)
    end
    local sent = process.run(process.moonbus("publish", "-"),
      { input = table.concat(lines, "\n"), env = place() })
    assert.equal(0, sent.code, sent.stderr)
  end

  local function publish_to(started, n)
    publish(n)
    started:wait_for(function(p) return count(p.stdout, "tick %d+%.") >= n end)
  end

  -- What another run of the group is given.
  local function left()
    local words = process.moonbus("run", script, "--until-idle", "1")
    local again = process.run(words, { env = place() })
    assert.equal(0, again.code, again.stderr)
    return count(again.stdout, "tick")
  end

  local function all_gone(started, seconds)
    for pid in started.stdout:gmatch "worker pid (%d+)" do
      assert.is_true(process.gone(tonumber(pid), seconds or 0), "worker " .. pid .. " is left")
    end
  end

  for _, workers in ipairs { 1, 2 } do
    describe(("to run with --workers %d"):format(workers), function()
      for _, name in ipairs { "SIGHUP", "SIGQUIT" } do
        it(name .. " commits what is handled, and ends with 0", function()
          local started = run(workers)
          publish_to(started, 8)
          local ended = started:stop(process[name])
          assert.equal(0, ended.code, ended.stderr)
          all_gone(started)
          assert.equal(0, left())
        end)
      end

      it("is what a terminal that is closed sends", function()
        local started = run(workers, { terminal = true })
        publish_to(started, 8)
        started:hang_up()
        assert.equal(0, started:wait().code)
        all_gone(started)
        assert.equal(0, left())
      end)

      it("finishes the event in hand, be it SIGHUP again and again and beside others", function()
        local started = run(workers, { env = { TICK = "slow" } })
        publish_to(started, 1)
        for _, name in ipairs { "SIGHUP", "SIGHUP", "SIGTERM", "SIGHUP" } do
          started:signal(process[name])
        end
        local ended = started:wait()
        assert.equal(0, ended.code, ended.stderr)
        assert.matches("done 1.", ended.stdout, 1, true)
        assert.equal(0, left())
      end)

      it("ends at once when it comes twice", function()
        local started = run(workers, { env = { TICK = "hang", SHUTDOWN = "600" } })
        publish_to(started, 1)
        started:signal(process.SIGINT)
        started:wait_for(function(p) -- until it is no longer pending
          local file = io.open(("/proc/%d/status"):format(p.pid))
          local text = file:read "*a"
          file:close()
          return tonumber(text:match "ShdPnd:%s*(%x+)", 16) == 0
        end)
        started:signal(process.SIGTERM)
        local ended = started:wait()
        if workers == 1 then assert.equal(process.SIGTERM, ended.killed_by)
        else
          assert.equal(128 + process.SIGKILL, ended.code)
          assert.matches("died: second_signal", ended.stderr)
        end
        all_gone(started)
      end)

      it("is not SIGHUP under nohup", function()
        local started = run(workers, { within = { "nohup" } })
        started:signal(process.SIGHUP)
        for pid in started.stdout:gmatch "worker pid (%d+)" do C.kill(tonumber(pid), 1) end
        publish_to(started, 8)
        assert.equal(0, started:stop().code)
      end)
    end)
  end

  it("is no second one when it goes to all of a group, as systemd sends it", function()
    local started = run(2, { env = { TICK = "slow" } })
    publish_to(started, 1)
    for pid in started.stdout:gmatch "worker pid (%d+)" do
      C.kill(tonumber(pid), process.SIGTERM)
    end
    local ended = started:stop(process.SIGTERM)
    assert.equal(0, ended.code, ended.stderr)
  end)

  it("is heard while the workers start", function()
    for _ = 1, 3 do
      local started = process.start(process.moonbus("run", script, "--workers", "2"),
        { env = place() })
      started:wait_for(function(p) return #p:children() == 2 end)
      local ended = started:stop()
      assert.equal(0, ended.code, ended.stderr)
    end
  end)

  it("is what workers get when their supervisor is killed: they commit", function()
    local started = run(2)
    publish_to(started, 8)
    started:signal(process.SIGKILL)
    assert.equal(process.SIGKILL, started:wait().killed_by)
    all_gone(started, 60)
    assert.equal(0, left())
  end)

  it("also with an embedded broker, which outlives them", function()
    local started = process.start(process.moonbus("run", script, "--workers", "2", "--embedded"),
      { env = { MOONBUS_TOPIC_PREFIX = "own" } })
    started:wait_for(function(p) return count(p.stderr, "assigned partitions") >= 2 end)
    local children = started:children()
    assert.equal(3, #children)
    started:signal(process.SIGKILL)
    assert.equal(process.SIGKILL, started:wait().killed_by)
    for _, pid in ipairs(children) do assert.is_true(process.gone(pid, 60), "left: " .. pid) end
    assert.not_matches("not committed", started.stderr)
    assert.not_matches("broker's word", started.stderr)
  end)

  it("does not come of a stderr that is closed", function()
    local started = process.start({ "bash", "-c",
      table.concat(process.moonbus("run", script, "--workers", "2"), " ")
        .. " 2>&1 >/dev/null | head -n 1; exit ${PIPESTATUS[0]}" }, { env = place() })
    started:wait_for "joining"
    local supervisor = started:wait_for(function(p)
      for _, pid in ipairs(p:children()) do
        local children = p.children { pid = pid }
        if #children == 2 then return { pid = pid, children = children } end
      end
    end)
    C.kill(supervisor.children[1], process.SIGKILL) -- something to say
    started:wait_for(function(p)
      local now = p.children { pid = supervisor.pid }
      return #now == 2 and now[1] ~= supervisor.children[1] and now[2] ~= supervisor.children[1]
    end)
    C.kill(supervisor.pid, process.SIGTERM)
    assert.equal(0, started:wait().code)
  end)
end)
