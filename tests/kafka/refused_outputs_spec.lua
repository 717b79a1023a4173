--- What handlers publish with delivery = "exactly_once" and the broker refuses: for good, which is
-- charged to the event whose handler published it, or for now, which is no event's fault.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"

local registry = moonbus.new_registry()
local In = moonbus.event("In", { aggregate_type = "A", n = "integer" }, { registry = registry })
local Out = moonbus.event("Out", { aggregate_type = "A", n = "integer", text = "string" },
  { registry = registry })

local LIMIT = 20000
local LARGE = 50000

kafka.describe("outputs that the broker refuses", function()
  local broker

  setup(function()
    broker = kafka.broker { tls = true, set = {
      "super.users=User:ANONYMOUS",
      "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    } }
    for _, kind in ipairs { "topic", "group", "transactional_id" } do
      kafka.rule({ kind = kind, name = "*", user = "moonbus", operation = "all",
        permission = "allow" }, true, broker.address)
    end
  end)

  -- A bus with exactly_once, and the calls of its handler: n -> ctx.attempt of each.
  local function new_worker(prefix, large, options)
    local all = { event_registry = registry, topic_prefix = prefix, consumer_group = prefix,
      bootstrap_servers = "localhost:" .. broker.port + 4, security_protocol = "SASL_PLAINTEXT",
      sasl_mechanism = "PLAIN", sasl_username = "moonbus", sasl_password = "moonbus-secret",
      delivery = "exactly_once", compression_type = "none", max_retries = 2,
      retry_base_delay = 0.02, retry_max_delay = 0.1 }
    for key, value in pairs(options or {}) do all[key] = value end
    local bus, calls = kafka.bus(all), {}
    bus:subscribe(In, function(event, ctx)
      calls[event.n] = calls[event.n] or {}
      table.insert(calls[event.n], ctx.attempt)
      assert(bus:publish(Out { aggregate_id = event.aggregate_id, n = event.n,
        text = ("x"):rep(large[event.n] and LARGE or 10) }))
    end)
    return bus, calls
  end

  -- By a user who may do everything; in batches that the topic takes.
  local function feed(prefix, count, key, first)
    local bus = kafka.bus { event_registry = registry, topic_prefix = prefix,
      bootstrap_servers = broker.address, batch_size = LIMIT / 2 }
    local events = {}
    for n = first or 1, count do
      events[#events + 1] = In { aggregate_id = key or moonbus.uuid(), n = n }
    end
    assert(bus:publish(events))
  end

  local function once_each(bus, count, but)
    local seen = kafka.outputs(bus)
    for n = 1, count do
      assert.are.equal(but[n] and 0 or 1, seen[n] or 0, ("result %d\n%s"):format(n,
        table.concat(bus.lines, "\n")))
    end
  end

  -- Of one key, and of many; one alone, and among others that share its transaction.
  for _, case in ipairs {
    { name = "the second of three of one key", count = 3, large = { [2] = true }, one_key = true },
    { name = "one alone", count = 1, large = { true } },
    { name = "three among three hundred", count = 300,
      large = { [1] = true, [150] = true, [151] = true } },
  } do
    it("for good become dead letters of their own events: " .. case.name, function()
      local prefix = kafka.name "refused"
      local topic = prefix .. ".stream"
      kafka.create(topic, 2, { "max.message.bytes=" .. LIMIT }, broker.address)
      local bus, calls = new_worker(prefix, case.large)
      feed(prefix, case.count, case.one_key and moonbus.uuid())
      assert(bus:start_consuming { until_idle = 1, for_seconds = 90 })
      once_each(bus, case.count, case.large)
      local letters, dead = assert(bus:get_dlq_messages()), {}
      for _, letter in ipairs(letters) do
        dead[moonbus.json.decode(letter.value).n] = true
        assert.are.equal("PublishRefused", letter.headers.dlq_error_type)
        assert.is_truthy(letter.headers.dlq_error_message:find(
          topic .. ": Message size too large", 1, true), letter.headers.dlq_error_message)
        assert.are.equal("3", letter.headers.dlq_attempts)
        assert.are.equal("max_retries_exceeded", letter.headers.dlq_reason)
      end
      assert.are.same(case.large, dead)
      for n in pairs(case.large) do assert.are.equal(3, calls[n][#calls[n]]) end
      local stats = bus:get_stats_dict()
      assert.are.equal(#letters * 2, stats.retries)
      -- halved until each is found: no more than that
      assert.is_true(stats.transactions_aborted <= #letters * 12, stats.transactions_aborted)
    end)
  end

  it("for now are published once they may be, without an attempt used up", function()
    local prefix = kafka.name "denied"
    local topic = prefix .. ".stream"
    kafka.create(topic, 2, nil, broker.address)
    local bus, calls = new_worker(prefix, {})
    kafka.consume(bus, 2)
    feed(prefix, 1)
    kafka.wait("the first", function() return kafka.stats(bus, "transactions_committed") > 0 end)
    kafka.permit(topic, "moonbus", false, broker.address)
    kafka.wait("the refusal", function()
      return kafka.produce(topic, { { value = "{}" } },
        { "security.protocol=SASL_PLAINTEXT", "sasl.mechanism=PLAIN", "sasl.username=moonbus",
          "sasl.password=moonbus-secret", "message.timeout.ms=10000" },
        "localhost:" .. broker.port + 4)[1].error ~= moonbus.null
    end)
    feed(prefix, 20, nil, 2)
    kafka.wait("some refusals", function()
      return kafka.stats(bus, "transactions_aborted") >= 4
    end)
    assert.is_truthy(kafka.logged(bus, "Topic authorization failed"))
    local health = bus:get_health()
    assert.are.equal("red", health.status)
    local aborted, begin = kafka.stats(bus, "transactions_aborted"), moonbus.now()
    kafka.permit(topic, "moonbus", true, broker.address)
    kafka.wait("its end", function() return kafka.stats(bus, "transactions_committed") > 0 end)
    -- each wait was longer than the one before
    assert.is_true(kafka.stats(bus, "transactions_aborted") - aborted <= 2 + moonbus.now() - begin)
    kafka.wait("all of it", function()
      return kafka.stats(bus, "lag") == 0 and bus:get_health().status == "green"
    end)
    once_each(bus, 20, {})
    for n = 1, 20 do
      for _, attempt in ipairs(calls[n]) do assert.are.equal(1, attempt) end
    end
    assert.are.equal(0, bus:get_dlq_message_count())
    assert.are.equal("green", bus:get_health().status)
  end)
end)
