--- moonbus projections: how far a script's projections are.
local base = require "moonbus.base"
local exit = require "moonbus.cli.exit"
local moonbus = require "moonbus"
local options = require "moonbus.cli.options"
local read_models = require "moonbus.cli.read_models"

local ipairs, math, pcall, print = base.ipairs, base.math, base.pcall, base.print
local tostring = base.tostring

local projections = {
  summary = "Print how far a script's projections are.",
  description = "Print the positions of the projections with a store that a script subscribes, as "
    .. "they are kept with their data, and how many records they are behind. Records of types that "
    .. "a projection does not handle count until it, or its group, is past them. Up to 100,000 "
    .. "offsets behind they are counted; beyond, the offsets are, \"up to\" as many records.",
}

function projections.define(command)
  command:argument("file"):description("The Lua script.")
  options.connection(command, "topic_prefix", "consumer_group")
  options.json(command, "Print one JSON object per projection.")
end

-- What the topic and the group say: a list by partition + 1 of { low =, high =, committed = }.
local function ask(bus)
  local native, list = bus.native, {}
  local count, err, code = native:topic_partitions()
  if not count then exit.raise(err, code) end
  local committed
  committed, err, code = native:committed(count)
  if not committed then exit.raise(err, code) end
  for i = 1, count do
    local low, high, why = native:topic_offsets(nil, i - 1)
    if not low then exit.raise(high, why) end
    list[i] = { low = low, high = high, committed = committed[i] }
  end
  return list
end

-- The row of a projection, and its positions in a topic: by partition, and how many.
local function read(projection, topic)
  local store, by_part, count = projection.store, {}, 0
  local ok, row = pcall(store.transaction, store, function()
    local row = store:projection(projection.name)
    for _, each in ipairs(store:positions(row.marks)) do
      if each.topic == topic then by_part[each.part], count = each, count + 1 end
    end
    return row
  end)
  if not ok then exit.raise(tostring(row), "ESTORE") end
  return row, by_part, count
end

local COUNTED = 100000 -- offsets behind whose records are counted

-- Offsets behind the ends become records: markers of transactions and compacted records are none.
local function count_records(bus, list, from)
  local offsets = 0
  for _, each in ipairs(list) do offsets = offsets + each.lag end
  if offsets == 0 or offsets > COUNTED then return offsets, offsets == 0 end
  local counts, err, code = bus.native:topic_count(nil, from, #list)
  if not counts then exit.raise(err, code) end
  local sum = 0
  for i, each in ipairs(list) do
    each.lag = counts[i]
    sum = sum + counts[i]
  end
  return sum, true
end

-- A projection that has applied nothing of the topic may have lost its data: what the group has
-- committed says nothing about it then.
local function describe(each)
  local topic = each.bus.config.topic_name
  local row, by_part, count = read(each.projection, topic)
  local list, begin = moonbus.array {}, {}
  for i, place in ipairs(ask(each.bus)) do
    local known = by_part[i - 1]
    local position = known and known.position >= 0 and known.position or nil
    local from = math.max(position or place.low, count > 0 and place.committed or place.low,
      place.low)
    list[i] = { partition = i - 1, position = position or moonbus.null, ["end"] = place.high,
                lag = math.max(place.high - from, 0) }
    begin[i] = from
  end
  local lag, counted = count_records(each.bus, list, begin)
  return {
    projection = each.projection.name, store = each.projection.store.name, topic = topic,
    consumer_group = each.bus.config.consumer_group, rebuilding = row.passing, lag = lag,
    counted = counted, partitions = list,
  }
end

local function print_one(one)
  print(("projection %s in %s, topic %s, group %s: %s%.0f behind%s"):format(one.projection,
    one.store, one.topic, one.consumer_group, one.counted and "" or "up to ", one.lag,
    one.rebuilding and "; incomplete: a rebuild in place is under way, or was not finished" or ""))
  print(("%9s %14s %14s %14s"):format("partition", "position", "end", "lag"))
  for _, each in ipairs(one.partitions) do
    print(("%9d %14s %14.0f %14.0f"):format(each.partition, each.position == moonbus.null and "-"
      or ("%.0f"):format(each.position), each["end"], each.lag))
  end
end

function projections.run(args)
  for _, each in ipairs(read_models.of(args)) do
    read_models.connect(each.bus)
    local one = describe(each)
    if args.json then print(moonbus.json.encode(one))
    else print_one(one) end
  end
end

return projections
