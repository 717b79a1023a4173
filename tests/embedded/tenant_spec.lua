-- Subscriptions to some tenants' events.
local moonbus = require "moonbus"
local support = require "tests.support.bus"
local wait = require "tests.support.wait"

local ACME, BOLT, CORP = support.uuid(1), support.uuid(2), support.uuid(3)
local registry = moonbus.new_registry()
local Noted = moonbus.event("Noted", { aggregate_type = "Note", n = "integer" },
  { registry = registry })

local broker, bus, strict

setup(function()
  broker = support.broker()
  local function new(options)
    options.event_registry, options.max_retries, options.retry_base_delay = registry, 2, 0.01
    return broker:bus(options)
  end
  bus, strict = new {}, new { on_unknown = "dlq" }
  support.consume(bus, strict)
end)

teardown(support.close)

after_each(function()
  bus:clear_subscribers()
  strict:clear_subscribers()
end)

local function noted(n, tenant)
  return Noted { aggregate_id = support.uuid(9), n = n, tenant_id = tenant }
end

local function publish(one, ...)
  local consumed = one:get_stats_dict().events_consumed
  assert(one:publish { ... })
  wait.settled(one, consumed + select("#", ...))
end

-- Put a value on the topic as it stands.
local function put(one, value)
  local consumed = one:get_stats_dict().events_consumed
  broker:produce { topic = one.config.topic_name, value = value }
  wait.settled(one, consumed + 1)
end

local function stats(one)
  local now = one:get_stats_dict()
  return { skipped = now.events_skipped, dead = now.messages_sent_to_dlq }
end

-- A handler and the list of the ns it was given.
local function collector()
  local seen = {}
  return function(event) seen[#seen + 1] = event.n end, seen
end

local function value(n, tenant, more)
  return ([[{"event_id":"%s","event_type":"Noted","aggregate_id":"%s","aggregate_type":"Note",]]
    .. [["tenant_id":%s,"n":%s%s}]]):format(moonbus.uuid(), support.uuid(9), tenant, n, more or "")
end

describe("a subscription to a tenant's events", function()
  it("is given those alone; what nobody takes is skipped", function()
    local acme, of_acme = collector()
    local some, of_some = collector()
    local nobody, of_nobody = collector()
    bus:subscribe(Noted, acme, { tenant_id = ACME:upper() })
    bus:subscribe("Noted", some, { tenant_id = { BOLT, ACME } })
    bus:subscribe(Noted, nobody, { tenant_id = false })
    local before = stats(bus)
    publish(bus, noted(1, ACME), noted(2, BOLT), noted(3, CORP), noted(4), noted(5, ACME))
    assert.same({ 1, 5 }, of_acme)
    assert.same({ 1, 2, 5 }, of_some)
    assert.same({ 4 }, of_nobody)
    assert.same({ skipped = before.skipped + 1, dead = before.dead }, stats(bus))
  end)

  it("may be to events without a tenant besides", function()
    local handler, seen = collector()
    bus:subscribe(Noted, handler, { tenant_id = { false, BOLT } })
    publish(bus, noted(1, ACME), noted(2, BOLT), noted(3))
    assert.same({ 2, 3 }, seen)
  end)

  it("may be to every type, and of an object to all of its types", function()
    local handler, seen = collector()
    local projection = moonbus.projection("notes", {
      seen = {},
      handles = { [Noted] = function(self, event) self.seen[#self.seen + 1] = event.n end },
    })
    bus:subscribe_to_all_events(handler, { tenant_id = ACME })
    bus:subscribe_all(projection, { tenant_id = BOLT })
    publish(bus, noted(1, ACME), noted(2, BOLT), noted(3, CORP))
    assert.same({ 1 }, seen)
    assert.same({ 2 }, projection.seen)
  end)

  it("leaves handlers without a filter as they are", function()
    local handler, seen = collector()
    local all, of_all = collector()
    bus:subscribe(Noted, handler, { tenant_id = ACME })
    bus:subscribe(Noted, all)
    publish(bus, noted(1, ACME), noted(2, BOLT), noted(3))
    assert.same({ 1 }, seen)
    assert.same({ 1, 2, 3 }, of_all)
  end)

  it("does not decode what is another's", function()
    local handler, seen = collector()
    bus:subscribe(Noted, handler, { tenant_id = ACME })
    local before = stats(bus)
    put(bus, value('"no integer"', ('"%s"'):format(BOLT)))
    assert.same({ skipped = before.skipped + 1, dead = before.dead }, stats(bus))
    put(bus, value('"no integer"', ('"%s"'):format(ACME)))
    assert.same({ skipped = before.skipped + 1, dead = before.dead + 1 }, stats(bus))
    assert.same({}, seen)
  end)

  it("makes a dead letter of what may be anybody's", function()
    local handler, seen = collector()
    bus:subscribe(Noted, handler, { tenant_id = ACME })
    local before = stats(bus)
    put(bus, value(1, '"acme"'))
    put(bus, value(1, "5"))
    put(bus, [[{"event_type":"Noted","n":]])
    assert.same({ skipped = before.skipped, dead = before.dead + 3 }, stats(bus))
    assert.same({}, seen)
    local letters = assert(bus:get_dlq_messages())
    local headers = letters[#letters].headers
    assert.equal("deserialization_error", headers.dlq_reason)
    assert.matches("no tenant_id can be read", headers.dlq_error_message, 1, true)
  end)

  it("is shown the tenant that chose it", function()
    local seen = {}
    bus:subscribe(Noted, function(event) seen[#seen + 1] = event.tenant_id or "none" end,
      { tenant_id = { ACME, false } })
    put(bus, value(1, ('"%s"'):format(ACME), (',"tenant_id":"%s"'):format(BOLT)))
    put(bus, value(1, "null", (',"tenant_id":"%s"'):format(BOLT)))
    put(bus, value(1, ('"\\u0030%s"'):format(ACME:sub(2))))
    assert.same({ ACME, "none", ACME }, seen)
  end)

  it("keeps to its tenant through retries", function()
    local runs = {}
    bus:subscribe(Noted, function(event, ctx)
      runs[#runs + 1] = ("%d/%d"):format(event.n, ctx.attempt)
      if event.n == 1 and ctx.attempt == 1 then error "once more" end
    end, { tenant_id = ACME })
    local before = stats(bus)
    publish(bus, noted(1, ACME), noted(2, BOLT), noted(3, ACME))
    assert.same({ "1/1", "1/2", "3/1" }, runs)
    assert.same({ skipped = before.skipped + 1, dead = before.dead }, stats(bus))
  end)

  it("skips what is another's where an unknown type is a dead letter", function()
    local handler, seen = collector()
    strict:subscribe(Noted, handler, { tenant_id = ACME })
    local before = stats(strict)
    publish(strict, noted(1, BOLT), noted(2, ACME))
    assert.same({ 2 }, seen)
    assert.same({ skipped = before.skipped + 1, dead = before.dead }, stats(strict))
    strict:clear_subscribers()
    publish(strict, noted(3, ACME))
    assert.equal(before.dead + 1, stats(strict).dead)
  end)

  it("names tenants that are none, at the caller's line", function()
    local function refused(tenant_id, said)
      local subscribes = {
        function(options) bus:subscribe(Noted, print, options) end,
        function(options) bus:subscribe_to_all_events(print, options) end,
        function(options)
          bus:subscribe_all(moonbus.projection("p", { handles = { [Noted] = print } }), options)
        end,
      }
      for _, subscribe in ipairs(subscribes) do
        local ok, why = pcall(subscribe, { tenant_id = tenant_id })
        assert.is_false(ok)
        assert.matches("tenant_spec.lua:%d+: tenant_id: ", why)
        assert.matches(said, why, 1, true)
      end
    end
    refused("acme", "a tenant is a UUID")
    refused({ ACME, "acme" }, "a tenant is a UUID")
    refused("", "a UUID, false (events without a tenant), or a list")
    refused(5, "or a list of these, got")
    refused({ ACME, 5 }, "or a list of these, got")
    refused({ acme = ACME }, "or a list of these, got")
    refused({}, "got an empty list, which takes none")
    assert.equal(0, bus:subscriber_count())
  end)
end)
