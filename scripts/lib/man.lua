#!/usr/bin/env luajit
-- man.lua: writes the man pages moonbus(1) and moonbus-options(5), in mdoc.
-- Must not know what a command or an option means: everything comes from the command line's parser,
-- moonbus.options() and moonbus.cli.exit.
-- Called by the build, whose folder MOONBUS_BUILD names (build beside scripts/ unless it is set).
--
--   scripts/lib/man.lua DIR     writes DIR/moonbus.1 and DIR/moonbus-options.5

local root = (arg[0]:match("^(.*)/[^/]*$") or ".") .. "/../.."
local build = os.getenv "MOONBUS_BUILD" or root .. "/build"

package.path = ("%s/lua/?.lua;%s/lua/?/init.lua;"):format(root, root) .. package.path
package.cpath = ("%s/lib/?.so;"):format(build) .. package.cpath

local DATE = "December 1, 2026" -- of the last change that matters to readers
local WIDTH = 78
local COMMON = 8 -- an option that so many commands have is described once

local function fail(message, ...)
  io.stderr:write("man.lua: ", message:format(...), "\n")
  os.exit(2)
end

-- ---- mdoc ----

-- A backslash starts an escape in mdoc.
local function escaped(text)
  return (text:gsub("\\", "\\e"))
end

-- One argument of a macro.
local function argument(text)
  text = escaped(text):gsub('"', '\\(dq')
  if text:find " " then return '"' .. text .. '"' end
  -- a word that is the name of a macro, or punctuation, is not text without this
  if text:match "^%u%l?$" or text:match "^%p$" then return "\\&" .. text end
  return text
end

-- Running text: a sentence starts a line, and no line is long or starts as a macro does.
local function add_text(out, text)
  local line = ""
  local function flush()
    if line ~= "" then out[#out + 1] = line:match "^['.]" and "\\&" .. line or line end
    line = ""
  end
  for word in escaped(text):gmatch "%S+" do
    if line ~= "" and #line + 1 + #word > WIDTH then flush() end
    line = line == "" and word or line .. " " .. word
    if word:match "[.?!]%)?$" and not word:match "^%.+$" then flush() end
  end
  flush()
end

local function add_list(out, items)
  out[#out + 1] = ".Bl -tag -width Ds"
  for _, item in ipairs(items) do
    out[#out + 1] = ".It " .. item.tag
    add_text(out, item.text)
  end
  out[#out + 1] = ".El"
end

local function head(title, section, name, what)
  return { ".Dd " .. DATE, (".Dt %s %d"):format(title, section), ".Os", ".Sh NAME", ".Nm " .. name,
    ".Nd " .. what }
end

-- ---- the parser's elements ----

-- "<event type>" -> .Ar; "{a,b}" -> choices of .Cm
local function value_of(text)
  local choices = text:match "^{(.*)}$"
  if not choices then return "Ar " .. argument((text:gsub("^<(.*)>$", "%1"))) end
  local words = {}
  for choice in choices:gmatch "[^,]+" do words[#words + 1] = argument(choice) end
  return "Cm " .. table.concat(words, " | ")
end

local function names_of(option)
  local names = {}
  for _, name in ipairs(option._aliases) do names[#names + 1] = "Fl " .. name:sub(2) end
  return table.concat(names, " , ")
end

local function option_tag(option)
  local parts = { names_of(option) }
  for _, each in ipairs(option:_get_argument_list()) do parts[#parts + 1] = value_of(each) end
  return table.concat(parts, " ")
end

local function options_of(command)
  local items = {}
  for _, option in ipairs(command._options) do
    if not option._hidden then
      items[#items + 1] = { tag = option_tag(option), text = option:_get_description() }
    end
  end
  return items
end

-- "<file> [<file>] ..." -> mdoc
local function operand_usage(operand)
  local value = value_of(operand._choices and "{" .. table.concat(operand._choices, ",") .. "}"
    or operand._name)
  if operand._maxargs > 1 then value = value .. " ..." end
  return operand._minargs == 0 and "Op " .. value or value
end

-- The commands without subcommands: { name = "dlq list", command = }
local function leaves(parser, prefix, list)
  for _, command in ipairs(parser._commands) do
    local name = prefix .. command._name
    if #command._commands > 0 then leaves(command, name .. " ", list)
    else list[#list + 1] = { name = name, command = command } end
  end
  return list
end

-- Which options several commands have, in the order in which they come; as a list and a set.
local function common_options(commands)
  local count, items, set = {}, {}, {}
  for _, each in ipairs(commands) do
    for _, item in ipairs(options_of(each.command)) do
      local key = item.tag .. "\n" .. item.text
      count[key] = (count[key] or 0) + 1
      if count[key] == COMMON then
        items[#items + 1], set[key] = item, true
      end
    end
  end
  return items, set
end

-- ---- moonbus(1) ----

local function add_command(out, each, common)
  local command = each.command
  out[#out + 1] = ".Ss moonbus " .. each.name
  add_text(out, command._description or command._summary)
  local items = {}
  for _, operand in ipairs(command._arguments) do
    items[#items + 1] = { tag = value_of(operand._name), text = operand:_get_description() }
  end
  for _, item in ipairs(options_of(command)) do
    if not common[item.tag .. "\n" .. item.text] then items[#items + 1] = item end
  end
  if #items > 0 then add_list(out, items) end
end

local function program_page()
  local exit = require "moonbus.cli.exit"
  local parser = require("moonbus.cli").parser("moonbus", {})
  local commands = leaves(parser, "", {})
  local common, is_common = common_options(commands)

  local out = head("MOONBUS", 1, "moonbus", "events on Apache Kafka, scripted in Lua")
  out[#out + 1] = ".Sh SYNOPSIS"
  for _, each in ipairs(commands) do
    out[#out + 1] = ".Nm"
    out[#out + 1] = ".Cm " .. each.name
    out[#out + 1] = ".Op Ar options"
    for _, operand in ipairs(each.command._arguments) do
      out[#out + 1] = "." .. operand_usage(operand)
    end
  end
  for _, option in ipairs(parser._options) do
    out[#out + 1] = ".Nm"
    out[#out + 1] = "." .. names_of(option):gsub("^.* , ", "")
  end
  out[#out + 1] = ".Sh DESCRIPTION"
  out[#out + 1] = ".Nm"
  add_text(out, "publishes events to Apache Kafka, and runs Lua scripts that handle them.")
  for _, each in ipairs(commands) do add_command(out, each, is_common) end
  out[#out + 1] = ".Ss Common options"
  add_text(out, "Commands have those of these options that apply to them:")
  add_list(out, common)
  out[#out + 1] = ".Sh ENVIRONMENT"
  add_text(out, "An option's value comes from its flag, else from the environment, else from the "
    .. "script, else it is the default.")
  out[#out + 1] = ".Bl -tag -width Ds\n.It Ev MOONBUS_TOPIC_PREFIX"
  out[#out + 1] = "The option\n.Cm topic_prefix ;"
  out[#out + 1] = "the other options of\n.Xr moonbus-options 5\nhave names of the same form.\n.El"
  out[#out + 1] = ".Sh EXIT STATUS"
  local codes = {}
  for _, each in ipairs(exit.codes) do codes[#codes + 1] = { tag = each[1], text = each[2] } end
  add_list(out, codes)
  out[#out + 1] = ".Sh SEE ALSO\n.Xr moonbus-options 5"
  return out
end

-- ---- moonbus-options(5) ----

local function option_facts(option)
  local facts = { option.type }
  if option.choices then
    facts[1] = option.choices:gsub("|", ", ")
  elseif option.min and option.max and (option.type == "integer" or option.type == "number") then
    facts[1] = ("%s, %.15g to %.15g%s"):format(option.type, option.min, option.max,
      option.unit and " " .. option.unit or "")
  end
  local default = tostring(option.default == nil and "" or option.default)
  facts[2] = default == "" and "unset" or "default " .. default
  if option.kafka then facts[3] = "librdkafka: " .. option.kafka end
  return table.concat(facts, "; ") .. "."
end

local function options_page()
  local out = head("MOONBUS-OPTIONS", 5, "moonbus-options", "options of a moonbus event bus")
  out[#out + 1] = ".Sh DESCRIPTION"
  add_text(out, "A script gives these options to moonbus.bus, the environment as MOONBUS_* in "
    .. "upper case, and the command line as --set key=value.")
  local section, items = nil, {}
  local function finish()
    if #items > 0 then add_list(out, items) end
    items = {}
  end
  for _, option in ipairs(require("moonbus").options()) do
    if option.section ~= section then
      finish()
      section = option.section
      out[#out + 1] = ".Ss " .. section
    end
    items[#items + 1] = { tag = "Cm " .. argument(option.key),
      text = option_facts(option) .. " " .. (option.help or "")
        .. (option.secret and " Never shown in logs." or "") }
  end
  finish()
  out[#out + 1] = ".Sh SEE ALSO\n.Xr moonbus 1"
  return out
end

local function write(path, lines)
  local file, err = io.open(path, "wb")
  if not file then fail("cannot write %s", err) end
  local wrote, why = file:write(table.concat(lines, "\n"), "\n")
  local closed, why_not = file:close()
  if not (wrote and closed) then fail("cannot write %s: %s", path, why or why_not) end
end

local dir = arg[1]
if not dir or arg[2] then fail "usage: man.lua DIR" end
write(dir .. "/moonbus.1", program_page())
write(dir .. "/moonbus-options.5", options_page())
