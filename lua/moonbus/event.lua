--- Event types: declared once, checked wherever an event is made, sent or received.
local base = require "moonbus.base"
local check = require "moonbus.check"
local core = require "moonbus.core"
local spelling = require "moonbus.names"
local upcast = require "moonbus.upcast"
require "moonbus.values"

local assert, error, getmetatable, ipairs = base.assert, base.error, base.getmetatable, base.ipairs
local loadstring, pairs, pcall = base.loadstring, base.pairs, base.pcall
local rawget, rawset = base.rawget, base.rawset
local setmetatable, table, tonumber = base.setmetatable, base.table, base.tonumber
local tostring, type = base.tostring, base.type

local event = {}

local BASE_NAMES = { -- in the order of the wire
  "event_id", "event_type", "event_version", "occurred_at", "aggregate_id", "aggregate_type",
  "aggregate_version", "tenant_id", "actor_id", "correlation_id", "causation_id", "metadata",
}
local BASE = {}
for _, name in ipairs(BASE_NAMES) do BASE[name] = true end

-- ---- what every event can do ----

local methods = {}

local function copy(from)
  local to = {}
  for key, value in pairs(from) do to[key] = value end
  return setmetatable(to, getmetatable(from))
end

--- Whether the event is of that type (as moonbus.event returned it, or a name).
function methods.is(self, kind)
  if type(kind) == "string" then return self.event_type == kind end
  return getmetatable(self) == kind
end

--- A copy that says what caused it: causation_id is the other's event_id, correlation_id its own.
function methods.caused_by(self, other)
  local new = copy(self)
  new.causation_id = other.event_id
  new.correlation_id = other.correlation_id
  return new
end

--- A copy with more metadata.
function methods.with_metadata(self, more)
  local new = copy(self)
  new.metadata = {}
  for key, value in pairs(self.metadata or {}) do new.metadata[key] = value end
  for key, value in pairs(more) do new.metadata[key] = value end
  return new
end

-- Called with a dot they get something else than an event.
for name, method in pairs(methods) do
  methods[name] = function(self, ...)
    if type(self) ~= "table" or rawget(self, "event_type") == nil or rawget(self, "__moonbus") then
      error(("event.%s(...) lacks its event: write event:%s(...)"):format(name, name), 2)
    end
    return method(self, ...)
  end
end

local function describe(self)
  return ("%s(aggregate_id=%s, event_id=%s)"):format(
    tostring(self.event_type), tostring(self.aggregate_id), tostring(self.event_id))
end

-- A table literal of named values a1, a2, ... and these as parameters: with all keys in it, it is
-- the cheapest way to make an instance.
local function literal(names)
  local parameters, members = {}, {}
  for i, name in ipairs(names) do
    parameters[i] = "a" .. i
    members[i] = ("[%q]=a%d"):format(name, i)
  end
  return table.concat(parameters, ","), "{" .. table.concat(members, ",") .. "}"
end

local function compile(source, metatable)
  return assert(loadstring("local setmetatable, rawget, meta = ... " .. source, "=event"))(
    setmetatable, rawget, metatable)
end

-- function(value, ...) -> instance
local function compile_make(names, metatable)
  -- not return setmetatable(...): LuaJIT does not compile a function that C calls and that ends so
  return compile(("return function(%s) local new = setmetatable(%s, meta) return new end"):format(
    literal(names)), metatable)
end

-- function(handler, context, value, ...): calls the handler with an instance
local function compile_call(names, metatable)
  local parameters, members = literal(names)
  return compile(("return function(handler, context%s) return handler(setmetatable(%s, meta), "
    .. "context) end"):format(names[1] and "," .. parameters or "", members), metatable)
end

-- function(instance) -> its fields, and nothing that it inherits in place of one
local function compile_spread(names)
  local members = {}
  for i, name in ipairs(names) do members[i] = ("rawget(event, %q)"):format(name) end
  return compile(("return function(event) return %s end"):format(
    table.concat(members, ",")))
end

-- Assigns what an instance does not have yet.
local function assign(native, names)
  local declared = {}
  for _, name in ipairs(names) do declared[name] = true end
  return function(self, key, value)
    rawset(self, key, value)
    if not declared[key] then native:loosen() end
  end
end

local untyped = { __index = methods, __tostring = describe }

core.set_untyped(untyped, function(names) return compile_call(names, untyped) end)

-- ---- registries ----

local Registry = {}
Registry.__index = Registry

--- A registry: event type names and the types declared under them.
function event.new_registry()
  return setmetatable({ types = {} }, Registry)
end

--- The type of that name, or nil.
function Registry:get(name)
  return self.types[name]
end

--- The names there are, sorted.
function Registry:names()
  local names = setmetatable({}, core.array_mark)
  for name in pairs(self.types) do names[#names + 1] = name end
  table.sort(names)
  return names
end

--- Forget a type, so that its name may be declared again.
function Registry:remove(name)
  local had = self.types[name] ~= nil
  self.types[name] = nil
  return had
end

spelling.class(Registry, "registry", {})

event.registry = event.new_registry()

-- ---- declaring ----

-- "total", "number" | { type = "number", optional = true, default = 0 } -> "number?", default
local function read_spec(owner, name, spec, level)
  if type(spec) == "string" then return spec end
  if type(spec) ~= "table" or type(spec.type) ~= "string" then
    check.refuse(("%s.%s"):format(owner, tostring(name)), 'a type, like "string" or "number?", or '
      .. "{ type = ..., optional = ..., default = ... }", spec, level + 1)
  end
  local text = spec.type
  local optional = spec.optional or spec.default ~= nil
  if optional and text:sub(-1) ~= "?" then text = text .. "?" end
  return text, spec.default
end

-- upcast = { [1] = function ... } says how to lift events; upcast = "string" is a field.
local function is_upcast(name, spec)
  return name == "upcast" and type(spec) == "table" and spec.type == nil
end

-- Fields given by position keep their order, on the wire too; those given by name follow, sorted.
local function read_fields(owner, fields, level)
  local list, defaults, named = {}, {}, {}
  for _, field in ipairs(fields) do
    if type(field) ~= "table" or type(field[1]) ~= "string" then
      error(owner .. ': a field given by position is { "name", "type" }', level + 1)
    end
    local spec, default = read_spec(owner, field[1], field.type and field or field[2], level + 1)
    list[#list + 1] = { field[1], spec }
    defaults[field[1]] = default
  end
  for name, spec in pairs(fields) do
    if type(name) ~= "string" and not list[name] then
      error(("%s: a field is name = type, or { name, type } in a list without gaps; [%s] is "
        .. "neither"):format(owner, tostring(name)), level + 1)
    end
    if type(name) == "string" and not is_upcast(name, spec) then
      if BASE[name] then defaults[name] = spec else named[#named + 1] = name end
    end
  end
  table.sort(named)
  for _, name in ipairs(named) do
    local spec, default = read_spec(owner, name, fields[name], level + 1)
    list[#list + 1] = { name, spec }
    defaults[name] = default
  end
  return list, defaults
end

local function deep_copy(value)
  if type(value) ~= "table" then return value end
  local new = {}
  for key, each in pairs(value) do new[key] = deep_copy(each) end
  return setmetatable(new, getmetatable(value))
end

-- Defaults that are tables are copied for each event; nil when there are none.
local function table_defaults(defaults)
  local tables
  for name, default in pairs(defaults) do
    if type(default) == "table" then
      tables = tables or {}
      tables[name] = default
    end
  end
  return tables and function(given)
    local filled = {}
    for key, value in pairs(given) do filled[key] = value end
    for name, default in pairs(tables) do
      if filled[name] == nil then filled[name] = deep_copy(default) end
    end
    return filled
  end
end

local function check_options(name, options, level)
  if options == nil then return end
  if type(options) ~= "table" then error(name .. ": the options are a table", level + 1) end
  for key, value in pairs(options) do
    if key ~= "registry" then
      error(('%s: an event type has no option "%s": registry'):format(name, tostring(key)),
        level + 1)
    elseif type(value) ~= "table" or type(value.types) ~= "table" then
      check.refuse(name .. ": registry", "one of moonbus.new_registry()", value, level + 1)
    end
  end
end

local function describe_type(self) return "event type " .. self.name end

-- What a type was asked for that it does not have: most likely an event was meant.
local function refuse_name(kind, name)
  if spelling.is_protocol(name) then return nil end
  for _, field in ipairs(kind.__moonbus:fields()) do
    if field[1] == name or methods[name] then
      error(('%s is an event type; its events have "%s": local event = %s { ... }, event%s%s')
        :format(kind.name, name, kind.name, methods[name] and ":" or ".", name), 2)
    end
  end
  spelling.unknown("event type " .. kind.name, name, spelling.of(kind), 2)
end

--- Declare an event type.
-- fields: names and types ("string", "number", "integer", "boolean", "uuid", "timestamp",
-- "decimal", "object", "array", "any"; "?" behind for optional, "[]" for arrays of one type), and
-- defaults of base fields such as aggregate_type = "Order" and event_version = 2; upcast: how
-- events of lower versions are lifted, a function for each. The result makes events when called.
function event.define(name, fields, options)
  if type(name) ~= "string" or name == "" then
    error("an event type needs a name", 2)
  end
  if fields ~= nil and type(fields) ~= "table" then
    error(name .. ": the fields are a table", 2)
  end
  check_options(name, options, 2)
  local registry = options and options.registry or event.registry
  if registry.types[name] then
    error(('event type "%s" is declared already'):format(name), 2)
  end
  local list, defaults = read_fields(name, fields or {}, 2)
  if defaults.event_type and defaults.event_type ~= name then
    error(('%s: event_type is the name itself, not "%s"'):format(name, defaults.event_type), 2)
  end
  defaults.event_type = name
  local ok, native = pcall(core.type, name, list)
  if not ok then error(native, 2) end
  for field, default in pairs(defaults) do
    local fits, normal = pcall(native.check, native, field, default)
    if not fits then error("default: " .. normal, 2) end
    defaults[field] = normal
  end
  local version = tonumber(defaults.event_version or 1)
  if version < 1 then error(name .. ": event_version is 1 or more", 2) end
  local steps = is_upcast("upcast", fields and fields.upcast) and fields.upcast or nil
  if steps then upcast.check(name, steps, version, 2) end
  native:set_version(version, steps and upcast.compile(steps, version, BASE))
  local names, listed = {}, {}
  for i, field in ipairs(native:fields()) do
    names[i], listed[i] = field[1], defaults[field[1]]
  end
  local kind = {
    version = version, upcast = steps or false,
    name = name, event_type = name, defaults = defaults, __moonbus = native,
    __index = methods, __newindex = assign(native, names), __tostring = describe,
  }
  local make = native:finish(compile_make(names, kind), function(some)
    -- an __index of the script's own may read any field
    if kind.__index == methods or #some == #names then return compile_call(some, kind) end
  end, listed, table_defaults(defaults), compile_spread(names))
  setmetatable(kind, { __call = make, __tostring = describe_type, __index = refuse_name })
  registry.types[name] = kind
  return kind
end

return event
