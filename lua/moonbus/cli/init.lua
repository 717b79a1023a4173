--- The command line: moonbus COMMAND ...; each command is a module of its own.
local base = require "moonbus.base"
local argparse = require "argparse"
local core = require "moonbus.core"
local exit = require "moonbus.cli.exit"

local collectgarbage, debug, error = base.collectgarbage, base.debug, base.error
local ipairs, jit, package, pairs = base.ipairs, base.jit, base.package, base.pairs
local pcall, print, require, table = base.pcall, base.print, base.require, base.table
local tostring, type, xpcall = base.tostring, base.type, base.xpcall

local cli = {}

local COMMANDS = {
  "run", "check", "publish", "tail", "topics", "dlq", "projections", "rebuild", "broker", "version",
  "completion",
}

local ENVIRONMENT = [[
An option's value comes from its flag, else from the environment (MOONBUS_TOPIC_PREFIX for
topic_prefix), else from the script, else it is the default.]]

local function exit_table()
  local lines = { "Exit codes:" }
  for _, row in ipairs(exit.codes) do lines[#lines + 1] = ("  %2d  %s"):format(row[1], row[2]) end
  return table.concat(lines, "\n")
end

-- What ends the parsing early (help, version) raises this table, with the text to print in it.
local function add_help(command, early)
  command:add_help({
    action = function()
      early.text = command:get_help()
      error(early, 0)
    end,
  })
end

-- Converters do not know whose value they look at: their reasons get the option's name.
local function name_options(command)
  for _, option in ipairs(command._options) do
    local convert = option._convert
    if type(convert) == "function" then
      option:convert(function(text)
        local value, reason = convert(text)
        if value ~= nil or not reason then return value end
        local code, rest = reason:match("^(E[A-Z]+: )(.*)$")
        return nil, ("%s%s %s"):format(code or "", option._name, rest or reason)
      end)
    end
  end
end

-- page: the man page of the command; nil for the whole command line
local function finish(command, early, page)
  add_help(command, early)
  name_options(command)
  for _, sub in ipairs(command._commands) do
    local its = page or "moonbus-" .. sub._name
    if not sub._epilog then
      sub:epilog("Exit codes and environment: moonbus --help\nManual page: man " .. its)
    end
    finish(sub, early, its)
  end
end

--- The parser of the whole command line, and the commands by name. early receives the text to print
-- when help or the version was asked for.
function cli.parser(name, early)
  local parser = argparse(name, "Events on Apache Kafka, scripted in Lua.")
    :epilog(ENVIRONMENT .. "\n\n" .. exit_table())
    :command_target("command")
    :help_max_width(96):help_description_margin(30):usage_max_width(96)
  parser:flag("--version"):description("Print the version and end."):action(function()
    early.text = "moonbus " .. core.version
    error(early, 0)
  end)
  local commands = {}
  for _, each in ipairs(COMMANDS) do
    local module = require("moonbus.cli." .. each)
    commands[each] = module
    local command = parser:command(each):summary(module.summary)
      :description(module.description or module.summary)
    module.define(command, parser)
  end
  finish(parser, early)
  return parser, commands
end

-- The words that name a command: "tail ", "dlq list ".
local function command_of(parser, argv)
  local words, at, i = "", parser, 0
  repeat
    local found
    i = i + 1
    for _, each in ipairs(at._commands) do
      if each._name == argv[i] then found = each end
    end
    if found then words, at = words .. argv[i] .. " ", found end
  until not found
  return words
end

-- args, or nil and the exit code
local function parse(parser, argv, early)
  local ok, parsed, args = pcall(parser.pparse, parser, argv)
  if early.text then
    print(early.text)
    return nil, exit.OK
  end
  if not ok then error(parsed, 0) end
  if parsed then return args end
  local known = args:match("^(E[A-Z]+): ")
  local text = args:gsub("\n", "; "):gsub("^(unknown option '(%-[%d.]+)').*",
    "%1; a value that begins with - is given as --option=%2")
  return nil, exit.report(("%s; see: moonbus %s--help"):format(text, command_of(parser, argv)),
    known or "EINVAL", exit.USAGE)
end

local function with_traceback(reason)
  if type(reason) ~= "string" then return reason end
  return debug.traceback(reason, 2)
end

-- The command with its arguments and the parser; nil and the exit code.
local function choose(argv)
  local early = {}
  local parser, commands = cli.parser("moonbus", early)
  local args, status = parse(parser, argv, early)
  if not args then return nil, status end
  return commands[args.command], args, parser
end

-- A script runs for long, and the collector goes over all that is kept each time it looks for what
-- the script left: of the command line, most of it, nothing is needed any more.
local function forget()
  for name in pairs(package.loaded) do
    if name == "argparse" or name:find "^moonbus%.cli" then package.loaded[name] = nil end
  end
  jit.flush()
  collectgarbage()
end

local function perform(command, args, parser)
  if command.runs_long then
    parser = nil
    forget()
  end
  local ok, result = xpcall(command.run, with_traceback, args, parser)
  if ok then return result or exit.OK end
  return exit.caught(result) or exit.report(tostring(result), "EINTERNAL", exit.INTERNAL)
end

--- Run a command line: argv[0] is the program's name. Returns the exit code.
function cli.main(argv)
  local command, args, parser = choose(argv)
  if not command then return args end
  return perform(command, args, parser) -- a tail call: nothing of what chose it is kept
end

return cli
