--- What a handler may say of an event besides failing: dead, retry after, limits of its own.
local moonbus = require "moonbus"
local support = require "tests.support.bus"
local wait = require "tests.support.wait"

local registry = moonbus.new_registry()
local Task = moonbus.event("Task", { aggregate_type = "Job", n = "integer" },
  { registry = registry })

local bus

setup(function()
  bus = support.bus { event_registry = registry, max_retries = 3, partitions = 1 }
  support.consume(bus)
end)

teardown(function() support.close() end)

after_each(function() bus:clear_subscribers() end)

-- Publish one event and wait until it is settled; the dead letters it made.
local function settle(n)
  local before = assert(bus:get_dlq_message_count())
  local consumed = bus:get_stats_dict().events_consumed
  assert(bus:publish(Task { aggregate_id = moonbus.uuid(), n = n or 1 }))
  wait.settled(bus, consumed + 1)
  local letters = {}
  for _, letter in ipairs(assert(bus:get_dlq_messages { limit = 1000 })) do
    if letter.offset >= before then letters[#letters + 1] = letter end
  end
  return letters
end

describe("moonbus.dead", function()
  it("makes a dead letter at once, with its reason", function()
    local runs = 0
    bus:subscribe(Task, function()
      runs = runs + 1
      moonbus.dead "the account is closed"
    end)
    local letters = settle()
    assert.equal(1, runs)
    assert.equal(1, #letters)
    assert.equal("handler_rejected", letters[1].headers.dlq_reason)
    assert.equal("the account is closed", letters[1].headers.dlq_error_message)
  end)

  it("lets another handler have its retries first", function()
    local runs = 0
    bus:subscribe(Task, function() moonbus.dead "no" end)
    bus:subscribe(Task, function()
      runs = runs + 1
      if runs < 3 then error "not yet" end
    end)
    local letters = settle()
    assert.equal(3, runs)
    assert.equal(1, #letters)
    assert.equal("handler_rejected", letters[1].headers.dlq_reason)
    assert.matches("^no", letters[1].headers.dlq_error_message)
  end)
end)

describe("moonbus.retry", function()
  it("says when the event runs again", function()
    local at = {}
    bus:subscribe(Task, function()
      at[#at + 1] = moonbus.now()
      if #at == 1 then moonbus.retry { after = 0.7, reason = "the door is locked" } end
    end)
    assert.same({}, settle())
    assert.equal(2, #at)
    assert(at[2] - at[1] >= 0.7 and at[2] - at[1] < 30, at[2] - at[1])
  end)

  it("counts against max_retries", function()
    local runs = 0
    bus:subscribe(Task, function()
      runs = runs + 1
      moonbus.retry { after = 0 }
    end)
    assert.equal("max_retries_exceeded", settle()[1].headers.dlq_reason)
    assert.equal(4, runs)
  end)

  it("wants a number of seconds", function()
    assert.error_matches(function() moonbus.retry { after = "soon" } end,
      "after: expected a number")
    assert.error_matches(function() moonbus.retry { aftre = 5 } end, 'has no option "aftre"')
    assert.error_matches(function() moonbus.retry { after = 0 / 0 } end, "after: expected a number")
    assert.error_matches(function() moonbus.retry(5) end, "moonbus.retry takes { after = seconds")
  end)
end)

describe("a subscription", function()
  it("has its own max_retries, and the others go on to theirs", function()
    local runs = { none = 0, few = 0, usual = 0 }
    local function failing(name)
      return function()
        runs[name] = runs[name] + 1
        error(name)
      end
    end
    bus:subscribe(Task, failing "none", { max_retries = 0 })
    bus:subscribe(Task, failing "few", { max_retries = 1 })
    bus:subscribe(Task, failing "usual")
    local letters = settle()
    assert.same({ none = 1, few = 2, usual = 4 }, runs)
    assert.equal(1, #letters)
    assert.equal("max_retries_exceeded", letters[1].headers.dlq_reason)
  end)

  it("is dead for a handler that had its last run, also when the others do well later", function()
    local runs = 0
    bus:subscribe(Task, function() error "never" end, { max_retries = 0, name = "hopeless" })
    bus:subscribe(Task, function()
      runs = runs + 1
      if runs == 1 then error "once" end
    end)
    local letters = settle()
    assert.equal(2, runs)
    assert.equal("max_retries_exceeded", letters[1].headers.dlq_reason)
    assert.matches("never", letters[1].headers.dlq_error_message)
  end)

  it("asks retry_if which failures are worth a retry", function()
    local runs, asked = 0, {}
    bus:subscribe(Task, function(event)
      runs = runs + 1
      error { type = event.n == 1 and "Fatal" or "Busy", message = "x" }
    end, { retry_if = function(err, context)
      asked[#asked + 1] = { err.type, context.attempt }
      return err.type == "Busy"
    end })
    assert.equal("handler_rejected", settle(1)[1].headers.dlq_reason)
    assert.equal(1, runs)
    assert.equal("max_retries_exceeded", settle(2)[1].headers.dlq_reason)
    assert.equal(5, runs)
    assert.same({ "Fatal", 1 }, asked[1])
    assert.same({ "Busy", 4 }, asked[5])
  end)

  it("retries when retry_if is broken", function()
    local runs = 0
    bus:subscribe(Task, function()
      runs = runs + 1
      error "x"
    end, { retry_if = function() error "broken" end })
    assert.equal("max_retries_exceeded", settle()[1].headers.dlq_reason)
    assert.equal(4, runs)
  end)

  it("names its handler, and dead letters have attempts and traceback", function()
    bus:subscribe(Task, function() error "here" end, { name = "charge", max_retries = 1 })
    local headers = settle()[1].headers
    assert.equal("charge", headers.dlq_handler)
    assert.equal("2", headers.dlq_attempts)
    assert.matches("outcomes_spec.lua:%d+", headers.dlq_traceback)
  end)

  it("refuses options it does not know", function()
    local function refused(options, why)
      assert.error_matches(function() bus:subscribe(Task, print, options) end, why)
    end
    refused({ retries = 1 }, 'no option "retries"')
    refused({ max_retries = -1 }, "max_retries")
    refused({ retry_if = 1 }, "retry_if")
  end)
end)

describe("on_unknown", function()
  it("dlq makes dead letters of events that nothing subscribes to", function()
    local one = support.bus { event_registry = registry, on_unknown = "dlq", partitions = 1 }
    one:subscribe("SomethingElse", function() end)
    support.consume(one)
    assert(one:publish(Task { aggregate_id = moonbus.uuid(), n = 1 }))
    wait.settled(one, 1)
    local letters = assert(one:get_dlq_messages())
    assert.equal(1, #letters)
    assert.equal("deserialization_error", letters[1].headers.dlq_reason)
    assert.equal("UnknownEventType", letters[1].headers.dlq_error_type)
    assert.equal(0, one:get_stats_dict().events_skipped)
  end)
end)

describe("on_undecodable", function()
  it("stop ends consumption in front of the record, which stays where it is", function()
    local one = support.bus { event_registry = registry, on_undecodable = "stop", partitions = 1 }
    local seen = {}
    one:subscribe(Task, function(event) seen[#seen + 1] = event.n end)
    local wrong = { event_type = "Task", aggregate_type = "Job", aggregate_id = moonbus.uuid(),
      n = "no number" }
    assert(one:publish(Task { aggregate_id = moonbus.uuid(), n = 1 }))
    assert(one:publish(wrong))
    assert(one:publish(Task { aggregate_id = moonbus.uuid(), n = 3 }))
    for _ = 1, 2 do
      local ok, err, code = one:start_consuming { for_seconds = 60 }
      assert.is_nil(ok)
      assert.equal("EDECODE", code)
      assert.matches("offset 1: Task.n: expected integer", err)
      assert.is_false(one:is_consuming())
    end
    assert.same({ 1 }, seen)
    assert.equal(0, one:get_dlq_message_count())
  end)
end)
