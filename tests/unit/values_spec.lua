local cjson = require "cjson"
local ffi = require "ffi"
local moonbus = require "moonbus"
local values = require "tests.support.values"

local encode, decode = moonbus.json.encode, moonbus.json.decode

-- encode gives nil and a reason that contains the text
local function refused(value, reason)
  local text, why = encode(value)
  assert.is_nil(text)
  assert.matches(reason, why, 1, true)
end

describe("moonbus.json.encode", function()
  it("writes scalars as JSON does", function()
    assert.equal("null", encode(nil))
    assert.equal("null", encode(moonbus.null))
    assert.equal("true", encode(true))
    assert.equal("false", encode(false))
    assert.equal('"text"', encode("text"))
    assert.equal("7", encode(7))
  end)

  it("writes whole numbers within 2^53 without a point", function()
    assert.equal("0", encode(0))
    assert.equal("-12", encode(-12))
    assert.equal("9007199254740992", encode(2 ^ 53))
    assert.equal("-9007199254740992", encode(-2 ^ 53))
  end)

  it("writes floats with the fewest digits that read back the same", function()
    assert.equal("0.1", encode(0.1))
    assert.equal("0.30000000000000004", encode(0.1 + 0.2))
    assert.equal("1e-6", encode(1e-6))
    assert.equal("0.00001", encode(1e-5))
    assert.equal("1e+16", encode(1e16))
    assert.equal("-0.0", encode(-0.0))
    assert.equal("5e-324", encode(5e-324))
    assert.equal("1.7976931348623157e+308", encode(1.7976931348623157e308))
  end)

  it("writes moonbus.float with a point even where it is whole", function()
    assert.equal("1.0", encode(moonbus.float(1)))
    assert.equal("100.0", encode(moonbus.float(100)))
    assert.equal("[1.0,1]", encode { moonbus.float(1), 1 })
  end)

  it("writes 64-bit integers with all their digits", function()
    assert.equal("9223372036854775807", encode(9223372036854775807LL))
    assert.equal("-9223372036854775808", encode(-9223372036854775807LL - 1LL))
    assert.equal("18446744073709551615", encode(18446744073709551615ULL))
    assert.equal("1234567890123456789", encode(1234567890123456789LL))
    assert.equal("5", encode(5LL))
    assert.equal("5", encode(5ULL))
  end)

  it("keeps empty arrays and empty objects apart", function()
    assert.equal("{}", encode {})
    assert.equal("[]", encode(moonbus.array()))
    assert.equal('{"a":[],"b":{}}', encode { a = moonbus.array {}, b = {} })
  end)

  it("writes the members of an object in the order of their names", function()
    assert.equal('{"a":1,"b":2,"c":3}', encode { c = 3, a = 1, b = 2 })
  end)

  it("writes the holes of a marked array as null", function()
    assert.equal("[1,null,3]", encode(moonbus.array { 1, nil, 3 }))
    assert.equal("[1,null]", encode { 1, moonbus.null })
  end)

  it("escapes quotes, backslashes and control characters, and nothing else", function()
    assert.equal('"\\"\\\\\\b\\f\\n\\r\\t\\u0001\\u001f"', encode('"\\\b\f\n\r\t\1\31'))
    assert.equal('"/\127\226\128\168\195\169\240\159\152\128"',
      encode("/\127\226\128\168\195\169\240\159\152\128"))
    assert.equal('"a\\u0000b"', encode("a\0b"))
  end)

  it("refuses NaN and infinities", function()
    refused(0 / 0, "NaN")
    refused(1 / 0, "infinit")
    refused({ a = { -1 / 0 } }, "infinit")
    refused(moonbus.float(0 / 0), "")
  end)

  it("refuses arrays with holes, naming the way out", function()
    refused({ 1, nil, nil, 4 }, "holes")
    refused({ [1] = 1, [1000] = 2 }, "moonbus.null")
    refused({ [3] = 1 }, "holes")
  end)

  it("refuses tables with text keys and elements", function()
    refused({ 1, a = 2 }, "both text keys and array elements")
    refused(moonbus.array { 1, a = 2 }, "both")
  end)

  it("refuses keys that are neither text nor a position", function()
    refused({ [true] = 1 }, "key of type boolean")
    refused({ [1.5] = 1 }, "key of type number")
    refused({ [0] = 1 }, "key of type number")
    refused({ [-1] = 1 }, "key of type number")
    refused({ [{}] = 1 }, "key of type table")
  end)

  it("refuses what has no place in JSON, naming it", function()
    refused(print, "function")
    refused({ a = coroutine.create(print) }, "thread")
    refused(io.stdout, "userdata")
    refused(ffi.new("int[2]"), "cdata")
    refused(ffi.new("void *", ffi.cast("void *", 8)), "cdata")
  end)

  it("refuses text that is not UTF-8, in values and in keys", function()
    refused("\255", "not valid UTF-8")
    refused("\237\160\128", "not valid UTF-8") -- a surrogate
    refused("\192\128", "not valid UTF-8") -- overlong
    refused("\244\144\128\128", "not valid UTF-8") -- beyond U+10FFFF
    refused({ ["\255"] = 1 }, "not valid UTF-8")
  end)

  it("refuses cycles and bottomless nesting", function()
    local cycle = {}
    cycle.self = cycle
    refused(cycle, "nested too deeply")
    local ring = { { {} } }
    ring[1][1][1] = ring
    refused(ring, "nested too deeply")
  end)

  it("writes 128 levels and refuses the next", function()
    local function nested(levels)
      local value = moonbus.array {}
      for _ = 2, levels do value = { value } end
      return value
    end
    assert.equal(("["):rep(128) .. ("]"):rep(128), encode(nested(128)))
    refused(nested(129), "nested too deeply")
  end)

  it("leaves the value as it was", function()
    local value = { list = { 1, 2 }, map = { a = "x" }, none = moonbus.null }
    encode(value)
    assert.same({ list = { 1, 2 }, map = { a = "x" }, none = moonbus.null }, value)
  end)

  it("goes on after a refusal", function()
    encode { 0 / 0 }
    assert.equal("[1]", encode { 1 })
  end)

  it("writes long documents", function()
    local list = {}
    for i = 1, 20000 do list[i] = ("item %d"):format(i) end
    local text = encode(list)
    assert.same(list, (decode(text)))
  end)

  it("raises without a value", function()
    assert.error(function() encode() end)
  end)
end)

describe("moonbus.json.decode", function()
  local function fails(text, reason)
    local value, why = decode(text)
    assert.is_nil(value, text)
    assert.matches(reason, why, 1, true)
  end

  it("reads scalars", function()
    assert.equal(moonbus.null, decode "null")
    assert.is_true(decode "true")
    assert.is_false(decode "false")
    assert.equal("x", decode '"x"')
    assert.equal(-1.5, decode "-1.5")
    assert.equal(1, decode " \n\t\r1 ")
  end)

  it("reads integers exactly: numbers within 2^53, cdata beyond", function()
    assert.equal("number", type(decode "9007199254740992"))
    local above = decode "9007199254740993"
    assert.is_true(ffi.istype("int64_t", above))
    assert.is_true(above == 9007199254740993LL)
    assert.is_true(decode "-9223372036854775808" == -9223372036854775807LL - 1LL)
    local unsigned = decode "18446744073709551615"
    assert.is_true(ffi.istype("uint64_t", unsigned))
    assert.is_true(unsigned == 18446744073709551615ULL)
  end)

  it("reads integers beyond 64 bits as the nearest double", function()
    assert.equal(2 ^ 64, decode "18446744073709551616")
    assert.equal(1e30, decode "1000000000000000000000000000000")
  end)

  it("reads null as moonbus.null, which is lua-cjson's", function()
    assert.equal(cjson.null, moonbus.null)
    assert.equal(cjson.null, decode '{"a":null}'.a)
    assert.equal(cjson.null, decode "[null]"[1])
  end)

  it("keeps empty arrays arrays and empty objects objects", function()
    assert.equal("[]", encode(decode "[]"))
    assert.equal("{}", encode(decode "{}"))
    assert.equal('{"a":[[],{}]}', encode(decode ' { "a" : [ [ ] , { } ] } '))
  end)

  it("takes the last of duplicate keys", function()
    assert.equal(2, decode '{"a":1,"a":2}'.a)
  end)

  it("reads every escape", function()
    assert.equal('"\\/\b\f\n\r\t', decode [["\"\\\/\b\f\n\r\t"]])
    assert.equal("A\195\169\226\130\172\240\159\152\128\0",
      decode [["\u0041\u00e9\u20AC\uD83D\ude00\u0000"]])
  end)

  it("refuses what is not JSON, saying where", function()
    for _, text in ipairs { "", " ", "{", "[", "[1,]", '{"a":1,}', "{a:1}", "'a'", "01", "1.", ".5",
      "+1", "-", "1e", "0x10", "NaN", "Infinity", "-Infinity", "nul", "True", '"', '"\\x"',
      '"\\u12g4"', '"a\nb"', "[1 2]", '{"a" 1}', '{"a":}', "1 2", "[]]", "\239\187\1911",
      "// x\n1", "nil" } do
      fails(text, "(byte ")
    end
  end)

  it("refuses lone surrogates and invalid UTF-8", function()
    fails([["\ud800"]], "(byte ")
    fails([["\udc00"]], "(byte ")
    fails([["\ud800\u0041"]], "(byte ")
    fails('"\255"', "(byte ")
    fails('"\192\128"', "(byte ")
    fails('{"\237\160\128":1}', "(byte ")
  end)

  it("refuses numbers no double can hold", function()
    fails("1e999", "(byte ")
    fails("-1e400", "(byte ")
  end)

  it("reads 128 levels and refuses the next", function()
    assert.is_table((decode(("["):rep(128) .. ("]"):rep(128))))
    fails(("["):rep(129) .. ("]"):rep(129), "(byte ")
    fails(("["):rep(100000), "(byte ")
    fails(('{"a":'):rep(100000), "(byte ")
  end)

  it("raises when it is not given text", function()
    assert.error(function() decode(nil) end)
    assert.error(function() decode {} end)
  end)
end)

describe("moonbus.json, over random values,", function()
  it("reads back what it wrote", function() -- 18
    values.property(1500, function(random)
      local value = random:value(4)
      local text = assert(encode(value))
      values.check_same(value, (decode(text)))
    end)
  end)

  it("writes the same bytes again for what it read", function()
    values.property(500, function(random)
      local text = assert(encode(random:value(4)))
      assert.equal(text, encode((decode(text))))
    end)
  end)

  it("reads documents as lua-cjson does", function()
    values.property(1500, function(random)
      local text = random:document(4)
      local ours, why = decode(text)
      assert(ours ~= nil, ("%s: %s"):format(tostring(why), text))
      assert.same(cjson.decode("[" .. text .. "]")[1], ours, text)
    end)
  end)

  it("writes what lua-cjson reads as the same value", function()
    values.property(500, function(random)
      local value = cjson.decode("[" .. random:document(4) .. "]")
      assert.same(value, cjson.decode((encode(value))))
    end)
  end)

  it("accepts no damaged document that lua-cjson refuses", function()
    values.property(3000, function(random)
      local text = random:mutated(random:document(3))
      local ours = decode(text)
      if ours == nil then return end
      local ok, theirs = pcall(cjson.decode, "[" .. text .. "]")
      assert(ok, ("accepted %q"):format(text))
      local exact = not text:find "%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d"
      if exact then assert.same(theirs[1], ours, text) end
    end)
  end)

  it("gives a value or a reason for any bytes", function()
    values.property(2000, function(random)
      local text = random:bytes(40)
      local value, why = decode(text)
      assert(value ~= nil or type(why) == "string")
    end)
  end)
end)

describe("moonbus.array", function()
  it("marks the table it is given and returns it", function()
    local list = { 1, 2 }
    assert.equal(list, moonbus.array(list))
    assert.equal("[1,2]", encode(list))
  end)

  it("makes a new one when given none", function()
    assert.not_equal(moonbus.array(), moonbus.array())
  end)
end)

describe("small things:", function()
  it("moonbus.uuid gives a random UUID in lower case", function()
    local seen = {}
    for _ = 1, 2000 do
      local id = moonbus.uuid()
      assert.equal(36, #id)
      assert.matches("^%x+%-%x%x%x%x%-4%x%x%x%-[89ab]%x%x%x%-%x+$", id)
      assert.equal(id:lower(), id)
      assert.is_nil(seen[id])
      seen[id] = true
    end
  end)

  it("moonbus.now never goes back", function()
    local last = moonbus.now()
    for _ = 1, 1000 do
      local now = moonbus.now()
      assert(now >= last)
      last = now
    end
  end)

  it("moonbus.timestamp and moonbus.epoch are each other's inverse", function()
    assert.equal("2026-01-02T03:04:05.678901Z", moonbus.timestamp(1767323045.678901))
    assert.equal("1970-01-01T00:00:00Z", moonbus.timestamp(0))
    assert.equal(1767323045.5, moonbus.epoch "2026-01-02T03:04:05.5Z")
    assert.equal(1767323045, moonbus.epoch "2026-01-02T08:34:05+05:30")
    assert.is_nil(moonbus.epoch "yesterday")
    values.property(300, function(random)
      local text = random:timestamp()
      assert.equal(text, moonbus.timestamp(moonbus.epoch(text)))
    end)
  end)

  it("moonbus.timestamp without an argument is now, in UTC", function()
    local text = moonbus.timestamp()
    assert.matches("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.?%d*Z$", text)
    assert(math.abs(moonbus.epoch(text) - os.time()) <= 60)
  end)

  it("moonbus.partition_of is Kafka's murmur2", function()
    local seven, a = "00000000-0000-0000-0000-000000000007", "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
    for partitions, expected in pairs { [3] = 2, [4] = 0, [6] = 2, [12] = 8 } do
      assert.equal(expected, moonbus.partition_of(seven, partitions))
    end
    for partitions, expected in pairs { [3] = 1, [4] = 0, [6] = 4, [12] = 4 } do
      assert.equal(expected, moonbus.partition_of(a, partitions))
    end
    assert.error(function() moonbus.partition_of(a, 0) end)
  end)

  it("moonbus.available and moonbus.features report what there is", function()
    assert.is_true(moonbus.available())
    local features = moonbus.features()
    assert.equal(moonbus.VERSION, features.moonbus)
    assert.matches("^%d+%.%d+", features.librdkafka)
    assert.is_true(features.abilities.gzip)
  end)

  it("moonbus.errors names every code", function()
    local errors = moonbus.errors()
    for _, code in ipairs { "EINVAL", "ECONFIG", "ESTATE", "ECONNECT", "EDECODE", "EREPLAY" } do
      assert.is_string(errors[code])
    end
  end)
end)
