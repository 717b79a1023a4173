/* invariants.h: what holds of every successful decode, whatever the bytes were; shared by the
 * codec's test and its fuzz target. */
#ifndef MB_INVARIANTS_H
#define MB_INVARIANTS_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "event/codec.h"

/* A schema with a field of every type, each also as an array and as optional. */
static inline mb_schema *every_type(void) {
  static const char *const types[] = {"string",    "number",  "integer", "boolean", "uuid",
                                      "timestamp", "decimal", "object",  "array",   "any"};
  static const char *const ends[] = {"?", "[]?"};
  mb_schema *schema = mb__schema_new(mb_str("Every"));
  for (size_t i = 0; schema && i < sizeof types / sizeof *types; i++)
    for (size_t k = 0; k < sizeof ends / sizeof *ends; k++) {
      char name[32], spec[32];
      snprintf(name, sizeof name, "%.2s%zu", types[i], k);
      snprintf(spec, sizeof spec, "%s%s", types[i], ends[k]);
      if (mb__schema_add(schema, mb_str(name), mb_str(spec), NULL, 0)) return NULL;
    }
  return schema;
}

static inline bool is_json(mb_bytes text, char open) {
  mb_json json;
  mb__json_init(&json, text);
  bool good = mb__json_peek(&json) == open && mb__json_skip(&json) && mb__json_at_end(&json);
  mb__json_done(&json);
  return good;
}

/* NULL when field i's value is as mb__decode promises, else what is wrong. */
static inline const char *field_wrong(const mb_field *field, const mb_value *value, bool present) {
  bool null = !present || value->kind == MB_NULL;
  char id[MB_UUID_LEN];
  int64_t us;
  bool canonical;
  if (null && value->kind != MB_NULL) return "absent and not null";
  if (null) return field->optional || field->type == MB_T_ANY ? NULL : "lacking";
  if (value->kind == MB_STRING && !mb__utf8_valid(value->as.s)) return "not UTF-8";
  if (field->array_of) return value->kind == MB_JSON && is_json(value->as.s, '[') ? NULL : "no T[]";
  switch (field->type) {
  case MB_T_STRING:
  case MB_T_DECIMAL: return value->kind == MB_STRING ? NULL : "no string";
  case MB_T_NUMBER: return value->kind == MB_DOUBLE && isfinite(value->as.d) ? NULL : "no double";
  case MB_T_INTEGER:
    if (value->kind == MB_UINT) return !field->base && value->as.u > INT64_MAX ? NULL : "UINT";
    return value->kind == MB_INT && (!field->base || value->as.i >= 1) ? NULL : "no integer";
  case MB_T_BOOLEAN: return value->kind == MB_BOOL ? NULL : "no boolean";
  case MB_T_UUID:
    return value->kind == MB_STRING && mb__uuid_parse(value->as.s, id, &canonical) && canonical
               ? NULL
               : "no canonical UUID";
  case MB_T_TIMESTAMP:
    return value->kind == MB_STRING && mb__time_parse(value->as.s, &us) && value->as.s.len >= 20
               ? NULL
               : "no timestamp";
  case MB_T_OBJECT: return value->kind == MB_JSON && is_json(value->as.s, '{') ? NULL : "no object";
  case MB_T_ARRAY: return value->kind == MB_JSON && is_json(value->as.s, '[') ? NULL : "no array";
  case MB_T_ANY:
    if (value->kind != MB_JSON) return NULL;
    return is_json(value->as.s, value->as.s.data[0]) ? NULL : "no JSON";
  }
  return "of no type";
}

static inline const char *decode_wrong(const mb_schema *schema, const mb_decoder *decoder) {
  for (size_t i = 0; i < schema->count; i++) {
    const char *wrong = field_wrong(&schema->fields[i], &decoder->values[i], decoder->present[i]);
    if (wrong) return wrong;
  }
  return NULL;
}

/* The text with a space behind every brace, comma and colon outside strings. Owned. */
static inline mb_bytes respaced(mb_bytes text) {
  char *out = malloc(text.len * 2 + 1), *to = out;
  bool quoted = false;
  for (size_t i = 0; out && i < text.len; i++) {
    char c = *to++ = text.data[i];
    if (c == '"') quoted = !quoted;
    if (quoted && c == '\\' && i + 1 < text.len) *to++ = text.data[++i];
    if (!quoted && strchr("{}[],:", c) && c) *to++ = ' ';
  }
  return (mb_bytes){out, out ? (size_t)(to - out) : 0};
}

static inline bool same_value(const mb_value *a, const mb_value *b) {
  if (a->kind != b->kind) return false;
  if (a->kind == MB_STRING)
    return a->as.s.len == b->as.s.len && !memcmp(a->as.s.data, b->as.s.data, a->as.s.len);
  if (a->kind == MB_DOUBLE) return a->as.d == b->as.d && signbit(a->as.d) == signbit(b->as.d);
  if (a->kind == MB_BOOL) return a->as.b == b->as.b;
  return a->kind == MB_NULL || a->kind == MB_JSON || a->as.u == b->as.u;
}

/* White space takes a value off the straight way: the verdict and the values must be the same.
 * decoder and rc: of the text as it stands. */
static inline const char *straight_wrong(const mb_schema *schema, mb_bytes text,
                                         const mb_origin *origin, const mb_decoder *decoder,
                                         mb_err rc) {
  static mb_decoder other;
  mb_bytes spaced = respaced(text);
  const char *wrong = NULL;
  if (!spaced.data) return NULL;
  mb_err again = mb__decode(schema, spaced, origin, &other, NULL, 0);
  if (again != rc) wrong = "another verdict with white space";
  for (size_t i = 0; !rc && !wrong && i < schema->count; i++)
    if (decoder->present[i] != other.present[i] ||
        !same_value(&decoder->values[i], &other.values[i]))
      wrong = "another value with white space";
  mb__decoder_free(&other);
  free((char *)spaced.data);
  return wrong;
}

#endif
