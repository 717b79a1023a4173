#!/usr/bin/env luajit
-- docs.lua: writes the generated parts of the manual: the option reference, what needs which
-- librdkafka, the error codes and the exit codes.
-- Must not know what any of them mean: everything comes from moonbus.options(), moonbus.features(),
-- moonbus.errors() and moonbus.cli.exit.
-- Called by hand after a change of those tables, and with --check by scripts/check.
--
--   scripts/docs.lua [--check] [DIR]     DIR is lua/manual beside scripts/ unless given
--
-- Exits 0 if the pages are up to date (or now are), 1 if --check finds that one is not, 2 if it
-- cannot work.

local root = (arg[0]:match("^(.*)/[^/]*$") or ".") .. "/.."

-- What the caller's LUA_PATH and LUA_CPATH find comes first.
package.path = package.path .. (";%s/lua/?.lua;%s/lua/?/init.lua"):format(root, root)
package.cpath = package.cpath .. (";%s/build/lib/?.so"):format(root)

local function fail(message, ...)
  io.stderr:write("docs.lua: ", message:format(...), "\n")
  os.exit(2)
end

-- ---- the option reference ----

-- Text for a paragraph or a table cell: characters that mean something in Markdown are escaped.
local function plain(text)
  return (tostring(text):gsub("[|<>*]", "\\%0"):gsub("%s+", " "))
end

local function code(text)
  return "`" .. tostring(text):gsub("|", "\\|") .. "`"
end

local function is_numeric(option)
  return option.type == "integer" or option.type == "number"
end

-- 900000 and 0.001 alike, without an exponent where there need not be one.
local function bound(n)
  if n == math.floor(n) and math.abs(n) < 1e15 then return ("%.0f"):format(n) end
  return ("%.10g"):format(n)
end

local function allowed(option)
  if option.choices then
    local each = {}
    for choice in option.choices:gmatch("[^|]+") do each[#each + 1] = code(choice) end
    return table.concat(each, ", ")
  end
  if not is_numeric(option) or not option.min or not option.max then return option.type end
  return ("%s, %s to %s%s"):format(option.type, bound(option.min), bound(option.max),
    option.unit and " " .. option.unit or "")
end

local function default(option)
  if option.default == nil or option.default == "" then return "unset" end
  return "default " .. code(option.default)
end

-- One line of facts, then the help.
local function entry(option)
  local facts = { allowed(option), default(option) }
  if option.kafka then facts[#facts + 1] = "librdkafka: " .. code(option.kafka) end
  local help = plain(option.help or "")
  if option.secret then help = help .. " Never shown in logs." end
  return ("### %s\n\n%s\n\n%s\n"):format(code(option.key), table.concat(facts, "; "), help)
end

local function anchor(title)
  return (title:lower():gsub("[^%w_ -]", ""):gsub(" ", "-"))
end

local function render_options(moonbus)
  local options = moonbus.options()
  if type(options) ~= "table" or #options == 0 then fail("moonbus.options() gave no options") end

  local sections, entries, links = {}, {}, {}
  for i, option in ipairs(options) do
    if type(option.key) ~= "string" or type(option.section) ~= "string"
        or type(option.type) ~= "string" then
      fail("option %d of moonbus.options() lacks key, section or type", i)
    end
    local section = option.section
    if not entries[section] then
      entries[section], links[section] = {}, {}
      sections[#sections + 1] = section
    end
    table.insert(entries[section], entry(option))
    table.insert(links[section], ("[%s](#%s)"):format(code(option.key), option.key))
  end

  local list, out = {}, {}
  for i, section in ipairs(sections) do
    list[i] = ("- [%s](#%s): %s\n"):format(section, anchor(section),
      table.concat(links[section], ", "))
    out[i] = ("## %s\n\n%s"):format(section, table.concat(entries[section], "\n"))
  end
  return table.concat(list) .. "\n" .. table.concat(out, "\n")
end

-- ---- what needs which librdkafka ----

local function render_librdkafka(moonbus)
  local out = { "| what | first version | built with |", "|---|---|---|" }
  for _, each in ipairs(moonbus.features().requirements) do
    -- an option with its value is code
    local what = each.what:gsub('%l[%l_]* = "[^"]*"', code)
    out[#out + 1] = ("| %s | %s | %s |"):format(what, each.since,
      each.feature and code(each.feature) or "")
  end
  return table.concat(out, "\n") .. "\n"
end

-- ---- codes ----

local function render_errors(moonbus)
  local exit = require "moonbus.cli.exit"
  local codes = {}
  for name in pairs(moonbus.errors()) do codes[#codes + 1] = name end
  table.sort(codes)
  local out = { "| code | meaning | exit code |", "|---|---|---|" }
  for _, name in ipairs(codes) do
    out[#out + 1] = ("| %s | %s | %d |"):format(code(name), plain(moonbus.errors()[name]),
      exit.status(name))
  end
  return table.concat(out, "\n") .. "\n"
end

local function render_exits()
  local out = { "| exit code | meaning |", "|---|---|" }
  for _, each in ipairs(require("moonbus.cli.exit").codes) do
    out[#out + 1] = ("| %d | %s |"):format(each[1], plain(each[2]))
  end
  return table.concat(out, "\n") .. "\n"
end

-- ---- the pages ----

-- Each generated part: <!-- name:begin --> ... <!-- name:end -->
local PARTS = {
  { page = "06-operations.md", name = "librdkafka", render = render_librdkafka },
  { page = "07-options.md", name = "options", render = render_options },
  { page = "08-errors.md", name = "errors", render = render_errors },
  { page = "08-errors.md", name = "exits", render = render_exits },
}

local function replace(text, name, body, path)
  local begin_mark, end_mark = ("<!-- %s:begin -->"):format(name), ("<!-- %s:end -->"):format(name)
  local _, begin_at = text:find(begin_mark, 1, true)
  local end_at = begin_at and text:find(end_mark, begin_at + 1, true)
  if not end_at then
    fail("%s has no lines %s and %s, in this order", path, begin_mark, end_mark)
  end
  return text:sub(1, begin_at) .. "\n\n" .. body .. "\n" .. text:sub(end_at)
end

local function read(path)
  local file, err = io.open(path, "rb")
  if not file then fail("cannot read %s", err) end
  local text = file:read("*a")
  file:close()
  return text
end

-- By way of a second file, so that a full disk does not leave half a page.
local function write(path, text)
  local fresh = path .. ".new"
  local file, err = io.open(fresh, "wb")
  if not file then fail("cannot write %s", err) end
  local wrote, why = file:write(text)
  local closed, why_not = file:close()
  if not (wrote and closed) then
    os.remove(fresh)
    fail("cannot write %s: %s", fresh, why or why_not)
  end
  local renamed, reason = os.rename(fresh, path)
  if not renamed then fail("cannot replace %s", reason) end
end

local check, dir = false, nil
for _, word in ipairs(arg) do
  if word == "--check" then check = true
  elseif word:sub(1, 1) == "-" or dir then fail("usage: docs.lua [--check] [DIR]")
  else dir = word end
end
dir = dir or root .. "/lua/manual"

local found, moonbus = pcall(require, "moonbus")
if not found then fail("cannot load moonbus; build it first\n%s", tostring(moonbus)) end
if type(moonbus) ~= "table" then fail("require \"moonbus\" gave no table") end
for _, name in ipairs { "options", "features", "errors" } do
  if type(moonbus[name]) ~= "function" then
    fail("this moonbus has no %s(); build the newest first", name)
  end
end

local before, after, pages = {}, {}, {}
for _, part in ipairs(PARTS) do
  local path = dir .. "/" .. part.page
  if not after[path] then
    before[path] = read(path)
    after[path] = before[path]
    pages[#pages + 1] = path
  end
  after[path] = replace(after[path], part.name, part.render(moonbus), path)
end

local stale = false
for _, path in ipairs(pages) do
  if after[path] ~= before[path] then
    stale = true
    if check then
      io.stderr:write("docs.lua: ", path, " is not up to date; run scripts/docs.lua\n")
    else
      write(path, after[path])
    end
  end
end
os.exit(check and stale and 1 or 0)
