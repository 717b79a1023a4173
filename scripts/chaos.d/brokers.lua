--- brokers.lua: the Kafka of a chaos run, and its faults: one broker that is restarted, or three
-- behind proxies, some of which die. Must not publish or read. Called by chaos.lua.
local moonbus = require "moonbus"
local process = require "tests.support.process"

local GROUP = "chaos" -- the consumer group in worker.lua
local SYNC_SECONDS = 240 -- so long after a restart every copy is up to date, on a busy machine too
local UP_SECONDS = 240

local function chance(share) return math.random() < share end
local function one_of(list) return list[math.random(#list)] end

local function checked(run)
  if run.code ~= 0 then
    error(("%s: code %s, signal %s\n%s"):format(run.name, tostring(run.code),
      tostring(run.killed_by), run.stderr))
  end
  return run.stdout
end

-- ---- one broker ----

local Single = {}
Single.__index = Single

local function start_single(options)
  local address = checked(process.run({ options.control, "up", "--port", "free", "--dir",
    options.dir }, { timeout = UP_SECONDS })):match "%S+"
  return setmetatable({ options = options, direct = address,
    settings = { bootstrap_servers = address } }, Single)
end

function Single:begin(minutes)
  self.due = moonbus.now() + math.min(20, minutes * 20)
end

function Single:turn()
  if moonbus.now() <= self.due then return end
  local kill = chance(0.5)
  local command = { self.options.control, "restart", "--dir", self.options.dir }
  if kill then command[#command + 1] = "--kill" end
  checked(process.run(command, { timeout = UP_SECONDS }))
  self.options.note(kill and "broker kill -9" or "broker restart")
  self.due = moonbus.now() + 40 + math.random() * 40
end

function Single.calm() return true end

-- ---- a cluster of three, behind proxies ----

local Cluster = {}
Cluster.__index = Cluster

-- Send the proxies a command; returns their answer.
local function ask(proxy, line)
  proxy:write(line .. "\n")
  local from = #proxy.stdout
  return proxy:wait_for(function() return proxy.stdout:sub(from + 1):match "^(.*)\n" end)
end

local function plus(ports, number)
  local list = {}
  for port in ports:gmatch "%d+" do list[#list + 1] = tostring(tonumber(port) + number) end
  return list
end

local function start_cluster(options)
  local proxy = process.start({ options.python, options.source .. "/scripts/chaos.d/proxy.py",
    tostring(options.seed), "3", options.faults }, { keep_open = true })
  local ports = plus(proxy:wait_for(function(self) return self.stdout:match "^(.*)\n" end), 0)
  local direct = checked(process.run({ options.control, "up", "--brokers", "3", "--port", "free",
    "--tls-sasl", "--advertise", "SSL=" .. table.concat(ports, ","), "--dir", options.dir },
    { timeout = UP_SECONDS })):match "%S+"
  ask(proxy, "to " .. table.concat(plus(direct, 2), " ")) -- the TLS listener is at port + 2
  return setmetatable({ options = options, proxy = proxy, direct = direct,
    settings = { bootstrap_servers = "localhost:" .. table.concat(ports, ",localhost:"),
      security_protocol = "SSL", ssl_cafile = options.dir .. "/tls/ca.crt" },
  }, Cluster)
end

function Cluster:begin(minutes, topic)
  local now = moonbus.now()
  self.topic = topic -- whose leaders die
  self.due, self.pair_due = math.huge, now + math.min(15, minutes * 15) -- two at once first
  ask(self.proxy, "faults")
end

-- What the brokers say there is: nil while they do not.
function Cluster:metadata()
  local run = process.run({ "kcat", "-L", "-J", "-m", "5", "-b", self.direct }, { timeout = 60 })
  return run.code == 0 and moonbus.json.decode(run.stdout) or nil
end

-- True if each node is up and has all that the others have.
function Cluster:in_sync()
  local found = self:metadata()
  if not found or #found.brokers ~= 3 then return false end
  for _, topic in ipairs(found.topics) do
    for _, part in ipairs(topic.partitions) do
      if part.leader < 1 or #part.isrs ~= #part.replicas then return false end
    end
  end
  return true
end

-- The leader of the partition of a topic to which such a hash leads.
local function leader_of(found, name, hash)
  for _, topic in ipairs(found.topics) do
    if topic.topic == name then
      for _, part in ipairs(topic.partitions) do
        if part.partition == hash % #topic.partitions then return part.leader end
      end
    end
  end
end

-- As Java hashes text, by which Kafka finds the partition of a group.
local function java_hash(text)
  local hash = 0
  for i = 1, #text do hash = bit.tobit(hash * 31LL + text:byte(i)) end
  return bit.band(hash, 0x7fffffff)
end

-- Which node leads the quorum of controllers, as the node with the latest news has it.
function Cluster:controller()
  local leader, latest = nil, -1
  for node = 1, 3 do
    local file = io.open(("%s/%d/data/__cluster_metadata-0/quorum-state"):format(self.options.dir,
      node))
    local state = file and moonbus.json.decode(file:read "*a")
    if file then file:close() end
    if state and state.leaderEpoch > latest then
      leader, latest = state.leaderId, state.leaderEpoch
    end
  end
  return leader
end

-- Which node dies, and as what.
function Cluster:victim()
  local found = assert(self:metadata(), "the brokers do not answer")
  local roles = {}
  local function add(what, node)
    if node and node > 0 then roles[#roles + 1] = { what = what, node = node } end
  end
  add("leader", leader_of(found, self.topic, math.random(1000)))
  add("group coordinator", leader_of(found, "__consumer_offsets", java_hash(GROUP)))
  add("transaction coordinator", leader_of(found, "__transaction_state", math.random(1000)))
  add("controller", self:controller())
  local role = one_of(roles)
  return role.node, role.what
end

-- Kills nodes, and starts them again some seconds later, in a process of its own: the caller may
-- wait for them meanwhile.
local BREAK = '"$1" down --kill --dir "$2" --node "$3"; sleep "$4"; "$1" up --dir "$2" --node "$3"'

function Cluster:break_nodes(nodes, what)
  self.breaking = process.start { "bash", "-euc", BREAK, "bash", self.options.control,
    self.options.dir, tostring(nodes), tostring(one_of { 0, 1, 4, 8 }) }
  self.options.note(what .. " kill -9", nil, "node " .. nodes)
end

function Cluster:turn()
  local now = moonbus.now()
  self.proxy:observe(0.001)
  if self.proxy.ended then error("the proxies ended\n" .. self.proxy.stderr) end
  if self.breaking then
    self.breaking:observe(0.001)
    if not self.breaking.ended then return end
    checked(self.breaking)
    self.breaking, self.syncing, self.next_look = nil, now + SYNC_SECONDS, now
  elseif self.syncing then
    if now < self.next_look then return end
    self.next_look = now + 2
    if self:in_sync() then
      self.syncing, self.due = nil, moonbus.now() + 3 + math.random() * 12
    elseif now > self.syncing then
      error(("the copies on the brokers differ %d s after a restart: %s"):format(SYNC_SECONDS,
        moonbus.json.encode(self:metadata())))
    end
  elseif now > self.pair_due then
    self.pair_due = now + 240 + math.random() * 120
    local spared = math.random(3)
    self:break_nodes(("%d,%d"):format(spared % 3 + 1, (spared + 1) % 3 + 1), "two brokers at once")
  elseif now > self.due then
    self:break_nodes(self:victim())
  end
end

--- No more faults; true once what was broken is whole again.
function Cluster:calm()
  if not self.is_calm then
    self.is_calm, self.due, self.pair_due = true, math.huge, math.huge
    for what, times in pairs(moonbus.json.decode(ask(self.proxy, "calm"))) do
      self.options.note("connection " .. what, times)
    end
  end
  self:turn()
  return not self.breaking and not self.syncing
end

--- Start it. options: brokers (1 or 3), dir, control (scripts/kafka), source, python, seed, faults
-- (a file for lines of faults), note(what, times, which), called with each fault, or how many.
-- Returns an object with settings (of a bus that is a client of it), direct (addresses that lead
-- past the proxies), begin(minutes, topic), turn() and calm().
return function(options)
  return (options.brokers == 3 and start_cluster or start_single)(options)
end
