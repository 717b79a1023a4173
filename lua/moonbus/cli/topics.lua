--- moonbus topics: make and describe topics.
local base = require "moonbus.base"
local moonbus = require "moonbus"
local exit = require "moonbus.cli.exit"
local options = require "moonbus.cli.options"
local task = require "moonbus.task"

local ipairs, print, select = base.ipairs, base.print, base.select

local topics = { summary = "Make and describe topics." }

-- The embedded broker leaves the request unanswered.
local NOT_ASKED = "this broker cannot be asked to make topics; the embedded broker makes each at "
  .. "its first use, or when it starts: moonbus broker --topic %s:%d"

function topics.define(command)
  command:command_target("action")
  local create = command:command("create"):summary("Make a topic.")
  create:argument("name"):description("The topic's full name, such as orders.stream.")
  create:option("--partitions"):description("How many partitions."):default("4")
    :convert(options.integer(1, 10000))
  create:option("--replication"):description("Replicas of each; the broker's default otherwise.")
    :convert(options.integer(1, 1000))
  create:flag("--if-not-exists"):description("Leave it as it is when it is there already.")
  options.connection(create)
  options.json(create, "Print one JSON object.")
  local describe = command:command("describe"):summary("Print a topic's partitions and offsets.")
  describe:argument("name"):description("The topic's full name.")
  describe:flag("--count"):description("Also how many records there are, by reading all of them: "
    .. "offsets are more where transactions left markers, or compaction took records away.")
  options.connection(describe)
  options.json(describe, "Print one JSON object.")
end

local function create(args)
  local native = options.bus(args).native
  local ok, err, code = native:topic_create(args.name, args.partitions, args.replication or 0)
  if not ok and code == "ECONNECT" and select(3, native:topic_partitions(args.name)) ~= code then
    return exit.report(NOT_ASKED:format(args.name, args.partitions), "EUNSUPPORTED", exit.TOPIC)
  end
  local there = not ok and args.if_not_exists and code == "EINVAL"
    and native:topic_partitions(args.name)
  if not ok and not there then
    local status = exit.status(code)
    return exit.report(err, code, status == exit.UNREACHABLE and status or exit.TOPIC)
  end
  local partitions = there or args.partitions
  if args.json then
    print(moonbus.json.encode({
      topic = args.name, partitions = partitions, created = ok or false,
    }))
  else
    print(("%s %s with %d partitions"):format(ok and "created" or "there already:", args.name,
      partitions))
  end
end

local function describe(args)
  local native = options.bus(args).native
  local count, err, code = native:topic_partitions(args.name)
  if not count then return exit.report(err, code) end
  local partitions = moonbus.array({})
  for i = 0, count - 1 do
    local low, high, why = native:topic_offsets(args.name, i)
    if not low then return exit.report(high, why) end
    partitions[i + 1] = { partition = i, low = low, high = high }
  end
  if args.count then
    local counts
    counts, err, code = native:topic_count(args.name, nil, count)
    if not counts and task.interrupted() then return exit.OK end
    if not counts then return exit.report(err, code) end
    for i, each in ipairs(partitions) do each.records = counts[i] end
  end
  if args.json then
    print(moonbus.json.encode({ topic = args.name, partitions = partitions }))
    return
  end
  print(("%s: %d partitions"):format(args.name, count))
  print(("%9s %14s %14s %14s"):format("partition", "low", "high", args.count and "records"
    or "offsets"))
  for _, each in ipairs(partitions) do
    print(("%9d %14.0f %14.0f %14.0f"):format(each.partition, each.low, each.high,
      each.records or each.high - each.low))
  end
end

function topics.run(args)
  return (args.action == "create" and create or describe)(args)
end

return topics
