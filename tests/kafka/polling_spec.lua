--- Records polled many at a time, while members come and go, partitions pause and resume, and
-- transactions are undone, all under load: nothing lost, nothing doubled, each key in order.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"

local KEYS = 40
local TRANSACTIONS_SECONDS = 300 -- each takes as long as the broker does, which may be busy

local registry = moonbus.new_registry()
local Step = moonbus.event("Step", { aggregate_type = "Walk", n = "integer" },
  { registry = registry })
local Done = moonbus.event("Done", { aggregate_type = "Walk", n = "integer" },
  { registry = registry })

local strategies = { "roundrobin,range" }
-- Older ones lose and double records with it, and are refused it.
if kafka.librdkafka() >= 20400 then strategies[2] = "cooperative-sticky" end

-- A source of events: each key counts from 1. The ids are the same each time, and reach each of
-- four partitions.
local function new_source(prefix)
  local bus = kafka.bus { topic_prefix = prefix, event_registry = registry,
    delivery_timeout_ms = 600000 } -- on a machine that is slow and busy, too
  local self = { bus = bus, total = 0 }
  function self.publish(count)
    local events = {}
    for i = 1, count do
      local at = self.total + i - 1
      events[i] = Step { aggregate_id = ("00000000-0000-4000-8000-%012d"):format(at % KEYS),
                         n = math.floor(at / KEYS) + 1 }
    end
    self.total = self.total + count
    assert(bus:publish(events, { background = true }))
  end
  return self
end

-- What was handled, of all members: none may be left out, whatever runs again.
local function new_record()
  local self = { last = {}, handled = 0, again = 0 }
  function self.take(event)
    local last = self.last[event.aggregate_id] or 0
    if event.n <= last then
      self.again = self.again + 1
      return
    end
    if event.n > last + 1 then
      self.gap = self.gap or ("%s: %d after %d"):format(event.aggregate_id, event.n, last)
    end
    self.last[event.aggregate_id] = event.n
    self.handled = self.handled + 1
  end
  return self
end

-- The first stays; the others come and go, so many times, with so many events published each turn.
local function come_and_go(members, source, rounds, each)
  local function share(text, condition)
    kafka.wait(text, function()
      source.publish(each)
      return condition()
    end)
  end
  kafka.consume(members[1])
  for round = 1, rounds do
    local guest = members[round % (#members - 1) + 2]
    assert(guest:start_consuming_in_background())
    share("the share", function()
      return kafka.stats(guest, "assigned_count") == 2
        and kafka.stats(members[1], "assigned_count") == 2
    end)
    assert(guest:stop_consuming())
    share("all partitions back", function()
      return kafka.stats(members[1], "assigned_count") == 4
    end)
  end
  assert(source.bus:flush(90))
end

-- A lost partition is read again from where it was committed: librdkafka before 2.10 loses all of
-- them when a commit meets a cooperative rebalance, and any does when no heartbeat comes through.
local function assert_none_again(record, members)
  for _, bus in ipairs(members) do
    if kafka.logged(bus, "lost partitions") then return end
  end
  local lines = {}
  for i, bus in ipairs(members) do lines[i] = table.concat(bus.lines, "\n") end
  assert.are.equal(0, record.again, table.concat(lines, "\n--\n"))
end

local function wait_all(record, source)
  kafka.wait(function()
    return ("%d events, got %d; %s"):format(source.total, record.handled,
      record.gap or "in order")
  end, function() return record.gap or record.handled >= source.total end)
  assert.is_nil(record.gap)
end

kafka.describe("polling on Kafka:", function()
  for _, strategy in ipairs(strategies) do
    describe("with " .. strategy, function()
      local function new_members(count, options)
        local members = {}
        options.consumer_group = kafka.name "group"
        options.partition_assignment_strategy, options.event_registry = strategy, registry
        for i = 1, count do members[i] = kafka.bus(options) end
        return members
      end

      it("members that come and go lose and double nothing", function()
        local prefix, record = kafka.name "polling", new_record()
        local source, members = new_source(prefix), new_members(3, { topic_prefix = prefix })
        source.publish(20000)
        for _, bus in ipairs(members) do bus:subscribe(Step, record.take) end
        come_and_go(members, source, 8, 300)
        wait_all(record, source)
        assert_none_again(record, members)
      end)

      it("partitions that pause and resume meanwhile lose nothing", function()
        local prefix, record, calls = kafka.name "polling", new_record(), 0
        local source = new_source(prefix)
        local members = new_members(2, { topic_prefix = prefix, max_retries = 1000,
          retry_base_delay = 0.005, retry_max_delay = 0.01, retry_parked_max = 20 })
        for _, bus in ipairs(members) do
          bus:subscribe(Step, function(event)
            calls = calls + 1
            if calls % 7 == 0 then error("each seventh time", 0) end
            record.take(event)
          end)
        end
        source.publish(2000)
        come_and_go(members, source, 4, 20)
        wait_all(record, source)
        assert.is_truthy(kafka.logged(members[1], "partition %d paused"))
        assert.is_truthy(kafka.logged(members[1], "partition %d resumed"))
      end)

      it("transactions that are undone meanwhile make each result once", function()
        local prefix, calls = kafka.name "polling", 0
        local source = new_source(prefix)
        local members = new_members(2, { topic_prefix = prefix, delivery = "exactly_once",
          max_retries = 1000, transaction_max_events = 500, transaction_interval_ms = 100 })
        for _, bus in ipairs(members) do
          bus:subscribe(Step, function(event)
            calls = calls + 1
            assert(bus:publish(Done { aggregate_id = event.aggregate_id, n = event.n }))
            if calls % 701 == 0 then error("now and then", 0) end
          end)
        end
        source.publish(2000)
        come_and_go(members, source, 4, 20)
        local record
        kafka.wait(function()
          return ("%d results, got %d"):format(source.total, record.handled)
        end, function()
          record = new_record()
          assert(source.bus:read({ timeout_ms = 30000 }, function(read)
            if read.headers.event_type ~= "Done" then return end
            record.take(moonbus.json.decode(read.value))
          end))
          return record.handled >= source.total
        end, TRANSACTIONS_SECONDS)
        assert.is_nil(record.gap)
        assert.are.equal(0, record.again)
        assert.is_true(kafka.stats(members[1], "transactions_aborted")
          + kafka.stats(members[2], "transactions_aborted") > 0)
      end)

      it("what comes during a rebalance at the end of the log is read", function()
        local prefix, record = kafka.name "polling", new_record()
        local source = new_source(prefix)
        local function publish() -- it is there before fetching goes on
          source.publish(KEYS)
          assert(source.bus:flush(90))
        end
        local members = new_members(2, { topic_prefix = prefix, on_assigned = publish,
          on_revoked = publish })
        for _, bus in ipairs(members) do bus:subscribe(Step, record.take) end
        kafka.consume(members[1])
        for _ = 1, 3 do
          assert(members[2]:start_consuming_in_background())
          for _, shares in ipairs { 2, 4 } do
            kafka.wait("the end of the log", function()
              return kafka.stats(members[1], "assigned_count") == shares
                and members[1].native:is_idle() and record.handled >= source.total
            end)
            if shares == 2 then assert(members[2]:stop_consuming()) end
          end
        end
        assert.is_nil(record.gap)
        assert_none_again(record, members)
      end)
    end)
  end
end)
