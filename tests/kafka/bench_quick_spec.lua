--- scripts/bench runs: every case, all its events, its tables. Nothing is said about speed here.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"

local source = assert(os.getenv "MOONBUS_SOURCE", "MOONBUS_SOURCE is not set")

local function bench(...)
  return process.run({ source .. "/scripts/bench", "--quick", ... }, {
    env = { MOONBUS_BUILD = os.getenv "MOONBUS_BUILD",
            MOONBUS_TEST_KAFKA = os.getenv "MOONBUS_TEST_KAFKA" },
    timeout = 400,
  })
end

kafka.describe("scripts/bench on Kafka:", function()
  teardown(function()
    process.clean()
    tmp.clean()
  end)

  it("every case that is built runs, and counts all its events", function()
    local run = bench "--json"
    assert.are.equal(0, run.code, run.stdout .. run.stderr)
    local result = moonbus.json.decode(run.stdout)
    local ran = {}
    for _, case in ipairs(result.cases) do
      assert.is_nil(case.failure, case.name)
      if case.built then
        assert.are.equal(1, #case.runs, case.name)
        ran[case.name] = case.runs[1].events
      end
    end
    for name, events in pairs { raw = 20000, typed = 20000, confluent = 20000, eventsource = 20,
                                ["publish-1000-background"] = 20000, ["latency-1000"] = 500 } do
      assert.are.equal(events, ran[name], name)
    end
    for _, target in ipairs(result.targets) do
      assert.is_truthy(target.verdict == "not built" or target.value, target.what)
    end
  end)

  it("prints its tables and draws them", function()
    local picture = tmp.dir() .. "/bench.svg"
    local run = bench("--only", "raw,typed", "--svg", picture)
    assert.are.equal(0, run.code, run.stdout .. run.stderr)
    assert.matches("`raw`%) | 1 | [%d,]+ |", run.stdout)
    assert.matches("`typed`%) | [%d.]+x | [%d,]+ |", run.stdout)
    assert.matches("| typed handler, two fields, against raw | [%d.]+x | at least 0.8x | m",
      run.stdout)
    assert.matches("| idle worker | - | at most 20 MiB | not measured |", run.stdout, 1, true)
    local file = assert(io.open(picture))
    local text = file:read "*a"
    file:close()
    assert.matches("^<svg .*moonbus, typed handler.*</svg>\n$", text)
  end)

  it("runs on the librdkafka it is given, moonbus and the C programs alike", function()
    local newest = process.run({ kafka.python, "-c", [[
import confluent_kafka, glob, os
print(glob.glob(os.path.dirname(confluent_kafka.__file__) + ".libs/librdkafka*.so*")[0])]] })
      .stdout:match "%S+"
    local version = process.run({ os.getenv "MOONBUS_BUILD" .. "/tests/bench_raw", "version" },
      { env = { LD_PRELOAD = newest } }).stdout:match "%S+"
    for path, expected in pairs { system = "%d+%.%d+%.%d+", [newest] = "^" .. version .. "$" } do
      local run = bench("--json", "--librdkafka", path, "--only", "raw,typed,confluent")
      assert.are.equal(0, run.code, run.stdout .. run.stderr)
      local result, ran = moonbus.json.decode(run.stdout), {}
      for _, case in ipairs(result.cases) do ran[case.name] = case.runs and case.runs[1].events end
      assert.are.same({ raw = 20000, typed = 20000, confluent = 20000 }, ran)
      assert.matches(expected, result.machine.librdkafka)
    end
    local run = bench("--librdkafka", "/nowhere/librdkafka.so.1")
    assert.are.equal(2, run.code)
    assert.matches("--librdkafka /nowhere/librdkafka.so.1: expected system or", run.stderr, 1, true)
  end)

  it("--soak prints what a tenth, a half and all of the events took", function()
    local run = bench("--soak", "--json")
    assert.are.equal(0, run.code, run.stdout .. run.stderr)
    local result = moonbus.json.decode(run.stdout)
    assert.are.equal(20000, result.events)
    local events = {}
    for i, mark in ipairs(result.marks) do
      events[i] = mark.events
      assert.is_true(mark.cpu_seconds_per_million > 0 and mark.resident_mib > mark.lua_mib)
    end
    assert.are.same({ 2000, 10000, 20000 }, events)
  end)

  it("--traces shows what LuaJIT makes of a case", function()
    local run = bench("--traces", "typed")
    assert.are.equal(0, run.code, run.stdout .. run.stderr)
    assert.matches("%[TRACE +%d+ [^\n]+%]\n", run.stdout) -- which ones, is chance
  end)

  it("names the cases there are when it does not know one", function()
    local run = bench("--only", "nonsense")
    assert.are.equal(2, run.code)
    assert.matches("no case nonsense; there are: raw, typed,", run.stderr, 1, true)
  end)
end)
