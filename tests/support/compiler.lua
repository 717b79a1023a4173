--- The C compiler of the build with its sanitizers: a program needs those of the library it links.
local compiler = {}

local build = assert(os.getenv "MOONBUS_BUILD", "MOONBUS_BUILD is not set")
local source = assert(os.getenv "MOONBUS_SOURCE", "MOONBUS_SOURCE is not set")

local function read_cache()
  local file = assert(io.open(build .. "/CMakeCache.txt"))
  local cache = "\n" .. file:read("*a")
  file:close()
  return cache
end

local cache = read_cache()
local strict = { "-Wall", "-Wextra", "-Werror" }
for name, flag in pairs { ASAN = "address", UBSAN = "undefined", TSAN = "thread" } do
  if cache:find("\nMB_" .. name .. ":BOOL=ON\n", 1, true) then
    strict[#strict + 1] = "-fsanitize=" .. flag
  end
end

compiler.program = cache:match "\nCMAKE_C_COMPILER:[^=]*=([^\n]*)" or "cc"
compiler.cxx_program = compiler.program:gsub("clang([^/]*)$", "clang++%1")
  :gsub("g?cc([^/]*)$", "g++%1")
compiler.cxx_flags = table.concat(strict, " ")
compiler.flags = compiler.cxx_flags .. " -std=c11 -D_GNU_SOURCE"

--- The command, for a shell, that compiles one file against the build.
function compiler.command(file, out)
  return ("%s %s -I'%s/src/include' '%s' -L'%s' -lmoonbus -Wl,-rpath,'%s' -o '%s'"):format(
    compiler.program, compiler.flags, source, file, build, build, out)
end

return compiler
