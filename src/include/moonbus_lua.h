/* moonbus_lua.h: moonbus in a lua_State of the program, and the lua_State of a host. */
#ifndef MOONBUS_LUA_H
#define MOONBUS_LUA_H

#include "moonbus.h"

#ifdef __cplusplus
extern "C" {
#endif

#include <lua.h> /* has no extern "C" of its own */

/** Push the table of the C module "moonbus.core". require "moonbus.core" calls this function.
 *  Raises an error when out of memory. */
MB_EXPORT int luaopen_moonbus_core(lua_State *L);

/** Put the Lua modules that the library contains into package.preload, so that require "moonbus"
 *  works in this state without files on the disk. */
MB_EXPORT void mb_lua_preload(lua_State *L);

/** The Lua state of a host. Borrowed for the life of the host. */
MB_EXPORT lua_State *mb_host_lua(mb_host *host);

#ifdef __cplusplus
}
#endif
#endif
