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

  it("gets from host.c what is wrong with its script", function()
    local path = dir .. "/wrong"
    sh(compiler.command(embed .. "/host.c", path))
    local script = tmp.file("wrong.lua", 'local x = 1\nerror("out of orders")\n')
    local run = process.run { path, script }
    assert.equal(3, run.code)
    assert(run.stderr:find("ESCRIPT: [^\n]*wrong%.lua:2: out of orders"), run.stderr)
  end)

  it("builds against the installed library with find_package", function()
    local out = dir .. "/with-cmake"
    sh([[cmake -S "$1" -B "$2" -DCMAKE_PREFIX_PATH="$3" -DCMAKE_C_COMPILER="$4" \
         -DCMAKE_C_FLAGS="$5" && cmake --build "$2"]], embed, out, prefix,
      compiler.program, compiler.flags)
    check_embed(out .. "/embed")
  end)

  -- Programs of each header and language, built as a package's user does it, with nothing in the
  -- environment that says where libraries are.
  local PLAIN = [[
#include <moonbus.h>
#include <stdio.h>
#include <string.h>
int main(void) {
  mb_config *conf = mb_config_new();
  if (strcmp(mb_version(), MOONBUS_VERSION) || mb_version_num() != MOONBUS_VERSION_NUM) return 1;
  printf("%s %s\n", mb_rdkafka_version(), conf ? "fine" : "no memory");
  mb_config_free(conf);
  return MB_OK;
}
]]
  local LUA = [[
#include <moonbus_lua.h>
#include <stdio.h>
#ifdef __cplusplus
#include <lua.hpp>
#else
#include <lauxlib.h>
#include <lualib.h>
#endif
int main(void) {
  lua_State *L = luaL_newstate();
  luaL_openlibs(L);
  mb_lua_preload(L);
  int failed = luaL_dostring(L, "print(require('moonbus').features().librdkafka, 'fine')");
  if (failed) fprintf(stderr, "%s\n", lua_tostring(L, -1));
  lua_close(L);
  return failed;
}
]]
  local PROJECT = [[
cmake_minimum_required(VERSION 3.20)
project(user LANGUAGES C CXX)
find_package(moonbus @WANT@)
foreach(program plain.c plain.cpp lua.c lua.cpp)
  add_executable(${program}.run ${program})
  string(REGEX REPLACE "[.].*" "" header ${program})
  target_link_libraries(${program}.run PRIVATE moonbus::$<IF:$<STREQUAL:${header},lua>,lua,moonbus>)
  target_link_options(${program}.run PRIVATE -Wl,--no-undefined,--no-allow-shlib-undefined)
endforeach()
]]
  local PROGRAMS = { "plain.c", "plain.cpp", "lua.c", "lua.cpp" }

  local function write(path, text)
    local file = assert(io.open(path, "w"))
    file:write(text)
    file:close()
  end

  local function user(want)
    local folder = tmp.dir()
    local text = PROJECT:gsub("@WANT@", want)
    write(folder .. "/CMakeLists.txt", text)
    for _, name in ipairs(PROGRAMS) do
      write(folder .. "/" .. name, name:find "^lua" and LUA or PLAIN)
    end
    return folder
  end

  local function configure(folder, ...)
    return process.run({ "cmake", "-S", folder, "-B", folder .. "/build",
      "-DCMAKE_PREFIX_PATH=" .. prefix, "-DCMAKE_C_COMPILER=" .. compiler.program,
      "-DCMAKE_CXX_COMPILER=" .. compiler.cxx_program, "-DCMAKE_C_FLAGS=" .. compiler.flags,
      "-DCMAKE_CXX_FLAGS=" .. compiler.cxx_flags, ... }, { timeout = SECONDS })
  end

  local function check_programs(folder)
    for _, name in ipairs(PROGRAMS) do
      local run = process.run({ ("%s/%s.run"):format(folder, name) }, {
        env = { LUA_PATH = "", LUA_CPATH = "", LD_LIBRARY_PATH = "" } })
      assert.equal(0, run.code, name .. "\n" .. run.stderr)
      local version = require("moonbus").features().librdkafka:gsub("%p", "%%%0")
      assert.matches("^" .. version .. "%s+fine\n$", run.stdout)
    end
  end

  it("in C or C++, with either header, builds with find_package", function()
    local folder = user "0.1 REQUIRED COMPONENTS lua"
    local run = configure(folder)
    assert.equal(0, run.code, run.stdout .. run.stderr)
    sh('cmake --build "$1/build"', folder)
    check_programs(folder .. "/build")
  end)

  it("in C or C++, with either header, builds with pkg-config", function()
    local folder = user ""
    sh([[
      export PKG_CONFIG_PATH=$(dirname "$(find "$1" -name moonbus.pc)")
      test "$(pkg-config --modversion moonbus moonbus-lua)" = "$4
$4"
      strict="-Wl,--no-undefined,--no-allow-shlib-undefined -Wl,-rpath,${PKG_CONFIG_PATH%/*}"
      for name in plain.c plain.cpp lua.c lua.cpp; do
        compiler=$5
        case $name in *.cpp) compiler=$6 ;; esac
        package=moonbus
        case $name in lua.*) package=moonbus-lua ;; esac
        $compiler "$2/$name" $(pkg-config --cflags --libs $package) $strict -o "$2/$name.run"
      done
      $5 "$3/host.c" $(pkg-config --cflags --libs moonbus) $strict -o "$2/host"
    ]], prefix, folder, embed, require("moonbus").VERSION,
      compiler.program .. " " .. compiler.flags, compiler.cxx_program .. " " .. compiler.cxx_flags)
    check_programs(folder)
    check_host(folder .. "/host")
  end)

  it("is refused another version than it asks for", function()
    for _, version in ipairs { "0.2", "1.0" } do
      local run = configure(user(version .. " REQUIRED"))
      assert.equal(1, run.code, run.stdout)
      local text = run.stderr:gsub("%s+", " ")
      assert(text:find(('compatible with requested version "%s"'):format(version), 1, true), text)
      local found = "moonbusConfig.cmake, version: " .. require("moonbus").VERSION
      assert(text:find(found, 1, true), text)
    end
  end)

  it("that needs moonbus::lua gets an error when LuaJIT's headers are not there", function()
    local run = process.run({ "env", "PKG_CONFIG_LIBDIR=" .. dir, "PKG_CONFIG_PATH=", "cmake", "-S",
      user "0.1 REQUIRED COMPONENTS lua", "-B", tmp.dir(), "-DCMAKE_PREFIX_PATH=" .. prefix,
      "-DPKG_CONFIG_USE_CMAKE_PREFIX_PATH=OFF", "-DCMAKE_C_COMPILER=" .. compiler.program },
      { timeout = SECONDS })
    assert.equal(1, run.code, run.stdout)
    assert(run.stderr:gsub("%s+", " "):find("LuaJIT", 1, true), run.stderr)
  end)
end)
