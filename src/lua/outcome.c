/* lua/outcome.c: what a handler's results or its error say of an event. Must not call the handler
 * itself, nor decide what becomes of the event. Called by lua/handler.c and lua/fiber.c. */
#include <string.h>

#include "lua/internal.h"

static void push_message(lua_State *L, const mb_fail *fail) {
  char text[MB_FAIL_MESSAGE_MAX];
  memcpy(text, fail->message, sizeof text);
  lua_pushlstring(L, text, mb__text_bytes(text));
}

/* nil, "reason" (or false, "reason") is a handler's way to report failure without raising. */
mb_outcome mb__lua_read_results(lua_State *L, mb_fail *fail) {
  if (lua_toboolean(L, -2) || lua_isnil(L, -1)) return MB_HANDLED;
  mb_bytes text = {NULL, 0};
  text.data = lua_tolstring(L, -1, &text.len);
  mb__fail_put(fail, mb_str("HandlerError"), text.data ? text : mb_str(luaL_typename(L, -1)));
  return MB_FAILED;
}

/* A double that no int64_t holds has no defined value as one. */
static int64_t milliseconds(double seconds) {
  if (!(seconds >= 0)) return -1;
  return seconds < 1e12 ? (int64_t)(seconds * 1000) : INT64_MAX;
}

int mb__lua_describe(lua_State *L) {
  static const char *const names[] = {"type", "message", "moonbus_outcome", "after"};
  bool table = lua_istable(L, 1);
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    lua_pushnil(L);
    if (!table) continue;
    lua_pop(L, 1);
    lua_getfield(L, 1, names[i]);
  }
  if (!lua_isstring(L, 3) && luaL_callmeta(L, 1, "__tostring")) lua_replace(L, 3);
  return 4;
}

/* The error value on the top: text, or a table with type and message; moonbus.dead and
 * moonbus.retry raise one that says what shall become of the event. Within the limits of the run
 * before, which are over for it. */
static mb_outcome read_error(lua_State *L, mbl_bus *lb, mb_fail *fail) {
  mb_outcome outcome = MB_FAILED;
  if (lua_isstring(L, -1)) {
    mb__text_keep(fail->type, sizeof fail->type, mb_str("LuaError"));
    mb__lua_keep_text(L, -1, fail->message, sizeof fail->message);
    return outcome;
  }
  mbl_run guarded;
  mb_fail unused;
  mb__guard_enter(lb, &guarded);
  lua_pushcfunction(L, mb__lua_describe);
  lua_pushvalue(L, -2);
  mb__guard_limit(lb, &guarded, &unused);
  int failed = lua_pcall(L, 1, 4, 0);
  mb__guard_lift(&guarded);
  mb__guard_leave(&guarded);
  if (failed) {
    const char *why = lua_isstring(L, -1) ? lua_tostring(L, -1) : "it raises";
    if (guarded.excess != MBL_WITHIN) why = "it goes beyond the limits of a handler";
    mb_fail_set(fail, "LuaError", "the error value is a %s that cannot be read: %s",
                luaL_typename(L, -2), why);
    lua_pop(L, 1);
    return outcome;
  }
  const char *message = lua_tostring(L, -3), *then = lua_tostring(L, -2);
  if (!message && !lua_istable(L, -5))
    mb_fail_set(fail, "LuaError", "the error value is a %s", luaL_typename(L, -5));
  else
    mb_fail_set(fail, "LuaError", "a table without message");
  if (lua_isstring(L, -4)) mb__lua_keep_text(L, -4, fail->type, sizeof fail->type);
  if (message) mb__lua_keep_text(L, -3, fail->message, sizeof fail->message);
  if (then && strcmp(then, "dead") == 0) outcome = MB_REJECTED;
  if (then && lua_isnumber(L, -1)) mb_fail_retry_after(fail, milliseconds(lua_tonumber(L, -1)));
  lua_pop(L, 4);
  return outcome;
}

/* retry_if(error, context) says whether the failure on the top is worth a retry. */
static mb_outcome ask_retry_if(lua_State *L, mbl_handler *handler, int context) {
  mbl_run guarded;
  mb_fail unused;
  mb__guard_enter(handler->lb, &guarded);
  lua_rawgeti(L, LUA_REGISTRYINDEX, handler->retry_if_ref);
  lua_pushvalue(L, -2);
  if (context)
    lua_pushvalue(L, context);
  else
    lua_rawgeti(L, LUA_REGISTRYINDEX, handler->lb->context_ref);
  mb__guard_limit(handler->lb, &guarded, &unused);
  int failed = lua_pcall(L, 2, 1, 0);
  mb__guard_lift(&guarded);
  mb__guard_leave(&guarded);
  if (failed) {
    mb__log(&handler->lb->bus->ctx.log, MB_LOG_ERROR, "retry_if: %s",
            lua_isstring(L, -1) ? lua_tostring(L, -1) : luaL_typename(L, -1));
    return MB_FAILED;
  }
  return lua_toboolean(L, -1) ? MB_FAILED : MB_REJECTED;
}

/* A run that was over a limit has failed, whatever it made of that; the reason is left on the top.
 */
static mb_outcome read_excess(lua_State *L, const mbl_handler *handler, const mbl_run *guarded,
                              mb_fail *fail) {
  const mbl_bus *lb = handler->lb;
  const char *name = handler->name ? handler->name : "the handler";
  if (guarded->excess == MBL_TOO_LONG) {
    fail->reason = "handler_timeout";
    mb_fail_set(fail, "HandlerTimeout", "%s ran for more than handler_timeout_ms (%lld) allows",
                name, (long long)(lb->time_us / 1000));
  } else {
    fail->reason = "out_of_memory";
    mb_fail_set(fail, "OutOfMemory", "%s took more than lua_memory_max_bytes (%zu) allows", name,
                lb->memory_most);
  }
  fail->retry_after_us = -1;
  lua_pushstring(L, fail->message);
  return MB_FAILED;
}

mb_outcome mb__lua_outcome(lua_State *L, mbl_handler *handler, const mbl_run *guarded, bool failed,
                           mb_outcome outcome, mb_fail *fail, int context) {
  if (guarded->excess != MBL_WITHIN)
    outcome = read_excess(L, handler, guarded, fail);
  else if (failed)
    outcome = read_error(L, handler->lb, fail);
  else if (outcome == MB_FAILED)
    push_message(L, fail);
  if (outcome != MB_HANDLED) mb__unit_fail(&handler->lb->bus->group);
  if (outcome == MB_FAILED && handler->retry_if_ref != LUA_NOREF)
    outcome = ask_retry_if(L, handler, context);
  return outcome;
}
