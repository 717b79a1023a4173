-- The man pages: what the script makes of this build is free of mandoc's complaints and complete.
local cli_exit = require "moonbus.cli.exit"
local moonbus = require "moonbus"
local pages = require "tests.support.pages"
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"

local build = assert(os.getenv "MOONBUS_BUILD", "MOONBUS_BUILD is not set")
local source = assert(os.getenv "MOONBUS_SOURCE", "MOONBUS_SOURCE is not set")

-- The names of a folder's pages, such as moonbus.1, sorted.
local function listed(folder)
  local run = process.run { "sh", "-euc", 'cd "$1" && ls *.[0-9]', "sh", folder }
  local list = {}
  for path in run.stdout:gmatch "[^\n]+" do list[#list + 1] = path end
  return list
end

-- Names of the commands that a help text lists.
local function commands_of(help)
  local names = {}
  for name in ("\n" .. (help:match "\nCommands:\n(.-)\n\n" or "")):gmatch "\n   (%l+) +%u" do
    names[#names + 1] = name
  end
  return names
end

local function help_of(...)
  local words = { ... }
  words[#words + 1] = "--help"
  local run = process.run(process.moonbus(unpack(words)))
  assert.equal(0, run.code, run.stderr)
  return run.stdout
end

describe("the man pages", function()
  local dir

  setup(function()
    dir = tmp.dir()
    local run = process.run({ "luajit", source .. "/scripts/lib/man.lua", dir })
    assert.equal(0, run.code, run.stderr)
  end)

  teardown(function()
    process.clean()
    tmp.clean()
  end)

  -- As a reader sees them, without the folding of lines.
  local function shown(page)
    local run = process.run { "mandoc", "-T", "ascii", "-O", "width=200", dir .. "/" .. page }
    assert.equal(0, run.code, run.stderr)
    return (run.stdout:gsub(".\b", ""):gsub("%s+", " "))
  end

  it("are clean for mandoc", function()
    -- mandoc looks for the pages that a page refers to in the folder that it runs in
    local run = process.run { "sh", "-euc", 'cd "$1" && cp "$2"/*.[0-9] . && mandoc -T lint *',
      "sh", tmp.dir(), dir }
    assert.equal("", run.stdout .. run.stderr)
    assert.equal(0, run.code)
  end)

  it("are one for each command, with every flag and every subcommand of its --help", function()
    local count, overview = 0, shown "moonbus.1"
    for _, name in ipairs(commands_of(help_of())) do
      local text = shown("moonbus-" .. name .. ".1")
      assert(overview:find(("See moonbus-%s(1)"):format(name), 1, true), name)
      local function check(...)
        local title, help = table.concat({ ... }, " "), help_of(...)
        for flag in help:gmatch "\n   (%-%-[%l-]+)" do
          assert(text:find(flag, 1, true), title .. ": " .. flag)
          count = count + 1
        end
        assert(text:find("moonbus " .. title, 1, true), title)
        assert(help:find("man moonbus-" .. name, 1, true), title)
        return commands_of(help)
      end
      for _, sub in ipairs(check(name)) do check(name, sub) end
    end
    assert(count > 100, count)
  end)

  it("have what several commands share on the page of the program", function()
    local text = shown "moonbus.1"
    for _, flag in ipairs { "--version", "--help", "--bootstrap-servers", "--set" } do
      assert(text:find(flag, 1, true), flag)
    end
    for _, each in ipairs(cli_exit.codes) do
      assert(text:find((" %d %s"):format(each[1], each[2]), 1, true), each[2])
    end
  end)

  it("say where files are", function()
    local prefix = tmp.dir()
    local run = process.run { "cmake", "--install", build, "--prefix", prefix }
    assert.equal(0, run.code, run.stdout .. run.stderr)
    local files = shown("moonbus.1"):match " FILES (.-) EXIT STATUS "
    local count = 0
    for path in files:gmatch " (%l+/[%w_./]+)" do
      -- a build without cmark-gfm does without the page of HTML
      assert(pages.exists(path, prefix) or path:find "%.html$" and not pages.exists(build
        .. "/doc/moonbus.html", ""), path)
      count = count + 1
    end
    assert(count >= 3, count)
  end)

  it("have every option with its default", function()
    local text = shown "moonbus-options.5"
    for _, option in ipairs(moonbus.options()) do
      local at = text:find(" " .. option.key .. " ", 1, true)
      assert(at, option.key)
      local default = tostring(option.default == nil and "" or option.default)
      local expected = default == "" and "unset" or "default " .. default
      assert(text:find(expected, at, true), option.key .. ": " .. expected)
    end
  end)

  it("have every function, type and constant of the public headers", function()
    local text = shown "moonbus.3"
    local function check(count_at_least, header, pattern, form)
      local count = 0
      local code = pages.read("src/include/" .. header):gsub("/%*.-%*/", "")
      for name in code:gmatch(pattern) do
        if not name:find "^MB__" then
          assert(text:find(form:format(name), 1, true), name)
          count = count + 1
        end
      end
      assert(count >= count_at_least, count)
    end
    check(80, "moonbus.h", "\nMB_EXPORT[^;(]-([%w_]+)%(", " %s(")
    check(3, "moonbus_lua.h", "\nMB_EXPORT[^;(]-([%w_]+)%(", " %s(")
    check(20, "moonbus.h", "\ntypedef [^;{]*{[^}]*} ([%w_]+);", " %s ")
    check(5, "moonbus.h", "\ntypedef struct ([%w_]+) [%w_]+;", " %s ")
    check(20, "moonbus.h", "\n  (MB_[%u_]+)[, ]", " %s ")
    check(20, "moonbus.h", "X%((E%u+),", " MB_%s (")
  end)

  it("have the comments of the public headers, without their marks", function()
    local text = shown "moonbus.3"
    for _, expected in ipairs {
      "Set one option from text. shape key as in the manual's option reference",
      "data the event's own fields: a JSON object, or absent", -- of a member
      "(*mb_log_fn)(mb_level level, const char *line, void *opaque) Receives each log line",
      "Pending handlers. A handler that has to wait", -- of no declaration
    } do
      local found = text:gsub("mb_bytes data", "data"):find(expected, 1, true)
      assert(found, expected)
    end
    assert.is_nil(text:find "%*/" or text:find "/%*" or text:find "[%.,;] %* ")
  end)

  it("are those of the build, where it makes them, and no others", function()
    if not pages.is_made("man/made", build) then return end
    assert.same(listed(dir), listed(build .. "/man"))
    for _, page in ipairs(listed(dir)) do
      assert.equal(pages.read(page, dir), pages.read("man/" .. page, build))
    end
  end)

  it("replace those of before", function()
    local folder = tmp.dir()
    local function make()
      local run = process.run({ "luajit", source .. "/scripts/lib/man.lua", folder })
      assert.equal(0, run.code, run.stderr)
    end
    make()
    local old = assert(io.open(folder .. "/moonbus-gone.1", "w"))
    old:close()
    make()
    assert.same(listed(dir), listed(folder))
  end)
end)
