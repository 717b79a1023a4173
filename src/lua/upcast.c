/* lua/upcast.c: a record's value -> an event of its type's declared version, older ones lifted.
 * Must not know Kafka; what a version needs is said by the function that upcast.lua gives a type.
 * Called by lua/handler.c for every event, by lua/publish.c for bus:decode. */
#include <string.h>

#include "lua/internal.h"

/* type:set_version(version, function(data, version) -> data | nil) */
int mb__l_type_set_version(lua_State *L) {
  mbl_type *type = mb__lua_check_type(L, 1);
  mb_value version;
  if (!mb__lua_to_integer(L, 2, &version) || version.kind != MB_INT || version.as.i < 1)
    return luaL_argerror(L, 2, "an integer of at least 1");
  lua_settop(L, 3);
  type->schema->version = version.as.i;
  type->schema->lifts = !lua_isnil(L, 3);
  luaL_unref(L, LUA_REGISTRYINDEX, type->lift_ref);
  type->lift_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

/* Say what went wrong with an event that is lifted; what borrows from the stack or from why. */
static mb_err cannot_lift(const mbl_type *type, int64_t version, const char *what, char *why,
                          size_t why_size) {
  return mb__error(MB_EDECODE, why, why_size, "%s version %lld, upcast to %lld: %s",
                   type->schema->name, (long long)version, (long long)type->schema->version, what);
}

/* What chose the handlers is what they see, whatever else the value or its duplicates may say. */
static void show_chosen(mb_decoder *decoder, const mb_msg *msg) {
  if (!msg) return;
  decoder->values[MB_F_EVENT_TYPE] = (mb_value){.kind = MB_STRING, .as.s = mb_msg_event_type(msg)};
  const mb_tenant *tenant = msg->tenant;
  if (!tenant || (tenant->kind != MB_TENANT_ID && tenant->kind != MB_TENANT_NONE)) return;
  decoder->present[MB_F_TENANT_ID] = tenant->kind == MB_TENANT_ID;
  decoder->values[MB_F_TENANT_ID] =
      (mb_value){.kind = MB_STRING, .as.s = {tenant->id, MB_UUID_LEN}};
}

/* Push the event as a plain table, with its base fields as they are read in any version. */
static mb_err push_data(lua_State *L, mbl_bus *lb, mb_bytes value, const mb_origin *origin,
                        const mb_msg *msg, char *why, size_t why_size) {
  mb_err err = mb__decode(mb__schema_base(), value, origin, &lb->decoder, why, why_size);
  if (err) return err;
  show_chosen(&lb->decoder, msg);
  mb__lua_push_untyped(L, value, &lb->decoder);
  lua_pushnil(L);
  lua_setmetatable(L, -2);
  return MB_OK;
}

/* An empty table is what its field says it is. */
static bool is_empty_list(lua_State *L, const mb_field *field) {
  if (!field->array_of && field->type != MB_T_ARRAY) return false;
  if (!lua_istable(L, -1)) return false;
  lua_pushnil(L);
  if (!lua_next(L, -2)) return true;
  lua_pop(L, 2);
  return false;
}

/* The declared members of the table on the top, as an event's value. false: a reason is pushed. */
static bool write_value(lua_State *L, const mb_schema *schema, mb_buf *buf) {
  int data = lua_gettop(L);
  bool first = true;
  mb__buf_clear(buf);
  mb__buf_char(buf, '{');
  for (size_t i = 0; i < schema->count; i++) {
    const mb_field *field = &schema->fields[i];
    lua_pushlstring(L, field->name, field->name_len);
    lua_rawget(L, data);
    if (!lua_isnil(L, -1)) {
      if (!first) mb__buf_char(buf, ',');
      first = false;
      mb__json_write_string(buf, (mb_bytes){field->name, field->name_len});
      mb__buf_char(buf, ':');
      if (is_empty_list(L, field)) {
        mb__buf_lit(buf, "[]");
      } else if (!mb__lua_write_json(L, -1, buf)) {
        lua_pushfstring(L, "%s.%s: %s", schema->name, field->name, lua_tostring(L, -1));
        return false;
      }
    }
    lua_settop(L, data);
  }
  mb__buf_char(buf, '}');
  if (!buf->failed) return true;
  lua_pushliteral(L, "too large");
  return false;
}

/* The offset in the value means nothing to a reader who has the original only. */
static void cut_offset(char *why) {
  char *last = NULL;
  for (char *at = why; (at = strstr(at, " (byte ")); at++) last = at;
  if (last) *last = 0;
}

/* What the error value on the top says; borrowed from the stack. */
static const char *text_of_error(lua_State *L) {
  if (lua_isstring(L, -1)) return lua_tostring(L, -1);
  lua_pushcfunction(L, mb__lua_describe);
  lua_insert(L, -2);
  const char *text = lua_pcall(L, 1, 4, 0) ? "it raised what cannot be read" : lua_tostring(L, -3);
  return text ? text : "it raised no text";
}

/* RAISES, out of memory only: what an upcaster raises is the event's fault. */
static mb_err lift(lua_State *L, mbl_bus *lb, const mbl_type *type, mb_bytes value,
                   const mb_origin *origin, const mb_msg *msg, char *why, size_t why_size) {
  int top = lua_gettop(L);
  int64_t version = lb->decoder.outdated;
  char detail[400] = "";
  luaL_checkstack(L, 12, "event");
  lua_rawgeti(L, LUA_REGISTRYINDEX, type->lift_ref);
  mb_err err = push_data(L, lb, value, origin, msg, why, why_size);
  if (err) goto done;
  lua_pushnumber(L, (lua_Number)version);
  int status = lua_pcall(L, 2, 1, 0);
  if (status == LUA_ERRMEM) lua_error(L);
  if (status) {
    err = cannot_lift(type, version, text_of_error(L), why, why_size);
    goto done;
  }
  if (!write_value(L, type->schema, &lb->lifted)) {
    err = cannot_lift(type, version, lua_tostring(L, -1), why, why_size);
    goto done;
  }
  err = mb__decode(type->schema, mb__buf_bytes(&lb->lifted), NULL, &lb->decoder, detail,
                   sizeof detail);
  if (err) {
    cut_offset(detail);
    err = cannot_lift(type, version, detail, why, why_size);
  }
done:
  lua_settop(L, top);
  return err;
}

mb_err mb__lua_decode(lua_State *L, mbl_bus *lb, const mbl_type *type, const mb_schema *schema,
                      mb_bytes value, const mb_origin *origin, const mb_msg *msg, int64_t *version,
                      char *why, size_t why_size) {
  mb_decoder *decoder = &lb->decoder;
  mb_err err = mb__decode(schema, value, origin, decoder, why, why_size);
  *version = decoder->outdated;
  if (decoder->outdated)
    err = lift(L, lb, type, value, origin, msg, why, why_size);
  else if (!err)
    show_chosen(decoder, msg);
  if (!err && !*version) *version = decoder->values[MB_F_EVENT_VERSION].as.i;
  return err;
}
