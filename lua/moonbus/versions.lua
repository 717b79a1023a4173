--- Version checks: a handler that is given each aggregate's events one after the other, by
-- aggregate_version, whatever comes again or out of turn.
local base = require "moonbus.base"
local arguments = require "moonbus.check"
local ffi = require "ffi"
local names = require "moonbus.names"
local null = require "moonbus.values".null
local outcome = require "moonbus.outcome"

local debug, error, ipairs, pairs = base.debug, base.error, base.ipairs, base.pairs
local setmetatable, tostring, type = base.setmetatable, base.tostring, base.type

local versions = {}

local int64, uint64 = ffi.typeof "int64_t", ffi.typeof "uint64_t"

local Expecting = {}
Expecting.__index = Expecting
Expecting.__tostring = function(self)
  return "handler that expects versions, " .. (self.name or self.where)
end

local function is_integer(value)
  return type(value) == "number" and value % 1 == 0
    or ffi.istype(int64, value) or ffi.istype(uint64, value)
end

local function shown(value)
  return (tostring(value):gsub("U?LL$", ""))
end

-- The version that is to come next.
local function next_of(self, event, ...)
  local current = self.current(event, ...)
  if current == nil or current == null then return self.first end
  if is_integer(current) then return current + 1 end
  arguments.refuse(tostring(self) .. ": current", "the version that is applied, or nil", current,
    -1)
end

--- Handle an event if it is its aggregate's next. What comes with it, a context or a transaction,
-- goes to current and to the handler.
function Expecting:handle(event, ...)
  local came, expected = event.aggregate_version, next_of(self, event, ...)
  if came == expected then return self.call(event, ...) end
  local gap = came > expected
  local what = gap and self.on_gap or self.on_repeat
  if what == "skip" then return end
  outcome.raise(what, gap and "VersionGap" or "VersionRepeat",
    ("%s %s: version %s came, %s"):format(event.aggregate_type, event.aggregate_id, shown(came),
      gap and shown(expected) .. " is next and has not come"
        or shown(expected - 1) .. " is applied already"))
end

-- ---- making one ----

local CHOICES = { retry = true, dead = true, skip = true }
local OPTIONS = { current = true, on_gap = true, on_repeat = true, first = true }

local function check(options)
  if type(options) ~= "table" then
    error("moonbus.expect_version takes a handler and options", 3)
  end
  for key in pairs(options) do
    if not OPTIONS[key] then
      names.no_option("moonbus.expect_version", key, names.of(OPTIONS), 3)
    end
  end
  if type(options.current) ~= "function" then
    arguments.refuse("moonbus.expect_version: current", "a function that returns the version of "
      .. "the event's aggregate that is applied", options.current, 3)
  end
  for _, key in ipairs { "on_gap", "on_repeat" } do
    local choice = options[key]
    if choice ~= nil and not CHOICES[choice] then
      error(('moonbus.expect_version: %s is "retry", "dead" or "skip"'):format(key), 3)
    end
  end
  if options.first ~= nil and not (is_integer(options.first) and options.first >= 1) then
    arguments.refuse("moonbus.expect_version: first", "an integer of at least 1", options.first, 3)
  end
end

--- A handler that applies only the next version of each aggregate; see moonbus.expect_version in
-- meta.lua.
function versions.expect(handler, options)
  local is_object = type(handler) == "table" and type(handler.handle) == "function"
  if type(handler) ~= "function" and not is_object then
    error("moonbus.expect_version: a handler is a function, or an object with a handle method", 2)
  end
  check(options)
  local info = debug.getinfo(is_object and handler.handle or handler, "S")
  local self = setmetatable({
    current = options.current, first = options.first or 1,
    on_gap = options.on_gap or "retry", on_repeat = options.on_repeat or "skip",
    name = is_object and type(handler.name) == "string" and handler.name or nil,
    where = ("%s:%d"):format(info.short_src, info.linedefined), -- in dead letters, without a name
    call = is_object and function(...) return handler:handle(...) end or handler,
  }, Expecting)
  if is_object and type(handler.subscribed_to) == "function" then
    self.subscribed_to = function() return handler:subscribed_to() end
  end
  return self
end

return versions
