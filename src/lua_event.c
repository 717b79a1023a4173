/* lua_event.c: event types, instances, and the way between an instance and its wire form.
 * Must not know Kafka; the wire is codec.c's, JSON values are lua_convert.c's.
 * Called by lua_core.c (publish) and lua_handler.c (events for handlers). */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "lua_internal.h"

/* Registry keys: the metatable of events of undeclared types, and what makes their calls. */
static char untyped_key, untyped_call_key;

mbl_type *mb__lua_check_type(lua_State *L, int index) {
  return luaL_checkudata(L, index, TYPE_META);
}

/* core.type(name, { {field, spec}, ... }) -> type */
int mb__l_type_new(lua_State *L) {
  mb_bytes name;
  char why[256];
  name.data = luaL_checklstring(L, 1, &name.len);
  luaL_checktype(L, 2, LUA_TTABLE);
  mbl_type *type = lua_newuserdata(L, sizeof *type);
  static atomic_uint last_id; /* states in several threads may make types */
  *type = (mbl_type){.id = atomic_fetch_add(&last_id, 1) + 1,
                     .make_ref = LUA_NOREF,
                     .call_ref = LUA_NOREF,
                     .lift_ref = LUA_NOREF};
  luaL_getmetatable(L, TYPE_META);
  lua_setmetatable(L, -2);
  type->schema = mb__schema_new(name);
  if (!type->schema) return luaL_error(L, "an event type's name is 1 to 249 bytes of UTF-8");
  for (int i = 1; i <= (int)lua_objlen(L, 2); i++) {
    mb_bytes field, spec;
    lua_rawgeti(L, 2, i);
    lua_rawgeti(L, -1, 1);
    lua_rawgeti(L, -2, 2);
    field.data = lua_tolstring(L, -2, &field.len);
    spec.data = lua_tolstring(L, -1, &spec.len);
    if (!field.data || !spec.data) return luaL_error(L, "a field is {name, type}");
    if (mb__schema_add(type->schema, field, spec, why, sizeof why)) return luaL_error(L, "%s", why);
    lua_pop(L, 3);
  }
  return 1;
}

/* type:set_make(function(value, ...) -> instance, function(names) -> call): the first is called
 * with the fields in the schema's order; the second makes a function(handler, context, value, ...)
 * that calls the handler with an instance of those fields. */
int mb__l_type_set_make(lua_State *L) {
  mbl_type *type = mb__lua_check_type(L, 1);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  luaL_checktype(L, 3, LUA_TFUNCTION);
  lua_settop(L, 3);
  luaL_unref(L, LUA_REGISTRYINDEX, type->call_ref);
  type->call_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  luaL_unref(L, LUA_REGISTRYINDEX, type->make_ref);
  type->make_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

/* type:fields() -> { {name, spec, base}, ... } */
int mb__l_type_fields(lua_State *L) {
  mbl_type *type = mb__lua_check_type(L, 1);
  char spec[32];
  lua_createtable(L, (int)type->schema->count, 0);
  for (size_t i = 0; i < type->schema->count; i++) {
    const mb_field *field = &type->schema->fields[i];
    lua_createtable(L, 3, 0);
    lua_pushlstring(L, field->name, field->name_len);
    lua_rawseti(L, -2, 1);
    lua_pushstring(L, mb__field_spec(field, spec, sizeof spec));
    lua_rawseti(L, -2, 2);
    lua_pushboolean(L, field->base);
    lua_rawseti(L, -2, 3);
    lua_rawseti(L, -2, (int)i + 1);
  }
  return 1;
}

int mb__l_type_gc(lua_State *L) {
  mbl_type *type = mb__lua_check_type(L, 1);
  mb__schema_free(type->schema);
  type->schema = NULL;
  luaL_unref(L, LUA_REGISTRYINDEX, type->make_ref);
  luaL_unref(L, LUA_REGISTRYINDEX, type->call_ref);
  luaL_unref(L, LUA_REGISTRYINDEX, type->lift_ref);
  type->make_ref = type->call_ref = type->lift_ref = LUA_NOREF;
  return 0;
}

/* ---- checking values ---- */

/* A field of an event itself: methods of the same name do not count. */
static void get_field(lua_State *L, int index, const mb_field *field) {
  lua_pushlstring(L, field->name, field->name_len);
  lua_rawget(L, index);
}

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

static bool absent(lua_State *L, int index) {
  return lua_isnil(L, index) ||
         (lua_type(L, index) == LUA_TLIGHTUSERDATA && !lua_touserdata(L, index));
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

/* Push "Type.field: expected ..., got ..." and return false. */
static bool refuse(lua_State *L, const mb_schema *schema, const mb_field *field, int index,
                   const char *hint) {
  char spec[32];
  push_got(L, index);
  lua_pushfstring(L, "%s.%s: expected %s, got %s%s", schema->name, field->name,
                  mb__field_spec(field, spec, sizeof spec), lua_tostring(L, -1), hint);
  lua_remove(L, -2);
  return false;
}

static bool push_timestamp(lua_State *L, int index) {
  char text[MB_TIME_MAX];
  mb_bytes given;
  int64_t us;
  if (lua_type(L, index) == LUA_TNUMBER) {
    double seconds = lua_tonumber(L, index);
    if (!(seconds >= -62135596800.0 && seconds < 253402300800.0)) return false;
    us = (int64_t)llround(seconds * 1e6);
  } else {
    given.data = lua_tolstring(L, index, &given.len);
    if (!given.data || !mb__time_parse(given, &us)) return false;
    if (given.data[given.len - 1] == 'Z' && (given.len == 20 || given.len == 27)) {
      lua_pushvalue(L, index);
      return true;
    }
  }
  lua_pushlstring(L, text, mb__time_format(text, us, "Z"));
  return true;
}

static const char *shape_hint(bool list) {
  return list ? " with keys or holes" : " that is an array";
}

/* Push the value in its normal form, or a reason and return false. */
static bool push_checked(lua_State *L, const mb_schema *schema, const mb_field *field, int index) {
  char uuid[MB_UUID_LEN];
  mb_bytes text = {NULL, 0};
  mb_value number;
  bool canonical;
  int kind = lua_type(L, index);
  if (kind == LUA_TSTRING) text.data = lua_tolstring(L, index, &text.len);
  switch (field->type) {
  case MB_T_STRING:
    if (!text.data) return refuse(L, schema, field, index, "");
    if (!mb__utf8_valid(text)) return refuse(L, schema, field, index, " (not valid UTF-8)");
    break;
  case MB_T_NUMBER:
    if (kind == LUA_TNUMBER && isfinite(lua_tonumber(L, index))) break;
    if (mb__lua_to_float(L, index)) return true;
    if (kind == LUA_TNUMBER || !mb__lua_to_integer(L, index, &number))
      return refuse(L, schema, field, index, "");
    lua_pushnumber(L, number.kind == MB_INT ? (double)number.as.i : (double)number.as.u);
    return true;
  case MB_T_INTEGER:
    if (!mb__lua_to_integer(L, index, &number)) return refuse(L, schema, field, index, "");
    break;
  case MB_T_BOOLEAN:
    if (kind != LUA_TBOOLEAN) return refuse(L, schema, field, index, "");
    break;
  case MB_T_UUID:
    if (!text.data || !mb__uuid_parse(text, uuid, &canonical))
      return refuse(L, schema, field, index, "");
    if (canonical) break;
    lua_pushlstring(L, uuid, MB_UUID_LEN);
    return true;
  case MB_T_TIMESTAMP: return push_timestamp(L, index) || refuse(L, schema, field, index, "");
  case MB_T_DECIMAL:
    if (!text.data || !mb__decimal_valid(text))
      return refuse(L, schema, field, index,
                    kind == LUA_TNUMBER ? " (decimals are strings: \"12.34\")" : "");
    break;
  case MB_T_OBJECT:
  case MB_T_ARRAY:
    if (kind != LUA_TTABLE) return refuse(L, schema, field, index, "");
    if (!fits_shape(L, field->type == MB_T_ARRAY, index))
      return refuse(L, schema, field, index, shape_hint(field->type == MB_T_ARRAY));
    break;
  case MB_T_ANY: break;
  }
  lua_pushvalue(L, index);
  return true;
}

static bool push_field(lua_State *L, const mb_schema *schema, const mb_field *field, int index) {
  luaL_checkstack(L, 8, "event");
  if (!field->array_of) return push_checked(L, schema, field, index);
  if (lua_type(L, index) != LUA_TTABLE) return refuse(L, schema, field, index, "");
  if (!fits_shape(L, true, index)) return refuse(L, schema, field, index, shape_hint(true));
  int length = (int)lua_objlen(L, index);
  lua_createtable(L, length, 0);
  int copy = lua_gettop(L);
  mb__lua_push_array_mark(L);
  lua_setmetatable(L, copy);
  for (int i = 1; i <= length; i++) {
    lua_rawgeti(L, index, i);
    bool missing = field->type != MB_T_ANY && absent(L, -1);
    if (missing || !push_checked(L, schema, field, lua_gettop(L))) {
      if (missing) refuse(L, schema, field, lua_gettop(L), "");
      lua_pushfstring(L, "%s (element %d)", lua_tostring(L, -1), i);
      lua_replace(L, copy);
      lua_settop(L, copy);
      return false;
    }
    lua_rawseti(L, copy, i);
    lua_settop(L, copy);
  }
  return true;
}

/* The value on the top is none: nil, or null where null is no value of its own. */
static bool lacks(lua_State *L, const mb_field *field) {
  bool null_counts = field->type == MB_T_ANY && !field->array_of && !field->optional;
  return lua_isnil(L, -1) || (!null_counts && absent(L, -1));
}

/* ---- construction ---- */

/* type:check(field, value): raises when it does not fit */
int mb__l_type_check(lua_State *L) {
  const mb_schema *schema = mb__lua_check_type(L, 1)->schema;
  const char *name = luaL_checkstring(L, 2);
  luaL_checkany(L, 3);
  lua_settop(L, 3);
  for (size_t i = 0; i < schema->count; i++)
    if (strcmp(schema->fields[i].name, name) == 0 && !push_field(L, schema, &schema->fields[i], 3))
      return lua_error(L);
  return 0;
}

static bool push_default(lua_State *L, const mb_field *field, size_t i, int defaults) {
  char text[MB_TIME_MAX];
  lua_getfield(L, defaults, field->name);
  if (!lua_isnil(L, -1)) return true;
  lua_pop(L, 1);
  switch (i) {
  case MB_F_EVENT_ID:
  case MB_F_CORRELATION_ID:
    mb__uuid_random(text);
    lua_pushlstring(L, text, MB_UUID_LEN);
    return true;
  case MB_F_OCCURRED_AT:
    lua_pushlstring(L, text, mb__time_format(text, mb__now_us(), "Z"));
    return true;
  case MB_F_EVENT_VERSION:
  case MB_F_AGGREGATE_VERSION: lua_pushinteger(L, 1); return true;
  case MB_F_METADATA: lua_createtable(L, 0, 0); return true;
  default:
    if (!field->optional) return false;
    lua_pushnil(L);
    return true;
  }
}

/* Push a sentence on the first key that is no field of the type; false if there is none. */
static bool push_unknown(lua_State *L, const mb_schema *schema, int given) {
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
      lua_pushfstring(L, "%s has no field \"%s\"", schema->name, key);
    else
      lua_pushfstring(L, "%s has no field without a name", schema->name);
    return true;
  }
  return false;
}

/* What is made now has today's fields: called older, it would be lifted once more when it is read.
 */
static int64_t lowest_version(const mb_schema *schema) {
  return schema->lifts ? schema->version : 1;
}

/* The version on the top, an integer that may be beyond a double's. RAISES */
static void check_version(lua_State *L, const mb_schema *schema, size_t i) {
  const char *name = schema->fields[i].name;
  mb_value number;
  mb__lua_to_integer(L, lua_gettop(L), &number);
  if (number.kind != MB_INT) luaL_error(L, "%s.%s: expected less than 2^63", schema->name, name);
  if (number.as.i < 1)
    luaL_error(L, "%s.%s: expected 1 or more, got %f", schema->name, name, (lua_Number)number.as.i);
  if (i == MB_F_EVENT_VERSION && number.as.i < lowest_version(schema))
    luaL_error(L, "%s.event_version: expected %f or more (its upcast lifts what is older), got %f",
               schema->name, (lua_Number)lowest_version(schema), (lua_Number)number.as.i);
}

/* type:build(given, defaults) -> instance; raises a sentence that names type and field */
int mb__l_type_build(lua_State *L) {
  mbl_type *type = mb__lua_check_type(L, 1);
  const mb_schema *schema = type->schema;
  int found = 0, keys = 0;
  luaL_checktype(L, 2, LUA_TTABLE);
  luaL_checktype(L, 3, LUA_TTABLE);
  lua_settop(L, 3);
  luaL_checkstack(L, (int)schema->count + 16, "event");
  lua_rawgeti(L, LUA_REGISTRYINDEX, type->make_ref);
  for (size_t i = 0; i < schema->count; i++) {
    const mb_field *field = &schema->fields[i];
    get_field(L, 2, field);
    if (!lua_isnil(L, -1)) found++;
    if (lacks(L, field)) {
      lua_pop(L, 1);
      if (!push_default(L, field, i, 3))
        return luaL_error(L, "%s.%s is missing", schema->name, field->name);
      continue;
    }
    if (!push_field(L, schema, field, lua_gettop(L))) return lua_error(L);
    lua_remove(L, -2);
    if (i == MB_F_EVENT_TYPE && strcmp(lua_tostring(L, -1), schema->name) != 0)
      return luaL_error(L, "%s.event_type: expected \"%s\", got \"%s\"", schema->name, schema->name,
                        lua_tostring(L, -1));
    if (i == MB_F_EVENT_VERSION || i == MB_F_AGGREGATE_VERSION) check_version(L, schema, i);
  }
  lua_pushnil(L);
  while (lua_next(L, 2)) {
    lua_pop(L, 1);
    keys++;
  }
  if (keys != found && push_unknown(L, schema, 2)) return lua_error(L);
  lua_call(L, (int)schema->count, 1);
  return 1;
}

/* ---- decoded -> instance ---- */

void mb__lua_push_field(lua_State *L, const mb_schema *schema, const mb_decoder *decoder,
                        size_t i) {
  const mb_value *value = &decoder->values[i];
  const mb_field *field = &schema->fields[i];
  if (!decoder->present[i] || (value->kind == MB_NULL && field->optional && !field->raw))
    lua_pushnil(L);
  else if (value->kind == MB_JSON && value->as.s.len == 2 && value->as.s.data[0] == '{')
    lua_createtable(L, 0, 0);
  else
    mb__lua_push_value(L, value);
}

/* core.set_untyped(metatable, function(names) -> call) */
int mb__l_set_untyped(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_pushlightuserdata(L, &untyped_call_key);
  lua_pushvalue(L, 2);
  lua_rawset(L, LUA_REGISTRYINDEX);
  lua_pushlightuserdata(L, &untyped_key);
  lua_pushvalue(L, 1);
  lua_rawset(L, LUA_REGISTRYINDEX);
  return 0;
}

void mb__lua_push_untyped_call(lua_State *L) {
  lua_pushlightuserdata(L, &untyped_call_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
}

void mb__lua_push_event(lua_State *L, const mbl_type *type, const mb_decoder *decoder) {
  int count = (int)type->schema->count;
  luaL_checkstack(L, count + 8, "event");
  lua_rawgeti(L, LUA_REGISTRYINDEX, type->make_ref);
  for (int i = 0; i < count; i++) mb__lua_push_field(L, type->schema, decoder, (size_t)i);
  lua_call(L, count, 1);
}

void mb__lua_push_untyped(lua_State *L, mb_bytes value, const mb_decoder *decoder) {
  const mb_schema *base = mb__schema_base();
  luaL_checkstack(L, 8, "event");
  if (!mb__lua_push_json(L, value)) lua_error(L);
  for (size_t i = 0; i < base->count; i++) {
    mb__lua_push_field(L, base, decoder, i);
    lua_setfield(L, -2, base->fields[i].name);
  }
  lua_pushlightuserdata(L, &untyped_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
  lua_setmetatable(L, -2);
}

/* ---- instance -> wire ---- */

/* The checked value on the top, as JSON; popped. */
static bool write_value(lua_State *L, const mb_field *field, mb_buf *buf) {
  mb_value number;
  mb_bytes text;
  int top = lua_gettop(L);
  bool empty_array = (field->array_of || field->type == MB_T_ARRAY) && lua_objlen(L, top) == 0;
  if (empty_array) {
    mb__buf_lit(buf, "[]");
  } else if (field->array_of && field->type == MB_T_NUMBER) {
    for (int i = 1, n = (int)lua_objlen(L, top); i <= n; i++) {
      mb__buf_char(buf, i == 1 ? '[' : ',');
      lua_rawgeti(L, top, i);
      mb__json_write_double(buf, lua_tonumber(L, -1));
      lua_pop(L, 1);
    }
    mb__buf_char(buf, ']');
  } else if (field->array_of || field->type >= MB_T_OBJECT || field->type == MB_T_BOOLEAN) {
    if (!mb__lua_write_json(L, top, buf)) {
      lua_replace(L, top);
      return false;
    }
  } else if (field->type == MB_T_NUMBER) {
    mb__json_write_double(buf, lua_tonumber(L, top));
  } else if (field->type == MB_T_INTEGER) {
    mb__lua_to_integer(L, top, &number);
    if (number.kind == MB_INT)
      mb__json_write_int(buf, number.as.i);
    else
      mb__json_write_uint(buf, number.as.u);
  } else {
    text.data = lua_tolstring(L, top, &text.len);
    mb__json_write_string(buf, text);
  }
  lua_pop(L, 1);
  return true;
}

static bool is_json_shape(mb_buf *buf, size_t from, mb_type type) {
  char open = buf->len > from ? buf->data[from] : 0;
  return type == MB_T_OBJECT ? open == '{' : type == MB_T_ARRAY ? open == '[' : true;
}

/* Declared fields as a JSON object. */
static bool write_declared(lua_State *L, const mb_schema *schema, int index, mb_buf *buf,
                           int *found) {
  mb__buf_char(buf, '{');
  for (size_t i = MB_F_BASE_COUNT; i < schema->count; i++) {
    const mb_field *field = &schema->fields[i];
    if (i > MB_F_BASE_COUNT) mb__buf_char(buf, ',');
    mb__json_write_string(buf, (mb_bytes){field->name, field->name_len});
    mb__buf_char(buf, ':');
    get_field(L, index, field);
    if (!lua_isnil(L, -1)) ++*found;
    if (lacks(L, field)) {
      if (!field->optional) {
        lua_pushfstring(L, "%s.%s is missing", schema->name, field->name);
        return false;
      }
      mb__buf_lit(buf, "null");
      lua_pop(L, 1);
      continue;
    }
    size_t from = buf->len;
    if (!push_field(L, schema, field, lua_gettop(L))) return false;
    if (!write_value(L, field, buf)) {
      lua_pushfstring(L, "%s.%s: %s", schema->name, field->name, lua_tostring(L, -1));
      return false;
    }
    if (!field->array_of && !is_json_shape(buf, from, field->type))
      return refuse(L, schema, field, lua_gettop(L), " of the other kind");
    lua_pop(L, 1);
  }
  mb__buf_char(buf, '}');
  return true;
}

static bool is_base(const char *name) {
  const mb_schema *base = mb__schema_base();
  for (size_t i = 0; i < base->count; i++)
    if (strcmp(base->fields[i].name, name) == 0) return true;
  return false;
}

/* An event of an undeclared type: its own fields are what is not a base field, by name. */
static bool write_undeclared(lua_State *L, int index, mb_buf *buf) {
  lua_createtable(L, 0, 8);
  int own = lua_gettop(L);
  lua_pushnil(L);
  while (lua_next(L, index)) {
    if (lua_type(L, -2) != LUA_TSTRING) {
      lua_pushliteral(L, "an event's fields have names");
      return false;
    }
    if (is_base(lua_tostring(L, -2))) {
      lua_pop(L, 1);
      continue;
    }
    lua_pushvalue(L, -2);
    lua_insert(L, -2);
    lua_rawset(L, own);
  }
  if (mb__lua_write_json(L, own, buf)) return true;
  return false;
}

/* A base field as text: borrowed from the table. false: a reason is pushed. */
static bool get_text(lua_State *L, int index, const mb_schema *schema, size_t i, mb_bytes *text) {
  const mb_field *field = &mb__schema_base()->fields[i];
  get_field(L, index, field);
  *text = (mb_bytes){NULL, 0};
  if (!absent(L, -1)) {
    if (lua_type(L, -1) != LUA_TSTRING) return refuse(L, schema, field, lua_gettop(L), "");
    text->data = lua_tolstring(L, -1, &text->len);
  }
  lua_pop(L, 1);
  return true;
}

static bool get_version(lua_State *L, int index, const mb_schema *schema, size_t i,
                        int64_t *version) {
  const mb_field *field = &mb__schema_base()->fields[i];
  mb_value number;
  get_field(L, index, field);
  *version = 0;
  if (!absent(L, -1)) {
    if (!mb__lua_to_integer(L, lua_gettop(L), &number) || number.kind != MB_INT || number.as.i < 1)
      return refuse(L, schema, field, lua_gettop(L), " (1 or more)");
    *version = number.as.i;
    if (i == MB_F_EVENT_VERSION && *version < lowest_version(schema))
      return refuse(L, schema, field, lua_gettop(L), " (older than what its upcast lifts to)");
  }
  lua_pop(L, 1);
  return true;
}

static bool get_metadata(lua_State *L, int index, const mb_schema *schema, mb_buf *buf) {
  mb__buf_clear(buf);
  get_field(L, index, &mb__schema_base()->fields[MB_F_METADATA]);
  if (!absent(L, -1)) {
    if (lua_type(L, -1) != LUA_TTABLE || !mb__lua_write_json(L, lua_gettop(L), buf)) {
      if (lua_type(L, -1) == LUA_TTABLE) lua_pushliteral(L, "not an object");
      lua_pushfstring(L, "%s.metadata: %s", schema->name,
                      lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "expected a table");
      return false;
    }
  }
  lua_pop(L, 1);
  return true;
}

/* The event's type: NULL for a plain table. */
static const mb_schema *schema_of(lua_State *L, int index) {
  const mb_schema *schema = NULL;
  if (!lua_getmetatable(L, index)) return NULL;
  lua_pushliteral(L, "__moonbus");
  lua_rawget(L, -2);
  if (lua_type(L, -1) == LUA_TUSERDATA) schema = ((mbl_type *)lua_touserdata(L, -1))->schema;
  lua_pop(L, 2);
  return schema;
}

/* A field that the type does not declare would be lost silently: a slip of the pen, most likely. */
static bool knows_all(lua_State *L, const mb_schema *schema, int index, int found) {
  int keys = 0;
  for (size_t i = 0; i < MB_F_BASE_COUNT; i++) {
    get_field(L, index, &schema->fields[i]);
    found += !lua_isnil(L, -1);
    lua_pop(L, 1);
  }
  lua_pushnil(L);
  while (lua_next(L, index)) {
    lua_pop(L, 1);
    keys++;
  }
  return keys == found || !push_unknown(L, schema, index);
}

bool mb__lua_encode(lua_State *L, mbl_bus *lb, int index) {
  mb_event event = {0};
  char why[512];
  const mb_schema *declared = schema_of(L, index);
  const mb_schema *schema = declared ? declared : mb__schema_base();
  int found = 0; /* declared fields that are there */
  luaL_checkstack(L, 16, "event");
  mb__buf_clear(&lb->scratch);
  bool ok = get_text(L, index, schema, MB_F_EVENT_ID, &event.event_id) &&
            get_text(L, index, schema, MB_F_EVENT_TYPE, &event.event_type) &&
            get_text(L, index, schema, MB_F_OCCURRED_AT, &event.occurred_at) &&
            get_text(L, index, schema, MB_F_AGGREGATE_ID, &event.aggregate_id) &&
            get_text(L, index, schema, MB_F_AGGREGATE_TYPE, &event.aggregate_type) &&
            get_text(L, index, schema, MB_F_TENANT_ID, &event.tenant_id) &&
            get_text(L, index, schema, MB_F_ACTOR_ID, &event.actor_id) &&
            get_text(L, index, schema, MB_F_CORRELATION_ID, &event.correlation_id) &&
            get_text(L, index, schema, MB_F_CAUSATION_ID, &event.causation_id) &&
            get_version(L, index, schema, MB_F_EVENT_VERSION, &event.event_version) &&
            get_version(L, index, schema, MB_F_AGGREGATE_VERSION, &event.aggregate_version) &&
            get_metadata(L, index, schema, &lb->metadata) &&
            (declared ? write_declared(L, schema, index, &lb->scratch, &found) &&
                            knows_all(L, schema, index, found)
                      : write_undeclared(L, index, &lb->scratch));
  if (!ok) return false;
  if (declared && !event.event_type.data) event.event_type = mb_str(schema->name);
  if (!event.event_version) event.event_version = schema->version;
  event.data = mb__buf_bytes(&lb->scratch);
  if (lb->metadata.len) event.metadata = mb__buf_bytes(&lb->metadata);
  if (lb->scratch.failed || lb->metadata.failed) {
    lua_pushfstring(L, "%s: too large", schema->name);
    return false;
  }
  if (!mb__encode(&event, &lb->bus->encoder, why, sizeof why)) return true;
  lua_pushstring(L, why);
  return false;
}
