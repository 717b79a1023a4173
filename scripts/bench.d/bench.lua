--- bench.lua: runs the cases of scripts/bench round by round, and reports. Run by scripts/bench.
local dir = assert(os.getenv "BENCH_DIR")
local moonbus = require "moonbus"
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"
local cases = dofile(dir .. "/cases.lua")
local report = dofile(dir .. "/report.lua")
local svg = dofile(dir .. "/svg.lua")

-- ---- options ----

local options = { ["repeat"] = 5 }
do
  local takes = { events = "number", ["repeat"] = "number", only = "text", svg = "text",
                  traces = "text" }
  local i = 1
  while arg[i] do
    local name = arg[i]:match "^%-%-(%a+)$"
    if name == "quick" or name == "json" or name == "soak" then options[name] = true
    elseif takes[name] and arg[i + 1] then
      i = i + 1
      options[name] = takes[name] == "number" and tonumber(arg[i]) or arg[i]
    else
      io.stderr:write("bench: what is ", arg[i], "? see scripts/bench --help\n")
      os.exit(2)
    end
    i = i + 1
  end
  if options.quick then options.events, options["repeat"] = 20000, 1 end
  options.events = options.events or options.soak and 10000000 or 1000000
  local rounds = options["repeat"]
  if type(options.events) ~= "number" or options.events < 1000 or type(rounds) ~= "number"
    or rounds < 1 then
    io.stderr:write "bench: --events takes 1000 or more, --repeat 1 or more\n"
    os.exit(2)
  end
end

local context = {
  dir = dir, tmp = os.getenv "BENCH_TMP", address = assert(os.getenv "BENCH_KAFKA"),
  build = assert(os.getenv "MOONBUS_BUILD"),
  python = assert(os.getenv "BENCH_PYTHON"), luajit = "luajit",
  limit = options.quick and 120 or 1200,
  prefix = "bench-" .. moonbus.uuid():sub(1, 8),
}

-- A file of so many events, one to a line; it is there until the run ends.
local lines = {}
function context.lines_of(count)
  if lines[count] then return lines[count] end
  lines[count] = ("%s/lines-%d.json"):format(tmp.dir(), count)
  local file = assert(io.open(lines[count], "w"))
  for i = 1, count do
    assert(file:write(('{"event_type":"OrderPlaced","aggregate_type":"Order",'
      .. '"aggregate_id":"00000000-0000-4000-8000-%012d","order_id":%d,"amount":%d.5}\n')
      :format(i % 100000, i, i % 1000)))
  end
  assert(file:close())
  return lines[count]
end

context.raw = context.build .. "/tests/bench_raw"
context.raw_jemalloc = context.raw .. "_jemalloc"

local function say(...)
  io.stderr:write("bench: ", string.format(...), "\n")
end

-- ---- the machine ----

local function first_line(path, pattern)
  for line in io.lines(path) do
    local found = line:match(pattern)
    if found then return found end
  end
  return "?"
end

local function load_average()
  return tonumber(first_line("/proc/loadavg", "^(%S+)"))
end

local function cores()
  local count = 0
  for line in io.lines "/proc/cpuinfo" do
    if line:find "^processor" then count = count + 1 end
  end
  return count
end

local machine = {
  cores = cores(), cpu = first_line("/proc/cpuinfo", "^model name%s*:%s*(.*)"),
  kernel = first_line("/proc/sys/kernel/osrelease", "(.*)"),
  librdkafka = process.run({ context.raw, "version" }).stdout:match "%S+",
  luajit = jit.version, kafka = os.getenv "BENCH_KAFKA_VERSION" or "?", -- luacheck: ignore
  load_before = load_average(),
}
machine.line = ("%d cores (%s), Linux %s, librdkafka %s, %s, %s, load before %.1f"):format(
  machine.cores, machine.cpu, machine.kernel, machine.librdkafka, machine.luajit, machine.kafka,
  machine.load_before)

do
  local other = moonbus.features().librdkafka
  if other ~= machine.librdkafka then
    say("moonbus runs on librdkafka %s, %s on %s: they must run on the same one", other,
      context.raw, tostring(machine.librdkafka))
    os.exit(1)
  end
end

-- ---- the run ----

if options.traces then options.only, options["repeat"] = options.traces, 1 end
local chosen
if options.only then
  chosen = {}
  for name in options.only:gmatch "[^,]+" do chosen[name] = true end
end

local list = cases.list(context)
local known = {}
for _, case in ipairs(list) do
  case.runs, known[case.name] = {}, true
  case.chosen = not case.missing and (not chosen or chosen[case.name])
end
for name in pairs(chosen or {}) do
  if not known[name] then
    local names = {}
    for _, case in ipairs(list) do names[#names + 1] = case.name end
    say("no case %s; there are: %s", name, table.concat(names, ", "))
    os.exit(2)
  end
end

local function count_of(case)
  if case.rate then return options.quick and case.rate / 2 or case.rate * 5 end
  local count = math.floor(options.events * (case.share or 0))
  return math.max(count, math.min(options.events, 20))
end

-- What the handlers read must add up to what was published.
local function check(case, count, run)
  if (run.counted or run.events) ~= count and case.group ~= "idle" then
    error(("%d of %d events counted"):format(run.events, count), 0)
  end
  if case.sum and count == options.events and run.sum ~= options.sum then
    error(("the fields read add up to %s, not %s"):format(tostring(run.sum),
      tostring(options.sum)), 0)
  end
end

local failures = 0

local function run_round(round)
  for _, case in ipairs(list) do
    if case.chosen then
      local count = count_of(case)
      local ok, run = pcall(case.run, count)
      local why = run
      if ok then ok, why = pcall(check, case, count, run) end
      if ok then
        run.round = round
        case.runs[round] = run
      else
        failures = failures + 1
        case.failure = tostring(why)
        say("round %d, %s did not run: %s", round, case.name, case.failure)
      end
    end
  end
  say("round %d of %d done", round, options["repeat"])
end

local function fill()
  cases.topic(context, "topic", context.prefix)
  cases.topic(context, "topic", context.prefix .. "-published")
  local run = process.run({ context.raw, "publish", context.address, context.prefix .. ".stream",
    tostring(options.events), "0" }, { timeout = context.limit })
  if run.code ~= 0 then error(run.stderr, 0) end
  options.sum = moonbus.json.decode(run.stdout).sum
end

local function busy()
  local idle_load = machine.cores * 0.25
  if machine.load_before <= idle_load then return end
  machine.busy = true
  say("NOTE: the machine is busy (load %.1f on %d cores). Absolute figures mean little; the ratios "
    .. "are of neighbours in one round, their spread shows how far to trust them.",
    machine.load_before, machine.cores)
end

say("%s", machine.line)
busy()
if options.soak then
  local soak = dofile(dir .. "/soak.lua")
  say("%d events, Kafka at %s", options.events, context.address)
  local run = soak.run(context, options.events)
  run.machine = machine
  print(options.json and moonbus.json.encode(run) or machine.line .. "\n\n" .. soak.text(run))
  os.exit(0, true)
end
say("%d events, %d rounds, Kafka at %s", options.events, options["repeat"], context.address)
fill()
if options.traces then context.traces = os.tmpname() end
for round = 1, options["repeat"] do run_round(round) end
pcall(cases.topic, context, "untopic", context.prefix)
pcall(cases.topic, context, "untopic", context.prefix .. "-published")
process.clean()
tmp.clean()

if options.traces then
  local file = assert(io.open(context.traces))
  io.write(file:read "*a")
  file:close()
  os.remove(context.traces)
  os.exit(failures > 0 and 1 or 0, true)
end

-- ---- what it showed ----

local by_name = report.summarize(list)
local targets = report.targets(by_name)

if options.json then
  local out = { machine = machine, events = options.events, rounds = options["repeat"], cases = {},
                targets = targets }
  for i, case in ipairs(list) do
    local runs = {}
    for round = 1, options["repeat"] do runs[#runs + 1] = case.runs[round] end
    out.cases[i] = { name = case.name, group = case.group, title = case.title,
                     built = not case.missing, summary = case.summary, failure = case.failure,
                     runs = #runs > 0 and runs or nil }
  end
  print(moonbus.json.encode(out))
else
  print(machine.line)
  if machine.busy then print "The machine was busy with other work: mind the spread." end
  print(("%d events of about 450 bytes and 7 headers, lz4, 4 partitions; medians of %d rounds, "
    .. "ratios round by round (lowest to highest)\n"):format(options.events, options["repeat"]))
  print(report.text(list, targets))
end
if options.svg then
  local file = assert(io.open(options.svg, "w"))
  file:write(svg.draw(list, machine.line, report.number))
  file:close()
end
os.exit(failures > 0 and 1 or 0, true)
