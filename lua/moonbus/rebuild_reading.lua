--- What a rebuild reads and applies: the records of all partitions from where it is to their ends,
-- in transactions of its place. See moonbus.rebuild, whose jobs these are.
local base = require "moonbus.base"
local core = require "moonbus.core"
local task = require "moonbus.task"

local error, getmetatable, ipairs, math = base.error, base.getmetatable, base.ipairs, base.math
local pairs, pcall, setmetatable = base.pairs, base.pcall, base.setmetatable
local tostring, type = base.tostring, base.type

local reading = {}

local BATCH, BATCH_S = 1000, 0.2 -- events and seconds of a transaction
local STALL_MS = 30000

-- An event or a store that failed, as the reason why a read ended.
local Failure = { __tostring = function(self) return self.text end }

reading.STOPPED = {} -- the host wants an end

-- ---- one event ----

--- What an error value says.
function reading.text_of(err)
  if type(err) ~= "table" or getmetatable(err) == Failure then return tostring(err) end
  return ("%s: %s"):format(tostring(err.type or "LuaError"), tostring(err.message))
end

local function fail(context, code, err)
  error(setmetatable({
    partition = context.partition, offset = context.offset, code = code,
    dead = code == "EDECODE" or type(err) == "table" and err.moonbus_outcome == "dead",
    text = ("%s[%d] offset %.0f: %s: %s"):format(context.topic, context.partition, context.offset,
      context.event_type, reading.text_of(err)),
  }, Failure), 0)
end

--- A UUID in one spelling.
function reading.plain(uuid)
  return (uuid:lower():gsub("^urn:uuid:", ""):gsub("[{}%-]", ""))
end

-- Whether the projection was subscribed to this event's tenant.
local function is_ours(job, event)
  if not job.tenants then return true end
  return job.tenants[event.tenant_id and reading.plain(event.tenant_id) or ""] == true
end

local function apply(_, job, event, context)
  return job.projection:apply(job.place.store, job.place.id, event, context)
end

local function handle(job, context, native_type)
  local event, err = job.bus.native:event_in_hand(native_type)
  if not event then fail(context, "EDECODE", err) end
  if not is_ours(job, event) then return end
  -- under a savepoint of its own
  local ok, new = pcall(job.place.store.transaction, job.place.store, apply, job, event, context)
  if not ok and job.place.store.failed then error(new, 0) end -- the whole transaction is lost
  if not ok then fail(context, "ESCRIPT", new) end
  if new then job.at.applied = job.at.applied + 1 end
  job.at.events = job.at.events + 1
end

-- ---- transactions ----

local function begin(job)
  if job.open then return end
  if not job.held then job.place.store:enter(nil) end
  job.open, job.count = true, 0
end

--- Copy how far it is.
function reading.copy(from, to)
  for key, value in pairs(from) do to[key] = value end
end

-- What is done in the transaction of the end is kept with that.
local function commit(job)
  if job.held then return end
  if job.open then
    job.open = false
    job.place:check()
    job.place.store:leave()
    job.progress = true
  end
  reading.copy(job.at, job.kept)
end

local function undo(job)
  job.open = false
  if job.held then return end
  job.place.store:undo()
  reading.copy(job.kept, job.at)
end

local function report(job)
  if job.on_progress then job.on_progress(job.at.events, job.read, job.read + job.left) end
end

-- Between two transactions: other buses go on, and the host may want an end.
local function pause(job)
  commit(job)
  report(job)
  if job.held then return end
  task.turn(0)
  if task.interrupted() then error(reading.STOPPED, 0) end
end

-- ---- reading ----

local function on_record(job, context)
  local name = context.event_type
  local native_type = name and job.types[name]
  local index, next_offset = context.partition + 1, context.offset + 1
  if native_type ~= nil and not job.skip[context.partition .. ":" .. context.offset] then
    begin(job)
    handle(job, context, native_type or nil)
    job.count = job.count + 1
  end
  -- what is left, by offsets: those of no record go with the record behind them
  job.read, job.left = job.read + 1, math.max(job.left - (next_offset - job.at[index]), 0)
  job.at[index] = next_offset
  job.since = job.since + 1
  if job.since % 64 == 0 and core.now() - job.looked > BATCH_S or job.open
    and job.count >= BATCH then
    job.looked = core.now()
    pause(job)
  end
end

--- Ends of all partitions; new ones are read from their beginning. list | nil, err, code
function reading.ends_of(job)
  local native, list = job.bus.native, {}
  local count, err, code = native:topic_partitions()
  if not count then return nil, err, code end
  job.left = 0
  for i = 1, count do
    local low, high, why = native:topic_offsets(nil, i - 1)
    if not low then return nil, high, why end
    job.at[i], job.kept[i] = job.at[i] or low, job.kept[i] or low
    list[i] = high
    job.left = job.left + math.max(high - job.at[i], 0)
  end
  return list
end

local function read(job)
  local ok, more = job.bus.native:read(nil, {
    offsets = job.at, context = true, stall_ms = STALL_MS,
  }, function(context) return on_record(job, context) end)
  if not ok then return nil, more end
  for i, offset in ipairs(more) do
    job.left = math.max(job.left - math.max(offset - job.at[i], 0), 0)
    job.at[i] = math.max(job.at[i], offset)
  end
  commit(job)
  report(job)
  return true
end

--- Read once to the ends there are now. true | nil, a failure or STOPPED | nil, err, code of Kafka.
function reading.round(job)
  local ends, err, code = reading.ends_of(job)
  if not ends then return nil, err, code end
  repeat -- one that was ended early, by a stop of the bus, goes on
    local whole, done, result, why = true, pcall(read, job)
    if not done then -- what was done before an event that failed may stay
      local kept = getmetatable(result) == Failure and not job.held and pcall(commit, job)
      if not kept then undo(job) end
      return nil, result
    elseif not result then
      undo(job)
      return nil, why, why:match "^(E%u+): "
    end
    for i, stop in ipairs(ends) do whole = whole and job.at[i] >= stop end
    if task.interrupted() then return nil, reading.STOPPED end
  until whole
  return true
end

--- Whether it is an event that failed.
function reading.is_failure(err)
  return getmetatable(err) == Failure
end

return reading
