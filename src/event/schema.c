/* event/schema.c: what an event type declares: the twelve base fields, then its own.
 * Must not know JSON or records.
 * Called by the Lua side, which declares types; read by the codec. */
#include <stdio.h>
#include <stdlib.h>

#include "event/codec.h"
#include "event/wire.h"

static const char *const type_names[] = {
    [MB_T_STRING] = "string",   [MB_T_NUMBER] = "number", [MB_T_INTEGER] = "integer",
    [MB_T_BOOLEAN] = "boolean", [MB_T_UUID] = "uuid",     [MB_T_TIMESTAMP] = "timestamp",
    [MB_T_DECIMAL] = "decimal", [MB_T_OBJECT] = "object", [MB_T_ARRAY] = "array",
    [MB_T_ANY] = "any",
};
#define TYPE_COUNT (sizeof type_names / sizeof *type_names)

#define BASE(text, of, may_lack)                                                                   \
  {                                                                                                \
    .name = text, .name_len = sizeof text - 1,                                                     \
    .key = ",\"" text "\":", .key_len = sizeof text + 3,                                           \
    .key_mask = (1u << (sizeof text + 3)) - 1, .type = of, .optional = may_lack, .base = true      \
  }
/* not const only because a schema's fields are not; nothing writes here */
static mb_field base_fields[MB_F_BASE_COUNT] = {
    [MB_F_EVENT_ID] = BASE("event_id", MB_T_UUID, false),
    [MB_F_EVENT_TYPE] = BASE("event_type", MB_T_STRING, false),
    [MB_F_EVENT_VERSION] = BASE("event_version", MB_T_INTEGER, false),
    [MB_F_OCCURRED_AT] = BASE("occurred_at", MB_T_TIMESTAMP, false),
    [MB_F_AGGREGATE_ID] = BASE("aggregate_id", MB_T_UUID, false),
    [MB_F_AGGREGATE_TYPE] = BASE("aggregate_type", MB_T_STRING, false),
    [MB_F_AGGREGATE_VERSION] = BASE("aggregate_version", MB_T_INTEGER, false),
    [MB_F_TENANT_ID] = BASE("tenant_id", MB_T_UUID, true),
    [MB_F_ACTOR_ID] = BASE("actor_id", MB_T_STRING, true),
    [MB_F_CORRELATION_ID] = BASE("correlation_id", MB_T_UUID, false),
    [MB_F_CAUSATION_ID] = BASE("causation_id", MB_T_UUID, true),
    [MB_F_METADATA] = BASE("metadata", MB_T_OBJECT, false),
};

static char base_name[] = "";
static const mb_schema base_schema = {
    .name = base_name, .fields = base_fields, .count = MB_F_BASE_COUNT};

const mb_schema *mb__schema_base(void) {
  return &base_schema;
}

int mb__base_field(mb_bytes name) {
  for (int i = 0; i < MB_F_BASE_COUNT; i++)
    if (name.len == base_fields[i].name_len && !memcmp(name.data, base_fields[i].name, name.len))
      return i;
  return -1;
}

static char *copy_text(mb_bytes text) {
  char *copy = malloc(text.len + 1);
  if (!copy) return NULL;
  if (text.len) memcpy(copy, text.data, text.len);
  copy[text.len] = 0;
  return copy;
}

mb_schema *mb__schema_new(mb_bytes name) {
  if (!name.data || !name.len || name.len > 249 || !mb__utf8_valid(name)) return NULL;
  mb_schema *schema = calloc(1, sizeof *schema);
  if (!schema) return NULL;
  schema->name = copy_text(name);
  schema->fields = malloc(sizeof base_fields);
  if (!schema->name || !schema->fields) {
    mb__schema_free(schema);
    return NULL;
  }
  memcpy(schema->fields, base_fields, sizeof base_fields);
  schema->count = MB_F_BASE_COUNT;
  return schema;
}

void mb__schema_free(mb_schema *schema) {
  if (!schema) return;
  /* names of base fields are static */
  for (size_t i = MB_F_BASE_COUNT; i < schema->count; i++) free((char *)schema->fields[i].name);
  free(schema->fields);
  free(schema->name);
  free(schema);
}

static bool spec_parse(mb_bytes spec, mb_field *field) {
  if (spec.len && spec.data[spec.len - 1] == '?') {
    field->optional = true;
    spec.len--;
  }
  if (spec.len > 2 && !memcmp(spec.data + spec.len - 2, "[]", 2)) {
    field->array_of = true;
    spec.len -= 2;
  }
  for (size_t i = 0; i < TYPE_COUNT; i++) {
    if (!mb__same(spec, mb_str(type_names[i]))) continue;
    field->type = (mb_type)i;
    return true;
  }
  return false;
}

/* Names are compared with a document's bytes as they stand, so none may need an escape there. */
static bool is_plain(mb_bytes name) {
  for (size_t i = 0; i < name.len; i++)
    if ((unsigned char)name.data[i] < 0x20 || name.data[i] == '"' || name.data[i] == '\\')
      return false;
  return mb__utf8_valid(name);
}

static const char *name_problem(const mb_schema *schema, mb_bytes name) {
  if (!name.data || !name.len) return "has no name";
  if (!is_plain(name)) return "has a name with a quote, backslash, control character or no UTF-8";
  if (mb__base_field(name) >= 0) return "has the name of a base field";
  for (size_t i = MB_F_BASE_COUNT; i < schema->count; i++)
    if (mb__same(name, (mb_bytes){schema->fields[i].name, schema->fields[i].name_len}))
      return "is declared twice";
  return schema->count >= MB_FIELDS_MAX ? "is one too many" : NULL;
}

mb_err mb__schema_add(mb_schema *schema, mb_bytes name, mb_bytes spec, char *errstr,
                      size_t errstr_size) {
  char shown[MB_SHOWN_MAX], shown_spec[MB_SHOWN_MAX];
  mb_field field = {.name_len = name.len, .key_mask = UINT32_MAX};
  const char *problem = name_problem(schema, name);
  if (problem)
    return mb__error(MB_EINVAL, errstr, errstr_size, "%s: field \"%s\" %s", schema->name,
                     mb__shown(shown, name), problem);
  if (!spec.data || !spec_parse(spec, &field))
    return mb__error(MB_EINVAL, errstr, errstr_size,
                     "%s.%s: unknown type \"%s\"; the types are string, number, integer, "
                     "boolean, uuid, timestamp, decimal, object, array, any; add [] for an "
                     "array of it and ? if it may be null",
                     schema->name, mb__shown(shown, name), mb__shown(shown_spec, spec));
  mb_field *fields = realloc(schema->fields, (schema->count + 1) * sizeof *fields);
  if (fields) schema->fields = fields;
  field.name = fields ? copy_text(name) : NULL;
  if (!field.name) return mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
  if (name.len + 4 <= MB_KEY_MAX) {
    field.key_len = (unsigned char)(name.len + 4);
    field.key_mask = UINT32_MAX >> (MB_KEY_MAX - field.key_len);
    memcpy(field.key, ",\"", 2);
    memcpy(field.key + 2, name.data, name.len);
    memcpy(field.key + 2 + name.len, "\":", 2);
  }
  fields[schema->count++] = field;
  return MB_OK;
}

mb_schema *mb__schema_undeclared(void) {
  mb_schema *schema = mb__schema_new(mb_str("-"));
  if (schema) schema->name[0] = 0;
  return schema;
}

mb_err mb__schema_take(mb_schema *schema, mb_bytes name) {
  if (mb__base_field(name) >= 0) return MB_OK;
  mb_err err = mb__schema_add(schema, name, mb_str("any?"), NULL, 0);
  if (!err) schema->fields[schema->count - 1].raw = true;
  return err;
}

const char *mb__field_spec(const mb_field *field, char *buf, size_t size) {
  snprintf(buf, size, "%s%s%s", type_names[field->type], field->array_of ? "[]" : "",
           field->optional ? "?" : "");
  return buf;
}
