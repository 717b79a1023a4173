-- chaos.lua: publish, break things, and account for every event. Run by scripts/chaos.
local moonbus = require "moonbus"
local process = require "tests.support.process"

local KEYS, BATCH, PARTITIONS = 60, 40, 4
local BEHIND = 2000 -- events published and not settled yet, beyond which publishing waits
local STUCK_SECONDS = 90 -- nothing more is settled for so long: it never will be

-- ---- options ----

local options = {
  seed = os.time(), minutes = 1, delivery = "at_least_once", workers = 4, rate = 400, brokers = 1,
}
do
  local i = 1
  while arg[i] do
    local name = arg[i]:match "^%-%-(%a+)$"
    if name == "keep" then i = i + 1 -- of scripts/chaos
    elseif name == "json" then options.json = true
    elseif name and options[name] ~= nil and arg[i + 1] then
      i = i + 1
      options[name] = type(options[name]) == "number" and tonumber(arg[i]) or arg[i]
    else
      io.stderr:write("chaos: what is ", arg[i], "? see scripts/chaos --help\n")
      os.exit(2)
    end
    i = i + 1
  end
end
if options.brokers ~= 1 and options.brokers ~= 3 then
  io.stderr:write("chaos: --brokers: expected 1 or 3, got ", tostring(options.brokers), "\n")
  os.exit(2)
end
math.randomseed(options.seed)
local exactly_once = options.delivery == "exactly_once"

local dir = assert(os.getenv "CHAOS_DIR")
local source = debug.getinfo(1, "S").source:match "^@(.*)/scripts/chaos%.d/" or "."
local prefix = "chaos-" .. options.seed
local effects_path = dir .. "/effects"

local faults = {}
local faults_file = assert(io.open(dir .. "/faults", "a"))

local function note(what, times, which)
  faults[what] = (faults[what] or 0) + (times or 1)
  if times then return end -- each of them is in the file already
  faults_file:write(("%s %s %s\n"):format(os.date "!%FT%TZ", what, which or ""))
  faults_file:flush()
end

local kafka = dofile(source .. "/scripts/chaos.d/brokers.lua") {
  brokers = options.brokers, dir = dir .. "/kafka", faults = dir .. "/faults",
  control = source .. "/scripts/kafka", source = source, python = os.getenv "CHAOS_PYTHON",
  seed = options.seed, note = note,
}

local function chance(share) return math.random() < share end
local function one_of(list) return list[math.random(#list)] end

-- ---- the processes ----

local environment = {
  CHAOS_PREFIX = prefix, CHAOS_DELIVERY = options.delivery,
  CHAOS_EFFECTS = effects_path, CHAOS_LOG = os.getenv "CHAOS_LOG",
}
for name, value in pairs(kafka.settings) do environment["MOONBUS_" .. name:upper()] = value end
local worker = source .. "/scripts/chaos.d/worker.lua"

local function start_supervisor(workers)
  return process.start(process.moonbus("run", worker, "--workers", tostring(workers)),
    { env = environment })
end

local ffi = require "ffi"
local SIGKILL, SIGTERM, SIGSTOP, SIGCONT = 9, 15, 19, 18

-- ---- publishing ----

local Step = moonbus.event("Step", {
  aggregate_type = "Key",
  { "seq", "integer" },
  { "mode", "string" },
})
local settings = {
  topic_prefix = prefix, delivery_timeout_ms = 120000, reconnect_backoff_ms = 100,
  reconnect_backoff_max_ms = 1000, log_level = "error",
}
for name, value in pairs(kafka.settings) do settings[name] = value end
local bus = moonbus.bus(settings)
assert(bus:connect(30))
assert(bus.native:topic_partitions() == PARTITIONS)
assert(bus.native:topic_create(bus.config.dlq_topic_name, PARTITIONS, 0))

local keys, last, acked = {}, {}, {} -- acked[key][seq] = true
for i = 1, KEYS do
  keys[i] = moonbus.uuid()
  last[keys[i]], acked[keys[i]] = 0, {}
end

local counts = { published = 0, unknown = 0, repeated = 0, garbage = 0 }
local repeats = {} -- "key seq" -> times published beyond the first

local MODES = {}
for mode, share in pairs { fine = 1840, slow = 60, fail = 80, dead = 16, crash = 3, spin = 1 } do
  for _ = 1, share do MODES[#MODES + 1] = mode end
end
table.sort(MODES) -- pairs has no order of its own; the seed decides

local function publish_batch()
  local batch, steps = {}, {}
  for i = 1, BATCH do
    local key = one_of(keys)
    last[key] = last[key] + 1
    steps[i] = { key, last[key] }
    batch[i] = Step { aggregate_id = key, seq = last[key], mode = one_of(MODES) }
  end
  local receipt, _, _, failures = bus:publish(batch)
  local failed = {}
  for _, failure in ipairs(failures or {}) do failed[failure.index] = true end
  for i, step in ipairs(steps) do
    if receipt or (failures and not failed[i]) then
      acked[step[1]][step[2]] = true
      counts.published = counts.published + 1
    else
      counts.unknown = counts.unknown + 1
    end
  end
  -- The same event once more, as an upstream that retries would send it.
  if receipt and chance(0.2) then
    local i = math.random(BATCH)
    if batch[i].mode == "fine" and bus:publish(batch[i]) then
      local name = steps[i][1] .. " " .. steps[i][2]
      repeats[name] = (repeats[name] or 0) + 1
      counts.repeated = counts.repeated + 1
    end
  end
end

local function publish_garbage()
  local bytes = {}
  for i = 1, math.random(1, 60) do bytes[i] = string.char(math.random(33, 126)) end
  local run = process.run({ "kcat", "-P", "-b", kafka.direct, "-t", bus.config.topic_name, "-k",
    one_of(keys), "-H", "event_type=Step" }, { input = table.concat(bytes), timeout = 60 })
  if run.code == 0 then counts.garbage = counts.garbage + 1 end
end

-- ---- breaking ----

local supervisor = start_supervisor(options.workers)
local member
local frozen = {} -- pid -> when to go on

local function victim() return one_of(supervisor:children()) end

local breakers = {
  function() -- a worker dies
    local pid = victim()
    if pid and ffi.C.kill(pid, SIGKILL) == 0 then note("worker kill -9", nil, pid) end
  end,
  function() -- a worker freezes, perhaps for longer than its session
    local pid = victim()
    if pid and ffi.C.kill(pid, SIGSTOP) == 0 then
      frozen[pid] = moonbus.now() + one_of { 1, 3, 9 }
      note("worker kill -STOP", nil, ("%d, %g s"):format(pid, frozen[pid] - moonbus.now()))
    end
  end,
  function() -- a member joins, or leaves, in good order or not
    if member then
      if chance(0.5) then member:stop(SIGTERM, 30) note "member left"
      else member:stop(SIGKILL, 30) note "member kill -9" end
      member = nil
    else
      member = start_supervisor(2)
      note "member joined"
    end
  end,
  function() -- all of it is restarted
    if next(frozen) then return end
    supervisor:stop(SIGTERM, 40)
    supervisor = start_supervisor(options.workers)
    note "supervisor kill -TERM"
  end,
}

local function thaw(all)
  for pid, when in pairs(frozen) do
    if all or moonbus.now() >= when then
      ffi.C.kill(pid, SIGCONT)
      frozen[pid] = nil
    end
  end
end

-- ---- accounting ----

-- What was seen so far, in the order it took effect.
local found = { effects = {}, effect_of = {}, letters = 0, garbage = 0, dead = {}, reasons = {},
  settled = 0 }
local read_up_to = {} -- topic .. partition -> offset

-- Records that came since the last call. true, or nil and why not all could be read.
local function read_new(topic, timeout_ms, fn)
  for partition = 0, PARTITIONS - 1 do
    local place = topic .. partition
    local from = { topic = topic, partition = partition, offset = read_up_to[place] or 0,
      timeout_ms = timeout_ms }
    local ok, err = bus:read(from, function(record)
      read_up_to[place] = record.offset + 1
      fn(record)
    end)
    if not ok then return nil, ("%s[%d] from %d: %s"):format(topic, partition, from.offset, err) end
  end
  return true
end

local function add_effect(key, seq)
  local name = key .. " " .. seq
  found.effects[#found.effects + 1] = { key = key, seq = seq, name = name }
  if not found.effect_of[name] and not found.dead[name] then found.settled = found.settled + 1 end
  found.effect_of[name] = true
end

local function add_dead(record)
  local value = record.value and moonbus.json.decode(record.value)
  local reason = record.headers.dlq_reason
  found.reasons[reason] = (found.reasons[reason] or 0) + 1
  found.letters = found.letters + 1
  if type(value) ~= "table" or not value.seq then
    found.garbage = found.garbage + 1
    return
  end
  local name = record.key .. " " .. value.seq
  if not found.effect_of[name] and not found.dead[name] then found.settled = found.settled + 1 end
  found.dead[name] = true
end

local effects_file

local function read_effects(timeout_ms)
  if exactly_once then
    return read_new(bus.config.topic_name, timeout_ms, function(record)
      if record.headers.event_type ~= "Effect" then return end
      add_effect(record.key, moonbus.json.decode(record.value).seq)
    end)
  end
  effects_file = effects_file or io.open(effects_path)
  if not effects_file then return true end
  effects_file:seek("cur", 0) -- or it stays at the end it met
  for line in effects_file:lines() do
    local key, seq = line:match "^(%S+) (%d+)$"
    add_effect(key, tonumber(seq))
  end
  return true
end

local function look(timeout_ms)
  local ok, err = read_effects(timeout_ms)
  if not ok then return nil, err end
  return read_new(bus.config.dlq_topic_name, timeout_ms, add_dead)
end

local function account()
  local seen, top, dead = {}, {}, found.dead
  local result = {
    effects = #found.effects, handled = 0, dead = found.letters, garbage_dead = found.garbage,
    reasons = found.reasons, lost = 0, order_violations = 0, duplicates = 0,
  }
  for _, effect in ipairs(found.effects) do
    local key, seq, name = effect.key, effect.seq, effect.name
    if seen[name] then
      seen[name] = seen[name] + 1
    else
      seen[name] = 1
      result.handled = result.handled + 1
      -- For the first time: everything acknowledged before it has had its effect, or is dead.
      for earlier = (top[key] or 0) + 1, seq - 1 do
        local before = key .. " " .. earlier
        if acked[key][earlier] and not seen[before] and not dead[before] then
          result.order_violations = result.order_violations + 1
        end
      end
      if seq > (top[key] or 0) then top[key] = seq
      else result.order_violations = result.order_violations + 1 end
    end
  end
  for key, seqs in pairs(acked) do
    for seq in pairs(seqs) do
      local name = key .. " " .. seq
      if not seen[name] and not dead[name] then result.lost = result.lost + 1 end
    end
  end
  for name, times in pairs(seen) do
    result.duplicates = result.duplicates + math.max(0, times - 1 - (repeats[name] or 0))
  end
  return result
end

-- ---- the run ----

local function say(...) io.stderr:write("chaos: ", string.format(...), "\n") end

say("seed %d, %g minutes, %s, %d workers, Kafka at %s", options.seed, options.minutes,
  options.delivery, options.workers, kafka.settings.bootstrap_servers)
local function still_runs(each)
  if not each.ended then return end
  io.stderr:write(each.stderr)
  error(("a supervisor ended by itself: code %s, signal %s"):format(tostring(each.code),
    tostring(each.killed_by)))
end

local ends = moonbus.now() + options.minutes * 60
local next_fault = moonbus.now() + 4
kafka:begin(options.minutes, bus.config.topic_name)
local next_look = 0
while moonbus.now() < ends do
  local begin = moonbus.now()
  if begin > next_look then -- fails while the broker is away
    look(2000)
    next_look = moonbus.now() + 2
  end
  if counts.published - found.settled < BEHIND then
    publish_batch()
    if chance(0.05) then publish_garbage() end
  end
  thaw()
  still_runs(supervisor)
  if member then
    member:observe(0.001)
    still_runs(member)
  end
  if moonbus.now() > next_fault then
    one_of(breakers)()
    next_fault = moonbus.now() + 1 + math.random() * 4
  end
  kafka:turn()
  supervisor:observe(math.max(BATCH / options.rate - (moonbus.now() - begin), 0.001))
end

say("no more faults; waiting until everything is settled")
thaw(true)
while not kafka:calm() do supervisor:observe(0.1) end
local drain = moonbus.now()
local moved, left = drain, nil
local result
repeat
  supervisor:observe(1)
  still_runs(supervisor)
  if member then
    member:observe(0.001)
    still_runs(member)
  end
  local ok, err = look(60000)
  if not ok then say("%s", err) end
  result = account()
  local now_left = result.lost + math.max(0, counts.garbage - result.garbage_dead)
  if not left or now_left < left then left, moved = now_left, moonbus.now() end
until left == 0 or moonbus.now() > moved + STUCK_SECONDS
drain = moonbus.now() - drain
supervisor:stop(SIGTERM, 40)
if member then member:stop(SIGTERM, 40) end
assert(look(120000))
result = account()
if os.getenv "CHAOS_LOG" then io.stderr:write(supervisor.stderr) end

local list = {}
for what, times in pairs(faults) do list[#list + 1] = ("%s x%d"):format(what, times) end
table.sort(list)
local reasons = {}
for reason, times in pairs(result.reasons) do reasons[#reasons + 1] = reason .. " " .. times end
table.sort(reasons)

local bad = result.lost > 0 or result.order_violations > 0 or result.garbage_dead < counts.garbage
  or (exactly_once and result.duplicates > 0)
print(("seed=%d delivery=%s minutes=%g brokers=%d"):format(options.seed, options.delivery,
  options.minutes, options.brokers))
print("faults: " .. table.concat(list, ", "))
print(("published=%d unknown=%d sent_again=%d garbage=%d"):format(counts.published,
  counts.unknown, counts.repeated, counts.garbage))
print(("all settled %.0f s after the last fault"):format(drain))
print("dead letters: " .. table.concat(reasons, ", "))
print(("handled=%d dead=%d lost=%d order_violations=%d duplicates=%d (%s)"):format(
  result.handled, result.dead, result.lost, result.order_violations, result.duplicates,
  exactly_once and "none allowed" or "allowed where a worker died or partitions moved"))
print(bad and "FAILED" or "ok")
if options.json then
  result.faults, result.counts, result.seed, result.ok = faults, counts, options.seed, not bad
  print(moonbus.json.encode(result))
end
bus:disconnect()
process.clean()
os.exit(bad and 1 or 0, true)
