--- A store in memory: which events were handled, up to a number of them. Nothing outlives the
-- process, and there are no transactions: claim, run, mark.
local base = require "moonbus.base"
local core = require "moonbus.core"
local names = require "moonbus.names"

local math, next, setmetatable = base.math, base.next, base.setmetatable

local memory = {}

local Memory = { kind = "memory", transactional = false }
Memory.__index = Memory
Memory.__tostring = function(self) return "store " .. self.name end

-- An entry is a number: its place in the arrays ids, spaces, until_s, is_done, before and after.
-- The last two link the entries in a ring through 0, the one used longest ago first, and after
-- links those that are free from self.free on. Arrays and no tables: a million entries are nothing
-- that the collector would have to walk through one by one.

local function unlink(self, i)
  local before, after = self.before, self.after
  after[before[i]], before[after[i]] = after[i], before[i]
end

local function append(self, i)
  local before, after = self.before, self.after
  local last = before[0]
  before[i], after[i] = last, 0
  after[last], before[0] = i, i
end

local function drop(self, i)
  local space = self.spaces[i]
  unlink(self, i)
  space.entries[self.ids[i]] = nil
  space.count = space.count - 1
  if space.count == 0 then
    local handlers = self.scopes[space.scope]
    handlers[space.handler] = nil
    if not next(handlers) then self.scopes[space.scope] = nil end
  end
  self.ids[i], self.spaces[i] = false, false
  self.after[i], self.free = self.free or false, i
  self.count = self.count - 1
end

local function find_space(self, scope, handler)
  local handlers = self.scopes[scope]
  return handlers and handlers[handler]
end

local function find(self, scope, handler, event_id)
  local space = find_space(self, scope, handler)
  return space and space.entries[event_id]
end

-- What a scope's handler has marked, by the event's id.
local function make_space(self, scope, handler)
  local handlers = self.scopes[scope] or {}
  local space = { scope = scope, handler = handler, entries = {}, count = 0 }
  self.scopes[scope], handlers[handler] = handlers, space
  return space
end

local function add(self, scope, handler, event_id, until_s)
  if self.count == self.max then drop(self, self.after[0]) end
  local space = find_space(self, scope, handler) or make_space(self, scope, handler)
  self.count, space.count = self.count + 1, space.count + 1
  local i = self.free
  if i then self.free = self.after[i] else i = self.count end
  self.ids[i], self.spaces[i], self.until_s[i], self.is_done[i] = event_id, space, until_s, false
  space.entries[event_id] = i
  append(self, i)
end

--- Claim an event for so many seconds: "new"; "done" if it was handled; "claimed" and the seconds
-- left if another claim of it holds.
function Memory:claim(scope, handler, event_id, seconds)
  local i, now = find(self, scope, handler, event_id), core.now()
  if i and now >= self.until_s[i] then
    drop(self, i)
    i = nil
  end
  if not i then
    add(self, scope, handler, event_id, now + seconds)
    return "new"
  end
  unlink(self, i)
  append(self, i)
  if self.is_done[i] then return "done" end
  return "claimed", self.until_s[i] - now
end

--- It was handled; forgotten after ttl seconds, nil: when others need the room.
function Memory:done(scope, handler, event_id, ttl)
  local i = find(self, scope, handler, event_id)
  if not i then return end
  self.is_done[i], self.until_s[i] = true, ttl and core.now() + ttl or math.huge
end

--- It was not handled: anybody may claim it.
function Memory:release(scope, handler, event_id)
  local i = find(self, scope, handler, event_id)
  if i and not self.is_done[i] then drop(self, i) end
end

--- Whether an event is marked.
function Memory:marked(scope, handler, event_id)
  local i = find(self, scope, handler, event_id)
  return i ~= nil and self.is_done[i] and core.now() < self.until_s[i]
end

function Memory:close()
  self.scopes, self.count, self.free = {}, 0, nil
  self.ids, self.spaces, self.until_s, self.is_done = {}, {}, {}, {}
  self.before, self.after = { [0] = 0 }, { [0] = 0 }
end

names.class(Memory, "store", { fields = { "free" } })

--- A store that remembers `max` events.
function memory.new(max)
  local self = setmetatable({ name = "memory", max = max }, Memory)
  self:close()
  return self
end

return memory
