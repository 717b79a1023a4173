--- What scripts are handed knows its names: an unknown one, a method called with a dot, or one that
-- is looked at where its answer is meant, is an error that names the right spelling.
-- Names that begin with "_" are protocols' of Lua's, and nil.
local base = require "moonbus.base"
local core = require "moonbus.core"

local debug, error, getmetatable, ipairs = base.debug, base.error, base.getmetatable, base.ipairs
local bit, pairs, pcall, rawequal = base.bit, base.pairs, base.pcall, base.rawequal
local rawset, setmetatable = base.rawset, base.setmetatable
local table, tostring, type = base.table, base.tostring, base.type

local names = {}

--- The keys of tables that are texts, sorted.
function names.of(...)
  local list = {}
  for _, each in ipairs { ... } do
    for name in pairs(each) do
      if type(name) == "string" and name:sub(1, 1) ~= "_" then list[#list + 1] = name end
    end
  end
  table.sort(list)
  return list
end

--- "; did you mean ...?" for a name that is none of the list's; "" if none is near.
function names.meant(name, list)
  local near = type(name) == "string" and core.nearest(name, list)
  return near and ('; did you mean "%s"?'):format(near) or ""
end

--- ": a, b, c" before that, unless they are many.
function names.choices(name, list)
  local all = #list <= 12 and ": " .. table.concat(list, ", ") or ""
  return all .. names.meant(name, list)
end

--- Raise for a name that `what` does not have. level: as error counts.
function names.unknown(what, name, list, level)
  error(('%s has no "%s"%s'):format(what, tostring(name), names.meant(name, list)), level + 1)
end

--- Whether a name is one that Lua and its libraries look for in any table.
function names.is_protocol(name)
  return type(name) ~= "string" or name:sub(1, 1) == "_"
end

--- The same for an option that `what` does not take.
function names.no_option(what, name, list, level)
  local choices = names.choices(name, list)
  error(('%s has no option "%s"%s'):format(what, tostring(name), choices), level + 1)
end

-- ---- whether a method is only looked at ----
--
-- `if bus.is_connected then` is always true. What an access is for stands in the instruction after
-- it; the numbers of those that test a value are read off functions that have them.

local ok, util = pcall(require, "jit.util")

local function byte(instruction, n) return bit.band(bit.rshift(instruction, 8 * n), 255) end

local function op_at(fn, pc) return byte(util.funcbc(fn, pc), 0) end

local GET, TESTS, COMPARES = nil, {}, {}

if ok and util.funcbc(function() end, 1) then
  GET = op_at(function(t) return t.name end, 1)
  for _, probe in ipairs {
    function(t) if t.name then return 1 end end, function(t) if not t.name then return 1 end end,
    function(t) return not t.name end,
    function(t) local x = t.name and 1 return x end, function(t) local x = t.name or 1 return x end,
  } do TESTS[op_at(probe, 2)] = true end
  for _, probe in ipairs {
    function(t) if t.name == true then return 1 end end,
    function(t) if t.name ~= true then return 1 end end,
  } do COMPARES[op_at(probe, 2)] = true end
end

-- Whether the instruction at pc gets that name, and whether the next one tests what it got.
local function get_at(fn, pc, name)
  local instruction = util.funcbc(fn, pc)
  if byte(instruction, 0) ~= GET or util.funck(fn, -1 - byte(instruction, 2)) ~= name then
    return false
  end
  local slot, after = byte(instruction, 1), util.funcbc(fn, pc + 1)
  if not after then return true, false end
  local op = byte(after, 0)
  if COMPARES[op] then return true, byte(after, 1) == slot end
  return true, TESTS[op] and bit.rshift(after, 16) == slot
end

-- Whether all accesses of that name in a line of a function only test it.
local function only_tested(fn, line, name)
  local found = false
  for pc = 1, util.funcinfo(fn).bytecodes - 1 do
    if util.funcinfo(fn, pc).currentline == line then
      local gets, tests = get_at(fn, pc, name)
      if gets and not tests then return false end
      found = found or gets
    end
  end
  return found
end

local function refuse_test(what, name, level)
  local info = GET and debug.getinfo(level + 1, "Slf")
  if not info or info.what == "C" or info.currentline < 1 then return end
  if only_tested(info.func, info.currentline, name) then
    error(("%s.%s is a method and so always true: write %s:%s()"):format(what, name, what, name),
      level + 1)
  end
end

-- ---- classes ----

--- A method that says so when it is called with a dot.
function names.guard(class, what, name, method)
  return function(self, ...)
    if getmetatable(self) ~= class
      and (type(self) ~= "table" or self.__moonbus_class ~= class) then -- one that inherits from it
      error(("%s.%s(...) lacks its %s: write %s:%s(...)"):format(what, name, what, what, name), 2)
    end
    return method(self, ...)
  end
end

--- Make a class's methods and names strict; its instances find them by __index = class.
-- what: an instance, in sentences and as code: "bus". options: methods, the names of those that a
-- script calls (nil: all); fields, names that an instance may have or lack; asked, names of methods
-- that are questions: testing them without a call is an error.
function names.class(class, what, options)
  local fields, asked = {}, {}
  for _, name in ipairs(options.fields or {}) do fields[name] = true end
  for _, name in ipairs(options.methods or names.of(class)) do
    local method = class[name]
    if type(method) == "function" then class[name] = names.guard(class, what, name, method) end
  end
  local list = names.of(class)
  for _, name in ipairs(options.asked or {}) do
    asked[name], class[name] = class[name], nil
  end
  class.__moonbus_class = class
  setmetatable(class, { __index = function(_, name)
    if asked[name] then
      refuse_test(what, name, 2)
      return asked[name]
    end
    if names.is_protocol(name) or fields[name] then return nil end
    names.unknown("a " .. what, name, list, 2)
  end })
end

-- ---- tables of functions ----

--- Make a table of functions strict: unknown names, and a colon where a dot is meant.
function names.module(module, what)
  for name, each in pairs(module) do
    if type(each) == "function" then
      module[name] = function(...)
        if rawequal((...), module) then
          error(("%s takes a dot: write %s.%s(...)"):format(what, what, name), 2)
        end
        return each(...)
      end
    end
  end
  local list = names.of(module)
  return setmetatable(module, {
    __index = function(_, name)
      if names.is_protocol(name) then return nil end
      names.unknown(what, name, list, 2)
    end,
    __newindex = function(self, name, value)
      local hint = names.meant(name, list)
      if hint ~= "" then error(('%s has no "%s"%s'):format(what, tostring(name), hint), 2) end
      rawset(self, name, value)
    end,
  })
end

return names
