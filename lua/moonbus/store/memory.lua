--- A store in memory: which events were handled, up to a number of them. Nothing outlives the
-- process, and there are no transactions: claim, run, mark.
local core = require "moonbus.core"

local memory = {}

local Memory = { kind = "memory", transactional = false }
Memory.__index = Memory
Memory.__tostring = function(self) return "store " .. self.name end

-- Entries are in a ring of links, the one used longest ago first.
local function unlink(entry)
  entry.before.after, entry.after.before = entry.after, entry.before
end

local function append(self, entry)
  local ring = self.ring
  entry.before, entry.after = ring.before, ring
  ring.before.after, ring.before = entry, entry
end

local function drop(self, entry)
  unlink(entry)
  self.entries[entry.key] = nil
  self.count = self.count - 1
end

local function key_of(scope, handler, event_id)
  return ("%d:%s%d:%s%s"):format(#scope, scope, #handler, handler, event_id)
end

--- Claim an event for so many seconds: "new"; "done" if it was handled; "claimed" and the seconds
-- left if another claim of it holds.
function Memory:claim(scope, handler, event_id, seconds)
  local key, now = key_of(scope, handler, event_id), core.now()
  local entry = self.entries[key]
  if entry and now >= entry.until_s then
    drop(self, entry)
    entry = nil
  end
  if entry then
    unlink(entry)
    append(self, entry)
    if entry.done then return "done" end
    return "claimed", entry.until_s - now
  end
  entry = { key = key, until_s = now + seconds, done = false }
  self.entries[key] = entry
  self.count = self.count + 1
  append(self, entry)
  if self.count > self.max then drop(self, self.ring.after) end
  return "new"
end

--- It was handled; forgotten after ttl seconds, nil: when others need the room.
function Memory:done(scope, handler, event_id, ttl)
  local entry = self.entries[key_of(scope, handler, event_id)]
  if not entry then return end
  entry.done, entry.until_s = true, ttl and core.now() + ttl or math.huge
end

--- It was not handled: anybody may claim it.
function Memory:release(scope, handler, event_id)
  local entry = self.entries[key_of(scope, handler, event_id)]
  if entry and not entry.done then drop(self, entry) end
end

--- Whether an event is marked.
function Memory:marked(scope, handler, event_id)
  local entry = self.entries[key_of(scope, handler, event_id)]
  return entry ~= nil and entry.done and core.now() < entry.until_s
end

function Memory:close()
  self.entries, self.count, self.ring = {}, 0, {}
  self.ring.before, self.ring.after = self.ring, self.ring
end

--- A store that remembers `max` events.
function memory.new(max)
  local self = setmetatable({ name = "memory", max = max }, Memory)
  self:close()
  return self
end

return memory
