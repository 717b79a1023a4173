--- report.lua: the figures of scripts/bench: medians, ratios within a round, targets; as text.
local report = {}

local function sorted(list)
  local copy = {}
  for i, value in ipairs(list) do copy[i] = value end
  table.sort(copy)
  return copy
end

--- { median, low, high } of a list, or nil when it is empty.
function report.spread(list)
  if #list == 0 then return nil end
  local s = sorted(list)
  local middle = math.floor((#s + 1) / 2)
  local median = #s % 2 == 1 and s[middle] or (s[middle] + s[middle + 1]) / 2
  return { median = median, low = s[1], high = s[#s] }
end

local function rate(run) return run.events / run.seconds end
local function cpu(run) return run.cpu_seconds / run.events * 1e6 end

-- What is put in relation: more is better for rates, less for latencies.
local function ratio(case, run, base)
  if case.group == "latency" then return run.p99_us / base.p99_us end
  return rate(run) / rate(base)
end

local function allocations(run) return run.allocations and run.allocations / run.events end
local function lua_bytes(run) return run.lua_bytes_per_event end

local function spread_of(case, value)
  local list = {}
  for _, run in pairs(case.runs) do list[#list + 1] = value(run) end
  return report.spread(list)
end

local function ratio_by(case, base, value)
  local list = {}
  for round, run in pairs(case.runs) do
    if base.runs[round] then list[#list + 1] = value(run, base.runs[round]) end
  end
  return report.spread(list)
end

--- The ratio of two cases round by round.
function report.ratio(case, base)
  return ratio_by(case, base, function(run, base_run) return ratio(case, run, base_run) end)
end

--- Fills case.summary for each case that ran.
function report.summarize(list)
  local by_name = {}
  for _, case in ipairs(list) do by_name[case.name] = case end
  for _, case in ipairs(list) do
    if next(case.runs) then
      local summary = {}
      if case.group == "consume" or case.group == "publish" or case.group == "lines" then
        summary.events_per_second = spread_of(case, rate)
        summary.cpu_seconds_per_million = spread_of(case, cpu)
        summary.peak_mib = spread_of(case, function(run) return run.peak_kb / 1024 end)
        summary.allocations_per_event = spread_of(case, allocations)
        summary.lua_bytes_per_event = spread_of(case, lua_bytes)
      elseif case.group == "latency" then
        for _, key in ipairs { "p50_us", "p95_us", "p99_us", "max_us" } do
          summary[key] = spread_of(case, function(run) return run[key] end)
        end
      else
        summary.peak_mib = spread_of(case, function(run) return run.peak_kb / 1024 end)
      end
      local base = by_name[case.against]
      if base and base ~= case and case.group ~= "idle" then
        summary.ratio = report.ratio(case, base)
        summary.against = case.against
        if case.group ~= "latency" then
          summary.cpu_ratio = ratio_by(case, base, function(run, base_run)
            return cpu(run) / cpu(base_run)
          end)
        end
      end
      case.summary = summary
    end
  end
  return by_name
end

-- ---- targets ----

local function ratio_target(what, name, against, at_least)
  return { what = what, names = { name, against }, at_least = at_least, unit = "x",
           value = function(case, base) return report.ratio(case, base).median end }
end

local TARGETS = {
  ratio_target("typed handler, two fields, against raw", "typed", "raw", 0.8),
  ratio_target("handler that reads nothing, against raw", "nothing", "raw", 1.0),
  ratio_target("typed handler against confluent-kafka-python + json", "typed", "confluent", 5),
  ratio_target("typed handler against eventsource-py", "typed", "eventsource", 2000),
  ratio_target("publish, batches of 1,000, against the raw C producer",
    "publish-1000-background", "raw-publish", 0.8),
  ratio_target("publish, batches of 100, foreground, against eventsource-py's",
    "publish-100-foreground", "eventsource-publish", 500),
  { what = "p99 latency at 20,000/s against the raw C echo", at_most = 1.25, unit = "x",
    names = { "latency-20000", "raw-latency-20000" },
    value = function(case, base) return report.ratio(case, base).median end },
  { what = "peak memory at full speed, default settings", at_most = 200, unit = " MiB",
    names = { "typed" }, value = function(case) return case.summary.peak_mib.median end },
  { what = "idle worker", at_most = 20, unit = " MiB", names = { "idle" },
    value = function(case) return case.summary.peak_mib.median end },
  { what = "exactly_once", at_least = 40000, unit = " events/s", names = { "exactly-once" },
    value = function(case) return case.summary.events_per_second.median end },
  { what = "SQLite idempotency in batches (or 0.15x of raw, if that is less)",
    at_least = 100000, unit = " events/s", names = { "idempotent-sqlite", "raw" },
    value = function(case) return case.summary.events_per_second.median end,
    enough = function(case, base) return report.ratio(case, base).median >= 0.15 end },
  ratio_target("latency histograms on against off", "typed", "typed-unmeasured", 0.97),
}

--- { what, value, target, unit, verdict = "met" | "missed" | "not built" | "not measured" } each.
function report.targets(by_name)
  local rows = {}
  for i, target in ipairs(TARGETS) do
    local row = { what = target.what, unit = target.unit,
                  target = (target.at_least and "at least " or "at most ")
                    .. (target.at_least or target.at_most) .. target.unit }
    local case, base = by_name[target.names[1]], by_name[target.names[2]]
    if not case or case.missing then
      row.verdict = case == nil and "not measured" or "not built"
    elseif not case.summary or (target.names[2] and not (base and base.summary)) then
      row.verdict = "not measured"
    else
      row.value = target.value(case, base)
      local met
      if target.at_least then met = row.value >= target.at_least
      else met = row.value <= target.at_most end
      met = met or target.enough and target.enough(case, base)
      row.verdict = met and "met" or "missed"
    end
    rows[i] = row
  end
  return rows
end

-- ---- text ----

local function number(value)
  if value >= 1000 then
    local text = ("%d"):format(value + 0.5)
    local n
    repeat text, n = text:gsub("^(%d+)(%d%d%d)", "%1,%2") until n == 0
    return text
  end
  return value >= 100 and ("%.0f"):format(value) or value >= 10 and ("%.1f"):format(value)
    or value >= 1 and ("%.2f"):format(value) or ("%.3g"):format(value)
end
report.number = number

local function range(spread)
  return spread.low == spread.high and "" or
    (" (%s to %s)"):format(number(spread.low), number(spread.high))
end

local function ratio_text(summary)
  if not summary.ratio then return "1" end
  return number(summary.ratio.median) .. "x" .. range(summary.ratio)
end

-- By malloc, and bytes of Lua's; "" where they are not counted.
local function allocations_text(summary)
  local parts = {}
  if summary.allocations_per_event then
    parts[1] = ("%.2f"):format(summary.allocations_per_event.median)
  end
  if summary.lua_bytes_per_event then
    parts[#parts + 1] = ("%d B of Lua"):format(summary.lua_bytes_per_event.median)
  end
  return table.concat(parts, ", ")
end

-- Lines of a Markdown table.
local function put_table(out, head, rows)
  if #rows == 0 then return end
  out[#out + 1] = "| " .. table.concat(head, " | ") .. " |"
  out[#out + 1] = "|" .. ("---|"):rep(#head)
  for _, row in ipairs(rows) do out[#out + 1] = "| " .. table.concat(row, " | ") .. " |" end
  out[#out + 1] = ""
end

local function rate_rows(list, group)
  local rows = {}
  for _, case in ipairs(list) do
    local s = case.summary
    if case.group == group and s then
      rows[#rows + 1] = { case.title .. " (`" .. case.name .. "`)", ratio_text(s),
        number(s.events_per_second.median), number(s.cpu_seconds_per_million.median),
        s.cpu_ratio and number(s.cpu_ratio.median) .. "x" .. range(s.cpu_ratio) or "1",
        number(s.peak_mib.median), allocations_text(s) }
    elseif case.group == group and case.missing then
      rows[#rows + 1] = { case.title .. " (`" .. case.name .. "`)", "not built", "", "", "", "",
        "" }
    end
  end
  return rows
end

local function latency_rows(list)
  local rows = {}
  for _, case in ipairs(list) do
    local s = case.summary
    if case.group == "latency" and s then
      local row = { case.title .. " (`" .. case.name .. "`)", ratio_text(s) }
      for _, key in ipairs { "p50_us", "p95_us", "p99_us", "max_us" } do
        row[#row + 1] = number(s[key].median / 1000)
      end
      rows[#rows + 1] = row
    end
  end
  return rows
end

--- All tables as Markdown, which is fit to be read as it is.
function report.text(list, targets)
  local out = {}
  local function put_rates(group, what, against)
    put_table(out, { what, "against `" .. against .. "`", "events/s", "CPU s per million",
      "CPU against it", "peak MiB", "allocations per event" }, rate_rows(list, group))
  end
  put_rates("consume", "consuming", "raw")
  put_rates("publish", "publishing", "raw-publish")
  put_rates("lines", "publishing a file of lines", "lines-kcat")
  put_table(out, { "from publish to handler", "p99 against raw", "p50 ms", "p95 ms", "p99 ms",
    "max ms" }, latency_rows(list))
  local rows = {}
  for i, row in ipairs(targets) do
    rows[i] = { row.what, row.value and number(row.value) .. row.unit or "-", row.target,
                row.verdict }
  end
  put_table(out, { "target", "measured", "required", "verdict" }, rows)
  return table.concat(out, "\n")
end

return report
