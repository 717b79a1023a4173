-- What the scripts rely on: build folders in any state, tests that cannot be left out unseen, and
-- packages whose names differ from one Debian release to the next.
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"

local source = assert(os.getenv "MOONBUS_SOURCE", "MOONBUS_SOURCE is not set")

local SECONDS = 120

local function sh(command, ...)
  return process.run({ "bash", "-euc", command, "bash", ... }, { timeout = SECONDS })
end

local function check_sh(command, ...)
  local run = sh(command, ...)
  assert.equal(0, run.code, command .. "\n" .. run.stdout .. run.stderr)
  return run.stdout
end

local function write(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

local function read(path)
  local file = assert(io.open(path))
  local text = file:read "*a"
  file:close()
  return text
end

teardown(function()
  process.clean()
  tmp.clean()
end)

describe("a build folder", function()
  local dir

  -- A repository whose build writes down what it was configured with.
  before_each(function()
    dir = tmp.dir()
    check_sh([[cd "$1" && mkdir scripts tools && cp "$2/scripts/lib.bash" scripts]], dir, source)
    write(dir .. "/CMakeLists.txt", ([[
cmake_minimum_required(VERSION 3.20)
project(small C)
find_program(TOOL the_tool PATHS %s/tools)
file(WRITE ${CMAKE_BINARY_DIR}/text "${CMAKE_GENERATOR}, ${TOOL}, ${CHOICE}")
add_custom_target(copied ALL COMMAND ${CMAKE_COMMAND} -E copy text result)
]]):format(dir))
  end)

  -- What build_in makes of the folder.
  local function build_in(...)
    check_sh([[. "$1/scripts/lib.bash" && rm -f "$1/build/result" && build_in "$1/build" "${@:2}"]],
      dir, ...)
    return read(dir .. "/build/result")
  end

  local function configure(...)
    check_sh([[cmake -S "$1" -B "$1/build" "${@:2}"]], dir, ...)
  end

  it("that is not there is made", function()
    assert.equal("Ninja, TOOL-NOTFOUND, mine", build_in "-DCHOICE=mine")
  end)

  it("that was configured before a tool was installed finds it", function()
    build_in()
    check_sh([[printf '#!/bin/sh\n' >"$1" && chmod +x "$1"]], dir .. "/tools/the_tool")
    assert.equal(("Ninja, %s/tools/the_tool, "):format(dir), build_in())
  end)

  it("that somebody made with another generator and options keeps them", function()
    configure("-G", "Unix Makefiles", "-DCHOICE=mine")
    assert.equal("Unix Makefiles, TOOL-NOTFOUND, mine", build_in())
  end)

  it("whose configuration failed half way keeps the options it was given", function()
    write(dir .. "/stop.cmake", 'message(FATAL_ERROR "stop")')
    local run = sh([[cmake -S "$1" -B "$1/build" -G "Unix Makefiles" -DCHOICE=mine \
      -DCMAKE_PROJECT_small_INCLUDE="$1/stop.cmake"]], dir)
    assert.not_equal(0, run.code)
    write(dir .. "/stop.cmake", "")
    assert.equal("Unix Makefiles, TOOL-NOTFOUND, mine", build_in())
  end)

  -- name -> what an interruption of the first configuration leaves
  for name, damage in pairs {
    ["an empty cache"] = [[: >CMakeCache.txt]],
    ["a cache and no build files"] = [[rm build.ninja]],
    ["half a description of the compiler"] =
      [[for file in CMakeFiles/*/CMakeCCompiler.cmake; do echo 'set(CMAKE_C_COM' >"$file"; done]],
    ["no cache and half of the rest"] =
      [[rm CMakeCache.txt build.ninja && rm -r CMakeFiles/[0-9]*]],
    ["no compiler"] = [[
      sed -i 's,^CMAKE_C_COMPILER:.*,CMAKE_C_COMPILER:FILEPATH=/no/compiler,' CMakeCache.txt
      rm -r CMakeFiles/[0-9]*]],
  } do
    it("with " .. name .. " recovers", function()
      configure("-G", "Ninja")
      check_sh([[cd "$1/build" && rm CMakeFiles/TargetDirectories.txt && ]] .. damage, dir)
      assert.matches("^%a+, TOOL%-NOTFOUND, $", (build_in():gsub("Unix Makefiles", "Makefiles")))
    end)
  end

  it("that was copied from elsewhere is configured for where it is", function()
    build_in()
    local other = tmp.dir()
    check_sh([[cp -a "$1/." "$2"]], dir, other)
    dir = other
    assert.equal("Ninja, TOOL-NOTFOUND, ", build_in())
  end)

  it("whose configuration fails is left as it was, and the reason is shown", function()
    build_in "-DCHOICE=mine"
    write(dir .. "/CMakeLists.txt", 'message(FATAL_ERROR "this is why")')
    local run = sh([[. "$1/scripts/lib.bash" && build_in "$1/build"]], dir)
    assert.equal(1, run.code)
    assert.matches("this is why", run.stderr)
    assert.matches("CHOICE:UNINITIALIZED=mine", read(dir .. "/build/CMakeCache.txt"))
  end)
end)

describe("without busted", function()
  it("every spec is a test that fails and says so, under its own name and label", function()
    local dir = tmp.dir()
    local names = {}
    for i, options in ipairs { {}, { "-DBUSTED=" } } do
      local build = dir .. "/" .. i
      check_sh([[cmake -S "$1" -B "$2" "${@:3}"]], source, build, unpack(options))
      names[i] = check_sh([[ctest --test-dir "$1" -N | grep ' Test ']], build)
    end
    assert.matches("unit_config", names[2])
    assert.equal(names[1], names[2])
    for _, selection in ipairs { "-L embedded", "-R ^unit_config$" } do
      local run = sh([[ctest --test-dir "$1" --output-on-failure -E '^registered$' ]] .. selection,
        dir .. "/2")
      assert.not_equal(0, run.code)
      assert.matches("\n0%% tests passed", run.stdout)
      assert.matches("busted was not there when this build was configured", run.stdout)
    end
  end)
end)

describe("ctest and the files of tests", function()
  local dir

  local function registered()
    return sh([[cd "$1" && luajit "$2/tests/support/registered.lua" "$1/build"]], dir, source)
  end

  before_each(function()
    dir = tmp.dir()
    check_sh([[cd "$1" && mkdir -p build tests/unit tests/kafka tests/c
      touch tests/unit/a_spec.lua tests/c/test_b.c]], dir)
    write(dir .. "/build/CTestTestfile.cmake", ([[
add_test(unit_a luajit busted "%s/tests/unit/a_spec.lua")
set_tests_properties(unit_a PROPERTIES LABELS unit)
add_test(c_b test_b)
set_tests_properties(c_b PROPERTIES LABELS unit)
]]):format(dir))
  end)

  it("are the same", function()
    local run = registered()
    assert.equal(0, run.code, run.stderr)
    assert.matches("2 files of tests, 0 problems", run.stdout)
  end)

  for path, name in pairs {
    ["tests/kafka/more_spec.lua"] = "a spec that ctest does not know",
    ["tests/other/more_spec.lua"] = "a spec in a folder that ctest does not know",
    ["tests/c/test_more.c"] = "a test in C that ctest does not know",
  } do
    it("differ by " .. name, function()
      check_sh([[cd "$1" && mkdir -p "$(dirname "$2")" && touch "$2"]], dir, path)
      local run = registered()
      assert.equal(1, run.code)
      assert(run.stderr:find(path .. ": no test with the label", 1, true), run.stderr)
    end)
  end

  it("differ by a label that is not the folder's", function()
    check_sh([[cd "$1" && mv tests/unit/a_spec.lua tests/kafka && sed -i s,tests/unit,tests/kafka, \
      build/CTestTestfile.cmake]], dir)
    local run = registered()
    assert.equal(1, run.code)
    assert.matches("tests/kafka/a_spec.lua: no test with the label kafka", run.stderr)
  end)

  it("differ by a file that is gone", function()
    os.remove(dir .. "/tests/c/test_b.c")
    local run = registered()
    assert.equal(1, run.code)
    assert.matches("ctest knows c_b, but there is no tests/c/test_b.c", run.stderr)
  end)
end)

-- apt and dpkg are played by scripts: nothing is installed, and apt knows only the names given.
describe("scripts/setup", function()
  local function setup_with(...)
    local dir = tmp.dir()
    check_sh([[cd "$1" && mkdir scripts bin && cp "$2"/scripts/{setup,lib.bash} scripts && cd bin
      printf '#!/bin/sh\n' >dpkg-query
      printf '#!/bin/sh\nexit 1\n' >mvn
      printf '#!/bin/sh\nexec "$@"\n' >sudo
      printf '#!/bin/sh\necho "$*" >>%q/log\n' "$1" >apt-get
      printf '#!/bin/sh\ncase " %s " in *" $2 "*) exit 0 ;; esac; exit 100\n' "${*:3}" >apt-cache
      chmod +x *]], dir, source, ...)
    local run = sh([[PATH="$1/bin:$PATH" "$1/scripts/setup" --kafka]], dir)
    return run, check_sh([[cat "$1/log"]], dir)
  end

  it("installs the first of the alternatives that the release has", function()
    for name, known in pairs {
      ["default-jre-headless"] = { "openjdk-17-jre-headless", "default-jre-headless" },
      ["openjdk-17-jre-headless"] = { "openjdk-17-jre-headless" },
    } do
      local _, log = setup_with(unpack(known))
      assert(log:find(" install --no-install-recommends kcat openssl " .. name .. " maven\n", 1,
        true), log)
    end
  end)

  it("says what it looked for when the release has none of them", function()
    local run, log = setup_with "another"
    assert.equal(1, run.code)
    assert.matches("apt knows none of default%-jre%-headless, openjdk%-17%-jre%-headless",
      run.stderr)
    assert.not_matches("install", log)
  end)
end)

describe("a test that failed", function()
  local function again(ci, ...)
    local dir = tmp.dir()
    check_sh('mkdir -p "$1/Testing/Temporary"', dir)
    write(dir .. "/Testing/Temporary/LastTestsFailed.log", table.concat({ ... }, "\n") .. "\n")
    return sh([[. "$1/scripts/lib.bash"
      export MOONBUS_TEST_AGAIN=$3
      may_run_again "$2" && printf '%s\n' "$again"]], source, dir, ci)
  end

  it("may run once more in CI, by its name", function()
    local run = again("1", "3:c_text", "19:unit_bus")
    assert.equal(0, run.code, run.stderr)
    assert.equal("tests: failed, run once more by themselves: c_text unit_bus\n"
      .. "^(c_text|unit_bus)$\n", run.stdout)
  end)

  it("may not elsewhere, nor with more than two others", function()
    assert.equal(1, again("", "3:c_text").code)
    assert.equal(1, again("1", "1:a", "2:b", "3:c", "4:d").code)
    assert.equal(1, sh('. "$1/scripts/lib.bash"; MOONBUS_TEST_AGAIN=1 may_run_again "$2"', source,
      tmp.dir()).code)
  end)
end)
