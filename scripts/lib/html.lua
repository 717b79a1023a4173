#!/usr/bin/env luajit
-- html.lua: writes the README and the manual as one page of HTML, with a table of contents.
-- Must not know what the documents say: cmark-gfm converts them; this adds ids to headings, and
-- turns links between the documents into links within the page. Links to other files are relative
-- to the repository's root, whose layout an installation keeps beside the page.
-- Called by the build. Needs cmark-gfm, and nothing that was built.
--
--   scripts/lib/html.lua OUT [CONVERTER]     CONVERTER is cmark-gfm on the PATH unless given

local root = (arg[0]:match("^(.*)/[^/]*$") or ".") .. "/../.."

package.path = root .. "/scripts/lib/?.lua;" .. package.path

local files = require "files"

local function fail(message, ...)
  io.stderr:write("html.lua: ", message:format(...), "\n")
  os.exit(2)
end

local function quoted(word) return "'" .. word:gsub("'", "'\\''") .. "'" end

-- What a program prints. Its exit status comes as the last line, which io.popen does not give.
local function output_of(program, arguments)
  local pipe = assert(io.popen(("%s %s; echo $?"):format(quoted(program), arguments)))
  local text, status = pipe:read("*a"):match "^(.-)(%d+)\n$"
  pipe:close()
  if status ~= "0" then
    fail("%s: expected exit status 0, got %s; the line above has the cause", program,
      tostring(status))
  end
  return text
end

-- ---- the documents ----

-- In the order in which they are read: { path =, folder =, id = }
local function documents()
  local list = { { path = "README.md", folder = "", id = "readme" },
    { path = "lua/manual/README.md", folder = "lua/manual/", id = "manual" } }
  for path in output_of("ls", quoted(root) .. "/lua/manual/[0-9]*.md"):gmatch "[^\n]+" do
    local name = path:match "[^/]*$"
    list[#list + 1] = { path = "lua/manual/" .. name, folder = "lua/manual/",
      id = name:match "^%d+%-(.*)%.md$" }
  end
  return list
end

-- "lua/manual/" and "../../README.md" -> "README.md"
local function resolved(folder, path)
  local parts = {}
  for part in (folder .. path):gmatch "[^/]+" do
    if part == ".." then table.remove(parts) elseif part ~= "." then parts[#parts + 1] = part end
  end
  return table.concat(parts, "/")
end

local function target_of(href, document, by_path)
  if href:find "^%a[%w+.-]*:" then return href end
  local file, anchor = href:match "^([^#]*)#?(.*)$"
  local path = file == "" and document.path or resolved(document.folder, file)
  local page = by_path[path]
  if not page then return path .. (anchor == "" and "" or "#" .. anchor) end
  return "#" .. page.id .. (anchor == "" and "" or "/" .. anchor)
end

-- ---- headings ----

local ENTITIES = { quot = '"', amp = "&", lt = "<", gt = ">" }

-- The anchor that GitHub gives to a heading.
local function slug(html)
  local text = html:gsub("<[^>]*>", ""):gsub("&(%l+);", ENTITIES):lower()
  return (text:gsub("[^%w_ \128-\255-]", ""):gsub(" ", "-"))
end

-- Gives each heading an id, and notes the page's title and its sections.
local function with_ids(html, document)
  local seen = {}
  document.sections = {}
  return (html:gsub("<h(%d)>(.-)</h%d>", function(level, inner)
    local id, name = document.id, slug(inner)
    if level == "1" then document.title = inner
    else
      local count = seen[name] or 0
      seen[name] = count + 1
      id = ("%s/%s%s"):format(document.id, name, count == 0 and "" or "-" .. count)
    end
    if level == "2" then table.insert(document.sections, { id = id, title = inner }) end
    return ('<h%s id="%s">%s</h%s>'):format(level, id, inner, level)
  end))
end

-- ---- the page ----

local function body_of(document, converter, by_path)
  local html = output_of(converter, "--extension table " .. quoted(root .. "/" .. document.path))
  html = with_ids(html:gsub("<!%-%- raw HTML omitted %-%->\n?", ""), document)
  html = html:gsub('<a href="([^"]*)">', function(href)
    return ('<a href="%s">'):format(target_of(href, document, by_path))
  end)
  html = html:gsub("<table>", '<div class="wide">\n<table>'):gsub("</table>", "</table>\n</div>")
  return ('<article>\n<p class="up"><a href="#contents">Contents</a></p>\n%s</article>\n')
    :format(html)
end

local function link(id, title)
  return ('<a href="#%s">%s</a>'):format(id, (title:gsub("</?a[^>]*>", "")))
end

local function contents_of(list)
  local out = { '<nav id="contents">', "<h2>Contents</h2>", "<ul>" }
  for _, document in ipairs(list) do
    out[#out + 1] = "<li>" .. link(document.id, document.title)
    if #document.sections > 0 then
      out[#out + 1] = "<ul>"
      for _, section in ipairs(document.sections) do
        out[#out + 1] = "<li>" .. link(section.id, section.title) .. "</li>"
      end
      out[#out + 1] = "</ul>"
    end
    out[#out + 1] = "</li>"
  end
  out[#out + 1] = "</ul>\n</nav>\n"
  return table.concat(out, "\n")
end

local PAGE = [[
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>The moonbus manual</title>
<style>
%s</style>
</head>
<body>
%s<main>
%s</main>
</body>
</html>
]]

local function render(converter)
  local list, by_path, bodies = documents(), {}, {}
  for _, document in ipairs(list) do by_path[document.path] = document end
  for i, document in ipairs(list) do
    bodies[i] = body_of(document, converter, by_path)
    if not document.title then fail("%s has no heading of the first level", document.path) end
  end
  return PAGE:format(files.read(root .. "/scripts/lib/html/manual.css", fail), contents_of(list),
    table.concat(bodies))
end

local out, converter = arg[1], arg[2] or "cmark-gfm"
if not out or out == "" or arg[3] then fail "usage: html.lua OUT [CONVERTER]" end
files.write(out, render(converter), fail)
