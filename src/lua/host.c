/* lua/host.c: a Lua state with moonbus in it, for the program and for embedders.
 * Must not know Kafka or events; it makes the state, finds the modules, runs what it is given.
 * Called by program/main.c and through moonbus.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/wake.h"
#include "lua/internal.h"
#include "lua/modules.h"

static char require_key; /* registry: Lua's own, whatever scripts make of the global */

struct mb_host {
  lua_State *L;
  int interrupt_fd;
};

/* A module's loader: loaded when it is first required, for all that is loaded is gone over by the
 * collector again and again. Upvalue: the module. */
static int load_module(lua_State *L) {
  const mb_lua_module *module = lua_touserdata(L, lua_upvalueindex(1));
  if (luaL_loadbuffer(L, module->code, module->len, module->name)) return lua_error(L);
  lua_pushvalue(L, 1);
  lua_call(L, 1, 1);
  return 1;
}

void mb_lua_preload(lua_State *L) {
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "preload");
  lua_pushcfunction(L, luaopen_moonbus_core);
  lua_setfield(L, -2, "moonbus.core");
  for (const mb_lua_module *module = mb__lua_modules; module->name; module++) {
    lua_pushlightuserdata(L, (void *)(uintptr_t)module);
    lua_pushcclosure(L, load_module, 1);
    lua_setfield(L, -2, module->name);
  }
  lua_pop(L, 2);
}

/* ---- loops over tables ----
 *
 * LuaJIT 2.1.0-beta3 as Debian 12 has it compiles next, and so loops over pairs, in a way that may
 * keep half of a pointer (fixed in LuaJIT as of April 2022; later releases have other names). Its
 * compiler leaves functions in C alone: with these, such loops are interpreted. */

static int plain_next(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 2);
  if (lua_next(L, 1)) return 2;
  lua_pushnil(L);
  return 1;
}

/* Upvalues: the original pairs and next, and plain_next. */
static int plain_pairs(lua_State *L) {
  lua_settop(L, 1);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, 1, 3);
  if (lua_rawequal(L, 1, lua_upvalueindex(2))) { /* it may be what __pairs gave */
    lua_pushvalue(L, lua_upvalueindex(3));
    lua_replace(L, 1);
  }
  return 3;
}

static void interpret_pairs(lua_State *L) {
  lua_getglobal(L, "jit");
  lua_getfield(L, -1, "version");
  const char *version = lua_tostring(L, -1);
  bool wrong = version && strcmp(version, "LuaJIT 2.1.0-beta3") == 0;
  lua_pop(L, 2);
  if (!wrong) return;
  lua_getglobal(L, "pairs");
  lua_getglobal(L, "next");
  lua_pushcfunction(L, plain_next);
  lua_pushvalue(L, -1);
  lua_setglobal(L, "next");
  lua_pushcclosure(L, plain_pairs, 3);
  lua_setglobal(L, "pairs");
}

/* Before any script runs: what moonbus uses of Lua stays as it is. */
static void keep_base(lua_State *L) {
  lua_pushlightuserdata(L, &require_key);
  lua_getglobal(L, "require");
  lua_pushvalue(L, -1);
  lua_pushliteral(L, "moonbus.base");
  lua_call(L, 1, 0);
  lua_rawset(L, LUA_REGISTRYINDEX);
}

/* lua_pushlightuserdata: the host. Whatever may fail for lack of memory happens in here. */
static int open_state(lua_State *L) {
  mb_host *host = lua_touserdata(L, 1);
  lua_settop(L, 0);
  luaL_openlibs(L);
  interpret_pairs(L);
  mb_lua_preload(L);
  keep_base(L);
  mb__lua_set_interrupt_fd(L, host->interrupt_fd);
  return 0;
}

mb_host *mb_host_new(char *errstr, size_t errstr_size) {
  mb_host *host = calloc(1, sizeof *host);
  if (!host) goto no_memory;
  host->interrupt_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (host->interrupt_fd < 0) {
    mb__error(MB_EIO, errstr, errstr_size, "eventfd: %s", strerror(errno));
    free(host);
    return NULL;
  }
  host->L = luaL_newstate();
  if (!host->L) goto no_memory;
  lua_pushcfunction(host->L, open_state);
  lua_pushlightuserdata(host->L, host);
  if (!lua_pcall(host->L, 1, 0, 0)) return host;
  mb__error(MB_ESCRIPT, errstr, errstr_size, "%s", lua_tostring(host->L, -1));
  mb_host_free(host);
  return NULL;
no_memory:
  mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
  mb_host_free(host);
  return NULL;
}

void mb_host_free(mb_host *host) {
  if (!host) return;
  if (host->L) lua_close(host->L);
  if (host->interrupt_fd > 0) close(host->interrupt_fd);
  free(host);
}

lua_State *mb_host_lua(mb_host *host) {
  return host->L;
}

void mb_host_watch(mb_host *host, mb_watch *watch, int worker, const char *instance) {
  mbl_watch given = {.watch = watch, .worker = worker};
  snprintf(given.instance, sizeof given.instance, "%s", instance);
  mb__lua_set_watch(host->L, &given);
}

void mb_host_interrupt(mb_host *host) {
  mb__wake(host->interrupt_fd);
}

/* Message handler: the error with a traceback, unless it is no text. */
static int traceback(lua_State *L) {
  if (!lua_isstring(L, 1)) return 1;
  luaL_traceback(L, L, lua_tostring(L, 1), 1);
  return 1;
}

int mb_host_main(mb_host *host, int argc, char **argv) {
  lua_State *L = host->L;
  lua_settop(L, 0);
  lua_pushcfunction(L, traceback);
  lua_pushlightuserdata(L, &require_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
  lua_pushliteral(L, "moonbus.cli");
  if (lua_pcall(L, 1, 1, 1)) goto failed;
  lua_getfield(L, -1, "main");
  lua_remove(L, -2); /* main may release its module */
  lua_createtable(L, argc, 0);
  for (int i = 0; i < argc; i++) {
    lua_pushstring(L, argv[i]);
    lua_rawseti(L, -2, i);
  }
  if (lua_pcall(L, 1, 1, 1)) goto failed;
  return (int)lua_tointeger(L, -1);
failed:
  mb_log_program(MB_LOG_ERROR,
                 "moonbus: ", lua_isstring(L, -1) ? lua_tostring(L, -1) : "unknown error");
  return 70; /* an error of the program itself */
}

mb_err mb_host_run(mb_host *host, const char *path, char *errstr, size_t errstr_size) {
  lua_State *L = host->L;
  if (!path)
    return mb__error(MB_EINVAL, errstr, errstr_size, "expected the path of a script, got NULL");
  lua_settop(L, 0);
  lua_pushcfunction(L, traceback);
  if (!luaL_loadfile(L, path) && !lua_pcall(L, 0, 0, 1)) return MB_OK;
  return mb__error(MB_ESCRIPT, errstr, errstr_size, "%s",
                   lua_isstring(L, -1) ? lua_tostring(L, -1) : luaL_typename(L, -1));
}
