/* lua/construct.c: values that are to be an event's fields: whether they fit, and their normal
 * form. Must not know events' tables or JSON. Called by lua/type.c where an event is made, and by
 * lua/encode.c where it is written. */
#include <math.h>

#include "lua/internal.h"

/* Whether a table can be what the field declares, by its shape. */
static bool fits_shape(lua_State *L, bool list, int index) {
  size_t elements = lua_objlen(L, index), keys = 0;
  if (!list) return elements == 0;
  lua_pushnil(L);
  while (lua_next(L, index)) {
    lua_pop(L, 1);
    if (lua_type(L, -1) != LUA_TNUMBER || ++keys > elements) {
      lua_pop(L, 1);
      return false;
    }
  }
  return true;
}

bool mb__lua_absent(lua_State *L, int index) {
  int kind = lua_type(L, index);
  return kind == LUA_TNIL || (kind == LUA_TLIGHTUSERDATA && !lua_touserdata(L, index));
}

/* "string "abc"", "number 5.5", "table" ... */
static void push_got(lua_State *L, int index) {
  size_t len;
  switch (lua_type(L, index)) {
  case LUA_TSTRING: {
    const char *text = lua_tolstring(L, index, &len);
    lua_pushlstring(L, text, len > 40 ? 40 : len);
    lua_pushfstring(L, len > 40 ? "string \"%s...\"" : "string \"%s\"", lua_tostring(L, -1));
    lua_remove(L, -2);
    break;
  }
  case LUA_TNUMBER: lua_pushfstring(L, "number %f", lua_tonumber(L, index)); break;
  case LUA_TBOOLEAN:
    lua_pushfstring(L, "boolean %s", lua_toboolean(L, index) ? "true" : "false");
    break;
  case LUA_TLIGHTUSERDATA: lua_pushliteral(L, "null"); break;
  default: lua_pushstring(L, luaL_typename(L, index));
  }
}

bool mb__lua_refuse(lua_State *L, const mb_schema *schema, const mb_field *field, int index,
                    const char *hint) {
  char spec[32];
  push_got(L, index);
  lua_pushfstring(L, "%s.%s: expected %s, got %s%s", schema->name, field->name,
                  mb__field_spec(field, spec, sizeof spec), lua_tostring(L, -1), hint);
  lua_remove(L, -2);
  return false;
}

static bool normalise_timestamp(lua_State *L, int index) {
  char text[MB_TIME_MAX];
  mb_bytes given, normal;
  int64_t us;
  if (lua_type(L, index) == LUA_TNUMBER) {
    double seconds = lua_tonumber(L, index);
    if (!(seconds >= -62135596800.0 && seconds < 253402300800.0)) return false;
    us = (int64_t)llround(seconds * 1e6);
  } else {
    given.data = lua_tolstring(L, index, &given.len);
    if (!given.data) return false;
    if (mb__time_plain(given) == given.len && given.len) return true;
    if (!mb__time_parse(given, &us) || !mb__time_normalise(given, text, &normal)) return false;
    if (normal.data == given.data && given.data[given.len - 1] == 'Z') return true;
  }
  lua_pushlstring(L, text, mb__time_format(text, us, "Z"));
  lua_replace(L, index);
  return true;
}

static const char *shape_hint(bool list) {
  return list ? " with keys or holes" : " that is an array";
}

/* One value, or an element of an array. */
static bool normalise(lua_State *L, const mb_schema *schema, const mb_field *field, int index) {
  char uuid[MB_UUID_LEN];
  mb_bytes text = {NULL, 0};
  mb_value number;
  bool canonical;
  int kind = lua_type(L, index);
  if (kind == LUA_TSTRING) text.data = lua_tolstring(L, index, &text.len);
  switch (field->type) {
  case MB_T_STRING:
    if (!text.data) return mb__lua_refuse(L, schema, field, index, "");
    if (!mb__utf8_valid(text)) return mb__lua_refuse(L, schema, field, index, " (not valid UTF-8)");
    break;
  case MB_T_NUMBER:
    if (kind == LUA_TNUMBER && isfinite(lua_tonumber(L, index))) break;
    if (mb__lua_to_float(L, index)) {
      lua_replace(L, index);
      return true;
    }
    if (kind == LUA_TNUMBER || !mb__lua_to_integer(L, index, &number))
      return mb__lua_refuse(L, schema, field, index, "");
    lua_pushnumber(L, number.kind == MB_INT ? (double)number.as.i : (double)number.as.u);
    lua_replace(L, index);
    return true;
  case MB_T_INTEGER:
    if (!mb__lua_to_integer(L, index, &number)) return mb__lua_refuse(L, schema, field, index, "");
    break;
  case MB_T_BOOLEAN:
    if (kind != LUA_TBOOLEAN) return mb__lua_refuse(L, schema, field, index, "");
    break;
  case MB_T_UUID:
    if (!text.data || !mb__uuid_parse(text, uuid, &canonical))
      return mb__lua_refuse(L, schema, field, index, MBL_UUID_HINT);
    if (canonical) break;
    lua_pushlstring(L, uuid, MB_UUID_LEN);
    lua_replace(L, index);
    return true;
  case MB_T_TIMESTAMP:
    return normalise_timestamp(L, index) || mb__lua_refuse(L, schema, field, index, "");
  case MB_T_DECIMAL:
    if (!text.data || !mb__decimal_valid(text))
      return mb__lua_refuse(L, schema, field, index,
                            kind == LUA_TNUMBER ? " (decimals are strings: \"12.34\")" : "");
    break;
  case MB_T_OBJECT:
  case MB_T_ARRAY:
    if (kind != LUA_TTABLE) return mb__lua_refuse(L, schema, field, index, "");
    if (!fits_shape(L, field->type == MB_T_ARRAY, index))
      return mb__lua_refuse(L, schema, field, index, shape_hint(field->type == MB_T_ARRAY));
    break;
  case MB_T_ANY: break;
  }
  return true;
}

/* An array of one type: checked and copied. */
static bool normalise_array(lua_State *L, const mb_schema *schema, const mb_field *field,
                            int index) {
  luaL_checkstack(L, 8, "event");
  if (lua_type(L, index) != LUA_TTABLE) return mb__lua_refuse(L, schema, field, index, "");
  if (!fits_shape(L, true, index)) return mb__lua_refuse(L, schema, field, index, shape_hint(true));
  int length = (int)lua_objlen(L, index);
  mb__lua_new_array(L, length);
  int copy = lua_gettop(L);
  for (int i = 1; i <= length; i++) {
    lua_rawgeti(L, index, i);
    bool missing = field->type != MB_T_ANY && mb__lua_absent(L, copy + 1);
    if (missing || !normalise(L, schema, field, copy + 1)) {
      if (missing) mb__lua_refuse(L, schema, field, copy + 1, "");
      lua_pushfstring(L, "%s (element %d)", lua_tostring(L, -1), i);
      return false;
    }
    lua_rawseti(L, copy, i);
  }
  lua_replace(L, index);
  return true;
}

bool mb__lua_normalise(lua_State *L, const mb_schema *schema, const mb_field *field, int index) {
  return field->array_of ? normalise_array(L, schema, field, index)
                         : normalise(L, schema, field, index);
}

bool mb__lua_lacks(lua_State *L, const mb_field *field, int index) {
  bool null_counts = field->type == MB_T_ANY && !field->array_of && !field->optional;
  return null_counts ? lua_isnil(L, index) : mb__lua_absent(L, index);
}

int64_t mb__lua_lowest_version(const mb_schema *schema) {
  return schema->lifts ? schema->version : 1;
}

static void push_unknown_field(lua_State *L, const mb_schema *schema, const char *key) {
  mb_nearest nearest = {.word = key, .parts = true};
  for (size_t i = 0; i < schema->count; i++) mb__nearest_offer(&nearest, schema->fields[i].name);
  if (nearest.best[0])
    lua_pushfstring(L, "%s has no field \"%s\"; did you mean \"%s\"?", schema->name, key,
                    nearest.best);
  else
    lua_pushfstring(L, "%s has no field \"%s\"", schema->name, key);
}

bool mb__lua_push_unknown(lua_State *L, const mb_schema *schema, int given) {
  lua_pushnil(L);
  while (lua_next(L, given)) {
    lua_pop(L, 1);
    size_t i = 0, len = 0;
    const char *key = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &len) : NULL;
    while (i < schema->count && !(key && schema->fields[i].name_len == len &&
                                  memcmp(schema->fields[i].name, key, len) == 0))
      i++;
    if (i < schema->count) continue;
    if (key)
      push_unknown_field(L, schema, key);
    else
      lua_pushfstring(L, "%s has no field without a name", schema->name);
    return true;
  }
  return false;
}
