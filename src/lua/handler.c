/* lua/handler.c: a Lua function as a handler of the engine.
 * Must not decide outcomes: it reports handled, failed or undecodable.
 * Called by handlers/dispatch.c through mb_handler_fn, and by lua/module.c to subscribe. */
#include <stdlib.h>
#include <string.h>

#include "lua/internal.h"

static mb_err header_of(const void *record, const char *name, mb_bytes *value) {
  return mb__record_header(record, name, value);
}

static mb_err decode(lua_State *L, mbl_bus *lb, const mbl_type *type, const mb_schema *schema,
                     const mb_msg *msg, int64_t *version, char *why, size_t why_size) {
  mb_origin origin = {.topic = mb_msg_topic(msg),
                      .partition = mb_msg_partition(msg),
                      .offset = mb_msg_offset(msg),
                      .timestamp_ms = mb_msg_timestamp_ms(msg),
                      .header = header_of,
                      .record = msg->record};
  return mb__lua_decode(L, lb, type, schema, mb_msg_value(msg), &origin, msg, version, why,
                        why_size);
}

mb_err mb__lua_push_msg(lua_State *L, mbl_bus *lb, const mbl_type *type, const mb_msg *msg,
                        char *why, size_t why_size) {
  mb_err err = decode(L, lb, type, type ? type->schema : mb__schema_base(), msg,
                      &lb->context->version, why, why_size);
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

/* Push the handler with what it is given of the event; how many arguments. */
static int push_handler(lua_State *L, const mbl_call *call, const mbl_pick *pick, int context) {
  const mbl_handler *handler = call->handler;
  const mbl_bus *lb = handler->lb;
  luaL_checkstack(L, (int)pick->count + 8, "event");
  if (pick->call_ref != LUA_NOREF) lua_rawgeti(L, LUA_REGISTRYINDEX, pick->call_ref);
  lua_rawgeti(L, LUA_REGISTRYINDEX, handler->function_ref);
  if (pick->call_ref == LUA_NOREF) mb__lua_push_untyped(L, mb_msg_value(call->msg), &lb->decoder);
  if (context)
    lua_pushvalue(L, context);
  else
    lua_rawgeti(L, LUA_REGISTRYINDEX, lb->context_ref);
  if (pick->call_ref == LUA_NOREF) return 2;
  for (size_t i = 0; i < pick->count; i++)
    mb__lua_push_field(L, pick->schema, &lb->decoder, pick->fields[i]);
  return (int)pick->count + 2;
}

/* The same after reading the event; -1: it cannot be read. context: where it lies; 0 = the bus's.
 */
static int push_call(lua_State *L, mbl_call *call, int context, int64_t *version) {
  mbl_handler *handler = call->handler;
  char why[MB_ERRSTR_MAX];
  if (!call->type) call->type = lookup(L, handler->lb, mb_msg_event_type(call->msg));
  const mbl_pick *pick = mb__lua_pick(L, &handler->picks, call->type);
  if (!decode(L, handler->lb, call->type, pick->schema, call->msg, version, why, sizeof why))
    return push_handler(L, call, pick, context);
  mb_fail_set(call->fail, "DeserializationError", "%s", why);
  call->outcome = MB_UNDECODABLE;
  return -1;
}

static int protected_call(lua_State *L) {
  mbl_call *call = lua_touserdata(L, 1);
  mbl_bus *lb = call->handler->lb;
  lua_settop(L, 0);
  int count = push_call(L, call, 0, &lb->context->version);
  if (count < 0) return 0;
  lb->context->msg = call->msg;
  lua_call(L, count, 2);
  call->outcome = mb__lua_read_results(L, call->fail);
  return 0;
}

/* The handler's coroutine, ready to be resumed; its context, its thread and the number of arguments
 * are returned. */
static int protected_fiber(lua_State *L) {
  mbl_call *call = lua_touserdata(L, 1);
  lua_settop(L, 0);
  mbl_fiber *fiber = mb__lua_fiber_new(L, call->handler); /* context, thread */
  int count = push_call(L, call, 1, &fiber->context.version);
  if (count < 0) return 0;
  luaL_checkstack(fiber->co, count + 8, "event");
  lua_xmove(L, fiber->co, count + 1);
  lua_pushinteger(L, count);
  return 3;
}

/* Message handler: keep where it happened, while the stack is still there. */
static int keep_trace(lua_State *L) {
  const mbl_bus *lb = lua_touserdata(L, lua_upvalueindex(1));
  mb_fail *fail = lb->call->fail;
  if (!lua_isstring(L, 1)) return 1;
  luaL_traceback(L, L, NULL, 1);
  mb__lua_keep_text(L, -1, fail->trace, sizeof fail->trace);
  lua_pop(L, 1);
  return 1;
}

void mb__lua_handlers_open(lua_State *L, mbl_bus *lb) {
  lua_pushlightuserdata(L, lb);
  lua_pushcclosure(L, keep_trace, 1);
  lb->trace_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_pushcfunction(L, lb->bus->group.pending.most > 1 ? protected_fiber : protected_call);
  lb->protect_ref = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* One protected call, of which nresults are left above top + 1; call->outcome is set. */
static bool enter(mbl_call *call, mbl_run *guarded, int top, int nresults) {
  mbl_bus *lb = call->handler->lb;
  lua_State *L = lb->L;
  mbl_call *outer = lb->call;
  mb__guard_enter(lb, guarded);
  lb->call = call;
  lua_rawgeti(L, LUA_REGISTRYINDEX, lb->trace_ref);
  lua_rawgeti(L, LUA_REGISTRYINDEX, lb->protect_ref);
  lua_pushlightuserdata(L, call);
  mb__guard_limit(lb, guarded, call->fail);
  bool failed = lua_pcall(L, 1, nresults, top + 1) != 0;
  lb->call = outer;
  return failed;
}

/* With concurrency above 1 in a coroutine of its own, which may be pending. */
static mb_outcome run(const mb_msg *msg, mb_fail *fail, void *opaque) {
  mbl_handler *handler = opaque;
  mbl_bus *lb = handler->lb;
  lua_State *L = lb->L;
  mbl_call call = {
      .handler = handler, .type = handler->type, .msg = msg, .fail = fail, .outcome = MB_HANDLED};
  int top = lua_gettop(L);
  mbl_context outer = *lb->context;
  mbl_run guarded;
  bool fiber = lb->bus->group.pending.most > 1;
  if (!lua_checkstack(L, 12)) {
    mb_fail_set(fail, "LuaError", "the Lua stack is full");
    return MB_FAILED;
  }
  bool failed = enter(&call, &guarded, top, fiber ? 3 : 0);
  if (fiber && !failed && call.outcome == MB_HANDLED) { /* trace, context, thread, count */
    int count = (int)lua_tointeger(L, top + 4);
    call.outcome = mb__lua_fiber_start(L, top + 2, msg, count, &guarded, fail);
  } else {
    mb__guard_lift(&guarded);
    lb->context->msg = msg;
    call.outcome = mb__lua_outcome(L, handler, &guarded, failed, call.outcome, fail, 0);
  }
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
  const char *name = lua_isnil(L, 2) ? NULL : mb__lua_check_name(L, 2, "event type");
  mb_subscription_options options = {.max_retries = -1};
  uint32_t id = 0;
  luaL_checktype(L, 3, LUA_TFUNCTION);
  const mbl_type *type = lua_isnoneornil(L, 4) ? NULL : mb__lua_check_type(L, 4);
  luaL_checktype(L, 5, LUA_TTABLE);
  lua_settop(L, 5);
  lua_getfield(L, 5, "name"); /* stays on the stack: the text is borrowed */
  char handler_name[MB_FAIL_HANDLER_MAX];
  if (lua_isstring(L, 6)) {
    mb__lua_keep_text(L, 6, handler_name, sizeof handler_name);
    options.name = handler_name;
  }
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
