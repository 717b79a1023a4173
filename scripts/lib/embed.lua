-- embed.lua: write the Lua modules as one C file of bytecode, for the library to carry.
-- luajit scripts/lib/embed.lua OUT.c NAME=FILE ...
local out = assert(io.open(arg[1], "wb"))
out:write('#include "lua/modules.h"\n')
local rows = {}
for i = 2, #arg do
  local name, file = arg[i]:match("^([^=]+)=(.+)$")
  local source = assert(io.open(file, "rb")):read("*a")
  local chunk = assert(loadstring(source, "@" .. name:gsub("%.", "/") .. ".lua"))
  local code = string.dump(chunk)
  out:write(("static const char m%d[] = {"):format(i))
  for at = 1, #code, 24 do
    out:write("\n")
    for k = at, math.min(at + 23, #code) do
      local byte = code:byte(k)
      out:write(byte > 127 and byte - 256 or byte, ",")
    end
  end
  out:write("};\n")
  rows[#rows + 1] = ('  {"%s", m%d, sizeof m%d},\n'):format(name, i, i)
end
out:write("const mb_lua_module mb__lua_modules[] = {\n", table.concat(rows), "  {0, 0, 0},\n};\n")
out:close()
