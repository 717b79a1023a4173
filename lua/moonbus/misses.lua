--- What a script most likely did not mean, and would not notice: as sentences, for the log of a run
-- and for `moonbus check --strict`.
local base = require "moonbus.base"
local core = require "moonbus.core"
local event = require "moonbus.event"
local task = require "moonbus.task"

local ipairs = base.ipairs

local misses = {}

local NOTHING = "nothing is subscribed on this bus: it consumes, and skips every event"

local function letters_of(name) return (name:lower():gsub("[^%w]", "")) end

-- The declared name that resembles one that is not declared; nil: none does.
local function resembling(name, declared)
  for _, each in ipairs(declared) do
    if letters_of(each) == letters_of(name) then return each end
  end
  return core.nearest(name, declared, true)
end

-- A type may be declared in the bus's registry or in the common one.
local function is_declared(bus, name)
  return bus.registry:get(name) ~= nil or event.registry:get(name) ~= nil
end

--- The declared event type that a subscription by name most likely means; nil if it means none.
function misses.meant_by(bus, subscription)
  local name = subscription.name
  if not name or subscription.typed or is_declared(bus, name) then return nil end
  return resembling(name, bus.registry:names()) or resembling(name, event.registry:names())
end

-- nil: it means what it says.
local function mistaken(bus, subscription)
  local meant = misses.meant_by(bus, subscription)
  return meant and ('a handler is subscribed to "%s", which no event is declared as; did you mean '
    .. '"%s"?'):format(subscription.name, meant)
end

--- What is amiss with a bus that consumes: a list of sentences.
function misses.of_bus(bus)
  local list, seen = {}, {}
  for _, each in ipairs(bus.subscriptions) do
    local text = not seen[each.name or 0] and mistaken(bus, each)
    seen[each.name or 0] = true
    if text then list[#list + 1] = text end
  end
  if bus.subscriptions[1] and bus.native:is_default "consumer_group" then
    list[#list + 1] = 'consumer_group is not set: all scripts that leave it out share the group '
      .. '"default", and with it the events of their topics; give each a consumer_group of its own'
  end
  return list
end

--- Declared events that none of the buses subscribes to, as sentences, if the buses consume at all.
function misses.of_types(buses)
  local list, subscribed, seen = {}, {}, {}
  for _, bus in ipairs(buses) do
    for _, each in ipairs(bus.subscriptions) do
      if not each.name then return list end
      subscribed[each.name] = true
    end
  end
  for _, bus in ipairs(buses) do
    for _, name in ipairs(bus.subscriptions[1] and bus.registry:names() or {}) do
      if not subscribed[name] and not seen[name] then
        seen[name] = true
        list[#list + 1] = ('nothing subscribes to "%s": its events are skipped'):format(name)
      end
    end
  end
  return list
end

--- Whether a bus neither consumes nor did anything else.
function misses.is_unused(bus)
  return not bus.subscriptions[1] and not bus.started and not bus.worked
end

misses.UNUSED = "nothing is subscribed on this bus, and nothing else is done with it: call "
  .. "bus:subscribe(...) before the script ends"

--- The same for a subscription that is made while the bus consumes.
function misses.warn_of(bus, subscription)
  local text = bus.warned and mistaken(bus, subscription)
  if text then bus.native:log("warn", text) end
end

--- Log what is amiss with a bus that starts to consume, once. blocks: the script goes on only once
-- that has ended, and can subscribe nothing before.
function misses.warn(bus, blocks)
  if bus.warned or task.host.dry then return end -- check has its own words for it
  bus.warned = true
  if blocks and not bus.subscriptions[1] then bus.native:log("warn", NOTHING) end
  for _, text in ipairs(misses.of_bus(bus)) do bus.native:log("warn", text) end
end

return misses
