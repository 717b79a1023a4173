-- Logins by user and password: each mechanism, with TLS and without, on a broker of the spec's own.
local kafka = require "tests.support.kafka"
local security = require "tests.support.security"

local SCRAM_WORKS = 20601 -- the first librdkafka whose nonce Kafka 4 takes

kafka.describe("a login by password", function()
  local broker

  setup(function() broker = kafka.broker { tls = true } end)

  local function options(protocol, mechanism, more)
    return security.options(broker, protocol, security.login(mechanism, more))
  end

  for _, protocol in ipairs { "SASL_PLAINTEXT", "SASL_SSL" } do
    for _, mechanism in ipairs { "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512" } do
      if mechanism == "PLAIN" or kafka.librdkafka() >= SCRAM_WORKS then
        it(mechanism .. " over " .. protocol .. " works", function()
          security.works(options(protocol, mechanism))
        end)
      else
        it(mechanism .. " over " .. protocol .. " is refused by this broker", function()
          security.denied(options(protocol, mechanism), mechanism)
        end)
      end

      it(mechanism .. " over " .. protocol .. " refuses a wrong password and an unknown user",
        function()
          local wrongs = { { sasl_password = "open-sesame" }, { sasl_username = "nobody" } }
          for _, wrong in ipairs(wrongs) do
            security.denied(options(protocol, mechanism, wrong), "no login at ", "uthentication",
              "sasl_username", "sasl_password")
          end
        end)
    end
  end

  it("a mechanism that the listener does not have is refused, and said so", function()
    broker:ctl("restart", "--set", "listener.name.sasl_plaintext.sasl.enabled.mechanisms=PLAIN")
    security.denied(options("SASL_PLAINTEXT", "SCRAM-SHA-512"), "SCRAM-SHA-512", "mechanism",
      "PLAIN", "sasl_mechanism")
    security.works(options("SASL_PLAINTEXT", "PLAIN"))
  end)

  it("the wrong protocol for the port fails in time, and names address and option", function()
    for _, case in ipairs {
      { "PLAINTEXT", "SASL_PLAINTEXT" }, { "PLAINTEXT", "SASL_SSL" }, { "SASL_PLAINTEXT", "SSL" },
      { "SASL_PLAINTEXT", "PLAINTEXT" }, { "SASL_SSL", "SASL_PLAINTEXT" }, { "SSL", "SASL_SSL" },
    } do
      local protocol, port = unpack(case)
      local tried = options(protocol, "PLAIN", { bootstrap_servers = security.at(broker, port) })
      local err, code = security.refused(tried, 2)
      assert.is_true(code == "ECONNECT" or code == "EAUTH", code)
      security.says(err, tried.bootstrap_servers, "security_protocol")
    end
  end)
end)
