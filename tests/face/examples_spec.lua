-- Every example runs, and prints what its first lines promise. They wait for groups to be joined
-- most of the time, so all run at once, each on an embedded broker of its own.
local moonbus = require "moonbus"
local process = require "tests.support.process"

local source = assert(os.getenv "MOONBUS_SOURCE", "MOONBUS_SOURCE is not set")
local examples = source .. "/examples/"
local kafka = os.getenv "MOONBUS_TEST_KAFKA"

local SECONDS = 120
local UUID = "%x+%-%x+%-%x+%-%x+%-%x+"

local LUAJIT = {
  "tutorial/complete", "tutorial/configuration", "tutorial/connecting", "tutorial/consuming",
  "tutorial/dlq", "tutorial/handlers", "tutorial/idempotent", "tutorial/publishing",
  "tutorial/statistics", "exercises/18-1/starter", "exercises/18-1/solution", "embed/handlers",
}

-- Those that go on until they are stopped.
local UNTIL_IDLE = { "patterns/dedup", "patterns/natural", "patterns/versions" }

local function not_on_kafka(name)
  local what = ("MOONBUS_TEST_KAFKA is not set: %s was not run on a real Kafka"):format(name)
  if os.getenv "CI" then error(what, 0) end
  pending(what)
end

-- Paths below examples/ that match one of the shell's patterns.
local function files(...)
  local patterns = table.concat({ ... }, " ")
  local list = process.run({ "sh", "-c",
    ("cd '%s' && ls %s 2>/dev/null"):format(examples, patterns) }).stdout
  local paths = {}
  for path in list:gmatch "[^\n]+" do paths[#paths + 1] = path end
  return paths
end

local function has_lines(text, lines)
  for _, line in ipairs(lines) do
    assert(("\n" .. text):find("\n" .. line .. "\n", 1, true),
      ("the line %q is missing in:\n%s"):format(line, text))
  end
end

local function number(text, pattern)
  return tonumber(text:match(pattern) or error(pattern .. " is missing in:\n" .. text, 2))
end

describe("examples", function()
  local runs = {
    orders = "face/orders_spec.lua", ["tutorial/security"] = "kafka/security_spec.lua",
  }

  setup(function()
    for _, name in ipairs(LUAJIT) do
      runs[name] = process.start { "luajit", examples .. name .. ".lua" }
    end
    local program = process.moonbus
    runs.quickstart = process.start(program("run", examples .. "quickstart.lua", "--embedded",
      "--until-idle", "1"))
    for _, name in ipairs(UNTIL_IDLE) do
      runs[name] = process.start(program("run", examples .. name .. ".lua", "--embedded",
        "--until-idle", "2"))
    end
    runs.complete = process.start(program("run", examples .. "tutorial/complete.lua", "--embedded"))
    -- what it prints into a pipe is to be seen at once
    runs.plain = process.start { "luajit", "-e", 'io.stdout:setvbuf "line"',
      examples .. "quickstart.lua" }
  end)

  teardown(process.clean)

  local function output(name)
    local run = runs[name]:wait(SECONDS)
    assert.equal(0, run.code, name .. ":\n" .. run.stdout .. run.stderr)
    return run.stdout
  end

  it("open with what they show, how to run them, and what they print", function()
    local count = 0
    for _, path in ipairs(files("*.lua", "*/*.lua", "*/*/*.lua", "*/*.c", "*.yml")) do
      local file = assert(io.open(examples .. path))
      local head = file:read(900)
      file:close()
      for _, word in ipairs { "shows", "run", "prints" } do
        assert(head:find("\n[-%s#*]*" .. word .. "%s%s") or head:find("^# *" .. word .. " "),
          path .. " does not say what it " .. word)
      end
      count = count + 1
    end
    assert(count >= 15, "only " .. count .. " examples were found")
  end)

  it("are all run by this spec", function()
    for _, path in ipairs(files("*.lua", "*/*.lua", "*/*/*.lua")) do
      local name = path:gsub("%.lua$", ""):gsub("^orders/.*", "orders") -- it has a spec of its own
      assert(runs[name], path .. " is run by nobody")
    end
  end)

  it("pass moonbus check", function()
    for _, path in ipairs(files("*.lua", "*/*.lua", "*/*/*.lua")) do
      local run = process.run(process.moonbus("check", examples .. path))
      assert(path:find "_spec.lua$" or run.code == 0 and run.stdout:find "ok[^\n]*\n$",
        path .. ": " .. run.stderr .. run.stdout)
    end
  end)

  describe("quickstart.lua", function()
    local function check(text)
      local partition = number(text,
        "published OrderPlaced: orders%.stream, partition (%d), offset 0\n")
      assert(partition < 4)
      assert(text:find("order " .. UUID .. " by CUST%-001: %$99%.99\n"), text)
    end

    it("runs under moonbus run", function()
      check(output "quickstart")
    end)

    it("runs under luajit until it is interrupted", function()
      runs.plain:wait_for(function(run) return run.stdout:find("$99.99", 1, true) end, SECONDS)
      runs.plain:stop(process.SIGINT)
      check(runs.plain.stdout)
    end)

    it("runs on a real Kafka", function()
      if not kafka then return not_on_kafka "quickstart.lua" end
      local prefix = "face-examples-" .. moonbus.uuid()
      local made = process.run(process.moonbus("topics", "create", prefix .. ".stream",
        "--partitions", "4", "--bootstrap-servers", kafka))
      assert.equal(0, made.code, made.stderr)
      local run = process.run(process.moonbus("run", examples .. "quickstart.lua",
        "--bootstrap-servers", kafka, "--topic-prefix", prefix, "--until-idle", "3"),
        { timeout = SECONDS })
      assert.equal(0, run.code, run.stderr)
      assert(run.stdout:find("published OrderPlaced: " .. prefix .. ".stream, partition ", 1, true))
      assert(run.stdout:find("by CUST-001: $99.99\n", 1, true), run.stdout)
    end)
  end)

  describe("tutorial/complete.lua", function()
    local function check(text, servers)
      has_lines(text, {
        "Basic Kafka Event Bus", "Bootstrap servers: " .. servers, "Topic: tutorial18.stream",
        "Consumer group: demo-handlers", "Connected: true", "  Published: OrderPlaced",
        "  Published: OrderShipped", "Projection orders: 1", "  Events processed: 2",
        "  Total revenue: $99.99", "Disconnected from Kafka",
        "Consumer Groups", "Topic: tutorial18.groups.stream (4 partitions)",
        "  order-processors: 40 of 40 events handled exactly once",
        "  notifier-1: partitions 0, 1, 2, 3, 40 events",
        "  order-notifications: 40 of 40 events handled exactly once",
        "Event Bus Statistics", "  events_published: 10", "  events_consumed: 0",
        "  messages_sent_to_dlq: 0", "  last_consume_at: never", "  Topic: stats-demo.stream",
        "  Partitions: 4", "  Consumer group: stats-handlers", "  Connected: true",
        "High Throughput Example", "Events received: 1000", "Tutorial complete!",
      })
      assert(text:find("customer CUST%-001, total 99%.99, status shipped, tracking TRACK%-12345\n"))
    end

    local function check_shares(text)
      local seen = {}
      for name, partitions in text:gmatch "  (worker%-%d): partitions ([%d, ]+), %d+ events\n" do
        local count = 0
        for id in partitions:gmatch "%d+" do
          assert(not seen[id], "both workers had partition " .. id)
          seen[id], count = name, count + 1
        end
        assert.equal(2, count)
      end
      assert.equal(40, number(text, "worker%-1: [^\n]*, (%d+) events\n")
        + number(text, "worker%-2: [^\n]*, (%d+) events\n"))
    end

    it("runs under moonbus run", function()
      check(output "complete", "embedded")
      check_shares(output "complete")
    end)

    it("runs under luajit", function()
      check(output "tutorial/complete", "embedded")
      check_shares(output "tutorial/complete")
    end)

    it("runs on a real Kafka", function()
      if not kafka then return not_on_kafka "complete.lua" end
      local run = process.run(process.moonbus("run", examples .. "tutorial/complete.lua",
        "--bootstrap-servers", kafka), { timeout = SECONDS })
      assert.equal(0, run.code, run.stdout .. run.stderr)
      check(run.stdout, kafka)
      check_shares(run.stdout)
    end)

    it("prints a rate that fits its time", function()
      local text = output "tutorial/complete"
      local seconds = number(text, "Published 1000 events in ([%d.]+)s\n")
      local rate = number(text, "Throughput: (%d+) events/sec\n")
      assert(math.abs(1000 / seconds - rate) <= rate * 0.1, rate .. " in " .. seconds)
    end)
  end)

  it("configuration.lua shows every group of options and refuses what is wrong", function()
    local text = output "tutorial/configuration"
    for key, value in pairs {
      topic_name = "myapp.events.stream", dlq_topic_name = "myapp.events.stream.dlq",
      batch_size = "32768", linger_ms = "10", session_timeout_ms = "30000", max_retries = "3",
      sasl_mechanism = "SCRAM-SHA-512", sasl_password = "***",
    } do
      assert.equal(value, text:match("  " .. key .. " +(%S+)\n"), key)
    end
    assert(text:find('unknown option "topic_prefx"; did you mean "topic_prefix"?', 1, true), text)
    local _, mistakes = text:gsub("\n  ECONFIG: ", "")
    assert.equal(5, mistakes)
    assert.equal(#moonbus.options(), number(text, "(%d+) options in all\n"))
  end)

  it("connecting.lua is connected only in between", function()
    local states = {}
    local text = output "tutorial/connecting"
    for state in text:gmatch "connected: (%l+)" do states[#states + 1] = state end
    assert.same({ "false", "true", "false" }, states)
    has_lines(text, { "available: true", "consuming: false", "nobody there: ECONNECT",
      "inside with: true", "published inside with: 1" })
  end)

  it("consuming.lua handles in the foreground, in the background, and for a while", function()
    has_lines(output "tutorial/consuming", {
      "foreground: 3 handled", "background: 5 handled, consuming true", "stopped: consuming false",
      "for a while: 2 handled",
    })
  end)

  it("dlq.lua retries three times, keeps a dead letter, and replays it", function()
    local text = output "tutorial/dlq"
    for attempt = 1, 4 do has_lines(text, { ("attempt %d: no rate for XTS"):format(attempt) }) end
    assert.is_nil(text:find("attempt 5", 1, true))
    has_lines(text, {
      "taken: 10.00 EUR", "taken: 30.00 EUR", "dead letters: 1", "  event type: PaymentTaken",
      "  retries: 3", "  original topic: payments.stream", "  amount: 20", "taken: 20.00 XTS",
      "replayed; payments taken: 3",
    })
    assert(text:find("  error: [^\n]*dlq%.lua:%d+: no rate for XTS\n"), text)
    assert(text:find("attempt 1.*attempt 4.*dead letters: 1.*taken: 20%.00 XTS"), text)
  end)

  it("handlers.lua calls functions, objects, projections and the wildcard", function()
    local text = output "tutorial/handlers"
    has_lines(text, {
      "taken back: true", "handlers: 3 for OrderPlaced, 1 for all",
      "function: order of $99.99, attempt 1", "object: mail to CUST-001",
      "projection: order 0001 of CUST-001 is shipped", "notified 1, audited 2",
      "after truncate: nil",
    })
    assert(text:find("function: .*object: .*audit: OrderPlaced at .*audit: OrderShipped at "), text)
  end)

  it("idempotent.lua counts every event once", function()
    has_lines(output "tutorial/idempotent", {
      "skipping duplicate: 0001", "skipping duplicate: 0002", "skipping duplicate: 0003",
      "by id: 3 processed, 3 skipped, total 60", "by value: balance 60", "by version: total 60",
    })
  end)

  it("publishing.lua sends one, many, in the background, and by key", function()
    local text = output "tutorial/publishing"
    has_lines(text, {
      "batch: 100 events", "background: 1 event queued, then flushed",
      "refused: OrderPlaced.customer_id is missing", "published in all: 106",
    })
    assert(text:find "one: 1 event, partition %d, offset 0\n")
    local orders = 0
    for first, second, foretold in text:gmatch "partitions (%d) and (%d), foretold (%d)\n" do
      assert.equal(first, second)
      assert.equal(first, foretold)
      orders = orders + 1
    end
    assert.equal(2, orders)
  end)

  it("statistics.lua counts what happened", function()
    has_lines(output "tutorial/statistics", {
      "behind: 0 offsets on 4 partitions", "events published: 10", "events consumed: 10",
      "processed well: 9", "processing failed: 1", "handler errors: 1", "retries: 1", "skipped: 1",
      "dead letters: 0", "reconnections: 0", "rebalances: 1",
      "topic: statistics.stream, 4 partitions, group statistics-tutorial, connected true, "
        .. "consuming false",
    })
  end)

  it("patterns/dedup.lua adds up each event once", function()
    has_lines(output "patterns/dedup", { "3 orders, total 60" })
  end)

  it("patterns/natural.lua writes what changes nothing when it is written again", function()
    has_lines(output "patterns/natural", {
      "8 events handled", "orders 3, total 60, shipped 1",
    })
  end)

  it("patterns/versions.lua applies what is next", function()
    has_lines(output "patterns/versions", {
      "3 changes applied",
      "balance 60 at version 3, 1 dead letter: Account 00000000-0000-4000-8000-000000000001: "
        .. "version 5 came, 4 is next and has not come",
    })
  end)

  it("embed/handlers.lua runs by itself", function()
    has_lines(output "embed/handlers", {
      "visit 1 by alice", "visit 2 by bob", "visit 3 by alice", "3 visits",
    })
  end)

  describe("exercise 18-1", function()
    it("has a starter that runs", function()
      has_lines(output "exercises/18-1/starter", {
        "=== Exercise 18-1: High-Throughput Pipeline ===", "Step 4: Throughput metrics:",
      })
    end)

    it("has a solution that takes 1000 readings through Kafka", function()
      local text = output "exercises/18-1/solution"
      has_lines(text, {
        "   Events received: 1000", "   Avg temperature: 24.5C", "   Events published: 1000",
        "   Events consumed: 1000", "=== Exercise Complete! ===",
      })
      assert(number(text, "Published in [%d.]+s %((%d+) events/sec%)\n") > 0)
    end)
  end)
end)
