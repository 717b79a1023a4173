local ffi = require "ffi"
local moonbus = require "moonbus"

ffi.cdef [[
  int setenv(const char *name, const char *value, int overwrite);
  int unsetenv(const char *name);
]]

local function bus(options)
  options.on_log = function() end
  return moonbus.bus(options)
end

-- moonbus.bus raises a sentence with every text
local function refused(options, ...)
  local ok, why = pcall(bus, options)
  assert.is_false(ok, "nothing was raised")
  assert.matches("ECONFIG: ", why, 1, true)
  for _, text in ipairs { ... } do assert.matches(text, why, 1, true) end
  return why
end

-- Run body with environment variables set, and unset them whatever happens.
local function with_env(variables, body)
  for name, value in pairs(variables) do ffi.C.setenv(name, value, 1) end
  local ok, why = pcall(body)
  for name in pairs(variables) do ffi.C.unsetenv(name) end
  if not ok then error(why, 0) end
end

describe("a bus without options", function()
  it("has the tutorial's defaults", function() -- 1
    local config = bus({}).config
    for key, value in pairs {
      bootstrap_servers = "localhost:9092", topic_prefix = "events", consumer_group = "default",
      acks = "all", compression_type = "gzip", batch_size = 16384, linger_ms = 5,
      auto_offset_reset = "earliest", session_timeout_ms = 30000, heartbeat_interval_ms = 3000,
      max_poll_interval_ms = 300000, max_retries = 3, retry_base_delay = 1, retry_max_delay = 60,
      retry_jitter = 0.1, enable_dlq = true, dlq_topic_suffix = ".dlq",
      dlq_max_replay_attempts = 3, security_protocol = "PLAINTEXT", ssl_check_hostname = true,
      enable_tracing = true, enable_metrics = true, shutdown_timeout = 30,
      fetch_max_bytes = 52428800, max_partition_fetch_bytes = 1048576,
    } do
      assert.equal(value, config[key], key)
    end
    for _, key in ipairs { "dlq_consumer_group", "sasl_mechanism", "sasl_username",
      "sasl_password", "ssl_cafile", "ssl_certfile", "ssl_keyfile" } do
      assert.is_nil(config[key], key)
    end
  end)

  it("has topics named after the prefix and the suffix", function() -- 1
    local config = bus({}).config
    assert.equal("events.stream", config.topic_name)
    assert.equal("events.stream.dlq", config.dlq_topic_name)
    config = bus({ topic_prefix = "orders", dlq_topic_suffix = "-dead" }).config
    assert.equal("orders.stream", config.topic_name)
    assert.equal("orders.stream-dead", config.dlq_topic_name)
  end)

  it("makes up a consumer name: the host's and 8 hex digits", function() -- 1
    local first, second = bus({}).config.consumer_name, bus({}).config.consumer_name
    assert.matches("^.+%-%x%x%x%x%x%x%x%x$", first)
    assert.not_equal(first, second)
    assert.equal("me", bus({ consumer_name = "me" }).config.consumer_name)
  end)

  it("is not connected and not consuming", function()
    local made = bus {}
    assert.is_false(made:is_connected())
    assert.is_false(made:is_consuming())
  end)
end)

describe("options", function()
  it("are kept as given, in their type", function() -- 1
    local config = bus({ max_retries = 7, retry_base_delay = 0.25, enable_dlq = false,
      compression_type = "lz4", topic_prefix = "a.b-c_d" }).config
    assert.equal(7, config.max_retries)
    assert.equal(0.25, config.retry_base_delay)
    assert.equal(false, config.enable_dlq)
    assert.equal("lz4", config.compression_type)
  end)

  it("may be given as text", function()
    local config = bus({ max_retries = "7", enable_dlq = "false", retry_jitter = "0.5" }).config
    assert.equal(7, config.max_retries)
    assert.equal(false, config.enable_dlq)
    assert.equal(0.5, config.retry_jitter)
  end)

  it("cannot be changed on a bus", function()
    local made = bus {}
    assert.error_matches(function() made.config.max_retries = 5 end, "max_retries")
    assert.equal(3, made.config.max_retries)
  end)

  it("that do not exist are an error to read, with the nearest name", function()
    local config = bus({}).config
    assert.error_matches(function() return config.no_such_option end, "no_such_option")
    assert.error_matches(function() return config.max_retrys end, 'did you mean "max_retries"')
  end)

  it("that are unknown are refused with the nearest name", function()
    refused({ max_retrys = 3 }, "max_retrys", "max_retries")
    refused({ bootstrap_server = "x:1" }, "bootstrap_server", "bootstrap_servers")
    refused({ Topic_Prefix = "x" }, "Topic_Prefix")
    refused({ something_else_entirely = 1 }, "something_else_entirely")
  end)

  it("have names, not positions", function()
    refused({ "localhost:9092" }, "key = value")
  end)

  it("have text, numbers and booleans as values", function()
    refused({ max_retries = {} }, "max_retries", "table")
    refused({ topic_prefix = print }, "topic_prefix", "function")
  end)

  it("of the wrong type are refused", function()
    refused({ max_retries = "many" }, "max_retries", '"many"')
    refused({ max_retries = 1.5 }, "max_retries", '"1.5"')
    refused({ max_retries = true }, "max_retries", '"true"')
    refused({ enable_dlq = "perhaps" }, "enable_dlq", '"perhaps"')
    refused({ retry_jitter = "x" }, "retry_jitter")
    refused({ retry_jitter = 0 / 0 }, "retry_jitter")
    refused({ shutdown_timeout = 1 / 0 }, "shutdown_timeout")
  end)

  it("out of bounds are refused with the bounds", function() -- 11
    refused({ max_retries = -1 }, "max_retries", "0 to 1000")
    refused({ retry_jitter = 1.5 }, "retry_jitter", "0 to 1")
    refused({ retry_jitter = -0.1 }, "retry_jitter")
    refused({ retry_base_delay = 0 }, "retry_base_delay")
    refused({ retry_max_delay = -1 }, "retry_max_delay")
    refused({ session_timeout_ms = 0 }, "session_timeout_ms")
  end)

  it("that are no possible choice are refused with the choices", function() -- 2 3
    refused({ security_protocol = "TLS" }, "security_protocol", "PLAINTEXT", "SSL",
      "SASL_PLAINTEXT", "SASL_SSL")
    refused({ sasl_mechanism = "GSSAPI" }, "sasl_mechanism", "PLAIN", "SCRAM-SHA-256",
      "SCRAM-SHA-512")
    refused({ acks = "2" }, "acks", "all")
    refused({ compression_type = "zip" }, "compression_type", "gzip", "snappy", "lz4", "zstd")
    refused({ auto_offset_reset = "bogus" }, "auto_offset_reset", "earliest", "latest")
    refused({ retry_scope = "topic" }, "retry_scope", "key", "partition")
    refused({ log_level = "loud" }, "log_level", "debug")
  end)

  it("take every possible choice", function() -- 2 3
    for _, protocol in ipairs { "PLAINTEXT", "SSL" } do
      assert.equal(protocol, bus({ security_protocol = protocol }).config.security_protocol)
    end
    for _, protocol in ipairs { "SASL_PLAINTEXT", "SASL_SSL" } do
      for _, mechanism in ipairs { "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512" } do
        local config = bus({ security_protocol = protocol, sasl_mechanism = mechanism,
          sasl_username = "me", sasl_password = "secret" }).config
        assert.equal(mechanism, config.sasl_mechanism)
      end
    end
    for _, acks in ipairs { "all", "1", "0", 1, 0 } do
      assert.equal(tostring(acks), bus({ acks = acks }).config.acks)
    end
    assert.equal("all", bus({ acks = -1 }).config.acks)
  end)

  it("that cannot go together are refused, naming both sides", function() -- 3 4 11
    refused({ security_protocol = "SASL_SSL" }, "sasl_mechanism", "SASL_SSL")
    refused({ security_protocol = "SASL_SSL", sasl_mechanism = "PLAIN" }, "sasl_username")
    refused({ security_protocol = "SASL_SSL", sasl_mechanism = "PLAIN", sasl_username = "me" },
      "sasl_password")
    refused({ security_protocol = "SSL", ssl_certfile = "/dev/null" }, "ssl_keyfile")
    refused({ security_protocol = "SSL", ssl_keyfile = "/dev/null" }, "ssl_certfile")
    refused({ heartbeat_interval_ms = 30000 }, "heartbeat_interval_ms", "session_timeout_ms")
    refused({ retry_base_delay = 5, retry_max_delay = 1 }, "retry_max_delay", "retry_base_delay")
    refused({ linger_ms = 5000, delivery_timeout_ms = 4000 }, "linger_ms", "delivery_timeout_ms")
    refused({ bootstrap_servers = "embedded", security_protocol = "SSL" }, "security_protocol",
      "embedded")
  end)

  it("that make an impossible topic or group are refused", function()
    refused({ topic_prefix = "" }, "topic_prefix")
    refused({ topic_prefix = "a b" }, "topic_prefix", '"a b')
    refused({ topic_prefix = "a/b" }, "topic_prefix")
    refused({ topic_prefix = ("x"):rep(250) }, "topic_prefix", "249")
    refused({ consumer_group = "" }, "consumer_group")
    refused({ dlq_topic_suffix = "" }, "dlq_topic_suffix", "main topic")
    refused({ dlq_topic_suffix = "?" }, "dlq_topic_suffix")
    refused({ bootstrap_servers = "" }, "bootstrap_servers")
    refused({ bootstrap_servers = "host:port" }, "bootstrap_servers", "host:port")
    refused({ bootstrap_servers = "http://host:1" }, "bootstrap_servers", "scheme")
  end)

  it("that hold a secret are not shown", function() -- 7
    local config = bus({ security_protocol = "SASL_PLAINTEXT", sasl_mechanism = "PLAIN",
      sasl_username = "me", sasl_password = "hush" }).config
    assert.equal("me", config.sasl_username)
    assert.equal("***", config.sasl_password)
    assert.is_nil(config.ssl_keyfile)
  end)

  it("are refused at the caller's line", function()
    local line
    local _, why = pcall(function()
      line = debug.getinfo(1, "l").currentline + 1
      local made = moonbus.bus { max_retries = -1 }
      return made
    end)
    assert.matches(("config_spec.lua:%d: ECONFIG"):format(line), why, 1, true)
  end)

  it("come in a table", function()
    assert.error_matches(function() moonbus.bus() end, "table of options")
    assert.error_matches(function() moonbus.bus "localhost:9092" end, "table of options")
  end)

  it("leave the table they came in as it was", function()
    local given = { max_retries = 5,
      kafka = { ["client.rack"] = "r", ["socket.timeout.ms"] = 5000 } }
    moonbus.bus(given)
    assert.same({ max_retries = 5,
      kafka = { ["client.rack"] = "r", ["socket.timeout.ms"] = 5000 } }, given)
    assert.equal("number", type(given.kafka["socket.timeout.ms"]))
  end)

  it("each have a type, a help text and a section in moonbus.options", function()
    local seen = {}
    for _, option in ipairs(moonbus.options()) do
      assert.is_nil(seen[option.key], option.key)
      seen[option.key] = true
      assert.is_string(option.section)
      assert(#option.help > 10, option.key)
      assert(option.type == "choice" == (option.choices ~= nil), option.key)
    end
    assert.is_true(seen.bootstrap_servers)
    assert.is_true(seen.retry_scope)
  end)
end)

describe("the annotations", function()
  it("say of each option what the table of options says", function()
    local said, text, class = {}, {}, nil
    for line in io.lines "lua/moonbus/meta.lua" do
      class = line:match "^%-%-%-@class (%S+)" or class
      local name = class == "moonbus.Config" and line:match "^%-%-%-@field ([%w_]+)"
      if name then said[name] = table.concat(text, " ") end
      if line:find "^%-%-%-@" then text = {} else text[#text + 1] = line:match "^%-%-%-(.*)" end
    end
    for _, option in ipairs(moonbus.options()) do
      local expected = ("%s Default %s"):format(option.help, option.default or "unset")
      assert.equal(expected, (said[option.key] or "nothing"):sub(1, #expected))
      if option.type == "integer" or option.type == "number" then
        assert.matches((", %.10g to %.10g."):format(option.min, option.max), said[option.key], 1,
          true)
      end
    end
  end)
end)

describe("kafka = {...}", function()
  it("passes librdkafka properties: text, numbers, booleans", function()
    bus { kafka = { ["client.rack"] = "r1", ["socket.timeout.ms"] = 5000,
      ["socket.keepalive.enable"] = true } }
  end)

  it("refuses what librdkafka does not know", function()
    refused({ kafka = { ["no.such.property"] = "1" } }, "no.such.property")
  end)

  it("refuses a value that librdkafka refuses", function()
    refused({ kafka = { ["socket.timeout.ms"] = "soon" } }, "socket.timeout.ms")
  end)

  it("refuses what an option governs, naming the option", function()
    refused({ kafka = { ["bootstrap.servers"] = "x:1" } }, "bootstrap.servers", "bootstrap_servers")
    refused({ kafka = { ["group.id"] = "g" } }, "group.id", "consumer_group")
    refused({ kafka = { ["enable.auto.commit"] = true } }, "enable.auto.commit")
  end)

  it("takes a table with names in it", function()
    refused({ kafka = "x" }, "kafka")
    refused({ kafka = { "x" } }, "kafka", "names are strings")
    refused({ kafka = { ["client.rack"] = {} } }, "client.rack")
    refused({ kafka = { ["client.rack"] = print } }, "client.rack")
  end)
end)

describe("text with a NUL", function()
  it("is no option's value: what is behind it would be lost", function()
    refused({ topic_prefix = "a\0b" }, 'option "topic_prefix": a NUL is in its value')
    refused({ sasl_password = "se\0cret" }, 'option "sasl_password": a NUL')
  end)
end)

describe("the environment", function()
  it("wins over the script", function()
    with_env({ MOONBUS_TOPIC_PREFIX = "env", MOONBUS_MAX_RETRIES = "9",
      MOONBUS_ENABLE_DLQ = "false" }, function()
      local config = bus({ topic_prefix = "script", max_retries = 1 }).config
      assert.equal("env", config.topic_prefix)
      assert.equal("env.stream", config.topic_name)
      assert.equal(9, config.max_retries)
      assert.equal(false, config.enable_dlq)
    end)
    assert.equal("script", bus({ topic_prefix = "script" }).config.topic_prefix)
  end)

  it("loses to the command line's flags", function()
    local core = require "moonbus.core"
    with_env({ MOONBUS_TOPIC_PREFIX = "env", MOONBUS_CONSUMER_GROUP = "env" }, function()
      local native = assert(core.bus_new({ topic_prefix = "script" },
        { topic_prefix = "flag" }, {}))
      assert.equal("flag", native:config "topic_prefix")
      assert.equal("env", native:config "consumer_group")
    end)
  end)

  it("is checked like the script", function()
    with_env({ MOONBUS_MAX_RETRIES = "many" }, function() refused({}, "max_retries", "many") end)
    with_env({ MOONBUS_HEARTBEAT_INTERVAL_MS = "60000" }, function()
      refused({}, "heartbeat_interval_ms")
    end)
  end)

  it("may hold other variables of that prefix", function()
    with_env({ MOONBUS_SOMETHING = "1", MOONBUS_BUILD = "b", MOONBUS_SOURCE = "s",
      MOONBUS_WORKER = "1", MOONBUS_KAFKA_DIR = "d", MOONBUS_TEST_KAFKA = "k", MOONBUS_ = "x",
      ["MOONBUS_" .. ("X"):rep(3000)] = "x", MOONBUS_TOPIC_PREFX = "" }, function() bus {} end)
  end)

  it("with a mistyped option is refused with the nearest name", function()
    with_env({ MOONBUS_SECURITY_PROTOCL = "SSL" }, function()
      refused({}, "environment MOONBUS_SECURITY_PROTOCL", "did you mean MOONBUS_SECURITY_PROTOCOL?")
    end)
  end)
end)

describe("the script's own options:", function()
  it("event_registry is a registry", function()
    assert.error_matches(function() bus { event_registry = "x" } end, "event_registry")
    assert.error_matches(function() bus { event_registry = {} } end, "event_registry")
    local registry = moonbus.new_registry()
    assert.equal(registry, bus({ event_registry = registry }).registry)
  end)

  it("on_log and on_publish_error are functions", function()
    assert.error(function() moonbus.bus { on_log = "x" } end)
    assert.error(function() moonbus.bus { on_publish_error = 5 } end)
  end)

  it("a refused on_log points at the caller's line", function()
    local line
    local _, why = pcall(function()
      line = debug.getinfo(1, "l").currentline + 1
      local made = moonbus.bus { on_log = "x" }
      return made
    end)
    assert.matches(("config_spec.lua:%d: "):format(line), why, 1, true)
    assert.matches("on_log", why, 1, true)
  end)
end)
