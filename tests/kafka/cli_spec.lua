-- What the program says of topics on a broker that makes each one it is asked for.
local cjson = require "cjson"
local kafka = require "tests.support.kafka"
local process = require "tests.support.process"

kafka.describe("the program on Kafka", function()
  after_each(process.clean)

  local function run(...)
    local words = process.moonbus(...)
    words[#words + 1] = "--bootstrap-servers"
    words[#words + 1] = kafka.address
    return process.run(words)
  end

  -- A second look would find a topic that the first one made.
  local function twice_missing(...)
    for _ = 1, 2 do
      local result = run(...)
      assert.equal(5, result.code, result.stdout .. result.stderr)
      assert.matches("^moonbus: ETOPIC: topic \"[^\n]+\n$", result.stderr)
      assert.equal("", result.stdout)
    end
  end

  it("does not make the topic it is only asked about", function()
    local prefix = kafka.name "missing"
    twice_missing("tail", "--topic-prefix", prefix)
    twice_missing("tail", "--follow", "--topic", prefix .. ".stream")
    twice_missing("topics", "describe", prefix .. ".stream")
    twice_missing("dlq", "count", "--topic-prefix", prefix)
    twice_missing("dlq", "list", "--topic-prefix", prefix)
  end)

  it("makes a topic once, and takes one that is there with --if-not-exists", function()
    local topic = kafka.name "once"
    local made = run("topics", "create", topic, "--partitions", "3", "--if-not-exists")
    assert.same({ 0, ("created %s with 3 partitions\n"):format(topic) }, { made.code, made.stdout })
    assert.equal(5, run("topics", "create", topic).code)
    made = run("topics", "create", topic, "--if-not-exists", "--json")
    assert.same({ topic = topic, partitions = 3, created = false }, cjson.decode(made.stdout))
    assert.equal(0, made.code)
  end)

  it("describes and reads a topic that was made a moment ago", function()
    for _ = 1, 5 do
      local topic = kafka.name "young"
      assert.equal(0, run("topics", "create", topic, "--partitions", "3").code)
      local result = run("topics", "describe", topic, "--json")
      assert.equal("", result.stderr)
      assert.equal(3, #cjson.decode(result.stdout).partitions)
      topic = kafka.name "younger"
      assert.equal(0, run("topics", "create", topic).code)
      result = run("tail", "--topic", topic)
      assert.same({ 0, "", "" }, { result.code, result.stdout, result.stderr })
    end
  end)
end)
