-- How commands end: every command by every way to end it, and the exit code that the help names.
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"

local TICK = '{"event_type":"Tick","aggregate_type":"C","aggregate_id":"'
  .. '00000000-0000-4000-8000-000000000001","n":1}\n'

local HANDLER = [[
local moonbus = require "moonbus"
local bus = moonbus.bus {
  consumer_group = "endings", session_timeout_ms = 6000, heartbeat_interval_ms = 500,
  max_retries = 1, retry_base_delay = 0.01,
}
bus:subscribe("Tick", function() %s end)
]]

local MODEL = [[
local moonbus = require "moonbus"
local bus = moonbus.bus { consumer_group = "models" }
bus:subscribe_all(moonbus.projection("sums", {
  store = moonbus.stores.sqlite { path = os.getenv "DB" },
  init = function() end,
  handles = { [moonbus.event("Tick", { n = "integer" })] = function() moonbus.sleep(0.2) end },
}))
]]

describe("an exit code", function()
  local broker, address

  setup(function()
    broker = process.start(process.moonbus "broker")
    address = broker:wait_for(function(p) return p.stdout:match "^(%S+)\n" end)
  end)

  teardown(function()
    process.clean()
    tmp.clean()
  end)

  local function env(prefix, at)
    return { MOONBUS_BOOTSTRAP_SERVERS = at or address, MOONBUS_TOPIC_PREFIX = prefix,
      DB = tmp.file("model.db", "") }
  end

  local function publish(prefix, text)
    local sent = process.run(process.moonbus("publish", "-"), { env = env(prefix), input = text })
    assert.equal(0, sent.code, sent.stderr)
  end

  -- Whether SIGTERM has a handler, or is the supervisor's.
  local function takes_signals(started)
    local file = io.open(("/proc/%d/status"):format(started.pid))
    local caught = file and file:read("*a"):match "SigCgt:%s*(%x+)"
    if file then file:close() end
    return caught and bit.band(tonumber(caught:sub(-4), 16), 0x4000) ~= 0
      or #started:children() == 2
  end

  describe("is 0 after a signal for", function()
    local idle, model

    setup(function()
      idle = tmp.file("idle.lua", HANDLER:format "")
      model = tmp.file("model.lua", MODEL)
      publish("ended", TICK:rep(300))
    end)

    local function long(words, ready, input)
      return { words = words, ready = ready, input = input }
    end

    local function commands()
      return {
        long({ "run", idle }, "assigned partitions"),
        long({ "run", idle, "--workers", "2" }, "assigned partitions"),
        long({ "run", tmp.file("sleeps.lua", 'print "up" require "moonbus".sleep(600)') }, "up\n"),
        long({ "publish", "-" }, nil, TICK),
        long({ "tail", "-f" }, " Tick "),
        long({ "rebuild", model }, nil),
        long({ "broker" }, ":"),
      }
    end

    for _, name in ipairs { "SIGTERM", "SIGHUP" } do
      it("what runs until it is stopped: " .. name, function()
        for _, each in ipairs(commands()) do
          local started = process.start(process.moonbus(unpack(each.words)),
            { env = env "ended", input = each.input, keep_open = each.input ~= nil })
          started:wait_for(each.ready or takes_signals)
          local ended = started:stop(process[name])
          assert.equal(0, ended.code, started.name .. "\n" .. ended.stderr)
        end
      end)
    end

    it("what still waits for a broker", function()
      local nobody = "127.0.0.1:1"
      for _, words in ipairs {
        { "run", idle }, { "run", idle, "--workers", "2" }, { "publish", "-" }, { "tail" },
        { "topics", "describe", "a.stream" }, { "dlq", "list" }, { "dlq", "replay", "--all" },
        { "dlq", "count" }, { "projections", model }, { "rebuild", model },
      } do
        local started = process.start(process.moonbus(unpack(words)), { env = env("none", nobody),
          keep_open = true })
        started:wait_for(takes_signals)
        local ended = started:stop(process.SIGTERM)
        assert.equal(0, ended.code, started.name .. "\n" .. ended.stderr)
        assert.equal("", ended.stderr:gsub("%S+ WARN [^\n]*\n", ""))
      end
    end)
  end)

  describe("is that of the cause:", function()
    local function script(text) return tmp.file("script.lua", text) end

    local function ends(code, pattern, words)
      local ended = process.run(process.moonbus(unpack(words)), { env = env "causes" })
      assert.equal(code, ended.code, table.concat(words, " ") .. "\n" .. ended.stderr)
      assert.matches("^moonbus: " .. pattern, ended.stderr)
      assert.not_matches("EINTERNAL", ended.stderr)
    end

    -- The commands that run a script; what they say of it is the same.
    local function each_command(fn)
      for _, words in ipairs { { "check" }, { "run" }, { "projections" }, { "rebuild" },
        { "dlq", "list" } } do
        fn(function(path)
          local all = { unpack(words) }
          all[#all + 1] = path
          return all
        end)
      end
    end

    it("6 for a script that cannot be read", function()
      each_command(function(on)
        ends(6, "EIO: cannot open the script: /nowhere.lua", on "/nowhere.lua")
        ends(6, "EIO: cannot read the script /", on "/")
      end)
      ends(6, "EIO: cannot open /nowhere", { "publish", "/nowhere" })
    end)

    it("3 for a script that goes wrong, whatever it runs out of", function()
      local wrongs = {
        ["[^\n]*stack overflow"] = "local function f() return 1 + f() end f()",
        ["not enough memory"] = 'local s = ("x"):rep(2 ^ 31 - 1)',
        ["[^\n]*no luck"] = 'error "no luck"',
        ["[^\n]*error value is a nil"] = "error(nil)",
        ["[^\n]*in tostring"] =
          'error(setmetatable({}, { __tostring = function() error "in tostring" end }))',
        ["[^\n]*'%)' expected"] = "(1",
        ["[^\n]*'no_such_module'"] = 'require "no_such_module"',
      }
      each_command(function(on)
        for pattern, text in pairs(wrongs) do ends(3, "ESCRIPT: " .. pattern, on(script(text))) end
      end)
    end)

    it("the script's own when it calls os.exit, and that is said", function()
      for _, each in ipairs { { "os.exit(5)", 5 }, { "os.exit(0)", 0 }, { "os.exit()", 0 },
        { "os.exit(false)", 1 } } do
        ends(each[2], "the script ends the program by os.exit%(", { "run", script(each[1]) })
      end
    end)
  end)

  describe("of a handler that ends its process", function()
    local function run(prefix, body, ...)
      publish(prefix, TICK)
      local path = tmp.file("leaves.lua", HANDLER:format(body))
      return process.start(process.moonbus("run", path, ...), { env = env(prefix) })
    end

    it("is not taken: os.exit costs the event an attempt, and it becomes a dead letter", function()
      for i, workers in ipairs { "1", "2" } do
        local started = run("handler" .. i, "os.exit(0)", "--workers", workers)
        started:wait_for(function(p) return p.stderr:find "attempt 2 failed[^\n]*dead letter" end)
        assert.matches("LuaError: [^\n]*leaves.lua:6: os.exit%(0%) in a handler", started.stderr)
        assert.equal(0, started:stop().code)
      end
    end)

    it("is a worker's death when it goes around os.exit", function()
      local started = run("around", [[local ffi = require "ffi"
        ffi.cdef "void _exit(int code);" ffi.C._exit(0)]], "--workers", "2")
      started:wait_for(function(p) return p.stderr:find "dead letter" end)
      assert.matches("worker %d died: worker_crashed %(a handler ended the process, exit code 0%); "
        .. "it had in hand around.stream", started.stderr)
      assert.equal(0, started:stop().code)
    end)
  end)
end)
