-- Permissions: what a user may not do is refused with an error that says which topic, group or
-- transactional id it is about, in every way in; nothing is lost by it, and it is over once the
-- permission is there. And the tutorial's configuration for production runs.
local compiler = require "tests.support.compiler"
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"
local process = require "tests.support.process"
local security = require "tests.support.security"

local USER = "moonbus"

kafka.describe("a broker with rules", function()
  local broker

  setup(function()
    broker = kafka.broker { tls = true, set = {
      "super.users=User:ANONYMOUS",
      "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
      "listener.name.sasl_plaintext.plain.sasl.jaas.config="
        .. "org.apache.kafka.common.security.plain.PlainLoginModule required "
        .. 'user_moonbus="moonbus-secret" user_reader="reader-secret";',
    } }
    for _, kind in ipairs { "topic", "group", "transactional_id" } do
      kafka.rule({ kind = kind, name = "*", user = USER, operation = "all",
        permission = "allow" }, true, broker.address)
    end
    for kind, operation in pairs { topic = "read", group = "read" } do
      kafka.rule({ kind = kind, name = "*", user = "reader", operation = operation,
        permission = "allow" }, true, broker.address)
    end
  end)

  after_each(process.clean)

  local function rule(kind, name, operation, set)
    kafka.rule({ kind = kind, name = name, user = USER, operation = operation,
      permission = "deny" }, set, broker.address)
  end

  -- Until connecting is refused; what it says then.
  local function denied_soon(all, ...)
    local err
    kafka.wait(function() return "the refusal; " .. tostring(err) end, function()
      local bus = kafka.new_bus(all)
      local ok, said, code = bus:connect(30)
      bus:disconnect()
      err = said
      return not ok and code == "EAUTH"
    end)
    security.says(err, ...)
  end

  -- A broker heeds a rule a moment after it has taken it, and one after the other.
  local function heeded()
    local all = security.options(broker, "SASL_PLAINTEXT", security.login "PLAIN")
    rule("topic", all.topic_prefix .. ".stream", "all", true)
    denied_soon(all)
  end

  local function deny(kind, name, operation)
    rule(kind, name, operation, true)
    heeded()
  end

  local function undeny(kind, name, operation) rule(kind, name, operation, false) end

  -- With their topics, so that nobody needs to create any.
  local function options(more)
    local all = security.options(broker, "SASL_PLAINTEXT", security.login("PLAIN", more))
    all.reconnect_backoff_ms, all.reconnect_backoff_max_ms = 100, 500
    all.consumer_group = all.topic_prefix
    all.delivery_timeout_ms = 60000
    for _, suffix in ipairs { ".stream", ".stream.dlq" } do
      kafka.create(all.topic_prefix .. suffix, 1, nil, broker.address)
    end
    return all
  end

  local function topic(all) return all.topic_prefix .. ".stream" end

  local function all_once(handled, n)
    for i = 1, n do
      if handled[i] ~= 1 then return false end
    end
    return true
  end

  local function becomes(bus, status, code, ...)
    local found
    kafka.wait(function()
      return status .. ", not " .. tostring(found) .. "; " .. table.concat(bus.lines, "\n")
    end, function()
      local health = bus:get_health()
      found = health.status
      if health.status ~= status then return false end
      if not code then return true end
      for _, reason in ipairs(health.reasons) do
        found = reason.code .. " " .. reason.text
        if reason.code == code then return true end
      end
    end)
    security.says(found, ...)
  end

  it("which deny a topic refuse to connect, and name it", function()
    local all = options()
    deny("topic", topic(all), "all")
    denied_soon(all, broker.port + 4, 'topic "' .. topic(all) .. '" is denied to user "moonbus"',
      "Topic authorization failed", "Describe")
    undeny("topic", topic(all), "all")
    kafka.wait("the permission", function() return kafka.new_bus(all):connect(30) end)
  end)

  it("which deny the dead letter topic refuse to consume, and name it", function()
    local all = options()
    local bus = kafka.bus(all)
    security.count(bus)
    deny("topic", topic(all) .. ".dlq", "all")
    local ok, err, code = bus:start_consuming_in_background()
    assert.is_nil(ok)
    assert.are.equal("EAUTH", code)
    security.says(err, 'topic "' .. topic(all) .. '.dlq" is denied to user "moonbus"')
  end)

  it("which deny writing a topic refuse to publish, and name it", function()
    local all, reported = options(), {}
    all.on_publish_error = function(failure) reported[#reported + 1] = failure end
    local bus = kafka.bus(all)
    assert(bus:publish(security.ticks(1)))
    deny("topic", topic(all), "write")
    local receipt, err, code, failures = bus:publish(security.ticks(2))
    assert.is_nil(receipt)
    assert.are.equal("EDELIVERY", code)
    security.says(err, topic(all), "Topic authorization failed", "Write")
    assert.are.same({ "EAUTH", "EAUTH" }, { failures[1].code, failures[2].code })
    becomes(bus, "red", "refused", 'topic "' .. topic(all) .. '" is denied', "Write")
    -- librdkafka takes it and fails, or knows by now.
    receipt, err, code = bus:publish(security.ticks(1), { background = true })
    if receipt then
      kafka.wait("the callback", function() return #reported == 1 end)
      code = reported[1].code
      err = kafka.logged(bus, "was not delivered to ")
    end
    assert.are.equal("EAUTH", code)
    security.says(err, topic(all), "Write")
    undeny("topic", topic(all), "write")
    kafka.wait("the permission", function() return bus:publish(security.ticks(1)) end)
    becomes(bus, "green")
  end)

  it("which deny a user every write refuse to publish, and say what is missing", function()
    local all = options { sasl_username = "reader", sasl_password = "reader-secret" }
    local bus = kafka.bus(all)
    local receipt, err, code = bus:publish(security.ticks(1))
    assert.is_nil(receipt)
    assert.are.equal("EDELIVERY", code)
    security.says(err, topic(all), "authorization failed", "Write")
  end)

  for _, kind in ipairs { "topic", "group" } do
    local function named(all)
      return kind == "topic" and topic(all) or all.consumer_group
    end

    it("which deny reading a " .. kind .. " are reported, and nothing is lost", function()
      local all = options()
      local bus = kafka.bus(all)
      local handled = security.count(bus)
      assert(bus:publish(security.ticks(10)))
      deny(kind, named(all), "read")
      assert(bus:start_consuming_in_background())
      becomes(bus, "red", "refused", ('%s "%s" is denied to user "moonbus"'):format(kind,
        named(all)), "Read")
      assert.is_true(bus:is_consuming())
      assert.is_nil(next(handled))
      undeny(kind, named(all), "read")
      kafka.wait(function() return "the events; " .. table.concat(bus.lines, "\n") end,
        function() return all_once(handled, 10) end)
      becomes(bus, "green")
      assert(bus:stop_consuming())
    end)

    it("which deny reading a " .. kind .. " while it is read are reported, too", function()
      local all = options()
      local bus, publisher = kafka.bus(all), kafka.bus(all)
      local handled = security.count(bus)
      kafka.consume(bus, 1)
      assert(publisher:publish(security.ticks(5)))
      kafka.wait("the events", function() return all_once(handled, 5) end)
      deny(kind, named(all), "read")
      local number = 5
      local function publish()
        number = number + 1
        assert(publisher:publish {
          security.Ticked { aggregate_id = moonbus.uuid(), number = number } })
      end
      kafka.wait("the refusal in the log", function()
        publish()
        return kafka.logged(bus, kind .. ' "' .. named(all):gsub("%p", "%%%0") .. '" is denied')
      end)
      becomes(bus, "red", "refused", named(all))
      undeny(kind, named(all), "read")
      publish()
      kafka.wait(function() return "the rest; " .. table.concat(bus.lines, "\n") end, function()
        return handled[number]
      end)
      for i = 1, number do assert.is_truthy(handled[i], "event " .. i) end
      becomes(bus, "green")
    end)

    it("which deny reading a " .. kind .. " end it with auto_reconnect=false", function()
      local all = options()
      local bus = kafka.bus(all)
      security.count(bus)
      deny(kind, named(all), "read")
      local task = assert(bus:start_consuming_in_background { auto_reconnect = false })
      local ok, err, code = task:wait(90)
      assert.is_nil(ok)
      assert.are.equal("EAUTH", code)
      security.says(err, "consumption ended", ('%s "%s" is denied to user "moonbus"'):format(kind,
        named(all)))
    end)
  end

  describe("and exactly-once:", function()
    it("a denied transactional id refuses to connect, and is named", function()
      local all = options { delivery = "exactly_once", transactional_id = kafka.name "id" }
      deny("transactional_id", all.transactional_id, "all")
      denied_soon(all, ('transactional id "%s" is denied to user "moonbus"'):format(
        all.transactional_id), "transactional_id")
    end)

    it("a transactional id denied while it runs is reported, and what waits is handled once it is "
      .. "permitted", function()
      local all = options { delivery = "exactly_once", transactional_id = kafka.name "id" }
      local bus = kafka.bus(all)
      all.delivery, all.transactional_id = nil, nil
      local publisher, handled = kafka.bus(all), security.count(bus)
      kafka.consume(bus, 1)
      assert(publisher:publish(security.ticks(5)))
      kafka.wait("the events", function() return handled[5] end)
      local id = bus.config.transactional_id
      deny("transactional_id", id, "all")
      for n = 6, 15 do
        assert(publisher:publish {
          security.Ticked { aggregate_id = moonbus.uuid(), number = n } })
      end
      becomes(bus, "red", "consumer_broken", ('transactional id "%s" is denied'):format(id))
      undeny("transactional_id", id, "all")
      kafka.wait(function() return "the rest; " .. table.concat(bus.lines, "\n") end, function()
        return handled[15] and kafka.stats(bus, "lag") == 0
      end)
      becomes(bus, "green")
      assert.is_true(bus:is_consuming())
    end)

    it("a denied group is reported, and every event is handled once it is permitted", function()
      local all = options { delivery = "exactly_once" }
      local bus = kafka.bus(all)
      local handled = security.count(bus)
      kafka.consume(bus, 1)
      assert(bus:publish(security.ticks(5)))
      kafka.wait("the events", function() return handled[5] end)
      deny("group", all.consumer_group, "read")
      local number = 5
      kafka.wait("the refusal in the log", function()
        number = number + 1
        bus:publish { security.Ticked { aggregate_id = moonbus.uuid(), number = number } }
        return kafka.logged(bus, 'group "' .. all.consumer_group:gsub("%p", "%%%0")
          .. '" is denied')
      end)
      becomes(bus, "red", "refused", all.consumer_group)
      undeny("group", all.consumer_group, "read")
      kafka.wait(function() return "the rest; " .. table.concat(bus.lines, "\n") end, function()
        return handled[number]
      end)
      becomes(bus, "green")
    end)
  end)

  describe("and the program:", function()
    local all, script

    setup(function()
      all = options()
      all.event_registry = nil
    end)

    before_each(function()
      script = kafka.write_file(kafka.temp_dir() .. "/script.lua", [[
        local moonbus = require "moonbus"
        local bus = moonbus.bus {}
        bus:subscribe("Ticked", function() end)]])
    end)

    local function environment(more)
      local env = {}
      for key, value in pairs(all) do
        if key ~= "event_registry" then env["MOONBUS_" .. key:upper()] = tostring(value) end
      end
      for key, value in pairs(more or {}) do env["MOONBUS_" .. key:upper()] = value end
      return env
    end

    local function commands()
      local name = topic(all)
      return {
        { "publish", "--type", "Ticked", "--aggregate-type", "Clock", "--data", "{}",
          "--aggregate-id", moonbus.uuid() },
        { "tail" }, { "topics", "describe", name }, { "topics", "create", kafka.name "made" },
        { "dlq", "list" }, { "dlq", "count" }, { "run", script },
        { "run", script, "--workers", "2" },
      }
    end

    it("every command ends with 4 and says that the password is wrong", function()
      local runs = {}
      for i, words in ipairs(commands()) do
        runs[i] = process.start(process.moonbus(unpack(words)),
          { env = environment { sasl_password = "open-sesame" } })
      end
      for i, words in ipairs(commands()) do
        local run = runs[i]:wait(90)
        local text = table.concat(words, " ") .. ":\n" .. run.stderr
        assert.are.equal(4, run.code, text)
        security.says(text, "Authentication failed", "sasl_password")
        assert.is_nil((run.stdout .. run.stderr):find("open-sesame", 1, true), text)
      end
    end)

    it("every command that needs it ends with 4 and names the denied topic", function()
      deny("topic", topic(all), "all")
      denied_soon(all, topic(all))
      local runs, list = {}, commands()
      for i, words in ipairs(list) do
        if words[1] ~= "topics" and words[1] ~= "dlq" then
          runs[i] = process.start(process.moonbus(unpack(words)), { env = environment() })
        end
      end
      for i, run in pairs(runs) do
        run:wait(90)
        local text = table.concat(list[i], " ") .. ":\n" .. run.stderr
        assert.are.equal(4, run.code, text)
        security.says(text, topic(all))
      end
      undeny("topic", topic(all), "all")
    end)
  end)

  it("and the library: mb_bus_connect is MB_EAUTH with the same text", function()
    local dir = kafka.temp_dir()
    local source = kafka.write_file(dir .. "/main.c", [[
#include <moonbus.h>
#include <stdio.h>
int main(void) {
  char why[1024] = "";
  mb_config *conf = mb_config_new();
  if (mb_config_set_env(conf, why, sizeof why)) return 2;
  mb_bus *bus = mb_bus_new(conf, why, sizeof why);
  mb_config_free(conf);
  mb_err err = bus ? mb_bus_connect(bus, 90000, why, sizeof why) : MB_ECONFIG;
  printf("%s %s\n", mb_err_name(err), why);
  mb_bus_free(bus);
  return 0;
}]])
    local built = process.run { "sh", "-c", compiler.command(source, dir .. "/main") }
    assert.are.equal(0, built.code, built.stderr)
    local run = process.run({ dir .. "/main" }, { env = {
      MOONBUS_BOOTSTRAP_SERVERS = security.at(broker, "SASL_PLAINTEXT"),
      MOONBUS_SECURITY_PROTOCOL = "SASL_PLAINTEXT", MOONBUS_SASL_MECHANISM = "PLAIN",
      MOONBUS_SASL_USERNAME = USER, MOONBUS_SASL_PASSWORD = "open-sesame" } })
    security.says(run.stdout, "EAUTH", "no login at ", "Authentication failed", "sasl_password")
  end)

  it("examples/tutorial/security.lua logs in", function()
    local run = process.run({ "luajit", kafka.source .. "/examples/tutorial/security.lua" }, {
      env = { MOONBUS_BOOTSTRAP_SERVERS = security.at(broker, "SASL_SSL"),
        MOONBUS_SSL_CAFILE = security.file(broker, "ca.crt") } })
    if kafka.librdkafka() < 20601 then
      assert.are_not.equal(0, run.code)
      return security.says(run.stderr, "SCRAM-SHA-512")
    end
    assert.are.equal(0, run.code, run.stderr)
    security.says(run.stdout, "password: ***\n", "logged in as moonbus over SASL_SSL\n",
      "received a payment of 42\n", "refused: EAUTH\n", "sasl_password")
  end)
end)
