/* lua_handler.c: a Lua function as a handler of the engine.
 * Must not decide outcomes: it reports handled, failed or undecodable.
 * Called by dispatch.c through mb_handler_fn, and by lua_core.c to subscribe. */
#include <stdlib.h>
#include <string.h>

#include "lua_internal.h"

typedef struct mbl_handler {
  mbl_bus *lb;
  int function_ref;
  int type_ref;         /* keeps the type alive; LUA_NOREF: looked up by name, event by event */
  const mbl_type *type; /* NULL: see above */
  mbl_picks picks;
  int retry_if_ref; /* LUA_NOREF: every failure is worth a retry */
  char *name;       /* owned; NULL = none */
} mbl_handler;

/* What the protected call works on. */
typedef struct mbl_call {
  mbl_handler *handler;
  const mbl_type *type; /* NULL: undeclared */
  const mb_msg *msg;
  mb_fail *fail;
  mb_outcome outcome;
} mbl_call;

static mb_err header_of(const void *record, const char *name, mb_bytes *value) {
  return mb__record_header(record, name, value);
}

static mb_err decode(lua_State *L, mbl_bus *lb, const mbl_type *type, const mb_schema *schema,
                     const mb_msg *msg, char *why, size_t why_size) {
  mb_origin origin = {.topic = mb_msg_topic(msg),
                      .partition = mb_msg_partition(msg),
                      .offset = mb_msg_offset(msg),
                      .timestamp_ms = mb_msg_timestamp_ms(msg),
                      .header = header_of,
                      .record = msg->record};
  return mb__lua_decode(L, lb, type, schema, mb_msg_value(msg), &origin, msg, &lb->context->version,
                        why, why_size);
}

mb_err mb__lua_push_msg(lua_State *L, mbl_bus *lb, const mbl_type *type, const mb_msg *msg,
                        char *why, size_t why_size) {
  mb_err err = decode(L, lb, type, type ? type->schema : mb__schema_base(), msg, why, why_size);
  if (err) return err;
  if (type)
    mb__lua_push_event(L, type, &lb->decoder);
  else
    mb__lua_push_untyped(L, mb_msg_value(msg), &lb->decoder);
  return MB_OK;
}

/* The type declared for the event's name, or NULL. */
static const mbl_type *lookup(lua_State *L, mbl_bus *lb, mb_bytes name) {
  const mbl_type *type = NULL;
  lua_rawgeti(L, LUA_REGISTRYINDEX, lb->registry_ref);
  lua_pushlstring(L, name.data, name.len);
  lua_rawget(L, -2);
  if (lua_istable(L, -1)) {
    lua_pushliteral(L, "__moonbus");
    lua_rawget(L, -2);
    if (lua_type(L, -1) == LUA_TUSERDATA) type = lua_touserdata(L, -1);
    lua_pop(L, 1);
  }
  lua_pop(L, 2);
  return type;
}

/* nil, "reason" (or false, "reason") is a handler's way to report failure without raising. */
static void read_results(lua_State *L, mbl_call *call) {
  if (lua_toboolean(L, -2) || lua_isnil(L, -1)) return;
  const char *text = lua_tostring(L, -1);
  mb_fail_set(call->fail, "HandlerError", "%s", text ? text : luaL_typename(L, -1));
  call->outcome = MB_FAILED;
}

/* The handler with what it is given of the event; two results. */
static void call_handler(lua_State *L, const mbl_call *call, const mbl_pick *pick) {
  const mbl_handler *handler = call->handler;
  const mbl_bus *lb = handler->lb;
  if (pick->call_ref == LUA_NOREF) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, handler->function_ref);
    mb__lua_push_untyped(L, mb_msg_value(call->msg), &lb->decoder);
    lua_rawgeti(L, LUA_REGISTRYINDEX, lb->context_ref);
    lua_call(L, 2, 2);
    return;
  }
  luaL_checkstack(L, (int)pick->count + 8, "event");
  lua_rawgeti(L, LUA_REGISTRYINDEX, pick->call_ref);
  lua_rawgeti(L, LUA_REGISTRYINDEX, handler->function_ref);
  lua_rawgeti(L, LUA_REGISTRYINDEX, lb->context_ref);
  for (size_t i = 0; i < pick->count; i++)
    mb__lua_push_field(L, pick->schema, &lb->decoder, pick->fields[i]);
  lua_call(L, (int)pick->count + 2, 2);
}

static int protected_call(lua_State *L) {
  mbl_call *call = lua_touserdata(L, 1);
  mbl_handler *handler = call->handler;
  char why[512];
  lua_settop(L, 0);
  if (!call->type) call->type = lookup(L, handler->lb, mb_msg_event_type(call->msg));
  const mbl_pick *pick = mb__lua_pick(L, &handler->picks, call->type);
  if (decode(L, handler->lb, call->type, pick->schema, call->msg, why, sizeof why)) {
    mb_fail_set(call->fail, "DeserializationError", "%s", why);
    call->outcome = MB_UNDECODABLE;
    return 0;
  }
  handler->lb->context->msg = call->msg;
  call_handler(L, call, pick);
  read_results(L, call);
  return 0;
}

/* Message handler: keep where it happened, while the stack is still there. */
static int keep_trace(lua_State *L) {
  const mbl_bus *lb = lua_touserdata(L, lua_upvalueindex(1));
  mb_fail *fail = lb->call->fail;
  if (!lua_isstring(L, 1)) return 1;
  luaL_traceback(L, L, NULL, 1);
  snprintf(fail->trace, sizeof fail->trace, "%s", lua_tostring(L, -1));
  lua_pop(L, 1);
  return 1;
}

void mb__lua_handlers_open(lua_State *L, mbl_bus *lb) {
  lua_pushlightuserdata(L, lb);
  lua_pushcclosure(L, keep_trace, 1);
  lb->trace_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_pushcfunction(L, protected_call);
  lb->protect_ref = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* A double that no int64_t holds has no defined value as one. */
static int64_t milliseconds(double seconds) {
  if (!(seconds >= 0)) return -1;
  return seconds < 1e12 ? (int64_t)(seconds * 1000) : INT64_MAX;
}

/* An error value: text, or a table with type and message; moonbus.dead and moonbus.retry raise one
 * that says what shall become of the event. */
static mb_outcome read_error(lua_State *L, mb_fail *fail) {
  mb_outcome outcome = MB_FAILED;
  if (!lua_istable(L, -1)) {
    const char *text = lua_tostring(L, -1);
    if (text)
      mb_fail_set(fail, "LuaError", "%s", text);
    else
      mb_fail_set(fail, "LuaError", "the error value is a %s", luaL_typename(L, -1));
    return outcome;
  }
  lua_getfield(L, -1, "type");
  lua_getfield(L, -2, "message");
  lua_getfield(L, -3, "moonbus_outcome");
  lua_getfield(L, -4, "after");
  const char *type = lua_tostring(L, -4), *message = lua_tostring(L, -3);
  const char *wanted = lua_tostring(L, -2);
  mb_fail_set(fail, type ? type : "LuaError", "%s", message ? message : "a table without message");
  if (wanted && strcmp(wanted, "dead") == 0) outcome = MB_REJECTED;
  if (wanted && lua_isnumber(L, -1)) mb_fail_retry_after(fail, milliseconds(lua_tonumber(L, -1)));
  lua_pop(L, 4);
  return outcome;
}

/* retry_if(error, context) says whether the failure on the top is worth a retry. */
static mb_outcome ask_retry_if(lua_State *L, mbl_handler *handler) {
  mbl_run guarded;
  mb_fail unused;
  mb__guard_enter(handler->lb, &guarded);
  lua_rawgeti(L, LUA_REGISTRYINDEX, handler->retry_if_ref);
  lua_pushvalue(L, -2);
  lua_rawgeti(L, LUA_REGISTRYINDEX, handler->lb->context_ref);
  mb__guard_limit(handler->lb, &guarded, &unused);
  int failed = lua_pcall(L, 2, 1, 0);
  mb__guard_lift(&guarded);
  mb__guard_leave(&guarded);
  if (failed) {
    mb__log(&handler->lb->bus->log, MB_LOG_ERROR, "retry_if: %s",
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

static mb_outcome run(const mb_msg *msg, mb_fail *fail, void *opaque) {
  mbl_handler *handler = opaque;
  mbl_bus *lb = handler->lb;
  lua_State *L = lb->L;
  mbl_call call = {
      .handler = handler, .type = handler->type, .msg = msg, .fail = fail, .outcome = MB_HANDLED};
  mbl_call *outer_call = lb->call;
  int top = lua_gettop(L);
  mbl_context outer = *lb->context;
  mbl_run guarded;
  if (!lua_checkstack(L, 12)) {
    mb_fail_set(fail, "LuaError", "the Lua stack is full");
    return MB_FAILED;
  }
  mb__guard_enter(lb, &guarded);
  lb->call = &call;
  lua_rawgeti(L, LUA_REGISTRYINDEX, lb->trace_ref);
  lua_rawgeti(L, LUA_REGISTRYINDEX, lb->protect_ref);
  lua_pushlightuserdata(L, &call);
  mb__guard_limit(lb, &guarded, fail);
  bool failed = lua_pcall(L, 1, 0, top + 1) != 0;
  lb->call = outer_call;
  mb__guard_lift(&guarded);
  if (guarded.excess != MBL_WITHIN)
    call.outcome = read_excess(L, handler, &guarded, fail);
  else if (failed)
    call.outcome = read_error(L, fail);
  else if (call.outcome == MB_FAILED)
    lua_pushstring(L, fail->message);
  if (call.outcome != MB_HANDLED) mb__unit_fail(lb->bus);
  lb->context->msg = msg;
  if (call.outcome == MB_FAILED && handler->retry_if_ref != LUA_NOREF)
    call.outcome = ask_retry_if(L, handler);
  *lb->context = outer;
  mb__guard_leave(&guarded);
  lua_settop(L, top);
  return call.outcome;
}

static void handler_free(void *opaque) {
  mbl_handler *handler = opaque;
  luaL_unref(handler->lb->L, LUA_REGISTRYINDEX, handler->function_ref);
  luaL_unref(handler->lb->L, LUA_REGISTRYINDEX, handler->type_ref);
  luaL_unref(handler->lb->L, LUA_REGISTRYINDEX, handler->retry_if_ref);
  mb__lua_picks_free(handler->lb->L, &handler->picks);
  free(handler->name);
  free(handler);
}

/* Take options.tenants, a list of texts; the array lies on the stack, the texts in their table. */
static void read_tenants(lua_State *L, int index, mb_subscription_options *options) {
  lua_getfield(L, index, "tenants");
  if (!lua_istable(L, -1)) return;
  int table = lua_gettop(L);
  options->tenant_count = lua_objlen(L, table);
  const char **tenants = lua_newuserdata(L, (options->tenant_count + 1) * sizeof *tenants);
  for (size_t i = 0; i < options->tenant_count; i++) {
    lua_rawgeti(L, table, (int)i + 1);
    tenants[i] = lua_tostring(L, -1);
    lua_pop(L, 1);
  }
  options->tenants = tenants;
}

/* bus:subscribe(name | nil, function, type | nil, options) -> id
 * options: name, max_retries, retry_if, tenants (UUIDs, "" = none; raises when one is no UUID),
 * reads (names of the fields that the function reads; nil = any) */
int mb__l_bus_subscribe(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  const char *name = lua_isnil(L, 2) ? NULL : luaL_checkstring(L, 2);
  mb_subscription_options options = {.max_retries = -1};
  uint32_t id = 0;
  luaL_checktype(L, 3, LUA_TFUNCTION);
  const mbl_type *type = lua_isnoneornil(L, 4) ? NULL : mb__lua_check_type(L, 4);
  luaL_checktype(L, 5, LUA_TTABLE);
  lua_settop(L, 5);
  lua_getfield(L, 5, "name"); /* stays on the stack: the text is borrowed */
  options.name = lua_tostring(L, 6);
  lua_getfield(L, 5, "max_retries");
  if (!lua_isnil(L, 7)) options.max_retries = (int)lua_tointeger(L, 7);
  read_tenants(L, 5, &options);
  mbl_handler *handler = calloc(1, sizeof *handler);
  if (!handler) return luaL_error(L, "out of memory");
  *handler = (mbl_handler){.lb = lb,
                           .function_ref = LUA_NOREF,
                           .type_ref = LUA_NOREF,
                           .retry_if_ref = LUA_NOREF,
                           .picks = {.reads_ref = LUA_NOREF},
                           .type = type,
                           .name = options.name ? strdup(options.name) : NULL};
  lua_getfield(L, 5, "retry_if");
  if (lua_isnil(L, -1))
    lua_pop(L, 1);
  else
    handler->retry_if_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_getfield(L, 5, "reads");
  if (lua_isnil(L, -1))
    lua_pop(L, 1);
  else
    handler->picks.reads_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  if (type) {
    lua_pushvalue(L, 4);
    handler->type_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  lua_pushvalue(L, 3);
  handler->function_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  mb_err err = mb_bus_subscribe_with(lb->bus, name, run, handler, handler_free, &options, &id);
  if (err == MB_EINVAL) return luaL_error(L, "tenant_id: a tenant is a UUID");
  if (err) return luaL_error(L, "out of memory");
  lua_pushnumber(L, id);
  return 1;
}

/* bus:unsubscribe(id) -> boolean */
int mb__l_bus_unsubscribe(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  lua_pushboolean(L, mb_bus_unsubscribe(lb->bus, (uint32_t)luaL_checknumber(L, 2)) == MB_OK);
  return 1;
}

/* ---- the context ---- */

void mb__lua_push_bytes(lua_State *L, mb_bytes bytes) {
  if (bytes.data)
    lua_pushlstring(L, bytes.data, bytes.len);
  else
    lua_pushnil(L);
}

/* First value of each name; null values are moonbus.null. */
static void push_headers(lua_State *L, const mb_msg *msg) {
  const char *name;
  mb_bytes value;
  lua_createtable(L, 0, 12);
  for (size_t i = 0; mb_msg_header_at(msg, i, &name, &value); i++) {
    lua_getfield(L, -1, name);
    bool seen = !lua_isnil(L, -1);
    lua_pop(L, 1);
    if (seen) continue;
    if (value.data)
      lua_pushlstring(L, value.data, value.len);
    else
      lua_pushlightuserdata(L, NULL);
    lua_setfield(L, -2, name);
  }
}

static int l_header(lua_State *L) {
  mbl_context *context = luaL_checkudata(L, 1, CTX_META);
  mb_bytes value;
  if (!context->msg) return luaL_error(L, "the context is only good while its handler runs");
  if (mb_msg_header(context->msg, luaL_checkstring(L, 2), &value))
    lua_pushnil(L);
  else
    mb__lua_push_bytes(L, value);
  return 1;
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
  if (!msg) return luaL_error(L, "the context is only good while its handler runs");
  if (strcmp(key, "topic") == 0)
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
    lua_pushnil(L);
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
