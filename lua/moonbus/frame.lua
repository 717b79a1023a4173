--- A handler's run in a store's transaction: what it did is kept with the mark, or undone with it.
local base = require "moonbus.base"

local error, pcall, table, unpack = base.error, base.pcall, base.table, base.unpack

local frame = {}

--- Whether a handler's results say that it failed: nil, "reason".
function frame.failed(result, reason)
  return not result and reason ~= nil
end

--- End a frame with what the handler returned, and return that.
function frame.keep(store, ...)
  if frame.failed(...) then store:undo()
  else store:leave() end
  return ...
end

local UNDONE = {}

--- Run body(tx) in a transaction, or as a part of the one a handler is in; undone if it fails.
function frame.by_hand(store, body)
  local results = {}
  local function once(tx)
    results = { body(tx) }
    if frame.failed(unpack(results, 1, 2)) then error(UNDONE, 0) end
  end
  local ok, err = pcall(store.transaction, store, once)
  if not ok and err ~= UNDONE then error(err, 0) end
  return unpack(results, 1, table.maxn(results))
end

return frame
