-- Handlers that are given each aggregate's events one after the other.
local moonbus = require "moonbus"
local support = require "tests.support.bus"
local tmp = require "tests.support.tmp"
local wait = require "tests.support.wait"

local A, B = support.uuid(1), support.uuid(2)
local registry = moonbus.new_registry()
local Changed = moonbus.event("Changed", { aggregate_type = "Account" }, { registry = registry })

local broker, bus

setup(function()
  broker = support.broker()
  bus = broker:bus { event_registry = registry, max_retries = 2, retry_base_delay = 0.02 }
  support.consume(bus)
end)

teardown(support.close)

after_each(function() bus:clear_subscribers() end)

local function changed(version, id)
  return Changed { aggregate_id = id or A, aggregate_version = version }
end

local function publish(...)
  local consumed = bus:get_stats_dict().events_consumed
  assert(bus:publish { ... })
  wait.settled(bus, consumed + select("#", ...))
end

-- A read model: the versions applied, in order, and a handler that expects them.
local function model(options)
  local self = { applied = {}, version = {}, letters = assert(bus:get_dlq_message_count()) }
  local all = { current = function(event) return self.version[event.aggregate_id] end }
  for key, value in pairs(options or {}) do all[key] = value end
  self.handler = moonbus.expect_version(function(event)
    self.version[event.aggregate_id] = event.aggregate_version
    self.applied[#self.applied + 1] = event.aggregate_version
  end, all)
  -- The headers of the dead letters since.
  function self.dead()
    local list = {}
    for i, letter in ipairs(assert(bus:get_dlq_messages { limit = 1000 })) do
      if i > self.letters then list[#list + 1] = letter.headers end
    end
    return list
  end
  return self
end

describe("a handler that expects versions", function()
  it("applies each aggregate's events in order, and passes over what comes again", function()
    local one = model()
    bus:subscribe(Changed, one.handler)
    publish(changed(1), changed(1, B), changed(2), changed(1), changed(2), changed(2, B),
      changed(3))
    assert.same({ 1, 1, 2, 2, 3 }, one.applied)
    assert.same({ [A] = 3, [B] = 2 }, one.version)
    assert.same({}, one.dead())
  end)

  it("retries a gap, and goes on once it is closed", function()
    local one, asked = model(), 0
    local handler = moonbus.expect_version(function(event)
      one.applied[#one.applied + 1] = event.aggregate_version
    end, {
      current = function()
        asked = asked + 1
        return asked == 1 and 1 or 2 -- somebody else applied the second meanwhile
      end,
    })
    bus:subscribe(Changed, handler)
    publish(changed(3))
    assert.same({ 3 }, one.applied)
    assert.same({}, one.dead())
  end)

  it("makes a dead letter of a gap that stays, with a reason", function()
    local one = model()
    bus:subscribe(Changed, one.handler)
    publish(changed(1), changed(4), changed(2))
    assert.same({ 1, 2 }, one.applied)
    local dead = one.dead()
    assert.equal(1, #dead)
    assert.equal("max_retries_exceeded", dead[1].dlq_reason)
    assert.equal("VersionGap", dead[1].dlq_error_type)
    assert.equal("Account " .. A .. ": version 4 came, 2 is next and has not come",
      dead[1].dlq_error_message)
    local named = false
    for _, value in pairs(dead[1]) do
      named = named or tostring(value):find "versions_spec.lua:%d+" ~= nil
    end
    assert(named, "the dead letter does not name the handler")
  end)

  it("does with gaps and repeats what on_gap and on_repeat say", function()
    local one = model { on_gap = "dead", on_repeat = "dead" }
    bus:subscribe(Changed, one.handler)
    publish(changed(1), changed(3), changed(1))
    assert.same({ 1 }, one.applied)
    local dead = one.dead()
    assert.same({ "handler_rejected", "VersionGap", "handler_rejected", "VersionRepeat" },
      { dead[1].dlq_reason, dead[1].dlq_error_type, dead[2].dlq_reason, dead[2].dlq_error_type })
    assert.equal("Account " .. A .. ": version 1 came, 1 is applied already",
      dead[2].dlq_error_message)
    bus:clear_subscribers()
    one = model { on_gap = "skip", on_repeat = "retry" }
    bus:subscribe(Changed, one.handler)
    publish(changed(1), changed(3), changed(1), changed(2))
    assert.same({ 1, 2 }, one.applied)
    dead = one.dead()
    assert.equal(1, #dead)
    assert.same({ "max_retries_exceeded", "VersionRepeat" },
      { dead[1].dlq_reason, dead[1].dlq_error_type })
  end)

  it("may begin with another version than 1", function()
    local one = model { first = 5, on_gap = "skip" }
    bus:subscribe(Changed, one.handler)
    publish(changed(1), changed(6), changed(5), changed(6))
    assert.same({ 5, 6 }, one.applied)
  end)

  it("fails as its handler and its current do", function()
    local one = model { current = function() error "the database is gone" end }
    bus:subscribe(Changed, one.handler)
    local two = model()
    bus:subscribe(Changed, moonbus.expect_version(function() return nil, "not today" end,
      { current = function() end }))
    publish(changed(1))
    assert.same({}, one.applied)
    local message = two.dead()[1].dlq_error_message
    assert.matches("the database is gone", message, 1, true)
    assert.matches("not today", message, 1, true)
  end)

  it("may be an object, of all its types", function()
    local projection = moonbus.projection("accounts", {
      versions = {},
      handles = { [Changed] = function(self, event, ctx)
        self.versions[#self.versions + 1] = event.aggregate_version
        self.offset = ctx.offset
      end },
    })
    bus:subscribe_all(moonbus.expect_version(projection, {
      current = function() return #projection.versions end,
    }))
    publish(changed(1), changed(1), changed(2))
    assert.same({ 1, 2 }, projection.versions)
    assert.is_number(projection.offset)
  end)
end)

describe("within moonbus.idempotent", function()
  teardown(tmp.clean)

  it("current and handler share the transaction; what is out of turn is not marked", function()
    local store = moonbus.stores.sqlite { path = tmp.dir() .. "/model.db", init = function(tx)
      tx:execute "CREATE TABLE accounts (id TEXT PRIMARY KEY, version INTEGER)"
    end }
    local before = assert(bus:get_dlq_message_count())
    bus:subscribe(Changed, moonbus.idempotent(moonbus.expect_version(function(event, tx)
      tx:execute("INSERT INTO accounts VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET version = "
        .. "excluded.version", event.aggregate_id, event.aggregate_version)
    end, {
      current = function(event, tx)
        local row = tx:one("SELECT version FROM accounts WHERE id = ?", event.aggregate_id)
        return row and row.version
      end,
      on_gap = "dead", on_repeat = "dead",
    }), { store = store, name = "accounts" }))
    local function version()
      return store:transaction(function(tx)
        local row = tx:one("SELECT version FROM accounts WHERE id = ?", A)
        return row and row.version
      end)
    end
    local one, two, three = changed(1), changed(2), changed(3)
    publish(one, three, one, two)
    wait.till(function() return version() == 2 end, "version 2")
    assert.equal(before + 1, assert(bus:get_dlq_message_count())) -- repeats are not even looked at
    publish(three)
    wait.till(function() return version() == 3 end, "version 3")
    assert.equal(before + 1, assert(bus:get_dlq_message_count()))
    store:close()
  end)
end)

describe("moonbus.expect_version", function()
  it("hands what comes with the event to current and to the handler", function()
    local got = {}
    local handler = moonbus.expect_version(function(event, tx, ctx)
      got = { event.aggregate_version, tx, ctx }
      return "result"
    end, { current = function(_, tx, ctx) return tx.version + ctx.more end })
    local tx, ctx = { version = 3 }, { more = 1 }
    assert.equal("result", handler:handle(changed(5), tx, ctx))
    assert.same({ 5, tx, ctx }, got)
    assert.is_nil(handler:handle(changed(4), tx, ctx))
  end)

  it("takes a version of any integer kind, and nothing else", function()
    local function ran(current, version)
      local did = false
      moonbus.expect_version(function() did = true end, {
        current = function() return current end, on_gap = "skip",
      }):handle(changed(version))
      return did
    end
    assert(ran(nil, 1) and ran(moonbus.null, 1) and ran(0, 1) and ran(4LL, 5) and ran(4ULL, 5))
    assert(ran(9007199254740993LL, 9007199254740994LL))
    assert.is_false(ran(9007199254740993LL, 9007199254740993LL))
    assert.error_matches(function() ran("4", 5) end,
      "current: expected the version that is applied, or nil, got")
    assert.error_matches(function() ran(4.5, 5) end, "or nil, got 4.5")
  end)

  it("refuses what is no handler and no option, at the caller's line", function()
    local function current() end
    for said, given in pairs {
      ["a handler is a function, or an object"] = { 5, { current = current } },
      ["takes a handler and options"] = { print },
      ["current: expected a function"] = { print, {} },
      ['no option "gap"'] = { print, { current = current, gap = "dead" } },
      ['on_gap is "retry", "dead" or "skip"'] = { print, { current = current, on_gap = "die" } },
      ['on_repeat is "retry"'] = { print, { current = current, on_repeat = true } },
      ["first: expected an integer of at least 1"] = { print, { current = current, first = 0 } },
    } do
      local ok, why = pcall(function() moonbus.expect_version(given[1], given[2]) end)
      assert.is_false(ok)
      assert.matches("versions_spec.lua:%d+: moonbus.expect_version", why)
      assert.matches(said, why, 1, true)
    end
  end)
end)
