local moonbus = require "moonbus"
local support = require "tests.support.bus"
local task = require "moonbus.task"
local wait = require "tests.support.wait"

after_each(function()
  task.host.dry = false
  task.host.interrupted = false
  support.close()
end)

local function seconds(body)
  local begin = moonbus.now()
  body()
  return moonbus.now() - begin
end

describe("moonbus.sleep", function()
  it("lets the time pass, no less and hardly more", function()
    wait.within(0.5, function()
      local passed = seconds(function() moonbus.sleep(0.05) end)
      assert(passed >= 0.05, passed)
      return passed
    end)
  end)

  it("returns at once for nothing and for less than nothing", function()
    for _, nothing in ipairs { 0, -5 } do
      wait.within(0.02, function()
        return seconds(function() moonbus.sleep(nothing) end)
      end)
    end
  end)

  it("takes part of a second", function()
    wait.within(0.3, function()
      local passed = seconds(function() for _ = 1, 5 do moonbus.sleep(0.002) end end)
      assert(passed >= 0.01, passed)
      return passed
    end)
  end)

  it("uses no processor while it waits", function()
    wait.within(0.05, function()
      local before = os.clock()
      moonbus.sleep(0.1)
      return os.clock() - before
    end)
  end)

  it("wants a number, and says so at the caller's line", function()
    local line
    local ok, why = pcall(function()
      line = debug.getinfo(1, "l").currentline + 1
      moonbus.sleep "a while"
    end)
    assert.is_false(ok)
    assert.matches(("task_spec.lua:%d: "):format(line), why, 1, true)
  end)

  it("does not wait once the host was interrupted", function()
    task.host.interrupted = true
    assert(seconds(function() moonbus.sleep(60) end) < 30)
  end)

  it("does not wait in a dry run", function()
    task.host.dry = true
    assert(seconds(function() moonbus.sleep(60) end) < 30)
  end)
end)

describe("starting to consume", function()
  it("raises on a bus that is not connected, at the caller's line", function() -- 34
    local bus = support.new { bootstrap_servers = "127.0.0.1:1" }
    for _, start in ipairs { "start_consuming", "start_consuming_in_background" } do
      local function body() bus[start](bus) end
      local line = debug.getinfo(body, "S").linedefined
      assert.matches(("task_spec.lua:%d: ESTATE: .*call bus:connect%%(%%) first"):format(line),
        select(2, pcall(body)))
    end
    bus:connect(0.2)
    assert.error_matches(function() bus:start_consuming() end,
      "ESTATE: .*bus:connect%(%) failed: ECONNECT: no broker answers")
  end)

  it("refuses options it does not know, and those of the wrong type", function()
    local bus = support.new()
    for _, start in ipairs { "start_consuming", "start_consuming_in_background" } do
      assert.error_matches(function() bus[start](bus, { for_second = 1 }) end,
        'no option "for_second"')
      assert.error_matches(function() bus[start](bus, { for_seconds = "1" }) end,
        "for_seconds: expected a number")
      assert.error_matches(function() bus[start](bus, { auto_reconnect = 1 }) end,
        "auto_reconnect: expected a boolean")
    end
  end)

  it("points a wrong option at the caller's line", function()
    local bus = support.new()
    for _, start in ipairs { "start_consuming", "start_consuming_in_background" } do
      local line
      local _, why = pcall(function()
        line = debug.getinfo(1, "l").currentline + 1
        bus[start](bus, { for_second = 1 })
      end)
      assert.matches(("task_spec.lua:%d: "):format(line), why, 1, true)
    end
  end)

  it("gives a task that has ended already in a dry run", function()
    task.host.dry = true
    local bus = support.new()
    assert.is_true(bus:connect())
    local started = bus:start_consuming_in_background()
    assert.is_true(started:done())
    assert.is_true(started:wait())
    assert.is_true(bus:start_consuming())
    assert.is_false(bus:is_connected())
  end)

  it("gives a task that has ended already once the host was interrupted", function()
    local bus = support.bus()
    task.host.interrupted = true
    assert.is_true(bus:start_consuming())
    assert.is_false(bus:is_consuming())
  end)
end)

describe("stopping", function()
  it("what does not consume is well already", function() -- 34
    local bus = support.new()
    assert.is_true(bus:stop_consuming())
    assert.is_true(bus:connect())
    assert.is_true(bus:stop_consuming())
    assert.is_true(bus:is_connected())
  end)

  it("just after the start ends the task within two seconds", function()
    local bus = support.bus()
    wait.within(2, function()
      local started = assert(bus:start_consuming_in_background())
      assert.is_true(bus:is_consuming())
      assert.is_false(started:done())
      local passed = seconds(function() started:cancel() assert.is_true(started:wait(60)) end)
      assert.is_true(started:done())
      return passed
    end)
    assert.is_false(bus:is_consuming())
    assert.is_true(bus:is_connected())
  end)
end)
