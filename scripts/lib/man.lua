#!/usr/bin/env luajit
-- man.lua: writes the man pages in mdoc: moonbus(1) and a page for each command, moonbus(3) for the
-- C API, and moonbus-options(5).
-- Must not know what a command, a function or an option means: everything comes from the command
-- line's parser, the public headers, moonbus.options() and moonbus.cli.exit.
-- Called by the build, whose folder MOONBUS_BUILD names (build beside scripts/ unless it is set).
--
--   scripts/lib/man.lua DIR     writes DIR/moonbus.1, DIR/moonbus-options.5 and so on; pages that
--                               DIR had before are removed

local root = (arg[0]:match("^(.*)/[^/]*$") or ".") .. "/../.."
local build = os.getenv "MOONBUS_BUILD" or root .. "/build"

package.path = ("%s/lua/?.lua;%s/lua/?/init.lua;%s/scripts/lib/?.lua;"
  .. "%s/scripts/lib/man/?.lua;"):format(root, root, root, root)
  .. package.path
package.cpath = ("%s/lib/?.so;"):format(build) .. package.cpath

local files = require "files"
local mdoc = require "mdoc"

local function fail(message, ...)
  io.stderr:write("man.lua: ", message:format(...), "\n")
  os.exit(2)
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
  local out = mdoc.head("moonbus-options", 5, "options of a moonbus event bus")
  out[#out + 1] = ".Sh DESCRIPTION"
  mdoc.add_text(out, "A script gives these options to moonbus.bus, the environment as MOONBUS_* in "
    .. "upper case, and the command line as --set key=value.")
  local section, items = nil, {}
  local function finish()
    mdoc.add_list(out, items)
    items = {}
  end
  for _, option in ipairs(require("moonbus").options()) do
    if option.section ~= section then
      finish()
      section = option.section
      out[#out + 1] = ".Ss " .. section
    end
    items[#items + 1] = { tag = "Cm " .. mdoc.argument(option.key),
      text = option_facts(option) .. " " .. (option.help or "")
        .. (option.secret and " Never shown in logs." or "") }
  end
  finish()
  mdoc.add_see_also(out, { { "moonbus", 1 } })
  return out
end

-- ---- moonbus(3) ----

local function read_header(name)
  return files.read(root .. "/src/include/" .. name, fail)
end

-- ---- the folder ----

local function run(...)
  local words = {}
  for i, word in ipairs { ... } do words[i] = "'" .. word:gsub("'", "'\\''") .. "'" end
  local command = table.concat(words, " ")
  if os.execute(command) ~= 0 then fail("%s failed", command) end
end

local dir = arg[1]
if not dir or dir == "" or arg[2] then fail "usage: man.lua DIR" end
local pages = require("commands").pages()
pages["moonbus-options.5"] = options_page()
pages["moonbus.3"] = require("api").page(read_header "moonbus.h", read_header "moonbus_lua.h")
run("mkdir", "-p", "--", dir)
run("find", dir, "-maxdepth", "1", "-name", "moonbus*.[135]", "-delete")
for name, lines in pairs(pages) do
  files.write(dir .. "/" .. name, table.concat(lines, "\n") .. "\n", fail)
end
