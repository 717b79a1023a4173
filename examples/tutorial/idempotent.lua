-- Idempotent handlers: an event may arrive twice, and must count once. Three ways.
--
-- shows   event_id, aggregate_version, handlers that tolerate redelivery
-- run     luajit examples/tutorial/idempotent.lua
-- prints  by id: 3 processed, 3 skipped, total 60; by value: balance 60; by version: total 60

local moonbus = require "moonbus"

local BalanceChanged = moonbus.event("BalanceChanged", {
  aggregate_type = "Account",
  amount = "integer",
  balance = "integer",
})

local bus = moonbus.bus {
  bootstrap_servers = "embedded",
  topic_prefix = "idempotent",
  consumer_group = "idempotent-tutorial",
  log_level = "warn",
}

-- 1. By event_id: remember which events are done. In memory that lasts as long as the process; to
--    survive a crash, keep the ids where the result is kept, and write both in one transaction.

local by_id = { seen = {}, processed = 0, skipped = 0, total = 0 }

function by_id:handle(event)
  if self.seen[event.event_id] then
    self.skipped = self.skipped + 1
    print("skipping duplicate: " .. event.event_id:sub(-4))
    return
  end
  self.total = self.total + event.amount
  self.processed = self.processed + 1
  self.seen[event.event_id] = true -- last: a handler that fails before is run again
end

-- 2. By nature: set what is, do not add what changed.

local by_value = { balance = 0 }

function by_value:handle(event)
  self.balance = event.balance
end

-- 3. By version: each aggregate's events come in order and are numbered.

local by_version = { version = {}, total = 0 }

function by_version:handle(event)
  local known = self.version[event.aggregate_id] or 0
  if event.aggregate_version <= known then return end
  self.total = self.total + event.amount
  self.version[event.aggregate_id] = event.aggregate_version
end

for _, handler in ipairs { by_id, by_value, by_version } do
  bus:subscribe(BalanceChanged, handler)
end

-- Three events, then all of them once more, as after a crash before the commit.

local account = "00000000-0000-4000-8000-000000000001"
local events, balance = {}, 0
for i = 1, 3 do
  balance = balance + i * 10
  events[i] = BalanceChanged {
    event_id = ("00000000-0000-4000-9000-%012d"):format(i),
    aggregate_id = account, aggregate_version = i, amount = i * 10, balance = balance,
  }
end

assert(bus:connect())
assert(bus:publish(events))
assert(bus:publish(events))
assert(bus:start_consuming { until_idle = 1 })

print(("by id: %d processed, %d skipped, total %d"):format(
  by_id.processed, by_id.skipped, by_id.total))
print("by value: balance " .. by_value.balance)
print("by version: total " .. by_version.total)
assert(bus:disconnect())
