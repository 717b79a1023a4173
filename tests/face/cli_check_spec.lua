-- `moonbus check`, and what `moonbus run` says about scripts that are wrong: no broker is needed.
local cjson = require "cjson"
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"

local GOOD = [[
local moonbus = require "moonbus"
local Order = moonbus.event("OrderPlaced", {
  aggregate_type = "Order", customer_id = "string", total = { type = "number", default = 0 },
})
local bus = moonbus.bus { topic_prefix = "orders", consumer_group = "mail" }
bus:subscribe(Order, function() end)
bus:subscribe(Order, function() end)
bus:subscribe("Unknown", function() end)
bus:subscribe_to_all_events(function() end)
assert(bus:connect())
local receipt = assert(bus:publish { Order { aggregate_id = moonbus.uuid(), customer_id = "C" } })
print("published", receipt.partitions[1])
assert(bus:get_topic_info().topic == "orders.stream")
moonbus.sleep(60)
assert(bus:start_consuming())
moonbus.with({ topic_prefix = "audit" }, function(other)
  other:subscribe(Order, function() end)
  return other:start_consuming()
end)
]]

describe("a script", function()
  teardown(function()
    process.clean()
    tmp.clean()
  end)

  local function moonbus(env, ...)
    return process.run(process.moonbus(...), { env = env })
  end

  local function check(text, ...)
    return moonbus(nil, "check", tmp.file("script.lua", text), ...)
  end

  describe("that is right", function()
    it("reports its projections, and that one of them cannot be rebuilt", function()
      local script = [[
        local moonbus = require "moonbus"
        local store = moonbus.stores.sqlite { path = "/nowhere/model.db" }
        local bus = moonbus.bus { topic_prefix = "orders" }
        bus:subscribe_all(moonbus.projection("sums", { store = store,
          handles = { Paid = function() end, Sent = function() end } }))
        bus:subscribe_all(moonbus.projection("rows", { store = store, init = function() end,
          handles = { Paid = function() end } }))
        bus:rebuild(bus.subscriptions[3].handler)
        bus:subscribe_all(moonbus.projection("own", { handles = { Paid = function() end } }))
      ]]
      local result = check(script)
      assert.equal(0, result.code, result.stderr)
      assert.matches("\n  projection sums          in sqlite /nowhere/model.db\n  projection rows "
        .. "         in sqlite /nowhere/model.db\nwarning: projection sums has neither init nor "
        .. "truncate; it cannot be rebuilt\nok\n$", result.stdout)
      local one = cjson.decode(check(script, "--json").stdout)
      assert.same({ { name = "sums", store = "sqlite /nowhere/model.db", rebuilt = "never" },
        { name = "rows", store = "sqlite /nowhere/model.db", rebuilt = "beside" } },
        one.buses[1].projections)
    end)

    it("is checked without a broker; what it declares is printed", function()
      local result = check(GOOD)
      assert.equal(0, result.code, result.stderr)
      assert.equal([[
event OrderPlaced
  customer_id              string
  total                    number? = 0
  aggregate_type           = "Order"
bus on orders.stream, group mail, brokers localhost:9092
  OrderPlaced              2 handlers
  Unknown                  1 handler; no such event is declared
  (all events)             1 handler
bus on audit.stream, group default, brokers localhost:9092
  OrderPlaced              1 handler
ok
]], result.stdout)
      assert.equal("published\t0\n", result.stderr)
    end)

    it("is described in JSON", function()
      local said = cjson.decode(check(GOOD, "--json", "--consumer-group", "flagged").stdout)
      assert.is_true(said.ok)
      assert.same({
        { name = "customer_id", type = "string" }, { name = "total", type = "number?" },
      }, said.events[1].fields)
      assert.same({ "orders.stream", "orders.stream.dlq", "flagged" },
        { said.buses[1].topic, said.buses[1].dlq_topic, said.buses[1].consumer_group })
      assert.same({ event_type = "OrderPlaced", handlers = 2, declared = true },
        said.buses[1].subscriptions[1])
    end)

    it("is warned of old versions that nothing lifts", function()
      local text = [[require "moonbus".event("Tick", { event_version = 4, upcast = {
        [2] = function(data) return data end } })]]
      local warnings = {
        "Tick: upcast[1] is missing; events of version 1 will be dead letters",
        "Tick: upcast[3] is missing; events of version 3 will be dead letters",
      }
      local result = check(text)
      assert.equal(0, result.code)
      assert.equal(("event Tick\n  %-24s = 4\nwarning: %s\nwarning: %s\nok\n")
        :format("event_version", warnings[1], warnings[2]), result.stdout)
      assert.same(warnings, cjson.decode(check(text, "--json").stdout).warnings)
    end)

    it("may leave by os.exit", function()
      assert.matches("event Tick\nok\n",
        check('require "moonbus".event("Tick", {}) os.exit(9)').stdout)
    end)

    it("may go on for ever: what it declared until then counts", function()
      local result = check('require "moonbus".event("Tick", {}) while true do end')
      assert.equal(0, result.code)
      assert.matches("event Tick\nok %(still running", result.stdout)
    end)

    it("need not go on without what consuming brings", function()
      local text = [[
        local moonbus = require "moonbus"
        local bus = moonbus.bus { topic_prefix = "x", consumer_group = "x" }
        local last
        bus:subscribe_to_all_events(function(event) last = event end)
        bus:connect()
        bus:start_consuming()
        print(last.event_type)
      ]]
      local result = check(text)
      assert.equal(0, result.code)
      assert.matches("\nwarning: checked as far as .*script.lua:7: attempt to index.*\nok\n$",
        result.stdout)
      result = check((text:gsub("bus:start_consuming%(%)", "")))
      assert.equal(3, result.code)
      assert.matches("script.lua:7: attempt to index", result.stderr, 1, true)
    end)

    it("finds modules beside itself", function()
      tmp.file("beside.lua", 'return { name = "Beside" }')
      assert.matches("event Beside", check(
        'require "moonbus".event(require "beside".name, { n = "integer" })').stdout)
    end)
  end)

  -- The same words from check and from run.
  local function wrong(text, status, pattern, traceback)
    local path = tmp.file("wrong.lua", text)
    for _, command in ipairs { "check", "run" } do
      local result = moonbus(nil, command, path)
      assert.equal(status, result.code, command .. ": " .. result.stderr)
      assert.matches("^moonbus: " .. pattern, result.stderr)
      if traceback then assert.matches("\nstack traceback:\n.*" .. traceback, result.stderr)
      else assert.not_matches("traceback", result.stderr) end
      assert.not_matches("moonbus.cli", result.stderr, 1, true)
    end
    local json = cjson.decode(moonbus(nil, "check", "--json", path).stdout)
    assert.is_false(json.ok)
    assert.matches("^" .. pattern, json.error.code .. ": " .. json.error.message)
  end

  describe("that is wrong", function()
    it("ends with 3 for a syntax error, at its line", function()
      wrong("local x = 1\nlocal = 2\n", 3, "ESCRIPT: [^\n]*wrong.lua:2: ")
    end)

    it("ends with 3 for a runtime error, with the script's traceback", function()
      wrong("local function f() return nil + 1 end\n\nf()\n", 3,
        "ESCRIPT: [^\n]*wrong.lua:1: attempt to perform arithmetic", "wrong.lua:3: in [^\n]*\n$")
      wrong("error { message = 'a table' }", 3, "ESCRIPT: a table", "wrong.lua:1: ")
      wrong("error {}", 3, "ESCRIPT: the error value is a table", "wrong.lua:1: ")
      wrong("error(setmetatable({}, { __index = function() error {} end }))", 3,
        "ESCRIPT: the error value is a table", "wrong.lua:1: ")
    end)

    it("ends with 3 for an event that does not fit its type", function()
      wrong([[
local E = require "moonbus".event("E", { aggregate_type = "A", n = "integer" })
E { aggregate_id = require "moonbus".uuid(), n = "one" }
]], 3, "%u+: [^\n]*wrong.lua:2: .*E%.n: ", "wrong.lua:2: ")
    end)

    it("ends with 2 for a wrong option, which it names", function()
      wrong('require "moonbus".bus { topic_prefx = "a" }', 2,
        'ECONFIG: [^\n]*wrong.lua:1: [^\n]*topic_prefx[^\n]*topic_prefix')
    end)

    it("ends with 6 if it is not there", function()
      for _, command in ipairs { "check", "run" } do
        local result = moonbus(nil, command, "/nowhere/script.lua")
        assert.equal(6, result.code)
        assert.matches("^moonbus: EIO: cannot open the script: /nowhere/script.lua: No such file",
          result.stderr)
        assert.equal(6, moonbus(nil, command, "/tmp").code)
      end
    end)
  end)

  describe("without a broker", function()
    local ABSENT = { MOONBUS_BOOTSTRAP_SERVERS = "127.0.0.1:1" }

    local function absent(text)
      local result = moonbus(ABSENT, "run", tmp.file("absent.lua", text))
      assert.equal(4, result.code, result.stderr)
      assert.matches("^moonbus: ECONNECT: [^\n]*no broker answers at 127.0.0.1:1", result.stderr)
      assert.not_matches("traceback", result.stderr)
    end

    it("ends with 4 when it asserts a connection", function()
      absent 'local bus = require "moonbus".bus {} assert(bus:connect(0.2))'
    end)

    it("ends with 4 when it looks away", function()
      absent [[
local bus = require "moonbus".bus {}
bus:connect(0.2)
bus:publish { event_type = "E", aggregate_type = "A", aggregate_id = require "moonbus".uuid() }
]]
      absent 'local bus = require "moonbus".bus {} bus:connect(0.2) bus:start_consuming()'
      absent [[
local moonbus = require "moonbus"
local bus = moonbus.bus {}
bus:subscribe_to_all_events(function() end)
bus:connect(0.2)
]]
    end)

    it("ends at once with 0 when it is interrupted while it connects", function()
      local script = tmp.file("connect.lua", [[
io.stdout:write("connecting\n")
assert(require "moonbus".bus {}:connect(60))
]])
      local run = process.start(process.moonbus("run", script), { env = ABSENT })
      run:wait_for "connecting"
      local ended = run:stop(process.SIGINT, 30)
      assert.same({ 0, "" }, { ended.code, ended.stderr })
    end)
  end)

  it("takes an option from its flag, else the environment, else itself", function()
    local script = tmp.file("options.lua", [[
local moonbus = require "moonbus"
local bus = moonbus.bus { topic_prefix = "script", consumer_group = "script", max_retries = 7 }
print(bus.config.topic_prefix, bus.config.consumer_group, bus.config.max_retries,
  bus.config.log_format)
]])
    local function said(env, ...)
      local result = moonbus(env, "run", script, ...)
      assert.equal(0, result.code, result.stderr)
      return result.stdout
    end
    local env = { MOONBUS_TOPIC_PREFIX = "env", MOONBUS_CONSUMER_GROUP = "env" }
    assert.equal("script\tscript\t7\ttext\n", said())
    assert.equal("env\tenv\t7\ttext\n", said(env))
    assert.equal("flag\tenv\t8\tjson\n", said(env, "--topic-prefix", "flag", "--set",
      "max_retries=8", "--log-format", "json"))
    assert.equal("env\tflag\t7\ttext\n", said(env, "--set", "consumer_group=flag"))
  end)
end)
