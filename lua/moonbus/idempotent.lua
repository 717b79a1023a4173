--- Idempotent handlers: an event that comes again is not handled again.
local base = require "moonbus.base"
local arguments = require "moonbus.check"
local core = require "moonbus.core"
local frame = require "moonbus.frame"
local names = require "moonbus.names"
local reads = require "moonbus.reads"
local task = require "moonbus.task"

local debug, error, getmetatable, ipairs = base.debug, base.error, base.getmetatable, base.ipairs
local pairs, pcall, setmetatable = base.pairs, base.pcall, base.setmetatable
local tostring, type = base.tostring, base.type

local idempotent = {}

local CLAIM_S = 60
local PAST_CLAIM_S = 0.01 -- so that the next try does not come in its last millisecond

local Idempotent = {}
Idempotent.__index = Idempotent
Idempotent.__tostring = function(self) return "idempotent handler " .. self.name end

local function id_of(self, event)
  local id
  if self.key then id = self.key(event) else id = event.event_id end
  if type(id) == "number" then id = ("%.17g"):format(id) end
  if type(id) == "string" and id ~= "" then return id end
  arguments.refuse(tostring(self) .. ": key", "a string that is not empty", id, -1)
end

-- ---- with transactions: the mark and the handler's writes are one ----

-- The caller undoes the frame if this raises.
local function run_in(self, store, tx, scope, event, ctx)
  if not store:mark(scope, self.marks_as, id_of(self, event), self.ttl) then
    store:leave()
    return
  end
  return frame.keep(store, self.call(event, tx, ctx))
end

-- ---- without: claim, run, mark ----

-- A claim that its bus releases when the handler fails; looks like a store's unit to it.
local Claim = {}
Claim.__index = Claim

function Claim:undo()
  local store, id = self.owner.store, self.id
  self.id = nil
  if id and store.release then store:release(self.scope, self.owner.marks_as, id) end
end

function Claim.end_unit() return true end

local function take(self, claim, id)
  local state, left = self.store:claim(claim.scope, self.marks_as, id, self.claim_ttl)
  if state == "new" then
    claim.id = id
    return true
  elseif state == "claimed" then
    error({ moonbus_outcome = "retry", type = "Claimed",
            after = (left or self.claim_ttl) + PAST_CLAIM_S,
            message = ("%s: event %s is being handled elsewhere"):format(tostring(self), id) }, 0)
  elseif state ~= "done" then -- its store may be away: the event is not handled
    error(('%s: claim of its store: expected "new", "done" or "claimed", got %s%s'):format(
      tostring(self), tostring(state), left ~= nil and ", " .. tostring(left) or ""), 0)
  end
end

local function mark(self, claim, ...)
  if frame.failed(...) then claim:undo()
  else
    local id = claim.id
    claim.id = nil
    self.store:done(claim.scope, self.marks_as, id, self.ttl)
  end
  return ...
end

local function run_claimed(self, claim, event, ctx)
  if take(self, claim, id_of(self, event)) then
    return mark(self, claim, self.call(event, nil, ctx))
  end
end

-- ---- as a handler ----

-- Two that mark the same would each take the other's events for handled.
local function check_name(self, bus)
  for _, each in ipairs(bus.subscriptions) do
    local other = each.handler
    if getmetatable(other) == Idempotent and other.handler ~= self.handler
      and other.store == self.store and other.scope == self.scope
      and other.marks_as == self.marks_as then
      error(('two idempotent handlers of one store are both called "%s"; give each a name')
        :format(self.marks_as), 0)
    end
  end
end

-- The fields of an event that are looked at; nil: any.
local function names_of(self)
  local fields = type(self.handler) == "function" and reads(self.handler)
  local of_key = self.key and reads(self.key) or not self.key and { "event_id" }
  if not fields or not of_key then return nil end
  local has = {}
  for _, name in ipairs(fields) do has[name] = true end
  for _, name in ipairs(of_key) do
    if not has[name] then fields[#fields + 1] = name end
  end
  return fields
end

--- The function that a bus calls, and the fields it reads: the events of one step share a
-- transaction where the store has them.
function Idempotent:bind(bus)
  local store, scope = self.store, self.scope or bus.config.consumer_group
  check_name(self, bus)
  if store.transactional then
    return function(event, ctx)
      return run_in(self, store, store:enter(bus), scope, event, ctx)
    end, names_of(self)
  end
  local function new_claim() return setmetatable({ owner = self, scope = scope }, Claim) end
  if bus.config.concurrency > 1 then -- several at a time
    return function(event, ctx)
      local claim = new_claim()
      core.on_fail(function() claim:undo() end)
      return run_claimed(self, claim, event, ctx)
    end, names_of(self)
  end
  local claim = new_claim()
  return function(event, ctx)
    bus:join_unit(claim)
    return run_claimed(self, claim, event, ctx)
  end, names_of(self)
end

local function finish(undo, ok, ...)
  if ok then return ... end
  undo()
  error((...), 0)
end

--- Handle an event by hand: in a transaction of its own, or as a part of the one a handler is in.
-- scope is "" unless given.
function Idempotent:handle(event, ctx)
  local scope, store = self.scope or "", self.store
  if store.transactional then
    return frame.by_hand(store, function(tx)
      if task.host.dry or store:mark(scope, self.marks_as, id_of(self, event), self.ttl) then
        return self.call(event, tx, ctx)
      end
    end)
  end
  local claim = setmetatable({ owner = self, scope = scope }, Claim)
  return finish(function() claim:undo() end, pcall(run_claimed, self, claim, event, ctx))
end

-- ---- making one ----

local OPTIONS = { store = "table", ttl = "number", name = "string", key = "function",
                  scope = "string", claim_ttl = "number" }

local function check(options)
  if type(options) ~= "table" then error("moonbus.idempotent takes a handler and options", 3) end
  for key, value in pairs(options) do
    if not OPTIONS[key] then
      names.no_option("moonbus.idempotent", key, names.of(OPTIONS), 3)
    elseif type(value) ~= OPTIONS[key] then
      arguments.refuse("moonbus.idempotent: " .. key, "a " .. OPTIONS[key], value, 3)
    end
  end
  local store = options.store
  if not store or not (store.transactional
    or type(store.claim) == "function" and type(store.done) == "function") then
    error("moonbus.idempotent: store: one of moonbus.stores, or an object with claim and done", 3)
  end
  for _, key in ipairs { "ttl", "claim_ttl" } do
    if options[key] and options[key] <= 0 then
      arguments.refuse("moonbus.idempotent: " .. key, "seconds above 0", options[key], 3)
    end
  end
end

local function where(handler)
  local info = debug.getinfo(handler, "S")
  return ("%s:%d"):format(info.short_src, info.linedefined)
end

--- A handler that handles each event once, for bus:subscribe; see moonbus.idempotent in meta.lua.
function idempotent.new(handler, options)
  local is_object = type(handler) == "table" and type(handler.handle) == "function"
  if type(handler) ~= "function" and not is_object then
    error("moonbus.idempotent: a handler is a function, or an object with a handle method", 2)
  end
  check(options)
  local own = options.name or is_object and type(handler.name) == "string" and handler.name or nil
  local self = setmetatable({
    handler = handler, store = options.store, ttl = options.ttl, key = options.key,
    scope = options.scope, claim_ttl = options.claim_ttl or CLAIM_S,
    marks_as = own or "handler",
    -- in dead letters
    name = own or is_object and handler.where or where(is_object and handler.handle or handler),
    call = is_object and function(...) return handler:handle(...) end or handler,
  }, Idempotent)
  if is_object and type(handler.subscribed_to) == "function" then
    self.subscribed_to = function() return handler:subscribed_to() end
  end
  return self
end

return idempotent
