--- What a handler raises to say what shall become of its event; lua_handler.c reads it.
local base = require "moonbus.base"
local check = require "moonbus.check"
local names = require "moonbus.names"

local error, pairs, setmetatable = base.error, base.pairs, base.setmetatable
local tostring, type = base.tostring, base.type

local outcome = {}

local Outcome = { __tostring = function(self) return self.message end }

--- kind: "dead" or "retry"; name: what dead letters call the error. after: seconds, with "retry".
function outcome.raise(kind, name, message, after)
  error(setmetatable({ moonbus_outcome = kind, type = name, message = message, after = after },
    Outcome), 0)
end

--- From inside a handler: the event becomes a dead letter now, without retries. Does not return.
function outcome.dead(reason)
  outcome.raise("dead", "Dead", tostring(reason or "given up by its handler"))
end

--- From inside a handler: the event has failed and runs again after so many seconds, up to
-- max_retries as any other: { after = 5, reason = "..." }. Does not return.
function outcome.retry(options)
  options = options or {}
  if type(options) ~= "table" then
    error("moonbus.retry takes { after = seconds, reason = ... }", 2)
  end
  for key in pairs(options) do
    if key ~= "after" and key ~= "reason" then
      names.no_option("moonbus.retry", key, { "after", "reason" }, 2)
    end
  end
  if options.after ~= nil then check.number(options.after, "moonbus.retry: after", 2) end
  outcome.raise("retry", "Retry", tostring(options.reason or "its handler asked for a retry"),
    options.after)
end

return outcome
