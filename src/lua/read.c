/* lua/read.c: reading records from outside any group, and what the group has committed.
 * Must not do what the engine does; it checks arguments, calls, and pushes results.
 * Called by the modules in lua/moonbus, through the tables in lua/module.c. */
#include <stdlib.h>

#include "lua/internal.h"

#define PARTITIONS_MAX 1000000

typedef struct read_call {
  lua_State *L;
  mbl_bus *lb;
  bool context; /* the function gets the bus's context, not a table */
  bool failed;  /* an error value is on the stack */
} read_call;

static int protected_record(lua_State *L) {
  const mb_msg *msg = lua_touserdata(L, 2);
  mb__lua_push_record(L, msg);
  lua_replace(L, 2);
  lua_call(L, 1, 1);
  return 1;
}

/* The function is at 4, protected_record at 5: made before, as a push that raised would leave the
 * reader open. */
static bool on_record(const mb_msg *msg, void *opaque) {
  read_call *call = opaque;
  lua_State *L = call->L;
  mbl_context *context = call->lb->context, outer = *context;
  if (call->context && mb__msg_elsewhere(call->lb->bus->ctx.group_name, msg->record)) return true;
  if (!call->context) lua_pushvalue(L, 5);
  lua_pushvalue(L, 4);
  if (call->context) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, call->lb->context_ref);
    context->msg = msg;
  } else {
    lua_pushlightuserdata(L, (void *)(uintptr_t)msg);
  }
  int failed = lua_pcall(L, call->context ? 1 : 2, 1, 0);
  *context = outer;
  call->lb->L = L;
  if (failed) {
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

/* options.offsets, a list, as an array that lies on the stack; a list for the outcome stays above
 * it. Nothing is pushed without. */
static void read_offsets(lua_State *L, int table, mb_read_options *options) {
  lua_getfield(L, table, "offsets");
  if (!lua_istable(L, -1)) {
    lua_pop(L, 1);
    return;
  }
  int list = lua_gettop(L);
  size_t count = lua_objlen(L, list);
  luaL_argcheck(L, count <= PARTITIONS_MAX, table, "too many partitions");
  options->offset_count = (int)count;
  options->offsets = lua_newuserdata(L, (count + 1) * sizeof *options->offsets);
  for (size_t i = 0; i < count; i++) {
    lua_rawgeti(L, list, (int)i + 1);
    options->offsets[i] = (int64_t)lua_tonumber(L, -1);
    lua_pop(L, 1);
  }
  lua_createtable(L, (int)count, 0);
}

/* bus:read(topic, options, function(record) -> false to end); options: partition, offset, follow,
 * timeout_ms, stall_ms, group; offsets, a list, partition 0's first: then a second result is the
 * list of where to go on; context: the function gets the bus's context, which is good while it
 * runs, and no replays that are for another group */
int mb__l_bus_read(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[MB_ERRSTR_MAX] = "";
  const char *topic = mb__lua_opt_name(L, 2, "topic", lb->bus->ctx.topic);
  luaL_checktype(L, 3, LUA_TTABLE);
  luaL_checktype(L, 4, LUA_TFUNCTION);
  lua_settop(L, 4);
  mb_read_options options = {.partition = int_field(L, 3, "partition", -1),
                             .timeout_ms = int_field(L, 3, "timeout_ms", -1),
                             .stall_ms = int_field(L, 3, "stall_ms", 0)};
  lua_getfield(L, 3, "offset");
  options.offset = lua_isnil(L, -1) ? -1 : (int64_t)lua_tonumber(L, -1);
  lua_getfield(L, 3, "follow");
  options.follow = lua_toboolean(L, -1);
  lua_getfield(L, 3, "context");
  read_call call = {.L = L, .lb = lb, .context = lua_toboolean(L, -1)};
  lua_settop(L, 4);
  lua_pushcfunction(L, protected_record);
  lua_getfield(L, 3, "group"); /* stays on the stack: the text is borrowed */
  options.group = lua_tostring(L, -1);
  read_offsets(L, 3, &options);
  mb_err err = mb_bus_read(lb->bus, topic, &options, on_record, &call, why, sizeof why);
  if (call.failed) return lua_error(L);
  if (err || !options.offsets) return mb__lua_done(L, err, why);
  for (int i = 0; i < options.offset_count; i++) {
    lua_pushnumber(L, (lua_Number)options.offsets[i]);
    lua_rawseti(L, -2, i + 1);
  }
  lua_pushboolean(L, true);
  lua_insert(L, -2);
  return 2;
}

/* bus:topic_count(topic | nil, from, partitions) -> list of how many records each holds
 * from: a list of the offsets where to begin; nil = all */
int mb__l_bus_topic_count(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[MB_ERRSTR_MAX] = "";
  const char *topic = mb__lua_opt_name(L, 2, "topic", NULL);
  int count = (int)luaL_checkinteger(L, 4);
  luaL_argcheck(L, count > 0 && count <= PARTITIONS_MAX, 4, "1 or more partitions");
  int64_t *from = lua_newuserdata(L, (size_t)count * 2 * sizeof *from), *counts = from + count;
  for (int i = 0; lua_istable(L, 3) && i < count; i++) {
    lua_rawgeti(L, 3, i + 1);
    from[i] = (int64_t)lua_tonumber(L, -1);
    lua_pop(L, 1);
  }
  mb_err err = mb_topic_count(lb->bus, topic, lua_istable(L, 3) ? from : NULL, counts, count, why,
                              sizeof why);
  if (err) return mb__lua_fail(L, err, why);
  lua_createtable(L, count, 0);
  for (int i = 0; i < count; i++) {
    lua_pushnumber(L, (lua_Number)counts[i]);
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

/* bus:event_in_hand(type | nil) -> event | nil, err, code: the one its context is at */
int mb__l_bus_event_in_hand(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[MB_ERRSTR_MAX] = "";
  const mbl_type *type = lua_isnoneornil(L, 2) ? NULL : mb__lua_check_type(L, 2);
  const mb_msg *msg = lb->context->msg;
  if (!msg) return luaL_error(L, "the bus has no event in hand");
  mb_err err = mb__lua_push_msg(L, lb, type, msg, why, sizeof why);
  return err ? mb__lua_fail(L, err, why) : 1;
}

/* bus:low_water(partition) -> offset, below which all is settled | nil: not ours, or not known */
int mb__l_bus_low_water(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  mb_part *part = mb__consumer_part(&lb->bus->group, (int32_t)luaL_checkinteger(L, 2));
  int64_t low = part ? mb__retry_low(&part->queue, part->next) : -1;
  if (low < 0) return 0;
  lua_pushnumber(L, (lua_Number)low);
  return 1;
}

/* bus:committed(count) -> list: what the group has committed of each partition, -1 = nothing */
int mb__l_bus_committed(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[MB_ERRSTR_MAX] = "";
  int count = (int)luaL_checkinteger(L, 2);
  luaL_argcheck(L, count > 0 && count <= PARTITIONS_MAX, 2, "1 or more partitions");
  int64_t *offsets = lua_newuserdata(L, (size_t)count * sizeof *offsets);
  lua_createtable(L, count, 0);
  mb_err err = mb_bus_committed(lb->bus, offsets, count, why, sizeof why);
  if (err) return mb__lua_fail(L, err, why);
  for (int i = 0; i < count; i++) {
    lua_pushnumber(L, (lua_Number)offsets[i]);
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}
