/* lua/bus.c: the methods of a bus, but for publishing.
 * Must not do what the engine does; it checks arguments, calls, and pushes results.
 * Called by the modules in lua/moonbus, through the tables in lua/module.c. */
#include <stdlib.h>
#include <string.h>

#include "event/partition.h"
#include "kafka/broker.h"
#include "lua/internal.h"

static char embedded_key; /* registry */

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
  if (strlen(text) != lua_objlen(L, value) && lua_type(L, value) == LUA_TSTRING)
    return mb__error(MB_ECONFIG, why, why_size, "option \"%s\": a NUL is in its value", key);
  return mb_config_set(conf, key, text, source, why, why_size);
}

static mb_err set_kafka(lua_State *L, mb_config *conf, int table, char *why, size_t why_size) {
  mb_err err = MB_OK;
  if (lua_type(L, table) != LUA_TTABLE)
    return mb__error(MB_ECONFIG, why, why_size,
                     "option \"kafka\": expected a table of librdkafka properties");
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
      if (text && strlen(text) != lua_objlen(L, -1))
        err = mb__error(MB_ECONFIG, why, why_size, "option \"kafka\": %s: a NUL is in its value",
                        lua_tostring(L, -3));
      else if (text)
        err = mb_config_set_kafka(conf, lua_tostring(L, -3), text, why, why_size);
      else
        err = mb__error(MB_ECONFIG, why, why_size, "option \"kafka\": %s: a %s is no value for it",
                        lua_tostring(L, -3), luaL_typename(L, -1));
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
    else
      err = set_option(L, conf, lua_tostring(L, value - 1), value, source, why, why_size);
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

/* A producer's name for the broker, where the worker has none in its group. */
static mb_err name_producer(mb_config *conf, const char *id, char *why, size_t why_size) {
  char name[512];
  if (mb_config_get(conf, "transactional_id")) return MB_OK;
  snprintf(name, sizeof name, "%s/%s/%s", mb_config_get(conf, "consumer_group"),
           mb_config_get(conf, "topic_name"), id);
  return mb_config_set(conf, "transactional_id", name, MB_FROM_FLAG, why, why_size);
}

/* Static membership: the worker that takes a dead one's place gets its partitions without a
 * rebalance. A name of the user's is made one of this worker's. Each topic has names of its own: a
 * script for another topic, begun soon after in the same group, would be given this one's. With the
 * consumer protocol the broker refuses a dead worker's name until its session ends: there the name
 * is only a transactional id, by which the worker fences off the one before.
 * leaves: the name is not known to come back after a stop. */
static mb_err name_member(mb_config *conf, const mbl_watch *watch, bool *leaves, char *why,
                          size_t why_size) {
  char id[256], bus[16] = "";
  const char *given = mb_config_get(conf, "group_instance_id");
  const char *members = mb_config_get(conf, "static_members");
  const char *topic = mb_config_get(conf, "topic_name");
  bool off = strcmp(members, "off") == 0, automatic = strcmp(members, "auto") == 0;
  const char *base = given ? given : off || automatic ? watch->instance : members;
  if (watch->buses) snprintf(bus, sizeof bus, "-%d", watch->buses + 1);
  snprintf(id, sizeof id, "%.200s-%d%s-%08x", base, watch->worker + 1, bus,
           mb__murmur2(mb_str(topic ? topic : "")));
  if (!given && (off || mb__conf_broker_assigns(conf)))
    return name_producer(conf, id, why, why_size);
  *leaves = !given && automatic;
  return mb_config_set(conf, "group_instance_id", id, MB_FROM_FLAG, why, why_size);
}

/* core.bus_new(options, flags, registry) -> bus | nil, err, code */
int mb__l_bus_new(lua_State *L) {
  char why[MB_ERRSTR_MAX] = "";
  luaL_checktype(L, 1, LUA_TTABLE);
  luaL_checktype(L, 2, LUA_TTABLE);
  luaL_checktype(L, 3, LUA_TTABLE);
  lua_settop(L, 3);
  mbl_bus *lb = lua_newuserdata(L, sizeof *lb);
  *lb = (mbl_bus){.L = L,
                  .context_ref = LUA_NOREF,
                  .trace_ref = LUA_NOREF,
                  .protect_ref = LUA_NOREF,
                  .registry_ref = LUA_NOREF,
                  .log_ref = LUA_NOREF,
                  .publish_error_ref = LUA_NOREF,
                  .rebalance_ref = LUA_NOREF,
                  .unit_ref = LUA_NOREF};
  luaL_getmetatable(L, BUS_META);
  lua_setmetatable(L, 4);
  lb->context = lua_newuserdata(L, sizeof *lb->context);
  *lb->context = (mbl_context){0};
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
  mbl_watch *watch = mb__lua_watch(L);
  bool leaves = false;
  if (!err && watch) err = name_member(conf, watch, &leaves, why, sizeof why);
  if (!err) {
    lb->bus = mb_bus_new(conf, why, sizeof why);
    if (!lb->bus) err = MB_ECONFIG;
  }
  mb_config_free(conf);
  if (err) return mb__lua_fail(L, err, why);
  if (watch) mb__bus_watch(lb->bus, watch->watch, watch->worker, watch->buses++);
  lb->bus->group.leaves = leaves;
  lb->bus->ctx.interrupt_fd = mb__lua_interrupt_fd(L);
  lb->context->tracing = lb->bus->deliver.tracing;
  mb__lua_handlers_open(L, lb);
  mb__lua_fibers_know(L, 4);
  if (lb->bus->ctx.embedded) hold_embedded(L);
  lua_settop(L, 4);
  return 1;
}

int mb__l_bus_gc(lua_State *L) {
  mbl_bus *lb = luaL_checkudata(L, 1, BUS_META);
  lb->L = L;
  mb_bus_free(lb->bus);
  mb__guard_forget(L, lb);
  lb->bus = NULL;
  mb__decoder_free(&lb->decoder);
  mb__buf_free(&lb->scratch);
  mb__buf_free(&lb->metadata);
  mb__buf_free(&lb->lifted);
  luaL_unref(L, LUA_REGISTRYINDEX, lb->context_ref);
  luaL_unref(L, LUA_REGISTRYINDEX, lb->trace_ref);
  luaL_unref(L, LUA_REGISTRYINDEX, lb->protect_ref);
  lb->trace_ref = lb->protect_ref = LUA_NOREF;
  luaL_unref(L, LUA_REGISTRYINDEX, lb->registry_ref);
  luaL_unref(L, LUA_REGISTRYINDEX, lb->log_ref);
  luaL_unref(L, LUA_REGISTRYINDEX, lb->publish_error_ref);
  luaL_unref(L, LUA_REGISTRYINDEX, lb->rebalance_ref);
  luaL_unref(L, LUA_REGISTRYINDEX, lb->unit_ref);
  lb->rebalance_ref = lb->unit_ref = LUA_NOREF;
  lb->context_ref = lb->registry_ref = lb->log_ref = lb->publish_error_ref = LUA_NOREF;
  return 0;
}

/* bus:config(key) -> text | nil; secrets are "***" */
int mb__l_bus_config(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  lua_pushstring(L, mb__config_shown(mb_bus_config(lb->bus), luaL_checkstring(L, 2)));
  return 1;
}

/* bus:is_default(key) -> whether nobody set that option */
int mb__l_bus_is_default(lua_State *L) {
  const mb_config *conf = mb_bus_config(mb__lua_check_bus(L, 1)->bus);
  const char *key = luaL_checkstring(L, 2);
  const mb_option *option;
  for (size_t i = 0; (option = mb_option_at(i)); i++)
    if (strcmp(option->key, key) == 0) {
      lua_pushboolean(L, mb__conf_source(conf, (mb_opt)i) == MB_FROM_DEFAULT);
      return 1;
    }
  return luaL_error(L, "no option \"%s\"", key);
}

/* ---- callbacks ---- */

static const char *const level_names[] = {"error", "warn", "info", "debug", NULL};

static void on_log(mb_level level, const char *line, void *opaque) {
  mbl_bus *lb = opaque;
  lua_State *L = lb->L;
  int top = lua_gettop(L);
  mbl_run run;
  if (!lua_checkstack(L, 4)) return;
  mb__guard_enter(lb, &run);
  lua_rawgeti(L, LUA_REGISTRYINDEX, lb->log_ref);
  lua_pushstring(L, level_names[level]);
  lua_pushstring(L, line);
  bool inner = lb->bus->ctx.in_callback;
  lb->bus->ctx.in_callback = true;
  lua_pcall(L, 2, 0, 0); /* a broken log function must not break the bus */
  lb->bus->ctx.in_callback = inner;
  mb__guard_leave(&run);
  lua_settop(L, top);
}

/* bus:on_log(function(level, line) | nil) */
int mb__l_bus_on_log(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  lua_settop(L, 2);
  bool set = !lua_isnil(L, 2);
  if (set) luaL_checktype(L, 2, LUA_TFUNCTION);
  luaL_unref(L, LUA_REGISTRYINDEX, lb->log_ref);
  lb->log_ref = set ? luaL_ref(L, LUA_REGISTRYINDEX) : LUA_NOREF;
  mb_bus_set_log(lb->bus, set ? on_log : NULL, lb);
  return 0;
}

/* The second argument becomes the callback of that reference. */
static void take_function(lua_State *L, int *ref) {
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_settop(L, 2);
  luaL_unref(L, LUA_REGISTRYINDEX, *ref);
  *ref = luaL_ref(L, LUA_REGISTRYINDEX);
}

static void on_publish_error(mb_err err, const char *reason, mb_bytes type, mb_bytes id,
                             void *opaque) {
  mbl_bus *lb = opaque;
  lua_State *L = lb->L;
  int top = lua_gettop(L);
  mbl_run run;
  if (!lua_checkstack(L, 8)) return;
  mb__guard_enter(lb, &run);
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
    mb__log(&lb->bus->ctx.log, MB_LOG_ERROR, "on_publish_error: %s",
            lua_isstring(L, -1) ? lua_tostring(L, -1) : luaL_typename(L, -1));
  mb__guard_leave(&run);
  lua_settop(L, top);
}

/* bus:on_publish_error(function(failure)) */
int mb__l_bus_on_publish_error(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  take_function(L, &lb->publish_error_ref);
  mb_bus_on_publish_error(lb->bus, on_publish_error, lb);
  return 0;
}

static void on_rebalance(mb_rebalance what, const int32_t *partitions, size_t count, void *opaque) {
  static const char *const names[] = {"assigned", "revoked", "lost"};
  mbl_bus *lb = opaque;
  lua_State *L = lb->L;
  int top = lua_gettop(L);
  mbl_run run;
  if (!lua_checkstack(L, 8)) return;
  mb__guard_enter(lb, &run);
  lua_rawgeti(L, LUA_REGISTRYINDEX, lb->rebalance_ref);
  lua_pushstring(L, names[what]);
  mb__lua_new_array(L, (int)count);
  for (size_t i = 0; i < count; i++) {
    lua_pushinteger(L, partitions[i]);
    lua_rawseti(L, -2, (int)i + 1);
  }
  if (lua_pcall(L, 2, 0, 0))
    mb__log(&lb->bus->ctx.log, MB_LOG_ERROR, "on_%s: %s", names[what],
            lua_isstring(L, -1) ? lua_tostring(L, -1) : luaL_typename(L, -1));
  mb__guard_leave(&run);
  lua_settop(L, top);
}

/* bus:on_rebalance(function(what, partitions)); what: "assigned", "revoked", "lost" */
int mb__l_bus_on_rebalance(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  take_function(L, &lb->rebalance_ref);
  mb_bus_on_rebalance(lb->bus, on_rebalance, lb);
  return 0;
}

static bool on_unit(mb_unit_call what, char *why, size_t why_size, void *opaque) {
  static const char *const names[] = {"keep", "undo", "fail"};
  mbl_bus *lb = opaque;
  lua_State *L = lb->L;
  int top = lua_gettop(L);
  mbl_run run;
  if (!lua_checkstack(L, 4)) return false;
  mb__guard_enter(lb, &run);
  bool inner = lb->bus->ctx.in_callback;
  lb->bus->ctx.in_callback = true;
  lua_rawgeti(L, LUA_REGISTRYINDEX, lb->unit_ref);
  lua_pushstring(L, names[what]);
  bool ran = lua_pcall(L, 1, 2, 0) == 0;
  bool kept = ran && lua_toboolean(L, top + 1);
  const char *text = lua_tostring(L, ran ? top + 2 : top + 1);
  if (!kept && why_size) snprintf(why, why_size, "%s", text ? text : "no reason is given");
  lb->bus->ctx.in_callback = inner;
  mb__guard_leave(&run);
  lua_settop(L, top);
  return kept;
}

/* bus:on_unit(function(what) -> kept, why); what: "keep", "undo", "fail", as group/unit.h says */
int mb__l_bus_on_unit(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  take_function(L, &lb->unit_ref);
  lb->bus->group.unit.fn = on_unit;
  lb->bus->group.unit.opaque = lb;
  return 0;
}

/* bus:unit_begin(): what is done from now on ends with the step; after on_unit */
int mb__l_bus_unit_begin(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  if (!lb->bus->group.unit.fn) return luaL_error(L, "on_unit comes first");
  mb__unit_begin(&lb->bus->group);
  return 0;
}

/* ---- connecting, consuming ---- */

/* bus:connect(timeout_ms) */
int mb__l_bus_connect(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[MB_ERRSTR_MAX] = "";
  int timeout_ms = (int)luaL_checkinteger(L, 2);
  mb_err err = mb__guard_open(L, lb, why, sizeof why);
  if (!err) err = mb_bus_connect(lb->bus, timeout_ms, why, sizeof why);
  if (err) mb__guard_close(L, lb);
  return mb__lua_done(L, err, why);
}

int mb__l_bus_disconnect(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[MB_ERRSTR_MAX] = "";
  mb_err err = mb_bus_disconnect(lb->bus, why, sizeof why);
  if (err != MB_ESTATE) mb__guard_close(L, lb);
  return mb__lua_done(L, err, why);
}

int mb__l_bus_is_connected(lua_State *L) {
  lua_pushboolean(L, mb_bus_is_connected(mb__lua_check_bus(L, 1)->bus));
  return 1;
}

int mb__l_bus_is_consuming(lua_State *L) {
  lua_pushboolean(L, mb_bus_is_consuming(mb__lua_check_bus(L, 1)->bus));
  return 1;
}

/* bus:is_idle() -> idle, refused
 * idle     nothing is left to do but what open breakers hold back, and dead letters that were
 * refused refused  there are such dead letters */
int mb__l_bus_is_idle(lua_State *L) {
  mb_bus *bus = mb__lua_check_bus(L, 1)->bus;
  lua_pushboolean(L, mb__consumer_at_end(&bus->group, true) && !mb__producer_queued(&bus->ctx));
  lua_pushboolean(L, mb__dlq_stuck(&bus->deliver) != NULL);
  return 2;
}

int mb__l_bus_in_handler(lua_State *L) {
  lua_pushboolean(L, mb__lua_check_bus(L, 1)->bus->deliver.in_handler);
  return 1;
}

/* bus:start(auto_reconnect) */
int mb__l_bus_start(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[MB_ERRSTR_MAX] = "";
  return mb__lua_done(L, mb_bus_start(lb->bus, lua_toboolean(L, 2), why, sizeof why), why);
}

int mb__l_bus_stop(lua_State *L) {
  mb_bus_stop(mb__lua_check_bus(L, 1)->bus);
  return 0;
}

int mb__l_bus_flush(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[MB_ERRSTR_MAX] = "";
  return mb__lua_done(L, mb_bus_flush(lb->bus, (int)luaL_checkinteger(L, 2), why, sizeof why), why);
}

/* ---- what can be asked ---- */

static void put_count(lua_State *L, const char *key, double value) {
  lua_pushnumber(L, value);
  lua_setfield(L, -2, key);
}

static void put_time(lua_State *L, const char *key, int64_t us) {
  char text[MB_TIME_MAX];
  if (us)
    lua_pushlstring(L, text, mb__time_format(text, us, "+00:00"));
  else
    lua_pushlightuserdata(L, NULL);
  lua_setfield(L, -2, key);
}

int mb__l_bus_stats(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  mb_stats stats;
  mb_bus_stats(lb->bus, &stats);
  lua_createtable(L, 0, 24);
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
  put_time(L, "connected_at", lb->bus->ctx.connected ? stats.connected_at_us : 0);
  put_count(L, "publish_errors", (double)stats.publish_errors);
  put_count(L, "retries", (double)stats.retries);
  put_count(L, "events_expired", (double)stats.events_expired);
  put_count(L, "events_skipped", (double)stats.events_skipped);
  put_count(L, "events_dropped", (double)stats.events_dropped);
  put_count(L, "events_parked", (double)stats.events_parked);
  put_count(L, "transactions_committed", (double)stats.transactions_committed);
  put_count(L, "transactions_aborted", (double)stats.transactions_aborted);
  put_count(L, "handler_invocations", (double)stats.handler_invocations);
  put_count(L, "handler_timeouts", (double)stats.handler_timeouts);
  put_count(L, "events_running", (double)stats.events_running);
  put_count(L, "publish_queued", (double)stats.publish_queued);
  put_count(L, "lag", (double)stats.lag);
  put_count(L, "assigned_count", (double)stats.assigned_count);
  put_count(L, "breakers_open", (double)stats.breakers_open);
  lua_pushstring(L, mb_health_name(stats.health));
  lua_setfield(L, -2, "health");
  return 1;
}

/* bus:skipped() -> { [event type] = events that nothing subscribes to }; "": of all types beyond
 * those that are counted one by one */
int mb__l_bus_skipped(lua_State *L) {
  const mb_skips *skips = &mb__lua_check_bus(L, 1)->bus->deliver.skips;
  lua_createtable(L, 0, (int)skips->count);
  for (size_t i = 0; skips->list && i <= skips->count && i <= MB_SKIPS_MAX; i++) {
    const mb_skip *skip = &skips->list[i];
    if (!skip->count) continue;
    lua_pushlstring(L, skip->type ? skip->type : "", skip->len);
    lua_pushnumber(L, (lua_Number)skip->count);
    lua_rawset(L, -3);
  }
  return 1;
}

/* The list of reasons is on top of the stack. RAISES (memory) */
static void on_health(mb_health how, const char *code, const char *text, int32_t partition,
                      void *opaque) {
  lua_State *L = opaque;
  lua_createtable(L, 0, 4);
  lua_pushstring(L, mb_health_name(how));
  lua_setfield(L, -2, "status");
  lua_pushstring(L, code);
  lua_setfield(L, -2, "code");
  lua_pushstring(L, text);
  lua_setfield(L, -2, "text");
  if (partition >= 0) {
    lua_pushinteger(L, partition);
    lua_setfield(L, -2, "partition");
  }
  lua_rawseti(L, -2, (int)lua_objlen(L, -2) + 1);
}

/* bus:health() -> { status, reasons = { { status, code, text, partition }, ... } } */
int mb__l_bus_health(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  lua_createtable(L, 0, 2);
  mb__lua_new_array(L, 0);
  mb_health health = mb_bus_health(lb->bus, on_health, L);
  lua_setfield(L, -2, "reasons");
  lua_pushstring(L, mb_health_name(health));
  lua_setfield(L, -2, "status");
  return 1;
}

/* bus:reset_breaker(partition | nil) -> how many */
int mb__l_bus_reset_breaker(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[MB_ERRSTR_MAX] = "";
  int released = 0;
  mb_err err =
      mb_bus_reset_breaker(lb->bus, (int32_t)luaL_optinteger(L, 2, -1), &released, why, sizeof why);
  if (err) return mb__lua_fail(L, err, why);
  lua_pushinteger(L, released);
  return 1;
}

/* bus:topic_partitions(topic | nil) -> count */
int mb__l_bus_topic_partitions(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[MB_ERRSTR_MAX] = "";
  int count = 0;
  mb_err err = mb_bus_topic_partitions(lb->bus, mb__lua_opt_name(L, 2, "topic", NULL), &count, why,
                                       sizeof why);
  if (err) return mb__lua_fail(L, err, why);
  lua_pushinteger(L, count);
  return 1;
}

/* bus:topic_offsets(topic | nil, partition) -> low, high */
int mb__l_bus_topic_offsets(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[MB_ERRSTR_MAX] = "";
  int64_t low = 0, high = 0;
  mb_err err = mb_topic_offsets(lb->bus, mb__lua_opt_name(L, 2, "topic", NULL),
                                (int32_t)luaL_checkinteger(L, 3), &low, &high, why, sizeof why);
  if (err) return mb__lua_fail(L, err, why);
  lua_pushnumber(L, (lua_Number)low);
  lua_pushnumber(L, (lua_Number)high);
  return 2;
}

/* bus:topic_create(topic, partitions, replication) */
int mb__l_bus_topic_create(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[MB_ERRSTR_MAX] = "";
  mb_err err =
      mb_topic_create(lb->bus, mb__lua_check_name(L, 2, "topic"), (int)luaL_checkinteger(L, 3),
                      (int)luaL_optinteger(L, 4, 0), why, sizeof why);
  return mb__lua_done(L, err, why);
}
