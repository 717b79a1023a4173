--- What is known of the fields a handler reads: all of them, unless its code shows that it cannot.
local moonbus = require "moonbus"
local reads = require "moonbus.reads"

local function of(source)
  local env = setmetatable({ keep = function() end, list = {} }, { __index = _G })
  return reads(setfenv(assert(loadstring("local upvalue; return " .. source)), env)())
end

describe("the fields a function reads", function()
  for source, names in pairs {
    ["function() keep() end"] = {},
    ["function(event) keep(1) end"] = {},
    ["function(event) keep(event.a, event.b, event.a) end"] = { "a", "b" },
    ["function(event) return event.a.b.c end"] = { "a" },
    ["function(event, ctx) keep(ctx, ctx.event, event.a) end"] = { "a" },
    ["function(event, ctx) return ctx end"] = {},
    ["function(event) if event.a then keep(event.b) else return event.c end end"]
      = { "a", "b", "c" },
    ["function(event) for i = 1, event.a do upvalue = upvalue .. event.b end end"] = { "a", "b" },
    ["function(event) for k in pairs(event.a) do keep(k) end while event.b do end end"]
      = { "a", "b" },
    ["function(event) local a = event.a; a.b = 5; list[a] = event.c; return a end"] = { "a", "c" },
    ["function(event) return keep(event.a) end"] = { "a" },
    ["function(event) list.a, upvalue = event.b, event.c end"] = { "b", "c" },
    ["function(event) return -event.a, not event.b, #event.c, event.d .. 'x' end"]
      = { "a", "b", "c", "d" },
  } do
    it("are found: " .. source, function()
      assert.same(names, of(source))
    end)
  end

  for _, source in ipairs {
    "function(event) keep(event) end", "function(event) return event end",
    "function(event) local other = event; return other.a end",
    "function(event) upvalue = event end", "function(event) list.a = event end",
    "function(event) list[1] = event end", "function(event) list[event] = 1 end",
    "function(event) return { event } end", "function(event) return { a = event } end",
    "function(event) return event[1] end", "function(event) return event[upvalue] end",
    "function(event) event.a = 1 end", "function(event) event[1] = 1 end",
    "function(event) event = keep; return event.a, event end",
    "function(event) return function() return event.a end end",
    "function(event) return pcall(function() event = nil end) end",
    "function(event) return event:is(1) end", "function(event) return event:a() end",
    "function(event) for k in pairs(event) do keep(k) end end",
    "function(event) for k in next, event do keep(k) end end",
    "function(event) return tostring(event) end", "function(event) return #event end",
    "function(event) return -event end", "function(event) return not event end",
    "function(event) return event .. '' end", "function(event) return '' .. event end",
    "function(event) return event == upvalue end", "function(event) return event == nil end",
    "function(event) return event < upvalue end", "function(event) return upvalue + event end",
    "function(event) return event and 1 end", "function(event) return event or 1 end",
    "function(event) if event then return 1 end end", "function(event) error(event) end",
    "function(event) return event() end", "function(event) return event.a, event end",
    "function(event) return setmetatable({}, { __index = event }) end",
    "function(...) return (...).a end", "function(event, ...) return event.a, ... end",
    "function(event) for i = event, 2 do end end", "print", "string.rep", "setmetatable",
  } do
    it("may be any: " .. source, function()
      assert.is_nil(of(source))
    end)
  end

  it("are the same once the function is compiled", function()
    local handler = function(event)
      local sum = 0
      for i = 1, 100 do sum = sum + i * event.a end
      return sum
    end
    for _ = 1, 1000 do handler { a = 1 } end
    assert.same({ "a" }, reads(handler))
  end)

  it("of an idempotent handler are its own, and what its mark is made of", function()
    local bus = { subscriptions = {}, config = { consumer_group = "g", concurrency = 1 } }
    local function bound(handler, key)
      local options = { store = moonbus.stores.memory(), key = key }
      return select(2, moonbus.idempotent(handler, options):bind(bus))
    end
    local function two(event) return event.a == event.event_id end
    assert.same({ "b", "event_id" }, bound(function(event) return event.b end))
    assert.same({ "a", "event_id" }, bound(two))
    assert.same({ "a", "event_id", "b" }, bound(two, function(event) return event.b end))
    assert.same({ "a", "event_id" }, bound(two, function(event) return event.a end))
    assert.is_nil(bound(two, function(event) return tostring(event) end))
    assert.is_nil(bound(function(event) return print(event) end))
    assert.is_nil(bound { handle = function(_, event) return event.a end })
  end)
end)
