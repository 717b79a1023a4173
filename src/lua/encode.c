/* lua/encode.c: an instance, or a plain table, -> the wire.
 * Must not know Kafka; the wire is event/codec.c's, JSON values are lua/convert.c's.
 * Called by lua/publish.c. */
#include <string.h>

#include "lua/internal.h"

/* What is written: the values of the fields stand on the stack, in the schema's order. */
typedef struct source {
  lua_State *L;
  const mb_schema *schema;
  int event, first; /* the table; the first value */
  bool flat;        /* no value was a table */
} source;

static int index_of(const source *s, size_t i) {
  return s->first + (int)i;
}

/* The checked value of a field, as JSON. false: a reason is pushed. */
static bool write_value(source *s, const mb_field *field, int index, mb_buf *buf) {
  lua_State *L = s->L;
  mb_value number;
  mb_bytes text;
  bool list = field->array_of || field->type == MB_T_ARRAY;
  if (list && lua_objlen(L, index) == 0) {
    mb__buf_lit(buf, "[]");
  } else if (field->array_of && field->type == MB_T_NUMBER) {
    for (int i = 1, n = (int)lua_objlen(L, index); i <= n; i++) {
      mb__buf_char(buf, i == 1 ? '[' : ',');
      lua_rawgeti(L, index, i);
      mb__json_write_double(buf, lua_tonumber(L, -1));
      lua_pop(L, 1);
    }
    mb__buf_char(buf, ']');
  } else if (list || field->type >= MB_T_OBJECT || field->type == MB_T_BOOLEAN) {
    if (lua_istable(L, index)) s->flat = false;
    return mb__lua_write_json(L, index, buf);
  } else if (field->type == MB_T_NUMBER) {
    mb__json_write_double(buf, lua_tonumber(L, index));
  } else if (field->type == MB_T_INTEGER) {
    mb__lua_to_integer(L, index, &number);
    if (number.kind == MB_INT)
      mb__json_write_int(buf, number.as.i);
    else
      mb__json_write_uint(buf, number.as.u);
  } else {
    text.data = lua_tolstring(L, index, &text.len);
    mb__json_write_string(buf, text);
  }
  return true;
}

static bool is_json_shape(const mb_buf *buf, size_t from, mb_type type) {
  char open = buf->len > from ? buf->data[from] : 0;
  return type == MB_T_OBJECT ? open == '{' : type == MB_T_ARRAY ? open == '[' : true;
}

/* With the comma before it, but for the first. */
static void write_key(const mb_field *field, bool first, mb_buf *buf) {
  if (field->key_len) {
    mb__buf_add(buf, field->key + first, field->key_len - (size_t)first);
    return;
  }
  if (!first) mb__buf_char(buf, ',');
  mb__json_write_string(buf, (mb_bytes){field->name, field->name_len});
  mb__buf_char(buf, ':');
}

/* Declared fields as a JSON object. */
static bool write_declared(source *s, mb_buf *buf) {
  lua_State *L = s->L;
  const mb_schema *schema = s->schema;
  mb__buf_char(buf, '{');
  for (size_t i = MB_F_BASE_COUNT; i < schema->count; i++) {
    const mb_field *field = &schema->fields[i];
    int index = index_of(s, i);
    write_key(field, i == MB_F_BASE_COUNT, buf);
    if (mb__lua_lacks(L, field, index)) {
      if (!field->optional) {
        lua_pushfstring(L, "%s.%s is missing", schema->name, field->name);
        return false;
      }
      mb__buf_lit(buf, "null");
      continue;
    }
    size_t from = buf->len;
    if (!mb__lua_normalise(L, schema, field, index)) return false;
    if (!write_value(s, field, index, buf)) {
      lua_pushfstring(L, "%s.%s: %s", schema->name, field->name, lua_tostring(L, -1));
      return false;
    }
    if (!field->array_of && !is_json_shape(buf, from, field->type))
      return mb__lua_refuse(L, schema, field, index, " of the other kind");
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
static bool write_undeclared(source *s, mb_buf *buf) {
  lua_State *L = s->L;
  s->flat = false;
  lua_createtable(L, 0, 8);
  int own = lua_gettop(L);
  lua_pushnil(L);
  while (lua_next(L, s->event)) {
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
  return mb__lua_write_json(L, own, buf);
}

/* ---- base fields ---- */

/* As text: borrowed from the table. false: a reason is pushed. */
static bool get_text(const source *s, size_t i, mb_bytes *text) {
  int index = index_of(s, i);
  *text = (mb_bytes){NULL, 0};
  if (lua_type(s->L, index) == LUA_TSTRING)
    text->data = lua_tolstring(s->L, index, &text->len);
  else if (!mb__lua_absent(s->L, index))
    return mb__lua_refuse(s->L, s->schema, &mb__schema_base()->fields[i], index, "");
  return true;
}

static bool get_version(const source *s, size_t i, int64_t *version) {
  lua_State *L = s->L;
  const mb_field *field = &mb__schema_base()->fields[i];
  int index = index_of(s, i);
  mb_value number;
  *version = 0;
  if (mb__lua_absent(L, index)) return true;
  if (!mb__lua_to_integer(L, index, &number) || number.kind != MB_INT || number.as.i < 1)
    return mb__lua_refuse(L, s->schema, field, index, " (1 or more)");
  *version = number.as.i;
  if (i == MB_F_EVENT_VERSION && *version < mb__lua_lowest_version(s->schema))
    return mb__lua_refuse(L, s->schema, field, index, " (older than what its upcast lifts to)");
  return true;
}

static bool is_empty(lua_State *L, int index) {
  if (lua_getmetatable(L, index)) {
    lua_pop(L, 1);
    return false;
  }
  lua_pushnil(L);
  if (!lua_next(L, index)) return true;
  lua_pop(L, 2);
  return false;
}

/* Left empty when it is {}, as it is for most. */
static bool get_metadata(const source *s, mb_buf *buf) {
  lua_State *L = s->L;
  int index = index_of(s, MB_F_METADATA);
  mb__buf_clear(buf);
  if (mb__lua_absent(L, index)) return true;
  bool table = lua_istable(L, index);
  if (table && (is_empty(L, index) || mb__lua_write_json(L, index, buf))) return true;
  if (!table) lua_pushliteral(L, "expected a table");
  lua_pushfstring(L, "%s.metadata: %s", s->schema->name, lua_tostring(L, -1));
  return false;
}

static bool get_base(const source *s, mb_event *event, mb_buf *metadata) {
  return get_text(s, MB_F_EVENT_ID, &event->event_id) &&
         get_text(s, MB_F_EVENT_TYPE, &event->event_type) &&
         get_text(s, MB_F_OCCURRED_AT, &event->occurred_at) &&
         get_text(s, MB_F_AGGREGATE_ID, &event->aggregate_id) &&
         get_text(s, MB_F_AGGREGATE_TYPE, &event->aggregate_type) &&
         get_text(s, MB_F_TENANT_ID, &event->tenant_id) &&
         get_text(s, MB_F_ACTOR_ID, &event->actor_id) &&
         get_text(s, MB_F_CORRELATION_ID, &event->correlation_id) &&
         get_text(s, MB_F_CAUSATION_ID, &event->causation_id) &&
         get_version(s, MB_F_EVENT_VERSION, &event->event_version) &&
         get_version(s, MB_F_AGGREGATE_VERSION, &event->aggregate_version) &&
         get_metadata(s, metadata);
}

/* The event's type: NULL for a plain table. */
static mbl_type *type_of(lua_State *L, int index) {
  if (!lua_getmetatable(L, index)) return NULL;
  mbl_type *type = mb__lua_type_in(L, lua_gettop(L));
  lua_pop(L, 1);
  return type;
}

bool mb__lua_encode(lua_State *L, mbl_bus *lb, int index) {
  mb_event event = {0};
  char why[MB_ERRSTR_MAX];
  int top = lua_gettop(L);
  luaL_checkstack(L, 16, "event");
  mbl_type *type = type_of(L, index);
  const mbl_type *itself = type ? NULL : mb__lua_type_in(L, index);
  if (itself) {
    const char *name = itself->schema->name;
    lua_pushfstring(L, "expected an event, got the event type %s; make one: %s { ... }", name,
                    name);
    return false;
  }
  source s;
  s.L = L;
  s.schema = type ? type->schema : mb__schema_base();
  s.event = index;
  s.first = top + 1;
  s.flat = true;
  bool known = mb__lua_spread(L, type, index);
  mb__buf_clear(&lb->scratch);
  if (!get_base(&s, &event, &lb->metadata)) return false;
  if (!(type ? write_declared(&s, &lb->scratch) : write_undeclared(&s, &lb->scratch))) return false;
  /* What the type does not declare would be lost silently: a slip of the pen, most likely. */
  if (type && !known && mb__lua_push_unknown(L, s.schema, index)) return false;
  if (type && !event.event_type.data) event.event_type = mb_str(s.schema->name);
  if (!event.event_version) event.event_version = s.schema->version;
  event.data = mb__buf_bytes(&lb->scratch);
  if (lb->metadata.len) event.metadata = mb__buf_bytes(&lb->metadata);
  if (lb->scratch.failed || lb->metadata.failed) {
    lua_pushfstring(L, "%s: too large", s.schema->name);
    return false;
  }
  mb_encoder *encoder = &lb->bus->encoder;
  mb_err err = s.flat ? mb__encode_flat(&event, encoder, why, sizeof why)
                      : mb__encode(&event, encoder, why, sizeof why);
  if (err)
    lua_pushfstring(L, "%s%s", why, strstr(why, ": expected uuid") ? MBL_UUID_HINT : "");
  else
    lua_settop(L, top);
  return !err;
}
