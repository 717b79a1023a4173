-- The C examples, built as a user would: against the build, and against an installed tree by way of
-- pkg-config and of find_package.
local compiler = require "tests.support.compiler"
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"

local build = assert(os.getenv "MOONBUS_BUILD", "MOONBUS_BUILD is not set")
local source = assert(os.getenv "MOONBUS_SOURCE", "MOONBUS_SOURCE is not set")
local embed = source .. "/examples/embed"

local SECONDS = 120

local function sh(command, ...)
  local run = process.run({ "sh", "-euc", command, "sh", ... }, { timeout = SECONDS })
  assert.equal(0, run.code, command .. "\n" .. run.stdout .. run.stderr)
  return run.stdout
end

local function check_embed(path)
  local run = process.run({ path }, { timeout = SECONDS })
  assert.equal(0, run.code, run.stdout .. run.stderr)
  for _, way in ipairs { "run", "poll" } do
    local lines = {}
    for line in run.stdout:gmatch(way .. ": ([^\n]*)\n") do lines[#lines + 1] = line end
    -- the partitions of the first three come in any order; the retry comes after them, or between
    table.sort(lines, function(a, b)
      return (a:gsub("^3 handled", "z")) < (b:gsub("^3 handled", "z"))
    end)
    assert.same({
      "order 1 for 10.50, attempt 1", "order 2 for 20.50, attempt 1",
      "order 2 for 20.50, attempt 2", "order 3 for 30.50, attempt 1",
      "3 handled, 3 published, 1 retries",
    }, lines)
  end
end

local function check_host(path)
  local run = process.run({ path, embed .. "/handlers.lua" }, {
    timeout = SECONDS, env = { LUA_PATH = "", LUA_CPATH = "" }, -- the library carries the modules
  })
  assert.equal(0, run.code, run.stdout .. run.stderr)
  assert.equal("visit 1 by alice\nvisit 2 by bob\nvisit 3 by alice\n3 visits\n", run.stdout)
end

describe("a C program", function()
  local dir, prefix

  setup(function()
    dir = tmp.dir()
    prefix = dir .. "/prefix"
    sh('cmake --install "$1" --prefix "$2"', build, prefix)
  end)

  teardown(function()
    process.clean()
    tmp.clean()
  end)

  it("runs a bus in the ways main.c shows", function()
    local path = dir .. "/embed"
    sh(compiler.command(embed .. "/main.c", path))
    check_embed(path)
  end)

  it("runs a Lua script with host.c", function()
    local path = dir .. "/host"
    sh(compiler.command(embed .. "/host.c", path))
    check_host(path)
  end)

  it("is told by host.c what is wrong with its script", function()
    local path = dir .. "/wrong"
    sh(compiler.command(embed .. "/host.c", path))
    local script = tmp.file("wrong.lua", 'local x = 1\nerror("out of orders")\n')
    local run = process.run { path, script }
    assert.equal(3, run.code)
    assert(run.stderr:find("ESCRIPT: [^\n]*wrong%.lua:2: out of orders"), run.stderr)
  end)

  it("builds against the installed library with pkg-config", function()
    local path = dir .. "/with-pkg-config"
    sh(([[
      pc=$(find "$1" -name moonbus.pc)
      export PKG_CONFIG_PATH=${pc%%/*}
      pkg() { pkg-config --define-variable=prefix="$1" "$2" moonbus; }
      libs=$(pkg "$1" --libs)
      test "$(pkg-config --modversion moonbus)" = %s
      %s %s "$2/host.c" $(pkg "$1" --cflags) $libs -Wl,-rpath,"${PKG_CONFIG_PATH%%/*}" -o "$3"
    ]]):format(require("moonbus").VERSION, compiler.program, compiler.flags), prefix, embed, path)
    check_host(path)
  end)

  it("builds against the installed library with find_package", function()
    local out = dir .. "/with-cmake"
    sh([[cmake -S "$1" -B "$2" -DCMAKE_PREFIX_PATH="$3" -DCMAKE_C_COMPILER="$4" \
         -DCMAKE_C_FLAGS="$5" && cmake --build "$2"]], embed, out, prefix,
      compiler.program, compiler.flags)
    check_embed(out .. "/embed")
  end)

  it("finds the header's own documents beside it: headers, module, program", function()
    for _, file in ipairs { "include/moonbus.h", "include/moonbus_lua.h", "bin/moonbus" } do
      sh('test -s "$1"', prefix .. "/" .. file)
    end
    local version = process.run { prefix .. "/bin/moonbus", "--version" }
    assert.equal(0, version.code, version.stderr)
  end)

  it("may be C++", function()
    local path = tmp.file("header.cpp", "#include <moonbus.h>\nint main() { return MB_OK; }\n")
    sh('c++ -Wall -Wextra -Werror -fsyntax-only -I"$1/include" "$2"', prefix, path)
  end)
end)
