-- Names that only one process may have: a member's in its group, a producer's for its transactions.
-- One that lost its name to another process ends; one that was only too slow goes on.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"
local process = require "tests.support.process"
local ticks = require "tests.support.ticks"

local SESSION = 60 -- seconds: nobody waits for it, however busy the machine

-- A result for each event, in short transactions that the broker ends after a second.
local SCRIPT = [[
local moonbus = require "moonbus"
local Ticked = moonbus.event("Ticked", { aggregate_type = "Clock", number = "integer" })
local Result = moonbus.event("Result", { aggregate_type = "Clock", number = "integer" })
local bus = moonbus.bus { delivery = "exactly_once", transaction_timeout_ms = 1000,
  transaction_interval_ms = 200, session_timeout_ms = tonumber(os.getenv "SESSION_MS"),
  reconnect_backoff_ms = 100, reconnect_backoff_max_ms = 500 }
bus:subscribe(Ticked, function(event)
  moonbus.sleep(0.02)
  assert(bus:publish(Result { aggregate_id = event.aggregate_id, number = event.number }))
end)
]]

kafka.describe("a name that only one process may have", function()
  local broker

  setup(function()
    broker = kafka.broker {
      set = { "transaction.abort.timed.out.transaction.cleanup.interval.ms=200" } }
  end)
  after_each(process.clean)

  local function options(prefix, more)
    local all = { event_registry = ticks.registry, topic_prefix = prefix,
      bootstrap_servers = broker.address, reconnect_backoff_ms = 100,
      reconnect_backoff_max_ms = 500 }
    for key, value in pairs(more or {}) do all[key] = value end
    return all
  end

  local function count(list)
    local n = 0
    for _ in pairs(list) do n = n + 1 end
    return n
  end

  it("is not lost to the broker's time-out: the process goes on, and waits for no ghost of its own",
    function()
      local prefix = kafka.name "frozen"
      local source = kafka.bus(options(prefix))
      local script = kafka.write_file(kafka.temp_dir() .. "/slow.lua", SCRIPT)
      local running = process.start(process.moonbus("run", script), { env = {
        MOONBUS_BOOTSTRAP_SERVERS = broker.address, MOONBUS_TOPIC_PREFIX = prefix,
        SESSION_MS = tostring(SESSION * 1000) } })
      local sent = 0
      local function more(n)
        ticks.publish(source, sent + 1, sent + n)
        sent = sent + n
      end
      local function done() return count(ticks.results(source)) end
      for _ = 1, 4 do
        more(200)
        local before = done()
        kafka.wait(function() return "results; " .. running.stderr end,
          function() return done() > before or process.gone(running.pid, 0) end)
        running:signal(process.SIGSTOP)
        local till = moonbus.now() + 2.5
        kafka.wait("the broker's time-out", function() return moonbus.now() > till end)
        before = done()
        running:signal(process.SIGCONT)
        kafka.wait(function() return "results after the pause; " .. running.stderr end,
          function() return done() > before or done() == sent end, SESSION - 10)
      end
      kafka.wait(function() return "the rest; " .. running.stderr end,
        function() return done() == sent end)
      local ended = running:stop(process.SIGTERM)
      assert.equal(0, ended.code, ended.stderr)
      for n, times in pairs(ticks.results(source)) do assert.equal(1, times, "result " .. n) end
      assert.not_matches("EFENCED", ended.stderr)
    end)

  it("is lost to a bus that comes later: the first one ends and says so", function()
    local prefix = kafka.name "twins"
    local name = { group_instance_id = "twin", consumer_group = prefix }
    local source = kafka.bus(options(prefix))
    local first, second = kafka.bus(options(prefix, name)), kafka.bus(options(prefix, name))
    local handled = { {}, {} }
    for i, bus in ipairs { first, second } do
      bus:subscribe(ticks.Ticked, function(event)
        handled[i][event.number] = (handled[i][event.number] or 0) + 1
      end)
    end
    local task = kafka.consume(first)
    ticks.publish(source, 1, 50)
    kafka.wait("the events", function() return ticks.has(handled[1], 1, 50) end)
    kafka.consume(second)
    local ok, err, code = task:wait(90)
    assert.is_nil(ok)
    assert.equal("EFENCED", code, err)
    assert.is_truthy(err:find("group_instance_id", 1, true), err)
    ticks.publish(source, 51, 100)
    kafka.wait("the rest", function() return ticks.has(handled[2], 51, 100) end)
    assert.is_true(second:is_consuming())
    for n = 51, 100 do
      assert.is_nil(handled[1][n])
      assert.equal(1, handled[2][n])
    end
  end)
end)
