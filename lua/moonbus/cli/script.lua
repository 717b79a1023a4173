--- Loads and runs a user's script, and says what is wrong with it.
local base = require "moonbus.base"
local exit = require "moonbus.cli.exit"
local task = require "moonbus.task"

local globals, debug, getmetatable, io = base.globals, base.debug, base.getmetatable, base.io
local loadfile, package, pcall, rawequal = base.loadfile, base.package, base.pcall, base.rawequal
local rawset, select, setmetatable = base.rawset, base.select, base.setmetatable
local tostring, type, xpcall = base.tostring, base.type, base.xpcall

local script = {
  EXITED = setmetatable({}, { __tostring = function() return "exited" end }), -- ends it, well
}

-- Codes of conditions outside the script, not of a mistake in it: no traceback, and the exit
-- code of the cause.
local WORLD = {
  ECONFIG = true, ECONNECT = true, EAUTH = true, ETOPIC = true, EKAFKA = true, EFATAL = true,
  ETIMEOUT = true, EDELIVERY = true, EFULL = true, EUNSUPPORTED = true, ENOENT = true,
  EREPLAY = true, EIO = true, EBREAKER = true, ESTORE = true, EFENCED = true,
}

-- "orders.lua:3: ECONFIG: what" -> "ECONFIG", "orders.lua:3: what"
local function split(message)
  local first, rest = message:match("^(E[A-Z]+): (.*)$")
  if first then return first, rest end
  local place, code, what = message:match("^([^\n]-:%d+: )(E[A-Z]+): (.*)$")
  if code then return code, place .. what end
  return nil, message
end

-- The frames of the script only.
local function traceback_of(text)
  local at = text:find("\n%s*%[C%]: in function 'xpcall'")
  return at and text:sub(1, at - 1) or text
end

-- What an object says of itself; its metamethods are the script's, and may raise.
local function said_by(object)
  local meta = getmetatable(object)
  if type(meta) == "table" and meta.__tostring then return tostring(object) end
  return object.message
end

local function on_error(reason)
  if rawequal(reason, task.INTERRUPTED) or rawequal(reason, script.EXITED) then return reason end
  local text = reason
  if type(reason) == "table" then text = select(2, pcall(said_by, reason)) end
  if type(text) ~= "string" then text = "the error value is a " .. type(reason) end
  return { message = text, traceback = debug.traceback("", 2):gsub("^\n", "") }
end

--- A failure: { status =, code =, message =, traceback = (or nil) }.
local function failure(status, code, message, traceback)
  return { status = status, code = code, message = message, traceback = traceback }
end

-- An error that the handler of errors never saw, or that broke it, comes as it is: out of memory,
-- or no stack left.
local function judge(reason)
  if type(reason) ~= "table" then
    local text = tostring(reason)
    if text:find("error in error handling", 1, true) then text = "stack overflow" end
    return failure(exit.SCRIPT, "ESCRIPT", text)
  end
  local code, message = split(reason.message)
  local cause = code == "ESTATE" and message:match("bus:connect%(%) failed: (E[A-Z]+): ")
  if cause then return failure(exit.status(cause), cause, message) end
  if code and WORLD[code] then return failure(exit.status(code), code, message) end
  return failure(exit.SCRIPT, code or "ESCRIPT", message, traceback_of(reason.traceback))
end

-- Modules beside the script are found by require.
local function look_beside(path)
  local folder = path:match("^(.*)/[^/]*$") or "."
  local entry = ("%s/?.lua;%s/?/init.lua;"):format(folder, folder)
  if package.path:sub(1, #entry) ~= entry then package.path = entry .. package.path end
end

--- Load a script. A function, or nil and a failure.
function script.load(path)
  local file, why = io.open(path, "rb")
  if not file then
    return nil, failure(exit.KAFKA, "EIO", ("cannot open the script: %s"):format(why))
  end
  local readable = file:read(0) or file:seek("end") == 0
  file:close()
  if not readable then
    return nil, failure(exit.KAFKA, "EIO", ("cannot read the script %s"):format(path))
  end
  local chunk, err = loadfile(path)
  if not chunk then return nil, failure(exit.SCRIPT, "ESCRIPT", err) end
  return chunk
end

--- Load and run a script. true, "interrupted", or nil and a failure.
function script.run(path)
  local chunk, wrong = script.load(path)
  if not chunk then return nil, wrong end
  look_beside(path)
  rawset(globals, "arg", { [0] = path })
  local ok, reason = xpcall(chunk, on_error, path)
  if ok or reason == script.EXITED then return true end
  if reason == task.INTERRUPTED then return "interrupted" end
  return nil, judge(reason)
end

--- Say what failed; returns the exit code.
function script.report(wrong)
  local text = wrong.message
  if wrong.traceback then text = text .. "\n" .. wrong.traceback end
  exit.say(text, wrong.code)
  return wrong.status
end

return script
