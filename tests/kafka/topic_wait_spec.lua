-- Topics that the broker creates when it is asked for them: a busy broker gets the time that
-- connect was given, one that creates none is not waited for. On brokers of the spec's own.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"

local STOPPED_SECONDS = 7 -- longer than a broker may deny a topic

-- Connects, says so, waits for the file GATE, and consumes for a moment.
local SCRIPT = [[
local moonbus = require "moonbus"
local bus = moonbus.bus { topic_prefix = os.getenv "PREFIX",
  bootstrap_servers = os.getenv "ADDRESS" }
print((bus:connect(120)))
io.stdout:flush()
local gate = os.getenv "GATE"
while gate and not io.open(gate) do moonbus.sleep(0.01) end
print((bus:start_consuming { for_seconds = 0.1 }))
bus:disconnect()
]]

kafka.describe("a topic that does not exist", function()
  -- The broker does nothing for a while.
  local function stop_for_a_while(broker)
    broker:signal "STOP"
    local till = moonbus.now() + STOPPED_SECONDS
    kafka.wait("the end of the pause", function() return moonbus.now() > till end)
    broker:signal "CONT"
  end

  local function spawn(broker, gate)
    local script = kafka.write_file(kafka.temp_dir() .. "/script.lua", SCRIPT)
    local words = { "env", "PREFIX=" .. kafka.name "wait", "ADDRESS=" .. broker.address }
    if gate then words[#words + 1] = "GATE=" .. gate end
    words[#words + 1] = kafka.build .. "/moonbus"
    words[#words + 1] = "run"
    words[#words + 1] = script
    return kafka.spawn(words)
  end

  it("is waited for while the broker stands still, in connect", function()
    local broker = kafka.broker()
    broker:signal "STOP"
    local process = spawn(broker)
    stop_for_a_while(broker)
    process:wait_end()
    assert.equal("true\ntrue\n", process:output(), process:errors())
  end)

  it("is waited for while the broker stands still, when the dead letters' is made", function()
    local broker = kafka.broker()
    local gate = kafka.temp_dir() .. "/gate"
    local process = spawn(broker, gate)
    kafka.wait("the connection", function() return process:output() == "true\n" end)
    broker:signal "STOP"
    kafka.write_file(gate, "")
    stop_for_a_while(broker)
    process:wait_end()
    assert.equal("true\ntrue\n", process:output(), process:errors())
  end)

  it("of a broker that creates none is an error long before the time is over", function()
    local broker = kafka.broker { set = { "auto.create.topics.enable=false" } }
    local bus = kafka.new_bus { topic_prefix = kafka.name "none",
      bootstrap_servers = broker.address }
    local begin = moonbus.now()
    local connected, why, code = bus:connect(600)
    assert.is_nil(connected)
    assert.equal("ETOPIC", code)
    assert.matches("the broker does not create topics; create it with: moonbus topics create", why)
    assert.is_true(moonbus.now() - begin < 60)
  end)
end)
