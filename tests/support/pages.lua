--- The documents as data: which pages there are, their blocks of code, links, anchors, tables and
--- sentences. What is generated (<!-- name:begin --> to <!-- name:end -->) is left out of the last
--- two.
local source = assert(os.getenv "MOONBUS_SOURCE", "MOONBUS_SOURCE is not set")

local pages = {}

--- The text of a document below root, the repository's unless given.
function pages.read(path, root)
  local file = assert(io.open((root or source) .. "/" .. path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

--- true if a file or folder is below root, the repository's unless given.
function pages.exists(path, root)
  local file = io.open((root or source) .. "/" .. path)
  if file then file:close() end
  return file ~= nil
end

-- Paths below a root, the repository's unless given, that a command prints.
local function paths(command, root)
  local pipe = assert(io.popen(("cd '%s' && %s"):format(root or source, command)))
  local list = {}
  for path in pipe:lines() do list[#list + 1] = path end
  pipe:close()
  return list
end

--- The README and the manual, in the order in which they are read.
function pages.manual()
  return paths "ls README.md && ls lua/manual/README.md && ls lua/manual/[0-9]*.md"
end

--- Every document that has links, below root, the repository's unless given.
function pages.all(root)
  return paths("ls *.md && find lua/manual src tests examples -name '*.md' | sort", root)
end

--- Each block of code: { language =, code =, line =, mark = (or nil), prints = (or nil) }
function pages.blocks(text)
  local blocks, current, mark, number = {}, nil, nil, 0
  for line in (text .. "\n"):gmatch "(.-)\n" do
    number = number + 1
    if current and line == "```" then
      if current.mark == "prints" then blocks[#blocks].prints = current.code
      else blocks[#blocks + 1] = current end
      current = nil
    elseif current then
      current.code = current.code .. line .. "\n"
    elseif line:match "^```" then
      current, mark = { language = line:sub(4), code = "", line = number, mark = mark }, nil
    elseif line ~= "" then
      mark = line:match "^<!%-%- (.-) %-%->$"
    end
  end
  return blocks
end

--- The text between a heading and the next of its level; nil if there is no such heading.
function pages.section(text, title)
  local from = select(2, text:find("\n## " .. title .. "\n", 1, true))
  return from and text:sub(from, (text:find("\n## ", from, true) or #text))
end

--- What stands in code in the first cells of a text's tables.
function pages.first_cells(text)
  local names = {}
  for cell in text:gmatch "\n|([^|\n]*)|" do
    for name in cell:gmatch "`([^`]*)`" do names[#names + 1] = name end
  end
  return names
end

-- Iterates over the lines outside blocks of code: number, line, whether it is generated.
local function prose(text)
  local next_line, number, fenced, generated = (text .. "\n"):gmatch "(.-)\n", 0, false, false
  return function()
    for line in next_line do
      number = number + 1
      if line:match "^```" then fenced = not fenced
      elseif not fenced then
        local edge = line:match "^<!%-%- %l+:(%l+) %-%->$"
        if edge then generated = edge == "begin" end
        return number, line, generated
      end
    end
  end
end

-- As a reader sees it: links are their text.
local function shown(line)
  return (line:gsub("%[([^%]]*)%]%([^)]*%)", "%1"):gsub("%*%*", ""))
end

--- Every link: { line =, target = }
function pages.links(text)
  local links = {}
  for number, line in prose(text) do
    for target in line:gsub("`[^`]*`", ""):gmatch "%]%(([^)%s]+)%)" do
      links[#links + 1] = { line = number, target = target }
    end
  end
  return links
end

--- Every heading: { level =, text = (as a reader sees it) }
function pages.headings(text)
  local headings = {}
  for _, line in prose(text) do
    local marks, title = line:match "^(#+) (.*)$"
    if marks then
      headings[#headings + 1] = { level = #marks, text = (shown(title):gsub("`", "")) }
    end
  end
  return headings
end

--- The set of anchors that a page's headings have on GitHub.
function pages.anchors(text)
  local anchors, seen = {}, {}
  for _, heading in ipairs(pages.headings(text)) do
    local name = heading.text:lower():gsub("[^%w_ \128-\255-]", ""):gsub(" ", "-")
    local count = seen[name] or 0
    seen[name] = count + 1
    anchors[count == 0 and name or name .. "-" .. count] = true
  end
  return anchors
end

--- The links of every document below root (the repository's unless given) to files and anchors that
--- are not there, as "page:line: target", and the number of links looked at.
function pages.broken_links(root)
  local count, broken = 0, {}
  for _, page in ipairs(pages.all(root)) do
    local folder = page:match "^(.*/)" or ""
    for _, link in ipairs(pages.links(pages.read(page, root))) do
      local file, anchor = link.target:match "^([^#]*)#?(.*)$"
      if not link.target:find "^https?:" then
        count = count + 1
        local path = file == "" and page or folder .. file
        if not pages.exists(path, root)
            or anchor ~= "" and not pages.anchors(pages.read(path, root))[anchor] then
          broken[#broken + 1] = ("%s:%d: %s"):format(page, link.line, link.target)
        end
      end
    end
  end
  return broken, count
end

--- Every cell of a table: { line =, text = }
function pages.cells(text)
  local cells = {}
  for number, line, generated in prose(text) do
    if line:match "^|" and not generated then
      for cell in shown(line):gsub("\\|", "/"):gmatch "[^|]+" do
        cells[#cells + 1] = { line = number, text = cell:match "^%s*(.-)%s*$" }
      end
    end
  end
  return cells
end

--- Every sentence outside tables and headings: { line =, text =, words = }; line is that where its
--- paragraph starts.
function pages.sentences(text)
  local sentences, paragraph, started = {}, {}, nil
  local function finish()
    for sentence in (table.concat(paragraph, " ") .. " "):gmatch "(.-[.?!]?)%f[%s]%s+" do
      local last = sentences[#sentences]
      if last and last.open then last.text = last.text .. " " .. sentence
      else
        last = { line = started, text = sentence }
        sentences[#sentences + 1] = last
      end
      last.open = not sentence:match "[.?!]$"
    end
    if #sentences > 0 then sentences[#sentences].open = nil end
    paragraph, started = {}, nil
  end
  for number, line, generated in prose(text) do
    local item = line:match "^%s*[-*] (.*)" or line:match "^%s*%d+%. (.*)"
    if line == "" or line:match "^[|#<]" or item or generated then finish() end
    if line ~= "" and not line:match "^[|#<]" and not generated then
      started = started or number
      paragraph[#paragraph + 1] = shown(item or line):gsub("`[^`]*`", "code")
    end
  end
  finish()
  for _, sentence in ipairs(sentences) do
    sentence.words = select(2, sentence.text:gsub("%S*%w%S*", ""))
  end
  return sentences
end

--- Whether the build made that page. Where it did not, the caller tests nothing: that is said, and
--- in CI it fails.
function pages.is_made(path, build)
  if pages.exists(path, build) then return true end
  local what = "not tested: " .. build .. "/" .. path .. " was not made"
  if os.getenv "CI" then error(what, 2) end
  io.stderr:write("\n", what, "\n")
  return false
end

return pages
