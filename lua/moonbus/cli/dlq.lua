--- moonbus dlq: look at dead letters, and put them back.
local base = require "moonbus.base"
local core = require "moonbus.core"
local moonbus = require "moonbus"
local dry = require "moonbus.cli.dry"
local exit = require "moonbus.cli.exit"
local flags = require "moonbus.cli.dlq_flags"
local letters = require "moonbus.cli.letters"
local options = require "moonbus.cli.options"
local progress = require "moonbus.cli.progress"
local record = require "moonbus.cli.record"
local task = require "moonbus.task"

local io, ipairs, math, print, table = base.io, base.ipairs, base.math, base.print, base.table

local dlq = {
  summary = "List, show, count, replay and export dead letters.",
  define = flags.define,
}

-- ---- which ones ----

-- Connecting may create the main topic: a mistyped name must not.
local function connected(bus)
  local _, why, code = bus.native:topic_partitions()
  if code == "ETOPIC" and not bus.native:topic_partitions(bus.config.dlq_topic_name) then
    exit.raise(why, code)
  end
  local ok, err, cause = bus:connect()
  if not ok then exit.raise(err, cause) end
  return bus
end

-- The bus of a script, or one of the flags alone; connected.
local function open(args)
  if not args.file then return connected(options.bus(args)) end
  task.host.flags = options.flags(args)
  local ok, wrong, buses = dry.run(args.file)
  if not ok then exit.raise(wrong.message, wrong.code, wrong.status) end
  local chosen, topics = nil, {}
  for _, bus in ipairs(buses) do
    dry.lift(bus)
    chosen = chosen or bus
    topics[#topics + 1] = bus.config.topic_name
    if bus.config.topic_name ~= chosen.config.topic_name then chosen = false end
  end
  if not chosen then
    exit.raise(#topics == 0 and args.file .. " makes no bus"
      or ("%s makes several buses (%s); --topic-prefix says which is meant"):format(args.file,
        table.concat(topics, ", ")), "EINVAL")
  end
  return connected(chosen)
end

local function one_place(args)
  return args.partition and args.offset and args.offset.one
end

local function missing(bus, args)
  return exit.report(("no dead letter at %s[%d] offset %.0f"):format(bus.config.dlq_topic_name,
    args.partition, args.offset[1]), "ENOENT")
end

-- Every dead letter chosen, one at a time, so that their number does not matter.
local function each(bus, args, limit, fn)
  local left = limit or math.huge
  if left <= 0 then return end
  local filter = flags.filter(args)
  filter.timeout_ms = args.timeout and math.ceil(args.timeout * 1000)
  local ok, err, code = bus:each_dlq_message(filter, function(row)
    left = left - 1
    return fn(row) ~= false and left > 0 and not task.interrupted()
  end)
  if not ok then exit.raise(err, code) end
end

-- ---- looking ----

local function list(args)
  local found = 0
  each(open(args), args, args.limit, function(row)
    found = found + 1
    return io.write(args.json and letters.json(row) or letters.line(row), "\n") ~= nil
  end)
  if found == 0 and not args.json then exit.say("no dead letters") end
end

local function show(args)
  if not one_place(args) then
    exit.raise("--partition and --offset: expected both, of one dead letter; see: moonbus dlq list",
      "EINVAL")
  end
  local bus, found = open(args), false
  each(bus, args, 1, function(row)
    found = true
    io.write(args.json and letters.json(row) or letters.page(row), "\n")
  end)
  if not found then return missing(bus, args) end
end

local function count(args)
  local bus = open(args)
  local _, any = flags.filter(args)
  local number = 0
  if any or args.timeout then each(bus, args, nil, function() number = number + 1 end)
  else
    local err, code
    number, err, code = bus:get_dlq_message_count()
    if not number and task.interrupted() then return exit.OK end
    if not number then return exit.report(err, code) end
  end
  if args.json then
    print(moonbus.json.encode({ topic = bus.config.dlq_topic_name, count = number }))
  else
    print(("%.0f"):format(number))
  end
end

local function export(args)
  local out = io.stdout
  if args.output then
    local file, why = io.open(args.output, "wb")
    if not file then exit.raise(("cannot write %s"):format(why), "EIO") end
    out = file
  end
  local bus, written, failed = open(args), 0, nil
  each(bus, args, args.limit, function(row)
    local ok
    ok, failed = out:write(letters.export(row), "\n")
    if ok then written, failed = written + 1, nil end
    return ok ~= nil
  end)
  local ok, last = out:flush()
  if not ok then failed = failed or last end
  if failed and args.output then return exit.report("writing failed: " .. failed, "EIO") end
  if not args.output then return end -- a reader that went away is no failure
  out:close()
  if args.json then
    print(moonbus.json.encode({ topic = bus.config.dlq_topic_name, exported = written,
      file = args.output }))
  else
    exit.note(("exported %d dead letters of %s to %s"):format(written,
      bus.config.dlq_topic_name, args.output))
  end
end

-- ---- putting back ----

local function replay_options(args)
  local filter, any = flags.filter(args)
  if (args.partition == nil) ~= (args.offset == nil) or not (any or args.all) then
    exit.raise("--partition and --offset: expected both, or --all, or what chooses "
      .. "some (--type, --key, --since, ...); see: moonbus dlq replay --help", "EINVAL")
  end
  filter.limit, filter.to, filter.rate = args.limit, args.to, args.rate
  filter.dry_run, filter.force = args.dry_run, args.force
  filter.again = args.again or one_place(args) -- who names one letter means it
  if args.group then filter.group = args.group
  elseif args.only_failed_group then filter.group = true
  elseif args.every_group then filter.group = false end
  return filter
end

local WOULD = { replayed = "would be replayed", refused = "would be refused",
  failed = "would fail", skipped = "would be skipped" }

local function dry_line(topic, letter)
  return ("%s[%d]@%.0f %s %s %s%s"):format(topic, letter.partition, letter.offset,
    record.plain(letter.event_type), record.plain(letter.key), WOULD[letter.outcome],
    letter.reason and ": " .. letter.reason or "")
end

local function summary(result, args, topic)
  local parts = { ("%s %.0f to %s"):format(args.dry_run and "would replay" or "replayed",
    result.replayed, topic) }
  for _, name in ipairs { "refused", "failed", "skipped" } do
    if result[name] > 0 then parts[#parts + 1] = ("%.0f %s"):format(result[name], name) end
  end
  if result.more then parts[#parts + 1] = "more are left" end
  if result.stopped then parts[#parts + 1] = "interrupted" end
  return table.concat(parts, ", ")
end

local function print_result(result, args, topic, kept)
  if not args.json then return print(summary(result, args, topic)) end
  print(moonbus.json.encode({
    topic = topic, replayed = result.replayed, refused = result.refused, failed = result.failed,
    skipped = result.skipped, more = result.more, stopped = result.stopped,
    dry_run = args.dry_run or false, letters = kept,
  }))
end

local function replay(args)
  local how = replay_options(args)
  local bus = open(args)
  local dead = bus.config.dlq_topic_name
  local bar = progress.new(core.isatty(2) and not args.dry_run)
  local kept = args.dry_run and args.json and moonbus.array {} or nil
  local looked = 0
  how.on_letter = function(letter, state)
    looked = looked + 1
    if kept then kept[#kept + 1] = letter
    elseif args.dry_run then print(dry_line(dead, letter))
    elseif letter.code then
      bar:clear()
      exit.say(("%s (%s[%d]@%.0f)"):format(letter.reason, dead, letter.partition, letter.offset),
        letter.code)
    end
    bar:show(state.done, state.done, state.total)
  end
  local result, err, code, so_far = bus:replay_dlq(how)
  bar:clear()
  result = result or so_far
  if result and one_place(args) and looked == 0 and result.skipped == 0 and not result.stopped then
    return missing(bus, args)
  end
  if result then print_result(result, args, args.to or bus.config.topic_name, kept) end
  bus:disconnect()
  if err then return exit.report(err, code) end
  if args.dry_run then return exit.OK end
  local whole = result.refused == 0 and result.failed == 0
  return whole and exit.OK or exit.SOME_FAILED
end

local actions = { list = list, show = show, count = count, replay = replay, export = export }

function dlq.run(args)
  return actions[args.action](args)
end

return dlq
