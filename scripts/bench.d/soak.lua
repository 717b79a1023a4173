--- soak.lua: scripts/bench --soak: many events through one worker; what it takes of memory and of
-- the processor after a tenth of them, a half, and all.
local cases = dofile(os.getenv "BENCH_DIR" .. "/cases.lua")
local moonbus = require "moonbus"
local process = require "tests.support.process"

local MOST = 1.1 -- of what it was before: more is growth

local soak = {}

local function line_of(limit, argv, options)
  options = options or {}
  options.timeout = limit
  local run = process.run(argv, options)
  local line = run.stdout:match "({[^\n]*})%s*$"
  if run.code ~= 0 or not line then error(run.stdout .. run.stderr, 0) end
  return assert(moonbus.json.decode(line))
end

--- { marks = { { events, cpu_seconds_per_million, resident_mib, lua_mib }, ... }, memory, cost:
-- "flat" or "grows" }. The processor time is of the events since the mark before.
function soak.run(context, events)
  local limit = math.max(context.limit, events / 5000)
  return cases.with_topic(context, "soak", function(prefix)
    line_of(limit, { context.raw, "publish", context.address, prefix .. ".stream",
      tostring(events), "0" })
    local run = line_of(limit, cases.moonbus(context, "soak", context.address, prefix,
      tostring(events)))
    local last = run.marks[#run.marks]
    local function verdict(key)
      local most = 0
      for i = 1, #run.marks - 1 do most = math.max(most, run.marks[i][key]) end
      return last[key] <= most * MOST and "flat" or "grows"
    end
    run.memory, run.cost = verdict "resident_mib", verdict "cpu_seconds_per_million"
    return run
  end)
end

--- As text: a Markdown table.
function soak.text(run)
  local out = { "| events | CPU s per million, since the row above | resident MiB | Lua's MiB |",
    "|---|---|---|---|" }
  for _, mark in ipairs(run.marks) do
    out[#out + 1] = ("| %d | %.2f | %.1f | %.2f |"):format(mark.events,
      mark.cpu_seconds_per_million, mark.resident_mib, mark.lua_mib)
  end
  out[#out + 1] = ("\nmemory: %s; cost per event: %s (the last row against those before, at most "
    .. "%g)"):format(run.memory, run.cost, MOST)
  return table.concat(out, "\n")
end

return soak
