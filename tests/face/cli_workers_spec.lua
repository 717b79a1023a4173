-- `moonbus run --workers`: processes that share the partitions, are replaced, and end together.
local ffi = require "ffi"
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"

ffi.cdef "int kill(int pid, int number);"

local UUID = "00000000-0000-4000-8000-%012d"

local SCRIPT = [[
local moonbus = require "moonbus"
local ffi = require "ffi"
ffi.cdef "int getpid(void);"
local worker = os.getenv "MOONBUS_WORKER"
local bus = moonbus.bus {
  bootstrap_servers = "embedded", topic_prefix = "shared", consumer_group = "workers",
  session_timeout_ms = 6000, heartbeat_interval_ms = 500,
}
bus:subscribe("Tick", function(event) print(("worker %s tick %d"):format(worker, event.n)) end)
print(("worker %s pid %d on %s"):format(worker, ffi.C.getpid(), bus.config.bootstrap_servers))
]]

local HANG = SCRIPT:gsub('"embedded"', "nil"):gsub("session_timeout_ms", "shutdown_timeout = 1, %0")
  :gsub("print%b()", 'print "hangs" while true do end', 1)
local LIMITS = [[
local moonbus = require "moonbus"
local ffi = require "ffi"
ffi.cdef "void *malloc(size_t size);"
local function busy(seconds)
  local deadline = moonbus.now() + seconds
  while moonbus.now() < deadline do end
end
local bus = moonbus.bus {
  bootstrap_servers = "embedded", topic_prefix = "shared", consumer_group = "limited",
  session_timeout_ms = 6000, heartbeat_interval_ms = 500, max_retries = 0,
  handler_timeout_ms = 2000, worker_memory_max_bytes = 150e6,
}
bus:subscribe("Tick", function(event)
  if event.n == 1000 then
    while true do -- not so fast that the machine's memory is gone before somebody looks
      ffi.fill(ffi.C.malloc(1e7), 1e7, 1)
      busy(0.01)
    end
  end
  busy(0.05)
  print(("tick %d"):format(event.n))
end)
print(("on %s"):format(bus.config.bootstrap_servers))
]]

local function count(text, pattern)
  return select(2, text:gsub(pattern, ""))
end

describe("moonbus run --workers", function()
  teardown(function()
    process.clean()
    tmp.clean()
  end)

  local function publish(address, from, to)
    local lines = {}
    for i = from, to do
      lines[#lines + 1] = ('{"event_type":"Tick","aggregate_type":"C","aggregate_id":"%s","n":%d}')
        :format(UUID:format(i), i)
    end
    local result = process.run(process.moonbus("publish", "-", "--topic-prefix", "shared",
      "--bootstrap-servers", address), { input = table.concat(lines, "\n") })
    assert.equal(0, result.code, result.stderr)
  end

  it("takes one broker or the other", function()
    local result = process.run(process.moonbus("run", "--workers", "2", "--embedded",
      "--bootstrap-servers", "localhost:1", tmp.file("workers.lua", SCRIPT)))
    assert.equal(2, result.code)
    assert.matches("can not be used together", result.stderr)
  end)

  describe("2 --embedded", function()
    local run, address

    setup(function()
      run = process.start(process.moonbus("run", "--workers", "2", "--embedded", "--",
        tmp.file("workers.lua", SCRIPT)))
    end)

    it("starts two processes on one broker", function()
      run:wait_for(function() return count(run.stdout, "worker %d pid") == 2 end)
      address = run.stdout:match "worker 1 pid %d+ on (127%S+)\n"
      assert.matches("worker 2 pid %d+ on " .. address:gsub("%.", "%%.") .. "\n", run.stdout)
    end)

    it("shares the partitions between them", function()
      run:wait_for(function()
        return count(run.stderr, "assigned partitions of shared.stream: %d,%d\n") >= 2
      end)
      publish(address, 1, 60)
      run:wait_for(function() return count(run.stdout, "tick") == 60 end)
      assert.is_true(count(run.stdout, "worker 1 tick") > 0)
      assert.is_true(count(run.stdout, "worker 2 tick") > 0)
    end)

    it("replaces one that is killed, and no event is lost", function()
      local victim = tonumber(run.stdout:match "worker 2 pid (%d+)")
      ffi.C.kill(victim, process.SIGKILL)
      run:wait_for(function() return count(run.stdout, "worker 2 pid") == 2 end)
      assert.matches("moonbus: worker 2 died: worker_crashed %(signal 9", run.stderr)
      publish(address, 61, 100)
      run:wait_for(function()
        for i = 61, 100 do
          if not run.stdout:find(" tick " .. i .. "\n", 1, true) then return false end
        end
        return true
      end)
    end)

    it("ends with 0 after SIGTERM, all of it", function()
      assert.equal(0, run:stop(process.SIGTERM).code, run.stderr)
      for pid in run.stdout:gmatch "pid (%d+)" do assert.is_true(process.gone(tonumber(pid))) end
    end)
  end)

  describe("with limits", function()
    local run, address

    setup(function()
      run = process.start(process.moonbus("run", tmp.file("limits.lua", LIMITS), "--workers", "1",
        "--embedded"))
      run:wait_for(function() return count(run.stderr, "assigned partitions of") >= 1 end)
      address = run.stdout:match "on (127%S+)\n"
    end)

    it("counts a handler's time from zero for each event", function()
      publish(address, 1, 60) -- 60 times 50 ms; each may take 2 s
      run:wait_for(function() return count(run.stdout, "tick") == 60 end)
      assert.not_matches("died", run.stderr)
    end)

    it("counts memory that did not come from Lua", function()
      publish(address, 1000, 1000)
      run:wait_for(function() return run.stderr:find "died" end)
      assert.matches("worker 1 died: out_of_memory %(signal 9", run.stderr)
      publish(address, 61, 70)
      run:wait_for(function() return count(run.stdout, "tick") == 70 end)
      run:wait_for(function() return run.stderr:find "dead letter" end)
      assert.matches("WorkerDied[^\n]*out_of_memory", run.stderr)
      assert.equal(0, run:stop(process.SIGTERM).code, run.stderr)
    end)
  end)

  it("ends with the code of a script that is wrong", function()
    local result = process.run(process.moonbus("run", tmp.file("bad.lua", "local = 1"), "--workers",
      "2"))
    assert.equal(3, result.code)
    assert.matches("ESCRIPT: [^\n]*bad.lua:1: ", result.stderr)
    assert.matches("\nmoonbus: worker %d ended %(exit code 3%): all end\n", result.stderr)
  end)

  it("refuses an embedded broker for each, and says what to do", function()
    local result = process.run(process.moonbus("run", tmp.file("workers.lua", SCRIPT), "--workers",
      "2"))
    assert.equal(2, result.code)
    assert.matches("moonbus: ECONFIG: [^\n]*workers.lua:%d+: [^\n]*share one with %-%-embedded",
      result.stderr)
    assert.not_matches("traceback", result.stderr)
  end)

  it("leaves nothing behind when the supervisor is killed with a handler that hangs", function()
    local broker = process.start(process.moonbus "broker")
    broker:wait_for(function() return broker.stdout:find "127[%d.]+:%d+" end)
    local address = broker.stdout:match "127[%d.]+:%d+"
    local run = process.start(process.moonbus("run", tmp.file("hang.lua", HANG), "--workers", "2",
      "--bootstrap-servers", address))
    run:wait_for(function() return count(run.stdout, "worker %d pid") == 2 end)
    publish(address, 1, 1)
    run:wait_for(function() return run.stdout:find "hangs" end)
    run:signal(process.SIGKILL)
    assert.equal(process.SIGKILL, run:wait().killed_by)
    for pid in run.stdout:gmatch "pid (%d+)" do
      assert.is_true(process.gone(tonumber(pid), 60))
    end
    broker:stop(process.SIGTERM)
  end)

  it("leaves nothing behind when the supervisor is killed", function()
    local run = process.start(process.moonbus("run", tmp.file("workers.lua", SCRIPT), "--workers",
      "2", "--embedded"))
    run:wait_for(function() return count(run.stdout, "worker %d pid") == 2 end)
    run:signal(process.SIGKILL)
    assert.equal(process.SIGKILL, run:wait().killed_by)
    for pid in run.stdout:gmatch "pid (%d+)" do
      assert.is_true(process.gone(tonumber(pid), 60))
    end
  end)
end)
