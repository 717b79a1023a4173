--- Lua's functions and libraries as they are when moonbus is loaded. Each module takes what it uses
-- from here, at its head: a script that assigns a global of such a name, for want of a `local`,
-- changes nothing in moonbus. `globals`, the state's table of globals, and `package` are no copies.
local base = require "moonbus.core".base

local error, pcall, rawget, rawset = base.error, base.pcall, base.rawget, base.rawset
local globals, require = base.globals, base.require

--- Require a module of moonbus after scripts ran, whatever they made of `require`.
function base.require_late(name)
  local theirs = rawget(globals, "require")
  rawset(globals, "require", require)
  local ok, module = pcall(require, name)
  rawset(globals, "require", theirs)
  if not ok then error(module, 0) end
  return module
end

return base
