--- moonbus run: scripts, and the consumption of the buses they leave to the host.
local base = require "moonbus.base"
local moonbus_bus = require "moonbus.bus"
local exit = require "moonbus.cli.exit"
local options = require "moonbus.cli.options"
local misses = require "moonbus.misses"
local script = require "moonbus.cli.script"
local task = require "moonbus.task"

local globals = base.globals
local error, io, ipairs, os, rawset = base.error, base.io, base.ipairs, base.os, base.rawset
local tostring, unpack = base.tostring, base.unpack

local host = task.host

local run = {
  runs_long = true,
  summary = "Run scripts, and consume for them.",
  description = "Run scripts. A bus that has subscriptions when its script ends, and was not "
    .. "started by it, is connected and consumed until the program is stopped: SIGINT, SIGTERM, "
    .. "SIGHUP or SIGQUIT finish the event in hand, commit, leave the group, and end with 0; a "
    .. "second one, other than SIGHUP, ends at once.",
}

function run.define(command)
  command:argument("file"):args("+"):description("Lua scripts, run one after the other.")
  local servers = options.connection(command, "topic_prefix", "consumer_group")
  command:mutex(servers, command:flag("--embedded")
    :description("Use an embedded broker, in memory, instead of what the script says."))
  command:option("--for"):target("for_seconds"):argname("<seconds>"):convert(options.seconds)
    :description("End each consumption after so long.")
  command:option("--until-idle"):argname("<seconds>"):convert(options.seconds)
    :description("End each consumption once nothing came for so long and all is handled, but for "
      .. "what an open circuit breaker holds back.")
  command:option("--workers"):argname("<count>"):default("1"):convert(options.integer(1, 256))
    :description("So many processes, each running the scripts; one that crashes is replaced.")
end

local function set_host(args)
  host.flags = options.flags(args)
  if args.embedded then host.flags.bootstrap_servers = "embedded" end
  host.for_seconds, host.until_idle = args.for_seconds, args.until_idle
  host.unwind = true
  if args.workers == 1 then return end
  host.on_bus = function(bus, level)
    if bus.config.bootstrap_servers ~= "embedded" then return end
    error('ECONFIG: bootstrap_servers = "embedded" gives each of several workers a broker of its '
      .. "own; let them share one with --embedded, or name a broker with --bootstrap-servers",
      level)
  end
end

-- Buses the scripts left to the host: subscribed, never started, not disconnected.
local function start_rest()
  for _, bus in ipairs({ unpack(moonbus_bus.opened) }) do
    if bus.subscriptions[1] and not bus.started and not host.interrupted then
      if bus.failure then return nil, bus.failure.err, bus.failure.code end
      local ok, err, code = bus:connect()
      if ok then ok, err, code = bus:start_consuming_in_background() end
      if not ok and not task.interrupted(true) then return nil, err, code end
    end
  end
  return true
end

local function anything_consumes()
  for _, bus in ipairs(moonbus_bus.opened) do
    if bus:is_consuming() then return true end
  end
  return false
end

-- 0, or the exit code of what could not be finished; and whether all is closed: a bus whose handler
-- is running (it called os.exit) cannot be.
local function close_all()
  local status, closed = exit.OK, true
  for _, bus in ipairs({ unpack(moonbus_bus.opened) }) do
    local ok, err, code = bus:disconnect()
    if code == "ESTATE" then closed = false
    elseif not ok then status = exit.report(err, code) end
  end
  return status, closed
end

local function in_handler()
  for _, bus in ipairs(moonbus_bus.opened) do
    if bus.native:in_handler() then return true end
  end
  return false
end

-- A script that leaves loses nothing: what is queued is sent, offsets are committed. A handler
-- cannot leave: its event would come again, here or to another worker, and end that one, too.
local function guard_exit()
  rawset(globals.os, "exit", function(code)
    local call = ("os.exit(%s)"):format(code == nil and "" or tostring(code))
    if in_handler() then
      error(call .. " in a handler: expected a return or an error; bus:stop_consuming() ends "
        .. "consumption after the event", 2)
    end
    exit.say(("the script ends the program by %s"):format(call))
    local _, closed = close_all()
    os.exit(code == nil or code, closed)
  end)
end

local function work(files)
  for _, path in ipairs(files) do -- none runs before all can be read
    local chunk, wrong = script.load(path)
    if not chunk then return script.report(wrong) end
  end
  for _, path in ipairs(files) do
    local ok, wrong = script.run(path)
    local interrupted = task.interrupted(true)
    if not ok and not interrupted then return script.report(wrong) end
    if interrupted then return exit.OK end
  end
  for _, bus in ipairs(moonbus_bus.opened) do
    if misses.is_unused(bus) then bus.native:log("warn", misses.UNUSED) end
  end
  local ok, err, code = start_rest()
  if not ok then return exit.report(err, code) end
  while anything_consumes() do task.turn(1) end
  task.reap()
  if host.failure and not host.interrupted then
    return exit.report(host.failure.err, host.failure.code)
  end
  return exit.OK
end

function run.run(args)
  io.stdout:setvbuf("line") -- what a service prints is seen when it is printed, in a pipe too
  set_host(args)
  guard_exit()
  local status = work(args.file)
  local closing = close_all()
  return status ~= exit.OK and status or closing
end

return run
