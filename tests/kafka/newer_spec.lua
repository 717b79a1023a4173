-- The same engine on a newer librdkafka: the one that confluent-kafka brings along is loaded in
-- place of the system's, and whole specs run on it, with cooperative-sticky rebalances, which the
-- old one is not sound for, and SCRAM, which it gets wrong.
local kafka = require "tests.support.kafka"
local process = require "tests.support.process"

local FIND = [[
import confluent_kafka, glob, os
print(glob.glob(os.path.dirname(confluent_kafka.__file__) + ".libs/librdkafka*.so*")[0])]]

kafka.describe("on a newer librdkafka", function()
  local environment

  setup(function()
    environment = {
      LD_PRELOAD = (kafka.run { kafka.python, "-c", FIND }):match "%S+",
      MOONBUS_PARTITION_ASSIGNMENT_STRATEGY = "cooperative-sticky",
    }
    for _, name in ipairs { "BUILD", "SOURCE", "TEST_KAFKA", "TEST_KAFKA_CTL", "TEST_PYTHON" } do
      environment["MOONBUS_" .. name] = os.getenv("MOONBUS_" .. name)
    end
  end)

  after_each(process.clean)

  it("cooperative-sticky may be chosen; on the system's it is refused below 2.4", function()
    local newer = process.run(process.moonbus "version", { env = environment })
    local system = process.run(process.moonbus "version")
    local major, minor = newer.stdout:match "librdkafka (%d+)%.(%d+)"
    assert.is_true(tonumber(major) * 100 + tonumber(minor) >= 204, newer.stdout)
    major, minor = system.stdout:match "librdkafka (%d+)%.(%d+)"
    local script = kafka.write_file(kafka.temp_dir() .. "/script.lua",
      'require "moonbus".bus { partition_assignment_strategy = "cooperative-sticky" }')
    local result = process.run(process.moonbus("check", script))
    if tonumber(major) * 100 + tonumber(minor) >= 204 then
      assert.equal(0, result.code, result.stderr)
    else
      assert.equal(2, result.code)
      assert.matches("cooperative%-sticky needs librdkafka 2%.4%.0", result.stderr)
    end
    assert.equal(0, process.run(process.moonbus("check", script), { env = environment }).code)
  end)

  local function passes(name, ...)
    local run = process.run({ "luajit", "/usr/bin/busted", "--output=plainTerminal",
      kafka.source .. "/tests/kafka/" .. name .. "_spec.lua", ... },
      { env = environment, timeout = 800 })
    local text = run.stdout .. run.stderr
    assert.equal(0, run.code, text)
    assert.matches("[1-9]%d* successes / 0 failures / 0 errors / 0 pending", text)
    assert.not_matches("NOT TESTED", text)
    assert.not_matches("cannot log in", text)
  end

  for _, name in ipairs { "groups", "rebalance", "retry_order", "exactly_once" } do
    it("the spec " .. name .. " passes with cooperative rebalances", function() passes(name) end)
  end

  it("SCRAM logs in", function() passes("faults", "--filter=SCRAM") end)
end)
