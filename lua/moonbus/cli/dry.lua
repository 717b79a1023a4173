--- Buses that touch nothing: what `check` gives a script, so that it runs through without a broker.
-- Events are still checked against their types.
local dry = {}

local methods = {}

local function yes() return true end

function methods.connect(self)
  self.dry_connected = true
  return true
end

function methods.disconnect(self)
  self.dry_connected = false
  return true
end

function methods.is_connected(self) return self.dry_connected or false end

function methods.is_consuming() return false end

function methods.publish(self, events, how)
  if type(events) ~= "table" then error("publish takes an event or a list of events", 2) end
  if not self.dry_connected then
    error("ESTATE: the bus is not connected; call bus:connect() first", 2)
  end
  local list = events.event_type ~= nil and { events } or events
  local receipt = { count = #list }
  if not (how and how.background) then receipt.partitions, receipt.offsets = {}, {} end
  for i, event in ipairs(list) do
    local ok, why = pcall(self.native.encode, self.native, event)
    if not ok then error(("event %d: %s"):format(i, tostring(why)), 2) end
    if receipt.partitions then receipt.partitions[i], receipt.offsets[i] = 0, 0 end
  end
  return receipt
end

function methods.get_dlq_messages() return {} end

function methods.get_dlq_message_count() return 0 end

function methods.release_brake() return 0 end

function methods.get_topic_info(self)
  return {
    topic = self.config.topic_name, partitions = 1, consumer_group = self.config.consumer_group,
    connected = self:is_connected(), consuming = false,
  }
end

methods.flush, methods.stop_consuming, methods.replay_dlq_message, methods.read = yes, yes, yes, yes

--- Make one bus dry.
function dry.apply(bus)
  for name, method in pairs(methods) do bus[name] = method end
end

return dry
