--- The delivery guarantee under faults: short runs of scripts/chaos, and events that kill workers.
local kafka = require "tests.support.kafka"
local process = require "tests.support.process"

local source = assert(os.getenv "MOONBUS_SOURCE", "MOONBUS_SOURCE is not set")
local build = assert(os.getenv "MOONBUS_BUILD", "MOONBUS_BUILD is not set")

local function chaos(...)
  return process.run({ source .. "/scripts/chaos", "--minutes", "0.3", ... },
    { env = { MOONBUS_BUILD = build }, timeout = 400 })
end

kafka.describe("under faults on Kafka:", function()
  teardown(process.clean)

  it("no event is lost and no key runs out of order, whatever dies", function()
    local run = chaos("--seed", "7")
    assert.are.equal(0, run.code, run.stdout .. run.stderr)
    assert.matches("lost=0 order_violations=0 ", run.stdout)
    -- a busy machine publishes less, but something
    assert(tonumber(run.stdout:match "published=(%d+)") > 100, run.stdout)
  end)

  it("exactly-once has no duplicates either", function()
    local run = chaos("--seed", "11", "--delivery", "exactly_once")
    assert.are.equal(0, run.code, run.stdout .. run.stderr)
    assert.matches("lost=0 order_violations=0 duplicates=0 ", run.stdout)
  end)

  it("an event that crashes, hangs or bloats its worker costs one dead letter", function()
    local argv = process.moonbus("run", source .. "/tests/support/poison.lua", "--workers", "2")
    local run = process.run(argv,
      { env = { MOONBUS_BOOTSTRAP_SERVERS = os.getenv "MOONBUS_TEST_KAFKA" }, timeout = 400 })
    assert.are.equal(0, run.code, run.stdout .. run.stderr)
    assert.matches("handled 97 of 97, dead letters: 3 "
      .. "%(handler_timeout, out_of_memory, worker_crashed%)", run.stdout)
  end)
end)
