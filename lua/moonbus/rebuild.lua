--- Rebuilding a projection: its events are read from the beginning of the topic, outside any group,
-- into a second read model that takes the first one's place (moonbus.store.second_*), or in place.
--
-- Nothing is lost or doubled: the place is taken in a transaction that keeps the projection's other
-- writers out, after everything was read that they had applied by then. Their next event finds the
-- new marks, and is applied or was already.
local base = require "moonbus.base"
local arguments = require "moonbus.check"
local core = require "moonbus.core"
local array = require "moonbus.values".array
local names = require "moonbus.names"
local read_model = require "moonbus.read_model"
local reading = require "moonbus.rebuild_reading"
local task = require "moonbus.task"

local error, ipairs, math, pairs, pcall = base.error, base.ipairs, base.math, base.pairs, base.pcall
local tostring, type = base.tostring, base.type

local rebuild = {}

local NEAR = 1000 -- records behind the end that are left to be read with the others kept out
local ROUNDS = 20 -- until then, however far behind

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
  if failure == reading.STOPPED then return nil, reading.STOPPED end
  local is_event = reading.is_failure(failure)
  local what = reading.text_of(failure)
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
      what = what .. "; fix what fails, or leave such events out (skip_failed, --skip-failed)"
    end
    return nil, what, code
  end
  if job.on_retry then job.on_retry(what, delay_s(job, job.attempts)) end
  local slept = pcall(task.sleep, delay_s(job, job.attempts))
  if not slept or task.interrupted() then return nil, reading.STOPPED end
  return true
end

-- ---- the end ----

-- Whether everything was read that the projection's other writers had applied. Beyond the end of a
-- topic that was created again there is nothing to read.
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
  if not caught_up(job, positions) then ok, err, code = reading.round(job) end
  if ok then
    ok, err = pcall(write_positions, job)
    if ok and not place.in_place then ok, err = pcall(place.check, place) end
    if ok then ok, err = pcall(place.take, place) end
  end
  job.held, job.open = false, false
  if ok then return true end
  pcall(place.release, place)
  reading.copy(job.kept, job.at)
  return nil, err, code
end

local function work(job)
  local rounds, near = 0, false
  while true do
    local ok, err, code = (near and finish or reading.round)(job)
    if ok and near then return true end
    if ok then
      rounds = rounds + 1
      local ends, why, kind = reading.ends_of(job)
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

-- What the read model has now came from there.
local function sources_of(projection)
  local store = projection.store:twin()
  local ok, rows = pcall(store.transaction, store, function()
    return store:positions(store:projection(projection.name).marks)
  end)
  store:close()
  if ok then return rows end
  return nil, tostring(rows), "ESTORE"
end

local LESS = "; they would be gone from it; partial (--partial) rebuilds it without them"

-- nil, or what of that the topic does not hold. ends: by partition
local function lacking(job, rows, ends)
  for _, row in ipairs(rows) do
    local over = ends[row.part] or 0
    if row.topic ~= job.topic and row.applied > 0 then
      return ("ETOPIC: the read model holds events of %s" .. LESS):format(row.topic), "ETOPIC"
    elseif row.topic == job.topic and row.applied > over then
      return ("ETOPIC: %s[%d] ends at offset %.0f and was created again: the read model has events "
        .. "up to %.0f" .. LESS):format(job.topic, row.part, over, row.applied), "ETOPIC"
    end
  end
end

-- nil, or why the topic does not hold all there was.
local function gap(job)
  local native, ends = job.bus.native, {}
  local count, err, code = native:topic_partitions()
  if not count then return err, code end
  local rows, why, kind = sources_of(job.projection) -- before the ends, which go on meanwhile
  if not rows then return why, kind end
  for i = 0, count - 1 do
    local low, high, cause = native:topic_offsets(nil, i)
    if not low then return high, cause end
    if low > 0 then
      return ("ETOPIC: %s[%d] begins at offset %.0f: events before that are gone, and would be "
        .. "gone from the read model too; partial (--partial) rebuilds it from what is left")
        :format(job.topic, i, low), "ETOPIC"
    end
    ends[i] = high
  end
  return lacking(job, rows, ends)
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
      for _, tenant in ipairs(each.tenants) do set[reading.plain(tenant)] = true end
      return set
    end
  end
end

local function open(projection, in_place)
  if in_place then return base.require_late "moonbus.store.in_place".open(projection) end
  return base.require_late("moonbus.store.second_" .. projection.store.kind).open(projection)
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
      error(('no option "%s" of a rebuild%s'):format(tostring(key),
        names.choices(key, names.of(OPTIONS))), 3)
    elseif type(value) ~= OPTIONS[key] then
      arguments.refuse(key, "a " .. OPTIONS[key], value, 3)
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
  return {
    bus = bus, projection = projection, topic = bus.config.topic_name,
    types = types_of(bus, projection), tenants = tenants_of(bus, projection),
    skip_failed = options.skip_failed, on_progress = options.on_progress,
    on_retry = options.on_retry,
    -- how far it is, and was at the last commit: by partition + 1 the next offset
    at = { events = 0, applied = 0 }, kept = { events = 0, applied = 0 },
    skip = {}, skipped = array {}, read = 0, left = 0, since = 0, count = 0, attempts = 0,
    began = core.now(), looked = core.now(),
  }
end

local AFTER = { [true] = "the read model is incomplete until a rebuild is finished",
                [false] = "the read model is as it was" }

local function outcome(job, in_place, ok, err, code)
  if not ok and err ~= reading.STOPPED then
    local text = reading.text_of(err)
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
  if not opened then return nil, reading.text_of(place), "ESTORE" end
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
