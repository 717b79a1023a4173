-- Configuration: every group of options. Nothing here connects.
--
-- shows   names, producer, consumer, security, retries, librdkafka properties, refused options
-- run     luajit examples/tutorial/configuration.lua
-- prints  the topics each bus would use, and what an option that does not exist is answered

local moonbus = require "moonbus"

local function show(title, bus, ...)
  print(title)
  for _, key in ipairs { ... } do
    print(("  %-22s %s"):format(key, tostring(bus.config[key])))
  end
end

-- Names: the topic and the dead letter topic follow from the prefix.

show("basic", moonbus.bus {
  bootstrap_servers = "localhost:9092", -- several: "kafka1:9092,kafka2:9092"
  topic_prefix = "myapp.events",
  consumer_group = "projections",
}, "topic_name", "dlq_topic_name", "consumer_group")

-- Producer: who must have an event before it counts, and how events share a batch.

show("producer", moonbus.bus {
  topic_prefix = "highvolume",
  acks = "all",              -- all in-sync replicas; "1" the leader alone; "0" no replica
  batch_size = 32768,        -- bytes
  linger_ms = 10,            -- wait this long for company
  compression_type = "gzip", -- none, gzip, snappy, lz4, zstd
}, "acks", "batch_size", "linger_ms", "compression_type")

-- Consumer: where a new group begins, and when a silent member loses its partitions.

show("consumer", moonbus.bus {
  topic_prefix = "orders",
  consumer_group = "order-processors",
  consumer_name = "worker-1",
  auto_offset_reset = "earliest", -- or "latest"
  session_timeout_ms = 30000,
  heartbeat_interval_ms = 10000,
  max_poll_interval_ms = 300000,
}, "consumer_name", "auto_offset_reset", "session_timeout_ms", "max_poll_interval_ms")

-- Retries and dead letters: waits of 1, 2 and 4 seconds, then the dead letter topic.

show("retries", moonbus.bus {
  topic_prefix = "orders",
  max_retries = 3,
  retry_base_delay = 1.0, -- seconds
  retry_max_delay = 60.0,
  retry_jitter = 0.1,
  enable_dlq = true,
}, "max_retries", "retry_base_delay", "retry_max_delay", "enable_dlq")

-- Security: TLS and a login. Secrets are never shown. The authorities that vouch for the broker are
-- the system's, unless ssl_cafile = "/etc/kafka/ssl/ca.crt" names a PEM file of your own; for a
-- certificate of this client there are ssl_certfile and ssl_keyfile.

show("security", moonbus.bus {
  bootstrap_servers = "kafka:9093",
  topic_prefix = "production",
  consumer_group = "prod-projections",
  security_protocol = "SASL_SSL", -- PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL
  sasl_mechanism = "SCRAM-SHA-512",
  sasl_username = "myapp",
  sasl_password = "secret",
}, "security_protocol", "sasl_mechanism", "sasl_username", "sasl_password")

-- Whatever else librdkafka knows goes through as it is.

show("librdkafka", moonbus.bus {
  topic_prefix = "orders",
  kafka = { ["socket.keepalive.enable"] = true, ["statistics.interval.ms"] = 0 },
}, "topic_name")

-- A mistake is an error at once, and says what would be right.

print("mistakes")
for _, options in ipairs {
  { topic_prefx = "orders" },
  { compression_type = "zip" },
  { security_protocol = "SASL_SSL" },
  { security_protocol = "SSL", ssl_cafile = "no-such-file.crt" },
  { session_timeout_ms = 5000, heartbeat_interval_ms = 10000 },
} do
  local ok, message = pcall(moonbus.bus, options)
  assert(not ok)
  print("  " .. message)
end

print(#moonbus.options() .. " options in all")
