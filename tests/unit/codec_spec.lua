local cjson = require "cjson"
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

local function declare(name, fields)
  return moonbus.event(name, fields, { registry = registry })
end

local function decode(value, kind)
  return native:decode(value, kind and kind.__moonbus)
end

-- decoding fails with EDECODE and every text
local function undecodable(value, kind, ...)
  local event, why, code = decode(value, kind)
  assert.is_nil(event)
  assert.equal("EDECODE", code)
  for _, text in ipairs { ... } do assert.matches(text, why, 1, true) end
end

-- ---- the golden event ----

local function golden()
  local path = (os.getenv "MOONBUS_SOURCE" or ".") .. "/tests/support/golden.json"
  local file = assert(io.open(path, "rb"))
  local all = cjson.decode(file:read "*a")
  file:close()
  all.value = all.value_hex:gsub("%x%x", function(hex) return string.char(tonumber(hex, 16)) end)
  return all
end

local OrderPlaced = declare("OrderPlaced", {
  { "order_number", "string" }, { "customer_id", "uuid" }, { "total", "decimal" },
  { "weight", "number" }, { "quantity", "integer" }, { "express", "boolean" },
  { "note", "string?" }, aggregate_type = "Order",
})

local function order_placed()
  return OrderPlaced {
    event_id = "11111111-2222-4333-8444-555555555555",
    occurred_at = "2026-01-02T03:04:05.678901Z",
    aggregate_id = "AAAAAAAA-BBBB-4CCC-8DDD-EEEEEEEEEEEE",
    aggregate_version = 7,
    tenant_id = "01234567-89AB-4CDE-8F01-23456789ABCD",
    actor_id = "user:42",
    correlation_id = "99999999-8888-4777-8666-555555555555",
    causation_id = "12121212-3434-4565-8787-909090909090",
    metadata = { source = "api", n = 1, f = moonbus.float(1),
      nested = { a = { 1, moonbus.null, true } } },
    order_number = 'ORD-\195\169"\\/\n\t\1\127\240\159\152\128',
    customer_id = "00000000-0000-0000-0000-000000000001",
    total = "12.340", weight = 100, quantity = 3, express = true,
  }
end

describe("the golden event", function()
  local METADATA = '"metadata":{"source":"api","n":1,"f":1.0,"nested":{"a":[1,null,true]}}'
  -- A Lua table has no order: the members of metadata are written by name.
  local SORTED = '"metadata":{"f":1.0,"n":1,"nested":{"a":[1,null,true]},"source":"api"}'

  it("is written byte for byte, but for the order within metadata", function()
    local expected = golden().value
    local at, stop = expected:find(METADATA, 1, true)
    expected = expected:sub(1, at - 1) .. SORTED .. expected:sub(stop + 1)
    assert.equal(expected, native:encode(order_placed()).value)
  end)

  it("has the golden headers, in order", function()
    assert.same(golden().headers, native:encode(order_placed()).headers)
  end)

  it("has the aggregate's id as its key, in lower case", function() -- 19
    assert.equal(golden().key, native:encode(order_placed()).key)
  end)

  it("is read back with every field equal", function() -- 18
    local event = assert(decode(golden().value, OrderPlaced))
    local expected = order_placed()
    expected.metadata.f = 1
    assert.equal(OrderPlaced, getmetatable(event))
    for _, field in ipairs(OrderPlaced.__moonbus:fields()) do
      assert.same(expected[field[1]], event[field[1]], field[1])
    end
  end)

  it("is read back without its type, too", function()
    local event = assert(decode(golden().value))
    local expected = order_placed()
    for name, value in pairs(expected) do
      if name ~= "metadata" then assert.same(value, event[name], name) end
    end
    assert.equal(moonbus.null, event.note)
    assert.equal(moonbus.null, event.metadata.nested.a[2])
    assert.is_true(event:is "OrderPlaced")
    assert.equal(tostring(expected), tostring(event))
  end)

  it("is written again as it was read, declared or not", function()
    local first = native:encode(order_placed()).value
    assert.equal(first:gsub('"f":1%.0', '"f":1') .. "",
      native:encode((decode(first, OrderPlaced))).value)
    local again = native:encode((decode(first))).value
    assert.same(cjson.decode(first), cjson.decode(again))
  end)
end)

describe("encoding", function()
  local Small = declare("Small", { aggregate_type = "A", n = "number?", list = "number[]?" })

  it("writes numbers with a point, integers without", function()
    local kind = declare("Numbers", { { "a", "number" }, { "b", "integer" }, { "c", "number[]" },
      { "d", "integer[]" }, { "e", "integer" }, aggregate_type = "A" })
    local value = native:encode(kind { aggregate_id = ID, a = 100, b = 100, c = { 1, 0.5 },
      d = { 1, 9223372036854775807LL }, e = 18446744073709551615ULL }).value
    assert.matches('"a":100.0,"b":100,"c":[1.0,0.5],"d":[1,9223372036854775807]'
      .. ',"e":18446744073709551615}', value, 1, true)
  end)

  it("writes null for what is left out, and the arrays that are empty", function()
    local kind = declare("Empties", { { "a", "string?" }, { "b", "array" }, { "c", "string[]" },
      { "d", "object" }, { "e", "any" }, aggregate_type = "A" })
    local value = native:encode(kind { aggregate_id = ID, b = {}, c = {}, d = {},
      e = moonbus.array() }).value
    assert.matches('"metadata":{},"a":null,"b":[],"c":[],"d":{},"e":[]}', value, 1, true)
  end)

  it("leaves out the headers of what is not there", function()
    local names = {}
    for _, header in ipairs(native:encode(Small { aggregate_id = ID }).headers) do
      names[#names + 1] = header[1]
    end
    assert.same({ "event_id", "event_type", "aggregate_id", "aggregate_type", "aggregate_version",
      "occurred_at", "correlation_id" }, names)
  end)

  it("leaves out the header of an actor without a name", function()
    for _, header in ipairs(native:encode(Small { aggregate_id = ID, actor_id = "" }).headers) do
      assert.not_equal("actor_id", header[1])
    end
  end)

  it("checks a declared event again: a field changed since is refused", function()
    local event = Small { aggregate_id = ID }
    event.n = "x"
    assert.error_matches(function() native:encode(event) end, "Small%.n: expected number%?")
    event.n = nil
    event.aggregate_id = "nobody"
    assert.error_matches(function() native:encode(event) end, "Small%.aggregate_id: expected uuid")
    event.aggregate_id = ID
    event.aggregate_version = 0
    assert.error_matches(function() native:encode(event) end, "Small%.aggregate_version")
    event.aggregate_version = 1
    event.list = { 1, "x" }
    assert.error_matches(function() native:encode(event) end, "Small%.list.*element 2")
    event.list = nil
    event.metadata = "x"
    assert.error_matches(function() native:encode(event) end, "Small%.metadata")
    event.metadata = { 1 }
    assert.error_matches(function() native:encode(event) end, "Small%.metadata")
    event.metadata = { f = print }
    assert.error_matches(function() native:encode(event) end, "Small%.metadata.*function")
    event.metadata = nil
    assert.is_string(native:encode(event).value)
  end)

  it("refuses a field added to a declared event that the type does not know", function()
    local event = Small { aggregate_id = ID }
    event.extra = 1
    assert.error_matches(function() native:encode(event) end, "extra")
  end)

  it("refuses an object where an array is declared, and an array for an object", function()
    local kind = declare("Shapes", { { "a", "array?" }, { "o", "object?" }, { "s", "string[]?" },
      aggregate_type = "A" })
    local event = kind { aggregate_id = ID }
    event.o = { 1, 2 }
    assert.error_matches(function() native:encode(event) end, "Shapes%.o: expected object%?")
    event.o = nil
    event.a = { x = 1 }
    assert.error_matches(function() native:encode(event) end, "Shapes%.a: expected array%?")
    event.a = nil
    event.s = { x = "y" }
    assert.error_matches(function() native:encode(event) end, "Shapes%.s: expected string%[%]%?")
  end)

  it("names event and field of a nested value that has no place in JSON", function()
    local kind = declare("Nested", { { "o", "object" }, { "x", "any?" }, aggregate_type = "A" })
    for _, wrong in ipairs { { f = print }, { n = 0 / 0 }, { s = "\255" }, { [1.5] = 1 } } do
      assert.error_matches(function()
        native:encode(kind { aggregate_id = ID, o = wrong })
      end, "Nested%.o: ")
    end
    assert.error_matches(function()
      native:encode(kind { aggregate_id = ID, o = {}, x = print })
    end, "Nested%.x: .*function")
    assert.error_matches(function()
      native:encode(kind { aggregate_id = ID, o = {}, x = 0 / 0 })
    end, "Nested%.x: .*NaN")
  end)

  it("writes a plain table with the base fields in it as an event of that type", function()
    local value = native:encode { event_type = "Plain", aggregate_id = ID, aggregate_type = "A",
      event_id = support.uuid(1), correlation_id = support.uuid(2), zeta = 1, alpha = { 1 },
      occurred_at = "2026-01-02T03:04:05Z", gone = moonbus.null }.value
    assert.equal(('{"event_id":"%s","event_type":"Plain","event_version":1,"occurred_at":'
      .. '"2026-01-02T03:04:05Z","aggregate_id":"%s","aggregate_type":"A","aggregate_version":1,'
      .. '"tenant_id":null,"actor_id":null,"correlation_id":"%s","causation_id":null,"metadata":{},'
      .. '"alpha":[1],"gone":null,"zeta":1}'):format(support.uuid(1), ID, support.uuid(2)), value)
  end)

  it("refuses a plain table that lacks a base field, naming it", function()
    assert.error_matches(function() native:encode {} end, "event_type")
    assert.error_matches(function() native:encode { event_type = "P" } end, "aggregate_type")
    assert.error_matches(function() native:encode { event_type = "P", aggregate_type = "A" } end,
      "aggregate_id")
    assert.error_matches(function()
      native:encode { event_type = "P", aggregate_type = "A", aggregate_id = ID, 5 }
    end, "names")
  end)

  it("goes on after a refusal", function()
    pcall(native.encode, native, {})
    assert.is_string(native:encode(order_placed()).value)
  end)
end)

describe("decoding", function()
  local Reading = declare("Reading", { { "a", "integer" }, { "b", "number?" }, { "c", "string?" },
    { "d", "decimal?" }, { "t", "timestamp?" }, { "u", "uuid?" }, { "l", "integer[]?" },
    { "x", "any?" }, { "o", "object?" }, { "r", "array?" }, { "f", "boolean?" },
    aggregate_type = "A" })

  local function text(members)
    return ('{"event_id":"%s","event_type":"Reading","occurred_at":"2026-01-02T03:04:05Z",'
      .. '"aggregate_id":"%s","aggregate_type":"A","correlation_id":"%s"%s}')
      :format(support.uuid(1), ID, support.uuid(2), members)
  end

  it("fills what the value lacks", function()
    local event = assert(decode(text ',"a":1', Reading))
    assert.equal(1, event.event_version)
    assert.equal(1, event.aggregate_version)
    assert.same({}, event.metadata)
    assert.is_nil(event.tenant_id)
    assert.is_nil(event.b)
  end)

  it("fills the event_id the same way every time", function()
    local value = ('{"event_type":"Reading","aggregate_id":"%s","aggregate_type":"A","a":1}')
      :format(ID)
    local first, second = decode(value, Reading), decode(value, Reading)
    assert.equal(first.event_id, second.event_id)
    assert.equal(first.event_id, first.correlation_id)
    assert.equal(first.occurred_at, second.occurred_at)
  end)

  it("reads integers from text and from whole floats", function()
    assert.equal(5, decode(text ',"a":"5"', Reading).a)
    assert.equal(5, decode(text ',"a":5.0', Reading).a)
    assert.is_true(decode(text ',"a":9007199254740993', Reading).a == 9007199254740993LL)
    undecodable(text ',"a":5.5', Reading, "Reading.a", "expected integer", "5.5")
    assert.is_true(decode(text ',"a":90071992547409e3', Reading).a == 90071992547409000LL)
  end)

  it("gives the elements of a list as it gives fields of their type", function()
    local kind = declare("Lists", { { "i", "integer[]" }, { "n", "number[]" }, { "u", "uuid[]" },
      { "t", "timestamp[]" }, { "d", "decimal[]" }, aggregate_type = "A" })
    local event = assert(decode(text((',"i":["5",5.0,9007199254740993],"n":[9007199254740993,1],'
      .. '"u":["{%s}"],"t":["2026-01-02",0],"d":[12.340,"1E+3"]'):format(ID:upper())), kind))
    values.check_same(moonbus.array { 5, 5, 9007199254740993LL }, event.i)
    values.check_same(moonbus.array { 9007199254740992, 1 }, event.n)
    values.check_same(moonbus.array { ID }, event.u)
    values.check_same(moonbus.array { "2026-01-02T00:00:00Z", "1970-01-01T00:00:00Z" }, event.t)
    values.check_same(moonbus.array { "12.340", "1E+3" }, event.d)
    values.check_same(event, assert(decode(native:encode(event).value, kind)))
  end)

  it("reads decimals by their digits", function()
    assert.equal("12.340", decode(text ',"a":1,"d":12.340', Reading).d)
    assert.equal("12.340", decode(text ',"a":1,"d":"12.340"', Reading).d)
  end)

  it("brings uuids and timestamps into their usual form", function()
    local event = decode(text((',"a":1,"u":"%s","t":"2026-01-02 03:04:05.5"'):format(ID:upper())),
      Reading)
    assert.equal(ID, event.u)
    assert.equal("2026-01-02T03:04:05.500000Z", event.t)
  end)

  it("gives nil for null in an optional field and moonbus.null inside values", function()
    local event = decode(text ',"a":1,"c":null,"o":{"k":null},"r":[null]', Reading)
    assert.is_nil(event.c)
    assert.equal(moonbus.null, event.o.k)
    assert.equal(moonbus.null, event.r[1])
  end)

  it("keeps empty arrays arrays", function()
    local event = decode(text ',"a":1,"l":[],"x":[],"o":{},"r":[]', Reading)
    for name, expected in pairs { l = "[]", x = "[]", o = "{}", r = "[]" } do
      assert.equal(expected, moonbus.json.encode(event[name]), name)
    end
  end)

  it("passes over members that are not declared", function()
    local event = decode(text ',"a":1,"later":{"deep":[1,2]}', Reading)
    assert.equal(1, event.a)
    assert.is_nil(event.later)
  end)

  it("takes the last of duplicate members", function()
    assert.equal(2, decode(text ',"a":1,"a":2', Reading).a)
  end)

  it("names event, field, expected and got", function()
    undecodable(text ',"a":"x"', Reading, "Reading.a: expected integer", '"x"', "(byte ")
    undecodable(text "", Reading, "Reading.a", "integer")
    undecodable(text ',"a":null', Reading, "Reading.a", "null")
    undecodable(text ',"a":1,"b":"x"', Reading, "Reading.b: expected number or null")
    undecodable(text ',"a":1,"c":5', Reading, "Reading.c: expected string or null", "5")
    undecodable(text ',"a":1,"f":1', Reading, "Reading.f: expected boolean or null")
    undecodable(text ',"a":1,"l":[1,null]', Reading, "Reading.l")
    undecodable(text ',"a":1,"l":[1,"x"]', Reading, "Reading.l", "integer")
    undecodable(text ',"a":1,"o":[]', Reading, "Reading.o: expected object or null", "an array")
    undecodable(text ',"a":1,"r":{}', Reading, "Reading.r: expected array or null", "an object")
    undecodable(text ',"a":1,"u":"nobody"', Reading, "Reading.u: expected uuid or null")
    undecodable(text ',"a":1,"t":"noon"', Reading, "Reading.t: expected timestamp or null")
    undecodable(text ',"a":1,"event_version":0', Reading, "Reading.event_version")
    undecodable(text ',"a":1,"metadata":[]', Reading, "Reading.metadata")
  end)

  it("refuses what is no event", function()
    for _, value in ipairs { "", " ", "null", "5", "[]", '"text"', "{", "garbage",
      "\239\187\191" .. text ',"a":1', text ',"a":1' .. "x", text(',"a":1,"c":"\255"'),
      text(',"a":1,"c":"\\ud800"') } do
      undecodable(value, Reading)
      undecodable(value)
    end
    undecodable("{}", Reading)
    undecodable("{}")
  end)
end)

describe("over random events,", function()
  local Random = declare("Random", events.fields())

  local function random_event(random) return Random(events.given(random)) end

  it("what is encoded is decoded with every field equal", function() -- 18
    values.property(400, function(random)
      local event = random_event(random)
      values.check_same(event, assert(decode(native:encode(event).value, Random)))
    end)
  end)

  it("what is decoded is encoded as the same bytes", function()
    values.property(200, function(random)
      local value = native:encode(random_event(random)).value
      assert.equal(value, native:encode((decode(value, Random))).value)
    end)
  end)

  it("what is declared is decoded without the type to the same values", function()
    values.property(200, function(random)
      local event = random_event(random)
      local untyped = assert(decode(native:encode(event).value))
      for name, value in pairs(event) do
        local ok, where = values.same(value, untyped[name], name)
        assert(ok, where)
      end
    end)
  end)
end)

describe("bytes of any kind", function()
  -- an event that can be written again, or EDECODE with a reason
  local function event_or_error(value, kind)
    local event, why, code = decode(value, kind)
    if event == nil then
      assert.equal("EDECODE", code)
      assert.is_string(why)
      return false
    end
    assert.is_string(event.event_type)
    assert.is_string(native:encode(event).value)
    return true
  end

  it("are refused or decoded, never worse", function()
    values.property(3000, function(random)
      event_or_error(random:bytes(60), OrderPlaced)
      event_or_error(random:bytes(60))
    end)
  end)

  it("that begin the golden value are refused, whatever the length", function()
    local value = golden().value
    for length = 0, #value - 1 do
      assert.is_false(event_or_error(value:sub(1, length), OrderPlaced))
      assert.is_false(event_or_error(value:sub(1, length)))
    end
  end)

  it("made of the golden value by small damage are refused or decoded", function()
    local value = golden().value
    values.property(6000, function(random)
      local damaged = random:mutated(value)
      event_or_error(damaged, OrderPlaced)
      event_or_error(damaged)
    end)
  end)

  it("made of random documents are refused or decoded", function()
    values.property(1000, function(random)
      local value = golden().value
      local head = value:sub(1, value:find '"metadata":' + 10)
      event_or_error(head .. random:document(3) .. "}")
      event_or_error(head .. "{}" .. ',"own":' .. random:document(3) .. "}")
    end)
  end)
end)
