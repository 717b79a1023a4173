-- Many dead letters put back: which, in which order, how often, to whom, how fast.
local moonbus = require "moonbus"
local support = require "tests.support.bus"
local wait = require "tests.support.wait"

local registry = moonbus.new_registry()
local Placed = moonbus.event("Placed", { aggregate_type = "Order", n = "integer" },
  { registry = registry })
local Paid = moonbus.event("Paid", { aggregate_type = "Order", n = "integer" },
  { registry = registry })

local broker
local bus, other -- of the spec at hand
local ready = {} -- connected and consuming, by what is special about them

-- Groups are slow to join, so all of them do it at once, each bus or pair on a topic of its own.
local NEEDED = { plain = 18, once = 1, twice = 2, pair = 5, once_pair = 1 }
local OPTIONS = { once = { dlq_max_replay_attempts = 1 }, twice = { dlq_max_replay_attempts = 2 },
  once_pair = { dlq_max_replay_attempts = 1 } }

setup(function()
  broker = support.broker()
  local all = {}
  for kind, count in pairs(NEEDED) do
    ready[kind] = {}
    for i = 1, count do
      local options = { event_registry = registry, max_retries = 0 }
      for key, value in pairs(OPTIONS[kind] or {}) do options[key] = value end
      local one, two = broker:bus(options), nil
      all[#all + 1] = one
      if kind:find "pair" then
        two = support.new(broker:options { event_registry = registry,
          topic_prefix = one.config.topic_prefix })
        assert(two:connect())
        all[#all + 1] = two
      end
      ready[kind][i] = { one, two }
    end
  end
  support.consume(unpack(all))
end)

teardown(support.close)

-- A bus nobody used before.
local function new(kind)
  local pair = assert(table.remove(ready[kind or "plain"]), "one more is NEEDED")
  bus, other = pair[1], pair[2]
end

after_each(function()
  bus:disconnect()
  if other then other:disconnect() end
end)

-- ---- what specs do ----

local function settled(body)
  local consumed = bus:get_stats_dict().events_consumed
  local count = body()
  wait.settled(bus, consumed + count)
end

-- Publish events that die. Each is { type, key number, n }.
local function die(...)
  local events = {}
  for i, each in ipairs { ... } do
    events[i] = each[1] { aggregate_id = support.uuid(each[2]), n = each[3] }
  end
  bus:subscribe_to_all_events(function() error("broken", 0) end)
  settled(function()
    assert(bus:publish(events))
    return #events
  end)
  bus:clear_subscribers()
  return events
end

-- What handlers get of a replay, as "type n", and its result.
local function replay(options)
  local got = {}
  bus:subscribe_to_all_events(function(event) got[#got + 1] = event.event_type .. event.n end)
  local result
  settled(function()
    result = assert(bus:replay_dlq(options))
    return result.replayed
  end)
  bus:clear_subscribers()
  return table.concat(got, " "), result
end

local function counts(result)
  return { result.replayed, result.refused, result.failed, result.skipped }
end

local function headers_of(record)
  local map = {}
  for _, each in ipairs(record.headers) do map[each[1]] = each[2] end
  return map
end

-- A dead letter as another program may have written it.
local function letter(key, n, partition, offset, more)
  local headers = { { "event_type", "Placed" }, { "event_id", support.uuid(1000 + n) },
    { "dlq_reason", "max_retries_exceeded" }, { "dlq_error_type", "Other" },
    { "dlq_timestamp", ("2026-01-02T03:00:%02d+00:00"):format(n) },
    { "dlq_original_topic", bus.config.topic_name },
    { "dlq_original_partition", tostring(partition) },
    { "dlq_original_offset", tostring(offset) }, { "dlq_consumer_group", "elsewhere" } }
  for _, each in ipairs(more or {}) do headers[#headers + 1] = each end
  local id = support.uuid(key)
  broker:produce { topic = bus.config.dlq_topic_name, key = id, headers = headers,
    value = bus.native:encode(Placed { aggregate_id = id, n = n }).value }
end

-- ---- facts ----

describe("replaying all", function()
  it("puts each event back once, marked, and skips it the next time", function()
    new()
    die({ Placed, 1, 1 }, { Placed, 2, 2 }, { Paid, 1, 3 })
    local got, result = replay {}
    assert.equal("Placed1 Placed2 Paid3", got)
    assert.same({ 3, 0, 0, 0 }, counts(result))
    assert.is_false(result.more)
    assert.is_false(result.stopped)
    local first = result.letters[1]
    assert.same({ "replayed", 0, 0, "Placed", support.uuid(1), 1, 0, 3 }, { first.outcome,
      first.partition, first.offset, first.event_type, first.key, first.replay_count,
      first.to_partition, first.to_offset })
    local again = headers_of(broker:consume(bus.config.topic_name)[4])
    assert.same({ "1", "0", nil }, { again.dlq_replay_count, again.retry_count,
      again.replay_group })
    got, result = replay {}
    assert.equal("", got)
    assert.same({ 0, 0, 0, 3 }, counts(result))
    assert.matches("replayed already", result.letters[1].reason)
    assert.equal("Placed1 Placed2 Paid3", (replay { again = true }))
  end)

  it("puts back what died again, once, although it has several letters", function()
    new "twice"
    die({ Placed, 1, 1 }, { Placed, 1, 2 })
    bus:subscribe(Placed, function(event) if event.n == 1 then error "broken" end end)
    settled(function() return assert(bus:replay_dlq()).replayed end)
    bus:clear_subscribers()
    assert.equal(3, bus:get_dlq_message_count())
    local got, result = replay {}
    assert.equal("Placed1", got)
    assert.same({ 1, 0, 0, 2 }, counts(result))
    local reported = {}
    for _, each in ipairs(result.letters) do
      reported[#reported + 1] = ("%d: %s %d"):format(each.offset, each.outcome, each.replay_count)
    end
    assert.same({ "0: skipped 1", "2: replayed 2", "1: skipped 1" }, reported)
  end)

  it("counts an event's replays over all its letters, and refuses at the limit", function()
    new "twice"
    die { Placed, 1, 1 }
    for round = 1, 2 do
      bus:subscribe(Placed, function() error "still broken" end)
      settled(function() return assert(bus:replay_dlq()).replayed end)
      bus:clear_subscribers()
      assert.equal(1 + round, bus:get_dlq_message_count())
    end
    local got, result = replay {}
    assert.equal("", got)
    assert.same({ 0, 1, 0, 2 }, counts(result))
    local refused
    for _, each in ipairs(result.letters) do
      if each.outcome == "refused" then refused = each end
    end
    assert.equal("EREPLAY", refused.code)
    assert.matches("replayed 2 times already", refused.reason)
    got, result = replay { again = true }
    assert.equal("", got)
    assert.same({ 0, 3, 0, 0 }, counts(result))
    got, result = replay { again = true, force = true }
    assert.equal("Placed1", got) -- once, for all three letters
    assert.same({ 1, 0, 0, 2 }, counts(result))
  end)

  it("of no topic, or of none that the filter leaves, does nothing", function()
    new()
    assert.same({ 0, 0, 0, 0 }, counts(assert(bus:replay_dlq())))
    die { Placed, 1, 1 }
    local result = assert(bus:replay_dlq { event_type = "Unheard" })
    assert.same({ 0, 0, 0, 1 }, counts(result))
    assert.same({}, result.letters)
  end)
end)

describe("the order", function()
  it("of a key is that of the original offsets, whatever order the letters have", function()
    new()
    letter(1, 3, 0, 30)
    letter(2, 9, 0, 15)
    letter(1, 1, 0, 10)
    letter(1, 2, 0, 20)
    assert.equal("Placed1 Placed9 Placed2 Placed3", (replay {}))
  end)

  it("of a key whose partition changed is that of its deaths", function()
    new()
    letter(1, 1, 0, 1000)
    letter(1, 2, 7, 3)
    letter(1, 3, 7, 4)
    assert.equal("Placed1 Placed2 Placed3", (replay {}))
  end)

  it("has an event that died again before its successors", function()
    new()
    letter(1, 1, 0, 10)
    letter(1, 2, 0, 20)
    letter(1, 1, 0, 30, { { "dlq_replay_count", "1" } })
    local got, result = replay {}
    assert.equal("Placed1 Placed2", got)
    assert.same({ 2, 0, 0, 1 }, counts(result))
    local records = broker:consume(bus.config.topic_name)
    assert.equal("2", headers_of(records[1]).dlq_replay_count)
  end)

  it("is kept over many letters of many keys", function()
    new()
    local all, want, got = {}, {}, {}
    for n = 1, 300 do all[n] = { Placed, n % 7, n } end
    die(unpack(all))
    bus:subscribe(Placed, function(event)
      local list = got[event.aggregate_id] or {}
      got[event.aggregate_id] = list
      list[#list + 1] = event.n
    end)
    for n = 1, 300 do
      local id = support.uuid(n % 7)
      want[id] = want[id] or {}
      table.insert(want[id], n)
    end
    settled(function() return assert(bus:replay_dlq()).replayed end)
    assert.same(want, got)
  end)
end)

describe("a filter", function()
  it("chooses by what the letters hold", function()
    new()
    die({ Placed, 1, 1 }, { Placed, 2, 2 }, { Paid, 1, 3 })
    bus:subscribe(Placed, function() moonbus.dead "no good" end)
    settled(function()
      assert(bus:publish { Placed { aggregate_id = support.uuid(3), n = 4 } })
      return 1
    end)
    bus:clear_subscribers()
    local function chosen(options)
      local list = assert(bus:get_dlq_messages(options))
      for i, each in ipairs(list) do list[i] = each.payload.n end
      options.dry_run = true
      local would = {}
      for _, each in ipairs(assert(bus:replay_dlq(options)).letters) do
        if each.outcome == "replayed" then would[#would + 1] = each.offset + 1 end
      end
      assert.same(list, would)
      return list
    end
    assert.same({ 1, 2, 4 }, chosen { event_type = Placed })
    assert.same({ 3 }, chosen { event_type = "Paid" })
    assert.same({ 1, 3 }, chosen { key = support.uuid(1) })
    assert.same({ 4 }, chosen { reason = "handler_rejected" })
    assert.same({ 1, 2, 3 }, chosen { error_type = "LuaError" })
    assert.same({ 1, 2, 3, 4 }, chosen { failed_group = bus.config.consumer_group })
    assert.same({}, chosen { failed_group = "another" })
    assert.same({ 2 }, chosen { partition = 0, offset = 1 })
    assert.same({ 2, 3 }, chosen { partition = 0, offset = { 1, 2 } })
    assert.same({ 3, 4 }, chosen { offset = { 2 } })
    assert.same({ 1, 2 }, chosen { original_partition = 0, original_offset = { nil, 1 } })
    assert.same({}, chosen { original_partition = 5 })
    assert.same({ 2, 4 }, chosen { where = function(each) return each.payload.n % 2 == 0 end })
    assert.same({ 4 }, chosen { event_type = Placed, where = function(each)
      return each.headers.dlq_reason == "handler_rejected" and each.replay_count == 0
    end })
    local now = moonbus.epoch(moonbus.timestamp())
    assert.same({ 1, 2, 3, 4 }, chosen { since = now - 60, ["until"] = now + 60 })
    assert.same({}, chosen { since = now + 3600 })
    assert.same({}, chosen { ["until"] = moonbus.timestamp(now - 3600) })
  end)

  it("goes by the time of death, not the record's", function()
    new()
    for n = 1, 4 do letter(n, n, 0, n) end
    assert.equal("Placed2 Placed3", (replay {
      since = "2026-01-02T03:00:02Z", ["until"] = "2026-01-02T03:00:04Z" }))
  end)

  it("whose where function raises ends the call with that error, nothing written", function()
    new()
    die({ Placed, 1, 1 }, { Placed, 1, 2 })
    assert.error_matches(function()
      bus:replay_dlq { where = function(each)
        if each.payload.n == 2 then error "where is broken" end
        return true
      end }
    end, "where is broken")
    assert.equal(2, #broker:consume(bus.config.topic_name))
  end)

  it("and limit put back so many, and the next call goes on after them", function()
    new()
    die({ Placed, 1, 1 }, { Placed, 1, 2 }, { Paid, 1, 3 }, { Placed, 1, 4 }, { Placed, 1, 5 })
    local got, result = replay { event_type = Placed, limit = 3 }
    assert.equal("Placed1 Placed2 Placed4", got)
    assert.is_true(result.more)
    got, result = replay { event_type = Placed, limit = 3 }
    assert.equal("Placed5", got)
    assert.is_false(result.more)
  end)

  it("that is none raises and says why", function()
    new()
    for text, wrong in pairs {
      ["no option \"topic\""] = { topic = "x" }, ["key: expected a string"] = { key = 5 },
      ["since: expected seconds"] = { since = "yesterday" },
      ["partition: expected a whole number"] = { partition = -1 },
      ["offset: expected an offset"] = { offset = "1" }, ["group: expected true"] = { group = "" },
      ["rate: expected a number above 0"] = { rate = 0 },
      ["limit: expected a number above 0"] = { limit = 0 },
      ["event_type: expected what moonbus.event"] = { event_type = 5 },
    } do
      assert.error_matches(function() bus:replay_dlq(wrong) end, text)
    end
    assert.error_matches(function() bus:replay_dlq(5) end, "table of options")
    assert.error_matches(function() bus:get_dlq_messages { dry_run = true } end, "no option")
  end)
end)

describe("a dry run", function()
  it("reports of each letter what would become of it, and writes nothing", function()
    new "once"
    die({ Placed, 1, 1 }, { Paid, 1, 2 })
    bus:subscribe(Placed, function() error "still broken" end)
    settled(function() return assert(bus:replay_dlq { event_type = Placed }).replayed end)
    bus:clear_subscribers()
    die { Placed, 1, 3 }
    local before = #broker:consume(bus.config.topic_name)
    local result = assert(bus:replay_dlq { event_type = Placed, dry_run = true })
    assert.same({ 1, 1, 0, 2 }, counts(result))
    local reported = {}
    for _, each in ipairs(result.letters) do
      reported[each.offset + 1] = each.outcome .. ": " .. (each.reason or "")
      assert.is_nil(each.to_offset)
    end
    assert.matches("^skipped: replayed already", reported[1])
    assert.equal("skipped: left out by event_type", reported[2])
    assert.matches("^refused: replayed 1 times already", reported[3])
    assert.equal("replayed: ", reported[4])
    assert.equal(before, #broker:consume(bus.config.topic_name))
    assert.same(counts(result), counts(assert(bus:replay_dlq {
      event_type = Placed, dry_run = true })))
  end)
end)

describe("another topic", function()
  it("gets them instead of the main one, once", function()
    new()
    die({ Placed, 1, 1 }, { Placed, 1, 2 })
    local to = support.name "to" .. ".stream"
    assert.same({ 2, 0, 0, 0 }, counts(assert(bus:replay_dlq { to = to })))
    local records = broker:consume(to)
    assert.equal(2, #records)
    assert.equal("1", headers_of(records[1]).dlq_replay_count)
    assert.is_nil(headers_of(records[1]).dlq_reason)
    assert.equal(2, #broker:consume(bus.config.topic_name))
    assert.same({ 0, 0, 0, 2 }, counts(assert(bus:replay_dlq { to = to })))
    assert.same({ 2, 0, 0, 0 }, counts(assert(bus:replay_dlq())))
  end)

  it("must be one that can be", function()
    new()
    die { Placed, 1, 1 }
    for to, want in pairs { ["no/name"] = "ETOPIC", [bus.config.dlq_topic_name] = "EINVAL" } do
      for _, dry_run in ipairs { true, false } do
        local ok, err, code = bus:replay_dlq { to = to, dry_run = dry_run }
        assert.is_nil(ok)
        assert.equal(want, code)
        assert.matches(to, err, 1, true)
      end
    end
  end)
end)

describe("one group", function()
  -- Two groups on one topic; only the bus's fails.
  local function two(kind)
    new(kind or "pair")
    other.got = {}
    other:subscribe_to_all_events(function(event) table.insert(other.got, event.n) end)
  end

  local function other_settled(count)
    wait.settled(other, count)
    return other.got
  end

  it("that failed handles the replay alone; the others skip it", function()
    two()
    die({ Placed, 1, 1 }, { Placed, 1, 2 })
    local got = replay { group = true }
    assert.equal("Placed1 Placed2", got)
    assert.same({ 1, 2 }, other_settled(4))
    assert.equal(2, other:get_stats_dict().events_skipped)
    local record = broker:consume(bus.config.topic_name)[3]
    assert.equal(bus.config.consumer_group, headers_of(record).replay_group)
  end)

  it("stays the only one when the replay dies again, counted", function()
    two()
    die { Placed, 1, 1 }
    bus:subscribe(Placed, function() error "still broken" end)
    settled(function() return assert(bus:replay_dlq { group = true }).replayed end)
    bus:clear_subscribers()
    local letters = assert(bus:get_dlq_messages())
    assert.equal(bus.config.consumer_group, letters[2].headers.replay_group)
    assert.equal(1, letters[2].replay_count)
    assert.equal("Placed1", (replay {}))
    assert.same({ 1 }, other_settled(3))
    local records = broker:consume(bus.config.topic_name)
    local last = headers_of(records[#records])
    assert.same({ bus.config.consumer_group, "2" }, { last.replay_group, last.dlq_replay_count })
    assert(bus:replay_dlq { group = false, again = true, partition = 0, offset = 1 })
    assert.same({ 1, 1 }, other_settled(4))
  end)

  it("is named, too, by the single replay of such a letter", function()
    two()
    die { Placed, 1, 1 }
    bus:subscribe(Placed, function() error "still broken" end)
    settled(function() return assert(bus:replay_dlq { group = true }).replayed end)
    bus:clear_subscribers()
    settled(function()
      assert(bus:replay_dlq_message { partition = 0, offset = 1 })
      return 1
    end)
    assert.same({ 1 }, other_settled(3))
  end)

  it("that is named handles it, whoever failed", function()
    two()
    die { Placed, 1, 1 }
    local got = replay { group = other.config.consumer_group }
    assert.equal("", got)
    assert.same({ 1, 1 }, other_settled(2))
    assert.equal(1, bus:get_stats_dict().events_skipped)
  end)

  it("has a count of its own", function()
    two "once_pair"
    die { Placed, 1, 1 }
    replay { group = other.config.consumer_group }
    local got, result = replay { group = true }
    assert.equal("Placed1", got)
    assert.same({ 1, 0, 0, 0 }, counts(result))
    assert.same({ 0, 1, 0, 0 }, counts(assert(bus:replay_dlq { group = true, again = true })))
  end)

  it("is nothing to events without one, whatever their time", function()
    two() -- one millisecond in 64 marks a replay to one group
    local events = {}
    for n = 1, 200 do events[n] = Placed { aggregate_id = support.uuid(n), n = n } end
    bus:subscribe(Placed, function() end)
    settled(function()
      assert(bus:publish(events))
      return 200
    end)
    assert.equal(200, #other_settled(200))
    assert.equal(0, other:get_stats_dict().events_skipped)
  end)
end)

describe("a rate", function()
  it("paces them while the bus goes on", function()
    new()
    local all = {}
    for n = 1, 8 do all[n] = { Placed, n, n } end
    die(unpack(all))
    local seen, handled = {}, 0
    bus:subscribe(Placed, function() handled = handled + 1 end)
    local begin = moonbus.now()
    local result = assert(bus:replay_dlq { rate = 10, on_letter = function(each)
      seen[#seen + 1] = each.outcome .. handled
    end })
    assert(moonbus.now() - begin >= 7 / 10 - 0.001, "too fast")
    assert.same({ 8, 0, 0, 0 }, counts(result))
    assert.is_nil(result.letters)
    assert.equal(8, #seen)
    assert(handled > 0, "nothing was handled meanwhile")
    wait.till(function() return handled == 8 end)
  end)

  it("ends between two events when the bus is stopped", function()
    new()
    die({ Placed, 1, 1 }, { Placed, 1, 2 }, { Placed, 1, 3 })
    bus:subscribe(Placed, function() bus:stop_consuming() end)
    local result = assert(bus:replay_dlq { rate = 0.02 })
    assert.is_true(result.stopped)
    assert.equal(1, result.replayed)
    assert.is_false(bus:is_consuming())
    assert.equal(4, #broker:consume(bus.config.topic_name))
  end)

  it("ends, too, when on_letter says so, and when a bus that does not consume is stopped",
    function()
      new()
      die({ Placed, 1, 1 }, { Placed, 1, 2 }, { Placed, 1, 3 })
      bus:stop_consuming()
      local result = assert(bus:replay_dlq { on_letter = function() return false end })
      assert.is_true(result.stopped)
      assert.equal(1, result.replayed)
      result = assert(bus:replay_dlq { rate = 0.5, on_letter = function(each)
        if each.outcome == "replayed" then bus:stop_consuming() end
      end })
      assert.is_true(result.stopped)
      assert.equal(1, result.replayed)
    end)

  it("of a replay without a connection is no matter: ESTATE", function()
    new()
    bus:disconnect()
    local ok, err, code = bus:replay_dlq { rate = 5 }
    assert.is_nil(ok)
    assert.matches("not connected", err)
    assert.equal("ESTATE", code)
  end)
end)

describe("each_dlq_message", function()
  it("gives one letter at a time, headers as on the wire, until the callback ends it", function()
    new()
    letter(1, 1, 0, 1, { { "twice", "a" }, { "twice", "b" }, { "nothing" } })
    letter(1, 2, 0, 2)
    local names, seen = {}, 0
    assert(bus:each_dlq_message({}, function(each)
      seen = seen + 1
      for _, header in ipairs(each.header_list) do names[#names + 1] = header[1] end
      assert.equal(moonbus.null, each.header_list[#each.header_list][2])
      assert.equal(1, each.payload.n)
      return false
    end))
    assert.equal(1, seen)
    assert.equal("dlq_consumer_group twice twice nothing", table.concat(names, " ", #names - 3))
    assert.error_matches(function() bus:each_dlq_message({}, function() error "stop it" end) end,
      "stop it")
  end)
end)
