--- Dead letters for eyes and for files: a line, a page, a line of JSON that loses no byte.
local base = require "moonbus.base"
local moonbus = require "moonbus"
local record = require "moonbus.cli.record"

local ipairs, math, table, tonumber = base.ipairs, base.math, base.table, base.tonumber
local type = base.type

local letters = {}

local plain, encode = record.plain, moonbus.json.encode

-- ---- a line ----

local function header(row, name)
  local value = row.headers[name]
  return type(value) == "string" and value or nil
end

-- How often it was tried; eventsource-py notes the retries alone.
local function attempts(row)
  local retries = tonumber(header(row, "dlq_retry_count"))
  return header(row, "dlq_attempts") or (retries and ("%.0f"):format(retries + 1))
end

--- Where, when, what, why; and where it came from.
function letters.line(row)
  return ("%s[%d]@%.0f %s %s %s %s: %s (from %s[%s]@%s, attempts %s, replayed %d)"):format(
    row.topic, row.partition, row.offset, plain(header(row, "dlq_timestamp")),
    plain(record.event_type(row)), plain(header(row, "dlq_reason")),
    plain(header(row, "dlq_error_type")), plain(header(row, "dlq_error_message")),
    plain(header(row, "dlq_original_topic")), plain(header(row, "dlq_original_partition")),
    plain(header(row, "dlq_original_offset")), plain(attempts(row)),
    row.replay_count)
end

--- One line of JSON, as tail prints records, with replay_count.
function letters.json(row)
  return record.json(row, (',"replay_count":%d'):format(row.replay_count))
end

-- ---- a page ----

-- JSON text with a line for each member; its digits and their order stay.
local function pretty(text)
  local out, depth, at = {}, 0, 1
  local function newline() out[#out + 1] = "\n" .. ("  "):rep(depth) end
  while at <= #text do
    local c = text:sub(at, at)
    local stop = at
    if c == '"' then
      stop = at + 1
      while text:sub(stop, stop) ~= '"' do
        stop = stop + (text:sub(stop, stop) == "\\" and 2 or 1)
      end
      out[#out + 1] = text:sub(at, stop)
    elseif text:find("^[{%[]%s*[}%]]", at) then
      stop = text:find("[}%]]", at)
      out[#out + 1] = c .. text:sub(stop, stop)
    elseif c == "{" or c == "[" then
      depth = depth + 1
      out[#out + 1] = c
      newline()
    elseif c == "}" or c == "]" then
      depth = depth - 1
      newline()
      out[#out + 1] = c
    elseif c == "," then
      out[#out + 1] = c
      newline()
    elseif c == ":" then
      out[#out + 1] = ": "
    elseif not c:find "%s" then
      out[#out + 1] = c
    end
    at = stop + 1
  end
  return table.concat(out)
end

local function shown(bytes)
  if bytes == moonbus.null or bytes == nil then return "(null)" end
  if encode(bytes) then return plain(bytes) end
  return "0x" .. (bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

-- Text of several lines, safe for a terminal.
local function block(text, indent)
  local lines = {}
  text = text:gsub("\t", "  ")
  for line in (text .. "\n"):gmatch "([^\n]*)\n" do lines[#lines + 1] = indent .. shown(line) end
  return table.concat(lines, "\n")
end

--- Everything: place, headers in their order, the value with a line for each member, the traceback.
function letters.page(row)
  local out = { letters.line(row), "", "key", "  " .. shown(row.key), "headers" }
  for _, each in ipairs(row.header_list) do
    if each[1] ~= "dlq_traceback" then
      out[#out + 1] = ("  %s: %s"):format(plain(each[1]), shown(each[2]))
    end
  end
  out[#out + 1] = "value"
  local json = row.value and moonbus.json.decode(row.value) ~= nil
  out[#out + 1] = json and block(pretty(row.value), "  ") or "  " .. shown(row.value)
  local trace = header(row, "dlq_traceback")
  if trace then
    out[#out + 1] = "traceback"
    out[#out + 1] = block(trace, "  ")
  end
  return table.concat(out, "\n")
end

-- ---- a line that loses no byte ----

local DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

local function base64(bytes)
  return (bytes:gsub("..?.?", function(group)
    local a, b, c = group:byte(1, 3)
    local number = a * 65536 + (b or 0) * 256 + (c or 0)
    local text = {}
    for i = 1, 4 do
      local digit = math.floor(number / 64 ^ (4 - i)) % 64 + 1
      text[i] = i <= #group + 1 and DIGITS:sub(digit, digit) or "="
    end
    return table.concat(text)
  end))
end

-- A string where the bytes are UTF-8, else { "base64": ... }.
local function exact(bytes)
  if bytes == nil or bytes == moonbus.null then return "null" end
  return encode(bytes) or ('{"base64":"%s"}'):format(base64(bytes))
end

--- topic, partition, offset, timestamp, key, value, headers: a list of [name, value].
function letters.export(row)
  local headers = {}
  for i, each in ipairs(row.header_list) do
    headers[i] = ("[%s,%s]"):format(exact(each[1]), exact(each[2]))
  end
  return ('{"topic":%s,"partition":%d,"offset":%.0f,"timestamp":%.0f,"key":%s,"value":%s,'
    .. '"headers":[%s]}'):format(encode(row.topic), row.partition, row.offset, row.timestamp,
    exact(row.key), exact(row.value), table.concat(headers, ","))
end

return letters
