-- Why no answer comes: the call that asks first, whichever it is, gets the same cause, with the
-- option to look at.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"
local process = require "tests.support.process"
local security = require "tests.support.security"

local TLS = "TLS: set security_protocol to SSL or SASL_SSL"
local NO_TLS = "without TLS: set security_protocol to PLAINTEXT or SASL_PLAINTEXT"
local LOGIN = "may require a login: set security_protocol to SASL_PLAINTEXT or SASL_SSL"

-- What is wrong: the listener, the client's options, the code, pieces of the sentence; whether a
-- bus in the process is asked as well, which takes a while.
local WRONG = {
  { "a wrong password", "SASL_PLAINTEXT", { security_protocol = "SASL_PLAINTEXT",
    sasl_mechanism = "PLAIN", sasl_username = "moonbus", sasl_password = "open-sesame" },
    "EAUTH", { "no login at ", "check sasl_username" }, true },
  { "a certificate that is not trusted", "SSL", { security_protocol = "SSL" }, "EAUTH",
    { "no login at ", "the broker's certificate", "ssl_cafile" } },
  { "a port with TLS", "SSL", {}, "ECONNECT", { "no broker answers at ", TLS }, true },
  { "a port with TLS and logins", "SASL_SSL", {}, "ECONNECT", { "no broker answers at ", TLS } },
  { "a port with logins", "SASL_PLAINTEXT", {}, "ECONNECT", { "no broker answers at ", LOGIN } },
  { "a port without TLS", "PLAINTEXT", { security_protocol = "SSL" }, "ECONNECT",
    { "no broker answers at ", NO_TLS } },
}

local COMMANDS = {
  { "tail", "--topic-prefix", "causes" }, { "topics", "describe", "causes.stream" },
  { "topics", "create", "causes.stream" }, { "dlq", "count", "--topic-prefix", "causes" },
  { "publish", "--topic-prefix", "causes", "--type", "A", "--aggregate-type", "B" },
}

kafka.describe("the cause of no answer", function()
  local broker

  setup(function() broker = kafka.broker { tls = true } end)

  after_each(process.clean)

  local function start(words, listener, options)
    local argv = process.moonbus(unpack(words))
    for _, word in ipairs { "--bootstrap-servers", security.at(broker, listener) } do
      argv[#argv + 1] = word
    end
    for key, value in pairs(options) do
      argv[#argv + 1] = "--set"
      argv[#argv + 1] = key .. "=" .. value
    end
    return process.start(argv)
  end

  local function check(what, code, pieces, text)
    assert.matches("moonbus: " .. code .. ": [^\n]+\n$", text)
    for _, piece in ipairs(pieces) do assert.matches(piece, text, 1, true, what) end
  end

  for _, wrong in ipairs(WRONG) do
    local name, listener, options, code, pieces, within = unpack(wrong)

    it(("is said by every command: %s"):format(name), function()
      local all = {}
      for i, words in ipairs(COMMANDS) do all[i] = start(words, listener, options) end
      for i, each in ipairs(all) do
        local result = each:wait(120)
        assert.equal(4, result.code, result.stderr)
        check(COMMANDS[i][1], code, pieces, result.stderr)
      end
    end)

    local _ = within and it(("is said by every call of a bus: %s"):format(name), function()
      local all = { bootstrap_servers = security.at(broker, listener), topic_prefix = "causes" }
      for key, value in pairs(options) do all[key] = value end
      for what, call in pairs {
        read = function(bus) return bus:read({}, function() end) end,
        count = function(bus) return bus:get_dlq_message_count() end,
        letters = function(bus) return bus:get_dlq_messages() end,
        committed = function(bus) return bus.native:committed(1) end,
        offsets = function(bus) return bus.native:topic_offsets(nil, 0) end,
      } do
        local bus = kafka.new_bus(all)
        local result, err, given = call(bus)
        assert.is_nil(result)
        assert.equal(code, given, what)
        check(what, code, pieces, ("moonbus: %s: %s\n"):format(code, err:gsub("^E%u+: ", "")))
        bus:disconnect()
      end
    end)
  end

  it("is that of a broker that is away, too", function()
    local bus = moonbus.bus { bootstrap_servers = "127.0.0.1:1", log_level = "error" }
    for _, call in ipairs { bus.read, bus.get_dlq_messages } do
      local result, err, code = call(bus, {}, function() end)
      assert.is_nil(result)
      assert.equal("ECONNECT", code)
      assert.matches("no broker answers at 127.0.0.1:1: .*Connection refused", err)
    end
    bus:disconnect()
  end)
end)
