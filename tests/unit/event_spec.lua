local ffi = require "ffi"
local moonbus = require "moonbus"
local support = require "tests.support.bus"

local ID = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
local registry = moonbus.new_registry()

local function declare(name, fields)
  return moonbus.event(name, fields, { registry = registry })
end

local serial = 0

-- A type "Sample<n>" with one field "value" of that spec.
local function sample(spec)
  serial = serial + 1
  return declare("Sample" .. serial, { aggregate_type = "Sample", value = spec })
end

local function make(kind, value)
  return kind { aggregate_id = ID, value = value }
end

-- Whether body raises an error that contains every text.
local function raises(body, ...)
  local ok, why = pcall(body)
  assert.is_false(ok, "nothing was raised")
  for _, text in ipairs { ... } do assert.matches(text, why, 1, true) end
  return why
end

local function refuses(spec, value, expected, got)
  local kind = sample(spec)
  raises(function() make(kind, value) end,
    ("%s.value: expected %s, got %s"):format(kind.name, expected, got))
end

local function accepts(spec, value, becomes)
  local event = make(sample(spec), value)
  if becomes == nil then becomes = value end
  assert.same(becomes, event.value)
end

describe("a version", function()
  it("may be any integer from 1 up to 2^63", function()
    local kind = declare("Versioned", { aggregate_type = "Sample" })
    local function version(value) return kind { aggregate_id = ID, aggregate_version = value } end
    assert.equal(9007199254740993LL, version(9007199254740993LL).aggregate_version)
    assert.equal(5LL, version(5LL).aggregate_version)
    raises(function() version(0LL) end, "Versioned.aggregate_version: expected 1 or more, got 0")
    raises(function() version(-1) end, "Versioned.aggregate_version: expected 1 or more, got -1")
    raises(function() version(2ULL ^ 63) end,
      "Versioned.aggregate_version: expected less than 2^63")
  end)
end)

describe("declaring an event type", function()
  it("gives a type that knows its name and makes events", function()
    local kind = declare("Declared", { total = "number" })
    assert.equal("Declared", kind.name)
    assert.equal("event type Declared", tostring(kind))
    local event = kind { aggregate_id = ID, aggregate_type = "Order", total = 1.5 }
    assert.equal("Declared", event.event_type)
    assert.equal(1.5, event.total)
    assert.equal(kind, getmetatable(event))
  end)

  it("needs no fields", function()
    local kind = declare "Bare"
    assert.equal("Bare", kind { aggregate_id = ID, aggregate_type = "A" }.event_type)
    assert.equal("Bare2", (declare("Bare2", {}) { aggregate_id = ID, aggregate_type = "A" })
      .event_type)
  end)

  it("refuses a missing or unfit name", function()
    raises(function() declare(nil) end, "needs a name")
    raises(function() declare "" end, "needs a name")
    raises(function() declare(7) end, "needs a name")
    raises(function() declare(("n"):rep(250)) end, "1 to 249 bytes")
    raises(function() declare "\255" end, "UTF-8")
  end)

  it("refuses fields that are no table", function()
    raises(function() declare("NoTable", "string") end, "NoTable: the fields are a table")
  end)

  it("refuses fields that would be passed over", function()
    raises(function() declare("Gap", { { "a", "string" }, nil, { "b", "string" } }) end,
      "Gap: a field is name = type, or { name, type } in a list without gaps; [3] is neither")
    raises(function() declare("Gap", { [true] = "string" }) end, "[true] is neither")
  end)

  it("refuses options that it does not have", function()
    raises(function() moonbus.event("Optional", {}, { registy = registry }) end,
      'Optional: an event type has no option "registy": registry')
    raises(function() moonbus.event("Optional", {}, { registry = 5 }) end,
      "Optional: registry: expected one of moonbus.new_registry()")
    raises(function() moonbus.event("Optional", {}, 5) end, "Optional: the options are a table")
    assert.is_nil(moonbus.registry:get "Optional")
  end)

  it("refuses an unknown field type and lists the known ones", function()
    raises(function() declare("Unknown", { a = "strnig" }) end, "Unknown.a", '"strnig"', "string",
      "number", "integer", "boolean", "uuid", "timestamp", "decimal", "object", "array", "any")
    raises(function() declare("Unknown", { a = "" }) end, "Unknown.a")
    raises(function() declare("Unknown", { a = "string??" }) end, "Unknown.a")
    raises(function() declare("Unknown", { a = "[]" }) end, "Unknown.a")
    raises(function() declare("Unknown", { a = "string?[]" }) end, "Unknown.a")
  end)

  it("refuses a field whose type is no text", function()
    raises(function() declare("Odd", { a = 5 }) end, "Odd.a: expected a type")
    raises(function() declare("Odd", { a = {} }) end, "Odd.a: expected a type")
    raises(function() declare("Odd", { a = { type = 5 } }) end, "Odd.a: expected a type")
    raises(function() declare("Odd", { a = true }) end, "Odd.a: expected a type")
    raises(function() declare("Odd", { "a" }) end, 'Odd: a field given by position is { "name"')
    raises(function() declare("Odd", { { 1, "string" } }) end, "Odd: a field given by position")
    raises(function() declare("Odd", { { "a" } }) end, "Odd.a: expected a type")
  end)

  it("refuses names that JSON would have to escape, and an empty one", function()
    raises(function() declare("Names", { ['a"b'] = "string" }) end, "Names: field")
    raises(function() declare("Names", { ["a\nb"] = "string" }) end, "Names: field")
    raises(function() declare("Names", { [""] = "string" }) end, "Names: field")
    raises(function() declare("Names", { ["\255"] = "string" }) end, "Names: field")
  end)

  it("refuses a field declared twice", function()
    raises(function() declare("Twice", { { "a", "string" }, { "a", "number" } }) end,
      'Twice: field "a" is declared twice')
    raises(function() declare("Twice", { { "a", "string" }, a = "number" }) end,
      'Twice: field "a" is declared twice')
  end)

  it("refuses a base field given by position", function()
    raises(function() declare("Base", { { "event_id", "uuid" } }) end,
      'Base: field "event_id" has the name of a base field')
  end)

  it("refuses an event_type that is not the name", function()
    raises(function() declare("Right", { event_type = "Wrong" }) end, "Right", '"Wrong"')
    assert.equal("Right", declare("Right", { event_type = "Right" }).name)
  end)

  it("refuses more fields than 116", function()
    local fields = {}
    for i = 1, 116 do fields["field" .. i] = "string?" end
    local full = declare("Full", fields)
    local event = full { aggregate_id = ID, aggregate_type = "A", field116 = "x" }
    assert.equal("x", event.field116)
    fields.field117 = "string?"
    raises(function() declare("TooFull", fields) end, "one too many")
  end)

  it("leaves the name free when the declaration is refused", function()
    raises(function() declare("Again", { a = "nonsense" }) end, "Again.a")
    assert.is_nil(registry:get "Again")
    assert.equal("Again", declare("Again", { a = "string" }).name)
  end)

  it("takes a spec as a table, too", function()
    local kind = declare("Spec", { a = { type = "integer" },
      b = { type = "string", optional = true },
      c = { type = "number", default = 2.5 }, d = { type = "string?", default = "d" } })
    local event = kind { aggregate_id = ID, aggregate_type = "A", a = 1 }
    assert.equal(1, event.a)
    assert.is_nil(event.b)
    assert.equal(2.5, event.c)
    assert.equal("d", event.d)
    raises(function() kind { aggregate_id = ID, aggregate_type = "A" } end, "Spec.a is missing")
  end)

  it("refuses a default that does not fit its type", function()
    raises(function() declare("Default1", { a = { type = "number", default = "x" } }) end,
      "Default1.a")
    raises(function() declare("Default2", { aggregate_type = 5 }) end, "Default2.aggregate_type")
    raises(function() declare("Default3", { tenant_id = "nobody" }) end, "Default3.tenant_id")
  end)

  it("takes a field with the name of a method", function()
    local kind = declare("Methods", { is = "string?", caused_by = "string?" })
    local event = kind { aggregate_id = ID, aggregate_type = "A" }
    local bus = support.new { event_registry = registry }
    assert.matches('"caused_by":null,"is":null', bus.native:encode(event).value, 1, true)
    support.close()
  end)

  it("refuses to send what was added to an event and is no field", function()
    local kind = declare("Grown", { total = "number?", note = "string?" })
    local event = kind { aggregate_id = ID, aggregate_type = "A" }
    local bus = support.new { event_registry = registry }
    local function value(of) return bus.native:encode(of).value end
    assert.matches('"note":null,"total":null', value(event), 1, true)
    event.total, event.tenant_id = 5, ID
    assert.matches('"note":null,"total":5.0', value(event), 1, true)
    assert.matches('"tenant_id":"' .. ID, value(event), 1, true)
    event.total = moonbus.null
    assert.matches('"note":null,"total":null', value(event), 1, true)
    local other = kind { aggregate_id = ID, aggregate_type = "A", note = "" }
    other.totl = 1
    raises(function() value(other) end, 'Grown has no field "totl"')
    other.totl = nil
    assert.matches('"note":"","total":null', value(other), 1, true)
    assert.matches('"note":null,"total":null', value(event), 1, true)
    event[1] = 7
    raises(function() value(event) end, "Grown has no field")
    local copy = kind { aggregate_id = ID, aggregate_type = "A" }:caused_by(other)
    copy.nothing = 1
    raises(function() value(copy) end, 'Grown has no field "nothing"')
    support.close()
  end)
end)

describe("positional fields", function()
  local function fields_of(kind)
    local names = {}
    for _, field in ipairs(kind.__moonbus:fields()) do
      if not field[3] then names[#names + 1] = field[1] .. ":" .. field[2] end
    end
    return table.concat(names, " ")
  end

  it("keep their order; those by name follow, sorted", function()
    local kind = declare("Order1", { { "z", "string" }, { "a", "uuid?" }, y = "integer[]",
      b = "any", aggregate_type = "Order" })
    assert.equal("z:string a:uuid? b:any y:integer[]", fields_of(kind))
  end)

  it("may have options", function()
    local kind = declare("Order2", { { "z", type = "string", default = "zz" },
      { "a", { type = "number", optional = true } } })
    assert.equal("z:string? a:number?", fields_of(kind))
    assert.equal("zz", kind { aggregate_id = ID, aggregate_type = "A" }.z)
  end)

  it("stand after the twelve base fields on the wire", function()
    local names = {}
    for _, field in ipairs(declare("Order3", { { "own", "string" } }).__moonbus:fields()) do
      names[#names + 1] = field[1]
    end
    assert.same({ "event_id", "event_type", "event_version", "occurred_at", "aggregate_id",
      "aggregate_type", "aggregate_version", "tenant_id", "actor_id", "correlation_id",
      "causation_id", "metadata", "own" }, names)
  end)
end)

describe("a field of type", function()
  it("string takes text and nothing else", function()
    accepts("string", "")
    accepts("string", "\195\169 \0 \240\159\152\128")
    refuses("string", 5, "string", "number 5")
    refuses("string", true, "string", "boolean true")
    refuses("string", {}, "string", "table")
    refuses("string", print, "string", "function")
    refuses("string", "\255", "string", "string")
    refuses("string", 5LL, "string", "cdata")
  end)

  it("number takes finite numbers and 64-bit integers", function()
    accepts("number", 1.5)
    accepts("number", -0)
    accepts("number", 1e300)
    accepts("number", 5LL, 5)
    refuses("number", "5", "number", 'string "5"')
    refuses("number", 0 / 0, "number", "number")
    refuses("number", 1 / 0, "number", "number inf")
    refuses("number", false, "number", "boolean false")
  end)

  it("number takes moonbus.float", function()
    accepts("number", moonbus.float(100), 100)
  end)

  it("integer takes whole numbers and 64-bit integers", function()
    accepts("integer", 0)
    accepts("integer", -5)
    accepts("integer", 2 ^ 53)
    accepts("integer", 9223372036854775807LL)
    accepts("integer", 18446744073709551615ULL)
    refuses("integer", 5.5, "integer", "number 5.5")
    refuses("integer", "5", "integer", 'string "5"')
    refuses("integer", 2 ^ 70, "integer", "number")
    refuses("integer", 1 / 0, "integer", "number inf")
    refuses("integer", 0 / 0, "integer", "number")
    refuses("integer", ffi.new("int[2]"), "integer", "cdata")
  end)

  it("boolean takes true and false, no stand-ins", function()
    accepts("boolean", true)
    accepts("boolean", false)
    refuses("boolean", 0, "boolean", "number 0")
    refuses("boolean", "true", "boolean", 'string "true"')
  end)

  it("uuid takes every usual form and keeps the lower-case hyphenated one", function()
    accepts("uuid", ID)
    accepts("uuid", ID:upper(), ID)
    accepts("uuid", "{" .. ID .. "}", ID)
    accepts("uuid", "urn:uuid:" .. ID, ID)
    accepts("uuid", (ID:gsub("%-", "")), ID)
    refuses("uuid", "nobody", "uuid", 'string "nobody"')
    refuses("uuid", ID .. "0", "uuid", "string")
    refuses("uuid", "", "uuid", 'string ""')
    refuses("uuid", 5, "uuid", "number 5")
  end)

  it("timestamp takes ISO 8601 text and seconds since 1970", function()
    accepts("timestamp", "2026-01-02T03:04:05Z")
    accepts("timestamp", "2026-01-02T03:04:05.678901Z")
    accepts("timestamp", 1767323045.5, "2026-01-02T03:04:05.500000Z")
    accepts("timestamp", "2026-01-02 03:04:05", "2026-01-02T03:04:05Z")
    accepts("timestamp", "2026-01-02 03:04:05Z", "2026-01-02T03:04:05Z")
    accepts("timestamp", "2026-01-02 03:04:05.678901Z", "2026-01-02T03:04:05.678901Z")
    accepts("timestamp", "2026-01-02T03:04:05.000000Z", "2026-01-02T03:04:05Z")
    accepts("timestamp", "2024-02-29T23:59:59Z")
    refuses("timestamp", "yesterday", "timestamp", 'string "yesterday"')
    refuses("timestamp", "2026-02-30T00:00:00Z", "timestamp", "string")
    refuses("timestamp", 1 / 0, "timestamp", "number inf")
    refuses("timestamp", true, "timestamp", "boolean true")
  end)

  it("decimal takes the text of a number and tells so to whoever gives a number", function()
    accepts("decimal", "12.340")
    accepts("decimal", "-0.0")
    accepts("decimal", "1E+3")
    refuses("decimal", 12.34, "decimal", "number 12.34")
    raises(function() make(sample "decimal", 12.34) end, "decimals are strings")
    refuses("decimal", "12,34", "decimal", 'string "12,34"')
    refuses("decimal", "NaN", "decimal", 'string "NaN"')
    refuses("decimal", "", "decimal", 'string ""')
  end)

  it("object takes a table with text keys", function()
    accepts("object", { a = { b = 1 } })
    accepts("object", {})
    refuses("object", "x", "object", 'string "x"')
    refuses("object", 5, "object", "number 5")
    refuses("object", { 1, 2 }, "object", "")
  end)

  it("array takes a list of anything", function()
    accepts("array", { 1, "a", true })
    accepts("array", {})
    accepts("array", moonbus.array { 1, moonbus.null })
    refuses("array", "x", "array", 'string "x"')
    refuses("array", { a = 1 }, "array", "")
  end)

  it("any takes anything", function()
    for _, value in ipairs { 1, "x", true, { 1 }, { a = 1 }, 5LL } do accepts("any", value) end
    accepts("any", false)
  end)

  it("any takes moonbus.null and keeps it", function()
    accepts("any", moonbus.null)
  end)

  it("T[] takes a list and checks every element, naming the wrong one", function()
    accepts("string[]", { "a", "b" }, moonbus.array { "a", "b" })
    accepts("string[]", {}, moonbus.array {})
    accepts("uuid[]", { ID:upper() }, moonbus.array { ID })
    accepts("number[]", { 1, 2.5 }, moonbus.array { 1, 2.5 })
    local kind = sample "integer[]"
    raises(function() make(kind, { 1, 2, "x" }) end, kind.name
      .. '.value: expected integer[], got string "x"', "element 3")
    raises(function() make(kind, { 1, moonbus.null }) end, kind.name, "got null", "element 2")
    refuses("integer[]", "x", "integer[]", 'string "x"')
    refuses("boolean[]", { 1 }, "boolean[]", "number 1")
  end)

  it("T[] refuses a table with text keys", function()
    refuses("string[]", { a = "x" }, "string[]", "")
    refuses("string[]", { "x", b = "y" }, "string[]", "")
  end)

  it("any[] takes nulls", function()
    accepts("any[]", { 1, moonbus.null }, moonbus.array { 1, moonbus.null })
  end)

  it("T[] copies the list, so that later changes do not reach the event", function()
    local list = { "a" }
    local event = make(sample "string[]", list)
    list[2] = "b"
    assert.equal(1, #event.value)
  end)

  it("T? may be left out, nil or moonbus.null, and is nil then", function()
    for _, spec in ipairs { "string?", "number?", "integer?", "boolean?", "uuid?", "timestamp?",
      "decimal?", "object?", "array?", "any?", "string[]?" } do
      local kind = sample(spec)
      assert.is_nil(kind { aggregate_id = ID }.value)
      assert.is_nil(kind { aggregate_id = ID, value = moonbus.null }.value)
    end
    refuses("string?", 5, "string?", "number 5")
  end)

  it("T without ? may not be missing", function()
    for _, spec in ipairs { "string", "number", "integer", "boolean", "uuid", "timestamp",
      "decimal", "object", "array", "any", "string[]" } do
      local kind = sample(spec)
      raises(function() kind { aggregate_id = ID } end, kind.name .. ".value is missing")
    end
  end)

  it("is named in the message with long text cut", function()
    local why = raises(function() make(sample "uuid", ("x"):rep(1000)) end, "expected uuid",
      "xxx...")
    assert(#why < 300)
  end)
end)

describe("defaults", function()
  it("stand in for what is left out, and for null", function()
    local kind = sample { type = "string", default = "there" }
    assert.equal("there", kind { aggregate_id = ID }.value)
    assert.equal("there", kind { aggregate_id = ID, value = moonbus.null }.value)
    assert.equal("other", kind { aggregate_id = ID, value = "other" }.value)
  end)

  it("may be false", function()
    assert.is_false(sample { type = "boolean", default = false } { aggregate_id = ID }.value)
  end)

  it("have the normal form that a value given has", function()
    local id = "AAAAAAAA-BBBB-4CCC-8DDD-EEEEEEEEEEEE"
    assert.equal("1970-01-01T00:00:00Z",
      sample { type = "timestamp", default = 0 } { aggregate_id = ID }.value)
    assert.equal(id:lower(), sample { type = "uuid", default = id } { aggregate_id = ID }.value)
  end)

  it("are not shared between events when they are tables", function()
    local kind = sample { type = "object", default = { n = 1 } }
    local first = kind { aggregate_id = ID }
    first.value.n = 2
    assert.equal(1, kind { aggregate_id = ID }.value.n)
    local tagged = declare("Tagged", { aggregate_type = "A", metadata = { source = "spec" } })
    tagged { aggregate_id = ID }.metadata.source = "changed"
    assert.equal("spec", tagged { aggregate_id = ID }.metadata.source)
  end)
end)

describe("base fields", function()
  local kind = declare("Based", { aggregate_type = "Order" })

  it("are filled in: ids at random, now, versions 1, no metadata", function()
    local event = kind { aggregate_id = ID }
    assert.matches("^%x+%-%x+%-4%x+%-%x+%-%x+$", event.event_id)
    assert.matches("^%x+%-%x+%-4%x+%-%x+%-%x+$", event.correlation_id)
    assert.not_equal(event.event_id, event.correlation_id)
    assert.not_equal(event.event_id, kind { aggregate_id = ID }.event_id)
    assert(math.abs(moonbus.epoch(event.occurred_at) - os.time()) <= 60)
    assert.equal(1, event.event_version)
    assert.equal(1, event.aggregate_version)
    assert.equal("Order", event.aggregate_type)
    assert.same({}, event.metadata)
    assert.is_nil(event.tenant_id)
    assert.is_nil(event.actor_id)
    assert.is_nil(event.causation_id)
  end)

  it("may each be given", function()
    local given = { event_id = support.uuid(1), event_type = "Based", event_version = 2,
      occurred_at = "2026-01-02T03:04:05.678901Z", aggregate_id = ID, aggregate_type = "Cart",
      aggregate_version = 7, tenant_id = support.uuid(2), actor_id = "user:42",
      correlation_id = support.uuid(3), causation_id = support.uuid(4), metadata = { a = 1 } }
    local event = kind(given)
    for name, value in pairs(given) do assert.same(value, event[name]) end
  end)

  it("may have defaults of the type's own", function()
    local tenant = declare("Tenant", { aggregate_type = "A", event_version = 3,
      tenant_id = support.uuid(9), actor_id = "system" })
    local event = tenant { aggregate_id = ID }
    assert.equal(3, event.event_version)
    assert.equal(support.uuid(9), event.tenant_id)
    assert.equal("system", event.actor_id)
    assert.equal("me", tenant { aggregate_id = ID, actor_id = "me" }.actor_id)
  end)

  it("must be there where nothing can stand in", function()
    raises(function() kind {} end, "Based.aggregate_id is missing")
    raises(function() declare("Loose", {}) { aggregate_id = ID } end,
      "Loose.aggregate_type is missing")
  end)

  it("are checked like the others", function()
    raises(function() kind { aggregate_id = "7" } end,
      'Based.aggregate_id: expected uuid, got string "7"')
    raises(function() kind { aggregate_id = 7 } end, "expected uuid, got number 7")
    raises(function() kind { aggregate_id = ID, occurred_at = "noon" } end, "Based.occurred_at")
    raises(function() kind { aggregate_id = ID, tenant_id = "x" } end, "Based.tenant_id")
    raises(function() kind { aggregate_id = ID, metadata = "x" } end, "Based.metadata")
    raises(function() kind { aggregate_id = ID, event_type = "Other" } end, "Based.event_type",
      '"Based"', '"Other"')
    for _, name in ipairs { "event_version", "aggregate_version" } do
      raises(function() kind { aggregate_id = ID, [name] = 0 } end, "Based." .. name, "1 or more")
      raises(function() kind { aggregate_id = ID, [name] = -1 } end, "Based." .. name)
      raises(function() kind { aggregate_id = ID, [name] = 1.5 } end, "Based." .. name)
    end
  end)
end)

describe("making an event", function()
  local kind = declare("Made", { aggregate_type = "Order", total = "number" })

  it("refuses a field that is not declared, naming it", function()
    raises(function() kind { aggregate_id = ID, total = 1, totl = 2 } end,
      'Made has no field "totl"')
    raises(function() kind { aggregate_id = ID, total = 1, 5 } end, "Made has no field")
    raises(function() kind { aggregate_id = ID, total = 1, [true] = 5 } end, "Made has no field")
  end)

  it("refuses anything but a table", function()
    raises(function() kind() end, "Made: expected a table of fields")
    raises(function() kind "x" end, "Made: expected a table of fields")
  end)

  it("leaves what it was given as it was", function()
    local given = { aggregate_id = ID:upper(), total = 1 }
    kind(given)
    assert.same({ aggregate_id = ID:upper(), total = 1 }, given)
  end)

  it("takes an event and copies it", function()
    local first = kind { aggregate_id = ID, total = 1 }
    local second = kind(first)
    assert.not_equal(first, second)
    assert.same(first, second)
  end)

  it("points its errors at the line that called", function()
    local line
    local _, why = pcall(function()
      line = debug.getinfo(1, "l").currentline + 1
      local event = kind { aggregate_id = ID, total = "x" }
      return event
    end)
    assert.matches(("event_spec.lua:%d: Made.total"):format(line), why, 1, true)
    _, why = pcall(function()
      line = debug.getinfo(1, "l").currentline + 1
      local event = kind(5)
      return event
    end)
    assert.matches(("event_spec.lua:%d: Made: expected a table"):format(line), why, 1, true)
  end)

  it("points the errors of a declaration at the line that declared", function()
    for _, fields in ipairs { { a = "nonsense" }, { a = 5 }, { "a" }, { event_type = "x" } } do
      local line
      local _, why = pcall(function()
        line = debug.getinfo(1, "l").currentline + 1
        local declared = moonbus.event("Pointed", fields, { registry = registry })
        return declared
      end)
      assert.matches(("event_spec.lua:%d: "):format(line), why, 1, true)
    end
  end)
end)

describe("an event", function()
  local kind = declare("Event", { aggregate_type = "Order", total = "number", note = "string?" })
  local other = declare("OtherEvent", { aggregate_type = "Order" })

  it("is a plain table: pairs sees every field", function()
    local event = kind { aggregate_id = ID, total = 5, note = "n", tenant_id = support.uuid(1),
      actor_id = "a", causation_id = support.uuid(2) }
    local names = {}
    for name in pairs(event) do names[#names + 1] = name end
    table.sort(names)
    assert.same({ "actor_id", "aggregate_id", "aggregate_type", "aggregate_version", "causation_id",
      "correlation_id", "event_id", "event_type", "event_version", "metadata", "note",
      "occurred_at", "tenant_id", "total" }, names)
  end)

  it("says what it is", function()
    local event = kind { aggregate_id = ID, total = 5 }
    assert.equal(("Event(aggregate_id=%s, event_id=%s)"):format(ID, event.event_id),
      tostring(event))
  end)

  it("knows its type, by type and by name", function()
    local event = kind { aggregate_id = ID, total = 5 }
    assert.is_true(event:is(kind))
    assert.is_true(event:is "Event")
    assert.is_false(event:is(other))
    assert.is_false(event:is "OtherEvent")
  end)

  it("caused_by gives a copy that names its cause and shares its correlation", function()
    local cause = other { aggregate_id = ID }
    local event = kind { aggregate_id = ID, total = 5 }
    local effect = event:caused_by(cause)
    assert.equal(cause.event_id, effect.causation_id)
    assert.equal(cause.correlation_id, effect.correlation_id)
    assert.equal(event.event_id, effect.event_id)
    assert.equal(5, effect.total)
    assert.equal(kind, getmetatable(effect))
    assert.is_nil(event.causation_id)
    assert.not_equal(cause.correlation_id, event.correlation_id)
  end)

  it("with_metadata gives a copy with more of it", function()
    local event = kind { aggregate_id = ID, total = 5, metadata = { a = 1, b = 1 } }
    local more = event:with_metadata { b = 2, c = 3 }
    assert.same({ a = 1, b = 2, c = 3 }, more.metadata)
    assert.same({ a = 1, b = 1 }, event.metadata)
    assert.equal(kind, getmetatable(more))
    assert.equal(event.event_id, more.event_id)
  end)
end)

describe("a registry", function()
  it("finds types by name and lists them", function() -- 12
    local own = moonbus.new_registry()
    assert.is_nil(own:get "First")
    local first = moonbus.event("First", {}, { registry = own })
    local second = moonbus.event("Another", {}, { registry = own })
    assert.equal(first, own:get "First")
    assert.equal(second, own:get "Another")
    assert.same({ "Another", "First" }, own:names())
  end)

  it("refuses a second type of the same name", function()
    local own = moonbus.new_registry()
    moonbus.event("Same", {}, { registry = own })
    raises(function() moonbus.event("Same", {}, { registry = own }) end,
      'event type "Same" is declared already')
  end)

  it("holds its own: the same name in two is two types", function() -- 17
    local left, right = moonbus.new_registry(), moonbus.new_registry()
    local a = moonbus.event("Shared", { x = "string" }, { registry = left })
    local b = moonbus.event("Shared", { x = "number" }, { registry = right })
    assert.not_equal(a, b)
    assert.is_nil(moonbus.registry:get "Shared")
  end)

  it("forgets a type, and its name may be declared again", function()
    local own = moonbus.new_registry()
    local first = moonbus.event("Once", {}, { registry = own })
    assert.is_true(own:remove "Once")
    assert.is_false(own:remove "Once")
    assert.not_equal(first, moonbus.event("Once", {}, { registry = own }))
  end)

  it("is the process's own unless another is given", function()
    local name = support.name "Global"
    local kind = moonbus.event(name, {})
    assert.equal(kind, moonbus.registry:get(name))
    assert.is_true(moonbus.registry:remove(name))
  end)
end)
