--- What the specs in tests/kafka share: a broker, buses that close by themselves, other clients.
local busted = require "busted"
local ffi = require "ffi"
local moonbus = require "moonbus"
local tmp = require "tests.support.tmp"

ffi.cdef [[ int getpid(void); int kill(int pid, int signal); ]]

local kafka = {
  address = os.getenv("MOONBUS_TEST_KAFKA"),
  source = os.getenv("MOONBUS_SOURCE") or ".",
  build = os.getenv("MOONBUS_BUILD") or "build",
}
-- The group protocol of buses that do not name one.
kafka.protocol = os.getenv("MOONBUS_GROUP_PROTOCOL") or "classic"
kafka.python = os.getenv("MOONBUS_TEST_PYTHON") or kafka.source .. "/.deps/python/bin/python"

local SECONDS = 90 -- what is waited for comes in a few, but on a machine that is slow and busy

local open = { buses = {}, pids = {}, dirs = {}, brokers = {} }

-- ---- describe, only where there is a Kafka ----

local function missing()
  if os.getenv("CI") then
    return busted.it("has a Kafka at MOONBUS_TEST_KAFKA", function()
      error("MOONBUS_TEST_KAFKA is not set: scripts/test starts a Kafka and sets it")
    end)
  end
  io.stderr:write("\n*** NOT TESTED: MOONBUS_TEST_KAFKA is not set; scripts/test starts a Kafka\n")
  busted.pending("needs a Kafka at MOONBUS_TEST_KAFKA")
end

--- As busted's describe; closes what the tests leave open.
function kafka.describe(name, body)
  busted.describe(name, function()
    if not kafka.address then return missing() end
    busted.after_each(kafka.close_all)
    busted.teardown(kafka.wipe_brokers)
    body()
  end)
end

-- ---- programs ----

function kafka.quote(word)
  return "'" .. tostring(word):gsub("'", "'\\''") .. "'"
end

local function append(list, more)
  for _, each in ipairs(more) do list[#list + 1] = each end
  return list
end

local function command(words)
  local quoted = {}
  for i, word in ipairs(words) do quoted[i] = kafka.quote(word) end
  return table.concat(quoted, " ")
end

function kafka.temp_dir()
  local dir = tmp.make()
  open.dirs[#open.dirs + 1] = dir
  return dir
end

function kafka.read_file(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

function kafka.write_file(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
  return path
end

--- Run a program to its end, with `input` on its standard input. Its output; raises if it fails.
function kafka.run(words, input)
  local dir = kafka.temp_dir()
  kafka.write_file(dir .. "/in", input or "")
  local line = ("%s <%s/in >%s/out 2>%s/err"):format(command(words), dir, dir, dir)
  if os.execute(line) ~= 0 then
    error(("%s failed: %s%s"):format(words[1], kafka.read_file(dir .. "/out"),
      kafka.read_file(dir .. "/err")), 2)
  end
  return kafka.read_file(dir .. "/out"), kafka.read_file(dir .. "/err")
end

local Process = {}
Process.__index = Process

--- Start a program in the background; its output goes to files.
function kafka.spawn(words)
  local dir = kafka.temp_dir()
  kafka.write_file(dir .. "/out", "")
  kafka.write_file(dir .. "/err", "")
  local pipe = assert(io.popen(("exec </dev/null; %s run %s >%s/out 2>%s/err & echo $!")
    :format(kafka.quote(kafka.source .. "/scripts/guard"), command(words), dir, dir)))
  local self = setmetatable({ dir = dir, pid = assert(tonumber(pipe:read("*l"))) }, Process)
  pipe:close()
  open.pids[self.pid] = true
  return self
end

function Process:output()
  return kafka.read_file(self.dir .. "/out")
end

function Process:errors()
  return kafka.read_file(self.dir .. "/err")
end

function Process:alive()
  local file = io.open(("/proc/%d/stat"):format(self.pid))
  if not file then return false end
  local state = file:read("*l"):match("%) (%S)")
  file:close()
  return state ~= "Z" and state ~= "X"
end

function Process:kill(signal)
  ffi.C.kill(self.pid, signal or 9)
end

function Process:wait_end(seconds)
  kafka.wait("the end of process " .. self.pid, function() return not self:alive() end, seconds)
  open.pids[self.pid] = nil
end

-- ---- waiting ----

--- Run the buses until condition() is true; raises after `seconds` (90). what: text or function.
function kafka.wait(what, condition, seconds)
  local deadline = moonbus.now() + (seconds or SECONDS)
  while true do
    local result = condition()
    if result then return result end
    if moonbus.now() > deadline then
      error("not seen in time: " .. (type(what) == "function" and what() or what), 2)
    end
    moonbus.sleep(0.01)
  end
end

-- ---- buses ----

local count = 0

--- A name no other test uses.
function kafka.name(stem)
  count = count + 1
  return ("%s-%d-%d-%s"):format(stem, ffi.C.getpid(), count, moonbus.uuid():sub(1, 8))
end

--- Options for a bus on the test's broker: quick rebalances, quick retries, nothing on stderr.
function kafka.options(options)
  local all = {
    bootstrap_servers = kafka.address, heartbeat_interval_ms = 100, session_timeout_ms = 6000,
    retry_base_delay = 0.01, retry_max_delay = 0.1, shutdown_timeout = 10,
  }
  for key, value in pairs(options) do all[key] = value end
  all.consumer_group = all.consumer_group or kafka.name("group")
  return all
end

--- A bus that is not connected; its log lines are in bus.lines.
function kafka.new_bus(options)
  local all, lines = kafka.options(options), {}
  all.on_log = function(level, line) lines[#lines + 1] = level .. " " .. line end
  local bus = moonbus.bus(all)
  bus.lines = lines
  open.buses[#open.buses + 1] = bus
  return bus
end

--- A connected bus.
function kafka.bus(options)
  local bus = kafka.new_bus(options)
  assert(bus:connect(60))
  return bus
end

--- Start consuming in the background and wait for `partitions` (all 4) to be assigned.
function kafka.consume(bus, partitions)
  local task = assert(bus:start_consuming_in_background())
  kafka.wait("the assignment", function()
    return bus:get_stats_dict().assigned_count == (partitions or 4)
  end)
  return task
end

function kafka.stats(bus, key)
  return bus:get_stats_dict()[key]
end

--- Whether a log line matches the pattern.
function kafka.logged(bus, pattern)
  for _, line in ipairs(bus.lines) do
    if line:find(pattern) then return line end
  end
end

--- The version of librdkafka at hand as a number: 2.4.1 is 20401.
function kafka.librdkafka()
  local major, minor, patch = moonbus.features().librdkafka:match("(%d+)%.(%d+)%.(%d+)")
  return major * 10000 + minor * 100 + patch
end

--- Say loudly that something was not tested, and why: what is missing here. In CI it fails.
function kafka.not_tested(what)
  if os.getenv("CI") then error("not tested: " .. what, 2) end
  io.stderr:write("\n*** NOT TESTED: ", what, "\n")
end

--- Disconnect every bus, kill every process, delete every directory of the test.
function kafka.close_all()
  for _, bus in ipairs(open.buses) do bus:disconnect() end
  for pid in pairs(open.pids) do ffi.C.kill(pid, 9) end
  for _, dir in ipairs(open.dirs) do os.execute("rm -rf " .. kafka.quote(dir)) end
  open.buses, open.pids, open.dirs = {}, {}, {}
end

-- ---- another client ----

function kafka.hex(bytes)
  return (bytes:gsub(".", function(char) return ("%02x"):format(char:byte()) end))
end

function kafka.unhex(text)
  return (text:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

local function tool(verb, topic, more, input, address)
  local words = { kafka.python, kafka.source .. "/tests/kafka/tool.py", address or kafka.address,
    verb, topic }
  for _, word in ipairs(more or {}) do words[#words + 1] = word end
  return (kafka.run(words, input))
end

local function json(text)
  return assert(moonbus.json.decode(text))
end

local function or_nil(value)
  if value ~= moonbus.null then return value end
end

--- Make a topic by another client. config: { "name=value", ... }
function kafka.create(topic, partitions, config, address)
  tool("create", topic, append({ partitions }, config or {}), nil, address)
end

--- Make a topic with one partition on each of these brokers, and nowhere else.
function kafka.place(topic, brokers, address)
  tool("place", topic, brokers, nil, address)
end

function kafka.delete(topic, address)
  tool("delete", topic, nil, nil, address)
end

--- Set or remove a rule on a broker with an authorizer. rule: { kind = "topic", "group",
-- "transactional_id", "cluster"; name=, user=, operation = "write", ...; permission = "allow" or
-- "deny" }. A rule to deny counts more than any to allow; "*" names everything.
function kafka.rule(rule, set, address)
  tool("acl", rule.name, { rule.kind, rule.user, rule.operation, rule.permission, tostring(set) },
    nil, address)
end

--- Whether that user may write to the topic, on a broker with an authorizer.
function kafka.permit(topic, user, permitted, address)
  kafka.rule({ kind = "topic", name = topic, user = user, operation = "write",
    permission = "deny" }, not permitted, address)
end

--- Write raw records: { key=, value=, headers = { {name, value}, ... }, partition= }; what is nil
-- is null, and so is a header's moonbus.null. Returns { {partition=, offset=, error=}, ... }.
function kafka.produce(topic, records, properties, address)
  local lines = {}
  for i, record in ipairs(records) do
    local headers = moonbus.array {}
    for k, header in ipairs(record.headers or {}) do
      local value = or_nil(header[2])
      headers[k] = moonbus.array { header[1], value and kafka.hex(value) or moonbus.null }
    end
    lines[i] = moonbus.json.encode {
      key = record.key and kafka.hex(record.key) or moonbus.null,
      value = record.value and kafka.hex(record.value) or moonbus.null,
      headers = headers, partition = record.partition,
    } .. "\n"
  end
  return json(tool("produce", topic, properties, table.concat(lines), address))
end

--- How often each number n came out as an event Out on the bus's topic, as a reader of committed
-- records sees it; and how many there are.
function kafka.outputs(bus)
  local seen, total = {}, 0
  assert(bus:read({ timeout_ms = 30000 }, function(record)
    if record.headers.event_type ~= "Out" then return end
    local n = moonbus.json.decode(record.value).n
    seen[n] = (seen[n] or 0) + 1
    total = total + 1
  end))
  return seen, total
end

--- Every record of a topic, byte for byte: { partition=, offset=, key=, value=, timestamp=,
-- headers = { {name, value}, ... } }; what is null is nil, a header's null value is moonbus.null.
function kafka.dump(topic)
  local records = {}
  for line in tool("dump", topic):gmatch("[^\n]+") do
    local record = json(line)
    local key, value = or_nil(record.key), or_nil(record.value)
    record.key = key and kafka.unhex(key)
    record.value = value and kafka.unhex(value)
    for _, header in ipairs(record.headers) do
      if header[2] ~= moonbus.null then header[2] = kafka.unhex(header[2]) end
    end
    records[#records + 1] = record
  end
  return records
end

--- The group as the broker tells: { state=, assignor=,
-- members = { {client_id=, instance=, partitions=} },
-- coordinator= }.
function kafka.group(group, address)
  return json(tool("group", group, nil, nil, address))
end

local function by_number(found)
  local list = {}
  for number, offset in pairs(found) do list[tonumber(number)] = offset end
  return list
end

--- Committed offsets of a group, of partitions that have any: { [partition] = offset }.
function kafka.offsets(group, topic, address)
  return by_number(json(tool("offsets", group, { topic }, nil, address)))
end

--- What goes with them: { [partition] = text }.
function kafka.notes(group, topic, address)
  return by_number(json(tool("notes", group, { topic }, nil, address)))
end

--- Commit for a group that has no members.
function kafka.commit(group, topic, partition, offset, metadata)
  tool("commit", group, { topic, partition, offset, metadata })
end

--- End offsets of a topic: { [partition] = offset }.
function kafka.ends(topic, address)
  return by_number(json(tool("ends", topic, nil, nil, address)))
end

function kafka.sum(list)
  local sum = 0
  for _, value in pairs(list) do sum = sum + value end
  return sum
end

-- ---- brokers of one's own ----

local Broker = {}
Broker.__index = Broker

--- Start a broker that the test may stop. options: tls (also TLS and SASL), set ({ "name=value",
-- ... }, settings of the broker), join (a broker: be the second one of its cluster), brokers (3: a
-- cluster, of which single nodes can be killed), dir (where its data go), within (words to run
-- scripts/kafka with).
function kafka.broker(options)
  options = options or {}
  local dir = options.dir or tmp.make()
  local self = setmetatable({ dir = dir, tls = options.tls, join = options.join,
    brokers = options.brokers, within = options.within or {} }, Broker)
  open.brokers[#open.brokers + 1] = self
  local more = {}
  for _, each in ipairs(options.set or {}) do append(more, { "--set", each }) end
  self:up("free", more)
  return self
end

function Broker:ctl(verb, ...)
  local words = append({}, self.within)
  append(words, { kafka.source .. "/scripts/kafka", verb, "--dir", self.dir .. "/kafka", ... })
  if self.tls then words[#words + 1] = "--tls-sasl" end
  if self.join then append(words, { "--join", self.join.dir .. "/kafka" }) end
  if self.brokers then append(words, { "--brokers", self.brokers }) end
  return (kafka.run(words))
end

function Broker:up(port, more)
  local words = append({}, more or {})
  if port or self.port then append(words, { "--port", port or self.port }) end
  self.address = self:ctl("up", unpack(words)):match("%S+")
  self.port = tonumber(self.address:match("^localhost:(%d+)"))
end

--- Send a signal to the broker's process: "STOP", "CONT".
function Broker:signal(name)
  local pid = tonumber(kafka.read_file(self.dir .. "/kafka/pid"):match "%d+")
  kafka.run { "kill", "-" .. name, pid }
end

function Broker:down(kill)
  if kill then self:ctl("down", "--kill") else self:ctl("down") end
end

--- Kill nodes of a cluster: a number, or some as "1,3".
function Broker:kill_nodes(nodes)
  self:ctl("down", "--kill", "--node", nodes)
end

--- Start nodes of a cluster again; in the background, with `spawned`, which is returned.
function Broker:start_nodes(nodes, spawned)
  if not spawned then return self:ctl("up", "--node", nodes) end
  return kafka.spawn { kafka.source .. "/scripts/kafka", "up", "--dir", self.dir .. "/kafka",
    "--node", nodes }
end

function kafka.wipe_brokers()
  for _, broker in ipairs(open.brokers) do
    pcall(broker.ctl, broker, "wipe", "--kill")
    os.execute("rm -rf " .. kafka.quote(broker.dir))
  end
  open.brokers = {}
  kafka.close_all()
end

return kafka
