-- mdoc.lua: text, arguments and lists in mdoc, the language of man pages.
-- Must not know what a page is about.
-- Used by man.lua and the files beside this one. A page is a list of lines.
local mdoc = {}

local DATE = "December 1, 2026" -- of the last change that matters to readers
local WIDTH = 78

--- A backslash starts an escape in mdoc.
function mdoc.escaped(text)
  return (text:gsub("\\", "\\e"))
end

--- One argument of a macro.
function mdoc.argument(text)
  text = mdoc.escaped(text):gsub('"', '\\(dq')
  if text:find " " then return '"' .. text .. '"' end
  -- a word that is the name of a macro, or punctuation, is not text without this
  if text:match "^%u%l?$" or text:match "^%p$" then return "\\&" .. text end
  return text
end

--- Running text: a sentence starts a line, and no line is long or starts as a macro does.
function mdoc.add_text(out, text)
  local line = ""
  local function flush()
    if line ~= "" then out[#out + 1] = line:match "^['.]" and "\\&" .. line or line end
    line = ""
  end
  for word in mdoc.escaped(text):gmatch "%S+" do
    if line ~= "" and #line + 1 + #word > WIDTH then flush() end
    line = line == "" and word or line .. " " .. word
    if word:match "[.?!]%)?$" and not word:match "^%.+$" then flush() end
  end
  flush()
end

--- A list of { tag = (mdoc), text = } or { tag =, lines = (mdoc) }. how is what .Bl receives after
--- -tag: the width of the tags, that of indented text unless given.
function mdoc.add_list(out, items, how)
  if #items == 0 then return end
  out[#out + 1] = ".Bl -tag " .. (how or "-width Ds")
  for _, item in ipairs(items) do
    out[#out + 1] = ".It " .. item.tag
    if item.text then mdoc.add_text(out, item.text) end
    for _, line in ipairs(item.lines or {}) do out[#out + 1] = line end
  end
  out[#out + 1] = ".El"
end

--- Lines shown as they are.
function mdoc.add_literal(out, lines)
  out[#out + 1] = ".Bd -literal"
  for _, line in ipairs(lines) do
    line = mdoc.escaped(line)
    out[#out + 1] = line:match "^['.]" and "\\&" .. line or line
  end
  out[#out + 1] = ".Ed"
end

--- "see also" of a list of { name, section }, in the order that mandoc requires.
function mdoc.add_see_also(out, refs)
  table.sort(refs, function(a, b)
    if a[2] ~= b[2] then return a[2] < b[2] end
    return a[1] < b[1]
  end)
  out[#out + 1] = ".Sh SEE ALSO"
  for i, ref in ipairs(refs) do
    out[#out + 1] = (".Xr %s %d%s"):format(ref[1], ref[2], i < #refs and " ," or "")
  end
end

--- The first lines of a page.
function mdoc.head(name, section, what)
  return { ".Dd " .. DATE, (".Dt %s %d"):format(name:upper(), section), ".Os", ".Sh NAME",
    ".Nm " .. name, ".Nd " .. what }
end

return mdoc
