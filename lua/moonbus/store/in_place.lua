--- A read model that is rebuilt where it is, because nothing says which tables it has: emptied, and
-- filled again. Readers see it grow. Until it is done, live events are left to the rebuild: a
-- handler that gets one notes that, and does not apply it.
local base = require "moonbus.base"

local error, setmetatable = base.error, base.setmetatable

local in_place = {}

local InPlace = { in_place = true }
InPlace.__index = InPlace

--- Empty it. Raises.
function in_place.open(projection)
  local store = projection.store:twin()
  local self = setmetatable({ name = projection.name, store = store }, InPlace)
  local claim = store.dialect.claim_rebuild
  if claim then store:on_connect(function(tx) claim(tx, self.name) end) end
  self.id = store:transaction(function(tx)
    store:hold_projection(self.name)
    local id = store:replace_marks(self.name, nil, true)
    projection.empty(tx)
    return id
  end)
  return self
end

--- Before a commit: it must still be ours. Raises.
function InPlace:check()
  if self.store:projection(self.name).marks ~= self.id then
    error(("ESTORE: another rebuild of projection %s has begun"):format(self.name), 0)
  end
end

--- Begin the transaction of the end, which keeps the projection's other writers out. Its positions:
-- list of { topic =, part =, position =, applied = }. Raises.
function InPlace:hold()
  self.store:enter(nil)
  self.store:hold_projection(self.name)
  self:check()
  return self.store:positions(self.id)
end

--- End it without effect.
function InPlace:release() self.store:undo() end

--- Have live events applied again, and end the transaction. Raises.
function InPlace:take()
  self.store:replace_marks(self.name, self.id)
  self.store:leave()
end

--- Release it.
function InPlace:close() self.store:close() end

return in_place
