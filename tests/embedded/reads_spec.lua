-- A handler that reads some fields of its event is given no others, and sees no difference: each of
-- these is run as it stands, and once more behind a function that gives its event away.
local moonbus = require "moonbus"
local support = require "tests.support.bus"
local wait = require "tests.support.wait"

local registry = moonbus.new_registry()
local Rich = moonbus.event("Rich", {
  aggregate_type = "Thing", event_version = 2,
  text = "string", number = "number", whole = "integer", flag = "boolean", list = "string[]?",
  object = "object?", any = "any", nothing = "string?", money = "decimal?",
  upcast = { function(data) data.text = data.old; return data end },
}, { registry = registry })

local ID = support.uuid(1)

local HANDLERS = {
  "see()", "see(event.text)", "see(event.number, event.whole, event.flag)",
  "see(event.list, event.object, event.any)", "see(event.nothing, event.money, event.tenant_id)",
  "see(event.event_id, event.event_type, event.event_version, event.occurred_at)",
  "see(event.aggregate_id, event.aggregate_type, event.aggregate_version, event.actor_id)",
  "see(event.correlation_id, event.causation_id, event.metadata)",
  "see(event.missing)", "see(event.is ~= nil, event.text)", "see(event.a, event.b, event.null)",
  "see(event.object and event.object.a, event.any == null)",
  "if event.flag then see(event.text) else see(event.number) end",
  "for i = 1, 3 do see(i, event.whole) end", "return see(event.text)",
  "local e = event; see(e.text, e.number)", "event.text = 1; see(event.text, event.number)",
  "local n = 0; for k in pairs(event) do n = n + 1 end; see(n)",
  "local keys = {}; for k in pairs(event) do keys[#keys + 1] = k end; table.sort(keys); see(keys)",
  "see(rawget(event, 'number'))", "see(event['te' .. 'xt'])", "see(next(event) ~= nil)",
  "see(tostring(event))", "see(event:is 'Rich', event:is(Rich))",
  "see(getmetatable(event) == Rich)", "see((function() return event.text end)())",
  "see(event:with_metadata { x = 1 })", "see(event:caused_by(event).causation_id)",
  "local copy = {}; for k, v in pairs(event) do copy[k] = v end; see(copy)",
  "see(coroutine.wrap(function(e) return e.text, e.number end)(event))",
  "see(pcall(function() return event.object.a.b end))",
  "event = event.object; see(event)", "see(json.encode(event.metadata), json.encode(event))",
  "see(ctx.attempt, ctx.event_type, event.text)", "see(select('#', event), event)",
  "if ctx.attempt == 1 then error 'again' end; see(event.text)",
}

-- What a handler saw, to be compared.
local function recorder()
  local log = {}
  return log, function(...)
    for i = 1, select("#", ...) do
      local value = (select(i, ...))
      log[#log + 1] = type(value) == "table" and assert(moonbus.json.encode(value))
        or type(value) .. " " .. tostring(value)
    end
  end
end

local function handler(body, given)
  local source = "local see, Rich, json, null = ...; return function(event, ctx) " .. body .. " end"
  local log, see = recorder()
  local fn = assert(loadstring(source))(see, Rich, moonbus.json, moonbus.null)
  if not given then return fn, log end
  return function(event, ctx) return given(fn, event, ctx) end, log
end

local function give(fn, event, ctx) return fn(event, ctx) end

local function rich(more)
  local fields = { aggregate_id = ID, text = "é\n", number = 1.5, whole = 9007199254740993LL,
    flag = true, any = moonbus.null, metadata = { a = { 1, moonbus.null } } }
  for key, value in pairs(more or {}) do fields[key] = value end
  return Rich(fields)
end

describe("a handler that reads some fields", function()
  local broker, bus
  before_each(function()
    broker = support.broker()
    bus = broker:bus { event_registry = registry, retry_base_delay = 0.01 }
  end)
  after_each(support.close)

  local EVENTS = 6
  local function publish()
    assert(bus:publish {
      rich(), rich { list = { "a", "b" }, object = { a = { b = 1 } }, money = "1.20", any = { 1 } },
      rich { flag = false, tenant_id = ID, actor_id = "me", causation_id = ID, any = "x" },
      { event_type = "Rich", event_version = 1, aggregate_id = ID, aggregate_type = "Thing",
        old = "lifted", number = 1, whole = 2, flag = true, any = 0 },
      { event_type = "Plain", aggregate_id = ID, aggregate_type = "Thing", text = "plain",
        null = moonbus.null, object = {}, list = moonbus.array {}, a = 1, any = moonbus.null },
      { event_type = "Plain", aggregate_id = ID, aggregate_type = "Thing", ["te\"xt"] = 1,
        number = 12345678901234567890ULL },
    })
  end

  it("sees no difference, whatever it does", function()
    local pairs_of_logs = {}
    for _, body in ipairs(HANDLERS) do
      for _, kind in ipairs { "typed", "by name", "undeclared", "all" } do
        local fn, log = handler(body)
        local plain, expected = handler(body, give)
        for _, each in ipairs { fn, plain } do
          if kind == "typed" then bus:subscribe(Rich, each)
          elseif kind == "by name" then bus:subscribe("Rich", each)
          elseif kind == "undeclared" then bus:subscribe("Plain", each)
          else bus:subscribe_to_all_events(each) end
        end
        pairs_of_logs[#pairs_of_logs + 1] = { log, expected, kind .. ": " .. body }
      end
    end
    publish()
    support.consume(bus)
    wait.settled(bus, EVENTS)
    for _, each in ipairs(pairs_of_logs) do assert.same(each[2], each[1], each[3]) end
  end)

  -- What a function that it calls finds in its first local.
  local function fields_of_caller()
    local _, event = debug.getlocal(3, 1)
    local names = {}
    for name in pairs(event) do names[#names + 1] = name end
    table.sort(names)
    return names
  end

  it("is given these alone; all of them while a hook is set", function()
    local seen = {}
    local function look(event_type) seen[#seen + 1] = { event_type, fields_of_caller() } end
    bus:subscribe(Rich, function(event) look("Rich", event.whole, event.text); return true end)
    bus:subscribe("Plain", function(event) look("Plain", event.text, event.object); return true end)
    assert(bus:publish { rich(), { event_type = "Plain", aggregate_id = ID,
      aggregate_type = "Thing", text = "a", object = {}, more = 1 } })
    support.consume(bus)
    wait.settled(bus, 2)
    assert.same({ { "Rich", { "text", "whole" } }, { "Plain", { "object", "text" } } }, seen)
    debug.sethook(function() end, "r")
    assert(bus:publish(rich()))
    wait.settled(bus, 3)
    debug.sethook()
    assert.is_true(#seen[3][2] > 12, table.concat(seen[3][2], " "))
  end)

  it("is given all where its type has an __index of the script's own", function()
    local Own = moonbus.event("Own", { aggregate_type = "Thing", n = "integer", note = "string?" },
      { registry = registry })
    function Own.__index(event, key)
      return key == "note" and "made of " .. event.n or nil
    end
    local note
    bus:subscribe(Own, function(event) note = event.note end)
    assert(bus:publish(Own { aggregate_id = ID, n = 5 }))
    support.consume(bus)
    wait.settled(bus, 1)
    assert.equal("made of 5", note)
  end)

  it("makes dead letters of what it does not read as well", function()
    local count = 0
    bus:subscribe(Rich, function(event) count = count + #event.text end)
    assert(bus:publish { { event_type = "Rich", event_version = 2, aggregate_id = ID,
      aggregate_type = "Thing", text = "x", number = "no number", whole = 1, flag = true,
      any = 1 } })
    support.consume(bus)
    wait.settled(bus, 1)
    assert.equal(0, count)
    local letters = assert(bus:get_dlq_messages())
    assert.equal(1, #letters)
    assert.matches("Rich.number: expected number", moonbus.json.encode(letters[1]), 1, true)
  end)
end)
