/* lua/module.c: the C module moonbus.core: every function Lua can call, in one place.
 * Must not do what the engine does; it checks arguments, calls, and pushes results.
 * Called by the modules in lua/moonbus. */
#include <errno.h>
#include <luajit.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "event/partition.h"
#include "lua/internal.h"

/* ---- small ones ---- */

static int l_now(lua_State *L) {
  lua_pushnumber(L, (double)mb__mono_us() / 1e6);
  return 1;
}

/* core.uuid() -> a random one; core.uuid(name, namespace | nil) -> version 5: the name's, which is
 * not empty, in the name space, a UUID; nil: that of URLs */
static int l_uuid(lua_State *L) {
  char text[MB_UUID_LEN], space[MB_UUID_LEN];
  int given = lua_gettop(L);
  mb_bytes name, within = {NULL, 0};
  if (given) {
    if (lua_type(L, 1) != LUA_TSTRING || !lua_objlen(L, 1))
      return luaL_error(L,
                        "moonbus.uuid: name: expected a text that is not empty, got %s; without "
                        "arguments it makes a random UUID",
                        lua_type(L, 1) == LUA_TSTRING ? "an empty one" : luaL_typename(L, 1));
    name.data = lua_tolstring(L, 1, &name.len);
    if (lua_type(L, 2) == LUA_TSTRING) within.data = lua_tolstring(L, 2, &within.len);
    if (!lua_isnoneornil(L, 2) && !(within.data && mb__uuid_parse(within, space, NULL)))
      return luaL_error(L, "moonbus.uuid: namespace: expected a UUID, got %s",
                        within.data ? within.data : luaL_typename(L, 2));
  }
  if (given)
    mb__uuid_from_name(text, within.data ? space : NULL, name);
  else
    mb__uuid_random(text);
  lua_pushlstring(L, text, sizeof text);
  return 1;
}

/* core.timestamp(seconds | nil) -> ISO 8601 UTC */
static int l_timestamp(lua_State *L) {
  char text[MB_TIME_MAX];
  int64_t us =
      lua_isnoneornil(L, 1) ? mb__now_us() : (int64_t)llround(luaL_checknumber(L, 1) * 1e6);
  lua_pushlstring(L, text, mb__time_format(text, us, "Z"));
  return 1;
}

/* core.epoch(timestamp) -> seconds since 1970 | nil */
static int l_epoch(lua_State *L) {
  mb_bytes text;
  int64_t us;
  text.data = luaL_checklstring(L, 1, &text.len);
  if (mb__time_parse(text, &us))
    lua_pushnumber(L, (double)us / 1e6);
  else
    lua_pushnil(L);
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

static void put_count(lua_State *L, const char *key, double value) {
  lua_pushnumber(L, value);
  lua_setfield(L, -2, key);
}

static int l_options(lua_State *L) {
  const mb_option *option;
  mb__lua_new_array(L, 64);
  for (size_t i = 0; (option = mb_option_at(i)); i++) {
    lua_createtable(L, 0, 11);
    const char *const texts[][2] = {{"key", option->key},     {"section", option->section},
                                    {"type", option->type},   {"choices", option->choices},
                                    {"default", option->def}, {"unit", option->unit},
                                    {"kafka", option->kafka}, {"help", option->help}};
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

/* core.option_check(key, value) -> true | nil, err, code
 * Whether one option may have that value; a key with a dot, or after "kafka.", is a property of
 * librdkafka. What concerns several options is found by bus_new. */
static int l_option_check(lua_State *L) {
  const char *key = luaL_checkstring(L, 1), *value = luaL_checkstring(L, 2);
  char why[MB_ERRSTR_MAX] = "";
  mb_config *conf = mb_config_new();
  if (!conf) return luaL_error(L, "out of memory");
  bool prefixed = strncmp(key, "kafka.", 6) == 0;
  mb_err err = prefixed || strchr(key, '.')
                   ? mb_config_set_kafka(conf, key + (prefixed ? 6 : 0), value, why, sizeof why)
                   : mb_config_set(conf, key, value, MB_FROM_FLAG, why, sizeof why);
  mb_config_free(conf);
  return mb__lua_done(L, err, why);
}

/* core.nearest(word, { name, ... }, mistyped) -> the name that was meant by a word that is none |
 * nil; mistyped: a word that begins a part of a name means no other */
static int l_nearest(lua_State *L) {
  mb_nearest nearest = {.word = luaL_checkstring(L, 1), .parts = !lua_toboolean(L, 3)};
  luaL_checktype(L, 2, LUA_TTABLE);
  for (int i = 1; i <= (int)lua_objlen(L, 2); i++) {
    lua_rawgeti(L, 2, i);
    mb__nearest_offer(&nearest, luaL_checkstring(L, -1));
    lua_pop(L, 1);
  }
  lua_pushstring(L, nearest.best[0] ? nearest.best : NULL);
  return 1;
}

/* core.requirements() -> { { what, since, feature, met, why }, ... } */
static int l_requirements(lua_State *L) {
  mb_requirement row;
  mb__lua_new_array(L, 0);
  for (size_t i = 0; mb_requirement_at(i, &row); i++) {
    lua_createtable(L, 0, 5);
    const char *const texts[][2] = {{"what", row.what},
                                    {"since", row.since},
                                    {"feature", row.feature},
                                    {"why", row.met ? NULL : row.why}};
    for (size_t k = 0; k < sizeof texts / sizeof *texts; k++) {
      lua_pushstring(L, texts[k][1]);
      lua_setfield(L, -2, texts[k][0]);
    }
    lua_pushboolean(L, row.met);
    lua_setfield(L, -2, "met");
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
  char why[MB_ERRSTR_MAX] = "";
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
  char why[MB_ERRSTR_MAX] = "";
  return mb__lua_done(L,
                      mb_broker_topic_create(*broker, luaL_checkstring(L, 2),
                                             (int)luaL_checkinteger(L, 3), why, sizeof why),
                      why);
}

/* ---- every function there is ---- */

static const luaL_Reg core_functions[] = {
    {"bus_new", mb__l_bus_new},
    {"turn", mb__l_turn},
    {"log", mb__l_log},
    {"say", mb__l_say},
    {"says_json", mb__l_says_json},
    {"may_wait", mb__l_may_wait},
    {"yield", mb__l_yield},
    {"resume", mb__l_resume},
    {"on_fail", mb__l_on_fail},
    {"on_excess", mb__l_on_excess},
    {"run_level", mb__l_run_level},
    {"type", mb__l_type_new},
    {"json_encode", mb__l_json_encode},
    {"json_decode", mb__l_json_decode},
    {"set_int64", mb__l_set_int64},
    {"set_sort", mb__l_set_sort},
    {"set_untyped", mb__l_set_untyped},
    {"now", l_now},
    {"uuid", l_uuid},
    {"timestamp", l_timestamp},
    {"epoch", l_epoch},
    {"partition_of", l_partition_of},
    {"options", l_options},
    {"option_check", l_option_check},
    {"nearest", l_nearest},
    {"requirements", l_requirements},
    {"errors", l_errors},
    {"isatty", l_isatty},
    {"broker", l_broker},
    {"broker_topic", l_broker_topic},
    {NULL, NULL},
};

static const luaL_Reg bus_methods[] = {
    {"config", mb__l_bus_config},
    {"is_default", mb__l_bus_is_default},
    {"on_log", mb__l_bus_on_log},
    {"on_publish_error", mb__l_bus_on_publish_error},
    {"on_rebalance", mb__l_bus_on_rebalance},
    {"on_unit", mb__l_bus_on_unit},
    {"unit_begin", mb__l_bus_unit_begin},
    {"connect", mb__l_bus_connect},
    {"disconnect", mb__l_bus_disconnect},
    {"is_connected", mb__l_bus_is_connected},
    {"is_consuming", mb__l_bus_is_consuming},
    {"is_idle", mb__l_bus_is_idle},
    {"in_handler", mb__l_bus_in_handler},
    {"log", mb__l_bus_log},
    {"start", mb__l_bus_start},
    {"stop", mb__l_bus_stop},
    {"flush", mb__l_bus_flush},
    {"publish", mb__l_bus_publish},
    {"publish_json", mb__l_bus_publish_json},
    {"encode", mb__l_bus_encode},
    {"decode", mb__l_bus_decode},
    {"subscribe", mb__l_bus_subscribe},
    {"unsubscribe", mb__l_bus_unsubscribe},
    {"stats", mb__l_bus_stats},
    {"skipped", mb__l_bus_skipped},
    {"measures", mb__l_bus_measures},
    {"lags", mb__l_bus_lags},
    {"health", mb__l_bus_health},
    {"reset_breaker", mb__l_bus_reset_breaker},
    {"topic_partitions", mb__l_bus_topic_partitions},
    {"topic_offsets", mb__l_bus_topic_offsets},
    {"topic_count", mb__l_bus_topic_count},
    {"topic_create", mb__l_bus_topic_create},
    {"dlq_count", mb__l_bus_dlq_count},
    {"dlq_replay", mb__l_bus_dlq_replay},
    {"dlq_read", mb__l_bus_dlq_read},
    {"replay_open", mb__l_bus_replay_open},
    {"read", mb__l_bus_read},
    {"event_in_hand", mb__l_bus_event_in_hand},
    {"low_water", mb__l_bus_low_water},
    {"committed", mb__l_bus_committed},
    {NULL, NULL},
};

static const luaL_Reg type_methods[] = {
    {"check", mb__l_type_check},   {"finish", mb__l_type_finish},
    {"loosen", mb__l_type_loosen}, {"set_version", mb__l_type_set_version},
    {"fields", mb__l_type_fields}, {NULL, NULL},
};

static const luaL_Reg replay_methods[] = {
    {"step", mb__l_replay_step},
    {"close", mb__l_replay_close},
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
  mb__lua_push_base(L); /* which may raise: first */
  new_class(L, BUS_META, bus_methods, mb__l_bus_gc);
  new_class(L, TYPE_META, type_methods, mb__l_type_gc);
  new_class(L, REPLAY_META, replay_methods, mb__l_replay_close);
  luaL_newmetatable(L, CTX_META);
  lua_pushcfunction(L, mb__l_context_index);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  mb__lua_convert_open(L);
  mb__lua_fibers_open(L);
  lua_newtable(L);
  register_all(L, core_functions);
  lua_insert(L, -2);
  lua_setfield(L, -2, "base");
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
  /* `scripts/check gc` runs specs with a collector that never rests; compiled loops may not get on
   * with it, as LuaJIT leaves a trace after each step. */
  if (getenv("MB_GC")) {
    lua_gc(L, LUA_GCSETPAUSE, 0);
    lua_gc(L, LUA_GCSETSTEPMUL, 10000);
    luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
  }
  return 1;
}
