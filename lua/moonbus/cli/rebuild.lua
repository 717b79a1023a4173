--- moonbus rebuild: a projection's read model, built again from the beginning of its topic.
local base = require "moonbus.base"
local core = require "moonbus.core"
local exit = require "moonbus.cli.exit"
local moonbus = require "moonbus"
local options = require "moonbus.cli.options"
local progress = require "moonbus.cli.progress"
local read_models = require "moonbus.cli.read_models"

local ipairs, math, pcall, print, table = base.ipairs, base.math, base.pcall, base.print, base.table
local tostring = base.tostring

local rebuild = {
  summary = "Build a projection's read model again, from the beginning of its topic.",
  description = "Apply all events of a script's projection again, to a second read model that "
    .. "takes the first one's place in the end; workers go on meanwhile, and lose and double "
    .. "nothing. Interrupted or killed it leaves the read model as it was. A projection without "
    .. "init is rebuilt in place, as --in-place does.",
}

function rebuild.define(command)
  command:argument("file"):description("The Lua script that subscribes the projection.")
  command:option("--projection"):argname("<name>")
    :description("Which one, where the script has several.")
  command:flag("--in-place"):description("Empty the read model and fill it again: readers see it "
    .. "grow, and until it is done no other events are applied.")
  command:flag("--partial")
    :description("Though the topic does not hold all that the read model was made from.")
  command:flag("--skip-failed"):description("Leave events out that fail after all retries.")
  options.connection(command, "topic_prefix", "consumer_group")
  options.json(command, "Print one JSON object.")
end

local function choose(args)
  local list, names, chosen = read_models.of(args), {}, nil
  for _, each in ipairs(list) do
    local name = each.projection.name
    names[#names + 1] = name
    if args.projection == name or not args.projection and #list == 1 then
      if chosen then
        exit.raise(('several projections, or buses, have "%s": expected a script with one of them')
          :format(name), "EINVAL")
      end
      chosen = each
    end
  end
  if chosen then return chosen end
  table.sort(names)
  local those = table.concat(names, ", ")
  if not args.projection then
    exit.raise(("--projection says which of %s: %s"):format(args.file, those), "EINVAL")
  end
  exit.raise(('%s has no projection "%s"; it has %s'):format(args.file, args.projection, those),
    "ENOENT", exit.USAGE)
end

local function summary(result, name)
  local text = ("%s %s: %d events in %.1f s"):format(result.stopped and "did not rebuild"
    or "rebuilt", name, result.events, result.seconds)
  if #result.skipped > 0 then text = text .. (", %d left out"):format(#result.skipped) end
  if not result.stopped then return text end
  return text .. (", interrupted; the read model is %s"):format(result.in_place
    and "incomplete until a rebuild is finished" or "as it was")
end

local function print_result(result, args, name)
  if not args.json then return print(summary(result, name)) end
  print(moonbus.json.encode({
    projection = name, events = result.events, applied = result.applied,
    seconds = math.floor(result.seconds * 1000 + 0.5) / 1000, skipped = result.skipped,
    in_place = result.in_place, stopped = result.stopped,
  }))
end

function rebuild.run(args)
  local chosen = choose(args)
  local bus, projection = chosen.bus, chosen.projection
  read_models.connect(bus)
  local bar = progress.new(core.isatty(2))
  local how = {
    partial = args.partial, skip_failed = args.skip_failed, in_place = args.in_place,
    on_progress = function(events, read, size) bar:show(events, read, size) end,
    on_retry = function(why, seconds)
      bar:clear()
      exit.say(("%s; it goes on in %.3g s"):format(why, seconds))
    end,
  }
  local ran, result, err, code = pcall(bus.rebuild, bus, projection, how)
  bar:clear()
  if not ran then -- what the script would have to say otherwise
    local text = tostring(result):gsub("^[^\n]-:%d+: ", "")
    return exit.report(text, "EINVAL")
  end
  bus:disconnect()
  if not result then return exit.report(err, code) end
  for _, each in ipairs(result.skipped) do exit.say("left out: " .. each.reason) end
  print_result(result, args, projection.name)
  return #result.skipped > 0 and exit.SOME_FAILED or exit.OK
end

return rebuild
