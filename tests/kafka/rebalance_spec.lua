-- Rebalances that go badly, on a broker of the spec's own: it stops answering just when partitions
-- are taken away, a retry waits longer than the group would, or a handler does.
local ffi = require "ffi"
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"

local registry = moonbus.new_registry()
local In = moonbus.event("In", { aggregate_type = "A", n = "integer" }, { registry = registry })
local Out = moonbus.event("Out", { aggregate_type = "A", n = "integer" }, { registry = registry })

local STOP, CONT = 19, 18
local POLL_MS = 6000 -- a third of it is the time a revocation has
local COUNT = 200

local broker

local function new_bus(options)
  options.event_registry = registry
  options.bootstrap_servers = broker.address
  options.max_poll_interval_ms, options.session_timeout_ms = POLL_MS, POLL_MS
  options.heartbeat_interval_ms = 500
  local bus = kafka.new_bus(options)
  assert(bus:connect(60))
  return bus
end

local function signal(number)
  ffi.C.kill(tonumber(kafka.read_file(broker.dir .. "/kafka/pid")), number)
end

-- Events first .. last, or 1 .. COUNT.
local function events(first, last)
  local list = {}
  for n = first or 1, last or COUNT do
    list[#list + 1] = In { aggregate_id = moonbus.uuid(), n = n }
  end
  return list
end

local function all_there(seen, last)
  for n = 1, last or COUNT do
    if not seen[n] then return false end
  end
  return true
end

kafka.describe("a rebalance on Kafka:", function()
  setup(function() broker = kafka.broker() end)

  for _, delivery in ipairs { "at_least_once", "exactly_once" } do
    it("ends in time when the broker does not answer, and nothing is lost: " .. delivery, function()
      local prefix = kafka.name "revoked"
      local runs, frozen_at, seconds = {}, nil, nil
      local source = new_bus { topic_prefix = prefix }

      local function member(more)
        local options = { topic_prefix = prefix, consumer_group = prefix, delivery = delivery,
          commit_interval_ms = 60000, transaction_interval_ms = 60000 }
        for key, value in pairs(more or {}) do options[key] = value end
        local bus = new_bus(options)
        bus:subscribe(In, function(event)
          if delivery == "exactly_once" then
            assert(bus:publish(Out { aggregate_id = event.aggregate_id, n = event.n }))
          end
          runs[event.n] = (runs[event.n] or 0) + 1
        end)
        return bus
      end

      local first = member {
        on_revoked = function()
          if frozen_at then return end
          frozen_at = moonbus.now()
          signal(STOP)
        end,
      }
      kafka.consume(first)
      assert(source:publish(events()))
      kafka.wait("the events", function() return all_there(runs) end)
      member():start_consuming_in_background()
      local ok, err = pcall(kafka.wait, "the end of the revocation", function()
        seconds = frozen_at and moonbus.now() - frozen_at
        return seconds
      end)
      signal(CONT)
      assert(ok, err)
      -- By itself a commit would wait for the broker for as long as it takes.
      assert.is_true(seconds < POLL_MS / 1000, ("it took %.1f s"):format(seconds))

      assert(source:publish(events(COUNT + 1, 2 * COUNT)))
      kafka.wait("what came after it", function() return all_there(runs, 2 * COUNT) end)
      if delivery == "exactly_once" then
        local seen = {}
        kafka.wait("the results", function()
          local count = 0
          seen = {}
          assert(source:read({ timeout_ms = 30000 }, function(record)
            if record.headers.event_type ~= "Out" then return end
            local n = moonbus.json.decode(record.value).n
            seen[n] = (seen[n] or 0) + 1
            count = count + 1
          end))
          return count >= 2 * COUNT
        end)
        for n = 1, 2 * COUNT do assert.are.equal(1, seen[n], "result " .. n) end
      end
    end)
  end

  for _, parked_max in ipairs { 1000, 1 } do
    it("does not come of a retry that waits longer than max_poll_interval_ms, its partition "
      .. (parked_max == 1 and "paused" or "going on"), function()
      local prefix = kafka.name "patient"
      local times, others = {}, 0
      local bus = new_bus { topic_prefix = prefix, consumer_group = prefix, retry_jitter = 0,
        retry_base_delay = POLL_MS / 1000 + 2, retry_max_delay = 60, retry_parked_max = parked_max }
      bus:subscribe(In, function(event)
        if event.n ~= 1 then
          others = others + 1
          return
        end
        times[#times + 1] = moonbus.now()
        if #times == 1 then error "not yet" end
      end)
      kafka.consume(bus)
      assert(bus:publish(events()))
      kafka.wait("the second attempt", function() return #times == 2 end)
      assert.is_true(times[2] - times[1] > POLL_MS / 1000 + 1.9)
      assert.are.equal(parked_max == 1, kafka.logged(bus, "partition %d paused") ~= nil)
      kafka.wait("the others", function() return others == COUNT - 1 end)
      assert.are.equal(1, bus:get_stats_dict().rebalance_count)
    end)
  end

  it("of a handler that takes longer than max_poll_interval_ms costs a second run, no event [49]",
    function()
      local prefix = kafka.name "slow"
      local calls, runs = {}, {}
      local function record(what) return function() calls[#calls + 1] = what end end
      local bus = new_bus { topic_prefix = prefix, consumer_group = prefix,
        commit_interval_ms = 100, on_assigned = record "assigned", on_revoked = record "revoked",
        on_lost = record "lost" }
      bus:subscribe(In, function(event)
        runs[event.n] = (runs[event.n] or 0) + 1
        if event.n ~= 1 or runs[1] > 1 then return end
        local deadline = moonbus.now() + POLL_MS / 1000 + 2
        while moonbus.now() < deadline do end -- luacheck: ignore
      end)
      kafka.consume(bus)
      assert(bus:publish(events()))
      -- With the consumer protocol a member leaves once it has given up its partitions: the broker
      -- takes what it commits before that.
      local function again() return kafka.protocol == "consumer" or runs[1] > 1 end
      kafka.wait("all events and the new assignment", function()
        return all_there(runs) and again() and #calls == 3 and bus.native:is_idle()
      end)
      assert.are.same({ "assigned", "lost", "assigned" }, calls)
      assert.is_true(bus:is_consuming())
      assert.are.equal(0, bus:get_stats_dict().events_processed_failed)
      assert.are.equal(0, bus:get_stats_dict().messages_sent_to_dlq)
      assert(bus:stop_consuming())
      assert.are.same(kafka.ends(prefix .. ".stream", broker.address),
        kafka.offsets(prefix, prefix .. ".stream", broker.address))
    end)
end)
