--- moonbus version: what it is made of.
local base = require "moonbus.base"
local moonbus = require "moonbus"
local options = require "moonbus.cli.options"

local ipairs, pairs, print, table = base.ipairs, base.pairs, base.print, base.table

local version = { summary = "Print versions and abilities." }

function version.define(command)
  options.json(command, "Print one JSON object.")
end

function version.run(args)
  local features = moonbus.features()
  local abilities = {}
  for name in pairs(features.abilities) do abilities[#abilities + 1] = name end
  table.sort(abilities)
  local lacks = moonbus.array({})
  for _, each in ipairs(features.requirements) do
    if not each.met then
      lacks[#lacks + 1] = {
        what = each.what, since = each.since, feature = each.feature, why = each.why,
      }
    end
  end
  if args.json then
    print(moonbus.json.encode({
      moonbus = features.moonbus, librdkafka = features.librdkafka, luajit = features.luajit,
      features = moonbus.array(abilities), lacks = lacks,
    }))
    return
  end
  print("moonbus " .. features.moonbus)
  print("librdkafka " .. features.librdkafka)
  print(features.luajit)
  print("features: " .. table.concat(abilities, ", "))
  for _, each in ipairs(lacks) do print("lacks: " .. each.why) end
end

return version
