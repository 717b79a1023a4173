-- What moonbus hands to scripts knows its names, and says at the script's line what was meant.
local moonbus = require "moonbus"
local support = require "tests.support.bus"

local ID = support.uuid(1)
local registry = moonbus.new_registry()
local Tick = moonbus.event("Tick", { n = "integer", note = "string?", aggregate_type = "Clock" },
  { registry = registry })

after_each(support.close)

-- body is one line, which must be blamed.
local function raises(body, ...)
  local ok, why = pcall(body)
  assert.is_false(ok, "nothing was raised")
  for _, text in ipairs { ... } do assert.matches(text, why, 1, true) end
  local line = debug.getinfo(body, "S").linedefined
  assert.matches(("names_spec.lua:%d: "):format(line), why, 1, true)
end

local function new(options)
  options = options or {}
  options.event_registry = registry
  return support.new(options)
end

local kept -- luacheck: ignore

describe("a name that is not there", function()
  it("on the module names the nearest", function()
    raises(function() kept = moonbus.buss end, 'moonbus has no "buss"; did you mean "bus"?')
    raises(function() kept = moonbus.expect end, 'did you mean "expect_version"?')
    raises(function() kept = moonbus.something end, 'moonbus has no "something"')
    raises(function() moonbus.evnt("X", {}) end, 'did you mean "event"?')
    raises(function() kept = moonbus.json.encod end, 'moonbus.json has no "encod"',
      '"encode"')
    raises(function() kept = moonbus.stores.sqllite end, 'did you mean "sqlite"?')
    raises(function() moonbus.registy = registry end, 'did you mean "registry"?')
  end)

  it("on a bus and its configuration", function()
    local bus = new()
    raises(function() kept = bus.is_conected end, 'a bus has no "is_conected"', '"is_connected"')
    raises(function() bus:start_consumming() end, 'did you mean "start_consuming"?')
    raises(function() kept = bus.config.consumer_gruop end, 'did you mean "consumer_group"?')
    raises(function() kept = bus.config.compression end, 'did you mean "compression_type"?')
    raises(function() kept = bus.config.no_such_option end, 'bus.config has no "no_such_option"')
    assert.is_nil(bus.config.group_instance_id)
    assert.is_nil(bus.config.on_log)
    assert.is_string(bus.config.dlq_topic_name)
  end)

  it("on event types, registries, stores, tasks and transactions", function()
    raises(function() kept = Tick.naem end, 'event type Tick has no "naem"', '"name"')
    raises(function() kept = Tick.n end, 'its events have "n"', "Tick { ... }, event.n")
    raises(function() kept = Tick.caused_by end, "event:caused_by")
    raises(function() kept = registry.nams end, 'a registry has no "nams"', '"names"')
    local store = moonbus.stores.sqlite { path = ":memory:" }
    raises(function() kept = store.transction end, 'a store has no "transction"', '"transaction"')
    raises(function() kept = moonbus.stores.memory().mraked end, 'did you mean "marked"?')
    store:transaction(function(tx)
      raises(function() kept = tx.exceute end, 'a tx has no "exceute"', '"execute"')
    end)
    store:close()
    local bus = new()
    bus:connect()
    local task = assert(bus:start_consuming_in_background())
    raises(function() kept = task.cancle end, 'a task has no "cancle"', '"cancel"')
    bus:stop_consuming()
  end)

  it("in a handler's context", function()
    local bus, why = new { concurrency = 1 }, {}
    bus:connect()
    bus:subscribe(Tick, function(_, ctx)
      for i, name in ipairs { "atempt", "trace", "tenant_id" } do
        why[i] = select(2, pcall(function() return ctx[name] end))
      end
      why[4] = select(2, pcall(function() return ctx.header "x" end))
      why[5] = tostring(ctx.traceparent) .. tostring(ctx.__name)
    end)
    bus:publish(Tick { aggregate_id = ID, n = 1 })
    assert(bus:start_consuming { until_idle = 0.1, for_seconds = 60 })
    assert.matches('a context has no "atempt"; did you mean "attempt"?', why[1], 1, true)
    assert.matches('did you mean "tracestate"?', why[2], 1, true)
    assert.matches('ctx:header("tenant_id")', why[3], 1, true)
    assert.matches("write ctx:header(name)", why[4], 1, true)
    assert.equal("nilnil", why[5])
  end)

  it("is nil where it is one of Lua's protocols, or data", function()
    local bus = new()
    assert.is_nil(moonbus.__name)
    assert.is_nil(bus.__len)
    assert.is_nil(Tick.__gc)
    assert.is_nil(bus.config.__index)
    local event = Tick { aggregate_id = ID, n = 1 }
    assert.is_nil(event.note)
    assert.is_nil(event.coupon)
    assert.is_nil(bus:get_stats_dict().coupon)
  end)
end)

describe("assigning to a bus", function()
  it("is refused for an option, and for what is nearly a name", function()
    local bus = new()
    raises(function() bus.consumer_group = "x" end, 'option "consumer_group"',
      "moonbus.bus { consumer_group = ... }")
    raises(function() bus.topic_name = "x" end, 'option "topic_name"')
    raises(function() bus.on_log = print end, 'option "on_log"')
    raises(function() bus.consumer_gruop = "x" end, 'did you mean "consumer_group"?')
    raises(function() bus.config.consumer_group = "x" end, 'option "consumer_group"')
    raises(function() bus.publish = 1 end, "bus.publish is a method")
    raises(function() bus.is_connected = true end, "bus.is_connected is a method")
  end)

  it("keeps a script's own values, and methods put in the place of ours", function()
    local bus = new()
    bus.seen = 1
    assert.equal(1, bus.seen)
    bus.flush = function() return "mine" end
    assert.equal("mine", bus:flush())
    bus.flush = nil
    assert.is_true(bus:flush())
    local stubbed = stub(bus, "is_connected").returns(true)
    assert.is_true(bus:is_connected())
    stubbed:revert()
    assert.is_false(bus:is_connected())
  end)
end)

describe("a question without its call", function()
  it("is always true, and refused wherever it is tested", function()
    local bus = new()
    local text = "bus.is_connected is a method and so always true: write bus:is_connected()"
    raises(function() if bus.is_connected then kept = 1 end end, text)
    raises(function() if not bus.is_connected then kept = 1 end end, text)
    raises(function() while bus.is_connected do kept = 1 end end, text)
    raises(function() repeat kept = 1 until bus.is_connected end, text)
    raises(function() kept = bus.is_connected and 1 end, text)
    raises(function() kept = bus.is_connected or 1 end, text)
    raises(function() kept = not bus.is_connected end, text)
    raises(function() if bus.is_connected == true then kept = 1 end end, text)
    raises(function() if bus.is_consuming then kept = 1 end end, "write bus:is_consuming()")
    bus:connect()
    local task = assert(bus:start_consuming_in_background())
    raises(function() while not task.done do kept = 1 end end, "write task:done()")
    bus:stop_consuming()
  end)

  it("is none where it is called, or handed on", function()
    local bus, mine = new(), { is_connected = false }
    assert.is_false(bus:is_connected())
    assert.is_false(bus.is_connected(bus))
    if bus:is_connected() or not bus:is_connected() and bus:is_consuming() then kept = 1 end
    local ask = bus.is_connected
    assert.is_false(ask(bus))
    assert.same({ true, false }, { pcall(bus.is_connected, bus) })
    if mine.is_connected or bus:is_connected() then kept = 1 end
    for _ = 1, 200 do assert.is_false(bus:is_connected()) end
  end)
end)

describe("a method called with a dot", function()
  it("names its spelling at the caller's line: every one of a bus", function()
    local bus, count = new(), 0
    local class = getmetatable(bus)
    for name, method in pairs(class) do
      if type(method) == "function" and name:sub(1, 2) ~= "__" and name ~= "join_unit" then
        count = count + 1
        for _, first in ipairs { false, {}, Tick, Tick { aggregate_id = ID, n = 1 }, "x", print } do
          raises(function() bus[name](first or nil, {}) end, ("write bus:%s(...)"):format(name))
        end
      end
    end
    assert(count > 20)
    raises(function() bus.is_connected() end, "write bus:is_connected(...)")
    raises(function() bus.connect() end, "write bus:connect(...)")
  end)

  it("and those of events, registries, stores, tasks", function()
    local event = Tick { aggregate_id = ID, n = 1 }
    raises(function() kept = event.is(Tick) end, "write event:is(...)")
    raises(function() kept = event.caused_by(nil) end, "write event:caused_by(...)")
    raises(function() kept = event.with_metadata { a = 1 } end, "write event:with_metadata(...)")
    raises(function() kept = registry.get "Tick" end, "write registry:get(...)")
    local store = moonbus.stores.sqlite { path = ":memory:" }
    raises(function() store.transaction(print) end, "write store:transaction(...)")
    raises(function() moonbus.stores.memory().close() end, "write store:close(...)")
    store:transaction(function(tx)
      raises(function() tx.execute "SELECT 1" end, "write tx:execute(...)")
    end)
    store:close()
    local bus = new()
    bus:connect()
    local task = assert(bus:start_consuming_in_background())
    raises(function() task.wait(1) end, "write task:wait(...)")
    bus:stop_consuming()
  end)

  it("works on what inherits from a bus", function()
    local wrapped = setmetatable({}, { __index = new() })
    assert.is_false(wrapped:is_connected())
    assert.equal(0, wrapped:subscriber_count())
  end)
end)

describe("a function of the module called with a colon", function()
  it("takes a dot", function()
    raises(function() kept = moonbus:uuid() .. "" end, "write moonbus.uuid(...)")
    raises(function() kept = { moonbus:bus {} } end, "write moonbus.bus(...)")
    raises(function() kept = { moonbus:event("X", {}) } end, "write moonbus.event(...)")
    raises(function() kept = { moonbus.json:encode {} } end, "write moonbus.json.encode(...)")
    raises(function() kept = { moonbus.stores:memory() } end, "write moonbus.stores.memory(...)")
  end)
end)
