-- Dead letters: retries, then the dead letter topic; look at it, fix the cause, replay.
--
-- shows   max_retries, ctx.attempt, get_dlq_message_count, get_dlq_messages, replay_dlq_message
-- run     luajit examples/tutorial/dlq.lua
-- prints  four attempts, the dead letter with its reason, and the event handled after the replay

local moonbus = require "moonbus"

local PaymentTaken = moonbus.event("PaymentTaken", {
  aggregate_type = "Payment",
  currency = "string",
  amount = "number",
})

local bus = moonbus.bus {
  bootstrap_servers = "embedded",
  topic_prefix = "payments",
  consumer_group = "payments-tutorial",
  max_retries = 3,         -- the first attempt and three more
  retry_base_delay = 0.1,  -- waits of 0.1, 0.2 and 0.4 s; the default is 1.0: 1, 2 and 4 s
  retry_max_delay = 60.0,
  retry_jitter = 0.1,
  enable_dlq = true,
  log_level = "error",     -- "warn", the next one, logs every failed attempt
}

local rates = { EUR = 1 }
local taken = 0

bus:subscribe(PaymentTaken, function(event, ctx)
  local rate = rates[event.currency]
  if not rate then
    print(("attempt %d: no rate for %s"):format(ctx.attempt, event.currency))
    error("no rate for " .. event.currency) -- or: return nil, "no rate for ..."
  end
  taken = taken + 1
  print(("taken: %.2f %s"):format(event.amount, event.currency))
end)

local function wait_for(condition)
  local deadline = moonbus.now() + 30
  repeat
    if condition() then return end
    moonbus.sleep(0.05)
  until moonbus.now() > deadline
  error("still not there after 30 seconds")
end

assert(bus:connect())
assert(bus:publish {
  PaymentTaken { aggregate_id = moonbus.uuid(), currency = "EUR", amount = 10 },
  PaymentTaken { aggregate_id = moonbus.uuid(), currency = "XTS", amount = 20 },
  PaymentTaken { aggregate_id = moonbus.uuid(), currency = "EUR", amount = 30 },
})
local task = assert(bus:start_consuming_in_background())
wait_for(function() return bus:get_stats_dict().messages_sent_to_dlq == 1 and taken == 2 end)

-- Look at them. Every header of the original is kept; what happened to it is in dlq_ headers.

print("dead letters: " .. assert(bus:get_dlq_message_count()))
local letters = assert(bus:get_dlq_messages { limit = 100 })
local letter = letters[1]
for _, each in ipairs(letters) do
  if each.timestamp > letter.timestamp then letter = each end -- the newest
end
print("  event type: " .. letter.headers.event_type)
print("  error: " .. letter.headers.dlq_error_message)
print("  retries: " .. letter.headers.dlq_retry_count)
print("  original topic: " .. letter.headers.dlq_original_topic)
print("  amount: " .. letter.payload.amount)

-- Fix the cause, and put the event back on the main topic.

rates.XTS = 2
assert(bus:replay_dlq_message { partition = letter.partition, offset = letter.offset })
wait_for(function() return taken == 3 end)
print("replayed; payments taken: " .. taken)

-- The letter itself stays in the topic until Kafka's retention takes it.

print("dead letters: " .. assert(bus:get_dlq_message_count()))

bus:stop_consuming()
assert(task:wait())
assert(bus:disconnect())
