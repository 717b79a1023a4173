/* lua/modules.h: the Lua modules the library carries, as bytecode; the build makes the table. */
#ifndef MB_LUA_MODULES_H
#define MB_LUA_MODULES_H

#include <stddef.h>

typedef struct mb_lua_module {
  const char *name; /* "moonbus.bus"; NULL ends the table */
  const char *code;
  size_t len;
} mb_lua_module;

extern const mb_lua_module mb__lua_modules[];

#endif
