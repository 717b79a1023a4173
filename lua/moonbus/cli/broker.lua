--- moonbus broker: the embedded broker in a process of its own.
local base = require "moonbus.base"
local core = require "moonbus.core"
local exit = require "moonbus.cli.exit"
local task = require "moonbus.task"

local io, ipairs, tonumber = base.io, base.ipairs, base.tonumber

local broker = {
  summary = "Run the embedded broker: in memory, for demonstrations and tests.",
  description = "Run the embedded broker and print its address on stdout; SIGINT or SIGTERM ends "
    .. "it. It keeps everything in memory, makes every topic asked for (4 partitions), and is not "
    .. "for production.",
}

-- "orders.stream:8" -> { name, partitions }
local function topic(text)
  local name, partitions = text:match("^([^:]+):(%d+)$")
  if not name and not text:find(":", 1, true) then name, partitions = text, "4" end
  partitions = tonumber(partitions)
  if not name or name == "" or partitions < 1 or partitions > 1000 then
    return nil, ("'%s': expected NAME or NAME:PARTITIONS (1 to 1000)"):format(text)
  end
  return { name, partitions }
end

function broker.define(command)
  command:option("--topic"):description("Make a topic; may be repeated."):count("*")
    :argname("<name[:partitions]>"):convert(topic)
end

function broker.run(args)
  local server, address, code = core.broker()
  if not server then return exit.report(address, code) end
  for _, each in ipairs(args.topic) do
    local ok, err, why = core.broker_topic(server, each[1], each[2])
    if not ok then return exit.report(err, why, exit.TOPIC) end
  end
  -- No client would find it. src/program/main.c says why.
  if not (io.write(address, "\n") and io.flush()) then return exit.KAFKA end
  while not task.host.interrupted do task.turn(1) end
  return exit.OK
end

return broker
