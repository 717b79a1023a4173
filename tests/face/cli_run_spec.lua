-- `moonbus run` on a broker of its own: consuming, stopping, limits, dead letters. Joining a group
-- takes the embedded broker 3 s, so that facts about one run share it.
local cjson = require "cjson"
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"
local wait = require "tests.support.wait"

local UUID = "00000000-0000-4000-8000-%012d"
local TICK = '{"event_type":"Tick","aggregate_type":"Clock","aggregate_id":"%s","n":%d}'

-- Leaves its bus to the host.
local PRINTER = [[
local moonbus = require "moonbus"
local bus = moonbus.bus {}
bus:subscribe("Tick", function(event) print("tick " .. event.n) end)
]]

describe("moonbus run", function()
  local broker, env

  setup(function()
    broker = process.start(process.moonbus "broker")
    env = {
      MOONBUS_BOOTSTRAP_SERVERS = broker:wait_for(function(p) return p.stdout:match "^(%S+)\n" end),
      MOONBUS_SESSION_TIMEOUT_MS = "6000", MOONBUS_HEARTBEAT_INTERVAL_MS = "500",
    }
  end)

  teardown(function()
    local ended = broker:stop()
    process.clean()
    tmp.clean()
    assert.equal(0, ended.code)
  end)

  local function moonbus(...)
    return process.run(process.moonbus(...), { env = env })
  end

  local function start(...)
    return process.start(process.moonbus("run", ...), { env = env })
  end

  local function publish(prefix, from, to)
    local lines = {}
    for i = from, to do
      lines[#lines + 1] = TICK:format(UUID:format(i), i)
    end
    local result = process.run(process.moonbus("publish", "-", "--topic-prefix", prefix),
      { env = env, input = table.concat(lines, "\n") })
    assert.equal(0, result.code, result.stderr)
  end

  local function ticks(run)
    local seen, count = {}, 0
    for n in run.stdout:gmatch "tick (%d+)\n" do
      seen[tonumber(n)] = (seen[tonumber(n)] or 0) + 1
      count = count + 1
    end
    return count, seen
  end

  describe("with a script that leaves its bus to the host", function()
    local run, script

    setup(function()
      script = tmp.file("printer.lua", PRINTER)
      publish("stop", 1, 50)
      run = start(script, "--topic-prefix", "stop", "--consumer-group", "g")
    end)

    it("connects and consumes", function()
      run:wait_for(function() return ticks(run) == 50 end)
    end)

    it("prints what the script prints when it prints it", function()
      publish("stop", 51, 51)
      run:wait_for "tick 51\n"
    end)

    it("costs next to nothing while nothing comes", function()
      wait.within(0.1, function()
        local before = run:cpu_seconds()
        run:observe(2)
        return run:cpu_seconds() - before
      end)
    end)

    it("ends within a second of SIGTERM, with 0 and its offsets committed", function()
      wait.within(1, function(try)
        if try > 1 then
          run = start(script, "--topic-prefix", "stop", "--consumer-group", "g")
          run:wait_for "assigned partitions of"
        end
        local begin = process.now()
        assert.equal(0, run:stop(process.SIGTERM).code)
        local passed = process.now() - begin
        assert.matches("gave up partitions", run.stderr)
        return passed
      end)
      publish("stop", 52, 53)
      local again = moonbus("run", script, "--topic-prefix", "stop", "--consumer-group", "g",
        "--until-idle", "0.5")
      assert.equal(0, again.code)
      assert.same({ 2, { [52] = 1, [53] = 1 } }, { ticks(again) })
    end)
  end)

  -- Each of the loops runs until LuaJIT has compiled it; then, whether as a whole. (If not, traces
  -- end and begin again at each call of a function in C.)
  local LOOPS = [[
local whole, t, sum = {}, {}, 0
for i = 1, 50 do t["key" .. i] = i end
local function by_pairs() for _, n in pairs(t) do sum = sum + n end end
local function by_next() for _, n in next, t do sum = sum + n end end
local function by_hand()
  local key, n = next(t)
  while key do
    sum = sum + n
    key, n = next(t, key)
  end
end
local function by_number() for n = 1, 50 do sum = sum + n end end
local function note(what, trace, func)
  if what == "stop" and require("jit.util").traceinfo(trace).linktype == "loop" then
    whole[func] = true
  end
end
jit.attach(note, "trace")
for _, loop in ipairs { by_pairs, by_next, by_hand, by_number } do
  for _ = 1, 300 do loop() end
end
jit.attach(note)
print(sum, whole[by_pairs], whole[by_next], whole[by_hand], whole[by_number])
print(next({}), (pcall(pairs)), pcall(next, {}, "none"))
]]

  it("does not compile loops over pairs where LuaJIT does it wrong", function()
    local file = tmp.file("loops.lua", LOOPS)
    local answer = "1530000\t%s\t%s\t%s\ttrue\nnil\tfalse\tfalse\tinvalid key to 'next'\n"
    local plain = process.run { "luajit", file }
    assert.equal(answer:format("true", "true", "true"), plain.stdout)
    local wrong = jit.version == "LuaJIT 2.1.0-beta3"
    local ours = process.run(process.moonbus("run", file))
    assert.equal(wrong and answer:format("nil", "nil", "nil") or plain.stdout,
      ours.stdout, ours.stderr)
  end)

  it("finishes the event in hand, and no other, when it is interrupted", function()
    publish("hand", 1, 20)
    local run = start(tmp.file("hand.lua", [[
local moonbus = require "moonbus"
local bus = moonbus.bus {}
bus:subscribe("Tick", function(event)
  print("begin " .. event.n)
  local till = moonbus.now() + 1
  while moonbus.now() < till do end
  print("tick " .. event.n)
end)
assert(bus:connect())
assert(bus:start_consuming())
print("left")
]]), "--topic-prefix", "hand")
    run:wait_for "begin "
    assert.equal(0, run:stop(process.SIGINT).code)
    assert.matches("^begin (%d+)\ntick %1\nleft\n$", run.stdout)
    local rest = moonbus("run", tmp.file("printer.lua", PRINTER), "--topic-prefix", "hand",
      "--until-idle", "0.5")
    assert.equal(19, (ticks(rest)))
  end)

  it("consumes all buses together, also those of several scripts", function()
    publish("one", 1, 3)
    publish("two", 4, 6)
    local result = moonbus("run", tmp.file("one.lua", [[
local moonbus = require "moonbus"
for _, prefix in ipairs { "one", "two" } do
  moonbus.bus { topic_prefix = prefix, consumer_group = prefix }:subscribe("Tick", function(event)
    print("tick " .. event.n)
  end)
end
]]), tmp.file("closed.lua", [[
local bus = require "moonbus".bus { topic_prefix = "one" }
bus:subscribe("Tick", function() print "a bus that was disconnected" end)
assert(bus:connect())
assert(bus:disconnect())
print(arg[0]:match "[^/]*$")
]]), "--until-idle", "0.5")
    assert.equal(0, result.code, result.stderr)
    assert.equal(6, (ticks(result)))
    assert.matches("closed.lua\n", result.stdout)
    assert.not_matches("disconnected", result.stdout)
  end)

  it("runs no script before all of them can be read", function()
    local first = tmp.file("first.lua", "print 'ran'")
    local result = moonbus("run", first, "/nowhere/second.lua")
    assert.equal(6, result.code)
    assert.equal("", result.stdout)
    assert.matches("^moonbus: EIO: cannot open the script: /nowhere/second.lua", result.stderr)
    result = moonbus("run", first, tmp.file("second.lua", "local = 1"))
    assert.equal(3, result.code)
    assert.equal("", result.stdout)
  end)

  it("ends after --for, whatever the script says", function()
    local begin = process.now()
    local result = moonbus("run", tmp.file("for.lua", [[
local bus = require "moonbus".bus { topic_prefix = "for" }
assert(bus:connect())
assert(bus:start_consuming { for_seconds = 60 })
print "over"
]]), "--for", "0.5")
    assert.same({ 0, "over\n" }, { result.code, result.stdout })
    assert.is_true(process.now() - begin < 30)
  end)

  it("ends scripts that wait, or publish for ever", function()
    for _, body in ipairs { "moonbus.sleep(0.01)", "moonbus.sleep(3600)",
      "assert(bus:publish(event))", "assert(bus:publish(event, { background = true }))" } do
      local run = start(tmp.file("loop.lua", [[
local moonbus = require "moonbus"
local bus = moonbus.bus { topic_prefix = "loop" }
assert(bus:connect())
local event = { event_type = "E", aggregate_type = "A", aggregate_id = moonbus.uuid() }
print "begin"
while true do ]] .. body .. " end"))
      run:wait_for "begin"
      assert.equal(0, run:stop(process.SIGTERM).code, run.stderr)
      assert.not_matches("moonbus:", run.stderr)
    end
  end)

  it("ends though the signal comes while a store waits for a file that is locked", function()
    local path = tmp.dir() .. "/locked.db"
    local run = start(tmp.file("locked.lua", ([[
local moonbus = require "moonbus"
local other = require "DBI".Connect("SQLite3", %q)
other:prepare "BEGIN IMMEDIATE":execute()
local store = moonbus.stores.sqlite { path = %q, busy_timeout_ms = 1500 }
print "begin"
print(pcall(store.transaction, store, function() end))
moonbus.sleep(3600)]]):format(path, path)))
    run:wait_for "begin"
    assert.equal(0, run:stop(process.SIGTERM).code, run.stderr)
    assert.matches("is locked", run.stdout)
  end)

  it("sends what is queued when a script leaves by os.exit", function()
    local result = moonbus("run", tmp.file("exit.lua", [[
local moonbus = require "moonbus"
local bus = moonbus.bus { topic_prefix = "exit", linger_ms = 1000 }
assert(bus:connect())
for _ = 1, 10 do
  assert(bus:publish({ event_type = "E", aggregate_type = "A", aggregate_id = moonbus.uuid() },
    { background = true }))
end
os.exit(7)
]]))
    assert.equal(7, result.code)
    local sent = moonbus("tail", "--topic-prefix", "exit").stdout
    assert.equal(10, select(2, sent:gsub("\n", "")))
  end)

  describe("with a handler that fails", function()
    local dlq

    setup(function()
      publish("dead", 1, 3)
      local result = moonbus("run", tmp.file("failing.lua", [[
local bus = require "moonbus".bus { max_retries = 0 }
bus:subscribe("Tick", function(event)
  if event.n ~= 2 then error("no room for " .. event.n) end
end)
]]), "--topic-prefix", "dead", "--until-idle", "0.5")
      assert.equal(0, result.code)
      dlq = function(...)
        return moonbus("dlq", ...)
      end
      env.MOONBUS_TOPIC_PREFIX = "dead"
    end)

    teardown(function() env.MOONBUS_TOPIC_PREFIX = nil end)

    it("has dead letters, which are counted and listed", function()
      assert.equal("2\n", dlq("count").stdout)
      assert.same({ topic = "dead.stream.dlq", count = 2 },
        cjson.decode(dlq("count", "--json").stdout))
      local list = {}
      for line in dlq("list", "--json").stdout:gmatch "[^\n]+" do
        list[#list + 1] = cjson.decode(line)
      end
      assert.equal(2, #list)
      assert.matches("no room for %d", list[1].headers.dlq_error_message)
      assert.equal("dead.stream", list[1].headers.dlq_original_topic)
      assert.equal(0, list[1].replay_count)
      local text = dlq("list", "--limit", "1").stdout
      assert.matches("^dead.stream.dlq%[%d%]@0 %S+ Tick max_retries_exceeded LuaError: [^\n]*"
        .. "no room for %d %(from dead.stream%[%d%]@%d, attempts %d, replayed 0%)\n$", text)
    end)

    it("has them replayed, one or all", function()
      local one = cjson.decode(dlq("list", "--json", "--limit", "1").stdout:match "[^\n]+")
      local result = dlq("replay", "--partition", tostring(one.partition), "--offset",
        tostring(one.offset))
      assert.same({ 0, "replayed 1 to dead.stream\n" }, { result.code, result.stdout })
      local rest = cjson.decode(dlq("replay", "--all", "--json").stdout)
      assert.same({ "dead.stream", 1, 0, 0, 1 }, { rest.topic, rest.replayed, rest.refused,
        rest.failed, rest.skipped }) -- the one is not put back once more
      local run = moonbus("run", tmp.file("printer.lua", PRINTER), "--until-idle", "0.5")
      assert.same({ 2, nil }, { ticks(run), select(2, ticks(run))[2] })
    end)

    it("has none where none is", function()
      local result = dlq("replay", "--partition", "0", "--offset", "999")
      assert.equal(1, result.code)
      assert.matches("^moonbus: ENOENT: no dead letter at dead.stream.dlq%[0%] offset 999",
        result.stderr)
      assert.equal(2, dlq("replay", "--partition", "0").code)
      assert.equal(2, dlq("replay", "--partition", "0", "--all").code)
      publish("alive", 1, 1)
      assert.equal("0\n", moonbus("dlq", "count", "--topic-prefix", "alive").stdout)
      assert.equal("", moonbus("dlq", "list", "--topic-prefix", "alive").stdout)
    end)
  end)
end)
