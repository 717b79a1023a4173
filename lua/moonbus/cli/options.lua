--- Options that several commands share, described by the engine's own table of options.
local base = require "moonbus.base"
local core = require "moonbus.core"
local bus = require "moonbus.bus"
local exit = require "moonbus.cli.exit"
local task = require "moonbus.task"

local error, ipairs, math, pcall = base.error, base.ipairs, base.math, base.pcall
local tonumber, type = base.tonumber, base.type

local options = {}

local by_key = {}
for _, option in ipairs(core.options()) do by_key[option.key] = option end

-- ---- values of flags ----

--- A converter: an integer within bounds.
function options.integer(least, most)
  return function(text)
    local number = text:match("^%-?%d+$") and tonumber(text)
    if number and number >= least and number <= most then return number end
    if most == math.huge then
      return nil, ("'%s': expected an integer of at least %d"):format(text, least)
    end
    return nil, ("'%s': expected an integer from %d to %d"):format(text, least, most)
  end
end

--- A converter: seconds, more than 0.
function options.seconds(text)
  local number = text:match("^%d*%.?%d*$") and tonumber(text)
  if number and number > 0 then return number end
  return nil, ("'%s': expected a number of seconds above 0"):format(text)
end

-- "key=value" -> { key, value }, checked by the engine
local function setting(text)
  local key, value = text:match("^%s*([^=%s]+)%s*=(.*)$")
  if not key then return nil, ("'%s': expected key=value"):format(text) end
  local ok, err = core.option_check(key, value)
  if not ok then return nil, err end
  return { key, value }
end

-- ---- adding them to a command ----

--- A flag for one option of the engine: --topic-prefix for topic_prefix.
function options.mirror(command, key)
  local row = by_key[key]
  local flag = command:option("--" .. key:gsub("_", "-")):target(key):description(row.help)
  if row.choices then
    local choices = {}
    for choice in row.choices:gmatch("[^|]+") do choices[#choices + 1] = choice end
    flag:choices(choices)
  else
    flag:argname(key == "bootstrap_servers" and "<host:port>" or "<name>")
    flag:convert(function(value)
      local ok, err = core.option_check(key, value)
      if ok then return value end
      return nil, err
    end)
  end
  return flag
end

--- What every command takes that talks to a broker, and the mirrored options named.
function options.connection(command, ...)
  local servers = options.mirror(command, "bootstrap_servers")
  for _, key in ipairs({ ... }) do options.mirror(command, key) end
  command:option("--set")
    :description("Set any option (topic_prefix=orders) or librdkafka property "
      .. "(socket.keepalive.enable=true, kafka.debug=cgrp); may be repeated.")
    :argname("<key=value>"):count("*"):convert(setting)
  options.mirror(command, "log_level")
  options.mirror(command, "log_format")
  return servers
end

--- A --json flag.
function options.json(command, what)
  command:flag("--json"):description(what or "Print JSON.")
end

-- ---- using them ----

local MIRRORED = {
  "bootstrap_servers", "topic_prefix", "consumer_group", "log_level", "log_format",
}

--- The parsed flags as options that win over environment and script.
function options.flags(args)
  local flags = {}
  for _, pair in ipairs(args.set or {}) do
    local key, value = pair[1], pair[2]
    local property = key:match("^kafka%.(.+)$") or (key:find(".", 1, true) and key)
    if property then
      flags.kafka = flags.kafka or {}
      flags.kafka[property] = value
    else
      flags[key] = value
    end
  end
  for _, key in ipairs(MIRRORED) do
    if args[key] then flags[key] = args[key] end
  end
  return flags
end

--- A bus made of the flags and the environment. Leaves the command if an option is wrong.
function options.bus(args, config)
  task.host.flags = options.flags(args)
  local ok, made = pcall(bus.new, config or {})
  if ok then return made end
  if type(made) == "string" and made:find("^ECONFIG: ") then exit.raise(made, "ECONFIG") end
  error(made, 0)
end

--- The same, connected. Leaves the command if no broker answers.
function options.connected(args, config)
  local made = options.bus(args, config)
  local ok, err, code = made:connect()
  if not ok then exit.raise(err, code) end
  return made
end

return options
