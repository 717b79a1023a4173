--- moonbus completion: a shell's completion script.
local base = require "moonbus.base"

local io = base.io

local completion = {
  summary = "Print a completion script for a shell.",
  description = "Print a completion script, for example: source <(moonbus completion bash)",
}

function completion.define(command)
  command:argument("shell"):description("bash, zsh or fish."):choices({ "bash", "zsh", "fish" })
end

function completion.run(args, parser)
  io.write(parser["get_" .. args.shell .. "_complete"](parser))
end

return completion
