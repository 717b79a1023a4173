--- The projections with a store that a script subscribes, for the commands that are about them.
local base = require "moonbus.base"
local dry = require "moonbus.cli.dry"
local exit = require "moonbus.cli.exit"
local options = require "moonbus.cli.options"
local read_model = require "moonbus.read_model"
local task = require "moonbus.task"

local ipairs = base.ipairs

local read_models = {}

--- Run a script without a broker; list of { bus =, projection = }, each projection once for each
-- bus. Leaves the command if the script has an error or no projection.
function read_models.of(args)
  task.host.flags = options.flags(args)
  local ok, wrong, buses = dry.run(args.file)
  if not ok then exit.raise(wrong.message, wrong.code, wrong.status) end
  local list = {}
  for _, bus in ipairs(buses) do
    local seen = {}
    dry.lift(bus)
    for _, each in ipairs(bus.subscriptions) do
      if read_model.is(each.handler) and not seen[each.handler] then
        seen[each.handler] = true
        list[#list + 1] = { bus = bus, projection = each.handler }
      end
    end
  end
  if #list == 0 then
    exit.raise(args.file .. " subscribes no projection with a store", "ENOENT", exit.USAGE)
  end
  return list
end

--- Connect a bus to a topic that is there, which connecting alone would make; leaves the command if
-- that cannot be.
function read_models.connect(bus)
  local ok, err, code = bus.native:topic_partitions()
  if ok then ok, err, code = bus:connect() end
  if not ok then exit.raise(err, code) end
end

return read_models
