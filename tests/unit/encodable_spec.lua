-- Whatever moonbus returns to a script can be written as JSON, its lists as lists, empty ones too.
local cjson = require "cjson"
local moonbus = require "moonbus"
local support = require "tests.support.bus"

local ID = support.uuid(1)
local registry = moonbus.new_registry()
local Tick = moonbus.event("Tick", { n = "integer", aggregate_type = "Clock" },
  { registry = registry })

after_each(support.close)

local function connected(options)
  options = options or {}
  options.event_registry = registry
  return support.bus(options)
end

local function text_of(value)
  local text, why = moonbus.json.encode(value)
  assert.is_string(text, why)
  assert(cjson.decode(text))
  return text
end

describe("an empty list", function()
  it("is a list in JSON, whatever returned it", function()
    local bus = connected()
    local health = bus:get_health()
    assert.equal("green", health.status)
    assert.equal('{"reasons":[],"status":"green"}', text_of(health))
    assert.equal("[]", text_of(bus:get_dlq_messages()))
    assert.equal("[]", text_of(bus:get_dlq_messages { limit = 0 }))
    assert.matches('"letters":%[%]', text_of(bus:replay_dlq()))
    assert.equal('{"count":0,"offsets":[],"partitions":[]}', text_of(bus:publish {}))
    assert.equal("[]", text_of(moonbus.new_registry():names()))
    local store = moonbus.stores.sqlite { path = ":memory:" }
    assert.equal("[]", text_of(store:transaction(function(tx)
      tx:execute "CREATE TABLE t (n INTEGER)"
      return tx:query "SELECT n FROM t"
    end)))
    store:close()
  end)

  it("is one in what is not delivered, and in what a rebuild passed over", function()
    local bus = connected { delivery_timeout_ms = 1000, message_max_bytes = 2000, linger_ms = 0 }
    local Large = registry:get "Large" or moonbus.event("Large", { text = "string",
      aggregate_type = "Clock" }, { registry = registry })
    local receipt, _, _, failures = bus:publish(Large { aggregate_id = ID, text = ("x"):rep(5000) })
    assert.is_nil(receipt)
    assert.matches('^%[{.*"index":1', text_of(failures))
    local store = moonbus.stores.sqlite { path = ":memory:" }
    local model = moonbus.projection("ticks", { store = store, truncate = function() end,
      handles = { [Tick] = function() end } })
    assert.matches('"skipped":%[%]', text_of(assert(bus:rebuild(model, { in_place = true }))))
    store:close()
  end)
end)

describe("what a bus says of itself", function()
  local bus

  local function consumed()
    bus = connected { partitions = 12 }
    bus:subscribe(Tick, function() end)
    for i = 1, 12 do bus:publish(Tick { aggregate_id = support.uuid(i), n = i }) end
    assert(bus:start_consuming { until_idle = 0.2, for_seconds = 60 })
  end

  it("can be written, metrics by partition too, which keep their numbers as keys", function()
    consumed()
    local task = assert(bus:start_consuming_in_background())
    local lags
    repeat
      moonbus.sleep(0.05)
      lags = bus:get_metrics()["kafka.eventbus.consumer.lag"].partitions
    until lags[0] and lags[11]
    assert.equal("number", type(next(lags)))
    local written = cjson.decode(text_of(bus:get_metrics()))["kafka.eventbus.consumer.lag"]
    assert.equal(0, written.partitions["0"])
    assert.equal(0, written.partitions["11"])
    text_of(bus:get_stats_dict())
    text_of(bus:get_health())
    text_of(bus:get_topic_info())
    task:cancel()
  end)

  it("can be written before anything was consumed", function()
    bus = connected()
    assert.matches('"partitions":{}', text_of(bus:get_metrics()))
    text_of(bus:get_stats_dict())
    text_of(bus:get_topic_info())
  end)
end)

describe("what the module says", function()
  it("can be written", function()
    assert.matches("^%[", text_of(moonbus.options()))
    assert.matches('"requirements":%[', text_of(moonbus.features()))
    text_of(moonbus.errors())
    assert.matches('^{"aggregate_id"', text_of(Tick { aggregate_id = ID, n = 1 }))
  end)

  it("leaves a script's own numbered tables refused", function()
    local text, why = moonbus.json.encode { [0] = 1 }
    assert.is_nil(text)
    assert.matches("a table key of type number", why)
  end)
end)

describe("records, dead letters and their headers", function()
  it("can be written", function()
    local bus = connected { max_retries = 0, partitions = 1 }
    bus:subscribe(Tick, function() moonbus.dead "no" end)
    bus:publish(Tick { aggregate_id = ID, n = 1 })
    assert(bus:start_consuming { until_idle = 0.2, for_seconds = 60 })
    assert.matches('^%[{"header', text_of(bus:get_dlq_messages()))
    local seen = 0
    bus:each_dlq_message({}, function(letter)
      seen = seen + 1
      assert.matches('"header_list":%[%[', text_of(letter))
    end)
    assert.equal(1, seen)
    bus:read({ partition = 0, offset = -1 }, function(record)
      seen = seen + 1
      text_of(record)
    end)
    assert.equal(2, seen)
    assert.matches('"letters":%[{', text_of(bus:replay_dlq { dry_run = true }))
  end)
end)
