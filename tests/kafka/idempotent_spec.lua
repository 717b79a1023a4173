local database = require "tests.support.database"
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"
local postgres = require "tests.support.postgres"
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"

local EVENTS = 200

local registry = moonbus.new_registry()
local Paid = moonbus.event("Paid", { aggregate_type = "Account", n = "integer" },
  { registry = registry })

-- What one run of tests/support/killed.lua works on; and who asks its database what is in it.
local function scene(on, server, handler, delivery)
  local dir, prefix = kafka.temp_dir(), kafka.name "killed"
  local bus = kafka.bus { topic_prefix = prefix, event_registry = registry }
  local topic = bus.config.topic_name
  local self = {
    dir = dir, bus = bus, topic = topic, group = prefix, handler = handler,
    env = {
      "env", "SPEC_DIR=" .. dir, "SPEC_PREFIX=" .. prefix, "SPEC_KAFKA=" .. kafka.address,
      "SPEC_DELIVERY=" .. (delivery or "at_least_once"), "SPEC_HANDLER=" .. handler,
    },
  }
  local words, ask = database.of(on, server, dir)
  self.env[#self.env + 1] = words[1]
  function self.ask(_, what) return ask(what) end
  -- each twice, as a producer does that was not sure
  local events = {}
  for n = 1, EVENTS do
    events[n] = Paid { aggregate_id = moonbus.uuid(), event_id = moonbus.uuid(), n = n }
  end
  assert(bus:publish(events))
  assert(bus:publish(events))
  return self
end

local function lines(self, name)
  local list = {}
  local file = io.open(self.dir .. "/" .. name)
  if not file then return list end
  for line in file:lines() do list[#list + 1] = line end
  file:close()
  return list
end

local function spawn(self, ...)
  local words = { unpack(self.env) }
  for _, word in ipairs { kafka.build .. "/moonbus", "run",
                          kafka.source .. "/tests/support/killed.lua", ... } do
    words[#words + 1] = word
  end
  return kafka.spawn(words)
end

local LIVES = 18 -- that end with a kill: see killed.lua

-- The offsets are asked for last: the other client crashes on a broker whose group is loading yet.
local function done(self)
  return #lines(self, "lives") > LIVES
    and kafka.sum(kafka.offsets(self.group, self.topic)) >= kafka.sum(kafka.ends(self.topic))
end

local function check(self)
  assert.equal(("%d|%d|%d"):format(EVENTS, EVENTS, EVENTS * (EVENTS + 1) / 2),
    self:ask "SELECT count(*), count(DISTINCT n), sum(n) FROM %seffects")
  assert.equal(tostring(EVENTS), self:ask "SELECT count(*) FROM %smoonbus_marks")
  local kills = {}
  for _, step in ipairs(lines(self, "kills")) do kills[step] = (kills[step] or 0) + 1 end
  assert.same({ ["before handler"] = 6, ["after handler"] = 3, ["before commit"] = 3,
                ["after commit"] = 3, ["after offsets"] = 3 }, kills)
  assert.equal(0, self.bus:get_dlq_message_count())
  if self.handler ~= "projection" then return end
  local records = kafka.sum(kafka.ends(self.topic))
  assert.equal(("%d|%d"):format(records, records),
    self:ask "SELECT sum(position), sum(applied) FROM %smoonbus_positions")
end

kafka.describe("a worker that is killed at every step", function()
  local server

  setup(function() server = postgres.start() end)
  teardown(function()
    if server then server:down() end
    process.clean()
    tmp.clean()
  end)

  local function progress(self, run)
    return function()
      return ("the end: %d lives, %s|%s effects, stderr: %s"):format(#lines(self, "lives"),
        self:ask "SELECT count(*) FROM %seffects",
        self:ask "SELECT count(DISTINCT n) FROM %seffects", run:errors():sub(-2000))
    end
  end

  local WHAT = { idempotent = "an idempotent handler", projection = "a projection" }

  for _, case in ipairs {
    { "idempotent", "SQLite" }, { "idempotent", "PostgreSQL" },
    { "projection", "SQLite" }, { "projection", "PostgreSQL" },
  } do
    local handler, on = unpack(case)
    local name = ("leaves each effect of %s once on %s"):format(WHAT[handler], on)

    it(name .. ", replaced by its supervisor", function()
      local self = scene(on, server, handler)
      local run = spawn(self, "--workers", "1")
      kafka.wait(progress(self, run), function() return done(self) end, 240)
      run:kill(15)
      run:wait_end()
      check(self)
    end)

    it(name .. ", started again by hand", function()
      local self = scene(on, server, handler)
      local run
      for _ = 1, LIVES do
        run = spawn(self)
        run:wait_end()
      end
      run = spawn(self)
      kafka.wait(progress(self, run), function() return done(self) end, 240)
      run:kill(15)
      run:wait_end()
      check(self)
    end)
  end

  it("leaves each effect of an idempotent handler once with Kafka transactions", function()
    local self = scene("SQLite", server, "idempotent", "exactly_once")
    local run = spawn(self, "--workers", "1")
    kafka.wait(progress(self, run), function() return done(self) end, 240)
    run:kill(15)
    run:wait_end()
    check(self)
  end)
end)
