--- Dead letters: read, counted, put back. The methods of a bus that are about them.
local base = require "moonbus.base"
local arguments = require "moonbus.check"
local core = require "moonbus.core"
local names = require "moonbus.names"
local task = require "moonbus.task"
local array = require "moonbus.values".array

local error, ipairs, math, next, pairs = base.error, base.ipairs, base.math, base.next, base.pairs
local tonumber, tostring, type, unpack = base.tonumber, base.tostring, base.type, base.unpack

local dlq = {}

local STALL_MS = 60000 -- without a record
local NAP = 0.1 -- seconds between two looks at whether a paced replay shall end

-- ---- options ----

local FILTER = {
  event_type = true, key = "string", reason = "string", error_type = "string",
  failed_group = "string", since = true, ["until"] = true, partition = "number", offset = true,
  original_partition = "number", original_offset = true, where = "function",
}

local EACH = { timeout_ms = "number" }

local READ = { limit = "number", timeout_ms = "number", use_consumer_group = "boolean" }

local REPLAY = {
  limit = "number", to = "string", group = true, dry_run = "boolean", again = "boolean",
  force = "boolean", rate = "number", on_letter = "function",
}

local function check(options, own, what, level)
  if type(options) ~= "table" then error(what .. " takes a table of options", level + 1) end
  for key, value in pairs(options) do
    local want = own[key] or FILTER[key]
    if not want then
      error(('no option "%s" of %s%s'):format(tostring(key), what,
        names.choices(key, names.of(own, FILTER))), level + 1)
    elseif want ~= true and type(value) ~= want then
      arguments.refuse(key, "a " .. want, value, level + 1)
    elseif want == "number" then
      local fits = key:find "partition$" and arguments.whole or arguments.number
      fits(value, key, level + 1)
    end
  end
end

-- Seconds since 1970, or ISO 8601 -> milliseconds.
local function time(options, key, level)
  local value = options[key]
  if value == nil then return nil end
  local seconds = type(value) == "number" and value
    or type(value) == "string" and core.epoch(value)
  if not seconds then
    arguments.refuse(key, "seconds since 1970 or an ISO 8601 time", value, level + 1)
  end
  return math.floor(seconds * 1000)
end

-- One offset, or { first, last }, each of which may be nil.
local function range(options, key, level)
  local value = options[key]
  if value == nil then return nil end
  if type(value) ~= "number" and type(value) ~= "table" then
    arguments.refuse(key, "an offset or { first, last }", value, level + 1)
  end
  local first, last = value, value
  if type(value) == "table" then first, last = value[1], value[2] end
  if first ~= nil then arguments.whole(first, key, level + 1) end
  if last ~= nil then arguments.whole(last, key, level + 1) end
  return first, last
end

-- A letter as scripts see it.
local function dress(letter)
  local value = letter.value
  letter.payload = value and core.json_decode(value)
  if value and letter.payload == nil then
    letter.payload = (value:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
  end
  letter.replay_count = tonumber(letter.headers.dlq_replay_count) or 0
  return letter
end

-- The filter as the engine takes it.
local function filter(options, level)
  local kind, where = options.event_type, options.where
  if type(kind) == "table" and kind.__moonbus then kind = kind.name end
  if kind ~= nil and type(kind) ~= "string" then
    arguments.refuse("event_type", "what moonbus.event returned, or a name", kind, level + 1)
  end
  local native = {
    event_type = kind, key = options.key, reason = options.reason,
    error_type = options.error_type, failed_group = options.failed_group,
    since_ms = time(options, "since", level + 1), until_ms = time(options, "until", level + 1),
    partition = options.partition, original_partition = options.original_partition,
    where = where and function(letter) return where(dress(letter)) and true or false end,
  }
  native.first_offset, native.last_offset = range(options, "offset", level + 1)
  native.original_first, native.original_last = range(options, "original_offset", level + 1)
  return native
end

-- ---- putting many back ----

local function replay_options(options, level)
  check(options, REPLAY, "replay_dlq", level + 1)
  local native = filter(options, level + 1)
  local group = options.group
  if group ~= nil and type(group) ~= "boolean" and (type(group) ~= "string" or group == "") then
    arguments.refuse("group", "true (the one that failed), false (every group) or a name", group,
      level + 1)
  elseif options.rate == 0 or options.limit == 0 then
    arguments.refuse(options.rate == 0 and "rate" or "limit", "a number above 0", 0, level + 1)
  end
  native.to_failed = group == true
  if group == false then native.group = "" elseif group ~= true then native.group = group end
  native.to, native.limit, native.rate = options.to, options.limit, options.rate
  native.dry_run, native.again, native.force = options.dry_run, options.again, options.force
  return native
end

-- What became of the letters of one step; false when on_letter wants no more.
local function report(list, state, letters, on_letter)
  local go_on = true
  for _, letter in ipairs(list) do
    if not on_letter then letters[#letters + 1] = letter
    elseif go_on and on_letter(letter, state) == false then go_on = false end
  end
  return go_on
end

local function run(job, on_letter)
  local letters = not on_letter and array {} or nil
  while true do
    local list, state, err, code = job:step()
    local go_on = report(list, state, letters, on_letter)
    local result = {
      replayed = state.replayed, refused = state.refused, failed = state.failed,
      skipped = state.skipped, more = state.more, stopped = state.stopped, letters = letters,
    }
    if err then return nil, err, code, result end
    if state.over and go_on then return result end
    if go_on and state.wait > 0 then task.sleep(math.min(state.wait, NAP))
    elseif go_on then task.turn(0) end
    if not go_on or task.interrupted() then
      result.stopped = true
      return result
    end
  end
end

-- ---- the methods ----

local methods = {}

--- The dead letters, oldest first within a partition: a list of { topic, partition, offset, key,
-- timestamp, headers, value, payload, replay_count }. payload is the decoded value, or its bytes in
-- hexadecimal if it is not JSON. options: limit (100), timeout_ms (60000): give up
-- when no record came for so long, however long the whole read takes; those of a filter (see
-- replay_dlq), or
-- use_consumer_group: go on where the last such call ended, by the committed offsets of
-- dlq_consumer_group. The list, or nil, err, code and those read so far.
function methods:get_dlq_messages(options)
  options = options or {}
  check(options, READ, "get_dlq_messages", 2)
  local limit, timeout_ms = options.limit or 100, options.timeout_ms or STALL_MS
  local list = array {}
  local function add(letter)
    list[#list + 1] = dress(letter)
    return #list < limit
  end
  local group = options.use_consumer_group and self.config.dlq_consumer_group
  if options.use_consumer_group and not group then
    error("use_consumer_group: the bus has no dlq_consumer_group", 2)
  end
  local native = filter(options, 2)
  if group and next(native) then
    error("use_consumer_group goes on where it was; a filter cannot choose what it reads", 2)
  elseif limit <= 0 then
    return list
  end
  local ok, err, code
  if group then
    ok, err, code = self.native:read(self.config.dlq_topic_name,
      { stall_ms = math.max(timeout_ms, 1), group = group }, add)
  else
    native.timeout_ms = timeout_ms
    ok, err, code = self.native:dlq_read(native, add)
  end
  if not ok and code == "ETOPIC" then return list end
  if not ok then return nil, err, code, list end
  return list
end

--- Call fn with every dead letter that the filter (see replay_dlq) leaves, one at a time, so that
-- their number does not matter; it returns false to end. Each has header_list too: { {name, value},
-- ... } as on the wire. The filter may have timeout_ms (60000): give up when no record came for so
-- long. true, or nil, err, code.
function methods:each_dlq_message(options, fn)
  check(options, EACH, "each_dlq_message", 2)
  if type(fn) ~= "function" then error("each_dlq_message takes a filter and a function", 2) end
  local native = filter(options, 2)
  native.timeout_ms = options.timeout_ms
  return self.native:dlq_read(native, function(letter) return fn(dress(letter)) end)
end

--- How many dead letters there are: they are read, as offsets also go to what is no record.
function methods:get_dlq_message_count()
  return self.native:dlq_count()
end

--- Put one dead letter back on the main topic: { partition =, offset =, force = false }.
-- true, or nil, err, code ("EREPLAY" when it was replayed dlq_max_replay_attempts times already).
function methods:replay_dlq_message(options)
  if type(options) ~= "table" or options.partition == nil or options.offset == nil then
    error("replay_dlq_message takes { partition = ..., offset = ... }", 2)
  end
  arguments.whole(options.partition, "partition", 2)
  arguments.whole(options.offset, "offset", 2)
  return self.native:dlq_replay(options.partition, options.offset, options.force)
end

--- Put many dead letters back, the events of a key in the order of their original offsets; those
-- that were replayed since they died are skipped.
-- Filter: event_type, key (or aggregate_id), reason, error_type, failed_group, since, until
-- (seconds since 1970, or ISO 8601), partition, offset (one, or { first, last }) of the letter,
-- original_partition, original_offset, where = function(letter) -> boolean.
-- to: another topic. group: only the group that failed (true) or the one named handles them; false:
-- every group; without it, as it was before. limit: at most so many; the next call goes on.
-- dry_run: only report. rate: at most so many a second; the bus goes on meanwhile. again: also
-- those replayed already. force: also those that dlq_max_replay_attempts refuses.
-- on_letter = function(letter, state) -> false to end: receives each, in place of the list.
-- { replayed, refused, failed, skipped, more, stopped, letters = { { outcome = "replayed" |
-- "refused" | "failed" | "skipped", reason, code, partition, offset, event_type, event_id, key,
-- replay_count, to_partition, to_offset }, ... } }, or nil, err, code and what was done so far.
function methods:replay_dlq(options)
  options = options or {}
  local native = replay_options(options, 2)
  local job, err, code = self.native:replay_open(native)
  if not job then return nil, err, code end
  local results = { run(job, options.on_letter) }
  job:close()
  return unpack(results, 1, 4)
end

--- Give a class these methods.
function dlq.install(class)
  for name, method in pairs(methods) do class[name] = method end
end

return dlq
