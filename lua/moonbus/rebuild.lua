--- Rebuilding a projection: its events are read from the beginning of the topic, outside any group,
-- into a second read model that takes the first one's place (moonbus.store.second_*), or in place.
--
-- Nothing is lost or doubled: the place is taken in a transaction that keeps the projection's other
-- writers out, after everything was read that they had applied by then. Their next event finds the
-- new marks, and is applied or was already.
local core = require "moonbus.core"
local read_model = require "moonbus.read_model"
local task = require "moonbus.task"
local array = require "moonbus.values".array

local rebuild = {}

local BATCH, BATCH_S = 1000, 0.2 -- events and seconds of a transaction
local NEAR = 1000 -- records behind the end that are left to be read with the others kept out
local ROUNDS = 20 -- until then, however far behind
local STALL_MS = 30000

local Job = {}
Job.__index = Job

-- An event or a store that failed, as the reason why a read ended.
local Failure = { __tostring = function(self) return self.text end }

local STOPPED = {} -- the host wants an end

-- ---- one event ----

local function text_of(err)
  if type(err) ~= "table" or getmetatable(err) == Failure then return tostring(err) end
  return ("%s: %s"):format(tostring(err.type or "LuaError"), tostring(err.message))
end

local function fail(job, context, code, err)
  error(setmetatable({
    partition = context.partition, offset = context.offset, code = code,
    dead = code == "EDECODE" or type(err) == "table" and err.moonbus_outcome == "dead",
    text = ("%s[%d] offset %.0f: %s: %s"):format(context.topic, context.partition, context.offset,
      context.event_type, text_of(err)),
  }, Failure), 0)
end

local function plain(uuid)
  return (uuid:lower():gsub("^urn:uuid:", ""):gsub("[{}%-]", ""))
end

-- Whether the projection was subscribed to this event's tenant.
local function is_ours(job, event)
  if not job.tenants then return true end
  return job.tenants[event.tenant_id and plain(event.tenant_id) or ""] == true
end

local function apply(_, job, event, context)
  return job.projection:apply(job.place.store, job.place.id, event, context)
end

local function handle(job, context, native_type)
  local event, err = job.bus.native:event_in_hand(native_type)
  if not event then fail(job, context, "EDECODE", err) end
  if not is_ours(job, event) then return end
  -- under a savepoint of its own
  local ok, new = pcall(job.place.store.transaction, job.place.store, apply, job, event, context)
  if not ok and job.place.store.failed then error(new, 0) end -- the whole transaction is lost
  if not ok then fail(job, context, "ESCRIPT", new) end
  if new then job.at.applied = job.at.applied + 1 end
  job.at.events = job.at.events + 1
end

-- ---- transactions ----

local function begin(job)
  if job.open then return end
  if not job.held then job.place.store:enter(nil) end
  job.open, job.count = true, 0
end

local function copy(from, to)
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
  copy(job.at, job.kept)
end

local function undo(job)
  job.open = false
  if job.held then return end
  job.place.store:undo()
  copy(job.kept, job.at)
end

local function tell(job)
  if job.on_progress then job.on_progress(job.at.events, job.read, job.read + job.left) end
end

-- Between two transactions: other buses go on, and the host may want an end.
local function pause(job)
  commit(job)
  tell(job)
  if job.held then return end
  task.turn(0)
  if task.interrupted() then error(STOPPED, 0) end
end

-- ---- reading ----

local function on_record(job, context)
  local name = context.event_type
  local native_type = name and job.types[name]
  local index = context.partition + 1
  if native_type ~= nil and not job.skip[context.partition .. ":" .. context.offset] then
    begin(job)
    handle(job, context, native_type or nil)
    job.count = job.count + 1
  end
  job.at[index] = context.offset + 1
  job.read, job.left = job.read + 1, math.max(job.left - 1, 0)
  job.since = job.since + 1
  if job.since % 64 == 0 and core.now() - job.looked > BATCH_S or job.open
    and job.count >= BATCH then
    job.looked = core.now()
    pause(job)
  end
end

-- Ends of all partitions; new ones are read from their beginning. list | nil, err, code
local function ends_of(job)
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
  for i, offset in ipairs(more) do job.at[i] = math.max(job.at[i], offset) end
  commit(job)
  return true
end

-- Read once to the ends there are now. true | nil, a failure or STOPPED | nil, err, code of Kafka.
local function round(job)
  local ends, err, code = ends_of(job)
  if not ends then return nil, err, code end
  repeat -- one that was ended early, by whoever stops the bus, goes on
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
    if task.interrupted() then return nil, STOPPED end
  until whole
  return true
end

-- ---- failures ----

local function delay_s(job, attempt)
  local config = job.bus.config
  return math.min(config.retry_base_delay * 2 ^ (attempt - 1), config.retry_max_delay)
end

local function leave_out(job, failure)
  job.skip[failure.partition .. ":" .. failure.offset] = true
  job.skipped[#job.skipped + 1] = { partition = failure.partition, offset = failure.offset,
                                    reason = failure.text }
end

-- After a failure: whether to go on. nil, err, code if not.
local function recover(job, failure, code)
  if failure == STOPPED then return nil, STOPPED end
  local is_event = getmetatable(failure) == Failure
  local what = text_of(failure)
  if not is_event and not code then what = job.place.store:describe(what) end
  code = is_event and failure.code or code or "ESTORE"
  if what ~= job.last or job.progress and not is_event then job.attempts = 0 end
  job.last, job.attempts, job.progress = what, job.attempts + 1, false
  local over = is_event and failure.dead or job.attempts > job.bus.config.max_retries
  if over and is_event and job.skip_failed then
    leave_out(job, failure)
    return true
  elseif over then
    if is_event then
      what = what .. "; mend what fails, or leave such events out (skip_failed, --skip-failed)"
    end
    return nil, what, code
  end
  if job.on_retry then job.on_retry(what, delay_s(job, job.attempts)) end
  local slept = pcall(task.sleep, delay_s(job, job.attempts))
  if not slept or task.interrupted() then return nil, STOPPED end
  return true
end

-- ---- the end ----

-- Whether everything was read that the projection's other writers had applied. Beyond the end of a
-- topic that was made anew there is nothing to read.
local function caught_up(job, positions)
  for _, row in ipairs(positions) do
    if row.topic == job.topic and row.applied > (job.at[row.part + 1] or 0) then return false end
  end
  return true
end

local function write_positions(job)
  for i, offset in ipairs(job.at) do
    job.place.store:set_position(job.place.id, job.topic, i - 1, offset, offset)
  end
end

-- Take the place. true | nil, failure, code
local function finish(job)
  local place = job.place
  local held, positions = pcall(place.hold, place)
  if not held then
    pcall(place.release, place)
    return nil, positions
  end
  job.held = true
  local ok, err, code = true, nil, nil
  if not caught_up(job, positions) then ok, err, code = round(job) end
  if ok then
    ok, err = pcall(write_positions, job)
    if ok and not place.in_place then ok, err = pcall(place.check, place) end
    if ok then ok, err = pcall(place.take, place) end
  end
  job.held, job.open = false, false
  if ok then return true end
  pcall(place.release, place)
  copy(job.kept, job.at)
  return nil, err, code
end

local function work(job)
  local rounds, near = 0, false
  while true do
    local ok, err, code = (near and finish or round)(job)
    if ok and near then return true end
    if ok then
      rounds = rounds + 1
      local ends, why, kind = ends_of(job)
      if not ends then return nil, why, kind end
      near = job.left <= NEAR or rounds >= ROUNDS
    else
      ok, err, code = recover(job, err, code)
      if not ok then return nil, err, code end
      near = false
    end
  end
end

-- ---- beginning ----

-- nil, or why the topic does not hold all there was.
local function gap(job)
  local native = job.bus.native
  local count, err, code = native:topic_partitions()
  if not count then return err, code end
  for i = 0, count - 1 do
    local low, why, kind = native:topic_offsets(nil, i)
    if not low then return why, kind end
    if low > 0 then
      return ("ETOPIC: %s[%d] begins at offset %.0f: events before that are gone, and would be gone "
        .. "from the read model too; partial (--partial) rebuilds it from what is left")
        :format(job.topic, i, low), "ETOPIC"
    end
  end
end

local function types_of(bus, projection)
  local types = {}
  for kind in pairs(projection.handles) do
    if type(kind) == "string" then
      local declared = bus.registry:get(kind)
      types[kind] = declared and declared.__moonbus or false
    else
      types[kind.name] = kind.__moonbus
    end
  end
  return types
end

local function tenants_of(bus, projection)
  for _, each in ipairs(bus.subscriptions) do
    if each.handler == projection and each.tenants then
      local set = {}
      for _, tenant in ipairs(each.tenants) do set[plain(tenant)] = true end
      return set
    end
  end
end

local function open(projection, in_place)
  if in_place then return require "moonbus.store.in_place".open(projection) end
  return require("moonbus.store.second_" .. projection.store.kind).open(projection)
end

local OPTIONS = { in_place = "boolean", partial = "boolean", skip_failed = "boolean",
                  on_progress = "function", on_retry = "function" }

local function check(bus, projection, options)
  if not read_model.is(projection) then
    error("rebuild takes a projection with a store; one without is emptied by projection:truncate()"
      .. ", and reads all again in a new consumer_group", 3)
  end
  for key, value in pairs(options) do
    if not OPTIONS[key] then
      error(('no option "%s" of a rebuild: in_place, partial, skip_failed, on_progress, on_retry')
        :format(tostring(key)), 3)
    elseif type(value) ~= OPTIONS[key] then
      error(("%s: a %s is wanted"):format(key, OPTIONS[key]), 3)
    end
  end
  local in_place = options.in_place or not projection.init
  if in_place and not projection.empty then
    error(("%s: it has no %s; init says which tables to make a second time, truncate how to empty "
      .. "them"):format(tostring(projection), projection.init and "truncate" or "init"), 3)
  end
  if not task.host.dry and not bus:is_connected() then
    error("ESTATE: the bus is not connected; call bus:connect() first", 3)
  end
  if bus.native:in_handler() then error("ESTATE: a handler cannot rebuild on its own bus", 3) end
  return in_place
end

local function new_job(bus, projection, options)
  return setmetatable({
    bus = bus, projection = projection, topic = bus.config.topic_name,
    types = types_of(bus, projection), tenants = tenants_of(bus, projection),
    skip_failed = options.skip_failed, on_progress = options.on_progress,
    on_retry = options.on_retry,
    -- how far it is, and was at the last commit: by partition + 1 the next offset
    at = { events = 0, applied = 0 }, kept = { events = 0, applied = 0 },
    skip = {}, skipped = array {}, read = 0, left = 0, since = 0, count = 0, attempts = 0,
    began = core.now(), looked = core.now(),
  }, Job)
end

local AFTER = { [true] = "the read model is incomplete until a rebuild is finished",
                [false] = "the read model is as it was" }

local function outcome(job, in_place, ok, err, code)
  if not ok and err ~= STOPPED then
    local text = text_of(err)
    if not text:find "^E%u+: " then text = code .. ": " .. text end
    return nil, ("%s; %s"):format(text, AFTER[in_place]), code
  end
  return { events = job.at.events, applied = job.at.applied, skipped = job.skipped,
           seconds = core.now() - job.began, in_place = in_place, stopped = not ok }
end

-- What the last read model left behind goes while the place still keeps other rebuilds out; if that
-- fails, the next one does it.
local function sweep(projection)
  local store = projection.store:twin()
  pcall(store.sweep_unused, store, projection.name)
  store:close()
end

--- See Bus:rebuild in meta.lua.
function rebuild.run(bus, projection, options)
  options = options or {}
  if type(options) ~= "table" then error("rebuild takes a projection and options", 2) end
  local in_place = check(bus, projection, options)
  local job = new_job(bus, projection, options)
  if task.host.dry then return outcome(job, in_place, true) end
  local err, code
  if not options.partial then err, code = gap(job) end
  if err then return nil, err, code end
  local opened, place = pcall(open, projection, in_place)
  if not opened then return nil, text_of(place), "ESTORE" end
  job.place = place
  local done, ok
  done, ok, err, code = pcall(work, job)
  if done and ok then sweep(projection) end
  pcall(place.close, place)
  if not done then error(ok, 0) end
  return outcome(job, in_place, ok, err, code)
end

--- Give a class its method.
function rebuild.install(class)
  class.rebuild = rebuild.run
end

return rebuild
