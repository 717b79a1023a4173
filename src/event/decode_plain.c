/* event/decode_plain.c: reads members that stand as the encoder writes them: in the schema's order,
 * without white space or escapes, their values in the wire's form. Nothing is copied. Must not say
 * what is wrong: what it does not know is left to event/decode.c. Called by event/decode.c. */
#include "base/number.h"
#include "base/scan.h"
#include "event/wire.h"

/* ---- values: the place behind the value, or NULL: it is none of those ---- */

static inline const char *quoted(const char *text, const char *end, size_t len, mb_value *value) {
  if ((size_t)(end - text) <= len || text[len] != '"') return NULL;
  *value = (mb_value){MB_STRING, {.s = {text, len}}};
  return text + len + 1;
}

static inline const char *read_uuid(const char *at, const char *end, mb_value *value) {
  if (*at != '"' || end - at <= MB_UUID_LEN + 1 || !mb__uuid_canonical(at + 1)) return NULL;
  return quoted(at + 1, end, MB_UUID_LEN, value);
}

static inline const char *read_timestamp(const char *at, const char *end, mb_value *value) {
  size_t len = *at == '"' ? mb__time_plain((mb_bytes){at + 1, (size_t)(end - at - 1)}) : 0;
  return len ? quoted(at + 1, end, len, value) : NULL;
}

/* ASCII that is not empty: an empty event_type counts as lacking. */
static inline const char *read_string(const char *at, const char *end, mb_value *value) {
  unsigned high = 0;
  if (*at != '"') return NULL;
  const char *stop = mb__scan_plain(at + 1, end, &high);
  return high || stop == at + 1 ? NULL : quoted(at + 1, end, (size_t)(stop - at - 1), value);
}

static inline const char *read_integer(const char *at, const char *end, mb_value *value) {
  unsigned digit = (unsigned char)*at - (unsigned)'0';
  if (digit <= 9 && (at[1] == ',' || at[1] == '}')) {
    *value = (mb_value){MB_INT, {.i = digit}};
    return at + 1;
  }
  return mb__number_read(&at, end, value) || value->kind != MB_INT ? NULL : at;
}

static inline const char *read_double(const char *at, const char *end, mb_value *value) {
  if (mb__number_read(&at, end, value) || value->kind == MB_UINT) return NULL;
  if (value->kind == MB_INT) *value = (mb_value){MB_DOUBLE, {.d = (double)value->as.i}};
  return at;
}

static inline const char *read_empty_object(const char *at, mb_value *value) {
  if (at[0] != '{' || at[1] != '}') return NULL;
  *value = (mb_value){MB_JSON, {.s = {at, 2}}};
  return at + 2;
}

static inline const char *read_value(const mb_field *field, const char *at, const char *end,
                                     mb_value *value) {
  if (end - at < 5 || field->array_of) return NULL;
  if (*at == 'n') {
    if (memcmp(at, "null", 4) || !field->optional || field->raw) return NULL;
    *value = (mb_value){MB_NULL, {0}};
    return at + 4;
  }
  switch (field->type) {
  case MB_T_UUID: return read_uuid(at, end, value);
  case MB_T_STRING: return read_string(at, end, value);
  case MB_T_TIMESTAMP: return read_timestamp(at, end, value);
  case MB_T_NUMBER: return read_double(at, end, value);
  case MB_T_OBJECT: return read_empty_object(at, value);
  case MB_T_INTEGER:
    at = read_integer(at, end, value);
    return at && field->base && value->as.i < 1 ? NULL : at; /* a version is at least 1 */
  default: return NULL;
  }
}

/* ---- keys ---- */

/* Where the field's value is, if its key comes next: the cursor is at the ',' before it, or at the
 * '{' before the first. */
static inline const char *behind_key(const mb_field *field, const char *at, const char *end,
                                     bool first) {
  size_t len = field->key_len, room = (size_t)(end - at);
#ifdef __SSE2__
  if (room >= MB_KEY_MAX) {
    const __m128i *text = (const void *)at, *key = (const void *)field->key;
    __m128i low = _mm_cmpeq_epi8(_mm_loadu_si128(text), _mm_loadu_si128(key));
    __m128i high = _mm_cmpeq_epi8(_mm_loadu_si128(text + 1), _mm_loadu_si128(key + 1));
    unsigned same = (unsigned)_mm_movemask_epi8(high) << 16 | (unsigned)_mm_movemask_epi8(low);
    return ~(same | first) & field->key_mask ? NULL : at + len;
  }
#endif
  return len && len < room && !memcmp(at + first, field->key + first, len - first) ? at + len
                                                                                   : NULL;
}

size_t mb__read_straight(const mb_schema *schema, size_t next, mb_json *json, bool *first,
                         mb_decoder *decoder) {
  const mb_field *const fields = schema->fields;
  const size_t count = schema->count;
  const char *at = json->at - *first, *const end = json->end;
  size_t i = next;
  for (bool before = *first; i < count; i++, before = false) {
    const char *behind = behind_key(&fields[i], at, end, before);
    if (behind) behind = read_value(&fields[i], behind, end, &decoder->values[i]);
    if (!behind) break;
    decoder->present[i] = decoder->values[i].kind != MB_NULL;
    at = behind;
  }
  if (i == next) return i;
  json->at = at;
  *first = false;
  return i;
}
