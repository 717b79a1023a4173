--- Cooperative consumption: a wait (for a task, a sleep) runs every bus of the state meanwhile.
local base = require "moonbus.base"
local check = require "moonbus.check"
local concurrent = require "moonbus.concurrent"
local core = require "moonbus.core"
local names = require "moonbus.names"

local error, ipairs, math, pcall = base.error, base.ipairs, base.math, base.pcall
local setmetatable, table, type = base.setmetatable, base.table, base.type

local task = {
  -- What a host may lay upon every consumption: limits, "dry" (nothing connects), and the news
  -- that it wants an end. on_bus(bus, level) receives each bus made; unwind: an interrupt ends
  -- the script, with INTERRUPTED as the error, where it waits or publishes outside its handlers;
  -- failure: the last connection or consumption that failed, nil once one went well.
  host = {
    for_seconds = nil, until_idle = nil, dry = false, interrupted = false, flags = {},
    on_bus = nil, unwind = false, failure = nil,
  },
  INTERRUPTED = setmetatable({}, { __tostring = function() return "interrupted" end }),
}

local INTERRUPT_EVERY = 0.05 -- seconds between two looks at the host's descriptor

local running = {} -- tasks, in the order they began
local natives = {} -- the connected buses, as core.turn takes them: reports come to each of them

local Task = {}
Task.__index = Task

local function forget(self)
  for i = #running, 1, -1 do
    if running[i] == self then table.remove(running, i) end
  end
end

local function task_of(native)
  for _, each in ipairs(running) do
    if each.bus.native == native then return each end
  end
end

--- A bus is connected from now on, or is no more.
function task.connected(native, is)
  for i, each in ipairs(natives) do
    if each == native then
      if not is then table.remove(natives, i) end
      return
    end
  end
  if is then natives[#natives + 1] = native end
end

local function finish(self, err, code)
  forget(self)
  if not err and self.held then err, code = self.held, "EBREAKER" end
  self.finished = true
  self.err, self.code = err, code
  if err then task.note(self.bus, err, code) end
end

local HELD = { breaker_open = true, dlq_unwritable = true }

-- The partitions that open breakers or refused dead letters hold up, as an error; nil when there
-- are none.
local function held(native)
  local numbers, first = {}, nil
  for _, reason in ipairs(native:health().reasons) do
    if HELD[reason.code] then
      numbers[#numbers + 1] = reason.partition
      first = first or reason.text
    end
  end
  return first and ("EBREAKER: all is handled but what is held up in partition%s %s: %s"):format(
    numbers[2] and "s" or "", table.concat(numbers, ", "), first)
end

-- How long the task may be left alone; asks it to stop once a limit is reached.
local function check_limits(self, now)
  local native = self.bus.native
  local wait = math.huge
  if self.deadline then
    if now >= self.deadline then native:stop() end
    wait = math.max(self.deadline - now, 0)
  end
  if self.until_idle then
    -- What is held back is read and tried again and again: that is not work being done.
    local stats, idle, refused = native:stats(), native:is_idle()
    local is_held = refused or stats.breakers_open > 0
    local mark = is_held and stats.events_processed_success or stats.events_consumed
    if mark ~= self.mark or not (idle or is_held) then self.mark, self.idle_since = mark, now end
    local left = self.idle_since + self.until_idle - now
    if idle and left <= 0 then
      self.held = held(native)
      native:stop()
    end
    wait = math.min(wait, idle and math.max(left, 0) or 0.25)
  end
  return wait
end

local function stop_all()
  for _, each in ipairs(running) do each.bus.native:stop() end
end

--- Keep what became of a connection or a consumption, for the host: err is nil if it went well.
function task.note(bus, err, code)
  bus.failure = err and { err = err, code = code }
  task.host.failure = bus.failure
end

--- Let so many seconds pass, in which no bus goes on; an interrupt ends them.
function task.pause(seconds)
  if core.turn({}, seconds) == "interrupted" then
    task.host.interrupted = true
    stop_all()
  end
end

local looked_at = 0

--- Whether the host wants an end. Cheap enough for every event, unless it is to be known at once:
-- an answer that an interrupt cut off comes before the next look.
function task.interrupted(at_once)
  local now = core.now()
  if not task.host.interrupted and (at_once or now - looked_at > INTERRUPT_EVERY) then
    looked_at = now
    task.pause(0)
  end
  return task.host.interrupted
end

--- Leave the script if the host wants an end and lets it be left here: not inside a handler.
function task.leave_if_interrupted()
  if not task.host.unwind or not task.interrupted() then return end
  for _, each in ipairs(running) do
    if each.bus.native:in_handler() then return end
  end
  error(task.INTERRUPTED, 0)
end

--- One round for every connected bus: wait up to `seconds` for work, then do some of it.
function task.turn(seconds)
  concurrent.run()
  local now = core.now()
  for i = #running, 1, -1 do
    local each = running[i]
    if each.bus.native:is_consuming() then seconds = math.min(seconds, check_limits(each, now))
    else finish(each) end
  end
  local what, err, code = core.turn(natives, seconds, concurrent.waits)
  if what == "interrupted" then
    task.host.interrupted = true
    stop_all()
  elseif what then
    local broken = task_of(what)
    if broken then finish(broken, err, code) end
  end
  concurrent.run()
end

--- Start consuming in the background; the bus is already connected. nil, err, code if it cannot.
function task.start(bus, options)
  local host = task.host
  local auto_reconnect = options.auto_reconnect ~= false
  local self = setmetatable({
    bus = bus, finished = false, idle_since = core.now(),
    until_idle = host.until_idle or options.until_idle,
  }, Task)
  if host.dry or host.interrupted then
    host.consumed, self.finished = true, true
    return self
  end
  local ok, err, code = bus.native:start(auto_reconnect)
  if not ok then
    if code ~= "ESTATE" then task.note(bus, err, code) end -- else a failed connect says more
    return nil, err, code
  end
  bus.started = true
  local seconds = host.for_seconds or options.for_seconds
  if seconds then self.deadline = core.now() + seconds end
  running[#running + 1] = self
  return self
end

--- Wait until the consumption ends (or the timeout, in seconds, passes), running every bus
-- meanwhile. true when it ended well; nil, err, code when it broke, or "ETIMEOUT" when not yet.
function Task:wait(timeout)
  if timeout ~= nil and (type(timeout) ~= "number" or timeout ~= timeout) then
    check.refuse("timeout", "a number of seconds", timeout, 2)
  end
  local deadline = timeout and core.now() + timeout
  while not self.finished do
    if self.bus.native:in_handler() then
      return nil, "ESTATE: a handler cannot wait for what it is part of; bus:stop_consuming() ends "
        .. "it after the handler", "ESTATE"
    end
    local left = deadline and deadline - core.now() or 1
    if left <= 0 then return nil, "ETIMEOUT: still consuming", "ETIMEOUT" end
    task.turn(math.min(left, 1))
    if not self.finished and not self.bus.native:is_consuming() then finish(self) end
  end
  if self.err then return nil, self.err, self.code end
  return true
end

--- Ask the consumption to end; returns at once.
function Task:cancel()
  self.bus.native:stop()
end

--- Whether it has ended.
function Task:done()
  return self.finished
end

names.class(Task, "task", {
  fields = { "until_idle", "deadline", "mark", "held", "err", "code" }, asked = { "done" },
})

--- Let `seconds` pass; every connected bus goes on meanwhile. Inside a handler the other buses do,
-- and with concurrency above 1 its own, too.
function task.sleep(seconds)
  if type(seconds) ~= "number" or seconds ~= seconds then
    error("moonbus.sleep takes a number of seconds", 2)
  end
  local deadline = core.now() + seconds
  if task.host.dry then return end
  if concurrent.may_wait() then
    concurrent.wait { deadline = deadline }
    return
  end
  repeat
    task.leave_if_interrupted()
    local left = deadline - core.now()
    if left <= 0 or task.host.interrupted then return end
    task.turn(left)
  until false
end

local BITS = { r = 1, w = 2, rw = 3 }
local NAMES = { "r", "w", "rw" }

-- A descriptor's number, be it that of an object with getfd, as LuaSocket's have it.
local function number_of(fd)
  local given = fd
  if type(fd) ~= "number" then
    local ok, number = pcall(function() return fd:getfd() end)
    fd = ok and number or nil
  end
  if type(fd) ~= "number" or fd < 0 or fd % 1 ~= 0 or fd > 2147483647 then
    check.refuse("moonbus.await", "a descriptor: a number, or an object with getfd", given, 3)
  end
  return fd
end

local function await_result(wait)
  local came = wait.came
  if not came then return nil, "ETIMEOUT: the descriptor had nothing in time", "ETIMEOUT" end
  if NAMES[came] then return NAMES[came] end
  return nil, "EINVAL: the descriptor is not open", "EINVAL"
end

--- Wait until a descriptor can be read ("r", the default), written ("w") or one of both ("rw"), or
-- has failed or ended; at most so many seconds, nil: for ever. As with sleep, others go on.
-- Which it is: "r", "w", "rw"; nil, err, code ("ETIMEOUT", "EINVAL") otherwise.
function task.await(fd, what, timeout)
  local bits = BITS[what == nil and "r" or what]
  if not bits then check.refuse("moonbus.await", '"r", "w" or "rw"', what, 2) end
  if timeout ~= nil and (type(timeout) ~= "number" or timeout ~= timeout) then
    check.refuse("moonbus.await: timeout", "a number of seconds", timeout, 2)
  end
  local wait = { fd = number_of(fd), bits = bits, deadline = timeout and core.now() + timeout }
  if task.host.dry then return await_result(wait) end
  if concurrent.may_wait() then return await_result(concurrent.wait(wait)) end
  concurrent.add(wait)
  repeat task.turn(1) until wait.over or task.host.interrupted
  concurrent.remove(wait)
  if not wait.over then task.leave_if_interrupted() end
  return await_result(wait)
end

--- End the tasks of buses that consume no more.
function task.reap()
  for i = #running, 1, -1 do
    if not running[i].bus.native:is_consuming() then finish(running[i]) end
  end
end

--- Drop a bus that is being closed.
function task.forget(bus)
  for i = #running, 1, -1 do
    if running[i].bus == bus then finish(running[i]) end
  end
end

return task
