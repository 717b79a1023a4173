-- api.lua: moonbus(3), the C API, from the public headers' comments and declarations.
-- Must not know any function or type.
-- Used by man.lua.
local header = require "header"
local mdoc = require "mdoc"

local add_text, argument = mdoc.add_text, mdoc.argument

local api = {}

-- ---- comments ----

local writers = {}

-- Functions are named without the brackets, as in most of the comments.
function writers.text(out, block)
  add_text(out, (block.text:gsub("([%w_]+)%(%)", "%1")))
end

function writers.code(out, block) mdoc.add_literal(out, block.lines) end

function writers.labels(out, block)
  local items, widest = {}, ""
  for _, each in ipairs(block) do
    items[#items + 1] = { tag = argument(each.label), text = each.text:gsub("([%w_]+)%(%)", "%1") }
    if #each.label > #widest then widest = each.label end
  end
  mdoc.add_list(out, items, "-width " .. widest)
end

function writers.bullets(out, block)
  out[#out + 1] = ".Bl -bullet"
  for _, text in ipairs(block) do
    out[#out + 1] = ".It"
    add_text(out, text)
  end
  out[#out + 1] = ".El"
end

local function add_blocks(out, blocks)
  for i, block in ipairs(blocks) do
    if i > 1 and block.kind == "text" then out[#out + 1] = ".Pp" end
    writers[block.kind](out, block)
  end
end

-- ---- declarations ----

-- "a, void (*b)(int, int), c" -> its three parts
local function split(text)
  local list, depth, from = {}, 0, 1
  for at, char in text:gmatch "()([(),])" do
    if char == "(" then depth = depth + 1
    elseif char == ")" then depth = depth - 1
    elseif depth == 0 then
      list[#list + 1], from = text:sub(from, at - 1), at + 1
    end
  end
  list[#list + 1] = text:sub(from)
  for i, each in ipairs(list) do list[i] = each:match "^%s*(.-)%s*$" end
  return list
end

-- A type or parameter, which is never punctuation or a macro of mdoc.
local function quoted(text)
  return '"' .. mdoc.escaped(text) .. '"'
end

local tags = {}

local function add_call(out, result, name, list)
  out[#out + 1] = ".It Xo"
  out[#out + 1] = ".Ft " .. quoted((result:gsub(" $", "")))
  out[#out + 1] = ".Fo " .. name
  for _, each in ipairs(split(list:sub(2, -2))) do out[#out + 1] = ".Fa " .. quoted(each) end
  out[#out + 1] = ".Fc"
  out[#out + 1] = ".Xc"
end

-- What a compiler alone needs (MB_EXPORT, MB_MUST_CHECK) is left out.
tags["function"] = function(out, item)
  add_call(out, item.code:gsub("%s+", " "):match "^MB_EXPORT (.-)([%w_]+)(%b())")
end

-- A pointer to a function is shown as one.
function tags.type(out, item)
  local result, name, list = item.code:gsub("%s+", " "):match "^([^{(]*)(%b())(%b());$"
  if result then return add_call(out, result, name, list) end
  out[#out + 1] = ".It Vt " .. item.name
end

function tags.macro(out, item) out[#out + 1] = ".It Dv " .. item.name end

-- ---- what a type or macro consists of ----

local function lines_of(text)
  local lines = {}
  for line in (text .. "\n"):gmatch "(.-)\n" do lines[#lines + 1] = line end
  return lines
end

local function add_members(out, members)
  local items = {}
  for _, each in ipairs(members) do
    items[#items + 1] = { tag = "Vt " .. quoted(each.code), text = each.text or "" }
  end
  mdoc.add_list(out, items, "-width Ds -compact")
end

local bodies = {}

function bodies.type(out, item)
  local members = header.members(item.code)
  if members then
    if #item.blocks == 0 then out[#out + 1] = "The members are as follows:" end
    out[#out + 1] = ".Pp"
    add_members(out, members)
  elseif item.code:find("{", 1, true) then mdoc.add_literal(out, lines_of(item.code))
  elseif item.code:find "^typedef struct [%w_]+ [%w_]+;$" then
    if #item.blocks == 0 then out[#out + 1] = "An opaque type." end
  elseif not item.code:find("(", 1, true) then
    out[#out + 1] = ".Pp"
    out[#out + 1] = ".Dl " .. mdoc.escaped(item.code)
  end
end

-- A list of X(name, number, "meaning"), or a value, unless that is for the preprocessor alone.
function bodies.macro(out, item)
  local items = {}
  for name, number, meaning in item.code:gmatch 'X%((%u+), (%-?%d+), "(.-)"%)' do
    items[#items + 1] = { tag = ("Dv MB_%s Pq %s"):format(name, number), text = meaning }
  end
  local value = item.code:gsub("%s*\\\n%s*", " "):match "^#define [%w_]+ +(.*)$"
  if #items > 0 then
    out[#out + 1] = ".Pp"
    mdoc.add_list(out, items, "-width Ds -compact")
  elseif not value:find "MB__" then
    add_text(out, "Its value is " .. value:gsub("%s*/%*%s*(.-)%s*%*/$", " (%1)") .. ".")
  end
end

-- ---- the page ----

local function add_item(out, item)
  tags[item.kind](out, item)
  if item.shares then out[#out + 1] = "As above." end
  add_blocks(out, item.blocks)
  if bodies[item.kind] then bodies[item.kind](out, item) end
end

local function add_section(out, section, title)
  out[#out + 1] = ".Ss " .. title
  local open = false
  for _, item in ipairs(section.items) do
    if item.kind == "text" then
      if open then out[#out + 1] = ".El\n.Pp" end
      open = false
      add_blocks(out, item.blocks)
    else
      if not open then out[#out + 1] = ".Bl -tag -width Ds" end
      open = true
      add_item(out, item)
    end
  end
  if open then out[#out + 1] = ".El" end
end

local function capital(title) return title:sub(1, 1):upper() .. title:sub(2) end

-- The comment at the top: its text; its code is an example; the line before its labels is a title.
local function add_head(out, head)
  local example
  for i, block in ipairs(head) do
    local following = head[i + 1]
    if block.kind == "code" then example = block
    elseif block.kind == "text" and following and following.kind == "labels" then
      out[#out + 1] = ".Ss " .. block.text
    else
      if block.kind == "text" and i > 1 then out[#out + 1] = ".Pp" end
      writers[block.kind](out, block)
    end
  end
  return example
end

--- The page, from the text of moonbus.h and of moonbus_lua.h.
function api.page(text, lua_text)
  local head, sections = header.parse(text)
  local lua_head, lua_sections = header.parse(lua_text)
  local out = mdoc.head("moonbus", 3, "an event bus on Apache Kafka, for programs in C and C++")
  out[#out + 1] = ".Sh LIBRARY"
  add_text(out, "libmoonbus; pkg-config --cflags --libs moonbus prints what a compiler needs, with "
    .. "moonbus_lua.h: moonbus-lua.")
  out[#out + 1] = ".Sh SYNOPSIS\n.In moonbus.h\n.In moonbus_lua.h"
  out[#out + 1] = ".Sh DESCRIPTION"
  local example = add_head(out, head)
  for _, section in ipairs(sections) do
    if section.title then add_section(out, section, capital(section.title)) end
  end
  lua_head[1].text = lua_head[1].text:gsub("^[^:]*: ", "")
  table.insert(lua_sections[1].items, 1, { kind = "text", blocks = lua_head })
  add_section(out, lua_sections[1], "moonbus_lua.h")
  out[#out + 1] = ".Sh EXAMPLES"
  writers.code(out, example)
  mdoc.add_see_also(out, { { "moonbus", 1 }, { "moonbus-options", 5 } })
  return out
end

return api
