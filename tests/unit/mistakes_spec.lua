-- What a script gets wrong is said at its line, with what to write instead.
local moonbus = require "moonbus"
local support = require "tests.support.bus"

local ID = support.uuid(1)
local registry = moonbus.new_registry()
local Tick = moonbus.event("Tick", { n = "integer", note = "string?", of = "uuid?",
  aggregate_type = "Clock" }, { registry = registry })

after_each(support.close)

-- body is one line, which must be blamed.
local function raises(body, ...)
  local ok, why = pcall(body)
  assert.is_false(ok, "nothing was raised")
  for _, text in ipairs { ... } do assert.matches(text, why, 1, true) end
  local line = debug.getinfo(body, "S").linedefined
  assert.matches(("mistakes_spec.lua:%d: "):format(line), why, 1, true)
end

local function new(options)
  options = options or {}
  options.event_registry = registry
  return support.new(options)
end

local kept -- luacheck: ignore

describe("publishing an event type", function()
  it("says that an event is made of it, alone and in a list", function()
    local bus = new()
    bus:connect()
    local text = "expected an event, got the event type Tick; make one: Tick { ... }"
    raises(function() bus:publish(Tick) end, "event 1: " .. text)
    raises(function() bus:publish { Tick } end, "event 1: " .. text)
    raises(function() bus:publish { Tick { aggregate_id = ID, n = 1 }, Tick } end,
      "event 2: " .. text)
    raises(function() bus:publish(Tick, { background = true }) end, text)
    assert.equal(0, bus:get_stats_dict().publish_queued)
  end)
end)

describe("a field that is misspelt", function()
  it("is named besides the one that is missing", function()
    raises(function() kept = { Tick { aggregate_id = ID, nn = 1 } } end,
      'Tick.n is missing; Tick has no field "nn"; did you mean "n"?')
    raises(function() kept = { Tick { aggregate = ID, n = 1 } } end,
      'Tick.aggregate_id is missing; Tick has no field "aggregate"; did you mean "aggregate_id"?')
    raises(function() kept = { Tick { aggregate_id = ID, n = 1, ntoe = "x" } } end,
      'Tick has no field "ntoe"; did you mean "note"?')
    raises(function() kept = { Tick { aggregate_id = ID, n = 1, wholly_else = "x" } } end,
      'Tick has no field "wholly_else"')
    raises(function() kept = { Tick { aggregate_id = ID } } end, "Tick.n is missing")
  end)

  it("is found when it was assigned later, too", function()
    local bus = new()
    bus:connect()
    local event = Tick { aggregate_id = ID, n = 1 }
    event.notes = "x"
    raises(function() bus:publish(event) end, 'has no field "notes"; did you mean "note"?')
  end)
end)

describe("a business key as a UUID", function()
  local hint = "moonbus.uuid() makes a random one, moonbus.uuid(name) that of a business key"

  it("names the function that makes one of it", function()
    raises(function() kept = { Tick { aggregate_id = "order-17", n = 1 } } end,
      'Tick.aggregate_id: expected uuid, got string "order-17"; ' .. hint)
    raises(function() kept = { Tick { aggregate_id = ID, n = 1, of = "order-17" } } end,
      "Tick.of: expected uuid?", hint)
    raises(function() kept = { Tick { aggregate_id = 17, n = 1 } } end, "got number 17", hint)
    local bus = new()
    bus:connect()
    local event = Tick { aggregate_id = ID, n = 1 }
    event.aggregate_id = "order-17"
    raises(function() bus:publish(event) end, "Tick.aggregate_id: expected uuid", hint)
    local plain = { event_type = "Tock", aggregate_type = "Clock", aggregate_id = "order-17" }
    raises(function() bus:publish(plain) end, "expected uuid", hint)
  end)

  it("is the version 5 UUID of RFC 9562, in the name space of URLs or a given one", function()
    -- what Python's uuid5(NAMESPACE_URL, ...) and uuid5(NAMESPACE_DNS, ...) give
    assert.equal("13842d0d-ae03-5ef3-82e6-889bb455738c", moonbus.uuid "order-17")
    assert.equal("f347ca68-de3c-5419-a3d5-c03f607edc2a",
      moonbus.uuid("order-17", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"))
    -- the example of RFC 9562, A.4
    assert.equal("2ed6657d-e927-568b-95e1-2665a8aea6a2",
      moonbus.uuid("www.example.com", "{6BA7B810-9DAD-11D1-80B4-00C04FD430C8}"))
    assert.not_equal(moonbus.uuid "a\0b", moonbus.uuid "a\0c")
    assert.equal(Tick { aggregate_id = moonbus.uuid "order-17", n = 1 }.aggregate_id,
      moonbus.uuid "order-17")
  end)

  it("that is not there, or a name space that is none, raises", function()
    raises(function() kept = moonbus.uuid(nil) .. "" end, "moonbus.uuid: name", "got nil")
    raises(function() kept = moonbus.uuid "" .. "" end, "an empty one")
    raises(function() kept = moonbus.uuid(17) .. "" end, "got number")
    raises(function() kept = moonbus.uuid("a", "orders") .. "" end, "namespace: expected a UUID",
      "orders")
    raises(function() kept = moonbus.uuid("a", 5) .. "" end, "namespace: expected a UUID")
    assert.not_equal(moonbus.uuid(), moonbus.uuid())
  end)
end)

describe("an option", function()
  it("of a bus is suggested for a part of its name", function()
    raises(function() kept = { moonbus.bus { compression = "zstd" } } end,
      'unknown option "compression"; did you mean "compression_type"?')
    raises(function() kept = { moonbus.bus { group = "x" } } end, 'did you mean "consumer_group"?')
    raises(function() kept = { moonbus.bus { retries = 1 } } end, 'did you mean "max_retries"?')
    raises(function() kept = { moonbus.bus { kafka = { ["socket.timeout"] = 1 } } } end,
      'did you mean "socket.timeout.ms"?')
  end)

  it("of a call is suggested, or all are listed", function()
    local bus = new()
    bus:connect()
    raises(function() bus:start_consuming { idle = 1 } end, 'did you mean "until_idle"?')
    raises(function() bus:publish({}, { backgruond = true }) end, 'did you mean "background"?')
    raises(function() bus:subscribe(Tick, print, { retries = 1 }) end, 'mean "max_retries"?')
    raises(function() bus:get_dlq_messages { limt = 1 } end, 'did you mean "limit"?')
    raises(function() bus:replay_dlq { dryrun = true } end, 'did you mean "dry_run"?')
    raises(function() kept = { moonbus.stores.sqlite { file = "x" } } end,
      'no option "file": busy_timeout_ms, init, path')
    raises(function() kept = { moonbus.stores.sqlite { timeout = 1 } } end,
      'did you mean "busy_timeout_ms"?')
    raises(function() kept = { moonbus.idempotent(print, { stroe = {} }) } end, 'mean "store"?')
  end)
end)
