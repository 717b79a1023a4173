#!/usr/bin/env luajit
-- rooms.lua: the direction of includes under src/. A file may include headers of its own room and
-- of the rooms before it in ROOMS. Reported as well: a header that a room must not know, headers
-- that include each other in a circle, and an exception in rooms.allow that nothing needs any more.
-- Run: luajit scripts/check.d/rooms.lua [ROOT]

local ROOMS = { "include", "base", "config", "event", "handlers", "kafka", "group", "deliver",
  "bus", "dlq", "lua", "program" }
-- A header's name -> the first room that may include it. The program may include none of them, and
-- of include/ only moonbus_lua.h includes one.
local FIRST = { ["^lua%.h"] = "lua", ["^lauxlib"] = "lua", ["^lualib"] = "lua", ["^luajit"] = "lua",
  ["^librdkafka/"] = "kafka" }
local PUBLIC_LUA = "include/moonbus_lua.h -> lua.h"

local here = arg[0]:match "^(.*)/[^/]*$" or "."
local root = arg[1] or here .. "/../.."
local place, problems = {}, {}
for i, room in ipairs(ROOMS) do place[room] = i end

local function problem(...) problems[#problems + 1] = string.format(...) end

local function lines_of(command)
  local list, pipe = {}, assert(io.popen(command))
  for line in pipe:lines() do list[#list + 1] = line end
  pipe:close()
  return list
end

-- Lines "FILE -> HEADER  # reason".
local function read_allowed()
  local allowed = {}
  for line in io.lines(here .. "/rooms.allow") do
    local file, header = line:match "^(%S+) %-> (%S+)"
    if file then
      local pair = file .. " -> " .. header
      if allowed[pair] then problem("scripts/check.d/rooms.allow: %s stands there twice", pair) end
      allowed[pair] = "unused"
    elseif not line:match "^%s*#" and line:match "%S" then
      problem("scripts/check.d/rooms.allow: expected FILE -> HEADER, got %q", line)
    end
  end
  return allowed
end

local function first_room(header)
  for pattern, room in pairs(FIRST) do
    if header:match(pattern) then return place[room] end
  end
  return nil
end

local allowed = read_allowed()
local includes, count = {}, 0

local function check_include(file, room, quote, header)
  local target = quote == '"' and (header:match "^(%w+)/" or "include")
  local at = target and place[target] or first_room(header)
  if header:find("..", 1, true) or target and not place[target] then
    problem("src/%s: expected ROOM/FILE or a public header, got %s", file, header)
  elseif room == "program" and first_room(header) then
    problem("src/%s: the program includes %s: expected public headers only", file, header)
  elseif room == "program" and target and target ~= "include" and target ~= "program" then
    problem("src/%s: the program includes %s: expected public headers only", file, header)
  elseif at and at > place[room] and file .. " -> " .. header ~= PUBLIC_LUA then
    local pair = file .. " -> " .. header
    if allowed[pair] then allowed[pair] = "used"
    else problem("src/%s: %s is not for the room %s", file, header, room) end
  end
  if target == "include" then header = "include/" .. header end
  if target then table.insert(includes[file], header) end
end

for _, path in ipairs(lines_of("cd '" .. root .. "' && find src -name '*.[ch]' | sort")) do
  local file, room = path:match "^src/((%w+)/[^/]+)$"
  if not place[room or ""] then
    problem("%s: expected src/ROOM/FILE with one of the rooms %s", path, table.concat(ROOMS, " "))
  else
    count = count + 1
    includes[file] = {}
    for line in io.lines(root .. "/" .. path) do
      local quote, header = line:match '^%s*#%s*include%s*(["<])([^">]+)'
      if header then check_include(file, room, quote, header) end
    end
  end
end

local state = {} -- of a file: "open" while what it includes is looked at, then "done"
local function check_circles(file, way)
  if state[file] == "open" then
    problem("a circle of includes: %s -> %s", table.concat(way, " -> "), file)
  elseif includes[file] and not state[file] then
    state[file] = "open"
    way[#way + 1] = file
    for _, header in ipairs(includes[file]) do check_circles(header, way) end
    way[#way] = nil
    state[file] = "done"
  end
end
for file in pairs(includes) do check_circles(file, {}) end

local exceptions = 0
for pair, use in pairs(allowed) do
  exceptions = exceptions + 1
  if use == "unused" then
    problem("scripts/check.d/rooms.allow: nothing needs %s; delete it", pair)
  end
end
if count == 0 then problem("%s/src: expected C files in rooms, found none", root) end

table.sort(problems)
for _, text in ipairs(problems) do io.stderr:write("rooms: ", text, "\n") end
print(("rooms: %d files, %d exceptions, %d problems"):format(count, exceptions, #problems))
os.exit(#problems == 0)
