-- Runs a spec on another librdkafka than the build's, and only if it is in use there:
--
--   luajit tests/support/on_librdkafka.lua system|newer BUSTED SPEC [options of busted]
--
-- system is what pkg-config finds when .deps is left out; the loader looks for it before the
-- build's own. It is not preloaded: Python's client, which brings a librdkafka along, would get a
-- mixture of the two. newer is the one that this client brings; it needs its place beside others.
local ffi = require "ffi"

ffi.cdef [[
int setenv(const char *name, const char *value, int overwrite);
int execvp(const char *file, const char *const argv[]);
const char *rd_kafka_version_str(void);
]]

local WHEEL = [[
import confluent_kafka, glob, os
print(glob.glob(os.path.dirname(confluent_kafka.__file__) + ".libs/librdkafka*.so*")[0])]]
local MODULE = [[luajit -e 'print(require("moonbus").features().librdkafka)']]

local which, busted, spec = ...
local build = assert(os.getenv "MOONBUS_BUILD", "MOONBUS_BUILD is not set")
local source = assert(os.getenv "MOONBUS_SOURCE", "MOONBUS_SOURCE is not set")

local function fail(message, ...)
  io.stderr:write("on_librdkafka.lua: ", message:format(...), "\n")
  os.exit(1)
end

-- ctest knows the sentence, and reports a skipped test.
local function skip(message, ...)
  io.stderr:write(("\n*** NOT TESTED: librdkafka: " .. message):format(...), "\n")
  os.exit(0)
end

local function quote(word)
  return "'" .. word:gsub("'", "'\\''") .. "'"
end

-- The first word that a command prints; nil if none.
local function ask(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "*a"
  pipe:close()
  return text:match "%S+"
end

local find = {}

function find.system()
  local dir = ask "env -u PKG_CONFIG_PATH pkg-config --variable=libdir rdkafka"
  return dir and dir .. "/librdkafka.so.1", "LD_LIBRARY_PATH", dir
end

function find.newer()
  local python = os.getenv "MOONBUS_TEST_PYTHON" or source .. "/.deps/python/bin/python"
  local path = ask(("%s -c %s"):format(quote(python), quote(WHEEL)))
  return path, "LD_PRELOAD", path
end

local function number(version)
  local major, minor, patch = version:match "^(%d+)%.(%d+)%.(%d+)"
  return major * 1000000 + minor * 1000 + patch
end

local path, variable, value = find[which]()
local file = path and io.open(path)
if not file then
  (os.getenv "CI" and fail or skip)("there is no %s one; scripts/setup installs it", which)
end
file:close()
local own = ask(MODULE) or fail "the build's moonbus cannot be loaded"
local version = ffi.string(ffi.load(path).rd_kafka_version_str())
if version == own then
  skip("the %s one is %s, as the build's is: the spec's own test shows it", which, own)
elseif which == "newer" and number(version) < number(own) then
  fail("expected a librdkafka newer than the build's %s, got %s in %s", own, version, path)
end

ffi.C.setenv(variable, value, 1)
for what, got in pairs {
  module = ask(MODULE) or "none",
  program = ask(quote(build .. "/moonbus") .. " version | sed -n 's/^librdkafka //p'") or "none",
} do
  if got ~= version then
    fail("expected librdkafka %s in the %s, got %s: %s has no effect", version, what, got, variable)
  end
end
print(("on librdkafka %s (%s)"):format(version, path))
io.stdout:flush()

local words = { "luajit", "-l", "tests.support.plain_pairs", busted, "--output=plainTerminal", spec,
  select(4, ...) }
local argv = ffi.new("const char *[?]", #words + 1)
for i, word in ipairs(words) do argv[i - 1] = word end
ffi.C.execvp("luajit", argv)
fail "luajit cannot be run"
