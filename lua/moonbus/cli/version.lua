--- moonbus version: what it is made of.
local moonbus = require "moonbus"
local options = require "moonbus.cli.options"

local version = { summary = "Print versions and abilities." }

function version.define(command)
  options.json(command, "Print one JSON object.")
end

function version.run(args)
  local features = moonbus.features()
  local abilities = {}
  for name in pairs(features.abilities) do abilities[#abilities + 1] = name end
  table.sort(abilities)
  if args.json then
    print(moonbus.json.encode({
      moonbus = features.moonbus, librdkafka = features.librdkafka, luajit = features.luajit,
      features = moonbus.array(abilities),
    }))
    return
  end
  print("moonbus " .. features.moonbus)
  print("librdkafka " .. features.librdkafka)
  print(features.luajit)
  print("features: " .. table.concat(abilities, ", "))
end

return version
