/* lua/dlq.c: dead letters for Lua: counted, read, put back.
 * Must not decide what may be put back (dlq/replay.c); it reads options, calls, and pushes results.
 * Called by the modules in lua/moonbus, through the tables in lua/module.c. */
#include <string.h>

#include "dlq/replay.h"
#include "lua/internal.h"

/* bus:dlq_count() */
int mb__l_bus_dlq_count(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[MB_ERRSTR_MAX] = "";
  int64_t count = 0;
  mb_err err = mb_dlq_count(lb->bus, &count, why, sizeof why);
  if (err) return mb__lua_fail(L, err, why);
  lua_pushnumber(L, (lua_Number)count);
  return 1;
}

/* bus:dlq_replay(partition, offset, force) -> true, partition, offset */
int mb__l_bus_dlq_replay(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[MB_ERRSTR_MAX] = "";
  mb_receipt receipt;
  mb_err err =
      mb_dlq_replay(lb->bus, (int32_t)luaL_checkinteger(L, 2), (int64_t)luaL_checknumber(L, 3),
                    lua_toboolean(L, 4), &receipt, why, sizeof why);
  if (err) return mb__lua_fail(L, err, why);
  lua_pushboolean(L, 1);
  lua_pushinteger(L, receipt.partition);
  lua_pushnumber(L, (lua_Number)receipt.offset);
  return 3;
}

/* ---- options out of a table: checked by lua/moonbus/dlq.lua ---- */

/* Borrowed from the table, which outlives the call. */
static const char *name_field(lua_State *L, int table, const char *key) {
  lua_getfield(L, table, key);
  const char *text = mb__lua_opt_name(L, -1, key, NULL);
  lua_pop(L, 1);
  return text;
}

/* Bytes that a header is compared with; what keeps its NUL bytes takes its place in the table. */
static const char *text_field(lua_State *L, int table, const char *key) {
  size_t len;
  lua_getfield(L, table, key);
  const char *text = lua_tolstring(L, -1, &len);
  if (text && strlen(text) != len) {
    size_t size = 2 * len + 1;
    char *kept = lua_newuserdata(L, size);
    mb__text_keep(kept, size, (mb_bytes){text, len});
    lua_pushstring(L, kept);
    lua_pushvalue(L, -1);
    lua_setfield(L, table, key);
    text = lua_tostring(L, -1);
    lua_pop(L, 2);
  }
  lua_pop(L, 1);
  return text;
}

static double number_field(lua_State *L, int table, const char *key, double otherwise) {
  lua_getfield(L, table, key);
  double number = lua_isnumber(L, -1) ? lua_tonumber(L, -1) : otherwise;
  lua_pop(L, 1);
  return number;
}

static bool flag_field(lua_State *L, int table, const char *key) {
  lua_getfield(L, table, key);
  bool flag = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return flag;
}

/* A call into the engine that may call Lua functions. */
typedef struct call {
  lua_State *L;
  mbl_bus *lb;
  int where, fn; /* stack indices */
  int letter;    /* of protected_letter: a push in the engine's midst may not raise */
  bool failed;   /* an error value is on the stack */
} call;

static int protected_letter(lua_State *L) {
  const mb_msg *msg = lua_touserdata(L, 2);
  const char *name;
  mb_bytes value;
  mb__lua_push_record(L, msg);
  /* All headers as they stand, doubled and null ones too. */
  mb__lua_new_array(L, 0);
  for (size_t i = 0; mb_msg_header_at(msg, i, &name, &value); i++) {
    lua_createtable(L, 2, 0);
    lua_pushstring(L, name);
    lua_rawseti(L, -2, 1);
    if (value.data)
      lua_pushlstring(L, value.data, value.len);
    else
      lua_pushlightuserdata(L, NULL);
    lua_rawseti(L, -2, 2);
    lua_rawseti(L, -2, (int)i + 1);
  }
  lua_setfield(L, -2, "header_list");
  lua_replace(L, 2);
  lua_call(L, 1, 1);
  return 1;
}

/* What the function at index says of the letter: 1 true, 0 false, -1 it raised, 2 nil. */
static int ask(call *c, int index, const mb_msg *msg) {
  lua_State *L = c->L;
  if (c->failed) return -1;
  lua_pushvalue(L, c->letter);
  lua_pushvalue(L, index);
  lua_pushlightuserdata(L, (void *)(uintptr_t)msg);
  int failed = lua_pcall(L, 2, 1, 0);
  c->lb->L = L;
  if (failed) {
    c->failed = true;
    return -1;
  }
  int answer = lua_isnil(L, -1) ? 2 : lua_toboolean(L, -1);
  lua_pop(L, 1);
  return answer;
}

static int on_where(const mb_msg *msg, void *opaque) {
  call *c = opaque;
  int answer = ask(c, c->where, msg);
  return answer == 2 ? 0 : answer;
}

static bool on_letter(const mb_msg *msg, void *opaque) {
  call *c = opaque;
  return ask(c, c->fn, msg) > 0;
}

/* The filter a table describes; what calls its where function, and that, are left on the stack. */
static void read_filter(lua_State *L, int table, call *c, mb_dlq_filter *filter) {
  mb_dlq_filter_init(filter);
  filter->event_type = text_field(L, table, "event_type");
  filter->key = text_field(L, table, "key");
  filter->reason = text_field(L, table, "reason");
  filter->error_type = text_field(L, table, "error_type");
  filter->failed_group = name_field(L, table, "failed_group");
  filter->since_ms = (int64_t)number_field(L, table, "since_ms", 0);
  filter->until_ms = (int64_t)number_field(L, table, "until_ms", 0);
  filter->partition = (int32_t)number_field(L, table, "partition", -1);
  filter->first_offset = (int64_t)number_field(L, table, "first_offset", -1);
  filter->last_offset = (int64_t)number_field(L, table, "last_offset", -1);
  filter->original_partition = (int32_t)number_field(L, table, "original_partition", -1);
  filter->original_first = (int64_t)number_field(L, table, "original_first", -1);
  filter->original_last = (int64_t)number_field(L, table, "original_last", -1);
  lua_pushcfunction(L, protected_letter);
  c->letter = lua_gettop(L);
  lua_getfield(L, table, "where");
  c->where = lua_gettop(L);
  if (lua_isnil(L, c->where)) return;
  filter->where = on_where;
  filter->where_opaque = c;
}

/* bus:dlq_read(filter, function(letter) -> false to end); filter also: timeout_ms */
int mb__l_bus_dlq_read(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[MB_ERRSTR_MAX] = "";
  luaL_checktype(L, 2, LUA_TTABLE);
  luaL_checktype(L, 3, LUA_TFUNCTION);
  lua_settop(L, 3);
  luaL_checkstack(L, 12, "dead letters");
  mb_dlq_filter filter;
  call c = {.L = L, .lb = lb, .fn = 3};
  read_filter(L, 2, &c, &filter);
  int timeout_ms = (int)number_field(L, 2, "timeout_ms", -1);
  mb_err err = mb_dlq_read(lb->bus, &filter, timeout_ms, on_letter, &c, why, sizeof why);
  if (c.failed) return lua_error(L);
  return mb__lua_done(L, err, why);
}

/* ---- putting many back ---- */

typedef struct mbl_replay {
  mb_replay *job; /* owned; NULL once closed */
  mbl_bus *lb;    /* kept alive by the environment */
} mbl_replay;

/* bus:replay_open(options) -> replay | nil, err, code
 * options: those of a filter; to, group, to_failed, dry_run, again, force, limit, rate */
int mb__l_bus_replay_open(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  char why[MB_ERRSTR_MAX] = "";
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_settop(L, 2);
  luaL_checkstack(L, 12, "dead letters");
  mbl_replay *lr = lua_newuserdata(L, sizeof *lr);
  *lr = (mbl_replay){.lb = lb};
  luaL_getmetatable(L, REPLAY_META);
  lua_setmetatable(L, 3);
  lua_createtable(L, 1, 0);
  lua_pushvalue(L, 1);
  lua_rawseti(L, -2, 1);
  lua_setfenv(L, 3);
  mb_replay_options options;
  mb_replay_options_init(&options);
  call c = {.L = L, .lb = lb};
  read_filter(L, 2, &c, &options.filter);
  options.to = name_field(L, 2, "to");
  options.group = name_field(L, 2, "group");
  options.failed_group = flag_field(L, 2, "to_failed");
  options.dry_run = flag_field(L, 2, "dry_run");
  options.again = flag_field(L, 2, "again");
  options.force = flag_field(L, 2, "force");
  options.limit = (int64_t)number_field(L, 2, "limit", 0);
  options.rate = number_field(L, 2, "rate", 0);
  mb_err err = mb__replay_open(lb->bus, &options, &lr->job, why, sizeof why);
  if (c.failed) return lua_error(L);
  if (err) return mb__lua_fail(L, err, why);
  lua_settop(L, 3);
  return 1;
}

int mb__l_replay_close(lua_State *L) {
  mbl_replay *lr = luaL_checkudata(L, 1, REPLAY_META);
  mb__replay_close(lr->job);
  lr->job = NULL;
  return 0;
}

static void put_number(lua_State *L, const char *key, double value) {
  lua_pushnumber(L, value);
  lua_setfield(L, -2, key);
}

static void put_bytes(lua_State *L, const char *key, mb_bytes bytes) {
  mb__lua_push_bytes(L, bytes);
  lua_setfield(L, -2, key);
}

static void push_letter(lua_State *L, const mb_replay_letter *letter) {
  static const char *const outcomes[] = {"replayed", "refused", "failed", "skipped"};
  lua_createtable(L, 0, 11);
  lua_pushstring(L, outcomes[letter->outcome]);
  lua_setfield(L, -2, "outcome");
  if (*letter->why) {
    lua_pushstring(L, letter->why);
    lua_setfield(L, -2, "reason");
  }
  if (letter->err) {
    lua_pushstring(L, mb_err_name(letter->err));
    lua_setfield(L, -2, "code");
  }
  put_number(L, "partition", letter->partition);
  put_number(L, "offset", (double)letter->offset);
  put_bytes(L, "event_type", letter->event_type);
  put_bytes(L, "event_id", letter->event_id);
  put_bytes(L, "key", letter->key);
  put_number(L, "replay_count", letter->replays);
  if (letter->receipt.partition < 0) return;
  put_number(L, "to_partition", letter->receipt.partition);
  put_number(L, "to_offset", (double)letter->receipt.offset);
}

static void push_state(lua_State *L, const mb_replay *job) {
  mb_replay_result result;
  mb__replay_result(job, &result);
  lua_createtable(L, 0, 10);
  put_number(L, "replayed", (double)result.replayed);
  put_number(L, "refused", (double)result.refused);
  put_number(L, "failed", (double)result.failed);
  put_number(L, "skipped", (double)result.skipped);
  lua_pushboolean(L, result.more);
  lua_setfield(L, -2, "more");
  lua_pushboolean(L, result.stopped);
  lua_setfield(L, -2, "stopped");
  lua_pushboolean(L, mb__replay_over(job));
  lua_setfield(L, -2, "over");
  put_number(L, "wait", (double)mb__replay_wait_us(job) / 1e6);
  put_number(L, "done", (double)mb__replay_done(job));
  put_number(L, "total", (double)mb__replay_total(job));
}

/* replay:step() -> letters, state, err | nil, code | nil
 * state: replayed, refused, failed, skipped, more, stopped so far; over, wait (seconds), done,
 * total
 */
int mb__l_replay_step(lua_State *L) {
  mbl_replay *lr = luaL_checkudata(L, 1, REPLAY_META);
  const mb_replay_letter *letters;
  size_t count;
  char why[MB_ERRSTR_MAX] = "";
  if (!lr->job || !lr->lb->bus) return luaL_error(L, "the replay is over");
  lr->lb->L = L;
  mb_err err = mb__replay_step(lr->job, &letters, &count, why, sizeof why);
  lua_createtable(L, (int)count, 0);
  for (size_t i = 0; i < count; i++) {
    push_letter(L, &letters[i]);
    lua_rawseti(L, -2, (int)i + 1);
  }
  push_state(L, lr->job);
  if (!err) return 2;
  mb__lua_fail(L, err, why);
  lua_remove(L, -3); /* the nil */
  return 4;
}
