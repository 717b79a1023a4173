/* lua_core.c: the C module moonbus.core: every function Lua can call, in one place.
 * Must not do what the engine does; it checks arguments, calls, and pushes results.
 * Called by the modules in lua/moonbus. */
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lua_internal.h"

#define TURN_BUSES_MAX 64

static char interrupt_fd_key, embedded_key; /* registry */

int mb__lua_fail(lua_State *L, mb_err err, const char *text) {
  lua_pushnil(L);
  lua_pushfstring(L, "%s: %s", mb_err_name(err), text && *text ? text : mb_err_text(err));
  lua_pushstring(L, mb_err_name(err));
  return 3;
}

static int done(lua_State *L, mb_err err, const char *text) {
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

/* ---- making a bus ---- */

static mb_err set_option(lua_State *L, mb_config *conf, const char *key, int value,
                         mb_source source, char *why, size_t why_size) {
  const char *text = NULL;
  switch (lua_type(L, value)) {
  case LUA_TSTRING:
  case LUA_TNUMBER: text = lua_tostring(L, value); break;
  case LUA_TBOOLEAN: text = lua_toboolean(L, value) ? "true" : "false"; break;
  default:
    return mb__error(MB_ECONFIG, why, why_size, "option \"%s\": a %s is no value for it", key,
                     luaL_typename(L, value));
  }
  return mb_config_set(conf, key, text, source, why, why_size);
}

static mb_err set_kafka(lua_State *L, mb_config *conf, int table, char *why, size_t why_size) {
  mb_err err = MB_OK;
  if (lua_type(L, table) != LUA_TTABLE)
    return mb__error(MB_ECONFIG, why, why_size,
                     "option \"kafka\": a table of librdkafka properties is wanted");
  lua_pushnil(L);
  while (!err && lua_next(L, table)) {
    if (lua_type(L, -2) != LUA_TSTRING)
      err = mb__error(MB_ECONFIG, why, why_size, "option \"kafka\": property names are strings");
    else if (lua_type(L, -1) == LUA_TBOOLEAN)
      err = mb_config_set_kafka(conf, lua_tostring(L, -2), lua_toboolean(L, -1) ? "true" : "false",
                                why, why_size);
    else {
      lua_pushvalue(L, -1); /* lua_tostring would turn the number in the table into a string */
      const char *text = lua_tostring(L, -1);
      err = mb_config_set_kafka(conf, lua_tostring(L, -3), text ? text : "", why, why_size);
      lua_pop(L, 1);
    }
    lua_pop(L, 1);
  }
  return err;
}

static mb_err set_all(lua_State *L, mb_config *conf, int table, mb_source source, char *why,
                      size_t why_size) {
  mb_err err = MB_OK;
  lua_pushnil(L);
  while (!err && lua_next(L, table)) {
    int value = lua_gettop(L);
    if (lua_type(L, value - 1) != LUA_TSTRING)
      err = mb__error(MB_ECONFIG, why, why_size, "options have names: key = value");
    else if (strcmp(lua_tostring(L, value - 1), "kafka") == 0)
      err = set_kafka(L, conf, value, why, why_size);
    else err = set_option(L, conf, lua_tostring(L, value - 1), value, source, why, why_size);
    lua_pop(L, 1);
  }
  return err;
}

/* The state keeps the embedded broker once a bus used it, so that what was published stays. */
static int embedded_gc(lua_State *L) {
  mb_broker **held = lua_touserdata(L, 1);
  mb__broker_release(*held);
  *held = NULL;
  return 0;
}

static void hold_embedded(lua_State *L) {
  lua_pushlightuserdata(L, &embedded_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
  bool held = !lua_isnil(L, -1);
  lua_pop(L, 1);
  if (held) return;
  lua_pushlightuserdata(L, &embedded_key);
  mb_broker **broker = lua_newuserdata(L, sizeof *broker);
  *broker = NULL;
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, embedded_gc);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  *broker = mb__broker_shared(NULL, 0);
  lua_rawset(L, LUA_REGISTRYINDEX);
}

/* core.bus_new(options, flags, registry) -> bus | nil, err, code */
static int l_bus_new(lua_State *L) {
  char why[512] = "";
  luaL_checktype(L, 1, LUA_TTABLE);
  luaL_checktype(L, 2, LUA_TTABLE);
  luaL_checktype(L, 3, LUA_TTABLE);
  lua_settop(L, 3);
  mbl_bus *lb = lua_newuserdata(L, sizeof *lb);
  *lb = (mbl_bus){.L = L,
                  .context_ref = LUA_NOREF,
                  .registry_ref = LUA_NOREF,
                  .log_ref = LUA_NOREF,
                  .publish_error_ref = LUA_NOREF};
  luaL_getmetatable(L, BUS_META);
  lua_setmetatable(L, 4);
  lb->context = lua_newuserdata(L, sizeof *lb->context);
  lb->context->msg = NULL;
  luaL_getmetatable(L, CTX_META);
  lua_setmetatable(L, -2);
  lb->context_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_pushvalue(L, 3);
  lb->registry_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  mb_config *conf = mb_config_new();
  if (!conf) return luaL_error(L, "out of memory");
  mb_err err = set_all(L, conf, 1, MB_FROM_SCRIPT, why, sizeof why);
  if (!err) err = mb_config_set_env(conf, why, sizeof why);
  if (!err) err = set_all(L, conf, 2, MB_FROM_FLAG, why, sizeof why);
  if (!err) {
    lb->bus = mb_bus_new(conf, why, sizeof why);
    if (!lb->bus) err = MB_ECONFIG;
  }
  mb_config_free(conf);
  if (err) return mb__lua_fail(L, err, why);
  if (lb->bus->embedded) hold_embedded(L);
  lua_settop(L, 4);
  return 1;
}

static int l_bus_gc(lua_State *L) {
  mbl_bus *lb = luaL_checkudata(L, 1, BUS_META);
  lb->L = L;
  mb__batch_free(lb->batch);
  lb->batch = NULL;
  mb_bus_free(lb->bus);
  lb->bus = NULL;
  mb__decoder_free(&lb->decoder);
  mb__buf_free(&lb->scratch);
  mb__buf_free(&lb->metadata);
  luaL_unref(L, LUA_REGISTRYINDEX, lb->context_ref);
  luaL_unref(L, LUA_REGISTRYINDEX, lb->registry_ref);
  luaL_unref(L, LUA_REGISTRYINDEX, lb->log_ref);
  luaL_unref(L, LUA_REGISTRYINDEX, lb->publish_error_ref);
  lb->context_ref = lb->registry_ref = lb->log_ref = lb->publish_error_ref = LUA_NOREF;
  return 0;
}

/* bus:config(key) -> text | nil; secrets are "***" */
static int l_bus_config(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  lua_pushstring(L, mb__config_shown(mb_bus_config(lb->bus), luaL_checkstring(L, 2)));
  return 1;
}

/* ---- callbacks ---- */

static const char *const level_names[] = {"error", "warn", "info", "debug"};

static void on_log(mb_level level, const char *line, void *opaque) {
  mbl_bus *lb = opaque;
  lua_State *L = lb->L;
  int top = lua_gettop(L);
  if (!lua_checkstack(L, 4)) return;
  lua_rawgeti(L, LUA_REGISTRYINDEX, lb->log_ref);
  lua_pushstring(L, level_names[level]);
  lua_pushstring(L, line);
  lua_pcall(L, 2, 0, 0); /* a broken log function must not break the bus */
  lua_settop(L, top);
}

/* bus:on_log(function(level, line) | nil) */
static int l_bus_on_log(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  lua_settop(L, 2);
  bool set = !lua_isnil(L, 2);
  if (set) luaL_checktype(L, 2, LUA_TFUNCTION);
  luaL_unref(L, LUA_REGISTRYINDEX, lb->log_ref);
  lb->log_ref = set ? luaL_ref(L, LUA_REGISTRYINDEX) : LUA_NOREF;
  mb_bus_set_log(lb->bus, set ? on_log : NULL, lb);
  return 0;
}

static void on_publish_error(mb_err err, const char *reason, mb_bytes type, mb_bytes id,
                             void *opaque) {
  mbl_bus *lb = opaque;
  lua_State *L = lb->L;
  int top = lua_gettop(L);
  if (!lua_checkstack(L, 8)) return;
  lua_rawgeti(L, LUA_REGISTRYINDEX, lb->publish_error_ref);
  lua_createtable(L, 0, 4);
  lua_pushstring(L, mb_err_name(err));
  lua_setfield(L, -2, "code");
  lua_pushstring(L, reason);
  lua_setfield(L, -2, "reason");
  mb__lua_push_bytes(L, type);
  lua_setfield(L, -2, "event_type");
  mb__lua_push_bytes(L, id);
  lua_setfield(L, -2, "event_id");
  if (lua_pcall(L, 1, 0, 0))
    mb__log(&lb->bus->log, MB_LOG_ERROR, "on_publish_error: %s",
            lua_isstring(L, -1) ? lua_tostring(L, -1) : luaL_typename(L, -1));
  lua_settop(L, top);
}

/* bus:on_publish_error(function(failure)) */
static int l_bus_on_publish_error(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_settop(L, 2);
  luaL_unref(L, LUA_REGISTRYINDEX, lb->publish_error_ref);
  lb->publish_error_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  mb_bus_on_publish_error(lb->bus, on_publish_error, lb);
  return 0;
}

/* ---- connecting, consuming ---- */

/* bus:connect(timeout_ms) */
static int l_bus_connect(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[512] = "";
  return done(L, mb_bus_connect(lb->bus, (int)luaL_checkinteger(L, 2), why, sizeof why), why);
}

static int l_bus_disconnect(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[512] = "";
  return done(L, mb_bus_disconnect(lb->bus, why, sizeof why), why);
}

static int l_bus_is_connected(lua_State *L) {
  lua_pushboolean(L, mb_bus_is_connected(mb__lua_check_bus(L, 1)->bus));
  return 1;
}

static int l_bus_is_consuming(lua_State *L) {
  lua_pushboolean(L, mb_bus_is_consuming(mb__lua_check_bus(L, 1)->bus));
  return 1;
}

static int l_bus_is_idle(lua_State *L) {
  lua_pushboolean(L, mb_bus_is_idle(mb__lua_check_bus(L, 1)->bus));
  return 1;
}

static int l_bus_in_handler(lua_State *L) {
  lua_pushboolean(L, mb__lua_check_bus(L, 1)->bus->in_handler);
  return 1;
}

/* bus:start(auto_reconnect) */
static int l_bus_start(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[512] = "";
  return done(L, mb_bus_start(lb->bus, lua_toboolean(L, 2), why, sizeof why), why);
}

static int l_bus_stop(lua_State *L) {
  mb_bus_stop(mb__lua_check_bus(L, 1)->bus);
  return 0;
}

static int l_bus_flush(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[256] = "";
  return done(L, mb_bus_flush(lb->bus, (int)luaL_checkinteger(L, 2), why, sizeof why), why);
}

/* ---- publishing ---- */

static int push_receipt(lua_State *L, const mb_receipt *receipts, int count) {
  lua_createtable(L, 0, 3);
  lua_pushinteger(L, count);
  lua_setfield(L, -2, "count");
  lua_createtable(L, count, 0);
  for (int i = 0; i < count; i++) {
    lua_pushinteger(L, receipts[i].partition);
    lua_rawseti(L, -2, i + 1);
  }
  lua_setfield(L, -2, "partitions");
  lua_createtable(L, count, 0);
  for (int i = 0; i < count; i++) {
    lua_pushnumber(L, (lua_Number)receipts[i].offset);
    lua_rawseti(L, -2, i + 1);
  }
  lua_setfield(L, -2, "offsets");
  return 1;
}

/* nil, err, code, { {index=, event_id=, code=, reason=}, ... } */
static int push_failures(lua_State *L, mbl_bus *lb, mb_err err, const char *why,
                         const mb_receipt *receipts, int count) {
  int n = 0;
  mb__lua_fail(L, err, why);
  lua_createtable(L, 0, 0);
  for (int i = 0; i < count; i++) {
    if (!receipts[i].err) continue;
    lua_createtable(L, 0, 4);
    lua_pushinteger(L, i + 1);
    lua_setfield(L, -2, "index");
    mb__lua_push_bytes(L, mb__batch_event_id(lb->batch, (size_t)i));
    lua_setfield(L, -2, "event_id");
    lua_pushstring(L, mb_err_name(receipts[i].err));
    lua_setfield(L, -2, "code");
    lua_pushstring(L, mb__batch_reason(lb->batch, (size_t)i));
    lua_setfield(L, -2, "reason");
    lua_rawseti(L, -2, ++n);
  }
  return 4;
}

/* Encode everything first: a wrong event means that none is sent. Raises on a wrong event. */
static void gather_events(lua_State *L, mbl_bus *lb, int events) {
  int count = (int)lua_objlen(L, events);
  mb__batch_free(lb->batch);
  lb->batch = mb__batch_new(lb->bus, (size_t)count);
  if (!lb->batch) luaL_error(L, "out of memory");
  for (int i = 1; i <= count; i++) {
    lua_rawgeti(L, events, i);
    if (!lua_istable(L, -1))
      luaL_error(L, "event %d: expected an event, got %s", i, luaL_typename(L, -1));
    if (!mb__lua_encode(L, lb, lua_gettop(L)))
      luaL_error(L, "event %d: %s", i, lua_tostring(L, -1));
    if (mb__batch_add(lb->batch, &lb->bus->encoder)) luaL_error(L, "out of memory");
    lua_pop(L, 1);
  }
}

/* bus:publish(events, background) -> receipt | nil, err, code, failures; raises on a wrong event */
static int l_bus_publish(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  bool background = lua_toboolean(L, 3);
  char why[512] = "";
  lua_settop(L, 2);
  int count = (int)lua_objlen(L, 2);
  if (!lb->bus->connected) return mb__lua_fail(L, MB_ESTATE, "the bus is not connected; call connect first");
  gather_events(L, lb, 2);
  if (background) {
    size_t queued = 0;
    mb_err err = mb__batch_publish_background(lb->batch, &queued, why, sizeof why);
    mb__batch_free(lb->batch);
    lb->batch = NULL;
    if (!err) {
      lua_createtable(L, 0, 1);
      lua_pushinteger(L, (lua_Integer)queued);
      lua_setfield(L, -2, "count");
      return 1;
    }
    mb__lua_fail(L, err, why);
    lua_pushinteger(L, (lua_Integer)queued);
    return 4;
  }
  mb_receipt *receipts = lua_newuserdata(L, (size_t)(count ? count : 1) * sizeof *receipts);
  mb_err err = mb__batch_publish(lb->batch, receipts, why, sizeof why);
  int results = err ? push_failures(L, lb, err, why, receipts, count)
                    : push_receipt(L, receipts, count);
  mb__batch_free(lb->batch);
  lb->batch = NULL;
  return results;
}

static int store_gc(lua_State *L) {
  mb__event_store_free(lua_touserdata(L, 1));
  return 0;
}

/* bus:publish_json(lines, default_type | nil) -> receipt | nil, err, code, failures or line number
 * Each line is a JSON object with base fields and own fields side by side. A wrong line: nothing is
 * sent, and the fourth result is its number. */
static int l_bus_publish_json(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  mb_bytes default_type = mb_str(luaL_optstring(L, 3, NULL));
  char why[512] = "";
  lua_settop(L, 3);
  int count = (int)lua_objlen(L, 2);
  mb_err err = MB_OK;
  if (!lb->bus->connected) return mb__lua_fail(L, MB_ESTATE, "the bus is not connected; call connect first");
  mb_event_store *store = lua_newuserdata(L, sizeof *store);
  *store = (mb_event_store){0};
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, store_gc);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  mb__batch_free(lb->batch);
  lb->batch = mb__batch_new(lb->bus, (size_t)count);
  if (!lb->batch) return luaL_error(L, "out of memory");
  for (int i = 1; i <= count && !err; i++) {
    mb_event event = {0};
    mb_bytes line;
    lua_rawgeti(L, 2, i);
    line.data = lua_tolstring(L, -1, &line.len);
    if (!line.data) return luaL_error(L, "line %d is no string", i);
    err = mb__event_from_json(line, default_type, store, &event, why, sizeof why);
    if (!err) err = mb__encode(&event, &lb->bus->encoder, why, sizeof why);
    if (!err) err = mb__batch_add(lb->batch, &lb->bus->encoder);
    if (err) {
      mb__lua_fail(L, err, why);
      lua_pushinteger(L, i);
      return 4;
    }
    lua_pop(L, 1);
  }
  mb_receipt *receipts = lua_newuserdata(L, (size_t)(count ? count : 1) * sizeof *receipts);
  err = mb__batch_publish(lb->batch, receipts, why, sizeof why);
  return err ? push_failures(L, lb, err, why, receipts, count) : push_receipt(L, receipts, count);
}

/* bus:encode(event) -> { value=, key=, headers={ {name, value}, ... } }; raises on a wrong event */
static int l_bus_encode(lua_State *L) {
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
    lua_pushstring(L, encoder->headers[i].name);
    lua_rawseti(L, -2, 1);
    mb__lua_push_bytes(L, encoder->headers[i].value);
    lua_rawseti(L, -2, 2);
    lua_rawseti(L, -2, (int)i + 1);
  }
  lua_setfield(L, -2, "headers");
  return 1;
}

/* bus:decode(value, type | nil) -> event | nil, err, code */
static int l_bus_decode(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  mb_bytes value;
  char why[512] = "";
  value.data = luaL_checklstring(L, 2, &value.len);
  const mbl_type *type = lua_isnoneornil(L, 3) ? NULL : mb__lua_check_type(L, 3);
  mb_origin origin = {.topic = lb->bus->topic, .timestamp_ms = -1};
  mb_err err = mb__decode(type ? type->schema : mb__schema_base(), value, &origin, &lb->decoder, why,
                          sizeof why);
  if (err) return mb__lua_fail(L, err, why);
  if (type) mb__lua_push_event(L, type, &lb->decoder);
  else mb__lua_push_untyped(L, value, &lb->decoder);
  return 1;
}

/* ---- what can be asked ---- */

static void put_count(lua_State *L, const char *key, double value) {
  lua_pushnumber(L, value);
  lua_setfield(L, -2, key);
}

static void put_time(lua_State *L, const char *key, int64_t us) {
  char text[MB_TIME_MAX];
  if (us) lua_pushlstring(L, text, mb__time_format(text, us, "+00:00"));
  else lua_pushlightuserdata(L, NULL);
  lua_setfield(L, -2, key);
}

static int l_bus_stats(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  mb_stats stats;
  mb_bus_stats(lb->bus, &stats);
  lua_createtable(L, 0, 20);
  put_count(L, "events_published", (double)stats.events_published);
  put_count(L, "events_consumed", (double)stats.events_consumed);
  put_count(L, "events_processed_success", (double)stats.events_processed_success);
  put_count(L, "events_processed_failed", (double)stats.events_processed_failed);
  put_count(L, "messages_sent_to_dlq", (double)stats.messages_sent_to_dlq);
  put_count(L, "handler_errors", (double)stats.handler_errors);
  put_count(L, "reconnections", (double)stats.reconnections);
  put_count(L, "rebalance_count", (double)stats.rebalance_count);
  put_time(L, "last_publish_at", stats.last_publish_at_us);
  put_time(L, "last_consume_at", stats.last_consume_at_us);
  put_time(L, "last_error_at", stats.last_error_at_us);
  put_time(L, "connected_at", lb->bus->connected ? stats.connected_at_us : 0);
  put_count(L, "publish_errors", (double)stats.publish_errors);
  put_count(L, "retries", (double)stats.retries);
  put_count(L, "events_skipped", (double)stats.events_skipped);
  put_count(L, "events_dropped", (double)stats.events_dropped);
  put_count(L, "events_parked", (double)stats.events_parked);
  put_count(L, "publish_queued", (double)stats.publish_queued);
  put_count(L, "lag", (double)stats.lag);
  put_count(L, "assigned_count", (double)stats.assigned_count);
  return 1;
}

/* bus:topic_partitions(topic | nil) -> count */
static int l_bus_topic_partitions(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[512] = "";
  int count = 0;
  mb_err err = mb_bus_topic_partitions(lb->bus, luaL_optstring(L, 2, NULL), &count, why, sizeof why);
  if (err) return mb__lua_fail(L, err, why);
  lua_pushinteger(L, count);
  return 1;
}

/* bus:topic_offsets(topic | nil, partition) -> low, high */
static int l_bus_topic_offsets(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[512] = "";
  int64_t low = 0, high = 0;
  mb_err err = mb_topic_offsets(lb->bus, luaL_optstring(L, 2, NULL),
                                (int32_t)luaL_checkinteger(L, 3), &low, &high, why, sizeof why);
  if (err) return mb__lua_fail(L, err, why);
  lua_pushnumber(L, (lua_Number)low);
  lua_pushnumber(L, (lua_Number)high);
  return 2;
}

/* bus:topic_create(topic, partitions, replication) */
static int l_bus_topic_create(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[512] = "";
  mb_err err = mb_topic_create(lb->bus, luaL_checkstring(L, 2), (int)luaL_checkinteger(L, 3),
                               (int)luaL_optinteger(L, 4, 0), why, sizeof why);
  return done(L, err, why);
}

/* bus:dlq_count() */
static int l_bus_dlq_count(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[512] = "";
  int64_t count = 0;
  mb_err err = mb_dlq_count(lb->bus, &count, why, sizeof why);
  if (err) return mb__lua_fail(L, err, why);
  lua_pushnumber(L, (lua_Number)count);
  return 1;
}

/* bus:dlq_replay(partition, offset, force) -> true, partition, offset */
static int l_bus_dlq_replay(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[512] = "";
  mb_receipt receipt;
  mb_err err = mb_dlq_replay(lb->bus, (int32_t)luaL_checkinteger(L, 2),
                             (int64_t)luaL_checknumber(L, 3), lua_toboolean(L, 4), &receipt, why,
                             sizeof why);
  if (err) return mb__lua_fail(L, err, why);
  lua_pushboolean(L, 1);
  lua_pushinteger(L, receipt.partition);
  lua_pushnumber(L, (lua_Number)receipt.offset);
  return 3;
}

/* ---- reading ---- */

typedef struct read_call {
  lua_State *L;
  bool failed; /* an error value is on the stack */
} read_call;

static int protected_record(lua_State *L) {
  const mb_msg *msg = lua_touserdata(L, 2);
  mb__lua_push_record(L, msg);
  lua_replace(L, 2);
  lua_call(L, 1, 1);
  return 1;
}

static bool on_record(const mb_msg *msg, void *opaque) {
  read_call *call = opaque;
  lua_State *L = call->L;
  lua_pushcfunction(L, protected_record);
  lua_pushvalue(L, 4);
  lua_pushlightuserdata(L, (void *)(uintptr_t)msg);
  if (lua_pcall(L, 2, 1, 0)) {
    call->failed = true;
    return false;
  }
  bool more = lua_isnil(L, -1) || lua_toboolean(L, -1);
  lua_pop(L, 1);
  return more;
}

static int int_field(lua_State *L, int table, const char *key, int otherwise) {
  lua_getfield(L, table, key);
  int value = lua_isnil(L, -1) ? otherwise : (int)lua_tointeger(L, -1);
  lua_pop(L, 1);
  return value;
}

/* bus:read(topic, options, function(record) -> false to end) */
static int l_bus_read(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[512] = "";
  const char *topic = luaL_optstring(L, 2, lb->bus->topic);
  luaL_checktype(L, 3, LUA_TTABLE);
  luaL_checktype(L, 4, LUA_TFUNCTION);
  lua_settop(L, 4);
  mb_read_options options = {.partition = int_field(L, 3, "partition", -1),
                             .timeout_ms = int_field(L, 3, "timeout_ms", -1)};
  lua_getfield(L, 3, "offset");
  options.offset = lua_isnil(L, -1) ? -1 : (int64_t)lua_tonumber(L, -1);
  lua_getfield(L, 3, "follow");
  options.follow = lua_toboolean(L, -1);
  lua_settop(L, 4);
  read_call call = {.L = L};
  mb_err err = mb_bus_read(lb->bus, topic, &options, on_record, &call, why, sizeof why);
  if (call.failed) return lua_error(L);
  return done(L, err, why);
}

/* ---- the turn: one round for every bus of the state ---- */

static int interrupt_fd(lua_State *L) {
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

static bool step_all(lua_State *L, mbl_bus **buses, int count, int *at, mb_err *err, char *why,
                     size_t why_size) {
  for (int i = 0; i < count; i++) {
    buses[i]->L = L;
    *err = mb_bus_step(buses[i]->bus, 0, why, why_size);
    *at = i + 1;
    if (*err) return false;
  }
  return true;
}

/* core.turn(buses, seconds) -> "interrupted" | nil | index, err, code of a bus that broke
 * Steps every bus; if none has more to do, waits up to that long for any of them, and steps again. */
static int l_turn(lua_State *L) {
  mbl_bus *buses[TURN_BUSES_MAX];
  struct pollfd fds[TURN_BUSES_MAX + 1];
  char why[512] = "";
  mb_err err = MB_OK;
  int at = 0;
  luaL_checktype(L, 1, LUA_TTABLE);
  double seconds = luaL_checknumber(L, 2);
  int count = (int)lua_objlen(L, 1), wait_ms = 1000;
  if (count > TURN_BUSES_MAX) return luaL_error(L, "at most %d buses at once", TURN_BUSES_MAX);
  if (seconds * 1000 < wait_ms) wait_ms = seconds > 0 ? (int)ceil(seconds * 1000) : 0;
  for (int i = 0; i < count; i++) {
    lua_rawgeti(L, 1, i + 1);
    buses[i] = mb__lua_check_bus(L, -1);
    lua_pop(L, 1);
  }
  int fd = interrupt_fd(L);
  if (!step_all(L, buses, count, &at, &err, why, sizeof why)) goto broken;
  for (int i = 0; i < count; i++) {
    int most = mb_bus_wait_ms(buses[i]->bus);
    if (most < wait_ms) wait_ms = most;
    fds[i] = (struct pollfd){.fd = mb_bus_fd(buses[i]->bus), .events = POLLIN};
  }
  fds[count] = (struct pollfd){.fd = fd, .events = POLLIN};
  if (poll(fds, (nfds_t)count + 1, wait_ms) > 0 && fds[count].revents) {
    uint64_t ignored;
    if (read(fd, &ignored, sizeof ignored) < 0 && errno != EAGAIN) fd = -1;
    lua_pushliteral(L, "interrupted");
    return 1;
  }
  if (wait_ms > 0 && !step_all(L, buses, count, &at, &err, why, sizeof why)) goto broken;
  return 0;
broken:
  lua_pushinteger(L, at);
  lua_pushfstring(L, "%s: %s", mb_err_name(err), why);
  lua_pushstring(L, mb_err_name(err));
  return 3;
}

/* ---- small ones ---- */

static int l_now(lua_State *L) {
  lua_pushnumber(L, (double)mb__mono_us() / 1e6);
  return 1;
}

static int l_uuid(lua_State *L) {
  char text[MB_UUID_LEN];
  mb__uuid_random(text);
  lua_pushlstring(L, text, sizeof text);
  return 1;
}

/* core.timestamp(seconds | nil) -> ISO 8601 UTC */
static int l_timestamp(lua_State *L) {
  char text[MB_TIME_MAX];
  int64_t us = lua_isnoneornil(L, 1) ? mb__now_us() : (int64_t)llround(luaL_checknumber(L, 1) * 1e6);
  lua_pushlstring(L, text, mb__time_format(text, us, "Z"));
  return 1;
}

/* core.epoch(timestamp) -> seconds since 1970 | nil */
static int l_epoch(lua_State *L) {
  mb_bytes text;
  int64_t us;
  text.data = luaL_checklstring(L, 1, &text.len);
  if (mb__time_parse(text, &us)) lua_pushnumber(L, (double)us / 1e6);
  else lua_pushnil(L);
  return 1;
}

/* core.partition_of(key, partitions) */
static int l_partition_of(lua_State *L) {
  mb_bytes key;
  key.data = luaL_checklstring(L, 1, &key.len);
  int count = (int)luaL_checkinteger(L, 2);
  luaL_argcheck(L, count > 0, 2, "1 or more partitions");
  lua_pushinteger(L, mb__partition_of(key, count));
  return 1;
}

static int l_options(lua_State *L) {
  const mb_option *option;
  lua_createtable(L, 64, 0);
  for (size_t i = 0; (option = mb_option_at(i)); i++) {
    lua_createtable(L, 0, 11);
    const char *const texts[][2] = {{"key", option->key},         {"section", option->section},
                                    {"type", option->type},       {"choices", option->choices},
                                    {"default", option->def},     {"unit", option->unit},
                                    {"kafka", option->kafka},     {"help", option->help}};
    for (size_t k = 0; k < sizeof texts / sizeof *texts; k++) {
      lua_pushstring(L, texts[k][1]);
      lua_setfield(L, -2, texts[k][0]);
    }
    put_count(L, "min", option->min);
    put_count(L, "max", option->max);
    lua_pushboolean(L, option->secret);
    lua_setfield(L, -2, "secret");
    lua_rawseti(L, -2, (int)i + 1);
  }
  return 1;
}

static int l_errors(lua_State *L) {
  lua_createtable(L, 0, 20);
#define PUT(name, number, text)                                                                    \
  lua_pushstring(L, text);                                                                         \
  lua_setfield(L, -2, #name);
  MB_ERRORS(PUT)
#undef PUT
  return 1;
}

static int l_isatty(lua_State *L) {
  lua_pushboolean(L, isatty((int)luaL_checkinteger(L, 1)));
  return 1;
}

/* ---- a broker of one's own (moonbus broker) ---- */

static int broker_gc(lua_State *L) {
  mb_broker **broker = luaL_checkudata(L, 1, "moonbus.broker");
  mb_broker_free(*broker);
  *broker = NULL;
  return 0;
}

/* core.broker() -> broker, address | nil, err, code */
static int l_broker(lua_State *L) {
  char why[256] = "";
  mb_broker **broker = lua_newuserdata(L, sizeof *broker);
  *broker = NULL;
  if (luaL_newmetatable(L, "moonbus.broker")) {
    lua_pushcfunction(L, broker_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  *broker = mb_broker_new(why, sizeof why);
  if (!*broker) return mb__lua_fail(L, MB_EIO, why);
  lua_pushstring(L, mb_broker_address(*broker));
  return 2;
}

/* core.broker_topic(broker, topic, partitions) */
static int l_broker_topic(lua_State *L) {
  mb_broker **broker = luaL_checkudata(L, 1, "moonbus.broker");
  char why[256] = "";
  return done(L, mb_broker_topic_create(*broker, luaL_checkstring(L, 2),
                                        (int)luaL_checkinteger(L, 3), why, sizeof why), why);
}

/* ---- every function there is ---- */

static const luaL_Reg core_functions[] = {
    {"bus_new", l_bus_new},
    {"turn", l_turn},
    {"type", mb__l_type_new},
    {"json_encode", mb__l_json_encode},
    {"json_decode", mb__l_json_decode},
    {"set_int64", mb__l_set_int64},
    {"set_untyped", mb__l_set_untyped},
    {"now", l_now},
    {"uuid", l_uuid},
    {"timestamp", l_timestamp},
    {"epoch", l_epoch},
    {"partition_of", l_partition_of},
    {"options", l_options},
    {"errors", l_errors},
    {"isatty", l_isatty},
    {"broker", l_broker},
    {"broker_topic", l_broker_topic},
    {NULL, NULL},
};

static const luaL_Reg bus_methods[] = {
    {"config", l_bus_config},
    {"on_log", l_bus_on_log},
    {"on_publish_error", l_bus_on_publish_error},
    {"connect", l_bus_connect},
    {"disconnect", l_bus_disconnect},
    {"is_connected", l_bus_is_connected},
    {"is_consuming", l_bus_is_consuming},
    {"is_idle", l_bus_is_idle},
    {"in_handler", l_bus_in_handler},
    {"start", l_bus_start},
    {"stop", l_bus_stop},
    {"flush", l_bus_flush},
    {"publish", l_bus_publish},
    {"publish_json", l_bus_publish_json},
    {"encode", l_bus_encode},
    {"decode", l_bus_decode},
    {"subscribe", mb__l_bus_subscribe},
    {"unsubscribe", mb__l_bus_unsubscribe},
    {"stats", l_bus_stats},
    {"topic_partitions", l_bus_topic_partitions},
    {"topic_offsets", l_bus_topic_offsets},
    {"topic_create", l_bus_topic_create},
    {"dlq_count", l_bus_dlq_count},
    {"dlq_replay", l_bus_dlq_replay},
    {"read", l_bus_read},
    {NULL, NULL},
};

static const luaL_Reg type_methods[] = {
    {"build", mb__l_type_build},
    {"set_make", mb__l_type_set_make},
    {"fields", mb__l_type_fields},
    {NULL, NULL},
};

static void register_all(lua_State *L, const luaL_Reg *functions) {
  for (; functions->name; functions++) {
    lua_pushcfunction(L, functions->func);
    lua_setfield(L, -2, functions->name);
  }
}

static void new_class(lua_State *L, const char *name, const luaL_Reg *methods, lua_CFunction gc) {
  luaL_newmetatable(L, name);
  lua_newtable(L);
  register_all(L, methods);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
}

int luaopen_moonbus_core(lua_State *L) {
  new_class(L, BUS_META, bus_methods, l_bus_gc);
  new_class(L, TYPE_META, type_methods, mb__l_type_gc);
  luaL_newmetatable(L, CTX_META);
  lua_pushcfunction(L, mb__l_context_index);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  mb__lua_convert_open(L);
  lua_newtable(L);
  register_all(L, core_functions);
  lua_pushlightuserdata(L, NULL);
  lua_setfield(L, -2, "null");
  mb__lua_push_array_mark(L);
  lua_setfield(L, -2, "array_mark");
  lua_pushstring(L, MOONBUS_VERSION);
  lua_setfield(L, -2, "version");
  lua_pushstring(L, mb_rdkafka_version());
  lua_setfield(L, -2, "rdkafka_version");
  lua_pushstring(L, mb_rdkafka_features());
  lua_setfield(L, -2, "rdkafka_features");
  /* CI runs everything once more with a collector that never rests. */
  if (getenv("MB_GC")) {
    lua_gc(L, LUA_GCSETPAUSE, 0);
    lua_gc(L, LUA_GCSETSTEPMUL, 1000000);
  }
  return 1;
}
