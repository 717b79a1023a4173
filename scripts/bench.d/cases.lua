--- cases.lua: what scripts/bench measures: for each case a name, what it is measured against, how
-- many of the events it gets, and how to run it once.
local process = require "tests.support.process"
local moonbus = require "moonbus"

local cases = {}

-- What a group of cases is measured against.
local BASES = { consume = "raw", publish = "raw-publish", lines = "lines-kcat" }

--- context: address, prefix, dir (of the sources), raw, python, luajit, tmp, limit (seconds).
function cases.list(context)
  local list = {}
  local main, published = context.prefix, context.prefix .. "-published"

  local function json_of(argv, options)
    options = options or {}
    options.timeout = context.limit
    local run = process.run(argv, options)
    local line = run.stdout:match "({[^\n]*})%s*$"
    if run.code ~= 0 or not line then
      error(("%s: exit code %s\n%s%s"):format(table.concat(argv, " "), tostring(run.code),
        run.stdout, run.stderr), 0)
    end
    return assert(moonbus.json.decode(line))
  end

  local function raw(...) return json_of { context.raw, ... } end
  local jemalloc = process.run { "test", "-x", context.raw_jemalloc }.code == 0
  local function lua(...)
    return json_of(cases.moonbus(context, ...))
  end
  local function python(...) return json_of { context.python, context.dir .. "/peers.py", ... } end

  -- share: part of the events, so that slow ones do not take hours; at least `least` of them.
  local function add(group, name, title, share, run, more)
    local case = { group = group, name = name, title = title, share = share, run = run,
                   against = BASES[group] }
    for key, value in pairs(more or {}) do case[key] = value end
    list[#list + 1] = case
  end

  -- ---- consuming ----
  local stream = main .. ".stream"
  local function raw_consume(how, fetch)
    return function(count)
      return raw("consume", context.address, stream, tostring(count), how, fetch)
    end
  end
  local function consume(what)
    return function(count)
      return lua("consume", context.address, main, tostring(count), what)
    end
  end
  add("consume", "raw", "C on librdkafka, event_type header looked up", 1,
    raw_consume("header", "long"))
  add("consume", "typed", "moonbus, typed handler reading two fields", 1, consume "typed",
    { sum = true })
  add("consume", "typed-unmeasured", "the same, enable_metrics = false", 1,
    consume "typed_unmeasured", { sum = true })
  add("consume", "nothing", "moonbus, handler reading nothing", 1, consume "nothing")
  add("consume", "untyped", "moonbus, undeclared type", 0.5, consume "untyped", { sum = true })
  add("consume", "wildcard", "moonbus, subscribed to all events", 1, consume "wildcard",
    { sum = true })
  add("consume", "workers-2", "moonbus, typed handler, 2 workers", 1, function(count)
    return cases.run_workers(context, main, count, 2)
  end)
  add("consume", "exactly-once", "moonbus, exactly_once, an event published for each", 0.2,
    function(count) -- on a topic of its own, for that is where it publishes
      return cases.with_topic(context, "exactly-once", function(prefix)
        raw("publish", context.address, prefix .. ".stream", tostring(count), "0")
        return lua("consume", context.address, prefix, tostring(count), "exactly_once")
      end)
    end)
  add("consume", "idempotent-memory", "moonbus, idempotent in memory", 1,
    consume "idempotent_memory", { missing = not moonbus.idempotent })
  add("consume", "idempotent-sqlite", "moonbus, idempotent in SQLite", 0.2,
    consume "idempotent_sqlite", { missing = not moonbus.idempotent })
  add("consume", "raw-jemalloc", "the same C with jemalloc, which the program moonbus has", 1,
    function(count)
      return json_of { context.raw_jemalloc, "consume", context.address, stream, tostring(count),
        "header", "long" }
    end, { missing = not jemalloc })
  add("consume", "raw-defaults", "the same C, librdkafka's default queue limits", 1,
    raw_consume("header", "defaults"))
  add("consume", "raw-count", "the same C, touching nothing", 1, raw_consume("nothing", "long"))
  add("consume", "confluent", "confluent-kafka-python, json", 1, function(count)
    return python("confluent", context.address, stream, tostring(count))
  end, { sum = true })
  add("consume", "aiokafka", "aiokafka, json", 0.1, function(count)
    return python("aiokafka", context.address, stream, tostring(count))
  end, { sum = true })
  add("consume", "eventsource", "eventsource-py 0.5.0", 0.0005, function(count)
    return python("eventsource", context.address, main, tostring(count))
  end, { sum = true })

  -- ---- publishing ----
  local topic = published .. ".stream"
  local function raw_publish(batch)
    return function(count)
      return raw("publish", context.address, topic, tostring(count), tostring(batch))
    end
  end
  add("publish", "raw-publish", "C on librdkafka, all at once", 1, raw_publish(0))
  add("publish", "raw-publish-jemalloc", "the same C with jemalloc", 1, function(count)
    return json_of { context.raw_jemalloc, "publish", context.address, topic, tostring(count), "0" }
  end, { missing = not jemalloc })
  add("publish", "raw-publish-1000", "the same C, waiting for each 1,000", 0.2, raw_publish(1000))
  for _, batch in ipairs { 1000, 100, 1 } do
    for _, how in ipairs { "background", "foreground" } do
      local share = how == "background" and 1 or batch == 1 and 0.001 or batch == 100 and 0.04
      add("publish", ("publish-%d-%s"):format(batch, how),
        ("moonbus, batches of %d, %s"):format(batch, how), share or 0.2, function(count)
          return lua("publish", context.address, published, tostring(count), tostring(batch), how)
        end)
    end
  end
  add("publish", "eventsource-publish", "eventsource-py 0.5.0, batches of 100", 0.0005,
    function(count)
      return python("eventsource-publish", context.address, published, tostring(count), "100")
    end)

  -- ---- lines of a file, from the start of the program to its end ----
  local function whole(command)
    return function(count)
      local file = context.lines_of(count)
      return json_of { context.luajit, context.dir .. "/whole.lua", tostring(count),
        (command:gsub("%$(%w+)", { topic = topic, prefix = published, address = context.address,
                                   moonbus = context.build .. "/moonbus", file = file })) }
    end
  end
  local has_kcat = process.run { "sh", "-c", "command -v kcat" }.code == 0
  local function publish_by(compression)
    return whole(("exec $moonbus publish $file --bootstrap-servers $address --topic-prefix $prefix"
      .. " --set compression_type=%s >/dev/null 2>&1"):format(compression))
  end
  local function kcat_by(compression)
    return whole(("exec kcat -P -b $address -t $topic -X enable.idempotence=true -z %s <$file")
      :format(compression))
  end
  add("lines", "lines-kcat", "kcat -P, lz4, idempotent; no checks, ids or headers", 0.5,
    kcat_by "lz4", { missing = not has_kcat })
  add("lines", "lines-moonbus", "moonbus publish, lz4", 0.5, publish_by "lz4")
  add("lines", "lines-kcat-gzip", "kcat, gzip", 0.5, kcat_by "gzip", { missing = not has_kcat })
  add("lines", "lines-moonbus-gzip", "moonbus publish, gzip (the default)", 0.5,
    publish_by "gzip", { against = "lines-kcat-gzip" })

  -- ---- latency ----
  local function latency(name, title, rate, who)
    add("latency", name, title, nil, function(count)
      return cases.run_latency(context, who, rate, count)
    end, { against = "raw-latency-" .. rate, rate = rate })
  end
  for _, rate in ipairs { 1000, 20000 } do
    latency("raw-latency-" .. rate, ("C on librdkafka, %d/s"):format(rate), rate, "raw")
    latency("latency-" .. rate, ("moonbus, %d/s"):format(rate), rate, "moonbus")
  end

  add("idle", "idle", "moonbus, a worker with nothing to do", nil, function()
    return cases.with_topic(context, "idle", function(prefix)
      return lua("idle", context.address, prefix)
    end)
  end)
  return list
end

--- The command that runs a case of moonbus_case.lua, and how it is to be run.
function cases.moonbus(context, ...)
  return { context.build .. "/moonbus", "run", context.dir .. "/moonbus_case.lua" },
    { env = { BENCH_CASE = table.concat({ ... }, " "), BENCH_DIR = context.dir,
              BENCH_TRACES = context.traces or "" } }
end

local made = 0

--- Call fn with the prefix of a fresh topic, and delete that.
function cases.with_topic(context, what, fn)
  made = made + 1
  local prefix = ("%s-%s-%d"):format(context.prefix, what, made)
  cases.topic(context, "topic", prefix)
  local ok, result = pcall(fn, prefix)
  cases.topic(context, "untopic", prefix)
  if not ok then error(result, 0) end
  return result
end

function cases.topic(context, verb, prefix)
  local run = process.run({ context.raw, verb, context.address, prefix .. ".stream" },
    { timeout = 60 })
  if run.code ~= 0 then error(run.stderr, 0) end
end

--- The sender starts once the receiver has its partitions.
function cases.run_latency(context, who, rate, count)
  return cases.with_topic(context, "latency", function(prefix)
    local function command(verb, ...)
      if who == "raw" then
        return { context.raw, verb, context.address, prefix .. ".stream", ... }, {}
      end
      return cases.moonbus(context, verb, context.address, prefix, ...)
    end
    local receiver = process.start(command("receive", tostring(count)))
    receiver:wait_for("ready", context.limit)
    local numbers = who == "raw" and { tostring(rate), tostring(count) }
      or { tostring(count), tostring(rate) }
    local argv, options = command("send", unpack(numbers))
    options.timeout = context.limit
    local sender = process.run(argv, options)
    if sender.code ~= 0 then
      receiver:stop(process.SIGKILL)
      error(sender.stderr, 0)
    end
    receiver:wait(context.limit)
    local line = receiver.stdout:match "({[^\n]*})%s*$"
    if receiver.code ~= 0 or not line then error(receiver.stdout .. receiver.stderr, 0) end
    return assert(moonbus.json.decode(line))
  end)
end

--- Several workers under one supervisor; measured from when they share the partitions.
function cases.run_workers(context, prefix, count, workers)
  local out = os.tmpname()
  local run = process.run({ context.build .. "/moonbus", "run", context.dir .. "/workers.lua",
    "--workers", tostring(workers), "--until-idle", "1" }, {
    timeout = context.limit,
    env = { BENCH_DIR = context.dir, BENCH_OUT = out, BENCH_PREFIX = prefix,
            BENCH_GROUP = "bench-" .. moonbus.uuid(), BENCH_WORKERS = tostring(workers),
            MOONBUS_BOOTSTRAP_SERVERS = context.address },
  })
  local total, shared = 0, { events = 0, cpu_seconds = 0, peak_kb = 0 }
  for line in io.lines(out) do
    local part = moonbus.json.decode(line)
    total = total + part.events
    if not part.alone then
      shared.events = shared.events + part.events
      shared.cpu_seconds = shared.cpu_seconds + part.cpu_seconds
      shared.peak_kb = shared.peak_kb + part.peak_kb
      shared.start = math.min(shared.start or part.start, part.start)
      shared.stop = math.max(shared.stop or part.stop, part.stop)
    end
  end
  os.remove(out)
  if run.code ~= 0 or total < count then
    error(("%d of %d events handled by %d workers\n%s"):format(total, count, workers, run.stderr),
      0)
  end
  assert(shared.start, "the workers never shared the partitions")
  shared.seconds = shared.stop - shared.start
  shared.counted = count -- some of them while the first worker was alone
  return shared
end

return cases
