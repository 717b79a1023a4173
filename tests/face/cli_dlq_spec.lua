-- `moonbus dlq` on letters that kcat wrote: no group has to be joined for them.
local cjson = require "cjson"
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"

local UUID = "00000000-0000-4000-8000-%012d"

describe("moonbus dlq", function()
  local broker, address

  setup(function()
    local words = { "broker" }
    for _, name in ipairs { "look", "put", "dry", "slow", "to", "bad", "file" } do
      for _, each in ipairs { name .. ".stream:1", name .. ".stream.dlq:1" } do
        words[#words + 1] = "--topic"
        words[#words + 1] = each
      end
    end
    broker = process.start(process.moonbus(unpack(words)))
    address = broker:wait_for(function(p) return p.stdout:match "^(%S+)\n" end)
  end)

  teardown(function()
    local ended = broker:stop()
    process.clean()
    tmp.clean()
    assert.equal(0, ended.code)
  end)

  local function env(prefix)
    return { env = { MOONBUS_BOOTSTRAP_SERVERS = address, MOONBUS_TOPIC_PREFIX = prefix } }
  end

  local function dlq(prefix, ...)
    return process.run(process.moonbus("dlq", ...), env(prefix))
  end

  -- A dead letter of event n, by default with a key of its own.
  local function letter(prefix, n, more)
    more = more or {}
    local headers = {
      "event_id=" .. UUID:format(1000 + n), "event_type=" .. (more.type or "Tick"),
      "dlq_reason=" .. (more.reason or "max_retries_exceeded"), "dlq_error_type=LuaError",
      "dlq_error_message=no room for " .. n, "dlq_retry_count=3",
      ("dlq_timestamp=2026-01-02T03:00:%02d+00:00"):format(n),
      "dlq_original_topic=" .. prefix .. ".stream", "dlq_original_partition=0",
      ("dlq_original_offset=%d"):format(100 - n), "dlq_consumer_group=tickers",
    }
    for _, each in ipairs(more.headers or {}) do headers[#headers + 1] = each end
    local words = { "kcat", "-P", "-q", "-b", address, "-t", prefix .. ".stream.dlq", "-p", "0",
      "-k", more.key or UUID:format(n) }
    for _, each in ipairs(headers) do
      words[#words + 1] = "-H"
      words[#words + 1] = each
    end
    words[#words + 1] = tmp.file("value", more.value or ('{"event_type":"%s","n":%d}')
      :format(more.type or "Tick", n))
    local result = process.run(words)
    assert.equal(0, result.code, result.stderr)
  end

  -- What stands on a topic, headers as a map.
  local function records(topic)
    local result = process.run { "kcat", "-C", "-q", "-J", "-e", "-o", "beginning", "-b", address,
      "-t", topic }
    local list = {}
    for line in result.stdout:gmatch "[^\n]+" do
      local record = cjson.decode(line)
      local headers = {}
      for i = 1, #(record.headers or {}), 2 do
        headers[record.headers[i]] = record.headers[i + 1]
      end
      record.headers = headers
      list[#list + 1] = record
    end
    return list
  end

  local function fails(status, pattern, result)
    assert.equal(status, result.code, result.stderr)
    assert.matches("^moonbus: " .. pattern, result.stderr)
    assert.not_matches("traceback", result.stderr)
  end

  describe("looking", function()
    setup(function()
      letter("look", 1)
      letter("look", 2, { type = "Tock", reason = "handler_rejected",
        headers = { "dlq_traceback=stack traceback:\n\tx.lua:1: in main" } })
      letter("look", 3, { value = "\1\2\255", key = "k\255",
        headers = { "twice=a", "twice=b", "raw=\255\254", "nothing" } })
    end)

    local function numbers(...)
      local result = dlq("look", "list", "--json", ...)
      assert.equal(0, result.code, result.stderr)
      local list = {}
      for line in result.stdout:gmatch "[^\n]+" do
        list[#list + 1] = tonumber(cjson.decode(line).headers.dlq_error_message:match "%d+")
      end
      return table.concat(list, " ")
    end

    it("lists and counts what the flags choose", function()
      assert.equal("1 2 3", numbers())
      assert.equal("2", numbers("--type", "Tock"))
      assert.equal("1", numbers("--key", UUID:format(1)))
      assert.equal("2", numbers("--reason", "handler_rejected"))
      assert.equal("1 2 3", numbers("--error-type", "LuaError", "--failed-group", "tickers"))
      assert.equal("", numbers("--failed-group", "others"))
      assert.equal("2 3", numbers("--since", "2026-01-02T03:00:02Z"))
      assert.equal("1", numbers("--until", "2026-01-02T03:00:02Z"))
      assert.equal("", numbers("--since", "2h", "--until", "1767322801"))
      assert.equal("2 3", numbers("--partition", "0", "--offset", "1-2"))
      assert.equal("3", numbers("--offset", "2-"))
      assert.equal("2 3", numbers("--original-partition", "0", "--original-offset=-98"))
      assert.equal("2", numbers("--since", "2026-01-02T03:00:02Z", "--limit", "1"))
      assert.equal("3\n", dlq("look", "count").stdout)
      assert.equal("1\n", dlq("look", "count", "--type", "Tock").stdout)
      assert.same({ topic = "look.stream.dlq", count = 2 },
        cjson.decode(dlq("look", "count", "--json", "--type", "Tick").stdout))
    end)

    it("shows one in full", function()
      local page = dlq("look", "show", "--partition", "0", "--offset", "1").stdout
      assert.matches("^look.stream.dlq%[0%]@1 2026%-01%-02T03:00:02%+00:00 Tock handler_rejected "
        .. "LuaError: no room for 2 %(from look.stream%[0%]@%d+, attempts 4, replayed 0%)\n", page)
      assert.matches("\nkey\n  " .. UUID:format(2), page, 1, true)
      assert.matches("\nheaders\n  event_id: " .. UUID:format(1002) .. "\n  event_type: Tock\n",
        page, 1, true)
      assert.matches('\nvalue\n  {\n    "event_type": "Tock",\n    "n": 2\n  }\n', page, 1, true)
      assert.matches("\ntraceback\n  stack traceback:\n    x.lua:1: in main\n$", page)
      page = dlq("look", "show", "--partition", "0", "--offset", "2").stdout
      assert.matches("key\n  0x6bff\n", page, 1, true)
      assert.matches("  twice: a\n  twice: b\n  raw: 0xfffe\n  nothing: (null)\nvalue\n"
        .. "  0x0102ff\n", page, 1, true)
      assert.equal("Tick", cjson.decode(dlq("look", "show", "--partition", "0", "--offset", "0",
        "--json").stdout).headers.event_type)
      fails(1, "ENOENT: no dead letter at look.stream.dlq%[0%] offset 9",
        dlq("look", "show", "--partition", "0", "--offset", "9"))
      fails(2, "EINVAL: %-%-partition and %-%-offset", dlq("look", "show", "--partition", "0"))
      fails(2, "EINVAL: %-%-partition and %-%-offset",
        dlq("look", "show", "--partition", "0", "--offset", "0-1"))
    end)

    it("exports them without losing a byte", function()
      local path = tmp.dir() .. "/letters.jsonl"
      local result = dlq("look", "export", "--output", path)
      assert.same({ 0, "", "exported 3 dead letters of look.stream.dlq to " .. path .. "\n" },
        { result.code, result.stdout, result.stderr })
      local file = assert(io.open(path, "rb"))
      local text = file:read "*a"
      file:close()
      assert.equal(text, dlq("look", "export").stdout)
      local list = {}
      for line in text:gmatch "[^\n]+" do list[#list + 1] = cjson.decode(line) end
      assert.equal(3, #list)
      assert.same({ "look.stream.dlq", 0, 0, UUID:format(1), '{"event_type":"Tick","n":1}' },
        { list[1].topic, list[1].partition, list[1].offset, list[1].key, list[1].value })
      assert.same({ "event_id", UUID:format(1001) }, list[1].headers[1])
      assert.same({ { base64 = "a/8=" }, { base64 = "AQL/" } }, { list[3].key, list[3].value })
      local headers = list[3].headers
      assert.same({ { "twice", "a" }, { "twice", "b" }, { "raw", { base64 = "//4=" } },
        { "nothing", cjson.null } }, { unpack(headers, #headers - 3) })
      assert.equal(1, select(2, dlq("look", "export", "--type", "Tock").stdout:gsub("\n", "")))
      fails(6, "EIO: cannot write /nowhere/x", dlq("look", "export", "-o", "/nowhere/x"))
    end)

    it("says what is wrong with a flag", function()
      fails(2, "EINVAL: %-%-since 'soon': expected a time", dlq("look", "list", "--since", "soon"))
      fails(2, "EINVAL: %-%-offset 'x': expected an offset", dlq("look", "list", "--offset", "x"))
      fails(2, "EINVAL: %-%-rate '0': expected a number above 0",
        dlq("look", "replay", "--all", "--rate", "0"))
      fails(2, "EINVAL: .*%-%-all", dlq("look", "replay"))
      fails(2, "EINVAL: .*%-%-group", dlq("look", "replay", "--all", "--group", "a",
        "--only-failed-group"))
    end)
  end)

  describe("replay", function()
    it("puts back what the flags choose, in the original order, and not twice", function()
      for n = 1, 5 do letter("put", n, { key = UUID:format(1), type = n == 3 and "Tock" }) end
      local result = dlq("put", "replay", "--type", "Tick", "--limit", "3")
      assert.same({ 0, "replayed 3 to put.stream, 1 skipped, more are left\n", "" },
        { result.code, result.stdout, result.stderr })
      result = dlq("put", "replay", "--all", "--only-failed-group", "--json")
      assert.same({ topic = "put.stream", replayed = 2, refused = 0, failed = 0, skipped = 3,
        more = false, stopped = false, dry_run = false }, cjson.decode(result.stdout))
      local order, groups = {}, {}
      for i, record in ipairs(records "put.stream") do
        order[i] = cjson.decode(record.payload).n
        groups[i] = record.headers.replay_group or "all"
        assert.equal("1", record.headers.dlq_replay_count)
      end
      -- the offsets of the originals fall where n rises
      assert.same({ 5, 4, 2, 3, 1 }, order)
      assert.same({ "all", "all", "all", "tickers", "tickers" }, groups)
      assert.equal("replayed 0 to put.stream, 5 skipped\n", dlq("put", "replay", "--all").stdout)
    end)

    it("reports with --dry-run what it would do, and does nothing", function()
      for n = 1, 3 do letter("dry", n, { type = n == 3 and "Tock" }) end
      assert.equal(0, dlq("dry", "replay", "--partition", "0", "--offset", "0").code)
      local limited = { "--set", "dlq_max_replay_attempts=1" }
      local result = dlq("dry", "replay", "--type", "Tick", "--dry-run", "--again", unpack(limited))
      assert.equal(0, result.code, result.stderr)
      assert.matches("dry.stream.dlq[0]@0 Tick " .. UUID:format(1)
        .. " would be refused: replayed 1 times already", result.stdout, 1, true)
      assert.matches("dry.stream.dlq[0]@1 Tick " .. UUID:format(2) .. " would be replayed\n",
        result.stdout, 1, true)
      assert.matches("dry.stream.dlq[0]@2 Tock " .. UUID:format(3)
        .. " would be skipped: left out by event_type\n", result.stdout, 1, true)
      assert.matches("\nwould replay 1 to dry.stream, 1 refused, 1 skipped\n$", result.stdout)
      local json = cjson.decode(dlq("dry", "replay", "--all", "--dry-run", "--json").stdout)
      assert.same({ 3, 2, true }, { #json.letters, json.replayed, json.dry_run })
      assert.equal(1, #records "dry.stream")
      result = dlq("dry", "replay", "--partition", "0", "--offset", "0", unpack(limited))
      fails(1, "EREPLAY: replayed 1 times already .*%(dry.stream.dlq%[0%]@0%)\n", result)
      assert.equal("replayed 0 to dry.stream, 1 refused\n", result.stdout)
      assert.equal("replayed 1 to dry.stream\n", dlq("dry", "replay", "--partition", "0",
        "--offset", "0", "--force", unpack(limited)).stdout)
    end)

    it("goes to another topic, or says why it cannot", function()
      letter("to", 1)
      local result = dlq("to", "replay", "--all", "--to", "to.other", "--group", "one")
      assert.same({ 0, "replayed 1 to to.other\n" }, { result.code, result.stdout })
      assert.equal("one", records("to.other")[1].headers.replay_group)
      assert.equal(0, #records "to.stream")
      fails(5, "ETOPIC: \"to/x\" is not a legal topic name",
        dlq("to", "replay", "--all", "--to", "to/x"))
      fails(2, "EINVAL: dead letters cannot be replayed to their own topic",
        dlq("to", "replay", "--all", "--to", "to.stream.dlq"))
    end)

    it("reports one that cannot be put back, and goes on", function()
      letter("bad", 1, { headers = { "dlq_value_omitted_bytes=5000" } })
      letter("bad", 2)
      local result = dlq("bad", "replay", "--all")
      fails(1, "ENOENT: the dead letter points to a record that the topic no longer holds "
        .. "%(bad.stream.dlq%[0%]@0%)\n", result)
      assert.equal("replayed 1 to bad.stream, 1 failed\n", result.stdout)
    end)

    it("keeps to its rate, and ends between two events at SIGINT", function()
      for n = 1, 4 do letter("slow", n) end
      local begin = process.now()
      assert.equal("replayed 3 to slow.stream, more are left\n", dlq("slow", "replay", "--all",
        "--limit", "3", "--rate", "5").stdout)
      assert(process.now() - begin >= 0.4, "too fast")
      local slow = process.start(process.moonbus("dlq", "replay", "--all", "--again", "--rate",
        "0.01"), env "slow")
      slow:wait_for(function() return #records "slow.stream" == 4 end)
      local ended = slow:stop(process.SIGINT, 60)
      assert.same({ 0, "replayed 1 to slow.stream, interrupted\n" }, { ended.code, ended.stdout })
      assert.equal(4, #records "slow.stream")
    end)

    it("takes the options of a script's bus", function()
      letter("file", 1)
      local path = tmp.file("bus.lua", [[
local moonbus = require "moonbus"
local bus = moonbus.bus { topic_prefix = "file", dlq_max_replay_attempts = 0 }
bus:subscribe("Tick", function() end)
print "loaded"
assert(bus:connect())
bus:start_consuming()
]])
      local function on(...)
        return process.run(process.moonbus("dlq", ...), { env = {
          MOONBUS_BOOTSTRAP_SERVERS = address } })
      end
      local result = on("count", path)
      assert.same({ 0, "1\n", "loaded\n" }, { result.code, result.stdout, result.stderr })
      assert.equal(1, on("replay", path, "--all").code)
      local two = tmp.file("two.lua", [[
local moonbus = require "moonbus"
moonbus.bus { topic_prefix = "file" }
moonbus.bus { topic_prefix = "look" }
]])
      fails(2, "EINVAL: .*several buses %(file.stream, look.stream%)", on("list", two))
      assert.equal("1\n", on("count", two, "--topic-prefix", "file").stdout)
      fails(2, "EINVAL: .* makes no bus", on("list", tmp.file("none.lua", "")))
      fails(3, "ESCRIPT: .*nonsense", on("list", tmp.file("wrong.lua", "nonsense()")))
    end)
  end)
end)
