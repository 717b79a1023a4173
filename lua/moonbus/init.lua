--- moonbus: events, handlers, projections and buses on Apache Kafka.
-- The whole public interface; types and annotations are in moonbus/meta.lua.
local base = require "moonbus.base"
local core = require "moonbus.core"
local bus = require "moonbus.bus"
local event = require "moonbus.event"
local idempotent = require "moonbus.idempotent"
local log = require "moonbus.log"
local names = require "moonbus.names"
local outcome = require "moonbus.outcome"
local projection = require "moonbus.projection"
local stores = require "moonbus.store"
local task = require "moonbus.task"
local values = require "moonbus.values"
local versions = require "moonbus.versions"

local jit = base.jit

local moonbus = {
  VERSION = core.version,
  null = values.null,
  array = values.array,
  float = values.float,
  json = values.json,
  event = event.define,
  registry = event.registry,
  new_registry = event.new_registry,
  projection = projection.new,
  expect_version = versions.expect,
  dead = outcome.dead,
  retry = outcome.retry,
  stores = stores,
  idempotent = idempotent.new,
  bus = bus.new,
  with = bus.with,
  log = log,
  sleep = task.sleep,
  await = task.await,
  now = core.now,
  uuid = core.uuid,
  timestamp = core.timestamp,
  epoch = core.epoch,
  options = core.options,
  errors = core.errors,
  partition_of = core.partition_of,
}

--- Whether Kafka can be used from here; always true once the module loads, as librdkafka is linked.
function moonbus.available()
  return core.rdkafka_version ~= nil
end

--- Versions of what moonbus stands on, librdkafka's built-in abilities, and what needs which of its
-- versions.
function moonbus.features()
  local abilities = {}
  for name in core.rdkafka_features:gmatch("[^,]+") do
    abilities[name] = true
  end
  return {
    moonbus = core.version,
    librdkafka = core.rdkafka_version,
    luajit = jit.version,
    abilities = abilities,
    requirements = core.requirements(),
  }
end

names.module(moonbus.json, "moonbus.json")
names.module(moonbus.stores, "moonbus.stores")
return names.module(moonbus, "moonbus")
