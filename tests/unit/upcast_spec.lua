local events = require "tests.support.events"
local moonbus = require "moonbus"
local support = require "tests.support.bus"
local values = require "tests.support.values"

local ID = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
local registry = moonbus.new_registry()
local bus, native

setup(function()
  bus = support.new { event_registry = registry }
  native = bus.native
end)

teardown(support.close)

local serial = 0

-- A type of a name that no other has.
local function declare(fields)
  serial = serial + 1
  fields.aggregate_type = fields.aggregate_type or "Order"
  return moonbus.event("Sample" .. serial, fields, { registry = registry })
end

-- The value of an event of that type and version with these members.
local function text(kind, version, members)
  return ([[{"event_id":"11111111-2222-4333-8444-555555555555","event_type":"%s",%s]]
    .. [["occurred_at":"2026-01-02T03:04:05Z","aggregate_id":"%s","aggregate_type":"Order",]]
    .. [["aggregate_version":7,"tenant_id":null,"actor_id":"user:42","correlation_id":]]
    .. [["99999999-8888-4777-8666-555555555555","causation_id":null,"metadata":{"a":1}%s}]])
    :format(kind.name, version and ('"event_version":%d,'):format(version) or "", ID, members)
end

local function decode(kind, version, members)
  return native:decode(text(kind, version, members), kind.__moonbus)
end

-- decoding fails with EDECODE and every text
local function undecodable(kind, version, members, ...)
  local event, why, code = decode(kind, version, members)
  assert.is_nil(event)
  assert.equal("EDECODE", code)
  for _, each in ipairs { ... } do assert.matches(each, why, 1, true) end
  return why
end

local function raises(fields, ...)
  local ok, why = pcall(declare, fields)
  assert.is_false(ok, "nothing was raised")
  for _, each in ipairs { ... } do assert.matches(each, why, 1, true) end
end

-- amount became total, a decimal; then a currency came.
local function order(more)
  local fields = {
    event_version = 3, total = "decimal", currency = "string", tags = "string[]?",
    upcast = {
      function(data)
        data.total, data.amount = ("%.2f"):format(data.amount), nil
        return data
      end,
      function(data)
        data.currency = "EUR"
        return data
      end,
    },
  }
  for name, value in pairs(more or {}) do fields[name] = value end
  return declare(fields)
end

describe("declaring", function()
  it("takes steps below the declared version", function()
    assert.equal(3, order().version)
    local own = {}
    assert.same({ 1, 3 }, require "moonbus.upcast".missing({ [2] = own }, 4))
  end)

  it("refuses a step that leads past it, and what is no step", function()
    local function same(data) return data end
    raises({ event_version = 2, upcast = { [2] = same } }, "upcast[2] lifts to version 3",
      "event_version = 2 is declared")
    raises({ upcast = { same } }, "event_version = 1 is declared")
    raises({ event_version = 2, upcast = { one = same } }, "upcast is { [1] = function")
    raises({ event_version = 2, upcast = { true } }, "upcast is { [1] = function")
    raises({ event_version = 2, upcast = { [0] = same } }, "upcast is { [1] = function")
    raises({ event_version = 0 }, "event_version is 1 or more")
  end)

  it("leaves a field of that name alone", function()
    local kind = declare { upcast = "string" }
    assert.equal("up", kind { aggregate_id = ID, upcast = "up" }.upcast)
    assert.is_nil(kind.__moonbus.upcast)
    kind = declare { upcast = { type = "string", default = "down" } }
    assert.equal("down", kind { aggregate_id = ID }.upcast)
  end)
end)

describe("an event of an older version", function()
  it("is taken through every step, and has the declared version", function()
    local kind = order()
    local event = assert(decode(kind, 1, ',"amount":5.5'))
    assert.same({ "5.50", "EUR", 3 }, { event.total, event.currency, event.event_version })
    assert.is_nil(event.amount)
    event = assert(decode(kind, 2, ',"total":"1.20"'))
    assert.same({ "1.20", "EUR", 3 }, { event.total, event.currency, event.event_version })
    assert.equal(kind, getmetatable(event))
  end)

  it("of no version is of version 1", function()
    assert.equal("5.50", decode(order(), nil, ',"amount":5.5').total)
  end)

  it("reaches its step as a plain table, decoded in full", function()
    local seen
    local kind = declare { event_version = 2, n = "integer", upcast = { function(data)
      seen = data
      return { n = data.big }
    end } }
    local event = assert(decode(kind, 1,
      ',"big":9007199254740993,"list":[],"none":null,"deep":{"x":[1,2]},"half":0.5'))
    assert.equal(9007199254740993LL, event.n)
    assert.is_nil(getmetatable(seen))
    assert.equal(9007199254740993LL, seen.big)
    assert.equal("[]", moonbus.json.encode(seen.list))
    assert.equal(moonbus.null, seen.none)
    assert.same({ x = { 1, 2 } }, { x = { seen.deep.x[1], seen.deep.x[2] } })
    assert.same({ 0.5, 1, kind.name, ID, 7, "user:42" }, { seen.half, seen.event_version,
      seen.event_type, seen.aggregate_id, seen.aggregate_version, seen.actor_id })
    assert.is_nil(seen.tenant_id)
  end)

  it("keeps its base fields when a step returns a table of its own", function()
    local between
    local kind = declare { event_version = 3, n = "integer", upcast = {
      function() return { n = 1 } end,
      function(data)
        between = data
        return { n = 2, actor_id = moonbus.null, event_type = "Other", event_version = 9 }
      end,
    } }
    local event = assert(decode(kind, 1, ""))
    assert.same({ 2, ID }, { between.event_version, between.aggregate_id })
    assert.same({ 2, 3, kind.name, ID, 7, { a = 1 } }, { event.n, event.event_version,
      event.event_type, event.aggregate_id, event.aggregate_version, event.metadata })
    assert.equal("11111111-2222-4333-8444-555555555555", event.event_id)
    assert.is_nil(event.actor_id)
  end)

  it("has lists that a step left empty, and what a field normalises", function()
    local kind = declare { event_version = 2, tags = "string[]", list = "array", map = "object",
      id = "uuid", at = "timestamp", upcast = { function(data)
        data.tags, data.list, data.map = {}, {}, {}
        data.id, data.at = data.id:upper(), 0
        return data
      end } }
    local event = assert(decode(kind, 1, (',"id":"%s"'):format(ID)))
    assert.equal('[[],[],{}]', moonbus.json.encode { event.tags, event.list, event.map })
    assert.same({ ID, "1970-01-01T00:00:00Z" }, { event.id, event.at })
  end)

  it("is written with the declared version", function()
    local kind = order()
    local event = assert(decode(kind, 1, ',"amount":5.5'))
    local again = assert(native:decode(native:encode(event).value, kind.__moonbus))
    values.check_same(event, again)
    assert.equal(3, again.event_version)
  end)
end)

describe("an event that cannot be lifted", function()
  it("is an error that names type, version and field when it does not fit then", function()
    local kind = order { n = "integer" }
    local why = undecodable(kind, 1, ',"amount":5', kind.name .. " version 1, upcast to 3: ",
      kind.name .. ".n: expected integer, got nothing")
    assert.not_matches("byte", why)
    undecodable(kind, 2, ',"total":{},"n":1', kind.name .. " version 2, upcast to 3: ",
      kind.name .. ".total: expected decimal, got an object")
  end)

  it("is an error when a step raises, with its line", function()
    local kind = order()
    undecodable(kind, 1, ',"amount":"much"', kind.name .. " version 1, upcast to 3: ",
      "upcast_spec.lua:", "number expected, got string")
    local steps = {
      [function() error { message = "a table" } end] = "a table",
      [function() error {} end] = "it raised no text",
      [function() error(setmetatable({}, { __index = error })) end] =
        "it raised what cannot be read",
      [function() moonbus.dead "no use" end] = "no use",
      [function() end] = "upcast[1] returned nothing; it returns the data",
      [function() return 5 end] = "upcast[1] returned a number; it returns the data",
      [function(data) data.n = 0 / 0 return data end] = "NaN",
      [function(data) data.n = print return data end] = "function has no place in JSON",
    }
    for step, said in pairs(steps) do
      kind = declare { event_version = 2, n = "number", upcast = { step } }
      undecodable(kind, 1, ',"n":1', kind.name .. " version 1, upcast to 2: ", said)
    end
  end)

  it("is an error that names the step that lacks", function()
    local kind = declare { event_version = 3, upcast = { [2] = function(data) return data end } }
    undecodable(kind, 1, "", kind.name .. " version 1, upcast to 3: upcast[1] is missing")
    assert.equal(3, decode(kind, 2, "").event_version)
  end)

  it("is what it was when its text is no JSON or a base field is none", function()
    local kind = order()
    undecodable(kind, 1, ',"amount":', "value is not JSON")
    undecodable(kind, 1, ',"amount":1,"aggregate_id":5', "aggregate_id: expected uuid")
    undecodable(kind, 1, ',"amount":1,"event_version":0',
      kind.name .. ".event_version: expected integer of at least 1")
  end)
end)

describe("other versions", function()
  it("are recognized by the last of several event_versions", function()
    local kind = order()
    assert.equal("x", decode(kind, 1, ',"total":"1","currency":"x","event_version":3').currency)
    assert.equal("EUR", decode(kind, 3, ',"total":"1","event_version":2').currency)
  end)

  it("that are newer are read as they are, if they fit", function()
    local kind = order()
    local event = assert(decode(kind, 4, ',"total":"1","currency":"x","more":true'))
    assert.same({ 4, "x" }, { event.event_version, event.currency })
    undecodable(kind, 4, ',"total":"1"', kind.name .. ".currency: expected string, got nothing",
      "the event is of version 4, declared is 3")
  end)

  it("are read as they are by a type without steps", function()
    local kind = declare { event_version = 3, n = "integer", note = "string?" }
    assert.equal(1, decode(kind, 1, ',"n":5').event_version)
    assert.equal(9, decode(kind, 9, ',"n":5').event_version)
  end)

  it("that are older are not made of a type with steps", function()
    local kind = order()
    local given = { aggregate_id = ID, total = "1", currency = "x" }
    assert.equal(3, kind(given).event_version)
    given.event_version = 2
    assert.error_matches(function() kind(given) end, "event_version: expected 3 or more")
    given.event_version = 4
    local event = kind(given)
    assert.equal(4, event.event_version)
    event.event_version = 2
    assert.error_matches(function() native:encode(event) end, "event_version: expected integer, ")
    event.event_version = nil
    assert.equal(3, native:decode(native:encode(event).value, kind.__moonbus).event_version)
  end)
end)

describe("over random events,", function()
  local function same(data) return data end

  it("those of the declared version are decoded as without steps", function()
    local plain = declare(events.fields { event_version = 3 })
    local lifting = declare(events.fields { event_version = 3, upcast = { same, same } })
    values.property(300, function(random)
      local event = plain(events.given(random, random:int(3, 5)))
      local value = native:encode(event).value
      local read = assert(native:decode(value, lifting.__moonbus))
      local ok, where = values.same(setmetatable(event, nil), setmetatable(read, nil))
      assert(ok, where)
    end)
  end)

  it("steps that change nothing change nothing", function()
    local plain = declare(events.fields())
    local lifting = declare(events.fields { event_version = 3, upcast = { same, same } })
    values.property(300, function(random)
      local event = plain(events.given(random, random:int(1, 2)))
      local read = assert(native:decode(native:encode(event).value, lifting.__moonbus))
      assert.equal(3, read.event_version)
      read.event_version, read.event_type = event.event_version, event.event_type
      local ok, where = values.same(setmetatable(event, nil), setmetatable(read, nil))
      assert(ok, where)
    end)
  end)
end)
