-- group_protocol = "consumer": the broker shares out the partitions. With a librdkafka that cannot
-- do that it is refused; what it does is shown by kafka_newer_group_protocol.
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"
local process = require "tests.support.process"

local registry = moonbus.new_registry()
local Step = moonbus.event("Step", { aggregate_type = "Walk", n = "integer" },
  { registry = registry })

local KEYS = 40

-- A member as a process of its own: each event leaves a line, and with exactly_once a result.
local MEMBER = [[
  local moonbus = require "moonbus"
  local Step = moonbus.event("Step", { aggregate_type = "Walk", n = "integer" })
  local Done = moonbus.event("Done", { aggregate_type = "Walk", n = "integer" })
  local bus = moonbus.bus { topic_prefix = os.getenv "PREFIX", consumer_group = os.getenv "PREFIX",
    group_protocol = "consumer", delivery = os.getenv "DELIVERY", commit_interval_ms = 500 }
  local out = assert(io.open(os.getenv "LOG", "a"))
  out:setvbuf "no"
  bus:subscribe(Step, function(event)
    if os.getenv "DELIVERY" == "exactly_once" then
      assert(bus:publish(Done { aggregate_id = event.aggregate_id, n = event.n }))
    end
    out:write(("%s %d %.6f\n"):format(event.aggregate_id, event.n, moonbus.now()))
  end)
]]

local function options(prefix, more)
  local all = { event_registry = registry, topic_prefix = prefix, consumer_group = prefix,
    group_protocol = "consumer" }
  for key, value in pairs(more or {}) do all[key] = value end
  return all
end

kafka.describe("the consumer group protocol", function()
  after_each(process.clean)

  if kafka.librdkafka() < 21200 then
    it("is refused by an older librdkafka before anything connects", function()
      local script = kafka.write_file(kafka.temp_dir() .. "/script.lua",
        'require "moonbus".bus { group_protocol = "consumer" }')
      local result = process.run(process.moonbus("check", script))
      assert.equal(2, result.code)
      assert.matches('group_protocol = "consumer" needs librdkafka 2%.12%.0', result.stderr)
    end)
    return
  end

  local prefix, dir, source, published

  before_each(function()
    prefix, dir, published = kafka.name "protocol", kafka.temp_dir(), 0
    kafka.create(prefix .. ".stream", 8)
    kafka.create(prefix .. ".stream.dlq", 8)
    source = kafka.bus(options(prefix, { group_protocol = "classic" }))
  end)

  local function publish(count)
    local list = {}
    for i = 1, count do
      published = published + 1
      list[i] = Step { aggregate_id = ("00000000-0000-4000-8000-%012d"):format(published % KEYS),
        n = published }
    end
    assert(source:publish(list))
  end

  local function start(name, delivery, ...)
    local script = kafka.write_file(dir .. "/member.lua", MEMBER)
    return process.start(process.moonbus("run", script, "--bootstrap-servers", kafka.address, ...),
      { env = { PREFIX = prefix, LOG = dir .. "/" .. name, DELIVERY = delivery } })
  end

  -- What members noted: { { key =, n =, at =, by = }, ... } in order of time.
  local function noted(...)
    local all = {}
    for _, name in ipairs { ... } do
      local file = io.open(dir .. "/" .. name)
      for line in file and file:lines() or function() end do
        local key, n, at = line:match "^(%S+) (%d+) (%S+)$"
        if key then
          all[#all + 1] = { key = key, n = tonumber(n), at = tonumber(at), by = name }
        end
      end
      if file then file:close() end
    end
    table.sort(all, function(a, b) return a.at < b.at end)
    return all
  end

  local function wait_handled(...)
    local names = { ... }
    local function missing()
      local seen, count = {}, published
      for _, each in ipairs(noted(unpack(names))) do
        if not seen[each.n] then seen[each.n], count = true, count - 1 end
      end
      return count
    end
    kafka.wait(function() return missing() .. " events" end, function()
      return missing() == 0
    end, 180)
  end

  local function wait_share(name)
    kafka.wait("events for " .. name, function()
      publish(20)
      return #noted(name) > 0
    end)
  end

  it("loses nothing, keeps the order, and doubles only what a killed member had not committed",
    function()
      local stays = start("stays", "at_least_once")
      wait_share "stays"
      local goes = start("goes", "at_least_once")
      wait_share "goes"
      local dies = start("dies", "at_least_once")
      wait_share "dies"
      publish(200)
      assert.equal(0, goes:stop().code, goes.stderr)
      publish(200)
      dies:stop(process.SIGKILL)
      publish(200)
      goes = start("again", "at_least_once")
      wait_share "again"
      publish(200)
      wait_handled("stays", "goes", "dies", "again")
      assert.equal(0, stays:stop().code, stays.stderr)
      assert.equal(0, goes:stop().code, goes.stderr)
      local by, last = {}, {}
      for _, each in ipairs(noted("stays", "goes", "dies", "again")) do
        if by[each.n] then
          assert.equal("dies", by[each.n], ("event %d was handled again"):format(each.n))
        else
          by[each.n] = each.by
          assert.is_true(each.n > (last[each.key] or 0), "out of order: " .. each.n)
          last[each.key] = each.n
        end
      end
      assert.equal(published, #by)
      assert.not_matches("not committed", stays.stderr)
    end)

  it("with exactly_once makes each result once, though members come, go and are killed", function()
    local stays = start("stays", "exactly_once")
    wait_share "stays"
    local dies = start("dies", "exactly_once")
    wait_share "dies"
    publish(200)
    dies:stop(process.SIGKILL)
    local goes = start("goes", "exactly_once")
    wait_share "goes"
    publish(200)
    assert.equal(0, goes:stop().code, goes.stderr)
    publish(200)
    local seen, count
    kafka.wait(function() return ("%d results, got %d"):format(published, count) end, function()
      seen, count = {}, 0
      assert(source:read({ timeout_ms = 60000 }, function(record)
        if record.headers.event_type ~= "Done" then return end
        local n = moonbus.json.decode(record.value).n
        seen[n], count = (seen[n] or 0) + 1, count + 1
      end))
      return count >= published
    end, 180)
    assert.equal(0, stays:stop().code, stays.stderr)
    for n = 1, published do assert.equal(1, seen[n] or 0, "result " .. n) end
  end)

  it("goes without the options that the broker governs, and takes the broker's assignor", function()
    local bus = kafka.bus(options(prefix, { partition_assignment_strategy = "roundrobin",
      kafka = { ["group.remote.assignor"] = "range", ["group.protocol.type"] = "consumer" } }))
    bus:subscribe(Step, function() end)
    kafka.consume(bus, 8)
    assert.equal("range", kafka.group(prefix).assignor)
    for _, name in ipairs { "session_timeout_ms", "heartbeat_interval_ms", -- kafka.bus sets these
      "partition_assignment_strategy", "kafka property group.protocol.type" } do
      assert.is_truthy(kafka.logged(bus, "^warn .*" .. name .. " has no effect"), name)
    end
  end)

  it("lets a bus with a group_instance_id have it once the member before has left", function()
    local mine = { group_instance_id = "me", reconnect_backoff_ms = 100,
      reconnect_backoff_max_ms = 100 }
    local first, second = kafka.bus(options(prefix, mine)), kafka.bus(options(prefix, mine))
    for _, bus in ipairs { first, second } do bus:subscribe(Step, function() end) end
    kafka.consume(first, 8)
    assert(second:start_consuming_in_background())
    kafka.wait("the refusal", function()
      return kafka.logged(second, "a member that has not left holds the group_instance_id me")
    end)
    assert(first:stop_consuming())
    kafka.wait("the assignment", function()
      return kafka.stats(second, "assigned_count") == 8
    end)
  end)

  it("gives workers no static ids: one that is killed is replaced without waiting", function()
    local host = start("workers", "exactly_once", "--workers", "2")
    wait_share "workers"
    kafka.wait("both workers", function() return #kafka.group(prefix).members == 2 end)
    for _, member in ipairs(kafka.group(prefix).members) do
      assert.equal(moonbus.null, member.instance)
    end
    process.run { "kill", "-KILL", tostring(host:children()[1]) }
    host:wait_for "worker_crashed"
    publish(200)
    wait_handled "workers"
    assert.equal(0, host:stop().code, host.stderr)
    assert.not_matches("group_instance_id", host.stderr)
  end)

  it("is refused by a broker that does not have it, in words that say so", function()
    local broker = kafka.broker { set = { "group.coordinator.rebalance.protocols=classic" } }
    kafka.create(prefix .. ".stream", 1, nil, broker.address)
    local bus = kafka.bus(options(prefix, { bootstrap_servers = broker.address,
      enable_dlq = false }))
    bus:subscribe(Step, function() end)
    local ok, why, code = bus:start_consuming { for_seconds = 90 }
    assert.is_nil(ok)
    assert.equal("EUNSUPPORTED", code)
    assert.matches("group_protocol consumer: the broker does not have it", why)
  end)

  it("is refused an assignor that the broker does not have", function()
    local bus = kafka.bus(options(prefix, { kafka = { ["group.remote.assignor"] = "best" } }))
    bus:subscribe(Step, function() end)
    local ok, why, code = bus:start_consuming { for_seconds = 90 }
    assert.is_nil(ok)
    assert.equal("EUNSUPPORTED", code)
    assert.matches("group%.remote%.assignor: the broker does not have it", why)
  end)

  it("is refused by the embedded broker, that of workers too", function()
    local bus, why, code = pcall(moonbus.bus, options(prefix, { bootstrap_servers = "embedded" }))
    assert.is_false(bus, code)
    assert.matches("group_protocol consumer: the embedded broker", tostring(why))
    local script = kafka.write_file(dir .. "/member.lua", MEMBER)
    local run = process.run(process.moonbus("run", script, "--embedded", "--workers", "2"),
      { env = { PREFIX = prefix, LOG = dir .. "/log" } })
    assert.is_true(run.code ~= 0)
    assert.matches("group_protocol consumer: the broker does not have it", run.stderr)
  end)
end)
