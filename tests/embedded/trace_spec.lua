-- W3C trace context: from an event to what its handlers publish, in the headers of records.
local moonbus = require "moonbus"
local support = require "tests.support.bus"
local wait = require "tests.support.wait"

local registry = moonbus.new_registry()
local Asked = moonbus.event("Asked", { aggregate_type = "Question" }, { registry = registry })
local Answered = moonbus.event("Answered", { aggregate_type = "Question" }, { registry = registry })

local PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
local OTHER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
local TRACE = { traceparent = PARENT, tracestate = "a=1,b=2", baggage = "user=alice" }

local function asked() return Asked { aggregate_id = moonbus.uuid() } end
local function answered() return Answered { aggregate_id = moonbus.uuid() } end

-- The names and values behind correlation_id, in wire order, of each record of a topic.
local function traces(broker, topic)
  local list = {}
  for i, record in ipairs(broker:consume(topic)) do
    local found, behind = {}, false
    for _, header in ipairs(record.headers) do
      if behind then found[#found + 1] = table.concat(header, "=") end
      behind = behind or header[1] == "correlation_id"
    end
    list[i] = found
  end
  return list
end

describe("trace context", function()
  local broker, bus, off, to

  setup(function()
    broker = support.broker()
    bus = broker:bus { event_registry = registry, max_retries = 1, partitions = 1 }
    off = broker:bus { event_registry = registry, max_retries = 0, partitions = 1,
      enable_tracing = false }
    support.consume(bus, off)
  end)

  teardown(support.close)

  before_each(function() to = broker:bus { event_registry = registry, partitions = 1 } end)
  after_each(function()
    bus:clear_subscribers()
    off:clear_subscribers()
    to:disconnect()
  end)

  -- A record of somebody else's, with these headers.
  local function produce(on, headers)
    broker:produce { topic = on.config.topic_name, key = "k", headers = headers,
      value = ('{"event_type":"Asked","aggregate_type":"Question","aggregate_id":"%s"}')
        :format(moonbus.uuid()) }
  end

  -- Publish one event on from with this context and wait until a handler has had it.
  local function through(from, options, handler)
    local done = false
    from:subscribe(Asked, function(event, ctx)
      handler(event, ctx)
      done = true
    end)
    assert(from:publish(asked(), options))
    wait.till(function() return done end, "the handler")
  end

  it("is written behind the other headers, in order, as it is given", function()
    assert(to:publish({ asked(), asked() }, TRACE))
    assert(to:publish(asked(), { traceparent = PARENT }))
    assert(to:publish(asked(), { baggage = "k=v" }))
    assert(to:publish(Asked { aggregate_id = moonbus.uuid(), actor_id = "me" }, TRACE))
    assert(to:publish(asked()))
    local all = { "traceparent=" .. PARENT, "tracestate=a=1,b=2", "baggage=user=alice" }
    assert.same({ all, all, { "traceparent=" .. PARENT }, { "baggage=k=v" },
      { "actor_id=me", unpack(all) }, {} }, traces(broker, to.config.topic_name))
  end)

  it("is what its handler reads", function()
    local seen
    through(bus, TRACE, function(_, ctx)
      seen = { traceparent = ctx.traceparent, tracestate = ctx.tracestate, baggage = ctx.baggage }
    end)
    assert.same(TRACE, seen)
  end)

  it("goes to what the handler publishes, on its own bus and on others", function()
    local got
    bus:subscribe(Answered, function(_, ctx) got = ctx.traceparent end)
    through(bus, TRACE, function()
      bus:publish(answered())
      to:publish(answered())
      to:publish(answered(), { background = true })
      to:publish(answered(), { baggage = "k=v" })
      to:publish(answered(), { traceparent = OTHER })
      to:publish(answered(), { traceparent = false, baggage = false })
    end)
    wait.till(function() return got end, "the answer")
    assert.equal(PARENT, got)
    assert(to:flush())
    local both = { "traceparent=" .. PARENT, "tracestate=a=1,b=2" }
    local all = { both[1], both[2], "baggage=user=alice" }
    assert.same({ all, all, { both[1], both[2], "baggage=k=v" },
      { "traceparent=" .. OTHER, "baggage=user=alice" }, {} },
      traces(broker, to.config.topic_name))
  end)

  it("ends with the handler, be it that it failed", function()
    local runs = 0
    through(bus, TRACE, function()
      runs = runs + 1
      if runs == 1 then error "not yet" end
      to:publish(answered())
    end)
    assert(to:publish(answered()))
    assert.same({ 3, 0 }, { #traces(broker, to.config.topic_name)[1],
      #traces(broker, to.config.topic_name)[2] })
  end)

  it("is that of the event in hand, while another bus's handler waits", function()
    local inner = broker:bus { event_registry = registry, partitions = 1 }
    support.consume(inner)
    local answer
    inner:subscribe(Asked, function(_, ctx)
      to:publish(answered(), { baggage = "inner=1" })
      answer = ctx.traceparent
    end)
    through(bus, TRACE, function(_, ctx)
      inner:publish(asked(), { traceparent = OTHER, baggage = false })
      repeat moonbus.sleep(0.01) until answer
      assert.equal(PARENT, ctx.traceparent)
      to:publish(answered())
    end)
    assert.equal(OTHER, answer)
    local written = traces(broker, to.config.topic_name)
    assert.same({ "traceparent=" .. OTHER, "baggage=inner=1" }, written[1])
    assert.equal("traceparent=" .. PARENT, written[2][1])
  end)

  it("is neither read nor written with enable_tracing = false", function()
    local seen, raw
    assert(off:publish(asked(), TRACE))
    through(off, nil, function(_, ctx)
      seen, raw = { ctx.traceparent, ctx.tracestate, ctx.baggage }, ctx.headers.traceparent
    end)
    assert.same({}, seen)
    assert.is_nil(raw)
    produce(off, { { "traceparent", PARENT } })
    local done
    off:clear_subscribers()
    off:subscribe(Asked, function(_, ctx)
      to:publish(answered())
      raw, done = ctx.headers.traceparent, ctx.traceparent == nil
    end)
    wait.till(function() return raw end, "the record")
    assert.same({ PARENT, true }, { raw, done })
    local written = traces(broker, to.config.topic_name)
    assert.is_true(#written > 0)
    for _, headers in ipairs(written) do assert.same({}, headers) end -- one may come again
  end)

  it("that is garbage is not there", function()
    local values = {
      "", "nonsense", PARENT:upper(), PARENT .. "-x", PARENT:gsub("^00", "ff"), PARENT:sub(1, -2),
      "00-" .. ("0"):rep(32) .. PARENT:sub(36), PARENT:gsub("00f067aa0ba902b7", ("0"):rep(16)),
      "01" .. PARENT:sub(3) .. ("x"):rep(10), "01" .. PARENT:sub(3) .. "-" .. ("x"):rep(100),
      PARENT:sub(1, 54) .. "\255",
    }
    local count, seen = 0, {}
    bus:subscribe(Asked, function(_, ctx)
      count = count + 1
      seen[#seen + 1] = ctx.traceparent or ctx.tracestate
      to:publish(answered())
    end)
    for _, value in ipairs(values) do
      produce(bus, { { "traceparent", value }, { "tracestate", "a=1" }, { "baggage", "\1" } })
    end
    produce(bus, { { "traceparent" }, { "tracestate" }, { "baggage" } }) -- null
    wait.till(function() return count == #values + 1 end, "the records")
    assert.same({}, seen)
    for _, found in ipairs(traces(broker, to.config.topic_name)) do assert.same({}, found) end
  end)

  it("of a later version is handed on as it is; lists that are too long are cut between members",
    function()
      local later = "01" .. PARENT:sub(3) .. "-more"
      local state = ("k=" .. ("v"):rep(97) .. ","):rep(10)
      local baggage = ("k=" .. ("v"):rep(997) .. ","):rep(10)
      local seen
      bus:subscribe(Asked, function(_, ctx)
        seen = { ctx.traceparent, ctx.tracestate, ctx.baggage }
      end)
      produce(bus, { { "traceparent", later }, { "tracestate", state }, { "baggage", baggage } })
      wait.till(function() return seen end, "the record")
      assert.same({ later, state:sub(1, 499), baggage:sub(1, 7999) }, seen)
    end)

  it("that is given malformed is an error, and nothing is sent", function()
    for _, wrong in ipairs {
      { { traceparent = "00-1-2-3" }, "traceparent: expected version%-trace%-parent%-flags" },
      { { tracestate = "a=1" }, "tracestate: expected a traceparent beside it" },
      { { traceparent = PARENT, tracestate = ("x"):rep(513) }, "tracestate: expected at most 512" },
      { { traceparent = PARENT, tracestate = "a=\n" }, "tracestate: expected .* printable" },
      { { baggage = ("x"):rep(8193) }, "baggage: expected at most 8192" },
      { { baggage = "é" }, "baggage: expected" },
      { { baggage = 1 }, "baggage: expected a string, got 1" },
      { { trace = PARENT }, 'no option "trace" here: background, baggage, traceparent' },
    } do
      local ok, why = pcall(to.publish, to, asked(), wrong[1])
      assert.is_false(ok)
      assert.matches(wrong[2], why)
    end
    assert(to:publish(asked()))
    assert.equal(1, #traces(broker, to.config.topic_name))
  end)
end)
