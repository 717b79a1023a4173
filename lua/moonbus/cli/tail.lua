--- moonbus tail: print records of a topic, from outside any consumer group.
local base = require "moonbus.base"
local exit = require "moonbus.cli.exit"
local options = require "moonbus.cli.options"
local record = require "moonbus.cli.record"
local task = require "moonbus.task"

local io, math, tonumber = base.io, base.math, base.tonumber

local tail = {
  summary = "Print records of a topic.",
  description = "Print records of a topic, without joining a consumer group: from the beginning up "
    .. "to the present end, unless a flag says otherwise.",
}

-- where to begin -> the reader's offset
local function from(text)
  if text == "beginning" then return -1 end
  if text == "end" then return -2 end
  local last = text:match("^last:(%d+)$")
  if last and #last <= 15 then return -3 - tonumber(last) end
  return nil, ("'%s': expected beginning, end or last:N"):format(text)
end

function tail.define(command)
  command:mutex(
    options.mirror(command, "topic_prefix"),
    command:option("--topic"):argname("<name>"):description("The topic's full name."))
  command:option("--partition"):description("Only this partition.")
    :argname("<number>"):convert(options.integer(0, 2147483647))
  command:option("--from"):argname("<where>"):convert(from)
    :description("beginning (the default), end, or last:N (the last N records of each partition).")
  command:option("--limit"):description("End after so many records.")
    :argname("<count>"):convert(options.integer(0, math.huge))
  command:flag("--follow -f"):description("Go on with new records until stopped.")
  command:option("--type"):argname("<event type>"):description("Only events of this type.")
  options.json(command, "One JSON object per record: topic, partition, offset, timestamp, key, "
    .. "headers, value, encoding.")
  options.connection(command)
end

-- A reader that went away (head, less) ends the output; that is no failure.
local function printer(args)
  local left = args.limit or math.huge
  return function(row)
    if not args.type or record.event_type(row) == args.type then
      left = left - 1
      local text = args.json and record.json(row) or record.text(row)
      if not io.write(text, "\n") or (args.follow and not io.flush()) then return false end
    end
    return left > 0 and not task.interrupted()
  end
end

function tail.run(args)
  local bus = options.bus(args)
  local topic = args.topic or bus.config.topic_name
  if args.limit == 0 then return exit.OK end
  local ok, err, code = bus:read({
    topic = topic, partition = args.partition, offset = args.from or -1, follow = args.follow,
  }, printer(args))
  io.flush()
  if ok or task.interrupted() then return exit.OK end
  return exit.report(err, code)
end

return tail
