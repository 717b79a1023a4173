-- Exercise 18-1, the frame: a sensor pipeline with throughput figures. See README.md.
--
-- shows   what is to be done, step by step
-- run     luajit examples/exercises/18-1/starter.lua
-- prints  the steps; each TODO you replace makes it do more

local moonbus = require "moonbus"

if not moonbus.available() then error("librdkafka is missing", 0) end

-- Step 1: declare the event type SensorReading.
-- TODO: moonbus.event, with temperature and humidity fields

-- Step 2: a handler object.
-- TODO: MetricsAggregator with a handle method, a count, and an average temperature

local function main()
  print("=== Exercise 18-1: High-Throughput Pipeline ===\n")

  print("Step 1: Configuring the bus with metrics...")
  -- TODO: moonbus.bus { ... }, with bootstrap_servers = "embedded", and subscribe the aggregator

  print("Step 2: Publishing 1000 events...")
  -- TODO: connect; make the events; publish them in batches of 100; measure the time

  print("Step 3: Consuming events...")
  -- TODO: start_consuming { until_idle = 1 }

  print("Step 4: Throughput metrics:")
  -- TODO: print the count, the average, and what get_stats_dict says; disconnect
end

main()
