-- header.lua: a public C header as data: its sections, and in each its declarations and comments.
-- Must not know any declaration by its name.
-- Used by api.lua. It reads the form that the headers have: a declaration starts at the first
-- column, its comment is directly before it, and /* ---- title ---- */ starts a section.
--
--   text = header.blocks(lines)       a comment as { kind =, ... }, in order:
--     { kind = "text", text = }             running text
--     { kind = "code", lines = }            indented lines
--     { kind = "labels", { label =, text = }, ... }
--     { kind = "bullets", text, ... }
--   header.parse(text) -> head, sections; head is the comment at the top, as blocks
--     section = { title = (nil before the first), items = }
--     item = { kind = "text", blocks = }, or { kind = "function" | "type" | "macro", name =,
--              code = (without comment), blocks = (may be empty) }
local header = {}

-- ---- comments ----

-- The lines between /* and */, without the stars. The text of /** starts a column further right.
local function inside(comment)
  local lines, margin = {}, comment:match "^/%*%*" and "^ %*? ? ?" or "^ %*? ?"
  comment = comment:gsub("^/%*+ ?", ""):gsub("%s*%*/$", "")
  for line in (comment .. "\n"):gmatch "(.-)\n" do
    lines[#lines + 1] = #lines == 0 and line or (line:gsub(margin, ""))
  end
  return lines
end

local function kind_of(line, current)
  local label, rest = line:match "^%s*(%a+)%s%s+(%S.*)$"
  if label then return "label", label, rest end
  local bullet = line:match "^%- (.*)$"
  if bullet then return "bullet", bullet end
  local kind = current and current.kind
  if line:match "^ " and (kind == "labels" or kind == "bullets") then return "more", line end
  return line:match "^ " and "code" or "text", line
end

local adders = {}

function adders.label(current, add, label, rest)
  if not current or current.kind ~= "labels" then current = add { kind = "labels" } end
  current[#current + 1] = { label = label, text = rest }
end

function adders.bullet(current, add, text)
  if not current or current.kind ~= "bullets" then current = add { kind = "bullets" } end
  current[#current + 1] = text
end

function adders.more(current, _, line)
  local last = current[#current]
  if type(last) == "table" then last.text = last.text .. " " .. line
  else current[#current] = last .. " " .. line end
end

function adders.code(current, add, line)
  if not current or current.kind ~= "code" then current = add { kind = "code", lines = {} } end
  current.lines[#current.lines + 1] = line:sub(3)
end

function adders.text(current, add, line)
  if current and current.kind == "text" then current.text = current.text .. " " .. line
  else add { kind = "text", text = line } end
end

--- A comment's lines as blocks; an empty line ends one.
function header.blocks(lines)
  local blocks, current = {}, nil
  local function add(block)
    blocks[#blocks + 1], current = block, block
    return block
  end
  for _, line in ipairs(lines) do
    if line:match "^%s*$" then current = nil
    else
      local kind, first, second = kind_of(line, current)
      adders[kind](current, add, first, second)
    end
  end
  return blocks
end

-- ---- declarations ----

-- How a declaration that starts at this line ends, and what it is; nil if the line starts none.
local function ending(line)
  if line:match "^MB_EXPORT" then return "function", ";$" end
  if line:match "^typedef.*{$" then return "type", "^}.*;$" end
  if line:match "^typedef" then return "type", ";$" end
  if line:match "^#define %u" then return "macro", "[^\\]$" end
end

local function name_of(kind, code)
  if kind == "function" then return code:match "([%w_]+)%(" end
  if kind == "macro" then return code:match "^#define ([%w_]+)" end
  return code:match "^typedef [^{(]*%(%*([%w_]+)%)" or code:match "([%w_]+);$"
end

-- Iterates over the parts of a header: kind ("comment", "blank", "function", ...), text. What #if
-- chooses, which is for compilers, is left out.
local function parts(text)
  local next_line, skipped = text:gmatch "([^\n]*)\n", false
  return function()
    for line in next_line do
      if line:match "^#if defined" then skipped = true end
      if line == "#endif" then skipped = false end
      if line == "" then return "blank", line end
      local kind, last = ending(skipped and "" or line)
      if line:match "^/%*" then kind, last = "comment", "%*/$" end
      if kind then
        local lines = { line }
        while not line:match(last) do
          line = assert(next_line(), "a declaration or comment does not end")
          lines[#lines + 1] = line
        end
        return kind, table.concat(lines, "\n")
      end
    end
  end
end

-- Adds a declaration; one without a comment, directly after another, shares that one's comment.
local function add_declaration(section, kind, code, comment, follows)
  local name = name_of(kind, code)
  if name:match "^MB__" or name:match "_H$" then return follows end
  local item = { kind = kind, name = name, code = code, blocks = {} }
  if comment then item.blocks = header.blocks(inside(comment))
  elseif follows then follows.shared, item.shares = true, follows end
  table.insert(section.items, item)
  return item
end

--- See the top of the file.
function header.parse(text)
  local section = { items = {} }
  local head, sections, comment, follows = nil, { section }, nil, nil
  for kind, part in parts(text) do
    local title = part:match "^/%* %-%-%-%- (.-) %-+ %*/$"
    if title then
      section, comment, follows = { title = title, items = {} }, nil, nil
      sections[#sections + 1] = section
    elseif kind == "comment" then
      if not head then head = header.blocks(inside(part)) else comment, follows = part, nil end
    elseif kind == "blank" then
      if comment then
        table.insert(section.items, { kind = "text", blocks = header.blocks(inside(comment)) })
      end
      comment, follows = nil, nil
    else
      follows, comment = add_declaration(section, kind, part, comment, follows), nil
    end
  end
  return head, sections
end

--- The members of a struct or enum with their comments, as { code =, text = (or nil) }; nil if the
--- declaration is neither, or has another one inside.
function header.members(code)
  local what, body = code:match "^typedef (%l+)[^{]*{(.*)}"
  if not body or body:gsub("/%*.-%*/", ""):find("{", 1, true) then return nil end
  body = body:gsub("\n%s*#[^\n]*", "")
    :gsub("(%u[%u_]+)%(MB__%u+%)", "%1 /* each of its names, with MB_ before it */")
  local list, at, before = {}, 1, nil
  while body:find("%S", at) do
    local from = body:find("%S", at)
    local comment, next_at = body:match("^(/%*.-%*/)()", from)
    if comment then
      local text = comment:gsub("^/%*+%s*", ""):gsub("%s*%*/$", ""):gsub("\n%s*%*?%s*", " ")
      if list[1] and not body:sub(at, from):find "\n" then list[#list].text = text
      else before = text end
    else
      comment, next_at = body:match(what == "enum" and "^([^,/]*),?()" or "^([^;]*);()", from)
      list[#list + 1] = { code = (comment:gsub("%s+", " "):gsub(" $", "")), text = before }
      before = nil
    end
    at = next_at
  end
  return list
end

return header
