-- What a script most likely did not mean, and would not notice, is said by `moonbus run`, and fails
-- `moonbus check --strict`.
local cjson = require "cjson"
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"

local HEAD = [[
local moonbus = require "moonbus"
local Placed = moonbus.event("OrderPlaced", { aggregate_type = "Order" })
local Shipped = moonbus.event("OrderShipped", { aggregate_type = "Order" })
local bus = moonbus.bus { bootstrap_servers = "embedded", topic_prefix = "misses",
  session_timeout_ms = 6000, fetch_wait_max_ms = 10, %s }
]]

local GROUP = 'consumer_group = "mine"'

local PUBLISH = [[
assert(bus:connect())
for _ = 1, 3 do
  assert(bus:publish { Placed { aggregate_id = moonbus.uuid() },
    Shipped { aggregate_id = moonbus.uuid() } })
end
]]

describe("a silent miss", function()
  teardown(function()
    process.clean()
    tmp.clean()
  end)

  local function script(options, body)
    return tmp.file("script.lua", HEAD:format(options) .. body)
  end

  local function run(path, ...)
    return process.run(process.moonbus("run", path, ...))
  end

  local function strict(path)
    local result = process.run(process.moonbus("check", path, "--strict"))
    local json = process.run(process.moonbus("check", path, "--strict", "--json"))
    assert.equal(result.code, json.code)
    assert.equal(result.code == 0, cjson.decode(json.stdout).ok)
    return result
  end

  -- A script that fails when it is checked strictly, with that warning; and only then.
  local function missed(path, text)
    local result = strict(path)
    assert.equal(3, result.code, result.stdout)
    assert.matches(text, result.stdout, 1, true)
    assert.matches("moonbus: ESCRIPT: %d warnings?; %-%-strict takes none\n$", result.stderr)
    assert.equal(0, process.run(process.moonbus("check", path)).code)
  end

  it("is a subscription to a name that is nearly a declared one", function()
    for name, meant in pairs {
      OrderPlacd = "OrderPlaced", order_placed = "OrderPlaced", ORDERSHIPPED = "OrderShipped",
    } do
      local text = ('a handler is subscribed to "%s", which no event is declared as; did you mean '
        .. '"%s"?'):format(name, meant)
      local path = script(GROUP, ('bus:subscribe("%s", print) bus:subscribe(Placed, print)')
        :format(name))
      missed(path, text)
      local result = run(path, "--until-idle", "0.2")
      assert.equal(0, result.code, result.stderr)
      assert.matches("WARN  " .. text, result.stderr, 1, true)
    end
  end)

  it("is none where a name is declared elsewhere, or resembles nothing", function()
    local path = script(GROUP, [[
      bus:subscribe("InvoicePaid", print)
      bus:subscribe("OrderPlaced", print)
      bus:subscribe(Shipped, print)]])
    local result = strict(path)
    assert.equal(0, result.code, result.stdout)
    assert.not_matches("WARN", run(path, "--until-idle", "0.2").stderr)
  end)

  it("is a bus that consumes without a consumer_group", function()
    local path = script("", "bus:subscribe(Placed, print) bus:subscribe(Shipped, print)")
    missed(path, "consumer_group is not set")
    local result = run(path, "--until-idle", "0.2")
    assert.matches("WARN  consumer_group is not set", result.stderr, 1, true)
    result = run(path, "--until-idle", "0.2", "--consumer-group", "default")
    assert.not_matches("consumer_group is not set", result.stderr, 1, true)
    assert.equal(0, strict(script(GROUP, "bus:subscribe_to_all_events(print)")).code)
  end)

  it("is a script that subscribes nothing", function()
    local path = script(GROUP, "bus:connect()")
    missed(path, "the script subscribes nothing")
    local result = run(path)
    assert.equal(0, result.code)
    assert.matches("WARN  nothing is subscribed on this bus", result.stderr, 1, true)
    missed(tmp.file("none.lua", "print 'nothing'"), "the script subscribes nothing")
    result = run(script(GROUP, "bus:connect() bus:start_consuming { until_idle = 0.2 }"))
    assert.matches("WARN  nothing is subscribed on this bus", result.stderr, 1, true)
  end)

  it("is none where a script does something else with its bus", function()
    for _, body in ipairs { PUBLISH, "bus:connect() print(#bus:get_dlq_messages())",
      "bus:connect() bus:get_topic_info()" } do
      local path = script(GROUP, body)
      local result = strict(path)
      assert.equal(0, result.code, result.stdout)
      assert.not_matches("WARN", run(path).stderr)
    end
  end)

  it("are events that nothing subscribes to: named once for each type, with their count", function()
    local path = script(GROUP, "bus:subscribe(Placed, function() end)\n" .. PUBLISH .. [[
      assert(bus:start_consuming { until_idle = 0.3 })
      print(moonbus.json.encode(bus:get_skipped_types()), bus:get_stats_dict().events_skipped)]])
    missed(path, 'nothing subscribes to "OrderShipped": its events are skipped')
    local result = run(path)
    assert.equal('{"OrderShipped":3}\t3\n', result.stdout, result.stderr)
    local _, named = result.stderr:gsub('nothing subscribes to events of type "OrderShipped"', "")
    assert.equal(1, named)
    assert.matches('events skipped, as nothing subscribes to them: 3 "OrderShipped"', result.stderr)
    assert.not_matches('"OrderPlaced"', result.stderr)
    -- whatever else fails, what check cannot see is no warning of the script's
    assert.equal(0, strict(script(GROUP, [[
      bus:subscribe(Placed, print) bus:subscribe(Shipped, print)
      bus:connect() bus:start_consuming {}
      error "needs what consuming brings"]])).code)
  end)
end)
