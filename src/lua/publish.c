/* lua/publish.c: events from Lua to the producer, and their encoded form.
 * Must not know the wire (event/codec.c) nor what delivery means (kafka/producer.c).
 * Called by the modules in lua/moonbus, through the tables in lua/module.c. */
#include <stdlib.h>
#include <string.h>

#include "bus/publish.h"
#include "lua/internal.h"

/* ---- publishing ---- */

static int push_receipt(lua_State *L, const mb_receipt *receipts, int count) {
  lua_createtable(L, 0, 3);
  lua_pushinteger(L, count);
  lua_setfield(L, -2, "count");
  mb__lua_new_array(L, count);
  for (int i = 0; i < count; i++) {
    lua_pushinteger(L, receipts[i].partition);
    lua_rawseti(L, -2, i + 1);
  }
  lua_setfield(L, -2, "partitions");
  mb__lua_new_array(L, count);
  for (int i = 0; i < count; i++) {
    lua_pushnumber(L, (lua_Number)receipts[i].offset);
    lua_rawseti(L, -2, i + 1);
  }
  lua_setfield(L, -2, "offsets");
  return 1;
}

static int batch_gc(lua_State *L) {
  mb_batch **batch = lua_touserdata(L, 1);
  mb__batch_free(*batch);
  *batch = NULL;
  return 0;
}

/* A batch of this call alone (a callback may publish while another call waits), freed by the
 * collector if the call raises. */
static mb_batch **push_batch(lua_State *L, mbl_bus *lb, int count) {
  mb_batch **batch = lua_newuserdata(L, sizeof *batch);
  *batch = NULL;
  if (luaL_newmetatable(L, "moonbus.batch")) {
    lua_pushcfunction(L, batch_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  *batch = mb__batch_new(lb->bus, (size_t)count);
  if (!*batch) luaL_error(L, "out of memory");
  return batch;
}

static void drop_batch(mb_batch **batch) {
  mb__batch_free(*batch);
  *batch = NULL;
}

/* nil, err, code, { {index=, event_id=, code=, reason=}, ... } */
static int push_failures(lua_State *L, const mb_batch *batch, mb_err err, const char *why,
                         const mb_receipt *receipts, int count) {
  int n = 0;
  mb__lua_fail(L, err, why);
  mb__lua_new_array(L, 0);
  for (int i = 0; i < count; i++) {
    if (!receipts[i].err) continue;
    lua_createtable(L, 0, 4);
    lua_pushinteger(L, i + 1);
    lua_setfield(L, -2, "index");
    mb__lua_push_bytes(L, mb__batch_event_id(batch, (size_t)i));
    lua_setfield(L, -2, "event_id");
    lua_pushstring(L, mb_err_name(receipts[i].err));
    lua_setfield(L, -2, "code");
    lua_pushstring(L, mb__batch_reason(batch, (size_t)i));
    lua_setfield(L, -2, "reason");
    lua_rawseti(L, -2, ++n);
  }
  return 4;
}

/* The trace context for a call's events: nil = as carried, false = none, or a text; borrowed from
 * the stack. Raises when it is malformed. */
static mb_trace read_trace(lua_State *L, const mbl_bus *lb, int first) {
  mb_trace carried, trace, given = {0};
  mb_bytes *const parts[] = {&given.traceparent, &given.tracestate, &given.baggage};
  char why[MB_ERRSTR_MAX];
  for (int i = 0; i < 3; i++) {
    if (lua_isnil(L, first + i)) continue;
    if (lua_toboolean(L, first + i))
      parts[i]->data = luaL_checklstring(L, first + i, &parts[i]->len);
    else
      *parts[i] = mb_str("");
  }
  mb__trace_read(lb->bus->deliver.tracing ? mb__in_hand : NULL, &carried);
  if (mb__trace_choose(lb->bus->deliver.tracing, &given, &carried, &trace, why, sizeof why))
    luaL_error(L, "%s", why);
  return trace;
}

/* Encode everything first: a wrong event means that none is sent. Raises on a wrong event. */
static void gather_events(lua_State *L, mbl_bus *lb, mb_batch *batch, int events,
                          const mb_trace *trace) {
  int count = (int)lua_objlen(L, events);
  for (int i = 1; i <= count; i++) {
    lua_rawgeti(L, events, i);
    if (!lua_istable(L, -1))
      luaL_error(L, "event %d: expected an event, got %s", i, luaL_typename(L, -1));
    if (!mb__lua_encode(L, lb, lua_gettop(L)))
      luaL_error(L, "event %d: %s", i, lua_tostring(L, -1));
    mb__trace_write(&lb->bus->encoder, trace);
    if (mb__batch_add(batch, &lb->bus->encoder)) luaL_error(L, "out of memory");
    lua_pop(L, 1);
  }
}

/* Send the batch and wait: the results of publish. */
static int deliver(lua_State *L, mb_batch **batch, int count) {
  char why[MB_ERRSTR_MAX] = "";
  mb_receipt *receipts = lua_newuserdata(L, (size_t)(count ? count : 1) * sizeof *receipts);
  mb_err err = mb__batch_publish(*batch, receipts, why, sizeof why);
  int results =
      err ? push_failures(L, *batch, err, why, receipts, count) : push_receipt(L, receipts, count);
  drop_batch(batch);
  return results;
}

static int deliver_later(lua_State *L, mb_batch **batch) {
  char why[MB_ERRSTR_MAX] = "";
  size_t queued = 0;
  mb_err err = mb__batch_publish_background(*batch, &queued, why, sizeof why);
  drop_batch(batch);
  if (err) {
    mb__lua_fail(L, err, why);
    lua_pushnumber(L, (lua_Number)queued);
    return 4;
  }
  lua_createtable(L, 0, 1);
  lua_pushnumber(L, (lua_Number)queued);
  lua_setfield(L, -2, "count");
  return 1;
}

/* Whether publishing is possible now; pushes the failure if not. */
static bool can_publish(lua_State *L, const mbl_bus *lb) {
  if (!lb->bus->ctx.connected)
    mb__lua_fail(L, MB_ESTATE, "the bus is not connected; call connect first");
  else if (lb->bus->ctx.in_callback)
    mb__lua_fail(L, MB_ESTATE, "a log or publish error callback cannot publish");
  else
    return true;
  return false;
}

/* bus:publish(events, background, traceparent, tracestate, baggage) -> receipt | nil, err, code,
 * failures (background: how many were queued); raises on a wrong event */
int mb__l_bus_publish(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  bool background = lua_toboolean(L, 3);
  lua_settop(L, 6);
  int count = (int)lua_objlen(L, 2);
  if (!can_publish(L, lb)) return 3;
  mb_trace trace = read_trace(L, lb, 4);
  mb_batch **batch = push_batch(L, lb, count);
  gather_events(L, lb, *batch, 2, &trace);
  return background ? deliver_later(L, batch) : deliver(L, batch, count);
}

static int store_gc(lua_State *L) {
  mb__event_store_free(lua_touserdata(L, 1));
  return 0;
}

static mb_event_store *push_store(lua_State *L) {
  mb_event_store *store = lua_newuserdata(L, sizeof *store);
  *store = (mb_event_store){0};
  if (luaL_newmetatable(L, "moonbus.store")) {
    lua_pushcfunction(L, store_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  return store;
}

/* bus:publish_json(lines, default_type | nil) -> receipt | nil, err, code, failures or line number
 * Each line is a JSON object with base fields and own fields side by side. A wrong line: nothing is
 * sent, and the fourth result is its number. */
int mb__l_bus_publish_json(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  mb_bytes default_type = mb_str(luaL_optstring(L, 3, NULL));
  char why[MB_ERRSTR_MAX] = "";
  lua_settop(L, 3);
  int count = (int)lua_objlen(L, 2);
  if (!can_publish(L, lb)) return 3;
  mb_event_store *store = push_store(L);
  mb_batch **batch = push_batch(L, lb, count);
  for (int i = 1; i <= count; i++) {
    mb_event event = {0};
    mb_bytes line;
    lua_rawgeti(L, 2, i);
    line.data = lua_tolstring(L, -1, &line.len);
    if (!line.data) return luaL_error(L, "line %d is no string", i);
    mb_err err = mb__event_from_json(line, default_type, store, &event, why, sizeof why);
    if (!err) err = mb__encode(&event, &lb->bus->encoder, why, sizeof why);
    if (!err) err = mb__batch_add(*batch, &lb->bus->encoder);
    if (err) {
      mb__lua_fail(L, err, why);
      lua_pushinteger(L, i);
      return 4;
    }
    lua_pop(L, 1);
  }
  return deliver(L, batch, count);
}

/* bus:encode(event) -> { value=, key=, headers={ {name, value}, ... } }; raises on a wrong event */
int mb__l_bus_encode(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_settop(L, 2);
  if (!mb__lua_encode(L, lb, 2)) return lua_error(L);
  const mb_encoder *encoder = &lb->bus->encoder;
  lua_createtable(L, 0, 3);
  mb__lua_push_bytes(L, mb__buf_bytes(&encoder->value));
  lua_setfield(L, -2, "value");
  lua_pushlstring(L, encoder->key, MB_UUID_LEN);
  lua_setfield(L, -2, "key");
  lua_createtable(L, (int)encoder->header_count, 0);
  for (size_t i = 0; i < encoder->header_count; i++) {
    lua_createtable(L, 2, 0);
    mb__lua_push_bytes(L, encoder->headers[i].name);
    lua_rawseti(L, -2, 1);
    mb__lua_push_bytes(L, encoder->headers[i].value);
    lua_rawseti(L, -2, 2);
    lua_rawseti(L, -2, (int)i + 1);
  }
  lua_setfield(L, -2, "headers");
  return 1;
}

/* bus:decode(value, type | nil) -> event | nil, err, code */
int mb__l_bus_decode(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  mb_bytes value;
  char why[MB_ERRSTR_MAX] = "";
  value.data = luaL_checklstring(L, 2, &value.len);
  const mbl_type *type = lua_isnoneornil(L, 3) ? NULL : mb__lua_check_type(L, 3);
  mb_origin origin = {.topic = lb->bus->ctx.topic, .timestamp_ms = -1};
  int64_t version;
  const mb_schema *schema = type ? type->schema : mb__schema_base();
  mb_err err = mb__lua_decode(L, lb, type, schema, value, &origin, NULL, &version, why, sizeof why);
  if (err) return mb__lua_fail(L, err, why);
  if (type)
    mb__lua_push_event(L, type, &lb->decoder);
  else
    mb__lua_push_untyped(L, value, &lb->decoder);
  return 1;
}
