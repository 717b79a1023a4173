-- Numbers of records are numbers of records: offsets also go to the markers of transactions, and
-- stay with what an abort or compaction took away.
local cjson = require "cjson"
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"

local registry = moonbus.new_registry()
local Paid = moonbus.event("Paid", { aggregate_type = "Account", n = "integer" },
  { registry = registry })

local KEY = moonbus.uuid() -- one for all events: one partition holds them

local function new_bus(prefix, more)
  local all = { event_registry = registry, topic_prefix = prefix, consumer_group = prefix,
    delivery = "exactly_once", max_retries = 0 }
  for key, value in pairs(more or {}) do all[key] = value end
  return kafka.bus(all)
end

-- Each in a transaction of its own, with a marker behind it.
local function publish(bus, count)
  for n = 1, count do assert(bus:publish(Paid { aggregate_id = KEY, n = n })) end
end

-- How often librdkafka's ends say there is a record.
local function offsets(topic) return kafka.sum(kafka.ends(topic)) end

kafka.describe("records, not offsets, are counted on Kafka:", function()
  after_each(function()
    process.clean()
    tmp.clean()
  end)

  local function run(...)
    local words = process.moonbus(...)
    words[#words + 1] = "--bootstrap-servers"
    words[#words + 1] = kafka.address
    local result = process.run(words)
    assert.same({ 0, "" }, { result.code, result.stderr })
    return result.stdout
  end

  it("dead letters of an exactly-once bus, by every bus and by the program", function()
    local prefix = kafka.name "markers"
    local bus = new_bus(prefix)
    bus:subscribe(Paid, function(event) error("n " .. event.n, 0) end)
    publish(bus, 6)
    assert(bus:start_consuming { until_idle = 1, for_seconds = 60 })
    assert.is_true(offsets(prefix .. ".stream.dlq") > 6)
    assert.equal(6, bus:get_dlq_message_count())
    assert.equal(6, new_bus(prefix, { delivery = "at_least_once" }):get_dlq_message_count())
    assert.equal("6\n", run("dlq", "count", "--topic-prefix", prefix))
  end)

  it("what an abort took away is none", function()
    local prefix = kafka.name "aborted"
    local bus = new_bus(prefix)
    local failed = false
    bus:subscribe(Paid, function()
      assert(bus:publish(Paid { aggregate_id = KEY, n = 0 }))
      if not failed then
        failed = true
        error("undo what was published", 0)
      end
      return bus:stop_consuming()
    end)
    publish(bus, 1)
    assert(bus:start_consuming { for_seconds = 60 })
    bus:disconnect()
    local rows = cjson.decode(run("topics", "describe", prefix .. ".stream", "--count", "--json"))
    local sum = 0
    for _, each in ipairs(rows.partitions) do sum = sum + each.records end
    local seen = 0
    assert(new_bus(prefix):read({}, function() seen = seen + 1 end))
    assert.equal(seen, sum)
    assert.is_true(offsets(prefix .. ".stream") > sum)
  end)

  it("topics describe says offsets, and records where it counted them", function()
    local prefix = kafka.name "described"
    publish(new_bus(prefix), 4)
    local plain = run("topics", "describe", prefix .. ".stream")
    assert.matches("\npartition +low +high +offsets\n", plain)
    assert.matches(" 0 +8 +8\n", plain)
    local counted = run("topics", "describe", prefix .. ".stream", "--count")
    assert.matches("\npartition +low +high +records\n", counted)
    assert.matches(" 0 +8 +4\n", counted)
  end)

  it("tail --from last:N gives N, however many offsets lie between them", function()
    local prefix = kafka.name "tail"
    local bus = new_bus(prefix)
    publish(bus, 20)
    bus:disconnect()
    for _, count in ipairs { 1, 2, 7, 19 } do
      local numbers = {}
      for line in run("tail", "--topic-prefix", prefix, "--json", "--from", "last:" .. count)
        :gmatch "[^\n]+" do
        numbers[#numbers + 1] = cjson.decode(line).value.n
      end
      assert.equal(count, #numbers)
      assert.equal(20, numbers[count])
      assert.equal(21 - count, numbers[1])
    end
    local _, lines = run("tail", "--topic-prefix", prefix, "--from", "last:100"):gsub("\n", "")
    assert.equal(20, lines)
    assert.equal("", run("tail", "--topic-prefix", prefix, "--from", "last:0"))
  end)

  it("a projection at a marker is not behind, and one before it is by its records", function()
    local prefix = kafka.name "projection"
    local path = tmp.dir() .. "/model.db"
    local bus = new_bus(prefix)
    publish(bus, 3)
    local script = tmp.file("script.lua", ([[
      local moonbus = require "moonbus"
      local Paid = moonbus.event("Paid", { aggregate_type = "Account", n = "integer" })
      local store = moonbus.stores.sqlite { path = %q }
      local bus = moonbus.bus { topic_prefix = %q, consumer_group = "sums", log_level = "error" }
      bus:subscribe_all(moonbus.projection("sums", { store = store, handles = {
        [Paid] = function() end,
      } }))
    ]]):format(path, prefix))
    local function behind()
      local text = run("projections", script)
      local report = cjson.decode(run("projections", script, "--json"))
      assert.matches((": %d behind\n"):format(report.lag), text)
      assert.is_true(report.counted)
      return report.lag
    end
    assert.equal(3, behind())
    run("run", script, "--until-idle", "1")
    assert.equal(0, behind())
    publish(bus, 2)
    assert.equal(2, behind())
  end)

  it("progress of a rebuild ends with all that there is", function()
    local prefix = kafka.name "progress"
    local store = moonbus.stores.sqlite { path = tmp.dir() .. "/model.db" }
    local bus = new_bus(prefix)
    publish(bus, 5)
    local projection = moonbus.projection("sums", { store = store, truncate = function() end,
      handles = { [Paid] = function() end } })
    bus:subscribe_all(projection)
    local read, size
    assert(bus:rebuild(projection, { in_place = true,
      on_progress = function(_, ...) read, size = ... end }))
    assert.same({ 5, 5 }, { read, size })
    store:close()
  end)
end)
