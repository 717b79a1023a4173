/* moonbus_lua.h: for embedders who have a lua_State of their own, or want the host's. */
#ifndef MOONBUS_LUA_H
#define MOONBUS_LUA_H

#include "moonbus.h"

#ifdef __cplusplus
extern "C" {
#endif

#include <lua.h> /* it does not say so itself */

/** Push the table of the C module "moonbus.core"; what require "moonbus.core" calls. Raises on lack
 *  of memory. */
MB_EXPORT int luaopen_moonbus_core(lua_State *L);

/** Make require "moonbus" work in a state of yours without files on the disk: the Lua modules that
 *  the library carries go into package.preload. */
MB_EXPORT void mb_lua_preload(lua_State *L);

/** The host's state; borrowed for the life of the host. */
MB_EXPORT lua_State *mb_host_lua(mb_host *host);

#ifdef __cplusplus
}
#endif
#endif
