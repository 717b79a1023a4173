-- The log: one form for every line of every process, fields to search by, equal failures folded.
local cjson = require "cjson"
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"

local UUID = "00000000-0000-4000-8000-%012d"

local SCRIPT = [[
local moonbus = require "moonbus"
local ffi = require "ffi"
ffi.cdef "void _exit(int code);"
local bus = moonbus.bus {
  consumer_group = "logs", session_timeout_ms = 6000, heartbeat_interval_ms = 500,
  max_retries = 0, log_format = os.getenv "FORMAT", dlq_breaker_run = 0, dlq_breaker_ratio = 0,
}
moonbus.log.warn("script up", { rate = 1.5, ok = true, name = "a b", level = "taken" })
moonbus.log.debug "never seen"
bus:subscribe("Tick", function(event)
  if event.n == 1 then moonbus.log.info("one", { n = event.n }) end
  if event.n == 0 then ffi.C._exit(0) end
  nothing()
end)
]]

describe("the log", function()
  local broker, address, script

  setup(function()
    script = tmp.file("logs.lua", SCRIPT)
    broker = process.start(process.moonbus "broker")
    address = broker:wait_for(function(p) return p.stdout:match "^(%S+)\n" end)
  end)

  teardown(function()
    process.clean()
    tmp.clean()
  end)

  local function env(prefix, more)
    local all = { MOONBUS_BOOTSTRAP_SERVERS = address, MOONBUS_TOPIC_PREFIX = prefix }
    for name, value in pairs(more or {}) do all[name] = value end
    return all
  end

  local function publish(prefix, from, to)
    local lines = {}
    for i = from, to do
      lines[#lines + 1] = ('{"event_type":"Tick","aggregate_type":"C","aggregate_id":"%s","n":%d}')
        :format(UUID:format(i), i)
    end
    local sent = process.run(process.moonbus("publish", "-", "--log-format", "json"),
      { input = table.concat(lines, "\n"), env = env(prefix) })
    assert.equal(0, sent.code, sent.stderr)
    assert.matches("^published 1?%d* events to", cjson.decode(sent.stderr).message)
  end

  -- Every line of stderr, decoded.
  local function lines_of(ended)
    local list = {}
    for line in ended.stderr:gmatch "[^\n]+" do
      local ok, row = pcall(cjson.decode, line)
      assert.is_true(ok, line)
      list[#list + 1] = row
    end
    return list
  end

  local function find(list, pattern)
    for _, row in ipairs(list) do
      if row.message:find(pattern) then return row end
    end
    error("no line has " .. pattern)
  end

  local ways = {
    flag = { { "--log-format", "json" } },
    setting = { { "--set=log_format=json" } },
    environment = { {}, { MOONBUS_LOG_FORMAT = "json" } },
    script = { {}, { FORMAT = "json" } },
  }
  for name, how in pairs(ways) do
    it("is JSON in every process, asked for by " .. name, function()
      publish(name, 0, 3)
      local run = process.start(process.moonbus("run", script, "--workers", "2", unpack(how[1])),
        { env = env(name, how[2]) })
      run:wait_for(function(p) return p.stderr:find "died" and p.stderr:find '"one"' end)
      run:wait_for(function(p) return select(2, p.stderr:gsub("dead letter", "")) >= 2 end)
      local ended = run:stop()
      assert.equal(0, ended.code)
      local list = lines_of(ended)
      assert.is_nil(find(list, "^worker %d died").worker)
      local up = find(list, "^script up$")
      assert.same({ "warn", 1.5, true, "a b", "taken" }, { up.level, up.rate, up.ok, up.name,
        up.level_ })
      local one = find(list, "^one$")
      assert.same({ 1, "Tick", UUID:format(1), 1, "logs", name .. ".stream" }, { one.n,
        one.event_type, one.key, one.attempt, one.group, one.topic })
      assert.is_number(one.worker)
      assert.is_number(one.pid)
      local failed = find(list, "attempt 1 failed")
      assert.same({ "warn", "LuaError", "Tick", 1 }, { failed.level, failed.error_type,
        failed.event_type, failed.attempt })
      assert.is_number(failed.offset)
      assert.is_number(failed.partition)
      assert.is_string(failed.event_id)
    end)
  end

  it("has the event of a paused partition and of a slow handler in fields", function()
    local slow = tmp.file("slow.lua", [[
      local moonbus = require "moonbus"
      local bus = moonbus.bus { consumer_group = "slow", max_retries = 0, dlq_breaker_run = 1,
        dlq_breaker_ratio = 0, handler_timeout_ms = 20 }
      bus:subscribe("Tick", function(event)
        local finish = os.clock() + 0.03
        while event.n == 1 and os.clock() < finish do end
        error "it fails"
      end)
    ]])
    publish("slow", 1, 12)
    local run = process.start(process.moonbus("run", slow, "--log-format", "json", "--until-idle",
      "1"), { env = env "slow" })
    local list = lines_of(run:wait())
    for _, row in ipairs { find(list, "its handlers took"), find(list, "circuit breaker open") } do
      assert.equal("Tick", row.event_type)
      assert.is_string(row.event_id)
      assert.is_number(row.partition)
      assert.is_number(row.offset)
      assert.equal(1, row.attempt)
    end
    assert.equal("LuaError", find(list, "circuit breaker open").error_type)
    local left = find(list, "circuit breaker is still open")
    assert.is_number(left.partition)
    assert.is_number(left.offset)
  end)

  it("is JSON for the last words of every command", function()
    for _, words in ipairs {
      { "run", "/nowhere.lua" }, { "tail", "--limt", "1" }, { "publish", "/nowhere" },
      { "check", tmp.file("bad.lua", "error 'two\\nlines'") }, { "run", tmp.file("exit.lua",
        "os.exit(4)") }, { "run", "/nowhere.lua", "--workers", "2" }, { "dlq", "show" },
    } do
      words[#words + 1] = "--log-format=json"
      local ended = process.run(process.moonbus(unpack(words)), { env = env "last" })
      assert.is_true(ended.code > 0)
      local list = lines_of(ended)
      assert.is_true(#list >= 1)
      assert.is_number(list[1].pid)
    end
  end)

  it("folds equal failures, and counts every one of them", function()
    publish("fold", 1, 1000)
    local run = process.start(process.moonbus("run", script, "--log-format", "json", "--until-idle",
      "1"), { env = env "fold" })
    local ended = run:wait()
    local lines, failures = 0, 0
    for _, row in ipairs(lines_of(ended)) do
      if row.message:find "attempt 1 failed" then
        lines, failures = lines + 1, failures + (row.count or 1)
      end
    end
    assert.equal(1000, failures)
    assert.is_true(lines < 100, lines .. " lines")
  end)

  it("takes lines of scripts in plain luajit, as text", function()
    local ended = process.run({ "luajit", tmp.file("plain.lua", [[
      local moonbus = require "moonbus"
      moonbus.log.error("none yet", { b = 2, a = "x y" })
      local bus = moonbus.bus { log_level = "warn" }
      moonbus.log.info "too low"
      moonbus.log.warn("shown", { big = 2 ^ 40 })
      print(pcall(moonbus.log.info, 5))
      print(pcall(moonbus.log.info, "x", { "y" }))
    ]]) }, { env = { LUA_PATH = package.path, LUA_CPATH = package.cpath } })
    assert.equal(0, ended.code, ended.stderr)
    assert.matches('^%S+ ERROR none yet a="x y" b=2\n%S+ WARN  shown big=1099511627776\n$',
      ended.stderr)
    assert.matches("moonbus.log.info: expected a message, got a number", ended.stdout, 1, true)
    assert.matches("fields: expected names as keys, got a number", ended.stdout, 1, true)
  end)
end)
