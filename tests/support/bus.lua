--- Buses for specs: names nobody else uses, logs kept instead of printed, nothing left behind.
local cjson = require "cjson"
local core = require "moonbus.core"
local moonbus = require "moonbus"
local wait = require "tests.support.wait"

local support = {}

local opened = {} -- buses to disconnect

--- A name nobody else has.
function support.name(stem)
  return ("%s-%s"):format(stem, moonbus.uuid():sub(1, 8))
end

--- A UUID one can recognise.
function support.uuid(number)
  return ("00000000-0000-4000-8000-%012d"):format(number)
end

local DEFAULTS = {
  bootstrap_servers = "embedded",
  fetch_wait_max_ms = 10,
  session_timeout_ms = 6000,
  heartbeat_interval_ms = 1000,
  retry_base_delay = 0.05,
  retry_max_delay = 0.4,
  retry_jitter = 0,
  log_level = "debug",
}

--- A bus that is not connected; its log lines are kept: the second result, a list of
-- { level =, text = }.
function support.new(options)
  local lines = {}
  local all = {
    topic_prefix = support.name "spec",
    consumer_group = support.name "group",
    on_log = function(level, text) lines[#lines + 1] = { level = level, text = text } end,
  }
  for key, value in pairs(DEFAULTS) do all[key] = value end
  for key, value in pairs(options or {}) do all[key] = value end
  local bus = moonbus.bus(all)
  opened[#opened + 1] = bus
  return bus, lines
end

--- A connected bus. options.partitions makes its topic with so many, the dead letters' with one.
function support.bus(options)
  local own = {}
  for key, value in pairs(options or {}) do own[key] = value end
  local partitions = own.partitions
  own.partitions = nil
  local bus, lines = support.new(own)
  if partitions then
    assert(bus.native:topic_create(bus.config.topic_name, partitions, 1))
    assert(bus.native:topic_create(bus.config.dlq_topic_name, 1, 1))
  end
  assert(bus:connect())
  return bus, lines
end

--- Start buses in the background, all at once, and wait until each has partitions.
function support.consume(...)
  local tasks = {}
  for i, bus in ipairs { ... } do tasks[i] = assert(bus:start_consuming_in_background()) end
  for _, bus in ipairs { ... } do
    wait.till(function() return bus:get_stats_dict().assigned_count > 0 end,
      "an assignment for " .. tostring(bus))
  end
  return unpack(tasks)
end

--- Disconnect everything support.new made.
function support.close()
  for i = #opened, 1, -1 do
    opened[i]:disconnect()
    opened[i] = nil
  end
end

--- The lines of that level that contain the text.
function support.lines_with(lines, level, text)
  local found = {}
  for _, line in ipairs(lines) do
    if line.level == level and line.text:find(text, 1, true) then found[#found + 1] = line.text end
  end
  return found
end

-- ---- a broker of one's own, for what no bus writes ----

local function quoted(text)
  return "'" .. text:gsub("'", [['\'']]) .. "'"
end

local function run(command)
  local pipe = assert(io.popen(command .. " 2>&1", "r"))
  local output = pipe:read "*a"
  pipe:close()
  return output
end

local Broker = {}
Broker.__index = Broker

--- An embedded broker with an address, for kcat as well: { address = "127.0.0.1:port" }.
function support.broker()
  local native, address = core.broker()
  assert(native, address)
  return setmetatable({ native = native, address = address }, Broker)
end

--- Options of a bus on this broker.
function Broker:options(more)
  local options = { bootstrap_servers = self.address }
  for key, value in pairs(more or {}) do options[key] = value end
  return options
end

--- A connected bus on this broker, its topics made with that many partitions (1).
function Broker:bus(options)
  local own = self:options(options)
  own.partitions = nil
  local bus, lines = support.new(own)
  local partitions = options and options.partitions or 1
  assert(core.broker_topic(self.native, bus.config.topic_name, partitions))
  assert(core.broker_topic(self.native, bus.config.dlq_topic_name, 1))
  assert(bus:connect())
  return bus, lines
end

local DELIMITER = "\1" -- between key and value, where kcat wants one

--- Write one record: { topic =, key =, value = (nil: a tombstone), partition =, headers = { {name,
-- value or nil}, ... } }.
function Broker:produce(record)
  local path = os.tmpname()
  local file = assert(io.open(path, "wb"))
  file:write(record.value or (record.key or "") .. DELIMITER .. "\n")
  file:close()
  local words = { "kcat -P -q -b", self.address, "-t", quoted(record.topic), "-p",
    tostring(record.partition or 0) }
  local function add(...)
    for _, word in ipairs { ... } do words[#words + 1] = word end
  end
  for _, header in ipairs(record.headers or {}) do
    add("-H", quoted(header[2] and header[1] .. "=" .. header[2] or header[1]))
  end
  -- A file by its name is one record; a tombstone is a line with a key alone, as -Z reads it.
  if not record.value then add("-Z -l -K", quoted(DELIMITER))
  elseif record.key then add("-k", quoted(record.key)) end
  add(quoted(path))
  local output = run(table.concat(words, " "))
  os.remove(path)
  assert(output == "", "kcat: " .. output)
end

--- Read a topic with kcat: a list of { key =, payload =, offset =, headers = { {name, value}, ... }
-- } with the headers in wire order. Empty where the topic is not there: the embedded broker of
-- librdkafka 2.8 makes none for a consumer.
function Broker:consume(topic)
  local list = {}
  local text = run(("kcat -C -q -J -e -o beginning -b %s -t %s"):format(self.address,
    quoted(topic)))
  if text:find("Broker: Unknown topic or partition", 1, true) then return list end
  for line in text:gmatch "[^\n]+" do
    local record = cjson.decode(line)
    local headers = {}
    for i = 1, #(record.headers or {}), 2 do
      headers[#headers + 1] = { record.headers[i], record.headers[i + 1] }
    end
    record.headers = headers
    list[#list + 1] = record
  end
  return list
end

return support
