-- What the librdkafka in use can do, and what is said where it cannot: by the module, the program
-- and a program in C. Runs on the build's librdkafka, the system's and the newest.
local cjson = require "cjson"
local compiler = require "tests.support.compiler"
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"
local process = require "tests.support.process"

local SETUP = "scripts/setup --librdkafka"
local SCRAM = 20601 -- since when it logs in to Kafka 4

-- What the changelogs of librdkafka say, and which build has to have what.
local SINCE = {
  { "cooperative%-sticky", 20400 },
  { "SCRAM", SCRAM, "sasl_scram" },
  { "OAUTHBEARER", 10900, "oidc" },
  { "group_protocol", 21200 },
}

local C = [[
#include <moonbus.h>
#include <stdio.h>
int main(void) {
  char why[1024];
  mb_config *conf = mb_config_new();
  if (mb_config_set_env(conf, why, sizeof why)) return 2;
  mb_bus *bus = mb_bus_new(conf, why, sizeof why);
  if (!bus) return 3;
  mb_err err = mb_bus_connect(bus, 60000, why, sizeof why);
  printf("%s: %s\n", mb_err_name(err), why);
  mb_bus_free(bus);
  mb_config_free(conf);
  return 0;
}]]

local SCRIPT = [[
local moonbus = require "moonbus"
moonbus.event("Ticked", { aggregate_type = "Clock" })
local bus = moonbus.bus {}
bus:subscribe("Ticked", function() end)]]

kafka.describe("librdkafka", function()
  local features = moonbus.features()

  after_each(process.clean)

  it("can do what its version and its features say", function()
    for i, row in ipairs(SINCE) do
      local each = features.requirements[i]
      local built_in = not row[3] or features.abilities[row[3]] or false
      local met = kafka.librdkafka() >= row[2] and built_in
      assert.matches(row[1], each.what)
      assert.equal(row[3], each.feature)
      assert.equal(met, each.met, each.what)
      assert.equal(met, each.why == nil)
      if not met then
        assert.matches("this is " .. features.librdkafka, each.why, 1, true)
        assert.matches(each.since, each.why, 1, true)
      end
    end
    assert.equal(#SINCE, #features.requirements)
  end)

  it("is named by moonbus version, with what it lacks", function()
    local text = process.run(process.moonbus "version").stdout
    local json = cjson.decode(process.run(process.moonbus("version", "--json")).stdout)
    local lacks = 0
    assert.matches("\nlibrdkafka " .. features.librdkafka .. "\n", text, 1, true)
    for _, each in ipairs(features.requirements) do
      if not each.met then
        lacks = lacks + 1
        assert.matches("\nlacks: " .. each.why .. "\n", text, 1, true)
        assert.same({ what = each.what, since = each.since, feature = each.feature,
          why = each.why }, json.lacks[lacks])
      end
    end
    assert.equal(lacks, #json.lacks)
    assert.equal(lacks, select(2, text:gsub("\nlacks: ", "")))
  end)

  it("that is not sound for cooperative-sticky is refused before it connects", function()
    local path = kafka.write_file(kafka.temp_dir() .. "/script.lua",
      'require "moonbus".bus { partition_assignment_strategy = "cooperative-sticky" }')
    local result = process.run(process.moonbus("check", path))
    if kafka.librdkafka() >= 20400 then return assert.equal(0, result.code, result.stderr) end
    assert.equal(2, result.code)
    assert.matches("cooperative%-sticky.* needs librdkafka 2%.4%.0.*" .. features.librdkafka,
      result.stderr)
    assert.matches(SETUP, result.stderr, 1, true)
  end)

  describe("whose SCRAM login is refused", function()
    local old = kafka.librdkafka() < SCRAM
    local env, path

    before_each(function()
      -- An old one is refused with the right password, too; a newer one only with a wrong one.
      env = {
        MOONBUS_BUILD = kafka.build,
        MOONBUS_BOOTSTRAP_SERVERS = assert(os.getenv "MOONBUS_TEST_KAFKA_SASL_PLAINTEXT"),
        MOONBUS_SECURITY_PROTOCOL = "SASL_PLAINTEXT", MOONBUS_SASL_MECHANISM = "SCRAM-SHA-256",
        MOONBUS_SASL_USERNAME = "moonbus",
        MOONBUS_SASL_PASSWORD = old and "moonbus-secret" or "open-sesame",
      }
      path = kafka.write_file(kafka.temp_dir() .. "/script.lua", SCRIPT)
    end)

    -- The version is only to blame where it is.
    local function says_why(text)
      assert.matches("EAUTH: ", text, 1, true)
      assert.matches("uthentication failed", text)
      local why = text:match "a SCRAM login to Kafka 4 needs librdkafka 2%.6%.1 .-; [^;\n]+"
      if not old then return assert.is_nil(why, text) end
      assert.matches("this is " .. features.librdkafka, why, 1, true)
      assert.matches(SETUP, why, 1, true)
    end

    it("connect says so", function()
      local bus = kafka.new_bus { bootstrap_servers = env.MOONBUS_BOOTSTRAP_SERVERS,
        security_protocol = "SASL_PLAINTEXT", sasl_mechanism = "SCRAM-SHA-256",
        sasl_username = "moonbus", sasl_password = env.MOONBUS_SASL_PASSWORD }
      local ok, err = bus:connect(60)
      assert.is_nil(ok)
      says_why(err)
    end)

    it("mb_bus_connect says so", function()
      local dir = kafka.temp_dir()
      local made = process.run { "sh", "-c",
        compiler.command(kafka.write_file(dir .. "/connect.c", C), dir .. "/connect") }
      assert.equal(0, made.code, made.stderr)
      local result = process.run({ dir .. "/connect" }, { env = env })
      assert.equal(0, result.code, result.stderr)
      says_why(result.stdout)
    end)

    for name, words in pairs {
      run = { "run", "PATH" },
      ["run --workers"] = { "run", "PATH", "--workers", "2" },
      publish = { "publish", "--type", "Ticked", "--aggregate-id",
        "11111111-2222-4333-8444-555555555555", "--aggregate-type", "Clock", "--data", "{}" },
      tail = { "tail" },
      ["dlq count"] = { "dlq", "count" },
      ["dlq list"] = { "dlq", "list" },
      ["dlq replay"] = { "dlq", "replay", "--all" },
      ["topics create"] = { "topics", "create", "a.stream" },
      ["topics describe"] = { "topics", "describe", "a.stream" },
    } do
      it("moonbus " .. name .. " says so", function()
        local each = {}
        for i, word in ipairs(words) do each[i] = word == "PATH" and path or word end
        local result = process.run(process.moonbus(unpack(each)), { env = env })
        assert.equal(4, result.code, result.stderr)
        says_why(result.stderr)
      end)
    end
  end)
end)
