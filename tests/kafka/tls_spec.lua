-- TLS, with a broker that requires a certificate of its clients, and with brokers whose own is not
-- to be trusted: each refusal says what is wrong with which certificate.
local kafka = require "tests.support.kafka"
local security = require "tests.support.security"

local REQUIRED = "listener.name.ssl.ssl.client.auth=required"

kafka.describe("TLS", function()
  local broker

  setup(function() broker = kafka.broker { tls = true, set = { REQUIRED } } end)

  local function options(more)
    return security.options(broker, "SSL", more)
  end

  -- Options with the client's certificate that the broker takes.
  local function mutual(more)
    local all = options(more)
    all.ssl_certfile = security.file(broker, "client.crt")
    all.ssl_keyfile = security.file(broker, "client.key")
    return all
  end

  describe("of both sides", function()
    it("works with a certificate of an authority that the broker trusts", function()
      security.works(mutual())
    end)

    it("works with an encrypted key", function()
      local key = kafka.temp_dir() .. "/client.key"
      kafka.run { "openssl", "ec", "-aes256", "-passout", "pass:open-sesame", "-in",
        security.file(broker, "client.key"), "-out", key }
      local all = mutual { ssl_keyfile_password = "open-sesame" }
      all.ssl_keyfile = key
      security.works(all)
    end)

    it("without a certificate the client is refused, soon", function()
      security.denied(options(), "certificate", "ssl_certfile", "ssl_keyfile")
    end)

    it("with a certificate of another authority the client is refused", function()
      local another = security.authority()
      local _, certificate, key = security.certificate(another, another, "DNS:moonbus", 2)
      security.denied(options { ssl_certfile = certificate, ssl_keyfile = key }, "certificate",
        "ssl_certfile")
    end)
  end)

  describe("to a broker", function()
    it("whose authority is another, or none that is known, is refused", function()
      security.denied(mutual { ssl_cafile = security.authority() .. "/ca.crt" },
        "the broker's certificate", "authority that is not trusted", "ssl_cafile")
      local without = mutual()
      without.ssl_cafile = nil
      security.denied(without, "the broker's certificate", "not trusted", "ssl_cafile")
    end)

    it("with a certificate file that is not there or is none never starts", function()
      local junk = kafka.write_file(kafka.temp_dir() .. "/junk.crt", "no certificate")
      for _, name in ipairs { "ssl_cafile", "ssl_certfile" } do
        for _, path in ipairs { "/no/such/file.crt", junk } do
          local wrong = mutual()
          wrong[name] = path
          local fine, problem = pcall(function()
            local err, code = security.refused(wrong, 5)
            error(code .. ": " .. err, 0)
          end)
          assert.is_false(fine)
          security.says(problem, "ECONFIG", name)
        end
      end
    end)

    it("that has no TLS at that port names the option", function()
      for protocol, port in pairs { PLAINTEXT = "SSL", SSL = "PLAINTEXT" } do
        local wrong = security.options(broker, protocol)
        wrong.bootstrap_servers = security.at(broker, port)
        local err, code = security.refused(wrong, 2)
        -- librdkafka 2.0.2 takes a failed TLS handshake for a refusal
        assert.is_true(code == "ECONNECT" or code == "EAUTH", code)
        security.says(err, wrong.bootstrap_servers, "security_protocol")
      end
    end)
  end)

  describe("to a broker whose certificate", function()
    setup(function()
      local tls = broker.dir .. "/kafka/tls"
      local expired = security.certificate(tls, broker.dir, "DNS:localhost", -1)
      local other = security.certificate(tls, broker.dir, "DNS:another.example", 2)
      broker:ctl("restart", "--set", "listener.name.ssl.ssl.keystore.location=" .. expired,
        "--set", "listener.name.sasl_ssl.ssl.keystore.location=" .. other)
    end)

    it("has expired, connecting is refused, whatever ssl_check_hostname says", function()
      for _, check in ipairs { true, false } do
        security.denied(options { ssl_check_hostname = check },
          "the broker's certificate has expired")
      end
    end)

    it("is for another host, connecting is refused unless ssl_check_hostname is false", function()
      local function named(more)
        return security.options(broker, "SASL_SSL", security.login("PLAIN", more))
      end
      security.denied(named(), "the broker's certificate is for another host name",
        "bootstrap_servers", "ssl_check_hostname")
      security.works(named { ssl_check_hostname = false })
      security.denied(named { ssl_check_hostname = false,
        ssl_cafile = security.authority() .. "/ca.crt" }, "not trusted", "ssl_cafile")
    end)
  end)
end)
