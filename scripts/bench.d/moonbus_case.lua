--- moonbus_case.lua: what scripts/bench measures of moonbus, one case a process:
-- BENCH_DIR=(of this file) BENCH_CASE=(one of these) moonbus run moonbus_case.lua
--
--   consume ADDRESS PREFIX COUNT CASE
--   publish ADDRESS PREFIX COUNT BATCH foreground|background
--   receive ADDRESS PREFIX COUNT
--   send ADDRESS PREFIX COUNT RATE
--   idle ADDRESS PREFIX
--   soak ADDRESS PREFIX COUNT
local ffi = require "ffi"
local measure = dofile(os.getenv "BENCH_DIR" .. "/measure.lua")
local moonbus = require "moonbus"
local task = require "moonbus.task"

if os.getenv "BENCH_TRACES" ~= "" then require("jit.v").on(os.getenv "BENCH_TRACES") end

local words = {}
for word in os.getenv("BENCH_CASE"):gmatch "%S+" do words[#words + 1] = word end
local verb, address, prefix, count = words[1], words[2], words[3], tonumber(words[4])

local OrderPlaced = moonbus.event("OrderPlaced", {
  aggregate_type = "Order",
  { "customer_id", "string" },
  { "total_amount", "number" },
  { "currency", "string" },
  { "sent_us", "integer" },
})
local OrderCounted = moonbus.event("OrderCounted", { aggregate_type = "Order" })

local function open(options)
  options.bootstrap_servers = address
  options.topic_prefix = prefix
  options.log_level = "error"
  local bus = moonbus.bus(options)
  assert(bus:connect(30))
  return bus
end

local function group()
  return ("bench-%s"):format(moonbus.uuid())
end

-- ---- consuming ----

-- How a case subscribes: subscribe(bus, step, add). step() is called for each event; add(amount)
-- sums what the handler reads, so that the run can check that it was right.
local cases = {
  typed = function(bus, step, add)
    bus:subscribe(OrderPlaced, function(event)
      if event.customer_id ~= "" then add(event.total_amount) end
      step()
    end)
  end,
  nothing = function(bus, step)
    bus:subscribe(OrderPlaced, function() step() end)
  end,
  untyped = function(bus, step, add)
    moonbus.registry:remove "OrderPlaced"
    bus:subscribe("OrderPlaced", function(event)
      if event.customer_id ~= "" then add(event.total_amount) end
      step()
    end)
  end,
  wildcard = function(bus, step, add)
    bus:subscribe_to_all_events(function(event)
      if event.customer_id ~= "" then add(event.total_amount) end
      step()
    end)
  end,
  exactly_once = function(bus, step, add)
    bus:subscribe(OrderPlaced, function(event)
      add(event.total_amount)
      bus:publish(OrderCounted { aggregate_id = event.aggregate_id }, { background = true })
      step()
    end)
  end,
}

cases.typed_unmeasured = cases.typed

local function idempotently(make_store)
  return function(bus, step, add)
    bus:subscribe(OrderPlaced, moonbus.idempotent(function(event)
      if event.customer_id ~= "" then add(event.total_amount) end
      step()
    end, { name = "bench", store = make_store() }))
  end
end

local database = os.tmpname()

cases.idempotent_memory = idempotently(function()
  return moonbus.stores.memory { max = 1000000 }
end)
cases.idempotent_sqlite = idempotently(function()
  return moonbus.stores.sqlite { path = database }
end)

local COUNTED = 1000

local function consume(case)
  local options = { consumer_group = group(), enable_metrics = case ~= "typed_unmeasured" }
  if case == "exactly_once" then
    options.delivery = "exactly_once"
    options.compression_type = "lz4"
    options.batch_size = 1000000
  end
  local bus = open(options)
  local seen, sum = 0, 0
  local middle = math.floor(count / 2)
  local function step()
    seen = seen + 1
    if seen == 1 then measure.start() end
    if seen == middle then measure.count_lua() end
    if seen == middle + COUNTED then measure.lua_counted(COUNTED) end
    if seen == count then
      measure.stop()
      bus:stop_consuming()
    end
  end
  assert(cases[case], "no such case")(bus, step, function(amount) sum = sum + amount end)
  assert(bus:start_consuming())
  bus:disconnect()
  for _, suffix in ipairs { "", "-wal", "-shm" } do os.remove(database .. suffix) end
  -- until the bus has stopped it may handle a few events more
  assert(seen >= count, "not all events came")
  measure.print(count, { sum = seen == count and sum or nil })
end

-- ---- publishing ----

local function publisher(options)
  options.compression_type = "lz4"
  options.batch_size = 1000000 -- librdkafka's own default, which the raw producer has too
  return open(options)
end

local function keys()
  local list = {}
  for i = 1, 1000 do list[i] = moonbus.uuid() end
  return list
end

local function make(key, number, sent_us)
  return OrderPlaced {
    aggregate_id = key, customer_id = ("CUST-%d"):format(100000 + number % 900000),
    total_amount = number % 1000 + 0.5, currency = "EUR", sent_us = sent_us,
  }
end

local function publish(batch_size, how)
  local bus = publisher {}
  local list = keys()
  local options = { background = how == "background" }
  local sent = 0
  measure.start()
  while sent < count do
    local batch = {}
    local counting = sent == math.floor(count / 2 / batch_size) * batch_size
    if counting then measure.count_lua() end
    for i = 1, math.min(batch_size, count - sent) do
      batch[i] = make(list[(sent + i) % #list + 1], sent + i, 1000000000000 + sent)
    end
    local receipt = assert(bus:publish(batch, options))
    assert(receipt.count == #batch, "not all were taken")
    sent = sent + #batch
    if counting then measure.lua_counted(#batch) end
    if options.background then task.turn(0) end
  end
  assert(bus:flush(60))
  measure.stop()
  local stats = bus:get_stats_dict()
  bus:disconnect()
  assert(stats.events_published == count and stats.publish_errors == 0, "not all were delivered")
  measure.print(count)
end

-- ---- latency ----

-- The first tenth is warming up and does not count.
local function receive()
  local late, seen, ready = ffi.new("double[?]", count), 0, false
  local bus = open { consumer_group = group() }
  bus:subscribe(OrderPlaced, function(event)
    if seen < count then late[seen] = moonbus.now() * 1e6 - event.sent_us end
    seen = seen + 1
    if seen == count then bus:stop_consuming() end
  end)
  local consuming = assert(bus:start_consuming_in_background())
  while not consuming:done() do
    if not ready and bus.native:stats().assigned_count > 0 then
      ready = true
      io.write "ready\n"
      io.flush()
    end
    if ready then assert(consuming:wait()) else task.turn(0.02) end
  end
  bus:disconnect()
  local list = {}
  for i = math.floor(count / 10), count - 1 do list[#list + 1] = late[i] end
  table.sort(list)
  local function at(share) return math.floor(list[math.floor((#list - 1) * share) + 1]) end
  print(moonbus.json.encode { events = seen, p50_us = at(0.5), p95_us = at(0.95),
                              p99_us = at(0.99), max_us = at(1) })
end

ffi.cdef [[ int usleep(unsigned int microseconds); ]]

-- See raw_publish.c on the schedule.
local function send(rate)
  local bus = publisher { linger_ms = 1 }
  local list, background = keys(), { background = true }
  local start = math.floor(moonbus.now() * 1e6) + 100000
  local i = 0
  while i < count do
    local now = moonbus.now() * 1e6
    local batch = {}
    while i < count and start + math.floor(i * 1e6 / rate) <= now do
      batch[#batch + 1] = make(list[i % #list + 1], i, start + math.floor(i * 1e6 / rate))
      i = i + 1
    end
    if batch[1] then assert(bus:publish(batch, background)) end
    task.turn(0)
    local wait = start + math.floor(i * 1e6 / rate) - moonbus.now() * 1e6
    if wait > 0 then ffi.C.usleep(wait) end
  end
  assert(bus:flush(60))
  local stats = bus:get_stats_dict()
  bus:disconnect()
  assert(stats.events_published == count, "not all were delivered")
  print(moonbus.json.encode { events = count })
end

-- ---- doing nothing ----

local function idle()
  local bus = open { consumer_group = group() }
  bus:subscribe(OrderPlaced, function() end)
  local consuming = assert(bus:start_consuming_in_background())
  while not bus.native:is_idle() do task.turn(0.1) end
  task.turn(0.5)
  consuming:cancel()
  consuming:wait()
  bus:disconnect()
  print(moonbus.json.encode { events = 0, peak_kb = measure.peak_kb() })
end

-- ---- for long ----

-- What it takes after a tenth of the events, a half, and all.
local function soak()
  local bus = open { consumer_group = group() }
  local seen, sum, before, next_mark, marks = 0, 0, 0, 1, {}
  local at = { math.floor(count / 10), math.floor(count / 2), count }
  local cpu
  local function mark()
    local now = measure.cpu_seconds()
    marks[next_mark] = { events = seen, resident_mib = measure.resident_kb() / 1024,
      lua_mib = collectgarbage "count" / 1024,
      cpu_seconds_per_million = (now - cpu) / (seen - before) * 1e6 }
    before, cpu, next_mark = seen, measure.cpu_seconds(), next_mark + 1
  end
  bus:subscribe(OrderPlaced, function(event)
    if event.customer_id ~= "" then sum = sum + event.total_amount end
    cpu = cpu or measure.cpu_seconds()
    seen = seen + 1
    if seen == at[next_mark] then mark() end
    if seen == count then bus:stop_consuming() end
  end)
  assert(bus:start_consuming())
  bus:disconnect()
  print(moonbus.json.encode { events = seen, marks = marks, peak_kb = measure.peak_kb(),
                              sum = sum })
end

if verb == "consume" then consume(words[5])
elseif verb == "publish" then publish(tonumber(words[5]), words[6])
elseif verb == "receive" then receive()
elseif verb == "send" then send(tonumber(words[5]))
elseif verb == "idle" then idle()
elseif verb == "soak" then soak()
else error("moonbus_case: see its head", 0) end
