--- moonbus dlq: look at dead letters, and put them back on the main topic.
local moonbus = require "moonbus"
local exit = require "moonbus.cli.exit"
local options = require "moonbus.cli.options"
local record = require "moonbus.cli.record"
local task = require "moonbus.task"

local dlq = { summary = "List, count and replay dead letters." }

local function common(command, what)
  options.connection(command, "topic_prefix")
  options.json(command, what)
end

function dlq.define(command)
  command:command_target("action")
  local list = command:command("list"):summary("Print the dead letters, oldest first.")
  list:option("--limit"):description("At most so many."):argname("<count>"):default("100")
    :convert(options.integer(0, math.huge))
  common(list, "One JSON object per dead letter, as tail prints them, with replay_count.")
  common(command:command("count"):summary("Print how many dead letters there are."),
    "Print one JSON object.")
  local replay = command:command("replay")
    :summary("Put dead letters back on the main topic.")
    :description("Put one dead letter (--partition and --offset) or all of them (--all) back on "
      .. "the main topic; they stay in the dead letter topic too.")
  local partition = replay:option("--partition"):argname("<number>")
    :description("Partition of the dead letter."):convert(options.integer(0, 2147483647))
  replay:option("--offset"):argname("<number>"):description("Offset of the dead letter.")
    :convert(options.integer(0, 9007199254740991))
  replay:mutex(partition, replay:flag("--all"):description("All there are now."))
  replay:option("--limit"):description("With --all: at most so many."):argname("<count>")
    :convert(options.integer(1, math.huge))
  replay:flag("--force"):description("Also those replayed dlq_max_replay_attempts times already.")
  common(replay, "Print one JSON object.")
end

local function header(row, name)
  local value = row.headers[name]
  return type(value) == "string" and value or nil
end

local function line(row)
  return ("%s[%d]@%.0f %s %s %s %s: %s (from %s[%s]@%s, failed %s times, replayed %d)"):format(
    row.topic, row.partition, row.offset, record.plain(header(row, "dlq_timestamp")),
    record.plain(record.event_type(row)), record.plain(header(row, "dlq_reason")),
    record.plain(header(row, "dlq_error_type")), record.plain(header(row, "dlq_error_message")),
    record.plain(header(row, "dlq_original_topic")),
    record.plain(header(row, "dlq_original_partition")),
    record.plain(header(row, "dlq_original_offset")),
    record.plain(header(row, "dlq_retry_count")), row.replay_count)
end

-- Every dead letter, one at a time, so that their number does not matter.
local function each(bus, limit, fn)
  local left = limit or math.huge
  if left <= 0 then return end
  local ok, err, code = bus:read({ topic = bus.config.dlq_topic_name }, function(row)
    row.replay_count = tonumber(header(row, "dlq_replay_count")) or 0
    left = left - 1
    return fn(row) ~= false and left > 0 and not task.interrupted()
  end)
  if not ok and code ~= "ETOPIC" then exit.raise(err, code) end
end

local function list(args)
  local count = 0
  each(options.connected(args), args.limit, function(row)
    count = count + 1
    local text = args.json and record.json(row, (',"replay_count":%d'):format(row.replay_count))
      or line(row)
    return io.write(text, "\n") ~= nil
  end)
  if count == 0 and not args.json then exit.say("no dead letters") end
end

local function count(args)
  local bus = options.connected(args)
  local number, err, code = bus:get_dlq_message_count()
  if not number then return exit.report(err, code) end
  if args.json then
    print(moonbus.json.encode({ topic = bus.config.dlq_topic_name, count = number }))
  else
    print(("%.0f"):format(number))
  end
end

local function wanted(args, bus)
  if args.partition and args.offset then
    return { { partition = args.partition, offset = args.offset } }
  end
  if not args.all or args.offset then
    exit.raise("--partition and --offset of one dead letter are wanted, or --all; see: moonbus dlq "
      .. "list", "EINVAL")
  end
  local found = {}
  each(bus, args.limit, function(row)
    found[#found + 1] = { partition = row.partition, offset = row.offset }
  end)
  return found
end

local function replay(args)
  local bus = options.connected(args)
  local replayed, failed, last = 0, 0, nil
  for _, place in ipairs(wanted(args, bus)) do
    if task.interrupted() then break end
    local ok, err, code = bus:replay_dlq_message({
      partition = place.partition, offset = place.offset, force = args.force,
    })
    if ok then replayed = replayed + 1
    else
      failed, last = failed + 1, code
      exit.say(("%s (%s[%d]@%.0f)"):format(err, bus.config.dlq_topic_name, place.partition,
        place.offset), code)
      if exit.status(code) ~= exit.SOME_FAILED then break end
    end
  end
  bus:disconnect()
  if args.json then
    print(moonbus.json.encode({ topic = bus.config.topic_name, replayed = replayed,
      failed = failed }))
  else
    print(("replayed %d to %s"):format(replayed, bus.config.topic_name))
  end
  return last and exit.status(last)
end

local actions = { list = list, count = count, replay = replay }

function dlq.run(args)
  return actions[args.action](args)
end

return dlq
