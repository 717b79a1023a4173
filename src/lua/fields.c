/* lua/fields.c: what of an event a handler is given: every field, or those that its code reads.
 * Must not know Kafka; reads.lua says what a handler reads.
 * Called by lua/handler.c for every event. */
#include <stdlib.h>

#include "lua/internal.h"

/* The names of a handler's fields, in the order of the schema, for type's or the untyped events'
 * call maker; the fields' numbers. false: a name that the schema lacks, nothing pushed. */
static bool push_names(lua_State *L, const mb_schema *schema, int reads, unsigned char *fields,
                       size_t *count) {
  size_t asked = reads ? lua_objlen(L, reads) : schema->count;
  *count = 0;
  lua_createtable(L, (int)asked, 0);
  for (size_t i = 0; i < schema->count && *count < asked; i++) {
    bool read = !reads;
    for (size_t n = 1; n <= asked && !read; n++) {
      mb_bytes name;
      lua_rawgeti(L, reads, (int)n);
      name.data = lua_tolstring(L, -1, &name.len);
      read = name.len == schema->fields[i].name_len &&
             memcmp(name.data, schema->fields[i].name, name.len) == 0;
      lua_pop(L, 1);
    }
    if (!read) continue;
    fields[*count] = (unsigned char)i;
    lua_pushlstring(L, schema->fields[i].name, schema->fields[i].name_len);
    lua_rawseti(L, -2, (int)++*count);
  }
  if (*count == asked) return true;
  lua_pop(L, 1);
  return false;
}

/* For events of undeclared types: the base fields and what the handler reads besides. Owned; NULL:
 * some name is no field's. */
static mb_schema *undeclared(lua_State *L, int reads) {
  mb_schema *schema = mb__schema_undeclared();
  if (!schema) luaL_error(L, "out of memory");
  for (int n = 1; n <= (int)lua_objlen(L, reads); n++) {
    mb_bytes name;
    lua_rawgeti(L, reads, n);
    name.data = lua_tolstring(L, -1, &name.len);
    mb_err err = mb__schema_take(schema, name);
    lua_pop(L, 1);
    if (!err) continue;
    mb__schema_free(schema);
    return NULL;
  }
  return schema;
}

static mbl_pick *add(lua_State *L, mbl_picks *picks) {
  mbl_pick **list = realloc(picks->list, (picks->count + 1) * sizeof *list);
  if (list) picks->list = list;
  mbl_pick *pick = list ? calloc(1, sizeof *pick) : NULL;
  if (!pick) luaL_error(L, "out of memory");
  pick->call_ref = LUA_NOREF;
  list[picks->count++] = pick;
  return pick;
}

/* The call of pick's fields, made of their names on the top. false: it wants all of them. RAISES */
static bool take_call(lua_State *L, const mbl_type *type, mbl_pick *pick) {
  if (type)
    lua_rawgeti(L, LUA_REGISTRYINDEX, type->call_ref);
  else
    mb__lua_push_untyped_call(L);
  lua_insert(L, -2);
  lua_call(L, 1, 1);
  if (lua_isnil(L, -1)) return false;
  pick->call_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  return true;
}

/* Fill in what a handler is given of a type's events. Without a call_ref it is a plain table of
 * all there is. RAISES */
static void make(lua_State *L, const mbl_picks *picks, const mbl_type *type, mbl_pick *pick) {
  int reads = 0, top = lua_gettop(L);
  luaL_checkstack(L, 8, "event");
  if (!pick->all) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, picks->reads_ref);
    reads = lua_gettop(L);
  }
  if (type)
    pick->schema = type->schema;
  else if (reads)
    pick->schema = pick->own = undeclared(L, reads);
  bool taken = pick->schema && push_names(L, pick->schema, reads, pick->fields, &pick->count) &&
               take_call(L, type, pick);
  if (!taken && type && push_names(L, type->schema, 0, pick->fields, &pick->count))
    (void)take_call(L, type, pick);
  if (pick->call_ref == LUA_NOREF) pick->schema = mb__schema_base();
  lua_settop(L, top);
}

/* A debugger may look at anything. */
static bool watched(lua_State *L) {
  return lua_gethookmask(L) != 0;
}

const mbl_pick *mb__lua_pick(lua_State *L, mbl_picks *picks, const mbl_type *type) {
  unsigned id = type ? type->id : 0;
  bool all = picks->reads_ref == LUA_NOREF || watched(L);
  for (size_t i = 0; i < picks->count; i++) {
    mbl_pick *pick = picks->list[i];
    if (pick->type_id == id && pick->all == all && pick->made) return pick;
  }
  mbl_pick *pick = add(L, picks);
  pick->type_id = id;
  pick->all = all;
  make(L, picks, type, pick);
  pick->made = true;
  return pick;
}

void mb__lua_picks_free(lua_State *L, mbl_picks *picks) {
  for (size_t i = 0; i < picks->count; i++) {
    luaL_unref(L, LUA_REGISTRYINDEX, picks->list[i]->call_ref);
    mb__schema_free(picks->list[i]->own);
    free(picks->list[i]);
  }
  free(picks->list);
  luaL_unref(L, LUA_REGISTRYINDEX, picks->reads_ref);
  *picks = (mbl_picks){.reads_ref = LUA_NOREF};
}
