/* lua/base.c: Lua's own functions and libraries, as they are when moonbus is loaded.
 * Must not know anything of moonbus.
 * Called by luaopen_moonbus_core, for lua/moonbus/base.lua. */
#include "lua/internal.h"

static const char *const functions[] = {
    "assert",   "collectgarbage", "error",    "getmetatable", "ipairs",
    "loadfile", "loadstring",     "next",     "pairs",        "pcall",
    "print",    "rawequal",       "rawget",   "rawset",       "require",
    "select",   "setmetatable",   "tonumber", "tostring",     "type",
    "unpack",   "xpcall",         NULL};

static const char *const libraries[] = {"bit",  "coroutine", "debug",  "io",    "jit",
                                        "math", "os",        "string", "table", NULL};

/* Push the global of that name. RAISES (a script assigned it) */
static void push_original(lua_State *L, const char *name, int type) {
  lua_pushstring(L, name);
  lua_rawget(L, LUA_GLOBALSINDEX);
  if (lua_type(L, -1) == type) return;
  luaL_error(L,
             "moonbus: the global \"%s\" is a %s: a script assigned it before it loaded moonbus; "
             "put \"local\" in front of that assignment",
             name, luaL_typename(L, -1));
}

/* Push a copy of the library; nil for one that the program left out. RAISES */
static void push_library(lua_State *L, const char *name) {
  lua_pushstring(L, name);
  lua_rawget(L, LUA_GLOBALSINDEX);
  if (lua_isnil(L, -1)) return;
  lua_pop(L, 1);
  push_original(L, name, LUA_TTABLE);
  lua_newtable(L);
  lua_pushnil(L);
  while (lua_next(L, -3)) {
    lua_pushvalue(L, -2);
    lua_insert(L, -2);
    lua_rawset(L, -4);
  }
  lua_remove(L, -2);
}

void mb__lua_push_base(lua_State *L) {
  lua_newtable(L);
  for (const char *const *name = functions; *name; name++) {
    push_original(L, *name, LUA_TFUNCTION);
    lua_setfield(L, -2, *name);
  }
  for (const char *const *name = libraries; *name; name++) {
    push_library(L, *name);
    lua_setfield(L, -2, *name);
  }
  push_original(L, "package", LUA_TTABLE);
  lua_setfield(L, -2, "package");
  lua_pushvalue(L, LUA_GLOBALSINDEX);
  lua_setfield(L, -2, "globals");
}
