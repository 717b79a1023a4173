--- The bus's metrics under the names that OpenTelemetry's users of such a bus know.
local base = require "moonbus.base"

local ipairs = base.ipairs

local PREFIX = "kafka.eventbus."

local COUNTERS = { -- name, unit, key of get_stats_dict
  { "messages.published", "messages", "events_published" },
  { "messages.consumed", "messages", "events_consumed" },
  { "messages.dlq", "messages", "messages_sent_to_dlq" },
  { "handler.invocations", "invocations", "handler_invocations" },
  { "handler.errors", "errors", "handler_errors" },
  { "publish.errors", "errors", "publish_errors" },
  { "reconnections", "reconnections", "reconnections" },
  { "rebalances", "rebalances", "rebalance_count" },
}

local HISTOGRAMS = { -- name, unit, key of native:measures()
  { "publish.duration", "ms", "publish_duration" },
  { "consume.duration", "ms", "consume_duration" },
  { "handler.duration", "ms", "handler_duration" },
  { "batch.size", "messages", "batch_size" },
}

return function(native)
  local measures = native:measures()
  if not measures then return nil end
  local stats, all = native:stats(), {}
  for _, each in ipairs(COUNTERS) do
    all[PREFIX .. each[1]] = { kind = "counter", unit = each[2], value = stats[each[3]] }
  end
  for _, each in ipairs(HISTOGRAMS) do
    local histogram = measures[each[3]]
    histogram.kind, histogram.unit = "histogram", each[2]
    all[PREFIX .. each[1]] = histogram
  end
  all[PREFIX .. "connections.active"] = { kind = "gauge", unit = "connections",
    value = native:is_connected() and 1 or 0 }
  all[PREFIX .. "consumer.lag"] = { kind = "gauge", unit = "messages",
    partitions = native:lags() }
  return all
end
