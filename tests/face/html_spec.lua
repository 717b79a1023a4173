-- The manual as one page of HTML: its links lead somewhere, nothing of the documents is missing,
-- and what is wide scrolls by itself. Without cmark-gfm there is no page, which in CI is a failure.
local pages = require "tests.support.pages"
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"

local build = assert(os.getenv "MOONBUS_BUILD", "MOONBUS_BUILD is not set")
local source = assert(os.getenv "MOONBUS_SOURCE", "MOONBUS_SOURCE is not set")

local SECONDS = 120
local script = source .. "/scripts/lib/html.lua"

local ENTITIES = { quot = '"', amp = "&", lt = "<", gt = ">" }

-- Text as a reader sees it.
local function shown(html)
  return (html:gsub("<[^>]*>", ""):gsub("&(%l+);", ENTITIES))
end

describe("the manual as HTML", function()
  local html

  setup(function()
    local there = process.run { "sh", "-c", "command -v cmark-gfm" }
    if there.code ~= 0 then return end
    local path = tmp.dir() .. "/moonbus.html"
    local run = process.run { "luajit", script, path }
    assert.equal(0, run.code, run.stderr)
    html = pages.read("moonbus.html", path:match "^(.*)/")
  end)

  teardown(function()
    process.clean()
    tmp.clean()
  end)

  -- A test of the page; without the converter it is not tested, and in CI it fails.
  local function on_page(name, fn)
    it(name, function()
      if html then return fn() end
      local what = "cmark-gfm is not there; scripts/setup --tools installs it"
      if os.getenv "CI" then error(what, 0) end
      pending(what)
    end)
  end

  local function ids()
    local set = {}
    for id in html:gmatch ' id="([^"]*)"' do set[id] = (set[id] or 0) + 1 end
    return set
  end

  on_page("has each id once", function()
    local count = 0
    for id, times in pairs(ids()) do
      assert.equal(1, times, id)
      assert.is_nil(id:find "%s", id)
      count = count + 1
    end
    assert(count > 150, count)
  end)

  on_page("has links within it that lead to an id", function()
    local there, wrong, count = ids(), {}, 0
    for target in html:gmatch 'href="#([^"]*)"' do
      count = count + 1
      if not there[target] then wrong[#wrong + 1] = target end
    end
    assert.same({}, wrong)
    assert(count > 200, count)
  end)

  on_page("has links to files that are there, and none to a document that it contains", function()
    for target in html:gmatch 'href="([^"#][^"]*)"' do
      if not target:find "^https?:" then
        assert(pages.exists(target:match "^[^#]*"), target)
        assert.is_nil(target:find "^lua/manual" or target:find "^README", target)
      end
    end
  end)

  on_page("has every heading of every document, and lists those of two levels", function()
    local titles, listed = {}, {}
    for title in html:gmatch '<h%d id="[^"]*">(.-)</h%d>' do titles[#titles + 1] = shown(title) end
    for title in html:match("<nav.*</nav>"):gmatch "<li><a[^>]*>(.-)</a>" do
      listed[#listed + 1] = shown(title)
    end
    local expected, expected_in_list = {}, {}
    for _, path in ipairs(pages.manual()) do
      for _, heading in ipairs(pages.headings(pages.read(path))) do
        expected[#expected + 1] = heading.text
        if heading.level <= 2 then expected_in_list[#expected_in_list + 1] = heading.text end
      end
    end
    assert.same(expected, titles)
    assert.same(expected_in_list, listed)
  end)

  on_page("has every block of code of every document", function()
    local text = shown(html)
    for _, path in ipairs(pages.manual()) do
      for _, block in ipairs(pages.blocks(pages.read(path))) do
        assert(text:find(block.code, 1, true), ("%s:%d"):format(path, block.line))
      end
    end
  end)

  on_page("has each table in a box of its own", function()
    local tables = select(2, html:gsub("<table>", ""))
    assert.equal(tables, (select(2, html:gsub('<div class="wide">\n<table>', ""))))
    assert.equal(tables, (select(2, html:gsub("</table>\n</div>", ""))))
    assert(tables > 20, tables)
  end)

  on_page("closes every element that it opens", function()
    local void, open = { meta = true, br = true, hr = true, img = true }, {}
    local text = html:gsub("<style>.-</style>", ""):gsub("<!DOCTYPE html>", "")
    for slash, name in text:gmatch "<(/?)(%w+)[^>]*>" do
      if slash == "/" then assert.equal(name, table.remove(open))
      elseif not void[name] then open[#open + 1] = name end
    end
    assert.same({}, open)
  end)

  on_page("needs no other file to be shown, and has no comments of the documents", function()
    for _, pattern in ipairs { "<script", "<link", "<img", "@import", "url%(", "<!%-%-" } do
      assert.is_nil(html:find(pattern), pattern)
    end
  end)

  on_page("is that of the build, where it makes one", function()
    if not pages.is_made("doc/moonbus.html", build) then return end
    assert.equal(html, pages.read("doc/moonbus.html", build))
  end)

  it("is an error that names the converter which is not there", function()
    local run = process.run { "luajit", script, tmp.dir() .. "/x.html", "/nowhere/cmark-gfm" }
    assert.equal(2, run.code)
    local expected = "html.lua: /nowhere/cmark-gfm: expected exit status 0, got 127"
    assert(run.stderr:find(expected, 1, true), run.stderr)
  end)

  it("is left out of a build without the converter, which says so", function()
    local run = process.run({ "cmake", "-S", source, "-B", tmp.dir(), "-DCMARK_GFM=" },
      { timeout = SECONDS })
    assert.equal(0, run.code, run.stdout .. run.stderr)
    assert(run.stdout:find("no doc/moonbus.html: cmark-gfm was not found", 1, true), run.stdout)
  end)
end)
