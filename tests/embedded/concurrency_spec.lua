local ffi = require "ffi"
local moonbus = require "moonbus"
local support = require "tests.support.bus"
local wait = require "tests.support.wait"

ffi.cdef [[
  int moonbus_spec_pipe(int fds[2]) __asm__("pipe");
  long moonbus_spec_write(int fd, const void *data, size_t len) __asm__("write");
  long moonbus_spec_read(int fd, void *data, size_t len) __asm__("read");
  int moonbus_spec_close(int fd) __asm__("close");
]]

local registry = moonbus.new_registry()
local Asked = moonbus.event("Asked", { aggregate_type = "Question", n = "integer" },
  { registry = registry })

local pipes = {}

-- Two descriptors: what is written to the second can be read from the first.
local function pipe()
  local fds = ffi.new "int[2]"
  assert(ffi.C.moonbus_spec_pipe(fds) == 0)
  pipes[#pipes + 1], pipes[#pipes + 2] = fds[0], fds[1]
  return fds[0], fds[1]
end

local function write(fd, text) assert(ffi.C.moonbus_spec_write(fd, text, #text) == #text) end

local function read(fd)
  local buf = ffi.new "char[100]"
  return ffi.string(buf, ffi.C.moonbus_spec_read(fd, buf, 100))
end

after_each(function()
  support.close()
  for _, fd in ipairs(pipes) do ffi.C.moonbus_spec_close(fd) end
  pipes = {}
end)

local function new(options)
  local all = { event_registry = registry, concurrency = 8 }
  for key, value in pairs(options or {}) do all[key] = value end
  return support.bus(all)
end

-- Events 1 to count, of that many keys in turn.
local function publish(bus, count, keys)
  local events = {}
  for n = 1, count do
    events[n] = Asked { aggregate_id = support.uuid(n % keys), n = n }
  end
  assert(bus:publish(events))
end

-- Counts of what runs: now, the most so far, and per key.
local function gauge()
  local self = { now = 0, most = 0, keys = {}, together = 0 }
  function self.enter(event)
    self.now = self.now + 1
    self.most = math.max(self.most, self.now)
    local key = event.aggregate_id
    self.keys[key] = (self.keys[key] or 0) + 1
    if self.keys[key] > 1 then self.together = self.together + 1 end
  end
  function self.leave(event)
    self.now = self.now - 1
    self.keys[event.aggregate_id] = self.keys[event.aggregate_id] - 1
  end
  return self
end

local function consume_all(bus, seconds)
  assert(bus:start_consuming { until_idle = seconds or 0.3 })
end

local function stats(bus) return bus:get_stats_dict() end

describe("concurrency", function()
  it("runs as many slow handlers at once as it says, of different keys", function()
    for _, limit in ipairs { 1, 8 } do
      local bus = new { concurrency = limit }
      local running, done = gauge(), 0
      bus:subscribe(Asked, function(event)
        running.enter(event)
        wait.till(function() return running.most >= limit end, limit .. " at once")
        moonbus.sleep(0.02)
        running.leave(event)
        done = done + 1
      end)
      publish(bus, 40, 20)
      consume_all(bus)
      assert.equal(40, done)
      assert.equal(limit, running.most)
      assert.equal(0, running.together)
      assert.equal(40, stats(bus).events_processed_success)
      assert.equal(0, stats(bus).events_running)
    end
  end)

  it("tells what is running, and is not idle meanwhile", function()
    local bus = new { concurrency = 3 }
    local go
    bus:subscribe(Asked, function() wait.till(function() return go end, "a go") end)
    publish(bus, 5, 5)
    support.consume(bus)
    wait.till(function() return stats(bus).events_running == 3 end, "three that run")
    assert.equal(0, stats(bus).events_parked)
    assert.is_false(bus.native:is_idle())
    assert.equal("green", bus:get_health().status)
    go = true
    wait.settled(bus, 5)
  end)

  it("keeps the order of each key, whatever waits and fails", function()
    math.randomseed(7)
    local bus = new { concurrency = 16, max_retries = 5, retry_base_delay = 0.005 }
    local running, seen, failures = gauge(), {}, 0
    bus:subscribe(Asked, function(event, ctx)
      running.enter(event)
      if math.random() < 0.7 then moonbus.sleep(math.random() * 0.01) end
      running.leave(event)
      local fails = math.random() < 0.15 and ctx.attempt < 4
      if fails then failures = failures + 1 end
      if fails and event.n % 2 == 0 then error "by chance" end
      if fails then return nil, "by chance" end
      if math.random() < 0.3 then
        running.enter(event)
        moonbus.sleep(math.random() * 0.005)
        running.leave(event)
      end
      local list = seen[event.aggregate_id] or {}
      seen[event.aggregate_id] = list
      list[#list + 1] = event.n
    end)
    publish(bus, 600, 40)
    consume_all(bus)
    local count = 0
    for _, list in pairs(seen) do
      count = count + #list
      for i = 2, #list do assert(list[i - 1] < list[i], table.concat(list, " ")) end
    end
    assert.equal(600, count)
    assert.equal(0, running.together)
    assert(running.most > 8, running.most)
    assert(failures > 20, failures)
    assert.equal(failures, stats(bus).retries)
  end)

  it("takes a partition as one with retry_scope = partition", function()
    local bus = new { retry_scope = "partition", partitions = 2 }
    local running = gauge()
    bus:subscribe(Asked, function(event)
      running.enter(event)
      wait.till(function() return running.most >= 2 end, "the other partition's event")
      moonbus.sleep(0.005)
      running.leave(event)
    end)
    publish(bus, 20, 20)
    consume_all(bus)
    assert.equal(2, running.most)
  end)

  it("gives each call a context of its own, good until the handler returns", function()
    local bus = new()
    local wrong, kept = 0, nil
    bus:subscribe(Asked, function(event, ctx)
      local key, offset, partition = ctx.key, ctx.offset, ctx.partition
      kept = kept or ctx
      moonbus.sleep(0.01)
      if ctx.key ~= event.aggregate_id or ctx.key ~= key or ctx.offset ~= offset
        or ctx.partition ~= partition or ctx.abandoned or ctx:header "event_type" ~= "Asked" then
        wrong = wrong + 1
      end
    end)
    publish(bus, 30, 30)
    consume_all(bus)
    assert.equal(0, wrong)
    assert.equal(30, stats(bus).events_processed_success)
    assert.error_matches(function() return kept.key end, "only good while its handler runs")
  end)

  it("runs the other handlers of an event after one that waits", function()
    local bus = new()
    local log = {}
    bus:subscribe(Asked, function(event)
      moonbus.sleep(0.02)
      log[#log + 1] = "first " .. event.n
    end)
    bus:subscribe(Asked, function(event) log[#log + 1] = "second " .. event.n end)
    bus:subscribe_to_all_events(function(event)
      moonbus.sleep(0.001)
      log[#log + 1] = "third " .. event.n
    end)
    publish(bus, 1, 1)
    consume_all(bus)
    assert.same({ "first 1", "second 1", "third 1" }, log)
  end)

  it("hands the trace context on of the handler that runs", function()
    local bus = new()
    local got, wrong = 0, 0
    local Answered = moonbus.event("Answered", { aggregate_type = "Question", parent = "string" },
      { registry = moonbus.new_registry() })
    bus:subscribe(Asked, function(event, ctx)
      local parent = ctx.traceparent
      moonbus.sleep(0.005 * (event.n % 3))
      assert(bus:publish(Answered { aggregate_id = event.aggregate_id, parent = parent },
        { background = true }))
    end)
    bus:subscribe("Answered", function(event, ctx)
      got = got + 1
      if ctx.traceparent ~= event.parent then wrong = wrong + 1 end
    end)
    for n = 1, 12 do
      assert(bus:publish(Asked { aggregate_id = support.uuid(n), n = n },
        { traceparent = ("00-%032x-00f067aa0ba902b7-01"):format(n) }))
    end
    consume_all(bus, 2) -- until the last answer is there, too
    assert.equal(12, got)
    assert.equal(0, wrong)
  end)

  it("is refused with exactly_once, and says why", function()
    assert.error_matches(function()
      support.new { concurrency = 2, delivery = "exactly_once" }
    end, "concurrency 2 does not go with delivery exactly_once: a transaction")
    assert.error_matches(function() support.new { concurrency = 0 } end, "concurrency")
    assert.error_matches(function() support.new { concurrency = 1001 } end, "concurrency")
  end)
end)

describe("failures of handlers that waited", function()
  local function letters(bus) return assert(bus:get_dlq_messages { limit = 10 }) end

  it("are retried, and end as dead letters with the place in the traceback", function()
    local bus = new { max_retries = 2 }
    local attempts = {}
    local function deep(event)
      moonbus.sleep(0.002)
      error("no answer to " .. event.n)
    end
    bus:subscribe(Asked, function(event, ctx)
      attempts[#attempts + 1] = ctx.attempt
      deep(event)
    end, { name = "asker" })
    publish(bus, 1, 1)
    consume_all(bus)
    assert.same({ 1, 2, 3 }, attempts)
    local headers = letters(bus)[1].headers
    assert.matches("no answer to 1", headers.dlq_error_message)
    assert.equal("max_retries_exceeded", headers.dlq_reason)
    assert.equal("asker", headers.dlq_handler)
    assert.matches("concurrency_spec.lua:%d+: in function 'deep'", headers.dlq_traceback)
    assert.equal(2, stats(bus).retries)
  end)

  it("may be moonbus.dead, moonbus.retry, or asked retry_if", function()
    local bus = new { max_retries = 5 }
    local runs, asked = {}, {}
    bus:subscribe(Asked, function(event, ctx)
      runs[event.n] = (runs[event.n] or 0) + 1
      moonbus.sleep(0.002)
      if event.n == 1 then moonbus.dead "of old age" end
      if event.n == 2 and ctx.attempt == 1 then moonbus.retry { after = 0.01, reason = "later" } end
      if event.n == 3 then error { type = "Hopeless", message = "as it is" } end
      if event.n == 4 and ctx.attempt < 3 then return nil, "not yet" end
    end, { retry_if = function(err, ctx)
      asked[#asked + 1] = { type(err) == "table" and err.type or err, ctx.key }
      return type(err) == "string" or err.type == "Retry"
    end })
    publish(bus, 4, 4)
    consume_all(bus)
    assert.same({ 1, 2, 1, 3 }, runs)
    local by_type = {}
    for _, letter in ipairs(letters(bus)) do
      by_type[letter.headers.dlq_error_type] = letter.headers.dlq_reason
    end
    assert.same({ Dead = "handler_rejected", Hopeless = "handler_rejected" }, by_type)
    table.sort(asked, function(a, b) return a[1] .. a[2] < b[1] .. b[2] end)
    assert.same({ "Hopeless", support.uuid(3) }, asked[1])
  end)

  it("of a yield that is not moonbus's say so", function()
    local bus = new { max_retries = 0 }
    bus:subscribe(Asked, function() coroutine.yield(1) end)
    publish(bus, 1, 1)
    consume_all(bus)
    assert.matches("attempt to yield from a handler", letters(bus)[1].headers.dlq_error_message)
  end)

  it("are caught by the handler's own pcall, also around a wait", function()
    local bus = new()
    local caught
    bus:subscribe(Asked, function()
      local ok, why = pcall(function()
        moonbus.sleep(0.002)
        error("inside", 0)
      end)
      moonbus.sleep(0.002)
      caught = { ok, why }
    end)
    publish(bus, 1, 1)
    consume_all(bus)
    assert.same({ false, "inside" }, caught)
    assert.equal(1, stats(bus).events_processed_success)
  end)

  it("open a breaker, which holds those too that were running then", function()
    local bus = new { partitions = 1, dlq_breaker_run = 3, dlq_breaker_ratio = 0 }
    local fixed = false
    bus:subscribe(Asked, function()
      moonbus.sleep(0.01)
      if not fixed then moonbus.dead "broken" end
    end)
    publish(bus, 20, 20)
    support.consume(bus)
    wait.till(function()
      local now = stats(bus)
      return now.breakers_open == 1 and now.events_running == 0
    end, "the breaker")
    fixed = true
    assert.equal(1, bus:reset_breaker())
    wait.settled(bus, 20)
    assert.equal(3, stats(bus).messages_sent_to_dlq)
    assert.equal(17, stats(bus).events_processed_success)
  end)

  it("of a value that cannot be read do not reach the handler", function()
    local bus = new()
    local called = 0
    bus:subscribe(Asked, function() called = called + 1 end)
    assert(bus:publish { event_type = "Asked", aggregate_type = "Question", n = "x",
      aggregate_id = support.uuid(1) })
    consume_all(bus)
    assert.equal(0, called)
    assert.equal("deserialization_error", letters(bus)[1].headers.dlq_reason)
  end)
end)

describe("waiting in a handler", function()
  it("for a descriptor ends when it has something, others run meanwhile", function()
    local bus = new()
    local ends, got = {}, {}
    for n = 1, 4 do
      local from, to = pipe()
      ends[n] = { from = from, to = to }
    end
    bus:subscribe(Asked, function(event)
      local from = ends[event.n].from
      got[event.n] = { moonbus.await(from), read(from) }
    end)
    publish(bus, 4, 4)
    support.consume(bus)
    wait.till(function() return stats(bus).events_running == 4 end, "four that wait")
    for _, n in ipairs { 3, 1, 4, 2 } do
      write(ends[n].to, "answer " .. n)
      wait.till(function() return got[n] end, "answer " .. n)
      assert.same({ "r", "answer " .. n }, got[n])
    end
    wait.settled(bus, 4)
  end)

  it("for a descriptor ends in time without, and tells of what is closed or gone", function()
    local bus = new()
    local results = {}
    local from, to = pipe()
    local quiet = pipe()
    local ended, gone = pipe()
    ffi.C.moonbus_spec_close(gone)
    local waits = {
      function() return moonbus.await(quiet, "r", 0.02) end,
      function() return moonbus.await(to, "w", 1) end,
      function() return moonbus.await(to, "rw", 1) end,
      function() return moonbus.await(ended, "r", 1) end,
      function() return moonbus.await(100000, "r", 1) end,
      function() return moonbus.await({ getfd = function() return to end }, "w") end,
      function() return select(2, pcall(moonbus.await, "one")) end,
      function() return select(2, pcall(moonbus.await, from, "x")) end,
    }
    bus:subscribe(Asked, function(event)
      results[event.n] = { waits[event.n]() }
    end)
    publish(bus, #waits, #waits)
    consume_all(bus)
    assert.equal("ETIMEOUT", results[1][3])
    assert.matches("^ETIMEOUT: ", results[1][2])
    assert.equal("w", results[2][1])
    assert.equal("w", results[3][1])
    assert.equal("r", results[4][1])
    assert.equal("EINVAL", results[5][3])
    assert.equal("w", results[6][1])
    assert.matches("expected a descriptor", results[7][1])
    assert.matches('"r", "w" or "rw"', results[8][1])
  end)

  it("blocks its bus where it cannot be left: in a coroutine of the script's", function()
    local bus = new()
    local running, steps = gauge(), {}
    bus:subscribe(Asked, function(event)
      running.enter(event)
      local inner = coroutine.wrap(function()
        moonbus.sleep(0.01)
        coroutine.yield "half"
        moonbus.sleep(0.01)
        return "whole"
      end)
      steps[#steps + 1] = inner()
      steps[#steps + 1] = inner()
      running.leave(event)
    end)
    publish(bus, 3, 3)
    consume_all(bus)
    assert.equal(1, running.most)
    assert.same({ "half", "whole", "half", "whole", "half", "whole" }, steps)
  end)

  it("goes on while another bus's handler blocks", function()
    local bus, other = new(), new { concurrency = 1 }
    local done = 0
    bus:subscribe(Asked, function()
      moonbus.sleep(0.01)
      done = done + 1
    end)
    other:subscribe(Asked, function() wait.till(function() return done == 5 end, "the others") end)
    support.consume(bus, other)
    publish(other, 1, 1)
    publish(bus, 5, 5)
    wait.settled(other, 1)
    assert.equal(5, done)
  end)

  it("outside of handlers blocks, and runs the buses", function()
    local bus = new()
    local from, to = pipe()
    bus:subscribe(Asked, function()
      moonbus.sleep(0.01)
      write(to, "handled")
    end)
    publish(bus, 1, 1)
    support.consume(bus)
    assert.equal("r", moonbus.await(from, "r", 20))
    assert.equal("handled", read(from))
    assert.is_nil((moonbus.await(from, "r", 0.01)))
  end)
end)

describe("stopping while handlers wait", function()
  it("lets them finish, and begins no others", function()
    local bus = new { concurrency = 4 }
    local started, finished, stopping = 0, 0, false
    bus:subscribe(Asked, function()
      started = started + 1
      wait.till(function() return stopping end, "the stop")
      moonbus.sleep(0.05)
      finished = finished + 1
    end)
    publish(bus, 20, 20)
    support.consume(bus)
    wait.till(function() return started == 4 end, "four")
    stopping = true
    assert.is_true(bus:stop_consuming())
    assert.equal(4, finished)
    assert.equal(4, started)
    assert.equal(4, stats(bus).events_processed_success)
  end)

  it("lets them finish when it disconnects, too, and delivers nothing twice", function()
    local options = { topic_prefix = support.name "stop", consumer_group = support.name "group" }
    local bus = new(options)
    local started, finished, leaving = 0, {}, false
    local function handler(event)
      started = started + 1
      if started > 1 then wait.till(function() return leaving end, "the end") end
      moonbus.sleep(0.03)
      finished[#finished + 1] = event.n
    end
    bus:subscribe(Asked, handler)
    publish(bus, 20, 20)
    support.consume(bus)
    wait.till(function() return #finished >= 1 end, "one")
    leaving = true
    assert.is_true(bus:disconnect())
    assert(#finished < 20, #finished)
    local second = new(options)
    second:subscribe(Asked, handler)
    consume_all(second)
    table.sort(finished)
    assert.equal(20, #finished)
    for n = 1, 20 do assert.equal(n, finished[n]) end
  end)

  it("abandons who takes longer than shutdown_timeout; the event comes again after that", function()
    local bus, lines = new { shutdown_timeout = 0.2 }
    local go, runs, told = false, 0, nil
    bus:subscribe(Asked, function(_, ctx)
      runs = runs + 1
      if runs > 1 then return end
      while not go do moonbus.sleep(0.01) end
      told = ctx.abandoned
    end)
    publish(bus, 1, 1)
    support.consume(bus)
    wait.till(function() return runs == 1 end, "a run")
    assert.is_true(bus:stop_consuming())
    assert.equal(1, #support.lines_with(lines, "warn", "1 events were still running"))
    support.consume(bus)
    wait.till(function() return stats(bus).events_parked == 1 end, "the event behind its own run")
    assert.equal(1, runs)
    go = true
    wait.till(function() return runs == 2 end, "a second run")
    assert.is_true(told)
    wait.settled(bus, 2)
    assert.equal(1, stats(bus).events_processed_success)
  end)

  it("from inside one of them ends after it", function()
    local bus = new()
    bus:subscribe(Asked, function()
      moonbus.sleep(0.01)
      bus:stop_consuming()
      assert.equal("ESTATE", select(3, bus:disconnect()))
      moonbus.sleep(0.01)
    end)
    publish(bus, 1, 1)
    assert.is_true(bus:start_consuming())
    assert.equal(1, stats(bus).events_processed_success)
  end)
end)

describe("limits on handlers that wait", function()
  it("hold for each stretch of running code, not for the waits", function()
    local bus = new { guard = "strict", handler_timeout_ms = 100, max_retries = 0 }
    local slept, spun = 0, 0
    bus:subscribe(Asked, function(event)
      if event.n > 4 then
        moonbus.sleep(0.02)
        spun = spun + 1
        while true do pcall(function() while true do end end) end
      end
      moonbus.sleep(0.15)
      moonbus.sleep(0.15)
      slept = slept + 1
    end)
    publish(bus, 5, 5)
    consume_all(bus)
    assert.equal(4, slept)
    assert.equal(1, spun)
    local letters = assert(bus:get_dlq_messages { limit = 10 })
    assert.equal(1, #letters)
    assert.equal("handler_timeout", letters[1].headers.dlq_reason)
    assert.matches("concurrency_spec.lua", letters[1].headers.dlq_traceback)
    assert.equal(1, stats(bus).handler_timeouts)
  end)

  it("of memory hold after a wait", function()
    local bus = new { lua_memory_max_bytes = 200e6, max_retries = 0 }
    bus:subscribe(Asked, function()
      moonbus.sleep(0.01)
      local text = ("x"):rep(1e6)
      local list = {}
      for i = 1, 1000 do list[i] = text .. i end
      return #list
    end)
    publish(bus, 1, 1)
    consume_all(bus)
    local letters = assert(bus:get_dlq_messages { limit = 10 })
    assert.equal("out_of_memory", letters[1].headers.dlq_reason)
  end)
end)

describe("idempotent handlers that wait", function()
  it("with a store in memory claim, run side by side and mark", function()
    local bus = new { concurrency = 6, max_retries = 8, retry_base_delay = 0.01 }
    local running, runs, failed = gauge(), {}, {}
    bus:subscribe(Asked, moonbus.idempotent(function(event)
      running.enter(event)
      runs[event.n] = (runs[event.n] or 0) + 1
      wait.till(function() return running.most >= 6 end, "six at once")
      moonbus.sleep(0.01)
      running.leave(event)
      if event.n % 3 == 0 and not failed[event.n] then
        failed[event.n] = true
        error "once"
      end
    end, { store = moonbus.stores.memory { max = 1000 } }))
    local events = {}
    for n = 1, 12 do
      local event = Asked { aggregate_id = support.uuid(n), n = n }
      events[#events + 1], events[#events + 2] = event, event
    end
    assert(bus:publish(events))
    consume_all(bus)
    for n = 1, 12 do assert.equal(n % 3 == 0 and 2 or 1, runs[n]) end
    assert.equal(6, running.most)
    assert.equal(24, stats(bus).events_processed_success)
  end)

  it("with a database wait inside their transaction, one at a time", function()
    local path = os.tmpname()
    local store = moonbus.stores.sqlite { path = path, init = function(tx)
      tx:execute "CREATE TABLE IF NOT EXISTS seen (n INTEGER PRIMARY KEY)"
    end }
    local bus = new()
    local running, plain = gauge(), gauge()
    bus:subscribe(Asked, function(event)
      plain.enter(event)
      moonbus.sleep(0.01)
      plain.leave(event)
    end)
    bus:subscribe(Asked, moonbus.idempotent(function(event, tx)
      running.enter(event)
      tx:execute("INSERT INTO seen (n) VALUES (?)", event.n)
      moonbus.sleep(0.005)
      running.leave(event)
    end, { store = store }))
    publish(bus, 6, 6)
    consume_all(bus)
    local count = store:transaction(function(tx)
      return tx:one("SELECT count(*) AS n FROM seen").n
    end)
    store:close()
    os.remove(path)
    assert.equal(6, count)
    assert.equal(1, running.most)
    assert(plain.most > 1, plain.most)
    assert.equal(6, stats(bus).events_processed_success)
  end)
end)
