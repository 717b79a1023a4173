-- The commands that end by themselves: what they print, and their exit codes.
local cjson = require "cjson"
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"

local UUID = "00000000-0000-4000-8000-%012d"
local TICK = '{"event_type":"Tick","aggregate_type":"Clock","aggregate_id":"%s","n":%d}'

describe("the command line", function()
  local broker, address

  setup(function()
    broker = process.start(process.moonbus("broker", "--topic", "made.stream:2"))
    address = broker:wait_for(function(p) return p.stdout:match "^(%S+)\n" end)
  end)

  teardown(function()
    local ended = broker:stop()
    process.clean()
    tmp.clean()
    assert.equal(0, ended.code)
    assert.equal(address .. "\n", ended.stdout)
  end)

  local function moonbus(...)
    return process.run(process.moonbus(...))
  end

  -- With the address of the broker, and a topic prefix of one's own first.
  local function on(prefix, ...)
    return process.run(process.moonbus(...), { env = {
      MOONBUS_BOOTSTRAP_SERVERS = address, MOONBUS_TOPIC_PREFIX = prefix,
    } })
  end

  local function publish(prefix, input, ...)
    return process.run(process.moonbus("publish", "-", "--topic-prefix", prefix,
      "--bootstrap-servers", address, ...), { input = input })
  end

  local function events(from, to)
    local list = {}
    for i = from, to do
      list[#list + 1] = TICK:format(UUID:format(i), i)
    end
    return table.concat(list, "\n")
  end

  local function records(result)
    local list = {}
    for line in result.stdout:gmatch "[^\n]+" do list[#list + 1] = cjson.decode(line) end
    return list
  end

  local function fails(status, pattern, result)
    assert.equal(status, result.code, result.stderr)
    assert.matches("^moonbus: " .. pattern, result.stderr)
    assert.not_matches("traceback", result.stderr)
    assert.equal("", result.stdout)
  end

  describe("usage", function()
    it("is explained by --help, with the exit codes", function()
      local result = moonbus("--help")
      assert.equal(0, result.code)
      assert.matches("publish", result.stdout)
      assert.matches("Exit codes:.*\n   0 .*\n   4  no broker.*\n  70 ", result.stdout)
      for _, command in ipairs { "run", "check", "publish", "tail", "topics", "dlq", "projections",
        "rebuild", "broker",
        "version", "completion" } do
        local help = moonbus(command, "--help")
        assert.equal(0, help.code)
        assert.matches("^Usage: moonbus " .. command, help.stdout)
      end
    end)

    it("ends with 2 when it is wrong, and says what would be right", function()
      fails(2, "EINVAL: a command is required; see: moonbus %-%-help", moonbus())
      fails(2, "EINVAL: unknown command 'tial'; Did you mean 'tail'%?", moonbus "tial")
      fails(2, "EINVAL: unknown option '%-%-limt'; Did you mean", moonbus("tail", "--limt", "3"))
      fails(2, "EINVAL: %-%-limit 'x': expected an integer of at least 0",
        moonbus("tail", "--limit", "x"))
      fails(2, "EINVAL: unknown option '%-1'; a value that begins with %- is given as "
        .. "%-%-option=%-1; see: moonbus dlq list %-%-help\n",
        moonbus("dlq", "list", "--limit", "-1"))
      fails(2, "EINVAL: %-%-workers '0': expected an integer from 1 to 256",
        moonbus("run", "--workers", "0", "x.lua"))
      fails(2, "EINVAL: %-%-for '%-1': expected a number of seconds",
        moonbus("run", "--for=-1", "x.lua"))
      fails(2, "ECONFIG: %-%-set unknown option \"topic_prefx\".*topic_prefix",
        moonbus("tail", "--set", "topic_prefx=a"))
      fails(2, "ECONFIG: %-%-set max_retries: \"many\" is not an integer",
        moonbus("tail", "--set", "max_retries=many"))
      fails(2, "ECONFIG: %-%-set ", moonbus("tail", "--set", "no.such.property=1"))
      fails(2, "EINVAL: expected %-%-type of an event", moonbus "publish")
      fails(2, "EINVAL: %-%-data describes one event", moonbus("publish", "-", "--data", "{}"))
      fails(2, "EINVAL: %-%-data '%[1%]': expected a JSON object",
        moonbus("publish", "--data", "[1]"))
      fails(6, "EIO: cannot open /nowhere/x: No such file", moonbus("publish", "/nowhere/x"))
      fails(2, "ECONFIG: .*MOONBUS_MAX_RETRIES", process.run(process.moonbus("dlq", "count"),
        { env = { MOONBUS_MAX_RETRIES = "-1" } }))
    end)

    it("ends with 4 when no broker answers", function()
      fails(4, "ECONNECT: no broker answers at 127.0.0.1:1",
        moonbus("topics", "describe", "a.stream", "--bootstrap-servers", "127.0.0.1:1"))
    end)
  end)

  it("prints versions", function()
    local result = cjson.decode(moonbus("version", "--json").stdout)
    assert.equal("moonbus " .. result.moonbus .. "\n", moonbus("--version").stdout)
    assert.matches("^%d+%.%d+%.%d+", result.librdkafka)
    assert.matches("^LuaJIT 2", result.luajit)
    assert.is_true(#result.features > 3)
    assert.matches("librdkafka " .. result.librdkafka, moonbus("version").stdout, 1, true)
  end)

  it("completes in shells", function()
    assert.matches("complete %-F _moonbus", moonbus("completion", "bash").stdout)
    assert.matches("#compdef moonbus", moonbus("completion", "zsh").stdout)
    assert.matches("complete %-c moonbus", moonbus("completion", "fish").stdout)
  end)

  it("is a Lua function too", function()
    local file = assert(io.open(tmp.file("said", ""), "w+"))
    io.output(file)
    local code = require "moonbus.cli".main { [0] = "moonbus", "completion", "bash" }
    io.output(io.stdout)
    file:seek "set"
    assert.same({ 0, moonbus("completion", "bash").stdout }, { code, file:read "*a" })
    file:close()
  end)

  describe("publish", function()
    it("sends one event described by flags, its fields as they were written", function()
      local result = on("flags", "publish", "--type", "OrderPlaced", "--aggregate-type", "Order",
        "--aggregate-id", UUID:format(7), "--data", '{"total": 1.50, "tags": []}',
        "--field", "n=12345678901234567890", "--field", "who=C-1", "--field", "s=x=y",
        "--metadata", '{"source":"cli"}', "--tenant-id", UUID:format(1), "--actor-id", "u1",
        "--correlation-id", UUID:format(2), "--causation-id", UUID:format(3),
        "--aggregate-version", "4", "--json")
      assert.equal(0, result.code, result.stderr)
      assert.equal(1, cjson.decode(result.stdout).published)
      local tail = on("flags", "tail", "--json")
      assert.matches('"total":1.50,"tags":[],"n":12345678901234567890,"who":"C-1","s":"x=y"}',
        tail.stdout, 1, true)
      local record = records(tail)[1]
      assert.equal("flags.stream", record.topic)
      assert.equal(UUID:format(7), record.key)
      assert.equal("json", record.encoding)
      assert.equal("OrderPlaced", record.headers.event_type)
      local value = record.value
      assert.same({ UUID:format(1), "u1", UUID:format(2), UUID:format(3), 4, "cli" }, {
        value.tenant_id, value.actor_id, value.correlation_id, value.causation_id,
        value.aggregate_version, value.metadata.source,
      })
    end)

    it("sends JSON lines from stdin, the last one without its newline too", function()
      local result = publish("lines", "\239\187\191\n" .. events(1, 2500) .. "\n\n  \n"
        .. events(2501, 2501), "--batch", "400")
      assert.equal(0, result.code, result.stderr)
      assert.matches("^published 2501 events to lines.stream in %d+%.%d s\n$", result.stderr)
      assert.equal(2501, #records(on("lines", "tail", "--json")))
    end)

    it("sends lines as they come", function()
      local slow = process.start(process.moonbus("publish", "-", "--topic-prefix", "slow",
        "--bootstrap-servers", address), { input = events(1, 1) .. "\n", keep_open = true })
      local follow = process.start(process.moonbus("tail", "-f", "--limit", "2", "--topic-prefix",
        "slow", "--bootstrap-servers", address))
      follow:wait_for("Tick " .. UUID:format(1))
      slow:write(events(2, 2) .. "\n")
      assert.equal(0, follow:wait().code)
      assert.matches("Tick " .. UUID:format(2):gsub("%-", "%%-"), follow.stdout)
      local ended = slow:stop(process.SIGINT)
      assert.equal(0, ended.code)
      assert.matches("published 2 events to slow.stream in .* s, interrupted\n", ended.stderr)
    end)

    it("stops at a wrong line, everything before it sent", function()
      local bad = events(1, 3) .. "\n\n{wrong\n" .. events(4, 4)
      local result = publish("stop", bad)
      assert.equal(1, result.code)
      assert.matches("^moonbus: EDECODE: line 5: not a JSON object: [^\n]+\n", result.stderr)
      assert.matches("published 3 events to stop.stream in .*, 1 wrong line, 1 not tried\n",
        result.stderr)
      assert.equal(3, #records(on("stop", "tail", "--json")))
    end)

    it("accounts for every line of a file after a stop, within a batch and past it", function()
      for _, batch in ipairs { "2", "20000" } do
        local path = tmp.file("lines", events(1, 50) .. "\n{wrong\n\n" .. events(51, 300))
        local result = on("account" .. batch, "publish", path, "--json", "--batch", batch)
        assert.equal(1, result.code)
        local sum = cjson.decode(result.stdout)
        assert.same({ 50, 1, 0, 250 }, { sum.published, sum.bad_lines, sum.failed, sum.not_tried })
        assert.equal(50, #records(on("account" .. batch, "tail", "--json")))
      end
    end)

    it("goes on after wrong lines with --skip-bad, and counts them", function()
      local result = publish("skip", table.concat({
        events(1, 1), "[1]", '{"event_type":"Tick"}', events(2, 2), '{"n":\255}', events(3, 3),
      }, "\n"), "--skip-bad", "--json")
      assert.equal(1, result.code)
      local sum = cjson.decode(result.stdout)
      assert.same({ 3, 3, 0 }, { sum.published, sum.bad_lines, sum.failed })
      for _, line in ipairs { 2, 3, 5 } do assert.matches("line " .. line, result.stderr) end
      assert.equal(3, #records(on("skip", "tail", "--json")))
    end)

    it("reports an event the broker would not take", function()
      local refused = "^moonbus: EDELIVERY: line 2: not delivered: Message size too large; "
        .. "message_max_bytes[^\n]*\n"
      local big = events(1, 1):gsub('"n":1', '"n":"' .. ("x"):rep(1100000) .. '"')
      local input = events(2, 2) .. "\n" .. big .. "\n" .. events(3, 4) .. "\n" .. big .. "\n"
      local result = publish("big", input, "--skip-bad")
      assert.equal(1, result.code)
      assert.matches(refused
        .. "moonbus: EDELIVERY: line 5: [^\n]*\npublished 3 events to big.stream in %d+.%d s, "
        .. "2 not delivered\n$", result.stderr)
      assert.equal(1, publish("large", input).code)
      assert.equal(1, #records(on("large", "tail", "--json")))
    end)
  end)

  describe("tail", function()
    setup(function() publish("tail", events(1, 40)) end)

    it("ends at the present end, and earlier with --limit", function()
      assert.equal(40, #records(on("tail", "tail", "--json")))
      assert.equal(3, #records(on("tail", "tail", "--limit", "3", "--json")))
      assert.equal("", on("tail", "tail", "--limit", "0").stdout)
    end)

    it("begins where --from says", function()
      assert.equal("", on("tail", "tail", "--from", "end").stdout)
      local last = records(on("tail", "tail", "--from", "last:1", "--json"))
      assert.is_true(#last >= 1 and #last <= 4)
      local one = records(on("tail", "tail", "--partition", "1", "--from", "last:2", "--json"))
      assert.equal(2, #one)
      assert.equal(one[1].offset + 1, one[2].offset)
    end)

    it("prints a line per record, of one type if asked to", function()
      local text = on("x", "tail", "--topic", "tail.stream", "--type", "Tick", "--limit",
        "1").stdout
      assert.matches("^tail.stream%[%d%]@0 %d+%-%d+%-%d+T[%d:]+%.%d%d%dZ Tick 0000[%x-]+ n=%d+\n$",
        text)
      assert.equal("", on("tail", "tail", "--type", "Tock").stdout)
    end)

    it("shows what is no event as it is", function()
      local function kcat(...)
        local words = { "kcat", "-P", "-b", address, "-t", "odd.stream", "-p", "0", ... }
        return assert.equal(0, process.run(words, { input = "\255\1" }).code)
      end
      kcat()
      kcat("-k", "k\27[31m", tmp.file("text", "plain\27[0m"))
      kcat("-k", "k", "-H", "h=1", tmp.file("json", '{\n"a": [1,\n2]}'))
      kcat("-k", "k", "-H", "event_type=\155\255é", tmp.file("c1", '{"a\194\155":"é\194\1551m"}'))
      local list = records(on("odd", "tail", "--json"))
      assert.same({ "ff01", "hex", cjson.null }, { list[1].value, list[1].encoding, list[1].key })
      assert.same({ "plain\27[0m", "text" }, { list[2].value, list[2].encoding })
      assert.same({ { a = { 1, 2 } }, { h = "1" } }, { list[3].value, list[3].headers })
      local text = on("odd", "tail").stdout
      assert.matches(" 0xff01\n", text, 1, true)
      assert.matches("k\\x1b[31m plain\\x1b[0m\n", text, 1, true)
      assert.matches('\\x9b\\xff\\xc3\\xa9 k a\\u009b="é\\u009b1m"\n', text, 1, true)
    end)

    it("follows until it is interrupted", function()
      local follow = process.start(process.moonbus("tail", "-f", "--json", "--topic-prefix", "tail",
        "--bootstrap-servers", address))
      follow:wait_for(function(p) return select(2, p.stdout:gsub("\n", "")) == 40 end)
      assert.equal(0, follow:stop(process.SIGINT).code)
      assert.equal("", follow.stderr)
    end)

    it("ends quietly when its reader goes away", function()
      local result = process.run({ "bash", "-c", table.concat(process.moonbus("tail",
        "--topic-prefix", "tail", "--bootstrap-servers", address, "--json"), " ")
        .. " | head -n 1; exit ${PIPESTATUS[0]}" })
      assert.same({ 0, 1, "" }, { result.code, #records(result), result.stderr })
    end)
  end)

  describe("a stdout that takes nothing", function()
    local function shell(words, redirection)
      return process.run { "bash", "-c", table.concat(process.moonbus(unpack(words)), " ")
        .. redirection }
    end

    it("is an error of its own, whether the disk is full or it is closed", function()
      publish("full", events(1, 500))
      local place = { "--topic-prefix", "full", "--bootstrap-servers", address }
      for _, words in ipairs {
        { "version" }, { "--help" }, { "completion", "bash" }, { "tail", "--json", unpack(place) },
        { "tail", "--limit", "1", unpack(place) }, { "dlq", "count", unpack(place) }, { "broker" },
      } do
        for _, redirection in ipairs { " >/dev/full", " >&-" } do
          local result = shell(words, redirection)
          assert.equal(6, result.code, table.concat(words, " ") .. redirection)
          assert.matches("^moonbus: EIO: [^\n]+\n$", result.stderr)
        end
      end
    end)

    it("keeps an exit code that reports something else", function()
      assert.equal(3, shell({ "check", tmp.file("bad.lua", "("), "--json" }, " >/dev/full").code)
    end)

    it("does not let what is printed into another file", function()
      local script = tmp.file("files.lua", 'local f = io.open(arg[0] .. ".out", "w") print "lost"\n'
        .. 'f:write "kept" f:close()')
      assert.equal(6, shell({ "run", script }, " <&- >&- 2>/dev/null").code)
      assert.equal("kept", io.open(script .. ".out"):read "*a")
    end)
  end)

  describe("topics", function()
    it("describes partitions and offsets", function()
      local made = cjson.decode(on("x", "topics", "describe", "made.stream", "--json").stdout)
      assert.same({ topic = "made.stream", partitions = {
        { partition = 0, low = 0, high = 0 }, { partition = 1, low = 0, high = 0 },
      } }, made)
      assert.matches("made.stream: 2 partitions\n", on("x", "topics", "describe",
        "made.stream").stdout)
    end)

    it("of the embedded broker have names that a real one would take", function()
      local result = process.run(process.moonbus("broker", "--topic", "a b"))
      fails(5, "ETOPIC: topic: a topic name has only letters", result)
    end)

    it("says that the embedded broker makes topics by itself", function()
      fails(5, "EUNSUPPORTED: .*moonbus broker %-%-topic new.stream:4",
        on("x", "topics", "create", "new.stream"))
    end)
  end)
end)
