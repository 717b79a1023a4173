--- A record of a topic for eyes (one compact line) and for programs (one line of JSON).
local base = require "moonbus.base"
local moonbus = require "moonbus"

local ipairs, pairs, table, tostring = base.ipairs, base.pairs, base.table, base.tostring
local type = base.type

local encode, decode = moonbus.json.encode, moonbus.json.decode

local record = {}

local BASE = {
  event_id = true, event_type = true, event_version = true, occurred_at = true,
  aggregate_id = true, aggregate_type = true, aggregate_version = true, tenant_id = true,
  actor_id = true, correlation_id = true, causation_id = true, metadata = true,
}

local function hex(bytes)
  return (bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

-- Bytes as a JSON string; what is no UTF-8 becomes hexadecimal, and the second result "hex".
local function json_text(bytes)
  if bytes == nil or bytes == moonbus.null then return "null" end
  local text = encode(bytes)
  if text then return text, "text" end
  return '"' .. hex(bytes) .. '"', "hex"
end

-- The value as JSON, and how it is to be read: json, text, hex, null. JSON stays as it was written,
-- digits and order of fields included, unless it runs over several lines.
local function json_value(bytes)
  if not bytes then return "null", "null" end
  local decoded = decode(bytes)
  if decoded == nil then return json_text(bytes) end
  if not bytes:find("[\r\n]") then return bytes, "json" end
  return encode(decoded), "json"
end

local function json_headers(headers)
  local names, parts = {}, {}
  for name in pairs(headers) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do
    parts[i] = json_text(name) .. ":" .. json_text(headers[name])
  end
  return "{" .. table.concat(parts, ",") .. "}"
end

--- One line of JSON: topic, partition, offset, timestamp, key, headers, value, encoding (how the
-- value is to be read: json, text, hex, null), and the members of more (name, JSON text, ...).
function record.json(row, more)
  local value, encoding = json_value(row.value)
  local key = json_text(row.key)
  return ('{"topic":%s,"partition":%d,"offset":%.0f,"timestamp":%.0f,"key":%s,"headers":%s,'
    .. '"value":%s,"encoding":"%s"%s}'):format(encode(row.topic), row.partition, row.offset,
    row.timestamp, key, json_headers(row.headers), value, encoding, more or "")
end

--- The record's event type: of the header, or of the value; nil if neither has one.
function record.event_type(row)
  local name = row.headers.event_type
  if type(name) == "string" then return name end
  local value = row.value and decode(row.value)
  name = type(value) == "table" and value.event_type
  return type(name) == "string" and name or nil
end

-- No control character of a record reaches the terminal.
local function plain(text)
  if text == nil or text == moonbus.null then return "-" end
  text = tostring(text):gsub("[%z\1-\31\127]", function(c) return ("\\x%02x"):format(c:byte()) end)
  if not encode(text) then
    return (text:gsub("[\128-\255]", function(c) return ("\\x%02x"):format(c:byte()) end))
  end
  return (text:gsub("\194([\128-\159])", function(c) return ("\\u%04x"):format(c:byte()) end))
end
record.plain = plain

local function own_fields(value)
  local names, parts = {}, {}
  for name in pairs(value) do
    if not BASE[name] then names[#names + 1] = name end
  end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  for i, name in ipairs(names) do
    parts[i] = plain(name) .. "=" .. plain(encode(value[name]) or "?")
  end
  return table.concat(parts, " ")
end

local function shown_value(bytes)
  if not bytes then return "(no value)" end
  local value = decode(bytes)
  if type(value) == "table" and value ~= moonbus.null and #value == 0 then
    return own_fields(value)
  end
  if value ~= nil or encode(bytes) then return plain(bytes) end
  return "0x" .. hex(bytes)
end

--- One line for eyes: where, when, type, key, the event's own fields.
function record.text(row)
  local when = row.timestamp >= 0 and moonbus.timestamp(row.timestamp / 1000) or "-"
  when = when:gsub("000Z$", "Z") -- Kafka's are milliseconds
  local key = row.key and (encode(row.key) and plain(row.key) or "0x" .. hex(row.key)) or "-"
  return (("%s[%d]@%.0f %s %s %s %s"):format(row.topic, row.partition, row.offset, when,
    plain(record.event_type(row)), key, shown_value(row.value)):gsub(" +$", ""))
end

return record
