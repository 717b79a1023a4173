--- Dead letters in a flood: their partition stops, nothing is lost, and it goes on by itself or by
-- hand.
local moonbus = require "moonbus"
local support = require "tests.support.bus"
local wait = require "tests.support.wait"

local registry = moonbus.new_registry()
local Task = moonbus.event("Task", { aggregate_type = "Job", n = "integer" },
  { registry = registry })

-- An aggregate whose events go to that of two partitions.
local function aggregate(partition)
  while true do
    local id = moonbus.uuid()
    if moonbus.partition_of(id, 2) == partition then return id end
  end
end

local function publish(bus, from, to, id)
  local events = {}
  for n = from, to do
    events[#events + 1] = Task { aggregate_id = id or moonbus.uuid(), n = n }
  end
  assert(bus:publish(events))
end

-- A bus with a handler that fails where it is told to; runs[n] counts. Not started.
local function new(options)
  local all = { event_registry = registry, max_retries = 0, partitions = 1,
    dlq_breaker_pause_ms = 600000 }
  for key, value in pairs(options) do all[key] = value end
  local bus, lines = support.bus(all)
  local self = { bus = bus, lines = lines, runs = {}, broken = true }
  bus:subscribe(Task, function(event)
    self.runs[event.n] = (self.runs[event.n] or 0) + 1
    local broken = self.broken
    if type(broken) == "function" then broken = broken(event.n) end
    if broken then error "the database is away" end
  end)
  return self
end

local function stat(self, key) return self.bus:get_stats_dict()[key] end

local function opened(self)
  wait.till(function() return stat(self, "breakers_open") == 1 end, function()
    return "the breaker; dead letters: " .. stat(self, "messages_sent_to_dlq")
  end)
  wait.till(function() return stat(self, "publish_queued") == 0 end, "the last dead letter's ack")
end

-- Every event from 1 to count was handled or is a dead letter, and none both; how many are dead.
local function account(self, count, handled)
  local dead = {}
  for _, letter in ipairs(assert(self.bus:get_dlq_messages { limit = 10000 })) do
    assert.is_nil(dead[letter.payload.n], "twice dead: " .. letter.payload.n)
    dead[letter.payload.n] = true
  end
  local total = 0
  for n = 1, count do
    assert.is_true((dead[n] ~= nil) ~= (handled[n] ~= nil), "event " .. n)
    if dead[n] then total = total + 1 end
  end
  return total
end

local function reason(self, code)
  for _, each in ipairs(self.bus:get_health().reasons) do
    if each.code == code then return each end
  end
end

teardown(support.close)

describe("the circuit breaker", function()
  it("stops a partition after dlq_breaker_run dead letters, and says why", function()
    local self = new { dlq_breaker_run = 20 }
    publish(self.bus, 1, 200)
    support.consume(self.bus)
    opened(self)
    assert.equal(20, stat(self, "messages_sent_to_dlq"))
    assert.equal(20, self.bus:get_dlq_message_count())
    assert.equal(1, self.runs[21])
    assert.is_nil(self.runs[22])
    local health = self.bus:get_health()
    assert.equal("red", health.status)
    assert.equal("red", stat(self, "health"))
    assert.equal(1, #health.reasons)
    local why = health.reasons[1]
    assert.equal("breaker_open", why.code)
    assert.equal("red", why.status)
    assert.equal(0, why.partition)
    assert.matches("offset 20: its circuit breaker is open: 20 dead letters in a row", why.text)
    assert.matches("the database is away", why.text)
    assert.matches("reset_breaker", why.text)
    local logged = support.lines_with(self.lines, "error", "circuit breaker open at offset 20")
    assert.equal(1, #logged)
    assert.matches("nothing of it is lost", logged[1])
    assert.equal(1, stat(self, "assigned_count"))
  end)

  it("is released by the event it held, once that is handled", function()
    local self = new { dlq_breaker_run = 10, dlq_breaker_pause_ms = 300 }
    publish(self.bus, 1, 100)
    support.consume(self.bus)
    opened(self)
    wait.till(function() return self.runs[11] >= 3 end, "more tries of the event held back")
    assert.equal(10, stat(self, "messages_sent_to_dlq"))
    assert.is_nil(self.runs[12])
    self.broken = false
    wait.settled(self.bus, 100)
    assert.equal(0, stat(self, "breakers_open"))
    assert.equal("green", self.bus:get_health().status)
    assert.equal(90, stat(self, "events_processed_success"))
    local handled = {}
    for n = 11, 100 do handled[n] = true end
    assert.equal(10, account(self, 100, handled))
    for n = 12, 100 do assert.equal(1, self.runs[n], n) end
    assert.equal(1, #support.lines_with(self.lines, "info", "the circuit breaker is closed"))
  end)

  it("counts from zero once it is reset", function()
    local self = new { dlq_breaker_run = 5, dlq_breaker_pause_ms = 200 }
    publish(self.bus, 1, 40)
    support.consume(self.bus)
    opened(self)
    self.broken = function(n) return n ~= 6 end
    wait.till(function() return stat(self, "messages_sent_to_dlq") == 10 end, "five more")
    opened(self)
    assert.equal(12, #self.runs)
    self.broken = false
    wait.settled(self.bus, 40)
    assert.equal(10, self.bus:get_dlq_message_count())
  end)

  it("is reset by hand, and dead letters go on", function()
    local self = new { dlq_breaker_run = 10 }
    publish(self.bus, 1, 25)
    support.consume(self.bus)
    opened(self)
    local none, err, code = self.bus:reset_breaker(7)
    assert.is_nil(none)
    assert.equal("ENOENT", code)
    assert.matches("breaker is open, got 7", err)
    assert.equal(1, self.bus:reset_breaker(0))
    wait.till(function() return stat(self, "messages_sent_to_dlq") == 20 end, "ten more")
    opened(self)
    assert.equal(20, self.bus:get_dlq_message_count())
    assert.equal(2, self.runs[11]) -- the one held back had one more chance
    assert.equal(1, self.bus:reset_breaker())
    wait.settled(self.bus, 25)
    assert.equal(25, account(self, 25, {}))
    assert.equal(0, self.bus:reset_breaker())
    assert.equal(0, self.bus:release_brake())
    assert.equal(1, #support.lines_with(self.lines, "warn", "call bus:reset_breaker instead"))
    assert.error_matches(function() self.bus:reset_breaker "all" end, "number of a partition")
  end)

  it("lets other partitions go on", function()
    local self = new { dlq_breaker_run = 5, partitions = 2 }
    self.broken = function(n) return n <= 50 end
    publish(self.bus, 1, 50, aggregate(1))
    support.consume(self.bus)
    opened(self)
    publish(self.bus, 51, 150, aggregate(0))
    wait.till(function() return stat(self, "events_processed_success") == 100 end,
      "the other partition's events")
    assert.equal(1, reason(self, "breaker_open").partition)
    assert.equal(5, self.bus:get_dlq_message_count())
  end)

  it("stops at a share of the events settled last", function()
    local self = new { dlq_breaker_run = 0, dlq_breaker_ratio = 0.25, dlq_breaker_window = 40 }
    self.broken = function(n) return n % 3 == 0 end
    publish(self.bus, 1, 200)
    support.consume(self.bus)
    opened(self)
    -- ten of forty: 3, 6, ... 30; 33 is held
    assert.equal(10, self.bus:get_dlq_message_count())
    assert.is_nil(self.runs[34])
    assert.matches("10 dead letters among the last 40 events",
      reason(self, "breaker_open").text)
    self.broken = false
    self.bus:reset_breaker()
    wait.settled(self.bus, 200)
    assert.equal(10, self.bus:get_dlq_message_count())
  end)

  it("is off with 0 and 0", function()
    local self = new { dlq_breaker_run = 0, dlq_breaker_ratio = 0 }
    publish(self.bus, 1, 3000)
    support.consume(self.bus)
    wait.settled(self.bus, 3000)
    assert.equal(3000, self.bus:get_dlq_message_count())
    assert.equal("green", self.bus:get_health().status)
  end)

  it("stops after 1000 in a row unless told otherwise", function()
    local self = new {}
    publish(self.bus, 1, 2500)
    support.consume(self.bus)
    opened(self)
    assert.equal(1000, self.bus:get_dlq_message_count())
  end)

  it("does not count what nothing subscribes to", function()
    local self = new { dlq_breaker_run = 6 }
    local events = {}
    for n = 1, 10 do
      events[#events + 1] = Task { aggregate_id = moonbus.uuid(), n = n }
      events[#events + 1] = { event_type = "Other", aggregate_type = "Job",
        aggregate_id = moonbus.uuid() }
    end
    assert(self.bus:publish(events))
    support.consume(self.bus)
    opened(self)
    assert.equal(6, self.bus:get_dlq_message_count())
    assert.equal(6, stat(self, "events_skipped"))
  end)

  it("has only the handlers that failed run again", function()
    local self = new { dlq_breaker_run = 3, dlq_breaker_pause_ms = 200 }
    local well = {}
    self.bus:subscribe(Task, function(event) well[event.n] = (well[event.n] or 0) + 1 end)
    publish(self.bus, 1, 20)
    support.consume(self.bus)
    opened(self)
    wait.till(function() return self.runs[4] >= 4 end, "more tries")
    self.broken = false
    wait.settled(self.bus, 20)
    for n = 1, 20 do assert.equal(1, well[n], n) end
  end)

  it("holds back what a handler refused, and what has retries to come", function()
    local self = new { dlq_breaker_run = 3, dlq_breaker_pause_ms = 200, max_retries = 2,
      retry_scope = "partition" }
    local refuse = true
    self.broken = function(n)
      if refuse and n > 2 then moonbus.dead "closed" end
      return n <= 2
    end
    publish(self.bus, 1, 10)
    support.consume(self.bus)
    opened(self)
    assert.equal(3, self.runs[2])
    assert.equal(3, self.bus:get_dlq_message_count()) -- 1, 2, 3
    assert.matches("closed", reason(self, "breaker_open").text)
    refuse = false
    wait.settled(self.bus, 10)
    assert.equal(3, self.bus:get_dlq_message_count())
  end)

  it("keeps what waits for a retry waiting, and has it run after the release", function()
    local self = new { dlq_breaker_run = 3, max_retries = 3, retry_base_delay = 0.3 }
    self.broken = function(n)
      if n > 1 then moonbus.dead "no" end
      return true
    end
    publish(self.bus, 1, 20)
    support.consume(self.bus)
    opened(self)
    local runs = self.runs[1]
    local till = moonbus.now() + 0.6
    wait.till(function() return moonbus.now() > till end, "the time of its retry to pass")
    assert.equal(runs, self.runs[1])
    self.broken = false
    self.bus:reset_breaker()
    wait.settled(self.bus, 20)
    assert.equal(3, self.bus:get_dlq_message_count())
    assert.equal(runs + 1, self.runs[1])
  end)

  it("holds back records that no handler can be given until it is released by hand", function()
    local self = new { dlq_breaker_run = 4, dlq_breaker_pause_ms = 100 }
    local wrong = {}
    for i = 1, 12 do
      wrong[i] = { event_type = "Task", aggregate_type = "Job", aggregate_id = moonbus.uuid(),
        n = "no number " .. i }
    end
    assert(self.bus:publish(wrong))
    publish(self.bus, 13, 20)
    self.broken = false
    support.consume(self.bus)
    opened(self)
    wait.till(function()
      return #support.lines_with(self.lines, "warn", "offset 4, attempt") >= 3
    end, "tries that change nothing")
    assert.equal(4, self.bus:get_dlq_message_count())
    for _ = 1, 2 do
      assert.equal(1, self.bus:reset_breaker(0))
      wait.till(function() return stat(self, "breakers_open") == 0 end, "the release")
      wait.till(function()
        return stat(self, "breakers_open") == 1 or stat(self, "events_processed_success") == 8
      end, "the next stop, or the end")
    end
    wait.settled(self.bus, 20)
    assert.equal(12, self.bus:get_dlq_message_count())
    assert.equal(8, stat(self, "events_processed_success"))
  end)

  it("holds back what would be dropped without a dead letter topic", function()
    local self = new { dlq_breaker_run = 5, enable_dlq = false }
    publish(self.bus, 1, 20)
    support.consume(self.bus)
    opened(self)
    assert.equal(5, stat(self, "events_dropped"))
    self.broken = false
    self.bus:reset_breaker()
    wait.settled(self.bus, 20)
    assert.equal(15, stat(self, "events_processed_success"))
    assert.equal(5, stat(self, "events_dropped"))
  end)

  it("leaves everything from the event it held on to the next start", function()
    local self = new { dlq_breaker_run = 5 }
    publish(self.bus, 1, 30)
    support.consume(self.bus)
    opened(self)
    assert(self.bus:stop_consuming())
    assert.equal(1, #support.lines_with(self.lines, "warn", "its circuit breaker is still open"))
    self.broken = false
    support.consume(self.bus)
    wait.till(function() return stat(self, "events_processed_success") == 25 end, "the rest")
    assert.equal(5, self.bus:get_dlq_message_count())
    for n = 1, 5 do assert.equal(1, self.runs[n]) end
  end)

  it("ends consumption until idle with an error that names the partitions", function()
    local self = new { dlq_breaker_run = 5, partitions = 2 }
    publish(self.bus, 1, 40, aggregate(1))
    local ok, err, code = self.bus:start_consuming { until_idle = 0.5, for_seconds = 60 }
    assert.is_nil(ok)
    assert.equal("EBREAKER", code)
    assert.matches("in partition 1: .*%[1%] is paused at offset 5: its circuit breaker", err)
    assert.matches("5 dead letters in a row", err)
    assert.equal(5, self.bus:get_dlq_message_count())
  end)
end)
