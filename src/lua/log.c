/* lua/log.c: lines of scripts and of the program, in the log of a bus or of the program.
 * Must not choose a form or a level; base/log.c does.
 * Called by log.lua and the command line. */
#include <string.h>

#include "lua/internal.h"

#define FIELDS_MAX 32

static const char *const level_names[] = {"error", "warn", "info", "debug", NULL};

/* The lists of names and of values (texts, finite numbers, booleans) at these places: into fields.
 */
static size_t read_fields(lua_State *L, int names, int values, mb_log_field *fields, size_t most) {
  size_t count = lua_objlen(L, names);
  if (count > most) count = most;
  luaL_checkstack(L, (int)count * 3 + 4, "fields"); /* they stay there: they are borrowed */
  for (size_t i = 0; i < count; i++) {
    size_t len;
    lua_rawgeti(L, names, (int)i + 1);
    fields[i].name = lua_tostring(L, -1);
    lua_rawgeti(L, values, (int)i + 1);
    fields[i].is_json = lua_type(L, -1) != LUA_TSTRING;
    if (lua_isboolean(L, -1)) lua_pushstring(L, lua_toboolean(L, -1) ? "true" : "false");
    fields[i].text.data = lua_tolstring(L, -1, &len);
    fields[i].text.len = len;
  }
  return count;
}

/* bus:log(level, message[, names, values]): to the bus's log, with the event in hand */
int mb__l_bus_log(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  mb_level level = (mb_level)luaL_checkoption(L, 2, NULL, level_names);
  const char *message = luaL_checkstring(L, 3);
  mb_log_field fields[MB_RECORD_FIELDS + FIELDS_MAX] = {{.name = NULL}};
  lua_settop(L, 5);
  if (!mb__log_on(&lb->bus->ctx.log, level)) return 0;
  size_t count = read_fields(L, 4, 5, fields, FIELDS_MAX);
  const mb_msg *msg = lb->call ? lb->call->msg : NULL;
  if (lb->bus->ctx.log.json && msg && msg->record) {
    mb__record_fields(msg->record, mb_msg_attempt(msg), NULL, fields + count);
    count += MB_RECORD_FIELDS;
  }
  mb__log_fields(&lb->bus->ctx.log, level, message, fields, count, true);
  return 0;
}

/* core.log(level, message, names, values): where there is no bus; of level info or above */
int mb__l_log(lua_State *L) {
  mb_level level = (mb_level)luaL_checkoption(L, 1, NULL, level_names);
  const char *message = luaL_checkstring(L, 2);
  mb_log log = {.level = MB_LOG_INFO, .json = mb_log_program_is_json(), .process = true};
  mb_log_field fields[FIELDS_MAX] = {{.name = NULL}};
  lua_settop(L, 4);
  mb__log_fields(&log, level, message, fields, read_fields(L, 3, 4, fields, FIELDS_MAX), true);
  return 0;
}

/* core.say(level, prefix, text): a line of the program's own */
int mb__l_say(lua_State *L) {
  mb_log_program((mb_level)luaL_checkoption(L, 1, NULL, level_names), luaL_checkstring(L, 2),
                 luaL_checkstring(L, 3));
  return 0;
}

/* core.says_json() -> true if such lines are JSON */
int mb__l_says_json(lua_State *L) {
  lua_pushboolean(L, mb_log_program_is_json());
  return 1;
}
