--- Handlers that will not end, or take all memory, and a program that gives them to a bus one after
-- the other: luajit tests/support/guard.lua NAME... prints a line of JSON for each once settled.
-- Run by specs as a child, for when a guard fails.
-- luacheck: ignore 241 331
local ffi = require "ffi"
local moonbus = require "moonbus"

-- A collector that never rests makes what grows, and deep stacks, slow.
local stressed = os.getenv "MB_GC" ~= nil

-- MOST_MS: until an adversary is ended that would go on for ever, on a machine slow and busy.
local guard = { LIMIT_MS = 100, MOST_MS = 15000, MEMORY = stressed and 4e6 or 48e6 }

local function spin() while true do end end -- luacheck: ignore 541

local function fill()
  local list = {}
  for i = 1, math.huge do list[i] = { i } end
end

-- ---- over the limit of time; each would go on for ever ----

guard.time = {
  spin = spin,
  numeric_for = function() for _ = 1, math.huge do end end, -- luacheck: ignore 541
  goto_loop = function() ::again:: goto again end,
  recursion = function()
    local function again(n) return again(n + 1) end
    return again(1)
  end,
  pcall_in_a_loop = function() while true do pcall(spin) end end,
  failing_in_a_loop = function() while true do pcall(error, "x") end end,
  pcall_of_pcall = function() while true do pcall(pcall, pcall, spin) end end,
  pcall_returned = function() return pcall(spin) end,
  pcall_recursion = function()
    local function again()
      pcall(again)
      return again()
    end
    again()
  end,
  xpcall_handler = function() xpcall(error, spin) end,
  xpcall_in_a_loop = function() while true do xpcall(spin, spin) end end,
  xpcall_handler_recursion = function()
    local function again() xpcall(spin, again) end
    again()
  end,
  coroutine = function() coroutine.resume(coroutine.create(spin)) end,
  coroutines_in_a_loop = function()
    while true do coroutine.resume(coroutine.create(spin)) end
  end,
  coroutine_in_pcall = function()
    while true do
      pcall(coroutine.wrap(function() while true do pcall(spin) end end))
    end
  end,
  wrap_iterator = function()
    for _ in coroutine.wrap(function()
      while true do coroutine.yield(1) end
    end) do end -- luacheck: ignore 541
  end,
  wrap_error_handler = function()
    while true do xpcall(coroutine.wrap(spin), spin) end
  end,
  yield_across_pcall = function()
    local thread = coroutine.wrap(function()
      while true do pcall(coroutine.yield) end
    end)
    while true do thread() end
  end,
  sethook = function() while true do debug.sethook() end end,
  sethook_of_its_own = function()
    debug.sethook(function() end, "", 1)
    spin()
  end,
  jit_on = function()
    jit.on()
    jit.on(true, true)
    jit.opt.start "hotloop=2"
    local n = 0
    while true do n = n + 1 end
  end,
  sort_comparator = function()
    while true do pcall(table.sort, { 3, 1, 2 }, spin) end
  end,
  gsub_callback = function() while true do pcall(string.gsub, "abc", ".", spin) end end,
  index_metamethod = function()
    local object = setmetatable({}, { __index = spin })
    while true do pcall(function() return object.field end) end
  end,
  concat_metamethod = function()
    local object = setmetatable({}, { __concat = spin, __eq = spin, __lt = spin, __call = spin })
    while true do
      pcall(function() return object .. object end)
      pcall(object)
    end
  end,
  tostring_metamethod = function()
    while true do pcall(tostring, setmetatable({}, { __tostring = spin })) end
  end,
  finalizers = function()
    while true do
      local object = newproxy(true)
      getmetatable(object).__gc = function() pcall(error, "x") end
      ffi.gc(ffi.new "int[1]", function() pcall(error, "x") end)
    end
  end,
  loaded_code = function() assert(loadstring "while true do pcall(error) end")() end,
  load_reader = function() while true do load(function() end) end end,
  load_reader_that_spins = function() while true do pcall(load, spin) end end,
  ffi_callback = function()
    local less = ffi.cast("int (*)(const void *, const void *)", function() return 0 end)
    local items = ffi.new("int[4]", 4, 3, 2, 1)
    while true do ffi.C.qsort(items, 4, 4, less) end
  end,
  asleep = function() moonbus.sleep(3600) end,
  asleep_in_pcall = function() while true do pcall(moonbus.sleep, 3600) end end,
  caught_and_cleaned_up = function()
    local ok = pcall(spin)
    if not ok then spin() end
  end,
}

-- ---- over the limit of memory ----

guard.memory = {
  tables = fill,
  array = function()
    local list = {}
    for i = 1, math.huge do list[i] = i end
  end,
  hash = function()
    local map = {}
    for i = 1, math.huge do map["key " .. i] = ("v"):rep(1000) .. i end
  end,
  string_doubled = function()
    local text = "x"
    while true do text = text .. text end
  end,
  string_at_once = function() return ("x"):rep(1e9) end,
  table_concat = function()
    local parts = {}
    for i = 1, 1e5 do parts[i] = ("y"):rep(1000) end
    return table.concat(parts)
  end,
  closures = function()
    local list = {}
    for i = 1, math.huge do list[i] = function() return i end end
  end,
  coroutines = function()
    local list = {}
    for i = 1, math.huge do list[i] = coroutine.create(fill) end
  end,
  ffi_new = function()
    local list = {}
    for i = 1, math.huge do list[i] = ffi.new "char[1000]" end
  end,
  ffi_new_at_once = function() return ffi.new("char[?]", 5e8) end,
  int64 = function()
    local list, n = {}, 1LL
    for i = 1, math.huge do
      n = n + 1
      list[i] = n
    end
  end,
  string_buffer = function()
    local buffer = require("string.buffer").new()
    while true do buffer:put "some text that goes on" end
  end,
  in_a_coroutine = function() assert(coroutine.resume(coroutine.create(fill))) end,
  in_an_error_handler = function() xpcall(error, fill) end,
  caught = function() pcall(fill) end,
  caught_and_returned = function()
    pcall(fill)
    return true
  end,
  caught_and_raised = function()
    pcall(fill)
    error "something else"
  end,
  caught_and_rejected = function()
    pcall(fill)
    moonbus.dead "of another cause"
  end,
  caught_often = function() for _ = 1, 5 do pcall(fill) end end,
}

-- Never ends by itself: only with both limits.
guard.both = {
  caught_for_ever = function() while true do pcall(fill) end end,
  caught_by_handlers = function() while true do xpcall(fill, fill) end end,
}

-- ---- the program ----

local function count(t)
  local n = 0
  for _ in pairs(t) do n = n + 1 end
  return n
end

local function find(name)
  for _, set in pairs { guard.time, guard.memory, guard.both } do
    if set[name] then return set[name] end
  end
  error("no adversary " .. name)
end

-- One adversary among good events: what became of all.
local function try(bus, types, name, state)
  local before = bus:get_stats_dict()
  local letters = assert(bus:get_dlq_message_count())
  state.name, state.runs, state.longest, state.good, state.good_runs = name, 0, 0, {}, 0
  local events = {}
  for i = 1, 20 do
    events[i] = (i == 10 and types.Bad or types.Good) { aggregate_id = moonbus.uuid(), n = i }
  end
  assert(bus:publish(events))
  require("tests.support.wait").settled(bus, before.events_consumed + 20, 60)
  local found = assert(bus:get_dlq_messages { limit = 1000 })
  local last = found[#found] and found[#found].headers or {}
  return {
    name = name, runs = state.runs, longest_ms = state.longest * 1000, good = count(state.good),
    good_runs = state.good_runs,
    letters = #found - letters, reason = last.dlq_reason, handler = last.dlq_handler,
    error_type = last.dlq_error_type, message = last.dlq_error_message,
    traceback = last.dlq_traceback, attempts = last.dlq_attempts,
    timeouts = bus:get_stats_dict().handler_timeouts - before.handler_timeouts,
    kbytes = collectgarbage "count",
  }
end

local function main(names)
  local support = require "tests.support.bus"
  local registry = moonbus.new_registry()
  local types = {}
  for _, name in ipairs { "Good", "Bad" } do
    types[name] = moonbus.event(name, { aggregate_type = "Job", n = "integer" },
      { registry = registry })
  end
  local timed = not guard.memory[names[1]]
  local bus = support.bus {
    event_registry = registry, partitions = 1, max_retries = 1,
    guard = timed and "strict" or "fast",
    handler_timeout_ms = timed and (guard.both[names[1]] and 60000 or guard.LIMIT_MS) or 0,
    lua_memory_max_bytes = not guard.time[names[1]] and guard.MEMORY or 0,
  }
  local state = {}
  local began
  bus:subscribe(types.Bad, function(event)
    state.runs = state.runs + 1
    began = moonbus.now()
    return find(state.name)(event)
  end, { name = "adversary" })
  bus:subscribe(types.Bad, function() -- runs after it, whatever became of it
    state.longest = math.max(state.longest, moonbus.now() - began)
  end, { name = "witness" })
  bus:subscribe(types.Good, function(event)
    state.good_runs = state.good_runs + 1
    local list = {}
    for i = 1, 2000 do list[i] = { i } end
    state.good[event.n] = #list
  end)
  support.consume(bus)
  for _, name in ipairs(names) do
    print(moonbus.json.encode(try(bus, types, name, state)))
    io.stdout:flush()
  end
  support.close()
end

if arg and arg[0] and arg[0]:find "support/guard%.lua$" then
  ffi.cdef [[void qsort(void *items, size_t count, size_t size,
                        int (*less)(const void *, const void *));]]
  main(arg)
end

return guard
