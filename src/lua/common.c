/* lua/common.c: what the functions that Lua calls have in common: their bus, names, results and
 * errors, and what the host gave the state. Must not know what they do. */
#include <string.h>

#include "lua/internal.h"

static char interrupt_fd_key, watch_key; /* registry */

int mb__lua_fail(lua_State *L, mb_err err, const char *text) {
  lua_pushnil(L);
  lua_pushfstring(L, "%s: %s", mb_err_name(err), text && *text ? text : mb_err_text(err));
  lua_pushstring(L, mb_err_name(err));
  return 3;
}

int mb__lua_done(lua_State *L, mb_err err, const char *text) {
  if (err) return mb__lua_fail(L, err, text);
  lua_pushboolean(L, 1);
  return 1;
}

mbl_bus *mb__lua_check_bus(lua_State *L, int index) {
  mbl_bus *lb = luaL_checkudata(L, index, BUS_META);
  if (!lb->bus) luaL_error(L, "the bus was closed");
  lb->L = L;
  return lb;
}

/* ---- what the host gave ---- */

int mb__lua_interrupt_fd(lua_State *L) {
  lua_pushlightuserdata(L, &interrupt_fd_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
  int fd = lua_isnumber(L, -1) ? (int)lua_tointeger(L, -1) : -1;
  lua_pop(L, 1);
  return fd;
}

void mb__lua_set_interrupt_fd(lua_State *L, int fd) {
  lua_pushlightuserdata(L, &interrupt_fd_key);
  lua_pushinteger(L, fd);
  lua_rawset(L, LUA_REGISTRYINDEX);
}

void mb__lua_set_watch(lua_State *L, const mbl_watch *watch) {
  lua_pushlightuserdata(L, &watch_key);
  mbl_watch *kept = lua_newuserdata(L, sizeof *kept);
  *kept = *watch;
  lua_rawset(L, LUA_REGISTRYINDEX);
}

mbl_watch *mb__lua_watch(lua_State *L) {
  lua_pushlightuserdata(L, &watch_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
  mbl_watch *watch = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return watch;
}

/* ---- texts ---- */

const char *mb__lua_check_name(lua_State *L, int index, const char *what) {
  size_t len;
  const char *name = luaL_checklstring(L, index, &len);
  if (strlen(name) != len)
    luaL_error(L, "%s: expected a name without NUL bytes, got one behind \"%s\"", what, name);
  return name;
}

void mb__lua_keep_text(lua_State *L, int index, char *text, size_t size) {
  size_t len;
  const char *data = lua_tolstring(L, index, &len);
  mb__text_keep(text, size, (mb_bytes){data, len});
}

void mb__lua_push_bytes(lua_State *L, mb_bytes bytes) {
  if (bytes.data)
    lua_pushlstring(L, bytes.data, bytes.len);
  else
    lua_pushnil(L);
}
