#!/usr/bin/env luajit
-- docs.lua: writes the generated parts of README.md: the option reference, and what needs which
-- librdkafka.
-- Must not know what the options mean: everything comes from moonbus.options() and
-- moonbus.features().
-- Called by hand after a change of those tables, and with --check by scripts/check.
--
--   scripts/docs.lua [--check] [FILE]     FILE is README.md beside scripts/ unless given
--
-- Exits 0 when FILE is up to date (or now is), 1 when --check finds it is not, 2 when it cannot
-- work.

local root = (arg[0]:match("^(.*)/[^/]*$") or ".") .. "/.."

-- What the caller's LUA_PATH and LUA_CPATH find comes first.
package.path = package.path .. (";%s/lua/?.lua;%s/lua/?/init.lua"):format(root, root)
package.cpath = package.cpath .. (";%s/build/?.so"):format(root)

local function fail(message, ...)
  io.stderr:write("docs.lua: ", message:format(...), "\n")
  os.exit(2)
end

-- ---- the option reference ----

-- Text for a table cell: what Markdown would take for its own is escaped.
local function cell(text)
  return (tostring(text):gsub("[|<>*_]", "\\%0"):gsub("%s+", " "))
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
  return code(option.default)
end

local function help(option)
  local text = cell(option.help or "")
  if option.secret then text = text .. " Never shown in logs." end
  return text
end

local function render_options(moonbus)
  if type(moonbus.options) ~= "function" then
    fail("this moonbus has no options(); build the newest first")
  end
  local options = moonbus.options()
  if type(options) ~= "table" or #options == 0 then fail("moonbus.options() gave no options") end

  local sections, rows = {}, {}
  for i, option in ipairs(options) do
    if type(option.key) ~= "string" or type(option.section) ~= "string"
        or type(option.type) ~= "string" then
      fail("option %d of moonbus.options() lacks key, section or type", i)
    end
    local section = option.section
    if not rows[section] then
      rows[section] = {}
      sections[#sections + 1] = section
    end
    table.insert(rows[section], ("| %s | %s | %s | %s | %s |"):format(code(option.key),
      allowed(option), default(option), option.kafka and code(option.kafka) or "", help(option)))
  end

  local out = {}
  for _, section in ipairs(sections) do
    out[#out + 1] = ("#### %s\n\n| option | value | default | librdkafka | |\n"
      .. "|---|---|---|---|---|\n%s\n"):format(section, table.concat(rows[section], "\n"))
  end
  return table.concat(out, "\n")
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

-- ---- the file ----

-- Each generated part: <!-- name:begin --> ... <!-- name:end -->
local PARTS = {
  { name = "librdkafka", render = render_librdkafka },
  { name = "options", render = render_options },
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

-- By way of a second file, so that a full disk does not leave half a README.
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

local check, path = false, nil
for _, word in ipairs(arg) do
  if word == "--check" then check = true
  elseif word:sub(1, 1) == "-" or path then fail("usage: docs.lua [--check] [FILE]")
  else path = word end
end
path = path or root .. "/README.md"

local found, moonbus = pcall(require, "moonbus")
if not found then fail("cannot load moonbus; build it first\n%s", tostring(moonbus)) end
if type(moonbus) ~= "table" then fail("require \"moonbus\" gave no table") end

local before = read(path)
local after = before
for _, part in ipairs(PARTS) do after = replace(after, part.name, part.render(moonbus), path) end

if after == before then os.exit(0) end
if check then
  io.stderr:write("docs.lua: ", path, " is not up to date; run scripts/docs.lua\n")
  os.exit(1)
end
write(path, after)
