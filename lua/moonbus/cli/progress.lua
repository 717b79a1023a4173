--- A line of progress on stderr, for a terminal; anywhere else it stays silent.
local base = require "moonbus.base"
local core = require "moonbus.core"

local io, math, setmetatable = base.io, base.math, base.setmetatable

local progress = {}

local EVERY_S = 0.1
local WIDTH = 30

local Bar = {}
Bar.__index = Bar

function progress.new(visible)
  visible = visible and not core.says_json()
  return setmetatable({ visible = visible, begin = core.now(), shown_at = 0 }, Bar)
end

--- Show how far it is: events done, and bytes of so many (nil: unknown).
function Bar:show(count, bytes, size)
  if not self.visible then return end
  local now = core.now()
  if now - self.shown_at < EVERY_S then return end
  self.shown_at = now
  local rate = count / math.max(now - self.begin, 1e-3)
  local bar = ""
  if size then
    local share = math.min(bytes / size, 1)
    local full = math.floor(share * WIDTH)
    bar = ("[%s%s] %3d %% "):format(("="):rep(full), (" "):rep(WIDTH - full), share * 100)
  end
  io.stderr:write(("\r%s%d events, %.0f/s\27[K"):format(bar, count, rate))
  self.dirty = true
end

--- Take the line away, before anything else is written.
function Bar:clear()
  if not self.dirty then return end
  io.stderr:write("\r\27[K")
  self.dirty = false
end

return progress
