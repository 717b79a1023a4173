-- Many dead letters put back, on a real Kafka.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"

local registry = moonbus.new_registry()
local Paid = moonbus.event("Paid", { aggregate_type = "Bill", n = "integer" },
  { registry = registry })

local function new_bus(options)
  local all = { event_registry = registry, max_retries = 0 }
  for key, value in pairs(options or {}) do all[key] = value end
  all.topic_prefix = all.topic_prefix or kafka.name("replay")
  return kafka.bus(all)
end

-- Handlers of a bus: they fail while bus.broken is true, and keep what they got in bus.got.
local function handle(bus)
  bus.got, bus.broken = {}, true
  bus:subscribe(Paid, function(event, context)
    if bus.broken == true or bus.broken == event.n then error("broken", 0) end
    bus.got[#bus.got + 1] = { n = event.n, key = event.aggregate_id, headers = context.headers }
  end)
  return bus
end

local function settled(bus, consumed)
  kafka.wait(function()
    local stats = bus:get_stats_dict()
    return ("%d of %d events, %d parked"):format(stats.events_consumed, consumed,
      stats.events_parked)
  end, function()
    local stats = bus:get_stats_dict()
    return stats.events_consumed >= consumed and stats.events_parked == 0
  end)
end

local function ids(count)
  local list = {}
  for i = 1, count do list[i] = moonbus.uuid() end
  return list
end

-- So many events over the keys die.
local function die(bus, keys, count)
  local events = {}
  for n = 1, count do events[n] = Paid { aggregate_id = keys[n % #keys + 1], n = n } end
  local consumed = kafka.stats(bus, "events_consumed")
  assert(bus:publish(events))
  settled(bus, consumed + count)
  assert.are.equal(count, kafka.stats(bus, "messages_sent_to_dlq"))
  return events
end

-- Every key's events came in the order they were published in.
local function in_order(got)
  local last = {}
  for _, each in ipairs(got) do
    assert.is_true(each.n > (last[each.key] or 0), "key " .. each.key .. " out of order")
    last[each.key] = each.n
  end
end

local function counts(result)
  return { result.replayed, result.refused, result.failed, result.skipped }
end

kafka.describe("replaying on Kafka:", function()
  it("many letters keep the order of every key, and reach only the group that failed", function()
    local bus = handle(new_bus())
    local other = handle(new_bus { topic_prefix = bus.config.topic_prefix })
    other.broken = false
    kafka.consume(bus)
    kafka.consume(other)
    die(bus, ids(23), 1000)
    settled(other, 1000)
    bus.broken = false
    local result = assert(bus:replay_dlq { group = true })
    assert.are.same({ 1000, 0, 0, 0 }, counts(result))
    settled(bus, 2000)
    settled(other, 2000)
    assert.are.equal(1000, #bus.got)
    in_order(bus.got)
    assert.are.equal(1000, #other.got)
    assert.are.equal(1000, kafka.stats(other, "events_skipped"))
    assert.are.equal(bus.config.consumer_group, bus.got[1].headers.replay_group)
    result = assert(bus:replay_dlq { group = true })
    assert.are.same({ 0, 0, 0, 1000 }, counts(result))
  end)

  it("two groups' letters of one event go to each, with a count of its own", function()
    local bus = handle(new_bus { dlq_max_replay_attempts = 1 })
    local other = handle(new_bus { topic_prefix = bus.config.topic_prefix })
    kafka.consume(bus)
    kafka.consume(other)
    die(bus, ids(1), 3)
    settled(other, 3)
    bus.broken, other.broken = false, false
    assert.are.same({ 6, 0, 0, 0 }, counts(assert(bus:replay_dlq { group = true })))
    settled(bus, 9)
    settled(other, 9)
    for _, each in ipairs { bus, other } do
      assert.are.equal(3, #each.got)
      in_order(each.got)
      assert.are.equal(3, kafka.stats(each, "events_skipped"))
    end
    assert.are.same({ 0, 6, 0, 0 }, counts(assert(bus:replay_dlq { group = true, again = true })))
  end)

  it("one record serves both groups where it goes to all", function()
    local bus = handle(new_bus())
    local other = handle(new_bus { topic_prefix = bus.config.topic_prefix })
    kafka.consume(bus)
    kafka.consume(other)
    die(bus, ids(2), 4)
    settled(other, 4)
    assert.are.equal(8, bus:get_dlq_message_count())
    bus.broken, other.broken = false, false
    assert.are.same({ 4, 0, 0, 4 }, counts(assert(bus:replay_dlq())))
    settled(bus, 8)
    settled(other, 8)
    assert.are.equal(4, #bus.got)
    assert.are.equal(4, #other.got)
  end)

  it("an event's replays are counted over all its letters and copies, in one pass", function()
    local bus = handle(new_bus { dlq_max_replay_attempts = 2 })
    kafka.consume(bus)
    local keys = ids(5)
    die(bus, keys, 50)
    local total = 50
    for round = 1, 2 do
      bus.broken = round == 2 and 7 or true
      local before = bus:get_stats_dict().events_consumed
      local result = assert(bus:replay_dlq())
      assert.are.equal(50, result.replayed)
      settled(bus, before + result.replayed)
      total = total + (round == 1 and 50 or 1)
      assert.are.equal(total, bus:get_dlq_message_count())
    end
    -- 49 were handled the second time; the seventh has three letters and had its replays
    local result = assert(bus:replay_dlq())
    assert.are.same({ 0, 1, 0, 100 }, counts(result))
    result = assert(bus:replay_dlq { again = true })
    assert.are.same({ 0, 101, 0, 0 }, counts(result))
    bus.broken = false
    local before = bus:get_stats_dict().events_consumed
    result = assert(bus:replay_dlq { force = true })
    assert.are.same({ 1, 0, 0, 100 }, counts(result))
    settled(bus, before + 1)
    assert.are.equal("3", bus.got[#bus.got].headers.dlq_replay_count)
  end)

  it("letters that do not fit into memory at once are put back in order all the same", function()
    local bus = handle(new_bus { compression_type = "lz4" })
    kafka.consume(bus)
    local keys, total, text = ids(3), 90, ("x"):rep(600000)
    for n = 1, total do
      local event = Paid { aggregate_id = keys[n % 3 + 1], n = n }
      event.metadata = { text = text }
      assert(bus:publish(event))
    end
    settled(bus, total)
    bus.broken = false
    collectgarbage()
    local result = assert(bus:replay_dlq { on_letter = function() end })
    assert.are.same({ total, 0, 0, 0 }, counts(result))
    settled(bus, 2 * total)
    assert.are.equal(total, #bus.got)
    in_order(bus.got)
  end)

  it("one that the target refuses fails alone", function()
    local bus = handle(new_bus { compression_type = "none" })
    kafka.consume(bus)
    local to = kafka.name("small")
    kafka.create(to, 1, { "max.message.bytes=3000" })
    local events = {}
    for n = 1, 20 do
      events[n] = Paid { aggregate_id = moonbus.uuid(), n = n }
      if n % 10 == 0 then events[n].metadata = { text = ("x"):rep(5000) } end
    end
    assert(bus:publish(events))
    settled(bus, 20)
    local result = assert(bus:replay_dlq { to = to })
    assert.are.same({ 18, 0, 2, 0 }, counts(result))
    for _, each in ipairs(result.letters) do
      if each.outcome == "failed" then
        assert.are.equal("EDELIVERY", each.code)
        assert.is_truthy(each.reason:find("not delivered"))
      end
    end
    assert.are.equal(18, #kafka.dump(to))
    assert.are.same({ 0, 0, 2, 18 }, counts(assert(bus:replay_dlq { to = to })))
  end)

  it("another topic is made where the broker makes topics, and named where it does not",
    function()
      local broker = kafka.broker { set = { "auto.create.topics.enable=false" } }
      local prefix = kafka.name("manual")
      local bus = kafka.new_bus { bootstrap_servers = broker.address, topic_prefix = prefix,
        event_registry = registry, max_retries = 0 }
      assert(bus.native:topic_create(prefix .. ".stream", 1))
      assert(bus.native:topic_create(prefix .. ".stream.dlq", 1))
      assert(bus:connect(60))
      handle(bus)
      kafka.consume(bus, 1)
      die(bus, ids(1), 2)
      local to = prefix .. ".other"
      local ok, err, code = bus:replay_dlq { to = to }
      assert.is_nil(ok)
      assert.are.equal("ETOPIC", code)
      assert.is_truthy(err:find("moonbus topics create " .. to, 1, true), err)
      assert.are.equal(2, assert(bus:replay_dlq { to = to, dry_run = true }).replayed)
      ok, err, code = bus:replay_dlq { to = to }
      assert.are.equal("ETOPIC", code, err or ok)
      assert(bus.native:topic_create(to, 1))
      assert.are.equal(2, assert(bus:replay_dlq { to = to }).replayed)
    end)

  it("a dry run makes no topic", function()
    local bus = handle(new_bus())
    kafka.consume(bus)
    die(bus, ids(1), 1)
    local to = kafka.name("unmade")
    assert.are.equal(1, assert(bus:replay_dlq { to = to, dry_run = true }).replayed)
    kafka.create(to, 1) -- fails if it is there
    assert.are.equal(1, assert(bus:replay_dlq { to = to }).replayed)
    assert.are.equal(1, #kafka.dump(to))
  end)

  it("where the broker sets records' times, every record is looked at", function()
    local prefix = kafka.name("appended")
    kafka.create(prefix .. ".stream", 1, { "message.timestamp.type=LogAppendTime" })
    local bus = handle(new_bus { topic_prefix = prefix })
    local other = handle(new_bus { topic_prefix = prefix })
    other.broken = false
    kafka.consume(bus, 1)
    kafka.consume(other, 1)
    die(bus, ids(4), 40)
    bus.broken = false
    assert.are.equal(40, assert(bus:replay_dlq { group = true }).replayed)
    settled(bus, 80)
    settled(other, 80)
    assert.are.equal(40, #bus.got)
    assert.are.equal(40, #other.got)
    assert.are.equal(40, kafka.stats(other, "events_skipped"))
  end)

  it("another group's replay behind a parked event of its key is skipped in its turn", function()
    local bus = handle(new_bus())
    local other = handle(new_bus { topic_prefix = bus.config.topic_prefix, max_retries = 1000 })
    other.broken = false
    kafka.consume(bus)
    kafka.consume(other)
    local key = ids(1)
    die(bus, key, 1)
    settled(other, 1)
    other.broken = true
    assert(bus:publish(Paid { aggregate_id = key[1], n = 2 }))
    kafka.wait("a retry", function() return kafka.stats(other, "retries") > 0 end)
    bus.broken = false
    assert.are.equal(2, assert(bus:replay_dlq { group = true }).replayed)
    kafka.wait("the lane", function() return kafka.stats(other, "events_parked") == 3 end)
    other.broken = false
    settled(other, 4)
    assert.are.equal(2, #other.got)
    assert.are.equal(2, kafka.stats(other, "events_skipped"))
  end)

  it("an exactly-once bus puts them back in transactions, while it consumes", function()
    local bus = handle(new_bus { delivery = "exactly_once" })
    kafka.consume(bus)
    die(bus, ids(30), 60)
    -- acknowledged is not committed: only then readers see them
    kafka.wait("the dead letters", function() return bus:get_dlq_message_count() == 60 end)
    bus.broken = false
    local committed = kafka.stats(bus, "transactions_committed")
    local result = assert(bus:replay_dlq())
    assert.are.same({ 60, 0, 0, 0 }, counts(result))
    kafka.wait("the replays", function() return #bus.got == 60 end)
    in_order(bus.got)
    assert.is_true(kafka.stats(bus, "transactions_committed") > committed)
    assert.are.equal(0, kafka.stats(bus, "transactions_aborted"))
    assert.are.same({ 0, 0, 0, 60 }, counts(assert(bus:replay_dlq())))
  end)

  it("letters that a Python bus wrote go back as well", function()
    local bus = new_bus()
    kafka.create(bus.config.dlq_topic_name, 1)
    local key, records = moonbus.uuid(), {}
    for n = 1, 3 do
      records[n] = { key = key, value = bus.native:encode(Paid { aggregate_id = key, n = n }).value,
        headers = { { "event_id", moonbus.uuid() }, { "event_type", "Paid" },
          { "retry_count", "3" }, { "retry_after", "1795447757.30855" },
          { "dlq_reason", "max_retries_exceeded" }, { "dlq_error_type", "ValueError" },
          { "dlq_error_message", "x" }, { "dlq_retry_count", "3" },
          { "dlq_timestamp", "2026-01-02T03:04:05.678901+00:00" },
          { "dlq_original_topic", bus.config.topic_name }, { "dlq_original_partition", "0" },
          { "dlq_original_offset", tostring(10 - n) }, { "dlq_consumer_group", "python" } } }
    end
    kafka.produce(bus.config.dlq_topic_name, records)
    assert.are.same({ 3, 0, 0, 0 }, counts(assert(bus:replay_dlq { error_type = "ValueError" })))
    local order = {}
    for i, record in ipairs(kafka.dump(bus.config.topic_name)) do
      order[i] = moonbus.json.decode(record.value).n
      local names = {}
      for k, header in ipairs(record.headers) do names[k] = header[1] end
      assert.are.equal("event_id event_type retry_count dlq_replay_count",
        table.concat(names, " "))
    end
    assert.are.same({ 3, 2, 1 }, order)
  end)
end)
