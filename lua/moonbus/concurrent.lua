--- Waits for times and descriptors, of handlers in coroutines and of callers that block.
-- A wait is a table: deadline (monotonic seconds), fd and bits (1 read, 2 write) or nil, co (the
-- coroutine that goes on, nil: a caller blocks and looks at `over`), and came, what the descriptor
-- had.
local base = require "moonbus.base"
local core = require "moonbus.core"

local coroutine, math, pairs = base.coroutine, base.math, base.pairs
local setmetatable = base.setmetatable

local concurrent = {
  -- what core.turn looks at: next, the earliest deadline; descriptors, bits and waits side by side;
  -- fired, the waits whose descriptor had something
  waits = { next = nil, count = 0, fds = {}, bits = {}, entries = {}, fired = {} },
  stores = setmetatable({}, { __mode = "k" }), -- a handler inside their transactions stays there
}

local waits = concurrent.waits
local queue = { first = 1, last = 0 } -- waits that are over, to be reported

-- ---- by deadline: a heap, in which each wait knows its place ----

local heap, size = {}, 0

local function place(wait, at)
  heap[at], wait.at = wait, at
end

local function rise(wait, at)
  while at > 1 do
    local up = math.floor(at / 2)
    if heap[up].deadline <= wait.deadline then break end
    place(heap[up], at)
    at = up
  end
  place(wait, at)
end

local function sink(wait, at)
  while true do
    local down = at * 2
    if down > size then break end
    if down < size and heap[down + 1].deadline < heap[down].deadline then down = down + 1 end
    if heap[down].deadline >= wait.deadline then break end
    place(heap[down], at)
    at = down
  end
  place(wait, at)
end

local function heap_add(wait)
  size = size + 1
  rise(wait, size)
  waits.next = heap[1].deadline
end

local function heap_remove(wait)
  local at, last = wait.at, heap[size]
  heap[size], wait.at = nil, nil
  size = size - 1
  if last ~= wait then
    if at > 1 and last.deadline < heap[math.floor(at / 2)].deadline then rise(last, at)
    else sink(last, at) end
  end
  waits.next = heap[1] and heap[1].deadline
end

-- ---- by descriptor ----

local function fd_add(wait)
  local n = waits.count + 1
  waits.count, wait.index = n, n
  waits.fds[n], waits.bits[n], waits.entries[n] = wait.fd, wait.bits, wait
end

local function fd_remove(wait)
  local at, n = wait.index, waits.count
  local last = waits.entries[n]
  waits.fds[at], waits.bits[at], waits.entries[at] = last.fd, last.bits, last
  last.index = at
  waits.fds[n], waits.bits[n], waits.entries[n] = nil, nil, nil
  waits.count, wait.index = n - 1, nil
end

-- ---- both ----

--- Wait for a time, or for a descriptor until then. deadline may be nil with a descriptor.
function concurrent.add(wait)
  if wait.deadline then heap_add(wait) end
  if wait.fd then fd_add(wait) end
  return wait
end

--- It is over, or no caller waits any more.
function concurrent.remove(wait)
  if wait.at then heap_remove(wait) end
  if wait.index then fd_remove(wait) end
end

local function over(wait)
  concurrent.remove(wait)
  wait.over = true
  if not wait.co then return end
  queue.last = queue.last + 1
  queue[queue.last] = wait
end

local function collect()
  local fired = waits.fired
  if fired[1] then
    waits.fired = {}
    for i = 1, #fired do
      if not fired[i].over then over(fired[i]) end
    end
  end
  if not waits.next then return end
  local now = core.now()
  while heap[1] and heap[1].deadline <= now do over(heap[1]) end
end

--- Resume what waited long enough. What belongs to a bus whose handler blocks stays.
function concurrent.run()
  if size == 0 and waits.count == 0 and queue.last < queue.first then return end
  collect()
  local until_now = queue.last
  while queue.first <= until_now and queue.first <= queue.last do
    local wait = queue[queue.first]
    queue[queue.first] = nil
    queue.first = queue.first + 1
    if core.resume(wait.co, wait) == false then
      queue.last = queue.last + 1
      queue[queue.last] = wait
    end
  end
end

--- Whether the caller is a handler that may wait while others run: not inside a transaction of a
-- store, which they would find themselves in.
function concurrent.may_wait()
  if not core.may_wait() then return false end
  for store in pairs(concurrent.stores) do
    if store.depth > 0 then return false end
  end
  return true
end

--- Leave the handler that calls until the wait is over; returns it. Only where it may wait.
function concurrent.wait(wait)
  wait.co = coroutine.running()
  concurrent.add(wait)
  return core.yield()
end

return concurrent
