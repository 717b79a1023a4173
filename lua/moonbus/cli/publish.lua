--- moonbus publish: one event from flags, or JSON lines from a file or stdin.
local base = require "moonbus.base"
local core = require "moonbus.core"
local moonbus = require "moonbus"
local exit = require "moonbus.cli.exit"
local lines = require "moonbus.cli.lines"
local options = require "moonbus.cli.options"
local progress = require "moonbus.cli.progress"
local task = require "moonbus.task"

local io, ipairs, math, print = base.io, base.ipairs, base.math, base.print
local setmetatable, table, type, unpack = base.setmetatable, base.table, base.type, base.unpack

local publish = {
  summary = "Publish events: one from flags, or JSON lines.",
  description = "Publish one event described by flags, or events from a file or stdin (-): one "
    .. "JSON object per line, base fields and own fields side by side.",
}

local BATCH_BYTES = 16 * 1024 * 1024
local COUNT_S = 5 -- for counting lines that are not tried
local WAIT_MS = 1000

-- Failures that meet every event, so that there is no sense in going on.
local LASTING = { ECONNECT = true, EAUTH = true, ETOPIC = true, ETIMEOUT = true, EFATAL = true,
  EFENCED = true, ESTATE = true, EFULL = true }

-- ---- one event from flags ----

local BASE_FLAGS = {
  "aggregate_type", "aggregate_id", "tenant_id", "actor_id", "correlation_id", "causation_id",
}

local function json_object(text)
  local value, err = moonbus.json.decode(text)
  if type(value) == "table" and text:find("^%s*{") then return text end
  return nil, ("'%s': expected a JSON object%s"):format(text, err and " (" .. err .. ")" or "")
end

-- "name=value" -> '"name":value'; what is no JSON is a string
local function field(text)
  local name, value = text:match("^([^=]+)=(.*)$")
  if not name then return nil, ("'%s': expected name=value"):format(text) end
  if moonbus.json.decode(value) == nil then
    value = moonbus.json.encode(value)
    if not value then return nil, ("'%s': the value is not UTF-8"):format(name) end
  end
  local key = moonbus.json.encode(name)
  if not key then return nil, "a field's name is not UTF-8" end
  return key .. ":" .. value
end

function publish.define(command)
  command:argument("file"):args("?"):description("A file of JSON lines; - is stdin.")
  command:option("--type"):argname("<event type>")
    :description("The event's type; with a file, for lines without an event_type.")
  for _, key in ipairs(BASE_FLAGS) do
    command:option("--" .. key:gsub("_", "-")):target(key):argname("<value>")
      :description("The event's " .. key .. ".")
  end
  command:option("--aggregate-version"):argname("<number>"):convert(options.integer(1, 2 ^ 53))
    :description("The event's aggregate_version.")
  command:option("--data"):argname("<object>"):description("The event's own fields, as JSON.")
    :convert(json_object)
  command:option("--field"):argname("<name=value>"):count("*"):convert(field)
    :description("One own field: the value is JSON, or else a string; may be repeated.")
  command:option("--metadata"):argname("<object>"):description("The event's metadata, as JSON.")
    :convert(json_object)
  command:option("--batch"):argname("<count>"):default("20000"):convert(options.integer(1, 100000))
    :description("Lines sent before their acknowledgements are awaited.")
  command:flag("--skip-bad"):description("Go on after a wrong line; it is reported and counted.")
  options.json(command, "Print a summary as one JSON object.")
  options.connection(command, "topic_prefix")
end

-- The event as one line of JSON. Own fields stay as they were written.
local function line_of_flags(args)
  local parts = { '"event_type":' .. moonbus.json.encode(args.type) }
  args.aggregate_id = args.aggregate_id or moonbus.uuid()
  for _, key in ipairs(BASE_FLAGS) do
    if args[key] then
      local text = moonbus.json.encode(args[key])
      if not text then exit.raise(key .. ": not UTF-8", "EINVAL") end
      parts[#parts + 1] = ('"%s":%s'):format(key, text)
    end
  end
  if args.aggregate_version then
    parts[#parts + 1] = ('"aggregate_version":%.0f'):format(args.aggregate_version)
  end
  if args.metadata then parts[#parts + 1] = '"metadata":' .. args.metadata end
  local own = args.data and args.data:match("^%s*{%s*(.-)%s*}%s*$") or ""
  if own ~= "" then parts[#parts + 1] = own end
  for _, each in ipairs(args.field) do parts[#parts + 1] = each end
  return "{" .. table.concat(parts, ",") .. "}"
end

-- ---- batches ----

local Job = {}
Job.__index = Job

local function complain(self, number, err, code)
  self.bar:clear()
  exit.say(("line %d: %s"):format(number, (err:gsub("^E[A-Z]+: ", ""))), code)
  self.bad = self.bad + 1
  self.wrong = true
  if not self.skip_bad then self.stop = true end
end

-- Some events of a batch were not delivered. Going on, the first of them is left out and the others
-- are tried again: one that the broker refuses keeps those behind it from being sent.
local function undelivered(self, batch, numbers, failures, code)
  local first = failures[1]
  self.published = self.published + #batch - #failures
  self.wrong = true
  self.bar:clear()
  exit.say(("line %d: not delivered: %s"):format(numbers[first.index], first.reason), code)
  for _, failure in ipairs(failures) do
    if LASTING[failure.code] then self.stop = true end
  end
  if not self.skip_bad then self.stop = true end
  self.failed = self.failed + (self.stop and #failures or 1)
  local lines_left, numbers_left = {}, {}
  for i = 2, self.stop and 0 or #failures do
    lines_left[i - 1], numbers_left[i - 1] = batch[failures[i].index], numbers[failures[i].index]
  end
  return lines_left, numbers_left
end

-- A wrong line leaves its batch, which is then sent: all of it, or what stands before that line.
local function without(self, batch, numbers, index, err, code)
  complain(self, numbers[index], err, code)
  table.remove(batch, index)
  table.remove(numbers, index)
  if not self.stop then return end
  self.untried = self.untried + #batch - index + 1
  for i = #batch, index, -1 do batch[i], numbers[i] = nil, nil end
end

--- Publish what is gathered.
function Job:send()
  local batch, numbers = self.batch, self.numbers
  self.batch, self.numbers, self.bytes = {}, {}, 0
  while #batch > 0 do
    local receipt, err, code, where = self.bus.native:publish_json(batch, self.type)
    if receipt then
      self.published = self.published + receipt.count
      return
    end
    if not where then
      self.failed, self.stop, self.wrong = self.failed + #batch, true, true
      self.status = exit.report(err, code)
      return
    end
    if type(where) == "number" then without(self, batch, numbers, where, err, code)
    else batch, numbers = undelivered(self, batch, numbers, where, code) end
  end
end

function Job:add(line, number)
  if line:find("^%s*$") then return end
  local count = #self.batch + 1
  self.batch[count], self.numbers[count] = line, number
  self.bytes = self.bytes + #line
  if count >= self.most or self.bytes >= BATCH_BYTES then self:send() end
end

-- Waits for input in short turns, so that a signal between two system calls is noticed too.
local function read_all(job, reader)
  while not job.stop do
    local line, state, why = reader:next()
    if line then
      job:add(line, reader.number)
      job.bar:show(job.published, reader.bytes, reader.size)
    elseif state == "too long" then
      complain(job, reader.number, "longer than 64 MiB", "EDECODE")
    elseif state == "wait" then
      job:send()
      job.bar:show(job.published, reader.bytes, reader.size)
      if task.interrupted() then
        job.interrupted = true
        return
      end
      reader:ready(WAIT_MS)
    elseif state == "failed" then
      job:send()
      exit.raise("reading failed: " .. why, "EIO")
    else
      return job:send()
    end
    if #job.batch == 0 and task.interrupted() then
      job.interrupted = true
      return
    end
  end
end

-- What follows a stop is counted, so that the summary accounts for every line: all of a file, of a
-- pipe what is there.
local function count_rest(job, reader)
  local deadline = moonbus.now() + COUNT_S
  while moonbus.now() < deadline do
    local line, state = reader:next()
    if not line and state ~= "too long" then return end
    if not line or not line:find "^%s*$" then job.untried = job.untried + 1 end
  end
  job.more = true
end

-- ---- the command ----

local function check_usage(args)
  if not args.file and not args.type then
    exit.raise("expected --type of an event, or a file of JSON lines (- is stdin); see: moonbus "
      .. "publish --help", "EINVAL")
  end
  if not args.file then return end
  for _, key in ipairs({ "data", "metadata", "aggregate_version", unpack(BASE_FLAGS) }) do
    if args[key] then
      exit.raise(("--%s describes one event; the lines of a file say it themselves"):format(
        (key:gsub("_", "-"))), "EINVAL")
    end
  end
  if args.field[1] then exit.raise("--field describes one event; a file's lines do", "EINVAL") end
end

local function counted(count, noun)
  return ("%d %s%s"):format(count, noun, count == 1 and "" or "s")
end

local function summary(job, args, seconds)
  local topic = job.bus.config.topic_name
  local more = ""
  if job.failed > 0 then more = more .. (", %d not delivered"):format(job.failed) end
  if job.bad > 0 then more = more .. (", %s"):format(counted(job.bad, "wrong line")) end
  if job.untried > 0 then
    more = more .. (", %s%d not tried"):format(job.more and "more than " or "", job.untried)
  end
  if job.interrupted then more = more .. ", interrupted" end
  exit.note(("published %s to %s in %.1f s%s"):format(counted(job.published, "event"),
    topic, seconds, more))
  if args.json then
    print(moonbus.json.encode({
      published = job.published, failed = job.failed, bad_lines = job.bad, topic = topic,
      not_tried = job.untried,
      seconds = math.floor(seconds * 1000 + 0.5) / 1000, interrupted = job.interrupted or false,
    }))
  end
end

-- What became of the events is said here, with line numbers; the bus need not say it again.
local function log(_, text)
  if not text:find("publish: ", 1, true) then io.stderr:write(text, "\n") end
end

local function make_job(args)
  return setmetatable({
    bus = options.connected(args, { on_log = log }),
    type = args.type, most = args.batch, skip_bad = args.skip_bad,
    batch = {}, numbers = {}, bytes = 0, published = 0, failed = 0, bad = 0, untried = 0,
    wrong = false,
    bar = progress.new(core.isatty(2)),
  }, Job)
end

function publish.run(args)
  check_usage(args)
  local reader, err
  if args.file then
    reader, err = lines.open(args.file)
    if not reader then
      return exit.report(("cannot open %s: %s"):format(args.file, err), "EIO")
    end
  end
  local job = make_job(args)
  local begin = moonbus.now()
  if reader then
    read_all(job, reader)
    if job.stop or job.interrupted then count_rest(job, reader) end
    reader:close()
  else
    local receipt, why, code = job.bus.native:publish_json({ line_of_flags(args) }, args.type)
    if not receipt then return exit.report(why, code, exit.SOME_FAILED) end
    job.published = 1
  end
  job.bar:clear()
  summary(job, args, moonbus.now() - begin)
  job.bus:disconnect()
  return job.status or (job.wrong and exit.SOME_FAILED or exit.OK)
end

return publish
