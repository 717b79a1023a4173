-- Statistics: what a bus counted, and how far behind it is.
--
-- shows   get_stats_dict, get_metrics, get_topic_info, lag, rebalance_count
-- run     luajit examples/tutorial/statistics.lua
-- prints  10 published, 10 consumed, 8 without error at first, 1 retried, 1 skipped

local moonbus = require "moonbus"

local OrderPlaced = moonbus.event("OrderPlaced", { aggregate_type = "Order", total = "number" })
local CartEmptied = moonbus.event("CartEmptied", { aggregate_type = "Cart" })

local bus = moonbus.bus {
  bootstrap_servers = "embedded",
  topic_prefix = "statistics",
  consumer_group = "statistics-tutorial",
  retry_base_delay = 0.05,
  log_level = "error",
}

bus:subscribe(OrderPlaced, function(event, ctx)
  if event.total == 13 and ctx.attempt == 1 then error("unlucky, this time") end
end)

assert(bus:connect())
local events = {}
for i = 1, 9 do events[i] = OrderPlaced { aggregate_id = moonbus.uuid(), total = i + 8 } end
events[10] = CartEmptied { aggregate_id = moonbus.uuid() } -- has no subscription
assert(bus:publish(events))

local task = assert(bus:start_consuming_in_background { until_idle = 1, for_seconds = 30 })

local deadline = moonbus.now() + 30
while bus:get_stats_dict().lag ~= 0 and moonbus.now() < deadline do moonbus.sleep(0.1) end
local stats = bus:get_stats_dict()
print(("behind: %d offsets on %d partitions"):format(stats.lag, stats.assigned_count))

assert(task:wait())
stats = bus:get_stats_dict()

print("events published: " .. stats.events_published)
print("events consumed: " .. stats.events_consumed)
print("processed well: " .. stats.events_processed_success)
print("processing failed: " .. stats.events_processed_failed) -- attempts that failed
print("handler errors: " .. stats.handler_errors)
print("retries: " .. stats.retries)
print("skipped: " .. stats.events_skipped)
print("dead letters: " .. stats.messages_sent_to_dlq)
print("reconnections: " .. stats.reconnections)
print("rebalances: " .. stats.rebalance_count) -- many of them: members come and go, or are too slow
print("connected since: " .. stats.connected_at)

local metrics = bus:get_metrics()
local handlers = metrics["kafka.eventbus.handler.duration"]
print(("handlers ran %d times, half of them for less than %.3f ms, the longest for %.3f ms"):format(
  handlers.count, handlers.p50, handlers.max))
print(("published in batches of %d"):format(metrics["kafka.eventbus.batch.size"].max))

local info = assert(bus:get_topic_info())
print(("topic: %s, %d partitions, group %s, connected %s, consuming %s"):format(
  info.topic, info.partitions, info.consumer_group, tostring(info.connected),
  tostring(info.consuming)))
assert(bus:disconnect())
