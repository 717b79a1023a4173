#!/usr/bin/env luajit
-- rooms.lua: the direction of includes under src/. A file may include headers of its own room and
-- of the rooms before it in ROOMS. Reported as well: a header that a room must not know, headers
-- that include each other in a circle, and an exception in rooms.allow that nothing needs any more.
-- Of the objects of a build, if one is given: one that calls into a room after its own, and objects
-- that depend on each other in a circle.
-- Run: luajit scripts/lib/rooms.lua [ROOT [BUILD]]

local ROOMS = { "include", "base", "config", "event", "handlers", "kafka", "group", "deliver",
  "bus", "dlq", "lua", "program" }
-- A header's name -> the first room that may include it. The program may include none of them, and
-- of include/ only moonbus_lua.h includes one.
local FIRST = { ["^lua%.h"] = "lua", ["^lauxlib"] = "lua", ["^lualib"] = "lua", ["^luajit"] = "lua",
  ["^librdkafka/"] = "kafka" }
local PUBLIC_LUA = "include/moonbus_lua.h -> lua.h"

local here = arg[0]:match "^(.*)/[^/]*$" or "."
local root = arg[1] or here .. "/../.."
local build = arg[2]
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
  for line in io.lines(root .. "/scripts/rooms.allow") do
    local file, header = line:match "^(%S+) %-> (%S+)"
    if file then
      local pair = file .. " -> " .. header
      if allowed[pair] then problem("scripts/rooms.allow: %s stands there twice", pair) end
      allowed[pair] = "unused"
    elseif not line:match "^%s*#" and line:match "%S" then
      problem("scripts/rooms.allow: expected FILE -> HEADER, got %q", line)
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

-- What the objects define and need, by "ROOM/FILE.c". Objects of files that are gone do not count.
local function read_objects()
  local defined, needed, seen = {}, {}, 0
  local object
  for _, line in ipairs(lines_of("find '" .. build .. "/CMakeFiles' -path '*/src/*.o' 2>/dev/null"
    .. " | sort | xargs -r nm -A 2>/dev/null")) do
    local path, kind, name = line:match "/src/(%w+/[^/]+%.c)%.o:%S*%s+(%a) (%S+)"
    if not includes[path or ""] then path = nil end
    if path ~= object and path and not needed[path] then
      needed[path] = {}
      seen = seen + 1
    end
    object = path
    if path and kind == "U" then needed[path][name] = true
    elseif path and kind:match "[TDBRVC]" then defined[name] = path
    end
  end
  return defined, needed, seen
end

-- The objects that each one depends on, with a name that it needs of that.
local function edges_of(defined, needed)
  local edges = {}
  for object, names in pairs(needed) do
    edges[object] = {}
    for name in pairs(names) do
      local other = defined[name]
      local known = edges[object][other or ""]
      if other and other ~= object and (not known or name < known) then
        edges[object][other] = name
      end
    end
  end
  return edges
end

local function room_of(object) return place[object:match "^(%w+)/"] or 0 end

-- The shortest way from an object back to itself, as text; nil = there is none.
local function circle_of(edges, start)
  local before, queue = { [start] = false }, { start }
  for _, object in ipairs(queue) do
    for other in pairs(edges[object] or {}) do
      if other == start then
        local way = start
        while object do
          way = object .. " -> " .. way
          object = before[object]
        end
        return way
      elseif before[other] == nil then
        before[other] = object
        queue[#queue + 1] = other
      end
    end
  end
  return nil
end

local function check_objects(edges)
  for object, others in pairs(edges) do
    for other, name in pairs(others) do
      if room_of(other) > room_of(object) then
        problem("src/%s: calls %s of src/%s, whose room comes after its own", object, name, other)
      end
    end
    local circle = circle_of(edges, object)
    if circle then problem("src/%s: a circle of objects: %s", object, circle) end
  end
end

local objects = 0
if build then
  local defined, needed, count_of = read_objects()
  objects = count_of
  check_objects(edges_of(defined, needed))
  if objects == 0 then
    problem("%s: expected a build with the objects of src/, found none", build)
  end
end

local exceptions = 0
for pair, use in pairs(allowed) do
  exceptions = exceptions + 1
  if use == "unused" then
    problem("scripts/rooms.allow: nothing needs %s; delete it", pair)
  end
end
if count == 0 then problem("%s/src: expected C files in rooms, found none", root) end

table.sort(problems)
for _, text in ipairs(problems) do io.stderr:write("rooms: ", text, "\n") end
print(("rooms: %d files, %d objects, %d exceptions, %d problems"):format(count, objects, exceptions,
  #problems))
os.exit(#problems == 0)
