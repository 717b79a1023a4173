--- moonbus check: load a script without a broker, and say what it declares.
local base = require "moonbus.base"
local moonbus = require "moonbus"
local dry = require "moonbus.cli.dry"
local exit = require "moonbus.cli.exit"
local misses = require "moonbus.misses"
local options = require "moonbus.cli.options"
local read_model = require "moonbus.read_model"
local script = require "moonbus.cli.script"
local task = require "moonbus.task"
local upcast = require "moonbus.upcast"

local ipairs, pairs, print, table = base.ipairs, base.pairs, base.print, base.table
local tostring = base.tostring

local check = {
  summary = "Load a script without a broker, and print what it declares.",
  description = "Run a script with buses that touch no broker, and print the event types and buses "
    .. "it declares. What the script prints goes to stderr.",
}

function check.define(command)
  command:argument("file"):description("The Lua script.")
  options.connection(command, "topic_prefix", "consumer_group")
  command:flag("--strict")
    :description("Fail (3) with warnings; besides the usual ones, of what a run would pass over "
      .. "without an error: subscriptions to names that are nearly declared ones, events that "
      .. "nothing subscribes to, buses without a consumer_group, scripts that subscribe nothing.")
  options.json(command, "Print one JSON object.")
end

-- ---- what it declares ----

local function event_types(registries)
  local list = moonbus.array({})
  for _, registry in ipairs(registries) do
    for _, name in ipairs(registry:names()) do
      local kind = registry:get(name)
      local fields, defaults = moonbus.array({}), {}
      for _, field in ipairs(kind.__moonbus:fields()) do
        if not field[3] then fields[#fields + 1] = { name = field[1], type = field[2] } end
      end
      for key, value in pairs(kind.defaults) do
        if key ~= "event_type" then defaults[key] = value end
      end
      list[#list + 1] = { name = name, fields = fields, defaults = defaults }
    end
  end
  return list
end

-- What is allowed, and yet most likely not meant.
local function warnings_of(registries, buses)
  local list = moonbus.array({})
  for _, registry in ipairs(registries) do
    for _, name in ipairs(registry:names()) do
      local kind = registry:get(name)
      for _, from in ipairs(kind.upcast and upcast.missing(kind.upcast, kind.version) or {}) do
        list[#list + 1] = ("%s: upcast[%d] is missing; events of version %d will be dead letters")
          :format(name, from, from)
      end
    end
  end
  for _, bus in ipairs(buses) do
    for _, each in ipairs(bus.projections) do
      if each.rebuilt == "never" then
        list[#list + 1] = ("projection %s has neither init nor truncate; it cannot be rebuilt")
          :format(each.name)
      end
    end
  end
  return list
end

-- What a run would pass over, added to the warnings.
local function add_misses(list, buses)
  local useful = false
  for _, bus in ipairs(buses) do
    for _, text in ipairs(misses.of_bus(bus)) do
      list[#list + 1] = ("bus on %s: %s"):format(bus.config.topic_name, text)
    end
    if not misses.is_unused(bus) then useful = true end
  end
  for _, text in ipairs(misses.of_types(buses)) do list[#list + 1] = text end
  if not useful then
    list[#list + 1] = "the script subscribes nothing: moonbus run has nothing to consume for it"
  end
end

local function subscriptions_of(bus)
  local list, by_name = moonbus.array({}), {}
  for _, each in ipairs(bus.subscriptions) do
    local key = each.name or moonbus.null
    local row = by_name[key]
    if not row then
      row = { event_type = key, handlers = 0, declared = not each.name
        or bus.registry:get(each.name) ~= nil, meant = misses.meant_by(bus, each) }
      by_name[key] = row
      list[#list + 1] = row
    end
    row.handlers = row.handlers + 1
  end
  return list
end

local function projections_of(bus)
  local list, seen = moonbus.array({}), {}
  for _, each in ipairs(bus.subscriptions) do
    local it = each.handler
    if read_model.is(it) and not seen[it] then
      seen[it] = true
      list[#list + 1] = { name = it.name, store = it.store.name,
        rebuilt = it.init and "beside" or it.empty and "in place" or "never" }
    end
  end
  return list
end

local function describe(buses)
  local list = moonbus.array({})
  for i, bus in ipairs(buses) do
    list[i] = {
      topic = bus.config.topic_name, dlq_topic = bus.config.dlq_topic_name,
      consumer_group = bus.config.consumer_group,
      bootstrap_servers = bus.config.bootstrap_servers,
      subscriptions = subscriptions_of(bus), projections = projections_of(bus),
    }
  end
  return list
end

-- ---- printing ----

local function shown(value)
  return moonbus.json.encode(value) or tostring(value)
end

local function print_event(kind)
  print("event " .. kind.name)
  local names = {}
  for name in pairs(kind.defaults) do names[#names + 1] = name end
  table.sort(names)
  for _, field in ipairs(kind.fields) do
    local default = kind.defaults[field.name]
    print(("  %-24s %s%s"):format(field.name, field.type,
      default ~= nil and " = " .. shown(default) or ""))
  end
  for _, name in ipairs(names) do
    local own = false
    for _, field in ipairs(kind.fields) do own = own or field.name == name end
    if not own then print(("  %-24s = %s"):format(name, shown(kind.defaults[name]))) end
  end
end

local function print_bus(bus)
  print(("bus on %s, group %s, brokers %s"):format(bus.topic, bus.consumer_group,
    bus.bootstrap_servers))
  for _, each in ipairs(bus.subscriptions) do
    local name = each.event_type == moonbus.null and "(all events)" or each.event_type
    local undeclared = each.declared and "" or "; no such event is declared"
    if each.meant then undeclared = ('%s; did you mean "%s"?'):format(undeclared, each.meant) end
    print(("  %-24s %d %s%s"):format(name, each.handlers, each.handlers == 1 and "handler"
      or "handlers", undeclared))
  end
  for _, each in ipairs(bus.projections) do
    print(("  projection %-13s in %s"):format(each.name, each.store))
  end
end

local function report_wrong(args, wrong)
  if args.json then
    print(moonbus.json.encode({
      file = args.file, ok = false, error = { code = wrong.code, message = wrong.message },
    }))
  end
  return script.report(wrong)
end

function check.run(args)
  task.host.flags = options.flags(args)
  local ok, wrong, buses, registries, stopped = dry.run(args.file)
  if not ok then return report_wrong(args, wrong) end
  local unfinished = ok == "interrupted"
  local types, list = event_types(registries), describe(buses)
  local warnings = warnings_of(registries, list)
  if args.strict then add_misses(warnings, buses) end
  local count = #warnings
  local status = args.strict and count > 0 and exit.SCRIPT or exit.OK
  if stopped then -- what check cannot see is nothing that the script could change
    warnings[count + 1] = ("checked as far as it does not need what consuming brings: %s")
      :format(stopped.message)
  end
  if args.json then
    print(moonbus.json.encode({
      file = args.file, ok = status == exit.OK, unfinished = unfinished, events = types,
      buses = list, warnings = warnings,
    }))
    return status
  end
  for _, kind in ipairs(types) do print_event(kind) end
  for _, bus in ipairs(list) do print_bus(bus) end
  for _, warning in ipairs(warnings) do print("warning: " .. warning) end
  if status ~= exit.OK then
    return exit.report(("%d warning%s; --strict takes none"):format(count,
      count > 1 and "s" or ""), "ESCRIPT", status)
  end
  print(unfinished and ("ok (still running after %d s; checked until there)"):format(dry.SECONDS)
    or "ok")
  return exit.OK
end

return check
