--- The flags of moonbus dlq, and what they choose.
local base = require "moonbus.base"
local core = require "moonbus.core"
local options = require "moonbus.cli.options"

local ipairs, math, os, tonumber = base.ipairs, base.math, base.os, base.tonumber

local flags = {}

local AGO = { s = 1, m = 60, h = 3600, d = 86400 }

-- "2h" (ago), seconds since 1970, or ISO 8601 -> seconds since 1970
local function moment(text)
  local number, unit = text:match("^(%d+)([smhd])$")
  if number then return os.time() - tonumber(number) * AGO[unit] end
  local seconds = text:match("^%d+%.?%d*$") and #text > 4 and tonumber(text) or core.epoch(text)
  if seconds then return seconds end
  return nil, ("'%s': expected a time (2026-01-31T12:00:00Z) or how long ago (90s, 15m, 2h, 7d)")
    :format(text)
end

-- "5", "5-9", "5-", "-9" -> { first, last }
local function range(text)
  local first, dash, last = text:match("^(%d*)(%-?)(%d*)$")
  if not first or (first == "" and last == "") or #first > 15 or #last > 15 then
    return nil, ("'%s': expected an offset, or first-last"):format(text)
  end
  first, last = tonumber(first), tonumber(last)
  return { first, dash == "" and first or last, one = dash == "" }
end

local partition = options.integer(0, 2147483647)

-- Flag, name of the option of replay_dlq, argument, converter, description.
local FILTER = {
  { "--type", "event_type", "<event type>", nil, "Only events of this type." },
  { "--key", "key", "<key>", nil, "Only this key (aggregate_id)." },
  { "--reason", "reason", "<reason>", nil, "Only this dlq_reason, such as max_retries_exceeded." },
  { "--error-type", "error_type", "<name>", nil, "Only this dlq_error_type, such as LuaError." },
  { "--failed-group", "failed_group", "<name>", nil, "Only what failed in this consumer group." },
  { "--since", "since", "<when>", moment,
    "Only what died since: a time, or 90s, 15m, 2h, 7d for ago." },
  { "--until", "until", "<when>", moment, "Only what died before then." },
  { "--original-partition", "original_partition", "<number>", partition,
    "Only events that stood in this partition." },
  { "--original-offset", "original_offset", "<range>", range,
    "Only events that stood at this offset, or from one to another: 5-9." },
}

local function add_place(command, one)
  local flag = command:option("--partition"):argname("<number>"):convert(partition)
    :description("Partition of the dead letter.")
  command:option("--offset"):argname("<range>"):convert(range)
    :description("Offset of the dead letter" .. (one and "." or ", or from one to another: 5-9."))
  return flag
end

local function add_filter(command)
  for _, row in ipairs(FILTER) do
    local flag = command:option(row[1]):target(row[2]):argname(row[3]):description(row[5])
    if row[4] then flag:convert(row[4]) end
  end
end

local function common(command, what)
  command:argument("file"):args("?")
    :description("A script: the options of its bus count, as if it ran.")
  options.connection(command, "topic_prefix")
  options.json(command, what)
end

local function add_limit(command, what)
  return command:option("--limit"):argname("<count>"):description(what)
    :convert(options.integer(0, math.huge))
end

local function add_timeout(command)
  command:option("--timeout"):argname("<seconds>"):convert(options.seconds)
    :description("Give up when no record came for so long, however long all of it takes; 60.")
end

local function define_replay(command)
  command:summary("Put dead letters back.")
    :description("Put dead letters back on the main topic: one (--partition and --offset), those "
      .. "that a filter chooses, or all of them (--all). The events of a key go in the order of "
      .. "their original offsets. Letters stay in their topic; those that were replayed since they "
      .. "died are skipped.")
  command:mutex(add_place(command), command:flag("--all"):description("All there are now."))
  add_filter(command)
  command:option("--limit"):argname("<count>"):convert(options.integer(1, math.huge))
    :description("At most so many; the next call goes on after them.")
  command:option("--to"):argname("<topic>"):description("Put them on another topic.")
  command:mutex(
    command:option("--group"):argname("<name>"):description("Only this group handles them."),
    command:flag("--only-failed-group"):description("Only the group that failed handles them."),
    command:flag("--every-group"):description("Also those once replayed to one group go to all."))
  command:flag("--dry-run"):description("Report what would be done, and do nothing.")
  command:option("--rate"):argname("<events/s>"):description("At most so many a second.")
    :convert(function(text)
      local number = text:match("^%d*%.?%d*$") and tonumber(text)
      if number and number > 0 then return number end
      return nil, ("'%s': expected a number above 0"):format(text)
    end)
  command:flag("--again"):description("Also those that were replayed already.")
  command:flag("--force"):description("Also those replayed dlq_max_replay_attempts times already.")
  common(command, "Print one JSON object; with --dry-run its letters are in it.")
end

--- Give the command its actions and their flags.
function flags.define(command)
  command:command_target("action")
  local list = command:command("list")
    :summary("Print the dead letters, oldest first within a partition.")
  add_limit(list, "At most so many."):default("100")
  add_timeout(list)
  add_place(list)
  add_filter(list)
  common(list, "One JSON object per dead letter, as tail prints them, with replay_count.")
  local show = command:command("show"):summary("Print one dead letter in full.")
  add_place(show, true)
  add_timeout(show)
  common(show, "Print one JSON object.")
  local count = command:command("count"):summary("Print how many dead letters there are.")
  add_place(count)
  add_timeout(count)
  add_filter(count)
  common(count, "Print one JSON object.")
  define_replay(command:command("replay"))
  local export = command:command("export"):summary("Write dead letters as lines of JSON.")
    :description("Write dead letters, a JSON object a line, byte for byte: what is no UTF-8 is "
      .. "{\"base64\": ...}; headers are a list of [name, value].")
  export:option("--output -o"):argname("<file>"):description("Write there, not to stdout.")
  add_limit(export, "At most so many.")
  add_timeout(export)
  add_place(export)
  add_filter(export)
  common(export, "Print a summary as one JSON object; with --output.")
end

--- What the flags choose, as replay_dlq takes it, and whether they choose at all.
function flags.filter(args)
  local filter = { partition = args.partition, offset = args.offset }
  local any = args.partition ~= nil or args.offset ~= nil
  for _, row in ipairs(FILTER) do
    local value = args[row[2]]
    filter[row[2]] = value
    any = any or value ~= nil
  end
  return filter, any
end

return flags
