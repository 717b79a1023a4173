#!/usr/bin/env luajit
-- Fails when a public name has no documentation:
--   every MB_EXPORT function of the installed headers has a /** */ comment directly before it,
--   or stands in an unbroken run of declarations (no blank line) that such a comment opens;
--   every function a luaL_Reg table in src/lua/*.c gives to Lua is in lua/moonbus/meta.lua, or is
--   used by a module in lua/moonbus.
-- Run: luajit scripts/lib/coverage.lua [ROOT]

local root = arg[1] or (arg[0]:match("^(.*)/[^/]*$") or ".") .. "/../.."

local problems = {}

local function problem(file, line, ...)
  problems[#problems + 1] = ("%s:%d: %s"):format(file, line, string.format(...))
end

local function read(path)
  local f = io.open(root .. "/" .. path, "rb")
  if not f then return nil end
  local text = f:read("*a")
  f:close()
  return (text:gsub("\r\n", "\n"))
end

-- Paths below root, sorted; pattern is one of the shell.
local function glob(pattern)
  local quoted = "'" .. root:gsub("'", "'\\''") .. "'"
  local pipe = assert(io.popen("cd " .. quoted .. " && ls -d " .. pattern .. " 2>/dev/null"))
  local paths = {}
  for path in pipe:lines() do paths[#paths + 1] = path end
  pipe:close()
  return paths
end

local function line_of(text, position)
  local _, newlines = text:sub(1, position - 1):gsub("\n", "")
  return newlines + 1
end

-- The text with everything but newlines replaced by spaces: positions and lines stay.
local function blank(text)
  return (text:gsub("[^\n]", " "))
end

-- C without comments; string literals stay.
local function strip_c(text)
  local out, at = {}, 1
  while true do
    local from = text:find("[/\"']", at)
    if not from then break end
    out[#out + 1] = text:sub(at, from - 1)
    local two = text:sub(from, from + 1)
    local to
    if two == "/*" then
      to = select(2, text:find("*/", from + 2, true)) or #text
      out[#out + 1] = blank(text:sub(from, to))
    elseif two == "//" then
      to = (text:find("\n", from, true) or #text + 1) - 1
      out[#out + 1] = blank(text:sub(from, to))
    elseif two:sub(1, 1) == "/" then
      to = from
      out[#out + 1] = "/"
    else
      local quote = two:sub(1, 1)
      to = from + 1
      while to < #text and text:sub(to, to) ~= quote do
        to = to + (text:sub(to, to) == "\\" and 2 or 1)
      end
      out[#out + 1] = text:sub(from, to)
    end
    at = to + 1
  end
  out[#out + 1] = text:sub(at)
  return table.concat(out)
end

-- Lua without comments.
local function strip_lua(text)
  text = text:gsub("%-%-%[(=*)%[.-%]%1%]", blank)
  return (text:gsub("%-%-[^\n]*", blank))
end

---- the headers -----------------------------------------------------------

-- Per line: "doc" (the end of a /** */ comment), "note" (of another comment), "blank", or "code".
local function kinds_of_lines(text)
  local kinds, inside = {}, nil
  for line in (text .. "\n"):gmatch("(.-)\n") do
    local kind
    if not inside then
      if line:match("^%s*$") then
        kind = "blank"
      elseif line:match("^%s*/%*") then
        inside = line:match("^%s*/%*%*[^/]") and "doc" or line:match("^%s*/%*%*$") and "doc"
          or "note"
      elseif line:match("^%s*//") then
        kind = "note"
      else
        kind = "code"
        -- a comment that begins behind code and goes on
        local tail = line:match(".*(/%*.*)$")
        if tail and not tail:find("*/", 3, true) then inside = "code" end
      end
    end
    if inside then
      kind = inside
      if line:find("*/", 1, true) then inside = nil end
    end
    kinds[#kinds + 1] = kind
  end
  return kinds
end

local function check_header(path)
  local text = read(path)
  local kinds = kinds_of_lines(text)
  -- documented[n]: line n is under a /** */ comment, no blank line in between
  local documented, under = {}, false
  for n, kind in ipairs(kinds) do
    if kind == "doc" then
      under = true
    elseif kind == "blank" then
      under = false
    end
    documented[n] = under
  end
  local code, count, at = strip_c(text), 0, 1
  while true do
    local from, to = code:find("%f[%w_]MB_EXPORT%f[^%w_]", at)
    if not from then break end
    at = to + 1
    local line_start = code:sub(1, from):match(".*()\n") or 0
    if not code:sub(line_start + 1, from - 1):match("^%s*#") then
      local declaration = code:match("^[^;{]*", to + 1)
      local name = declaration:match("([%a_][%w_]*)%s*%(")
      if name then
        count = count + 1
        local line = line_of(code, from)
        if not documented[line] then
          problem(path, line, "%s has no /** */ comment", name)
        end
      end
    end
  end
  return count
end

---- what Lua sees ---------------------------------------------------------

-- Name -> {file, line} of all that src/lua/*.c registers, metamethods left out.
local function registered_names(paths)
  local names, count = {}, 0
  for _, path in ipairs(paths) do
    local code = strip_c(read(path))
    for start, body in code:gmatch("luaL_Reg%s+[%a_][%w_]*%s*%[[^%]]*%]%s*=%s*{()(.-)}%s*;") do
      local found = false
      for position, name in body:gmatch("{%s*()\"([^\"]+)\"%s*,") do
        found = true
        if not name:match("^__") and not names[name] then
          names[name] = { path, line_of(code, start + position - 1) }
          count = count + 1
        end
      end
      if not found and not body:match("^%s*{?%s*NULL") then
        problem(path, line_of(code, start), "cannot read this luaL_Reg table")
      end
    end
  end
  return names, count
end

-- True if the text has one of the shapes, each a format with the name's place.
local function mentions(text, name, shapes)
  for _, shape in ipairs(shapes) do
    if text:find((shape:gsub("NAME", (name:gsub("%W", "%%%0"))))) then return true end
  end
  return false
end

local function check_lua()
  local paths = glob("src/lua/*.c")
  local names, count = registered_names(paths)
  if count == 0 and read("src/lua/module.c") then
    problem("src/lua/module.c", 1, "no luaL_Reg table found in src/lua/*.c")
  end
  local meta, modules = read("lua/moonbus/meta.lua") or "", {}
  for _, path in ipairs(glob("lua/moonbus/*.lua lua/moonbus/*/*.lua")) do
    if path ~= "lua/moonbus/meta.lua" then modules[#modules + 1] = strip_lua(read(path)) end
  end
  local code = table.concat(modules, "\n")
  local in_meta = { "[.:]%s*NAME%f[^%w_]", "@field%s+NAME%f[^%w_]", "%f[%w_]NAME%s*=" }
  local in_code = { "[.:]%s*NAME%f[^%w_]", "[\"']NAME[\"']" }
  for name, place in pairs(names) do
    if not mentions(meta, name, in_meta) and not mentions(code, name, in_code) then
      problem(place[1], place[2],
        "Lua gets %s, but lua/moonbus/meta.lua does not describe it and no module uses it", name)
    end
  end
  return count
end

local functions = 0
for _, path in ipairs(glob("src/include/moonbus.h src/include/moonbus_lua.h")) do
  functions = functions + check_header(path)
end
if functions == 0 then problem("src/include/moonbus.h", 1, "no MB_EXPORT function found") end
local names = check_lua()

table.sort(problems)
for _, text in ipairs(problems) do io.stderr:write(text, "\n") end
if #problems > 0 then
  io.stderr:write(("coverage: %d of %d public names lack documentation\n"):format(
    #problems, functions + names))
  os.exit(1)
end
print(("coverage: %d C functions and %d Lua names are documented"):format(functions, names))
