-- Loaded before busted: loops over pairs are not compiled in the specs, for LuaJIT 2.1.0-beta3 of
-- 2022 keeps half of a pointer when it compiles some of them, and crashes (src/lua/host.c has the
-- same for the program).
local compiled_next, compiled_pairs = next, pairs

jit.off(true, true)

function next(t, key) return compiled_next(t, key) end -- luacheck: ignore

function pairs(t) -- luacheck: ignore
  local iterate, state, first = compiled_pairs(t)
  return iterate == compiled_next and next or iterate, state, first
end
