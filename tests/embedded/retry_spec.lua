local moonbus = require "moonbus"
local support = require "tests.support.bus"
local values = require "tests.support.values"
local wait = require "tests.support.wait"

local registry = moonbus.new_registry()
local Placed = moonbus.event("Placed", { aggregate_type = "Order", n = "integer",
  tags = "string[]?", deep = "object?" }, { registry = registry })

local A, B, C = support.uuid(1), support.uuid(2), support.uuid(3)
local broker
local bus, none, whole, small, jittery, slow, foreign
local small_lines, jittery_lines

local function placed(aggregate, n) return Placed { aggregate_id = aggregate, n = n } end

setup(function()
  local function new(options)
    options.event_registry = registry
    options.partitions = 1
    return support.bus(options)
  end
  broker = support.broker()
  bus = new { max_retries = 3 }
  none = new { max_retries = 0 }
  whole = new { max_retries = 3, retry_scope = "partition" }
  small, small_lines = new { max_retries = 4, retry_parked_max = 10 }
  jittery, jittery_lines = new { max_retries = 2, retry_base_delay = 0.1, retry_jitter = 0.5 }
  slow = new { max_retries = 3, retry_base_delay = 600, retry_max_delay = 600 }
  foreign = broker:bus { event_registry = registry, max_retries = 3, retry_base_delay = 0.01 }
  support.consume(bus, none, whole, small, jittery, slow, foreign)
end)

teardown(support.close)

after_each(function()
  for _, each in ipairs { bus, none, whole, small, jittery, slow, foreign } do
    each:clear_subscribers()
  end
end)

-- A handler that notes every run and fails as often as fails(event) says; and its notes:
-- "<key><n>" per run.
local function flaky(fails)
  local notes, runs = {}, {}
  local names = { [A] = "a", [B] = "b", [C] = "c" }
  return function(event, context)
    local name = names[event.aggregate_id] .. event.n
    notes[#notes + 1] = name
    runs[name] = (runs[name] or 0) + 1
    notes.at = notes.at or {}
    notes.at[#notes] = moonbus.now()
    notes.attempt = notes.attempt or {}
    notes.attempt[#notes] = context.attempt
    if runs[name] <= fails(event) then error(name .. " fails", 0) end
  end, notes
end

-- The waits that the lines of a log foretell, from that line on.
local function foretold(lines, from)
  local list = {}
  for i = from, #lines do
    list[#list + 1] = tonumber(lines[i].text:match "; retry in ([%d.]+) s$")
  end
  return list
end

-- How much longer than foretold the longest of the waits between runs was. None was shorter.
local function late(notes, waits)
  local most = 0
  for i, seconds in ipairs(waits) do
    local over = notes.at[i + 1] - notes.at[i] - seconds
    assert(over > -0.001, ("wait %d was %g s too short"):format(i, -over)) -- a log rounds
    most = math.max(most, over)
  end
  return most
end

local function joined(notes) return table.concat(notes, " ") end

-- Every event there was is settled. Whatever is published is consumed here.
local function through(one, seconds)
  wait.settled(one, one:get_stats_dict().events_published, seconds)
end

describe("a failed event", function()
  it("is run again before the later events of its key", function()
    local handler, notes = flaky(function(event) return event.n == 0 and 2 or 0 end)
    bus:subscribe(Placed, handler)
    bus:publish { placed(A, 0), placed(A, 1), placed(A, 2), placed(A, 3) }
    through(bus)
    assert.equal("a0 a0 a0 a1 a2 a3", joined(notes))
  end)

  it("keeps later ones in order when they fail as well", function()
    local handler, notes = flaky(function(event) return event.n % 2 end)
    bus:subscribe(Placed, handler)
    bus:publish { placed(A, 1), placed(A, 2), placed(A, 3), placed(A, 4) }
    through(bus)
    assert.equal("a1 a1 a2 a3 a3 a4", joined(notes))
  end)

  it("does not hold up other keys", function()
    local handler, notes = flaky(function(event) return event.aggregate_id == A and 3 or 0 end)
    bus:subscribe(Placed, function(event, context)
      local ok, why = pcall(handler, event, context)
      if #notes == 1 then moonbus.retry { after = 1 } end -- the others are long done then
      if not ok then error(why, 0) end
    end)
    bus:publish { placed(A, 1), placed(B, 1), placed(A, 2), placed(C, 1), placed(B, 2) }
    through(bus)
    local text = joined(notes)
    assert.matches("^a1 b1 c1 b2 a1 ", text)
    assert.matches("a1 a1 a1 a2 a2 a2 a2$", text)
  end)

  it("is a new event on every attempt, whatever a handler did to it", function()
    local seen = {}
    bus:subscribe(Placed, function(event)
      seen[#seen + 1] = { n = event.n, tags = #event.tags, deep = event.deep.list[1],
        event_id = event.event_id, extra = rawget(event, "extra"),
        metadata = event.metadata.touched, kind = getmetatable(event) }
      event.n, event.event_id, event.extra = 99, "gone", true
      event.tags[2] = "more"
      event.deep.list[1] = "changed"
      event.metadata.touched = true
      setmetatable(event, nil)
      if #seen < 3 then error "again" end
    end)
    local event = Placed { aggregate_id = A, n = 1, tags = { "t" }, deep = { list = { "x" } } }
    bus:publish(event)
    through(bus)
    assert.equal(3, #seen)
    for i = 1, 3 do
      assert.same({ n = 1, tags = 1, deep = "x", event_id = event.event_id, kind = Placed },
        seen[i])
    end
  end)

  it("runs only those handlers again that failed", function() -- 28
    local runs = { good = 0, bad = 0, all = 0, worse = 0 }
    bus:subscribe(Placed, function() runs.good = runs.good + 1 end)
    bus:subscribe(Placed, function()
      runs.bad = runs.bad + 1
      if runs.bad < 2 then error "bad" end
    end)
    bus:subscribe_to_all_events(function() runs.all = runs.all + 1 end)
    bus:subscribe_to_all_events(function()
      runs.worse = runs.worse + 1
      if runs.worse < 4 then error "worse" end
    end)
    local before = bus:get_stats_dict()
    bus:publish(placed(A, 1))
    through(bus)
    assert.same({ good = 1, bad = 2, all = 1, worse = 4 }, runs)
    local after = bus:get_stats_dict()
    assert.equal(4, after.handler_errors - before.handler_errors)
    assert.equal(3, after.retries - before.retries)
    assert.equal(1, after.events_processed_success - before.events_processed_success)
    assert.equal(0, after.messages_sent_to_dlq - before.messages_sent_to_dlq)
  end)

  it("counts its attempts and is dead after max_retries of them", function() -- 29 46
    local handler, notes = flaky(function() return 99 end)
    bus:subscribe(Placed, handler)
    local before, letters = bus:get_stats_dict(), bus:get_dlq_message_count()
    bus:publish(placed(A, 1))
    through(bus)
    assert.equal("a1 a1 a1 a1", joined(notes))
    assert.same({ 1, 2, 3, 4 }, notes.attempt)
    local after = bus:get_stats_dict()
    assert.equal(1, after.messages_sent_to_dlq - before.messages_sent_to_dlq)
    assert.equal(4, after.handler_errors - before.handler_errors)
    assert.equal(4, after.events_processed_failed - before.events_processed_failed)
    assert.equal(0, after.events_processed_success - before.events_processed_success)
    assert.equal(1, after.events_consumed - before.events_consumed)
    assert.equal(letters + 1, bus:get_dlq_message_count())
  end)

  it("once dead lets the next of its key run", function()
    local handler, notes = flaky(function(event) return event.n == 1 and 99 or 0 end)
    bus:subscribe(Placed, handler)
    bus:publish { placed(A, 1), placed(A, 2), placed(A, 3) }
    through(bus)
    assert.equal("a1 a1 a1 a1 a2 a3", joined(notes))
  end)

  it("is done when its failing handler is unsubscribed meanwhile", function()
    local before = bus:get_stats_dict()
    local runs, other = 0, 0
    local function bad()
      runs = runs + 1
      error "bad"
    end
    bus:subscribe(Placed, bad)
    bus:subscribe(Placed, function() other = other + 1 end)
    bus:publish { placed(A, 1), placed(A, 2) }
    wait.till(function() return runs == 1 end, "the first run")
    bus:unsubscribe(Placed, bad)
    through(bus)
    assert.equal(1, runs)
    assert.equal(2, other)
    assert.equal(0, bus:get_stats_dict().messages_sent_to_dlq - before.messages_sent_to_dlq)
  end)

  it("is skipped when nobody subscribes to it any more", function()
    local before = bus:get_stats_dict()
    local runs = 0
    local function bad()
      runs = runs + 1
      error "bad"
    end
    bus:subscribe(Placed, bad)
    bus:publish { placed(A, 1), placed(A, 2) }
    wait.till(function() return runs == 1 end, "the first run")
    bus:unsubscribe(Placed, bad)
    through(bus)
    assert.equal(1, runs)
    assert.equal(0, bus:get_stats_dict().messages_sent_to_dlq - before.messages_sent_to_dlq)
    assert.equal(2, bus:get_stats_dict().events_skipped - before.events_skipped)
  end)

  it("waits twice as long each time, up to retry_max_delay", function() -- 10
    small:subscribe(Placed, function() end)
    local handler, notes = flaky(function() return 99 end)
    small:clear_subscribers()
    small:subscribe(Placed, handler)
    wait.within(0.3, function()
      for i in ipairs(notes) do notes[i] = nil end
      local from = #small_lines + 1
      small:publish(placed(A, 1))
      through(small)
      assert.equal(5, #notes)
      local waits = foretold(small_lines, from)
      assert.same({ 0.05, 0.1, 0.2, 0.4 }, waits)
      return late(notes, waits)
    end)
  end)

  it("waits within the jitter's bounds, and not always the same", function() -- 10
    local handler, notes = flaky(function() return 99 end)
    jittery:subscribe(Placed, handler)
    local spread, different = {}, 0
    for n = 1, 6 do
      wait.within(0.15, function()
        for i in ipairs(notes) do notes[i] = nil end
        local from = #jittery_lines + 1
        jittery:publish(placed(A, n))
        through(jittery)
        assert.equal(3, #notes)
        local waits = foretold(jittery_lines, from)
        assert.equal(2, #waits)
        for i, base in ipairs { 0.1, 0.2 } do
          assert(waits[i] >= base * 0.5 and waits[i] <= base * 1.5, waits[i])
          spread[("%.2f"):format(waits[i] / base)] = true
        end
        return late(notes, waits)
      end)
    end
    for _ in pairs(spread) do different = different + 1 end
    assert(different > 3, "the waits do not differ")
  end)
end)

describe("max_retries = 0", function()
  it("makes a failed event a dead letter at once", function() -- 29
    local handler, notes = flaky(function(event) return event.n == 1 and 99 or 0 end)
    none:subscribe(Placed, handler)
    none:publish { placed(A, 1), placed(A, 2) }
    through(none)
    assert.equal("a1 a2", joined(notes))
    local stats = none:get_stats_dict()
    assert.equal(1, stats.messages_sent_to_dlq)
    assert.equal(0, stats.retries)
    assert.equal("0", none:get_dlq_messages()[1].headers.dlq_retry_count)
  end)
end)

describe('retry_scope = "partition"', function()
  it("lets nothing of the partition overtake a failed event", function()
    local handler, notes = flaky(function(event) return event.n == 1 and 2 or 0 end)
    whole:subscribe(Placed, handler)
    whole:publish { placed(A, 1), placed(B, 2), placed(C, 3), placed(A, 4) }
    through(whole)
    assert.equal("a1 a1 a1 b2 c3 a4", joined(notes))
  end)

  it("goes on once it is dead", function()
    local handler, notes = flaky(function(event) return event.aggregate_id == A and 99 or 0 end)
    whole:subscribe(Placed, handler)
    whole:publish { placed(A, 1), placed(B, 2) }
    through(whole)
    assert.equal("a1 a1 a1 a1 b2", joined(notes))
  end)
end)

describe("retry_parked_max", function()
  it("pauses the partition and resumes it, with nothing lost, doubled or out of order", function()
    local handler, notes = flaky(function(event)
      return event.aggregate_id == A and event.n % 40 == 0 and 2 or 0
    end)
    small:subscribe(Placed, handler)
    local events = {}
    for n = 0, 119 do
      events[#events + 1] = placed(A, n)
      if n % 3 == 0 then events[#events + 1] = placed(B, n) end
    end
    local most = 0
    small:publish(events)
    wait.till(function()
      most = math.max(most, small:get_stats_dict().events_parked)
      return #notes >= #events + 6
    end, function() return ("%d runs of %d"):format(#notes, #events + 6) end)
    through(small)
    local got = { a = {}, b = {} }
    for _, name in ipairs(notes) do
      local list = got[name:sub(1, 1)]
      list[#list + 1] = tonumber(name:sub(2))
    end
    local a, b = {}, {}
    for n = 0, 119 do
      for _ = 1, n % 40 == 0 and 3 or 1 do a[#a + 1] = n end
      if n % 3 == 0 then b[#b + 1] = n end
    end
    assert.same(a, got.a)
    assert.same(b, got.b)
    assert(most > 0)
  end)

  it("is told of in the log", function()
    local one, lines = support.bus { event_registry = registry, partitions = 1,
      retry_parked_max = 5, max_retries = 2 }
    local handler, notes = flaky(function(event) return event.n == 1 and 1 or 0 end)
    one:subscribe(Placed, handler)
    local events = {}
    for n = 1, 3000 do events[n] = placed(A, n) end
    one:publish(events)
    support.consume(one)
    wait.count(notes, 3001, "runs")
    through(one)
    assert(#support.lines_with(lines, "warn", "paused") > 0)
    assert(#support.lines_with(lines, "info", "resumed") > 0)
    assert.equal("a1", notes[2])
    for n = 2, 3000 do assert.equal("a" .. n, notes[n + 1]) end
    one:disconnect()
  end)
end)

describe("the retry_count header", function()
  -- What became of a record with that header: the attempts of its runs, and its dead letter.
  local function tried(header)
    local handler, notes = flaky(function() return 99 end)
    foreign:subscribe(Placed, handler)
    local before = foreign:get_stats_dict()
    local event = placed(A, 1)
    broker:produce { topic = foreign.config.topic_name, key = A,
      value = foreign.native:encode(event).value, headers = { { "event_type", "Placed" },
        { "retry_count", header } } }
    wait.settled(foreign, before.events_consumed + 1)
    foreign:clear_subscribers()
    local letters = foreign:get_dlq_messages()
    return notes.attempt, letters[#letters].headers.dlq_retry_count
  end

  it("counts as attempts made before", function() -- 31
    local attempts, count = tried "2"
    assert.same({ 3, 4 }, attempts)
    assert.equal("3", count)
  end)

  it("above max_retries leaves one attempt", function()
    local attempts, count = tried "9"
    assert.same({ 10 }, attempts)
    assert.equal("9", count)
  end)

  it("that is no count is none", function() -- 7.7
    for _, header in ipairs { "x", "-1", "", "1.5", "99999999999999999999", "\255" } do
      assert.same({ 1, 2, 3, 4 }, (tried(header)), header)
    end
  end)

  it("without a value is none", function() -- 7.7
    assert.same({ 1, 2, 3, 4 }, (tried(nil)))
  end)

  it("counts for an event that waited behind another", function()
    local handler, notes = flaky(function(event) return event.n == 1 and 1 or 99 end)
    foreign:subscribe(Placed, handler)
    local before = foreign:get_stats_dict()
    for n, count in ipairs { "0", "2" } do
      broker:produce { topic = foreign.config.topic_name, key = A,
        value = foreign.native:encode(placed(A, n)).value,
        headers = { { "event_type", "Placed" }, { "retry_count", count } } }
    end
    wait.settled(foreign, before.events_consumed + 2)
    assert.equal("a1 a1 a2 a2", joined(notes))
    assert.same({ 1, 2, 3, 4 }, notes.attempt)
  end)

  it("does not delay an event, whatever retry_after says", function() -- 32
    local got = 0
    foreign:subscribe(Placed, function() got = got + 1 end)
    local before = foreign:get_stats_dict()
    local begin = moonbus.now()
    broker:produce { topic = foreign.config.topic_name, key = A,
      value = foreign.native:encode(placed(A, 1)).value,
      headers = { { "event_type", "Placed" }, { "retry_after", "1e300" } } }
    wait.settled(foreign, before.events_consumed + 1)
    assert.equal(1, got)
    assert(moonbus.now() - begin < 60)
  end)
end)

describe("over random failures", function()
  it("each key keeps its order, each event ends handled or dead, none runs too often", function()
    values.property(3, function(random)
      local expected = { [A] = {}, [B] = {}, [C] = {} }
      local fails, events, dead = {}, {}, 0
      for n = 1, 60 do
        local key = random:pick { A, B, C }
        events[n] = placed(key, n)
        fails[n] = random:chance(0.25) and random:int(1, 5) or 0
        if fails[n] > 3 then dead = dead + 1 end
        for _ = 1, math.min(fails[n] + 1, 4) do
          expected[key][#expected[key] + 1] = n
        end
      end
      local runs, got = {}, { [A] = {}, [B] = {}, [C] = {} }
      bus:subscribe(Placed, function(event)
        local list = got[event.aggregate_id]
        list[#list + 1] = event.n
        runs[event.n] = (runs[event.n] or 0) + 1
        if runs[event.n] <= fails[event.n] then error "again" end
      end)
      local before = bus:get_stats_dict()
      bus:publish(events)
      through(bus)
      bus:clear_subscribers()
      local after = bus:get_stats_dict()
      assert.same(expected, got)
      assert.equal(dead, after.messages_sent_to_dlq - before.messages_sent_to_dlq)
      assert.equal(60 - dead, after.events_processed_success - before.events_processed_success)
      assert.equal(60, after.events_consumed - before.events_consumed)
    end)
  end)
end)

describe("stopping while an event waits for its retry", function()
  it("ends in time, and the event comes again, before the later ones of its key", function()
    local handler, notes = flaky(function(event) return event.n == 1 and 1 or 0 end)
    slow:subscribe(Placed, handler)
    slow:publish { placed(A, 1), placed(A, 2), placed(B, 3) }
    wait.till(function() return #notes == 2 and slow:get_stats_dict().events_consumed == 3 end,
      "the first runs")
    assert.equal("a1 b3", joined(notes))
    assert.equal(2, slow:get_stats_dict().events_parked)
    local begin = moonbus.now()
    assert.is_true(slow:stop_consuming())
    assert(moonbus.now() - begin < 20)
    support.consume(slow)
    wait.till(function() return #notes >= 4 end, "the event and the one behind it")
    local text = joined(notes)
    assert.matches("^a1 b3 a1 a2", text)
  end)
end)
