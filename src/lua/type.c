/* lua/type.c: event types, and instances: made of a table's fields, or of a decoded event.
 * Must not know Kafka or the wire; JSON values are lua/convert.c's.
 * Called by event.lua, and by lua/handler.c for handlers' events. */
#include <stdatomic.h>
#include <string.h>

#include "lua/internal.h"

/* Registry keys, for events of undeclared types: their metatable, and as of a type: call. */
static char untyped_key, untyped_call_key;

mbl_type *mb__lua_check_type(lua_State *L, int index) {
  return luaL_checkudata(L, index, TYPE_META);
}

mbl_type *mb__lua_type_in(lua_State *L, int index) {
  lua_pushliteral(L, "__moonbus");
  lua_rawget(L, index);
  mbl_type *type = lua_type(L, -1) == LUA_TUSERDATA ? lua_touserdata(L, -1) : NULL;
  lua_pop(L, 1);
  return type;
}

/* core.type(name, { {field, spec}, ... }) -> type */
int mb__l_type_new(lua_State *L) {
  mb_bytes name;
  char why[MB_ERRSTR_MAX];
  name.data = luaL_checklstring(L, 1, &name.len);
  luaL_checktype(L, 2, LUA_TTABLE);
  mbl_type *type = lua_newuserdata(L, sizeof *type);
  static atomic_uint last_id; /* states in several threads may make types */
  *type = (mbl_type){.id = atomic_fetch_add(&last_id, 1) + 1,
                     .make_ref = LUA_NOREF,
                     .call_ref = LUA_NOREF,
                     .defaults_ref = LUA_NOREF,
                     .fill_ref = LUA_NOREF,
                     .lift_ref = LUA_NOREF,
                     .names_ref = LUA_NOREF,
                     .spread_ref = LUA_NOREF};
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

static int make_instance(lua_State *L);

/* type:finish(make, call, defaults, fill | nil, spread) -> function(anything, given): an
 * instance; it raises a sentence that names type and field.
 * make(value, ...) -> instance, of all fields in the schema's order.
 * call(names) -> function(handler, context, value, ...) that calls the handler with an instance of
 * those fields alone; nil: instances of this type need all of them.
 * defaults: by the number of the field, from 1 on.
 * fill(table) -> the same with defaults that are tables, a copy of each.
 * spread(instance) -> its fields in the schema's order. */
int mb__l_type_finish(lua_State *L) {
  mbl_type *type = mb__lua_check_type(L, 1);
  const mb_schema *schema = type->schema;
  int *const refs[] = {&type->make_ref, &type->call_ref,   &type->defaults_ref,
                       &type->fill_ref, &type->spread_ref, &type->names_ref};
  lua_settop(L, 6);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  luaL_checktype(L, 3, LUA_TFUNCTION);
  luaL_checktype(L, 4, LUA_TTABLE);
  lua_createtable(L, (int)schema->count, 0);
  for (size_t i = 0; i < schema->count; i++) {
    lua_pushlstring(L, schema->fields[i].name, schema->fields[i].name_len);
    type->names[i] = lua_topointer(L, -1);
    lua_rawseti(L, 7, (int)i + 1);
    lua_rawgeti(L, 4, (int)i + 1);
    type->has_default[i] = !lua_isnil(L, -1);
    lua_pop(L, 1);
  }
  for (int i = 0; i < 6; i++) {
    luaL_unref(L, LUA_REGISTRYINDEX, *refs[i]);
    lua_pushvalue(L, i + 2);
    *refs[i] = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  lua_pushvalue(L, 1);
  lua_pushcclosure(L, make_instance, 1);
  return 1;
}

/* type:loosen(): an instance was given a field that the type does not declare, so that from now on
 * each that is sent is searched for such. */
int mb__l_type_loosen(lua_State *L) {
  mbl_type *type = mb__lua_check_type(L, 1);
  luaL_unref(L, LUA_REGISTRYINDEX, type->spread_ref);
  type->spread_ref = LUA_NOREF;
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
  int *const refs[] = {&type->make_ref, &type->call_ref,  &type->defaults_ref, &type->fill_ref,
                       &type->lift_ref, &type->names_ref, &type->spread_ref};
  for (size_t i = 0; i < sizeof refs / sizeof *refs; i++) {
    luaL_unref(L, LUA_REGISTRYINDEX, *refs[i]);
    *refs[i] = LUA_NOREF;
  }
  return 0;
}

/* The field whose name is the key, or schema->count. Tables of a type come with their keys in the
 * same order, mostly: nth is how many came before. */
static size_t field_of(mbl_type *type, size_t nth, const void *key) {
  size_t count = type->schema->count, i = nth < count ? type->order[nth] : count;
  if (i < count && type->names[i] == key) return i;
  for (i = 0; i < count && type->names[i] != key; i++) continue;
  if (i < count && nth < count) type->order[nth] = (unsigned char)i;
  return i;
}

bool mb__lua_pull(lua_State *L, mbl_type *type, int index, bool *present) {
  size_t count = type->schema->count, nth = 0;
  bool known = true;
  luaL_checkstack(L, (int)count + 16, "event");
  int first = lua_gettop(L) + 1;
  lua_settop(L, first - 1 + (int)count);
  memset(present, 0, count * sizeof *present);
  lua_pushnil(L);
  while (lua_next(L, index)) {
    size_t i = field_of(type, nth++, lua_topointer(L, -2));
    if (i < count) {
      present[i] = true;
      lua_replace(L, first + (int)i);
    } else {
      known = false;
      lua_pop(L, 1);
    }
  }
  return known;
}

bool mb__lua_spread(lua_State *L, mbl_type *type, int index) {
  const mb_schema *schema = type ? type->schema : mb__schema_base();
  bool present[MB_FIELDS_MAX];
  if (type && type->spread_ref < 0) return mb__lua_pull(L, type, index, present);
  luaL_checkstack(L, (int)schema->count + 16, "event");
  if (type) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, type->spread_ref);
    lua_pushvalue(L, index);
    lua_call(L, 1, (int)schema->count);
    return true;
  }
  for (size_t i = 0; i < schema->count; i++) {
    lua_pushlstring(L, schema->fields[i].name, schema->fields[i].name_len);
    lua_rawget(L, index);
  }
  return true;
}

/* ---- construction ---- */

/* type:check(field, value) -> its normal form; raises when it does not fit */
int mb__l_type_check(lua_State *L) {
  const mb_schema *schema = mb__lua_check_type(L, 1)->schema;
  const char *name = luaL_checkstring(L, 2);
  luaL_checkany(L, 3);
  lua_settop(L, 3);
  for (size_t i = 0; i < schema->count; i++)
    if (strcmp(schema->fields[i].name, name) == 0 &&
        !mb__lua_normalise(L, schema, &schema->fields[i], 3))
      return lua_error(L);
  lua_settop(L, 3);
  return 1;
}

/* defaults: where the type's lie. false: it has none. */
static bool push_default(lua_State *L, const mbl_type *type, size_t i, int defaults) {
  char text[MB_TIME_MAX];
  if (type->has_default[i]) {
    lua_rawgeti(L, defaults, (int)i + 1);
    return true;
  }
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
  default: return false;
  }
}

/* The version at index, an integer that may be beyond a double's. RAISES */
static void check_version(lua_State *L, const mb_schema *schema, size_t i, int index) {
  const char *name = schema->fields[i].name;
  int64_t lowest = mb__lua_lowest_version(schema);
  mb_value number;
  mb__lua_to_integer(L, index, &number);
  if (number.kind != MB_INT) luaL_error(L, "%s.%s: expected less than 2^63", schema->name, name);
  if (number.as.i < 1)
    luaL_error(L, "%s.%s: expected 1 or more, got %f", schema->name, name, (lua_Number)number.as.i);
  if (i == MB_F_EVENT_VERSION && number.as.i < lowest)
    luaL_error(L, "%s.event_version: expected %f or more (its upcast lifts what is older), got %f",
               schema->name, (lua_Number)lowest, (lua_Number)number.as.i);
}

/* The sentence on the top, behind the place in the script where the event was to be made. */
static int refuse(lua_State *L) {
  luaL_where(L, 1);
  lua_insert(L, -2);
  lua_concat(L, 2);
  return lua_error(L);
}

/* A field that was misspelt is most likely what is missing. given: the table, if it has unknown
 * keys; else 0. */
static int refuse_missing(lua_State *L, const mb_schema *schema, const mb_field *field, int given) {
  const char *missing = lua_pushfstring(L, "%s.%s is missing", schema->name, field->name);
  if (given && mb__lua_push_unknown(L, schema, given))
    lua_pushfstring(L, "%s; %s", missing, lua_tostring(L, -1));
  return refuse(L);
}

static int make_instance(lua_State *L) {
  enum { GIVEN = 2, DEFAULTS, FIRST };
  bool present[MB_FIELDS_MAX];
  mbl_type *type = lua_touserdata(L, lua_upvalueindex(1));
  const mb_schema *schema = type->schema;
  lua_settop(L, 2);
  if (!lua_istable(L, GIVEN)) return luaL_error(L, "%s: expected a table of fields", schema->name);
  if (type->fill_ref >= 0) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, type->fill_ref);
    lua_insert(L, GIVEN);
    lua_call(L, 1, 1);
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, type->defaults_ref);
  bool known = mb__lua_pull(L, type, GIVEN, present);
  luaL_checkstack(L, (int)schema->count + 16, "event");
  lua_rawgeti(L, LUA_REGISTRYINDEX, type->make_ref);
  for (size_t i = 0; i < schema->count; i++) {
    const mb_field *field = &schema->fields[i];
    int index = FIRST + (int)i;
    if (!present[i] || mb__lua_lacks(L, field, index)) {
      if (push_default(L, type, i, DEFAULTS)) continue;
      if (!field->optional) return refuse_missing(L, schema, field, known ? 0 : GIVEN);
      lua_pushnil(L);
      continue;
    }
    if (!mb__lua_normalise(L, schema, field, index)) return refuse(L);
    if (i == MB_F_EVENT_TYPE && strcmp(lua_tostring(L, index), schema->name) != 0)
      return luaL_error(L, "%s.event_type: expected \"%s\", got \"%s\"", schema->name, schema->name,
                        lua_tostring(L, index));
    if (i == MB_F_EVENT_VERSION || i == MB_F_AGGREGATE_VERSION) check_version(L, schema, i, index);
    lua_pushvalue(L, index);
  }
  if (!known && mb__lua_push_unknown(L, schema, GIVEN)) return refuse(L);
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
  else if (field->array_of)
    mb__lua_push_list(L, value->as.s, field->type);
  else
    mb__lua_push_value(L, value);
}

/* core.set_untyped(metatable, call): for events of undeclared types; as of a type. */
int mb__l_set_untyped(lua_State *L) {
  char *const keys[] = {&untyped_key, &untyped_call_key};
  luaL_checktype(L, 1, LUA_TTABLE);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  for (int i = 0; i < 2; i++) {
    lua_pushlightuserdata(L, keys[i]);
    lua_pushvalue(L, i + 1);
    lua_rawset(L, LUA_REGISTRYINDEX);
  }
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
