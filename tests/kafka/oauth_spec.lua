-- OAUTHBEARER with client credentials: tokens of a token server, signed, and checked by the broker.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"
local process = require "tests.support.process"
local security = require "tests.support.security"

-- A connection logs in again this often, and whenever its token ends. Kafka takes that for an error
-- within a second of the last time, and a token is fetched when a fifth of its life is left.
local REAUTHENTICATE = "connections.max.reauth.ms=4000"
local LIFE = 12 -- seconds
local ABLE = moonbus.features().abilities.oidc

kafka.describe("OAUTHBEARER", function()
  local broker, server, url

  setup(function() broker = kafka.broker { tls = true, set = { REAUTHENTICATE } } end)

  before_each(function()
    server = kafka.spawn { kafka.python, kafka.source .. "/tests/kafka/token_server.py",
      security.file(broker, "token.key") }
    local port = kafka.wait("the token server", function() return server:output():match "%d+\n" end)
    url = ("http://127.0.0.1:%d"):format(port)
  end)

  after_each(process.clean)

  local function options(protocol, more)
    local all = security.options(broker, protocol or "SASL_PLAINTEXT", {
      sasl_mechanism = "OAUTHBEARER", sasl_oauthbearer_token_endpoint_url = url .. "/token",
      sasl_oauthbearer_client_id = "moonbus", sasl_oauthbearer_client_secret = "client-secret",
      reconnect_backoff_ms = 100, reconnect_backoff_max_ms = 500,
    })
    for key, value in pairs(more or {}) do all[key] = value end
    return all
  end

  if not ABLE then
    it("is refused before anything is connected, and the error says what it needs", function()
      local fine, problem = pcall(moonbus.bus, options())
      assert.is_false(fine)
      security.says(tostring(problem), "ECONFIG", "OAUTHBEARER", "needs librdkafka", "oidc",
        moonbus.features().librdkafka, "scripts/setup --librdkafka")
    end)
    return
  end

  local function ask(path)
    return moonbus.json.decode((kafka.run { "curl", "-sS", "--max-time", "30", url .. path }))
  end

  local function answer(mode, life)
    ask(("/set?mode=%s&life=%d"):format(mode, life or 3600))
  end

  local function tokens()
    return #ask "/scopes"
  end

  for _, protocol in ipairs { "SASL_PLAINTEXT", "SASL_SSL" } do
    it("over " .. protocol .. " works", function()
      security.works(options(protocol))
    end)
  end

  it("requests the scope, and gives the broker the extensions", function()
    security.works(options(nil, { sasl_oauthbearer_scope = "admin",
      sasl_oauthbearer_extensions = "tenant=acme,region=north" }))
    for _, scope in ipairs(ask "/scopes") do assert.are.equal("admin", scope) end
    security.denied(options(nil, { sasl_oauthbearer_scope = "nothing" }), "no token from " .. url,
      "invalid_scope")
  end)

  it("says which token server gives no token, and why", function()
    for mode, why in pairs { refuse = "unknown client or secret", page = "not JSON",
      empty = "access_token", opaque = "JWT" } do
      answer(mode)
      security.denied(options(), "no token from " .. url .. "/token", why,
        "sasl_oauthbearer_client_secret")
    end
    answer "issue"
    security.denied(options(nil, { sasl_oauthbearer_client_secret = "another-secret" }),
      "no token from " .. url .. "/token", "unknown client or secret")
  end)

  it("says which token server does not answer", function()
    server:kill()
    server:wait_end()
    security.denied(options(), "no token from " .. url .. "/token", "connect")
  end)

  it("says so when the token server takes too long, or is unavailable", function()
    for _, mode in ipairs { "mute", "unavailable" } do
      answer(mode)
      local err, code = security.refused(options(), 1)
      assert.are.equal("ECONNECT", code)
      security.says(err, "no token came from " .. url .. "/token",
        "sasl_oauthbearer_token_endpoint_url")
      answer "issue"
    end
  end)

  it("says so when the broker does not take the token", function()
    for _, mode in ipairs { "stranger", "forged" } do
      answer(mode)
      security.denied(options(), "the broker does not take the token", "audience",
        "sasl_oauthbearer_scope")
    end
  end)

  it("goes on over many tokens that last a few seconds", function()
    answer("issue", LIFE)
    local bus = kafka.bus(options())
    local handled = security.count(bus)
    kafka.consume(bus)
    local before, count = tokens(), 0
    kafka.wait(function() return "more tokens: " .. tokens() - before end, function()
      assert(bus:publish { security.Ticked { aggregate_id = moonbus.uuid(), number = count + 1 } })
      count = count + 1
      return tokens() >= before + 4
    end)
    kafka.wait("the events", function() return handled[count] end)
    for i = 1, count do assert.are.equal(1, handled[i]) end
    assert.are.equal("green", bus:get_health().status)
    assert.is_true(bus:is_consuming())
  end)

  it("a token server that goes away during a run is reported, and no event is lost", function()
    answer("issue", LIFE)
    local bus = kafka.bus(options())
    local handled = security.count(bus)
    kafka.consume(bus)
    assert(bus:publish(security.ticks(5)))
    kafka.wait("the events", function() return handled[5] end)
    answer "refuse"
    kafka.wait("the news", function()
      return kafka.logged(bus, "consumer: no token from " .. url:gsub("%p", "%%%0"))
    end)
    kafka.wait("the refusal in the health", function()
      local health = bus:get_health()
      for _, reason in ipairs(health.reasons) do
        if reason.code == "refused" and reason.text:find("no token from", 1, true) then
          return health.status == "red"
        end
      end
    end)
    assert(bus:publish({ security.Ticked { aggregate_id = moonbus.uuid(), number = 6 } },
      { background = true }))
    answer "issue"
    kafka.wait(function() return table.concat(bus.lines, "\n") end, function()
      return handled[6] and bus:get_health().status == "green"
    end)
    assert.are.same({ 1, 1, 1, 1, 1, 1 }, handled)
  end)

  it("with auto_reconnect=false it ends consumption with that error", function()
    answer("issue", LIFE)
    local bus = kafka.bus(options())
    security.count(bus)
    local task = assert(bus:start_consuming_in_background { auto_reconnect = false })
    kafka.wait("the assignment", function() return kafka.stats(bus, "assigned_count") == 4 end)
    answer "refuse"
    local ok, err, code = task:wait(90)
    assert.is_nil(ok)
    assert.are.equal("EAUTH", code)
    security.says(err, "consumption ended", "no token from " .. url)
  end)
end)
