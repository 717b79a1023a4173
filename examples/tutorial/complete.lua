-- The tutorial in one script: an order projection, consumer groups, statistics, throughput.
--
-- shows   events, projections, handler objects, groups with several members, stats, batches
-- run     scripts/run examples/tutorial/complete.lua
--         moonbus run examples/tutorial/complete.lua --bootstrap-servers localhost:9092
--         luajit examples/tutorial/complete.lua
-- prints  four parts under headings: "Projection orders: 1", "order-processors: 40 of 40 events",
--         "events_published: 10", "Events received: 1000"; then "Tutorial complete!"

local moonbus = require "moonbus"

if not moonbus.available() then
  error("Kafka cannot be used from here: librdkafka is missing", 0)
end

-- ---- events ----

local OrderPlaced = moonbus.event("OrderPlaced", {
  aggregate_type = "Order",
  customer_id = "string",
  total = "number",
})

local OrderShipped = moonbus.event("OrderShipped", {
  aggregate_type = "Order",
  tracking_number = "string",
})

-- ---- handlers ----

-- The read model: what is known of each order.
local function new_order_projection()
  return moonbus.projection("orders", {
    orders = {},
    handles = {
      [OrderPlaced] = function(self, event)
        self.orders[event.aggregate_id] = {
          customer = event.customer_id,
          total = event.total,
          status = "placed",
        }
      end,
      [OrderShipped] = function(self, event)
        local order = self.orders[event.aggregate_id]
        if not order then return end
        order.status = "shipped"
        order.tracking = event.tracking_number
      end,
    },
    truncate = function(self) self.orders = {} end,
  })
end

-- An object with a handle method: counts events, adds up revenue.
local Metrics = {}
Metrics.__index = Metrics

local function new_metrics()
  return setmetatable({ event_count = 0, total_revenue = 0 }, Metrics)
end

function Metrics:handle(event)
  self.event_count = self.event_count + 1
  if event:is(OrderPlaced) then self.total_revenue = self.total_revenue + event.total end
end

-- ---- common to the parts ----

local LINE = ("="):rep(60)

local function heading(title)
  print(("\n%s\n%s\n%s\n"):format(LINE, title, LINE))
end

-- Flags and the environment win over what stands here.
local function new_bus(options)
  options.bootstrap_servers = "embedded"
  options.log_level = "warn"
  return moonbus.bus(options)
end

-- Consume until nothing new came for a second; in any case not longer than 30 seconds.
local LIMITS = { until_idle = 1, for_seconds = 30 }

-- ---- 1: publish, consume, look at the result ----

local function basic_example()
  heading "Basic Kafka Event Bus"
  local bus = new_bus {
    topic_prefix = "tutorial18",
    consumer_group = "demo-handlers",
    enable_metrics = true,
    enable_tracing = true,
  }
  print("Bootstrap servers: " .. bus.config.bootstrap_servers)
  print("Topic: " .. bus.config.topic_name)
  print("Consumer group: " .. bus.config.consumer_group)

  local projection, metrics = new_order_projection(), new_metrics()
  bus:subscribe_all(projection)
  bus:subscribe(OrderPlaced, metrics)
  bus:subscribe(OrderShipped, metrics)

  print("\nConnecting to Kafka...")
  assert(bus:connect())
  print("Connected: " .. tostring(bus:is_connected()))

  print("\nPublishing events...")
  local order_id = moonbus.uuid()
  assert(bus:publish {
    OrderPlaced { aggregate_id = order_id, customer_id = "CUST-001", total = 99.99 },
  })
  print("  Published: OrderPlaced")
  assert(bus:publish {
    OrderShipped {
      aggregate_id = order_id, aggregate_version = 2, tracking_number = "TRACK-12345",
    },
  })
  print("  Published: OrderShipped")

  print("\nConsuming events...")
  assert(bus:start_consuming(LIMITS))

  local count = 0
  for _ in pairs(projection.orders) do count = count + 1 end
  print("\nProjection orders: " .. count)
  for id, order in pairs(projection.orders) do
    print(("  %s...: customer %s, total %.2f, status %s, tracking %s"):format(
      id:sub(1, 8), order.customer, order.total, order.status, tostring(order.tracking)))
  end

  print("\nMetrics:")
  print("  Events processed: " .. metrics.event_count)
  print(("  Total revenue: $%.2f"):format(metrics.total_revenue))

  assert(bus:disconnect())
  print("\nDisconnected from Kafka")
end

-- ---- 2: two workers share the partitions, another group sees everything ----

local function sorted_keys(set)
  local keys = {}
  for key in pairs(set) do keys[#keys + 1] = key end
  table.sort(keys)
  return keys
end

-- A member of a group, which notes what it handled.
local function new_worker(name, group, expected)
  local worker = { name = name, group = group, count = 0, partitions = {}, handled = {} }
  worker.bus = new_bus {
    topic_prefix = "tutorial18.groups",
    consumer_group = group, -- the same group: share the work; another group: see it all
    consumer_name = name,   -- each member its own
    session_timeout_ms = 6000, -- how soon the group notices that a member is gone
    heartbeat_interval_ms = 1000, -- how soon a member notices that another one came
  }
  worker.bus:subscribe(OrderPlaced, function(event, ctx)
    if not expected[event.event_id] then return end -- of an earlier run, on a Kafka that remembers
    worker.count = worker.count + 1
    worker.partitions[ctx.partition] = true
    worker.handled[event.event_id] = (worker.handled[event.event_id] or 0) + 1
  end)
  assert(worker.bus:connect())
  return worker
end

local function publish_orders(bus, count, expected)
  local events = {}
  for i = 1, count do
    events[i] = OrderPlaced {
      aggregate_id = ("00000000-0000-4000-8000-%012d"):format(i),
      customer_id = ("CUST-%04d"):format(i),
      total = i * 10,
    }
    expected[events[i].event_id] = true
  end
  assert(bus:publish(events))
end

local function print_group(group, workers, expected)
  local total, once = 0, 0
  for id in pairs(expected) do
    local times = 0
    for _, worker in ipairs(workers) do times = times + (worker.handled[id] or 0) end
    total = total + 1
    if times == 1 then once = once + 1 end
  end
  for _, worker in ipairs(workers) do
    print(("  %s: partitions %s, %d events"):format(
      worker.name, table.concat(sorted_keys(worker.partitions), ", "), worker.count))
  end
  print(("  %s: %d of %d events handled exactly once"):format(group, once, total))
end

-- Let every bus work until the condition holds, half a minute at most.
local function wait_for(condition)
  local deadline = moonbus.now() + 30
  while not condition() and moonbus.now() < deadline do moonbus.sleep(0.05) end
end

local function each_has_a_share(workers, partitions)
  local total = 0
  for _, worker in ipairs(workers) do
    local share = worker.bus:get_stats_dict().assigned_count
    if share == 0 then return false end
    total = total + share
  end
  return total == partitions
end

local function all_is_handled(workers, count)
  local total = 0
  for _, worker in ipairs(workers) do
    if worker.bus:get_stats_dict().lag ~= 0 then return false end
    total = total + worker.count
  end
  return total >= count
end

local function consumer_groups_example()
  heading "Consumer Groups"
  local expected = {}
  local processors = {
    new_worker("worker-1", "order-processors", expected),
    new_worker("worker-2", "order-processors", expected),
  }
  local notifiers = { new_worker("notifier-1", "order-notifications", expected) }
  local workers = { processors[1], processors[2], notifiers[1] }

  local info = assert(processors[1].bus:get_topic_info())
  print(("Topic: %s (%d partitions)"):format(info.topic, info.partitions))

  -- All three join in the background, and work whenever something waits, as wait_for does.
  local tasks = {}
  for i, worker in ipairs(workers) do
    tasks[i] = assert(worker.bus:start_consuming_in_background())
  end
  wait_for(function()
    return each_has_a_share(processors, info.partitions)
      and each_has_a_share(notifiers, info.partitions)
  end)

  publish_orders(processors[1].bus, 40, expected)
  print("Published: 40 events\n")
  wait_for(function()
    return all_is_handled(processors, 40) and all_is_handled(notifiers, 40)
  end)
  for _, task in ipairs(tasks) do task:cancel() end
  for _, task in ipairs(tasks) do assert(task:wait()) end

  print("Group order-processors: each event goes to one of its members")
  print_group("order-processors", processors, expected)
  print("\nGroup order-notifications: independent, gets every event too")
  print_group("order-notifications", notifiers, expected)
  for _, worker in ipairs(workers) do assert(worker.bus:disconnect()) end
end

-- ---- 3: what the bus counts ----

local STATS = {
  "events_published", "events_consumed", "events_processed_success", "events_processed_failed",
  "messages_sent_to_dlq", "handler_errors", "reconnections", "rebalance_count",
  "last_publish_at", "last_consume_at", "last_error_at", "connected_at",
}

local function statistics_example()
  heading "Event Bus Statistics"
  local bus = new_bus { topic_prefix = "stats-demo", consumer_group = "stats-handlers" }
  bus:subscribe(OrderPlaced, function() end)
  assert(bus:connect())
  for i = 1, 10 do
    assert(bus:publish(OrderPlaced {
      aggregate_id = moonbus.uuid(), customer_id = "CUST-" .. i, total = i * 10,
    }))
  end

  print("Statistics after publishing 10 events:\n")
  local stats = bus:get_stats_dict()
  for _, key in ipairs(STATS) do
    local value = stats[key]
    if value == moonbus.null then value = "never" end
    print(("  %s: %s"):format(key, value))
  end

  local info = assert(bus:get_topic_info())
  print("\nTopic information:")
  print("  Topic: " .. info.topic)
  print("  Partitions: " .. info.partitions)
  print("  Consumer group: " .. info.consumer_group)
  print("  Connected: " .. tostring(info.connected))
  assert(bus:disconnect())
end

-- ---- 4: many events, in batches ----

local function high_throughput_example()
  heading "High Throughput Example"
  local bus = new_bus {
    topic_prefix = "throughput",
    consumer_group = "throughput-test",
    batch_size = 32768,
    linger_ms = 10,
  }
  local received = 0
  bus:subscribe(OrderPlaced, function() received = received + 1 end)
  assert(bus:connect())

  local count, batch = 1000, 100
  print(("Publishing %d events..."):format(count))
  local start = moonbus.now()
  for first = 1, count, batch do
    local events = {}
    for i = first, first + batch - 1 do
      events[#events + 1] = OrderPlaced {
        aggregate_id = moonbus.uuid(), customer_id = ("CUST-%04d"):format(i), total = i * 10,
      }
    end
    assert(bus:publish(events))
  end
  local seconds = moonbus.now() - start
  print(("Published %d events in %.3fs"):format(count, seconds))
  print(("Throughput: %.0f events/sec"):format(count / seconds))

  print("\nConsuming events...")
  assert(bus:start_consuming(LIMITS))
  print("Events received: " .. received)
  assert(bus:disconnect())
end

print("Tutorial 18: Kafka Event Bus")
basic_example()
consumer_groups_example()
statistics_example()
high_throughput_example()
print("\n" .. LINE .. "\nTutorial complete!")
