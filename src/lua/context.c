/* lua/context.c: what a handler's context, and a record's table, say of an event.
 * Must not know handlers; it reads a message.
 * Called by Lua through the context's metatable, and by lua/read.c. */
#include <string.h>

#include "lua/internal.h"

/* The value that counts of each name (mb_msg_header); null values are moonbus.null. */
static void push_headers(lua_State *L, const mb_msg *msg) {
  const char *name;
  mb_bytes value;
  lua_createtable(L, 0, 12);
  for (size_t i = 0; mb_msg_header_at(msg, i, &name, &value); i++) {
    lua_getfield(L, -1, name);
    bool seen = !lua_isnil(L, -1);
    lua_pop(L, 1);
    if (seen && !mb__header_of_death(name)) continue;
    if (value.data)
      lua_pushlstring(L, value.data, value.len);
    else
      lua_pushlightuserdata(L, NULL);
    lua_setfield(L, -2, name);
  }
}

static int l_header(lua_State *L) {
  if (lua_type(L, 1) != LUA_TUSERDATA)
    return luaL_error(L, "ctx.header(...) lacks its context: write ctx:header(name)");
  mbl_context *context = luaL_checkudata(L, 1, CTX_META);
  mb_bytes value;
  if (!context->msg) return luaL_error(L, "the context is only good while its handler runs");
  if (mb_msg_header(context->msg, mb__lua_check_name(L, 2, "header"), &value))
    lua_pushnil(L);
  else
    mb__lua_push_bytes(L, value);
  return 1;
}

/* What the context has besides the trace context; absent values are nil. */
static const char *const keys[] = {
    "abandoned", "topic",  "partition",   "offset",     "timestamp",
    "attempt",   "key",    "value",       "event_type", "original_version",
    "headers",   "header", "traceparent", "tracestate", "baggage"};

/* Names that begin with "_" are those of Lua's protocols. */
static int unknown_key(lua_State *L, const char *key) {
  mb_nearest nearest = {.word = key, .parts = true};
  lua_pushnil(L);
  if (key[0] == '_') return 1;
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) mb__nearest_offer(&nearest, keys[i]);
  if (nearest.best[0])
    return luaL_error(L, "a context has no \"%s\"; did you mean \"%s\"?", key, nearest.best);
  return luaL_error(L, "a context has no \"%s\"; headers of the record: ctx:header(\"%s\")", key,
                    key);
}

/* One part of the trace context; false if the key is none. */
static bool push_trace(lua_State *L, const mb_msg *msg, bool tracing, const char *key) {
  static const char *const names[] = {"traceparent", "tracestate", "baggage"};
  mb_trace trace;
  int i = 0;
  while (i < 3 && strcmp(key, names[i]) != 0) i++;
  if (i == 3) return false;
  mb__trace_read(tracing ? msg->record : NULL, &trace);
  const mb_bytes parts[] = {trace.traceparent, trace.tracestate, trace.baggage};
  mb__lua_push_bytes(L, parts[i]);
  return true;
}

int mb__l_context_index(lua_State *L) {
  mbl_context *context = luaL_checkudata(L, 1, CTX_META);
  const char *key = luaL_checkstring(L, 2);
  const mb_msg *msg = context->msg;
  if (!msg && context->abandoned && strcmp(key, "abandoned") != 0)
    return luaL_error(L, "the event went with its partition: ctx.abandoned");
  if (!msg && !context->abandoned)
    return luaL_error(L, "the context is only good while its handler runs");
  if (strcmp(key, "abandoned") == 0)
    lua_pushboolean(L, context->abandoned);
  else if (strcmp(key, "topic") == 0)
    lua_pushstring(L, mb_msg_topic(msg));
  else if (strcmp(key, "partition") == 0)
    lua_pushinteger(L, mb_msg_partition(msg));
  else if (strcmp(key, "offset") == 0)
    lua_pushnumber(L, (lua_Number)mb_msg_offset(msg));
  else if (strcmp(key, "timestamp") == 0)
    lua_pushnumber(L, (lua_Number)mb_msg_timestamp_ms(msg));
  else if (strcmp(key, "attempt") == 0)
    lua_pushinteger(L, mb_msg_attempt(msg));
  else if (strcmp(key, "key") == 0)
    mb__lua_push_bytes(L, mb_msg_key(msg));
  else if (strcmp(key, "value") == 0)
    mb__lua_push_bytes(L, mb_msg_value(msg));
  else if (strcmp(key, "event_type") == 0)
    mb__lua_push_bytes(L, mb_msg_event_type(msg));
  else if (strcmp(key, "original_version") == 0)
    lua_pushnumber(L, (lua_Number)context->version);
  else if (strcmp(key, "headers") == 0)
    push_headers(L, msg);
  else if (strcmp(key, "header") == 0)
    lua_pushcfunction(L, l_header);
  else if (!push_trace(L, msg, context->tracing, key))
    return unknown_key(L, key);
  return 1;
}

void mb__lua_push_record(lua_State *L, const mb_msg *msg) {
  luaL_checkstack(L, 8, "record");
  lua_createtable(L, 0, 8);
  lua_pushstring(L, mb_msg_topic(msg));
  lua_setfield(L, -2, "topic");
  lua_pushinteger(L, mb_msg_partition(msg));
  lua_setfield(L, -2, "partition");
  lua_pushnumber(L, (lua_Number)mb_msg_offset(msg));
  lua_setfield(L, -2, "offset");
  lua_pushnumber(L, (lua_Number)mb_msg_timestamp_ms(msg));
  lua_setfield(L, -2, "timestamp");
  mb__lua_push_bytes(L, mb_msg_key(msg));
  lua_setfield(L, -2, "key");
  mb__lua_push_bytes(L, mb_msg_value(msg));
  lua_setfield(L, -2, "value");
  push_headers(L, msg);
  lua_setfield(L, -2, "headers");
}
