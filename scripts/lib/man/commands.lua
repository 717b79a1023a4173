-- commands.lua: moonbus(1), and a page for each command, from the command line's parser.
-- Must not know what a command or an option means.
-- Used by man.lua.
local exit = require "moonbus.cli.exit"
local mdoc = require "mdoc"

local add_list, add_text, argument = mdoc.add_list, mdoc.add_text, mdoc.argument

local COMMON = 8 -- an option that so many commands have is described in moonbus(1), too

local FILES = {
  { "share/doc/moonbus/moonbus.html", "the README and the manual as one page" },
  { "share/doc/moonbus/lua/manual/", "the manual, a file for each subject" },
  { "share/doc/moonbus/examples/", "scripts and programs to start from" },
  { "share/lua/5.1/moonbus/", "the Lua module, for plain luajit" },
  { "include/moonbus.h", "the C API" },
}

local commands = {}

-- ---- the parser's elements ----

-- "<event type>" -> .Ar; "{a,b}" -> choices of .Cm
local function value_of(text)
  local choices = text:match "^{(.*)}$"
  if not choices then return "Ar " .. argument((text:gsub("^<(.*)>$", "%1"))) end
  local words = {}
  for choice in choices:gmatch "[^,]+" do words[#words + 1] = argument(choice) end
  return "Cm " .. table.concat(words, " | ")
end

local function values_of(option)
  local parts = {}
  for _, each in ipairs(option:_get_argument_list()) do parts[#parts + 1] = value_of(each) end
  return table.concat(parts, " ")
end

local function option_tag(option)
  local names = {}
  for _, name in ipairs(option._aliases) do names[#names + 1] = "Fl " .. name:sub(2) end
  local values = values_of(option)
  return table.concat(names, " , ") .. (values == "" and "" or " " .. values)
end

local function visible(command)
  local list = {}
  for _, option in ipairs(command._options) do
    if not option._hidden then list[#list + 1] = option end
  end
  return list
end

local function options_of(command)
  local items = {}
  for _, option in ipairs(visible(command)) do
    items[#items + 1] = { tag = option_tag(option), text = option:_get_description() }
  end
  return items
end

local function operand_value(operand)
  return value_of(operand._choices and "{" .. table.concat(operand._choices, ",") .. "}"
    or operand._name)
end

local function operands_of(command)
  local items = {}
  for _, operand in ipairs(command._arguments) do
    items[#items + 1] = { tag = operand_value(operand), text = operand:_get_description() }
  end
  return items
end

-- The commands without subcommands: { name = "dlq list", command = }
local function leaves(command, prefix, list)
  list = list or {}
  for _, each in ipairs(command._commands) do leaves(each, prefix .. " " .. each._name, list) end
  if #command._commands == 0 then list[#list + 1] = { name = prefix:sub(2), command = command } end
  return list
end

-- Which options at least so many of the commands have, in the order in which they come first; as a
-- list and a set.
local function common_options(list, least)
  local all, count, items, set = {}, {}, {}, {}
  for _, each in ipairs(list) do
    for _, item in ipairs(options_of(each.command)) do
      local key = item.tag .. "\n" .. item.text
      if not count[key] then all[#all + 1] = { key = key, item = item } end
      count[key] = (count[key] or 0) + 1
    end
  end
  for _, each in ipairs(all) do
    if count[each.key] >= least then items[#items + 1], set[each.key] = each.item, true end
  end
  return items, set
end

local function without(items, set)
  local rest = {}
  for _, item in ipairs(items) do
    if not set[item.tag .. "\n" .. item.text] then rest[#rest + 1] = item end
  end
  return rest
end

-- ---- a synopsis ----

-- An option as it is typed: by its long name.
local function typed(option)
  local long = option._aliases[1]
  for _, name in ipairs(option._aliases) do
    if #name > #long then long = name end
  end
  local values = values_of(option)
  return "Fl " .. long:sub(2) .. (values == "" and "" or " " .. values)
end

-- Options of which only one may be given, in one pair of brackets.
local function alternatives(command)
  local of = {}
  for _, mutex in ipairs(command._mutexes) do
    local each = {}
    for _, option in ipairs(mutex) do
      each[#each + 1] = typed(option)
      of[option] = mutex
    end
    of[mutex] = table.concat(each, " | ")
  end
  return of
end

local function add_synopsis(out, name, command)
  out[#out + 1] = ".Nm moonbus"
  out[#out + 1] = ".Cm " .. name
  local of, done = alternatives(command), {}
  for _, option in ipairs(visible(command)) do
    local mutex = of[option]
    if typed(option) ~= "Fl -help" and not done[mutex or option] then
      done[mutex or option] = true
      local usage = mutex and of[mutex] or typed(option)
      out[#out + 1] = (option._mincount or 0) > 0 and "." .. usage or ".Op " .. usage
      if option._maxcount > 1 then out[#out] = out[#out] .. " ..." end
    end
  end
  for _, operand in ipairs(command._arguments) do
    local value = operand_value(operand) .. (operand._maxargs > 1 and " ..." or "")
    out[#out + 1] = operand._minargs == 0 and ".Op " .. value or "." .. value
  end
end

-- ---- the page of a command ----

local function summary_of(command)
  local text = command._summary or command._description
  return text:sub(1, 1):lower() .. text:sub(2):gsub("%.$", "")
end

local function add_single(out, command)
  add_text(out, command._description or command._summary)
  add_list(out, operands_of(command))
  out[#out + 1] = ".Pp\nThe options are as follows:"
  add_list(out, options_of(command))
end

-- Options that most of the commands have are described once.
local function add_several(out, command, list)
  local common, is_common = common_options(list, math.floor(#list / 2) + 1)
  add_text(out, command._description or command._summary)
  for _, each in ipairs(list) do
    out[#out + 1] = ".Ss moonbus " .. each.name
    add_text(out, each.command._description or each.command._summary)
    add_list(out, operands_of(each.command))
    add_list(out, without(options_of(each.command), is_common))
  end
  out[#out + 1] = ".Ss Common options"
  add_text(out, "Each command has those of these options that the synopsis shows, and --help:")
  add_list(out, common)
end

local function command_page(command)
  local list = leaves(command, " " .. command._name)
  local out = mdoc.head("moonbus-" .. command._name, 1, summary_of(command))
  out[#out + 1] = ".Sh SYNOPSIS"
  for _, each in ipairs(list) do add_synopsis(out, each.name, each.command) end
  out[#out + 1] = ".Sh DESCRIPTION"
  if #list > 1 then add_several(out, command, list) else add_single(out, command) end
  out[#out + 1] = ".Sh EXIT STATUS\n.Xr moonbus 1\nlists the exit codes of all commands."
  mdoc.add_see_also(out, { { "moonbus", 1 }, { "moonbus-options", 5 } })
  return out
end

-- ---- moonbus(1) ----

local function add_environment(out)
  out[#out + 1] = ".Sh ENVIRONMENT"
  add_text(out, "An option's value comes from its flag, else from the environment, else from the "
    .. "script, else it is the default.")
  out[#out + 1] = ".Bl -tag -width Ds\n.It Ev MOONBUS_TOPIC_PREFIX"
  out[#out + 1] = "The option\n.Cm topic_prefix ;"
  out[#out + 1] = "the other options of\n.Xr moonbus-options 5\nhave names of the same form.\n.El"
end

local function add_files(out)
  out[#out + 1] = ".Sh FILES"
  add_text(out, "Below the folder that moonbus was installed to, such as /usr/local:")
  local items = {}
  for _, each in ipairs(FILES) do
    items[#items + 1] = { tag = "Pa " .. each[1], text = each[2] }
  end
  add_list(out, items)
end

local function overview_page(parser)
  local out = mdoc.head("moonbus", 1, "events on Apache Kafka, scripted in Lua")
  out[#out + 1] = ".Sh SYNOPSIS\n.Nm\n.Ar command\n.Op Ar options\n.Op Ar operands"
  out[#out + 1] = ".Nm\n.Ar command\n.Fl -help"
  for _, option in ipairs(visible(parser)) do out[#out + 1] = ".Nm\n." .. typed(option) end
  out[#out + 1] = ".Sh DESCRIPTION\n.Nm"
  add_text(out, "publishes events to Apache Kafka, and runs Lua scripts that handle them.")
  out[#out + 1] = ".Ss Commands"
  local items = {}
  for _, command in ipairs(parser._commands) do
    items[#items + 1] = { tag = "Cm " .. command._name, text = command._summary,
      lines = { ("See\n.Xr moonbus-%s 1 ."):format(command._name) } }
  end
  add_list(out, items)
  out[#out + 1] = ".Ss Common options"
  add_text(out, "Each command has those of these options that its page lists:")
  add_list(out, (common_options(leaves(parser, ""), COMMON)))
  add_environment(out)
  add_files(out)
  out[#out + 1] = ".Sh EXIT STATUS"
  local codes, refs = {}, { { "moonbus", 3 }, { "moonbus-options", 5 } }
  for _, each in ipairs(exit.codes) do codes[#codes + 1] = { tag = each[1], text = each[2] } end
  add_list(out, codes)
  for _, command in ipairs(parser._commands) do
    refs[#refs + 1] = { "moonbus-" .. command._name, 1 }
  end
  mdoc.add_see_also(out, refs)
  return out
end

--- The pages by their names.
function commands.pages()
  local parser = require("moonbus.cli").parser("moonbus", {})
  local pages = { ["moonbus.1"] = overview_page(parser) }
  for _, command in ipairs(parser._commands) do
    pages["moonbus-" .. command._name .. ".1"] = command_page(command)
  end
  return pages
end

return commands
