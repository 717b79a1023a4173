-- What `cmake --install` puts on the disk beside the library (embed_spec.lua builds against that):
-- headers, the program, and documents whose links lead somewhere.
local pages = require "tests.support.pages"
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"

local build = assert(os.getenv "MOONBUS_BUILD", "MOONBUS_BUILD is not set")

local SECONDS = 120

describe("the installed tree", function()
  local prefix

  setup(function()
    prefix = tmp.dir() .. "/prefix"
    local run = process.run({ "cmake", "--install", build, "--prefix", prefix },
      { timeout = SECONDS })
    assert.equal(0, run.code, run.stdout .. run.stderr)
  end)

  teardown(function()
    process.clean()
    tmp.clean()
  end)

  it("has the headers, and a program that runs", function()
    for _, file in ipairs { "include/moonbus.h", "include/moonbus_lua.h" } do
      assert(pages.exists(file, prefix), file)
    end
    local version = process.run { prefix .. "/bin/moonbus", "--version" }
    assert.equal(0, version.code, version.stderr)
  end)

  it("has the manual with the documents, and not with the Lua modules", function()
    assert(pages.exists("share/doc/moonbus/lua/manual/07-options.md", prefix))
    assert.is_false(pages.exists("share/lua/5.1/manual", prefix))
  end)

  it("has documents whose links lead somewhere", function()
    local broken, count = pages.broken_links(prefix .. "/share/doc/moonbus")
    assert.same({}, broken)
    assert(count > 50, count)
  end)

  it("has the man pages that the build made", function()
    if not pages.is_made("man/made", build) then return end -- as with a sanitizer
    local function listed(folder)
      local command = 'cd "$1" && find . -name "moonbus*.[0-9]" | sed "s,.*/,," | sort'
      return process.run({ "sh", "-euc", command, "sh", folder }).stdout
    end
    local made = listed(build .. "/man")
    assert(made:find("moonbus-run.1", 1, true), made)
    assert.equal(made, listed(prefix .. "/share/man"))
  end)

  it("has the manual as HTML, whose links to files lead somewhere", function()
    if not pages.is_made("doc/moonbus.html", build) then return end
    local root = prefix .. "/share/doc/moonbus"
    local count = 0
    for target in pages.read("moonbus.html", root):gmatch 'href="([^"#][^"]*)"' do
      if not target:find "^https?:" then
        assert(pages.exists(target:match "^[^#]*", root), target)
        count = count + 1
      end
    end
    assert(count > 5, count)
  end)

  it("has the examples, without what a run of them leaves", function()
    local root = prefix .. "/share/doc/moonbus"
    assert(pages.exists("examples/tutorial/complete.lua", root))
    local var = process.run { "find", root .. "/examples", "-name", "var" }
    assert.equal("", var.stdout .. var.stderr)
  end)
end)
