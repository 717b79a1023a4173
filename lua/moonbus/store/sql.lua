--- SQL texts as far as a store must read them: where placeholders are, and what kind of statement.
local base = require "moonbus.base"

local table, type = base.table, base.type

local sql = {}

local CLOSERS = { ["'"] = "'", ['"'] = '"', ["`"] = "`" }

-- The position after a quoted part, a comment or a dollar quote that begins there; nil: it is none.
local function skip(text, at)
  local c = text:sub(at, at)
  if CLOSERS[c] then
    local stop = text:find(CLOSERS[c], at + 1, true) -- a doubled quote is two quoted parts
    return stop and stop + 1 or #text + 1
  elseif text:sub(at, at + 1) == "--" then
    return text:find("\n", at, true) or #text + 1, true
  elseif text:sub(at, at + 1) == "/*" then
    local _, stop = text:find("*/", at + 2, true)
    return stop and stop + 1 or #text + 1, true
  elseif c == "$" then
    local tag = text:match("^%$[%a_]*%$", at)
    if not tag then return nil end
    local _, stop = text:find(tag, at + #tag, true)
    return stop and stop + 1 or #text + 1
  end
end

local function refuse(why)
  return nil, why
end

--- A parsed text: { verb = "SELECT", pieces = { text before each placeholder, ..., text after } },
-- without comments. nil and a reason if it is not one statement with `?` for each value.
function sql.parse(text)
  if type(text) ~= "string" then return refuse "the statement is a string" end
  local pieces, piece, from = {}, {}, 1
  local function close(to)
    piece[#piece + 1] = text:sub(from, to)
    pieces[#pieces + 1] = table.concat(piece)
    piece = {}
  end
  local at = 1
  while true do
    at = text:find("['\"`?;$/%-]", at)
    if not at then break end
    local past, comment = skip(text, at)
    local c = text:sub(at, at)
    if comment then
      piece[#piece + 1] = text:sub(from, at - 1) .. " "
      from, at = past, past
    elseif past then
      at = past
    elseif c == "?" then
      if text:find("^[%d?]", at + 1) then return refuse "placeholders are plain question marks" end
      close(at - 1)
      from, at = at + 1, at + 1
    elseif c == "$" and text:find("^%d", at + 1) then
      return refuse "placeholders are plain question marks, on every database"
    elseif c == ";" and text:find("^[%s;]*$", at) then
      close(at - 1)
      from = nil
      break
    elseif c == ";" then
      return refuse "one statement at a time"
    else
      at = at + 1
    end
  end
  if from then close(#text) end
  local verb = pieces[1]:match "^[%s(]*(%a+)"
  if not verb then return refuse "the statement is empty" end
  return { verb = verb:upper(), pieces = pieces }
end

return sql
