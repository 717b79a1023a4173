--- Limits on handlers inside the process. Whatever might hang runs in a child with a deadline.
local cjson = require "cjson"
local guard = require "tests.support.guard"
local process = require "tests.support.process"
local support = require "tests.support.bus"
local tmp = require "tests.support.tmp"
local wait = require "tests.support.wait"

local SECONDS = 90 -- for one adversary: both runs, the events around it, on a busy machine

teardown(function()
  process.clean()
  tmp.clean()
end)

local function sorted(set)
  local names = {}
  for name in pairs(set) do names[#names + 1] = name end
  table.sort(names)
  return names
end

-- One child takes the adversaries in turn; after one that it did not survive, another goes on.
local function catalogue(set, check)
  local names = sorted(set)
  local child

  teardown(function()
    if child then assert.equal(0, child:wait(SECONDS).code, child.stderr) end
  end)

  for i, name in ipairs(names) do
    it("ends " .. name:gsub("_", " "), function()
      if not child or child.ended then
        child = process.start { "luajit", "tests/support/guard.lua", unpack(names, i) }
      end
      local ok, line = pcall(child.wait_for, child, function(self)
        return self.stdout:match('[^\n]*"name":"' .. name .. '"[^\n]*\n')
      end, SECONDS)
      if not ok then
        child:stop(process.SIGKILL)
        error(line, 0)
      end
      local result = cjson.decode(line)
      assert.equal(2, result.runs, line)
      assert.equal(19, result.good, line)
      assert.equal(1, result.letters, line)
      assert.equal("adversary", result.handler, line)
      assert.equal("2", result.attempts, line)
      check(result, line)
    end)
  end
end

describe("guard strict", function()
  catalogue(guard.time, function(result, line)
    assert.equal("handler_timeout", result.reason, line)
    assert.equal("HandlerTimeout", result.error_type, line)
    assert.equal("adversary ran for more than handler_timeout_ms (100) allows", result.message)
    assert(result.longest_ms >= guard.LIMIT_MS and result.longest_ms < guard.MOST_MS, line)
    -- a good one that the machine held up for so long has one more run
    assert.equal(2 + result.good_runs - result.good, result.timeouts, line)
    assert.matches("^stack traceback:\n", result.traceback, line)
  end)
end)

local function check_memory(result, line)
  assert.equal("out_of_memory", result.reason, line)
  assert.equal("OutOfMemory", result.error_type, line)
  assert.equal(("adversary took more than lua_memory_max_bytes (%d) allows"):format(guard.MEMORY),
    result.message, line)
  assert(result.kbytes < guard.MEMORY / 1024 / 2, line) -- given back
end

describe("lua_memory_max_bytes", function()
  catalogue(guard.memory, check_memory)
end)

describe("guard strict and lua_memory_max_bytes", function()
  catalogue(guard.both, check_memory)
end)

-- ---- smaller programs, each a child ----

local PRELUDE = [[
local moonbus = require "moonbus"
local support = require "tests.support.bus"
local wait = require "tests.support.wait"
local Job = moonbus.event("Job", { aggregate_type = "Job", n = "integer" })
local function publish(bus, ...)
  local events = {}
  for i, n in ipairs { ... } do events[i] = Job { aggregate_id = moonbus.uuid(), n = n } end
  assert(bus:publish(events))
end
local function reasons(bus)
  local list = {}
  for _, letter in ipairs(assert(bus:get_dlq_messages())) do
    local h = letter.headers
    list[#list + 1] = ("%s/%s/%s"):format(h.dlq_reason, h.dlq_error_type, h.dlq_handler)
  end
  return #list > 0 and table.concat(list, " ") or "none"
end
local STRICT = { partitions = 1, guard = "strict", handler_timeout_ms = 150, max_retries = 0 }
local function strict(more)
  local options = {}
  for k, v in pairs(STRICT) do options[k] = v end
  for k, v in pairs(more or {}) do options[k] = v end
  return support.bus(options)
end
]]

local programs = {} -- all of them, in the order of their tests
local AHEAD = 3 -- children that are started early: each waits seconds for its group

local function start(i)
  local program = programs[i]
  if program and not program.child then
    -- MB_GC would turn the compiler off, which some of them report
    program.child = process.start { "env", "-u", "MB_GC", "luajit", "-e", PRELUDE .. program.code }
  end
end

-- A test: the program ends well and prints that. Tabs count as blanks.
local function shows(title, expected, code)
  local at = #programs + 1
  programs[at] = { code = code }
  it(title, function()
    for i = at, at + AHEAD do start(i) end
    local child = programs[at].child:wait(SECONDS)
    assert.equal(0, child.code, child.stdout .. child.stderr)
    assert.equal("", child.stderr)
    assert.equal(expected, (child.stdout:gsub("\t", " ")))
  end)
end

describe("while a bus with limits is connected", function()
  shows("the compiler is off, and then as it was",
    "true false false false true\n", [[
      local states = { tostring((jit.status())) }
      local function note() states[#states + 1] = tostring((jit.status())) end
      local bus = strict()
      local other = strict { lua_memory_max_bytes = 1e9, guard = "fast" }
      note()
      bus:subscribe(Job, function() jit.on() note() end)
      support.consume(bus)
      publish(bus, 1)
      wait.settled(bus, 1)
      bus:disconnect()
      note()
      other:disconnect()
      note()
      print(table.concat(states, " "))
    ]])

  shows("a compiler that was off stays off",
    "false false\n", [[
      jit.off()
      local bus = strict()
      local within = jit.status()
      bus:disconnect()
      print(within, (jit.status()))
    ]])

  shows("jit.on and jit.off of the script count from then on",
    "true false\n", [[
      jit.off()
      local bus = strict()
      jit.on()
      bus:disconnect()
      local on = jit.status()
      assert(bus:connect())
      jit.off()
      bus:disconnect()
      print(on, (jit.status()))
    ]])

  shows("debug.sethook, jit.on and jit.off are its own, and then the libraries'",
    "false false false true true true\n", [[
      local names = { { debug, "sethook" }, { jit, "on" }, { jit, "off" } }
      local before, list = {}, {}
      for i, n in ipairs(names) do before[i] = n[1][n[2] ] end
      local function note()
        for i, n in ipairs(names) do list[#list + 1] = tostring(n[1][n[2] ] == before[i]) end
      end
      local bus = strict()
      note()
      bus:disconnect()
      note()
      print(table.concat(list, " "))
    ]])

  shows("a function that somebody put over them stays",
    "true\n", [[
      local bus = strict()
      local mine = function() end
      debug.sethook = mine
      bus:disconnect()
      print(debug.sethook == mine)
    ]])

  shows("jit.on and jit.off of a function, or of the one that calls, work", "", [[
      local bus = strict()
      jit.off(true)
      jit.on(true, true)
      jit.off(function() end)
      assert(not pcall(jit.on, 5))
      bus:disconnect()
    ]])
end)

describe("a debug hook of the script", function()
  shows("sees the lines of handlers, and is there again after them",
    "true true true l\n", [[
      local lines, hook = {}, nil
      hook = function(_, line) lines[line] = true end
      local bus = strict()
      local info
      bus:subscribe(Job, function(event)
        info = debug.getinfo(1, "l").currentline
        if event.n == 2 then while true do end end
        return true
      end)
      support.consume(bus)
      debug.sethook(hook, "l")
      publish(bus, 1, 2)
      wait.settled(bus, 2)
      local now, mask = debug.gethook()
      debug.sethook()
      bus:disconnect()
      print(tostring(lines[info]) .. " " .. tostring(lines[info + 2]) .. " "
        .. tostring(now == hook) .. " " .. mask)
    ]])

  shows("set by a handler has no effect",
    "nil handler_timeout/HandlerTimeout/job\n", [[
      local bus = strict()
      bus:subscribe(Job, function()
        debug.sethook(function() end, "l")
        while true do end
      end, { name = "job" })
      support.consume(bus)
      publish(bus, 1)
      wait.settled(bus, 1)
      print(tostring((debug.gethook())) .. " " .. reasons(bus))
      bus:disconnect()
    ]])
end)

describe("a handler over the limit", function()
  shows("fails alone: another handler of the event is done, and not run again",
    "2 1 handler_timeout/HandlerTimeout/slow\n", [[
      local slow, quick = 0, 0
      local bus = strict { max_retries = 1 }
      bus:subscribe(Job, function() slow = slow + 1 while true do end end, { name = "slow" })
      bus:subscribe(Job, function() quick = quick + 1 end)
      support.consume(bus)
      publish(bus, 1)
      wait.settled(bus, 1)
      print(slow .. " " .. quick .. " " .. reasons(bus))
      bus:disconnect()
    ]])

  shows("is handled when its retry is within it",
    "2 none 1\n", [[
      local runs = 0
      local bus = strict { max_retries = 1 }
      bus:subscribe(Job, function()
        runs = runs + 1
        while runs == 1 do end
      end)
      support.consume(bus)
      publish(bus, 1)
      wait.settled(bus, 1)
      print(runs .. " " .. reasons(bus) .. " " .. bus:get_stats_dict().events_processed_success)
      bus:disconnect()
    ]])

  shows("keeps its reason when another handler's retry comes after its last",
    "handler_timeout/HandlerTimeout/slow\n", [[
      local runs = 0
      local bus = strict { max_retries = 3 }
      bus:subscribe(Job, function() while true do end end, { name = "slow", max_retries = 0 })
      bus:subscribe(Job, function()
        runs = runs + 1
        if runs > 1 then return true end
        error "once"
      end)
      support.consume(bus)
      publish(bus, 1)
      wait.settled(bus, 1)
      print((reasons(bus):gsub("HandlerDispatchError", "HandlerTimeout")))
      bus:disconnect()
    ]])

  shows("that returns by itself is handled, and reported",
    "none 1 true\n", [[
      local bus, lines = strict()
      bus:subscribe(Job, function() os.execute "sleep 0.4" end)
      support.consume(bus)
      publish(bus, 1)
      wait.settled(bus, 1)
      print(reasons(bus) .. " " .. bus:get_stats_dict().handler_timeouts .. " "
        .. tostring(#support.lines_with(lines, "warn", "handler_timeout_ms 150") == 1))
      bus:disconnect()
    ]])

  shows("is asked for by retry_if, which has a limit too",
    "HandlerTimeout: true\nhandler_timeout/HandlerTimeout/job\n", [[
      local asked = 0
      local bus = strict { max_retries = 1 }
      bus:subscribe(Job, function() while true do end end, { name = "job",
        retry_if = function(err)
          asked = asked + 1
          if asked == 2 then while true do pcall(error) end end
          print("HandlerTimeout: " .. tostring(err:find("handler_timeout_ms", 1, true) ~= nil))
          return true
        end })
      support.consume(bus)
      publish(bus, 1)
      wait.settled(bus, 1)
      print(reasons(bus))
      bus:disconnect()
    ]])

  shows("has a limit for each of its runs, not for all of them",
    "10 none\n", [[
      local runs = 0
      local bus = strict { handler_timeout_ms = 1000 }
      bus:subscribe(Job, function()
        runs = runs + 1
        local till = moonbus.now() + 0.15
        while moonbus.now() < till do end
      end)
      support.consume(bus)
      publish(bus, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
      wait.settled(bus, 10)
      print(runs .. " " .. reasons(bus))
      bus:disconnect()
    ]])
end)

describe("a handler that waits", function()
  shows("is charged for the wait, but what runs meanwhile has the limits of its own bus",
    "true; strict handler_timeout/HandlerTimeout/sleeper, fast none\n", [[
      local sleeper, other = strict(), support.bus { partitions = 1 }
      local took
      sleeper:subscribe(Job, function() moonbus.sleep(5) end, { name = "sleeper" })
      other:subscribe(Job, function()
        local began = moonbus.now()
        while moonbus.now() < began + 0.3 do pcall(error) end
        took = moonbus.now() - began
      end)
      support.consume(sleeper, other)
      publish(sleeper, 1)
      publish(other, 1)
      wait.settled(sleeper, 1)
      wait.settled(other, 1)
      print(("%s; strict %s, fast %s"):format(tostring(took > 0.25), reasons(sleeper),
        reasons(other)))
      support.close()
    ]])

  shows("leaves the callbacks of the bus alone once its time is over",
    "true handler_timeout/HandlerTimeout/job\n", [[
      local logged = 0
      local bus = strict { on_log = function(_, text)
        for _ = 1, 1000 do logged = logged + #text end
      end }
      bus:subscribe(Job, function()
        for _ = 1, 2 do pcall(os.execute, "sleep 0.3") end
        bus:publish(Job { aggregate_id = moonbus.uuid(), n = 0 })
      end, { name = "job" })
      support.consume(bus)
      publish(bus, 1)
      wait.till(function() return bus:get_stats_dict().messages_sent_to_dlq >= 1 end, "a letter")
      bus:clear_subscribers()
      print(tostring(logged > 0) .. " " .. reasons(bus):match "%S+")
      bus:disconnect()
    ]])
end)

describe("guard fast", function()
  shows("reports and counts what took too long, and leaves the compiler alone",
    "true true none 1\n", [[
      local bus, lines = strict { guard = "fast" }
      local on
      bus:subscribe(Job, function()
        on = jit.status()
        local till = moonbus.now() + 0.3
        while moonbus.now() < till do end
      end)
      support.consume(bus)
      publish(bus, 1)
      wait.settled(bus, 1)
      print(tostring(on) .. " "
        .. tostring(#support.lines_with(lines, "warn", "handler_timeout_ms 150") == 1) .. " "
        .. reasons(bus) .. " " .. bus:get_stats_dict().handler_timeouts)
      bus:disconnect()
    ]])
end)

describe("a limit on memory", function()
  shows("is refused when the state is beyond it already",
    "ECONFIG ECONFIG: lua_memory_max_bytes 1000: the Lua state has N bytes already; "
      .. "set it to several times that\ntrue\n", [[
      local bus = support.new { lua_memory_max_bytes = 1000 }
      local ok, err, code = bus:connect()
      assert(not ok)
      print(code .. " " .. err:gsub("has %d+", "has N"))
      print((jit.status()))
    ]])

  shows("counts what handlers keep, and goes on once they drop it",
    "out_of_memory/OutOfMemory/keeper 3\n", [[
      local kept, done = {}, 0
      local bus = support.bus { partitions = 1, max_retries = 0, lua_memory_max_bytes = 40e6 }
      bus:subscribe(Job, function(event)
        if event.n == 4 then kept = {} end
        for i = 1, event.n == 3 and 400 or 100 do kept[#kept + 1] = ("x"):rep(1e5) .. #kept end
        if event.n == 3 then kept = nil end
        done = done + 1
      end, { name = "keeper" })
      support.consume(bus)
      publish(bus, 1, 2, 3, 4)
      wait.settled(bus, 4)
      print(reasons(bus) .. " " .. done)
      bus:disconnect()
    ]])

  shows("does not count what the next collection frees",
    "none 200 18000000\n", [[
      local done = 0
      local bus = support.bus { partitions = 1, max_retries = 0, lua_memory_max_bytes = 40e6 }
      local base = ("x"):rep(18e6)
      bus:subscribe(Job, function(event)
        local garbage = {}
        for i = 1, 30 do garbage[i] = ("y"):rep(1e5) .. i .. event.n end
        done = done + 1
      end)
      support.consume(bus)
      local list = {}
      for i = 1, 200 do list[i] = i end
      publish(bus, unpack(list))
      wait.settled(bus, 200)
      print(reasons(bus) .. " " .. done .. " " .. #base)
      bus:disconnect()
    ]])

  shows("holds for handlers only",
    "60 none\n", [[
      local bus = support.bus { partitions = 1, lua_memory_max_bytes = 30e6 }
      bus:subscribe(Job, function() end)
      support.consume(bus)
      local own = {}
      for i = 1, 60 do own[i] = ("x"):rep(1e6) .. i end
      own = #own
      collectgarbage()
      publish(bus, 1)
      wait.settled(bus, 1)
      print(own .. " " .. reasons(bus))
      bus:disconnect()
    ]])

  shows("goes with the state, connected or not",
    "ready\n", [[
      local bus = strict { lua_memory_max_bytes = 40e6 }
      _G.kept = bus
      bus:subscribe(Job, function() local t = {} while true do t[#t + 1] = { t } end end)
      support.consume(bus)
      publish(bus, 1)
      wait.settled(bus, 1)
      print "ready"
    ]])

  shows("may be taken up again",
    "out_of_memory/OutOfMemory/job out_of_memory/OutOfMemory/job\n", [[
      local bus = support.bus { partitions = 1, max_retries = 0, lua_memory_max_bytes = 40e6 }
      bus:subscribe(Job, function() local t = {} while true do t[#t + 1] = { t } end end,
        { name = "job" })
      for i = 1, 2 do
        support.consume(bus)
        publish(bus, i)
        wait.till(function() return bus:get_stats_dict().messages_sent_to_dlq == i end, "a letter")
        bus:disconnect()
        assert(bus:connect())
      end
      print(reasons(bus))
      bus:disconnect()
    ]])
end)

describe("a handler that reads", function()
  shows("records and dead letters fails like any other when they take too much",
    "out_of_memory/OutOfMemory/letters out_of_memory/OutOfMemory/records 3\n", [[
      local bus = support.bus { partitions = 1, max_retries = 0, lua_memory_max_bytes = 40e6 }
      local done = 0
      local function hoard(list)
        return function(record)
          for i = 1, 1000 do list[#list + 1] = record.value:rep(1000) .. #list .. i end
        end
      end
      bus:subscribe(Job, function(event)
        if event.n == 1 then bus:read({ partition = 0, offset = -1 }, hoard {}) end
      end, { name = "records" })
      bus:subscribe(Job, function(event)
        local hold = hoard {}
        if event.n == 2 then bus:get_dlq_messages { where = hold } end
      end, { name = "letters" })
      bus:subscribe(Job, function(event) if event.n > 2 then done = event.n end end)
      support.consume(bus)
      publish(bus, 1)
      wait.settled(bus, 1)
      publish(bus, 2, 3)
      wait.settled(bus, 3)
      local list = {}
      for word in reasons(bus):gmatch "%S+" do list[#list + 1] = word end
      table.sort(list)
      print(table.concat(list, " ") .. " " .. done)
      bus:disconnect()
    ]])
end)

describe("a LuaJIT whose allocator cannot be wrapped", function()
  it("is reported at the start", function()
    local dir = tmp.dir()
    local file = assert(io.open(dir .. "/shim.c", "w"))
    file:write "void lua_setallocf(void *L, void *f, void *ud) { (void)L, (void)f, (void)ud; }\n"
    file:close()
    local shim = dir .. "/shim.so"
    local build = process.run { "cc", "-shared", "-fPIC", "-o", shim, dir .. "/shim.c" }
    assert.equal(0, build.code, build.stderr)
    file = assert(io.open(dir .. "/script.lua", "w"))
    file:write [[
      local moonbus = require "moonbus"
      local bus = moonbus.bus { bootstrap_servers = "embedded", guard = "strict",
        handler_timeout_ms = 100 }
      print(select(2, bus:connect()), (jit.status()))
    ]]
    file:close()
    local child = process.run(process.moonbus("run", dir .. "/script.lua"), {
      env = { LD_PRELOAD = shim }, timeout = SECONDS,
    })
    assert.equal("EUNSUPPORTED: this LuaJIT does not let its allocator be wrapped; leave guard at "
      .. "fast and lua_memory_max_bytes at 0\ttrue\n", child.stdout)
  end)
end)

describe("moonbus run", function()
  it("knows both limits", function()
    local path = tmp.dir() .. "/limits.lua"
    local file = assert(io.open(path, "w"))
    file:write(PRELUDE:gsub('local support[^\n]*\nlocal wait[^\n]*\n', ""), [[
      local bus = moonbus.bus { bootstrap_servers = "embedded", topic_prefix = "limits",
        consumer_group = "limits", max_retries = 0, fetch_wait_max_ms = 10 }
      bus:subscribe(Job, function(event)
        if event.n == 2 then while true do pcall(error) end end
        local list = {}
        while event.n == 3 do list[#list + 1] = ("x"):rep(1e5) .. #list end
        print("handled " .. event.n)
      end, { name = "job" })
      assert(bus:connect())
      publish(bus, 1, 2, 3, 4)
      bus:start_consuming { until_idle = 0.2 }
      local list = {}
      for _, letter in ipairs(assert(bus:get_dlq_messages())) do
        list[#list + 1] = letter.headers.dlq_reason
      end
      table.sort(list)
      print("letters " .. table.concat(list, " "))
    ]])
    file:close()
    local child = process.run(process.moonbus("run", path, "--set", "guard=strict", "--set",
      "handler_timeout_ms=1000", "--set", "lua_memory_max_bytes=30000000"), { timeout = SECONDS })
    assert.equal(0, child.code, child.stdout .. child.stderr)
    assert.matches("handled 1\n", child.stdout)
    assert.matches("handled 4\n", child.stdout)
    assert.matches("letters handler_timeout out_of_memory\n", child.stdout, child.stderr)
  end)

  it("leaves to the supervisor what is stuck in C, at twice the limit", function()
    local broker = support.broker()
    local bus = broker:bus { consumer_group = "looker" }
    local path = tmp.dir() .. "/stuck.lua"
    local file = assert(io.open(path, "w"))
    file:write(PRELUDE:gsub('local support[^\n]*\nlocal wait[^\n]*\n', ""), [[
      local bus = moonbus.bus { max_retries = 0, fetch_wait_max_ms = 10,
        session_timeout_ms = 6000, heartbeat_interval_ms = 1000 }
      bus:subscribe(Job, function(event)
        if event.n == 1 then while true do pcall(error) end end
        if event.n == 2 then os.execute "exec sleep 5" end
        print("handled " .. event.n)
      end, { name = "job" })
      bus:connect()
      bus:start_consuming()
    ]])
    file:close()
    local events = {}
    for n = 1, 3 do
      events[n] = { event_type = "Job", aggregate_type = "Job", aggregate_id = support.uuid(n),
        n = n }
    end
    assert(bus:publish(events))
    local child = process.start(process.moonbus("run", path, "--workers", "1", "--set",
      "guard=strict", "--set", "handler_timeout_ms=500", "--bootstrap-servers", broker.address,
      "--topic-prefix", bus.config.topic_prefix, "--consumer-group", "stuck"))
    child:wait_for("handled 3", SECONDS)
    -- the first may run twice: its dead letter may not be acknowledged yet when the worker dies
    wait.till(function() return bus:get_dlq_message_count() >= 2 end, function()
      return "two dead letters\n" .. child.stderr
    end, SECONDS)
    local types = {}
    for _, letter in ipairs(assert(bus:get_dlq_messages())) do
      local h = letter.headers
      types[tonumber(h.dlq_original_offset) + 1] = h.dlq_error_type .. " " .. h.dlq_reason
    end
    assert.same({ "HandlerTimeout handler_timeout", "WorkerDied handler_timeout" }, types)
    child:stop(process.SIGTERM, SECONDS)
    support.close()
  end)
end)
