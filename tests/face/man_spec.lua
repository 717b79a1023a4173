-- The man pages: what the script makes of this build is free of mandoc's complaints and complete.
local cli_exit = require "moonbus.cli.exit"
local moonbus = require "moonbus"
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"

local build = assert(os.getenv "MOONBUS_BUILD", "MOONBUS_BUILD is not set")
local source = assert(os.getenv "MOONBUS_SOURCE", "MOONBUS_SOURCE is not set")

local PAGES = { "moonbus.1", "moonbus-options.5" }

local function read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read("*a")
  file:close()
  return text
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
    -- a page finds the other where man(1) would
    local run = process.run { "sh", "-euc", [[
      cd "$1" && mkdir man1 man5 && cp moonbus.1 man1 && cp moonbus-options.5 man5
      mandoc -T lint man1/moonbus.1 man5/moonbus-options.5]], "sh", dir }
    assert.equal("", run.stdout .. run.stderr)
    assert.equal(0, run.code)
  end)

  it("have every command, every flag and every exit code of --help", function()
    local text = shown "moonbus.1"
    local count = 0
    local function check(...)
      local words = { ... }
      words[#words + 1] = "--help"
      local help = process.run(process.moonbus(unpack(words))).stdout
      for flag in help:gmatch "\n   (%-%-[%l-]+)" do
        assert(text:find(flag, 1, true), flag)
        count = count + 1
      end
      words[#words] = nil
      local commands = help:match "\nCommands:\n(.-)\n\n"
      if not commands then
        assert(text:find("moonbus " .. table.concat(words, " "), 1, true), table.concat(words, " "))
        return
      end
      for name in ("\n" .. commands):gmatch "\n   (%l+) +%u" do
        words[#words + 1] = name
        check(unpack(words))
        words[#words] = nil
      end
    end
    check()
    assert(count > 100, count)
    for _, each in ipairs(cli_exit.codes) do
      assert(text:find((" %d %s"):format(each[1], each[2]), 1, true), each[2])
    end
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

  it("are those of the build, where it makes them", function()
    for _, page in ipairs(PAGES) do
      local built = read(build .. "/man/" .. page)
      if built then assert.equal(read(dir .. "/" .. page), built) end
    end
  end)
end)
