-- A projection is rebuilt by one process while others publish and apply its events.
local database = require "tests.support.database"
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"
local postgres = require "tests.support.postgres"
local process = require "tests.support.process"
local support = require "tests.support.bus"
local tmp = require "tests.support.tmp"

local OLD, ACCOUNTS = 3000, 60

local registry = moonbus.new_registry()
local Paid = moonbus.event("Paid", { aggregate_type = "Account", n = "integer" },
  { registry = registry })

local Scene = {}
Scene.__index = Scene

local function scene(on, server)
  local dir, prefix = kafka.temp_dir(), kafka.name "rebuilt"
  local self = setmetatable({
    dir = dir, prefix = prefix, published = 0,
    bus = kafka.bus { topic_prefix = prefix, event_registry = registry },
    env = { "env", "SPEC_DIR=" .. dir, "SPEC_PREFIX=" .. prefix, "SPEC_KAFKA=" .. kafka.address },
  }, Scene)
  local words, ask = database.of(on, server, dir)
  self.env[#self.env + 1] = words[1]
  function self.ask(_, what) return ask(what) end
  return self
end

-- So many more, each of them twice.
function Scene:publish(count)
  local list = {}
  for i = 1, count do
    local n = self.published + i
    list[i] = Paid { aggregate_id = support.uuid(n % ACCOUNTS), n = n }
  end
  self.published = self.published + count
  assert(self.bus:publish(list))
  assert(self.bus:publish(list))
end

function Scene:spawn(more, ...)
  local words = { unpack(self.env) }
  for _, word in ipairs(more) do words[#words + 1] = word end
  for _, word in ipairs { kafka.build .. "/moonbus", ... } do words[#words + 1] = word end
  return kafka.spawn(words)
end

local APP = kafka.source .. "/tests/support/projected.lua"

function Scene:applied()
  local count, file = 0, io.open(self.dir .. "/applied")
  if not file then return 0 end
  for _ in file:lines() do count = count + 1 end
  file:close()
  return count
end

-- The read model, as its readers see it.
function Scene:model()
  return self:ask "SELECT coalesce(sum(events), 0), coalesce(sum(sum), 0) FROM %saccounts"
end

function Scene:whole()
  return ("%d|%d"):format(self.published, self.published * (self.published + 1) / 2)
end

function Scene:until_whole(run)
  kafka.wait(function()
    return ("%s to be %s; %s"):format(self:model(), self:whole(), run:errors():sub(-2000))
  end, function() return self:model() == self:whole() end)
end

kafka.describe("a projection rebuilt while its workers go on", function()
  local server

  setup(function() server = postgres.start() end)
  teardown(function()
    if server then server:down() end
    process.clean()
    tmp.clean()
  end)

  for _, on in ipairs { "SQLite", "PostgreSQL" } do
    it("is whole in the end on " .. on .. ", though a rebuild was killed before", function()
      local self = scene(on, server)
      self:publish(OLD)
      local workers = self:spawn({}, "run", APP, "--workers", "2")
      kafka.wait(function() return workers:errors() end, function()
        return pcall(self.model, self)
      end)
      self:until_whole(workers)

      local killed = self:spawn({ "SPEC_SLOW=1" }, "rebuild", APP)
      kafka.wait(function() return "events: " .. killed:errors() end, function()
        self:publish(5)
        return self:applied() > OLD / 4
      end)
      killed:kill(9)
      killed:wait_end()
      self:until_whole(workers) -- the old one serves, and goes on
      self:ask "UPDATE %saccounts SET sum = sum + 1000000"

      local before = self:applied()
      local run = self:spawn({ "SPEC_SLOW=0.2" }, "rebuild", APP)
      local begun, deadline = self.published, moonbus.now() + 200
      while run:alive() do
        assert.is_true(moonbus.now() < deadline, run:errors())
        self:publish(5)
        moonbus.sleep(0.01)
      end
      assert.equal("", run:errors())
      assert.matches("^rebuilt accounts: %d+ events", run:output())
      assert.is_true(self.published > begun + 20)
      assert.is_true(self:applied() - before >= begun)
      self:publish(500)
      self:until_whole(workers)
      local topic = self.bus.config.topic_name
      kafka.wait("the commits", function()
        return kafka.sum(kafka.offsets(self.prefix, topic)) == kafka.sum(kafka.ends(topic))
      end)
      assert.equal(self:whole(), self:model())
      assert.equal(tostring(self.published), self:ask "SELECT count(*) FROM %smoonbus_marks")
      assert.equal(tostring(kafka.sum(kafka.ends(topic))),
        self:ask "SELECT sum(position) FROM %smoonbus_positions")
      assert.equal(0, self.bus:get_dlq_message_count())
      local report = self:spawn({}, "projections", APP, "--json")
      report:wait_end()
      assert.equal(0, assert(moonbus.json.decode(report:output())).lag)
      workers:kill(15)
      workers:wait_end()
    end)
  end

  it("in place that was killed holds live events back until it is run again", function()
    local self = scene("PostgreSQL", server)
    self:ask [[CREATE TABLE %saccounts (id TEXT PRIMARY KEY, sum BIGINT NOT NULL,
      events INTEGER NOT NULL)]]
    self.env[#self.env + 1] = "SPEC_IN_PLACE=1"
    self:publish(OLD)
    local workers = self:spawn({}, "run", APP, "--workers", "2")
    self:until_whole(workers)
    local killed = self:spawn({ "SPEC_SLOW=1" }, "rebuild", APP)
    kafka.wait(function() return "events: " .. killed:errors() end, function()
      return self:applied() > OLD / 4
    end)
    killed:kill(9)
    killed:wait_end()
    self:publish(100)
    local run = self:spawn({ "SPEC_SLOW=0.2" }, "rebuild", APP)
    while run:alive() do
      self:publish(5)
      moonbus.sleep(0.01)
    end
    assert.equal("", run:errors())
    self:publish(100)
    self:until_whole(workers)
    workers:kill(15)
    workers:wait_end()
  end)

  it("ends at SIGINT, and leaves the read model as it was", function()
    local self = scene("SQLite", server)
    self:publish(OLD)
    local workers = self:spawn({}, "run", APP, "--until-idle", "1")
    workers:wait_end()
    assert.equal(self:whole(), self:model())
    local run = self:spawn({ "SPEC_SLOW=5" }, "rebuild", APP)
    kafka.wait(function() return "events: " .. run:errors() end, function()
      return self:applied() > 100
    end)
    run:kill(2)
    run:wait_end()
    assert.matches("^did not rebuild accounts: %d+ events in .* s, interrupted; the read model is "
      .. "as it was\n$", run:output())
    assert.is_true(self:applied() < OLD)
    assert.equal(self:whole(), self:model())
    assert.equal("spec.db\n", (kafka.run { "sh", "-c", ("ls %s | grep spec.db$; ls %s | grep "
      .. "rebuild || true"):format(self.dir, self.dir) }))
  end)
end)
