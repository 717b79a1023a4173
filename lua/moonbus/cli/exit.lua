--- How the program ends: exit codes by cause, and the one shape of an error message.
local base = require "moonbus.base"
local core = require "moonbus.core"
local task = require "moonbus.task"

local error, getmetatable = base.error, base.getmetatable
local setmetatable, tostring = base.setmetatable, base.tostring

local exit = {
  OK = 0, SOME_FAILED = 1, USAGE = 2, SCRIPT = 3, UNREACHABLE = 4, TOPIC = 5, KAFKA = 6,
  BREAKER = 7, FENCED = 8, INTERNAL = 70,
}

--- The table of --help: code, cause.
exit.codes = {
  { 0, "done; also when a signal ended it (SIGINT, SIGTERM, SIGHUP, SIGQUIT)" },
  { 1, "some events were not delivered, or some lines or records were wrong" },
  { 2, "wrong usage, or a wrong option" },
  { 3, "the script has an error, or check --strict a warning" },
  { 4, "no broker can be reached, or it refuses the credentials" },
  { 5, "the topic does not exist, or cannot be made" },
  { 6, "any other failure of Kafka or of input and output" },
  { 7, "--until-idle ended with partitions held up: too many dead letters, or some not written" },
  { 8, "another process took its place: the same group_instance_id or transactional_id" },
  { 70, "an error of moonbus itself" },
}

local BY_CODE = {
  EINVAL = exit.USAGE, ECONFIG = exit.USAGE,
  EEVENT = exit.SOME_FAILED, EDECODE = exit.SOME_FAILED, EDELIVERY = exit.SOME_FAILED,
  EFULL = exit.SOME_FAILED, ENOENT = exit.SOME_FAILED, EREPLAY = exit.SOME_FAILED,
  ESCRIPT = exit.SCRIPT,
  ECONNECT = exit.UNREACHABLE, EAUTH = exit.UNREACHABLE,
  ETOPIC = exit.TOPIC,
  EBREAKER = exit.BREAKER, EFENCED = exit.FENCED,
  EINTERNAL = exit.INTERNAL, ENOMEM = exit.INTERNAL,
}

--- The exit code for an error code; 6 for those without one of their own.
function exit.status(code)
  return BY_CODE[code] or exit.KAFKA
end

--- Write "moonbus: CODE: what; what to do" to stderr. text may begin with its code already.
function exit.say(text, code)
  text = tostring(text)
  if code and text:sub(1, #code + 2) ~= code .. ": " then text = code .. ": " .. text end
  core.say(code and "error" or "info", "moonbus: ", text)
end

--- Write what was done to stderr.
function exit.note(text)
  core.say("info", "", text)
end

-- What an interrupt cuts off fails with one of these.
local CUT_OFF = { ECONNECT = true, ETIMEOUT = true }

--- Whether a failure is only that an interrupt cut a wait off: no failure of the program's.
function exit.is_cut_off(code)
  return CUT_OFF[code] and task.interrupted(true) or false
end

--- Say what failed and return the exit code for it, or the one given.
function exit.report(err, code, status)
  if exit.is_cut_off(code) then return exit.OK end
  exit.say(err, code)
  return status or exit.status(code)
end

local Stop = { __tostring = function(self) return self.text end }

--- Leave the command from anywhere below main with a message and an exit code.
function exit.raise(err, code, status)
  error(setmetatable({ text = err, code = code, status = status }, Stop), 0)
end

--- What exit.raise raised: says it and returns the exit code; nil for any other error value.
function exit.caught(reason)
  if getmetatable(reason) ~= Stop then return nil end
  return exit.report(reason.text, reason.code, reason.status)
end

return exit
