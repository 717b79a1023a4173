/* event/decode.c: a record's value -> the fields its schema declares, in one pass.
 * Must not know brokers, buses or Lua; must not allocate once its buffer has grown.
 * Called for every record that a handler reads. */
#include <inttypes.h>
#include <stdio.h>

#include "event/codec.h"
#include "event/wire.h"

typedef struct pass {
  const mb_schema *schema;
  mb_json json; /* its scratch is the decoder's text */
  mb_decoder *decoder;
  const mb_origin *origin;
  mb_bytes text;
  /* a bit per field whose last value does not fit; values[] then holds its raw text */
  uint64_t misfits[(MB_FIELDS_MAX + 63) / 64];
  bool any_misfit;
  bool straight; /* every field is there, or null where it may be, and nothing else */
  char *errstr;
  size_t errstr_size;
} pass;

void mb__decoder_free(mb_decoder *decoder) {
  if (decoder) mb__buf_free(&decoder->text);
}

/* Where field i's normalised text goes: a slot of its own, so that a later duplicate reuses it. */
static inline char *slot_of(const pass *p, size_t i) {
  return p->json.scratch.data + i * MB_TIME_MAX;
}

static inline mb_bytes field_name(const mb_field *field) {
  return (mb_bytes){field->name, field->name_len};
}

/* ---- errors ---- */

/* Header text, if it is there, not empty, and UTF-8. */
static bool header_text(const pass *p, const char *name, mb_bytes *text) {
  mb_bytes found;
  const mb_origin *origin = p->origin;
  if (!origin || !origin->header || origin->header(origin->record, name, &found) != MB_OK)
    return false;
  if (!found.data || !found.len || !mb__utf8_valid(found)) return false;
  *text = found;
  return true;
}

static const char *event_name(const pass *p, char out[MB_SHOWN_MAX]) {
  const mb_value *type = &p->decoder->values[MB_F_EVENT_TYPE];
  mb_bytes text;
  if (p->schema->name[0]) return p->schema->name;
  if (p->decoder->present[MB_F_EVENT_TYPE] && type->kind == MB_STRING)
    return mb__shown(out, type->as.s);
  return header_text(p, "event_type", &text) ? mb__shown(out, text) : "event";
}

static bool is_version(size_t i) {
  return i == MB_F_EVENT_VERSION || i == MB_F_AGGREGATE_VERSION;
}

/* The event's own version; 0 = unknown. */
static int64_t version_of(const pass *p) {
  const mb_value *value = &p->decoder->values[MB_F_EVENT_VERSION];
  if (!p->decoder->present[MB_F_EVENT_VERSION]) return 1;
  return value->kind == MB_INT ? value->as.i : 0;
}

/* Field i was to be what it is declared as, and is raw (empty = absent), at byte offset. */
static mb_err misfit_error(const pass *p, size_t i, const char *element, mb_bytes raw,
                           size_t offset) {
  const mb_field *field = &p->schema->fields[i];
  mb_field expected = {.type = field->type, .array_of = field->array_of && !element[0]};
  char name[MB_SHOWN_MAX], spec[24], got[MB_GOT_MAX], field_shown[MB_SHOWN_MAX], newer[96] = "";
  int64_t version = version_of(p);
  if (p->schema->version && version > p->schema->version)
    snprintf(newer, sizeof newer, "; the event is of version %" PRId64 ", declared is %" PRId64,
             version, p->schema->version);
  return mb__error(
      MB_EDECODE, p->errstr, p->errstr_size, "%s.%s%s: expected %s%s%s, got %s (byte %zu)%s",
      event_name(p, name), mb__shown(field_shown, field_name(field)), element,
      mb__field_spec(&expected, spec, sizeof spec), is_version(i) ? " of at least 1" : "",
      field->optional && !element[0] ? " or null" : "", mb__got(got, raw), offset, newer);
}

static mb_err json_error(const pass *p, const mb_json *json) {
  return mb__error(MB_EDECODE, p->errstr, p->errstr_size, "value is not JSON: %s (byte %zu)",
                   json->error, mb__json_offset(json));
}

static mb_err trailing_error(const pass *p) {
  return mb__error(MB_EDECODE, p->errstr, p->errstr_size,
                   "value is not JSON: text after its end (byte %zu)", mb__json_offset(&p->json));
}

static bool fits_element(const mb_field *field, mb_bytes raw, mb_value *value, char *slot) {
  if (value->kind == MB_NULL) return field->type == MB_T_ANY;
  return mb__fit(field->type, raw, value, slot);
}

/* The first element of a T[] that is not a T, found by reading the array a second time. */
static mb_err element_error(const pass *p, size_t i, mb_bytes raw) {
  const mb_field *field = &p->schema->fields[i];
  char slot[MB_TIME_MAX], element[32];
  size_t base = (size_t)(raw.data - p->text.data), at = 0;
  mb_bytes item = {0};
  mb_json json;
  bool first = true;
  mb__json_init(&json, raw);
  if (mb__json_enter_array(&json)) {
    for (size_t n = 0; mb__json_next_item(&json, &first) > 0; n++) {
      mb_value value;
      mb__json_peek(&json);
      at = mb__json_offset(&json);
      if (!mb__json_value(&json, &value)) break;
      item = (mb_bytes){raw.data + at, mb__json_offset(&json) - at};
      snprintf(element, sizeof element, "[%zu]", n);
      if (!fits_element(field, item, &value, slot)) break;
    }
  }
  mb__json_done(&json);
  return misfit_error(p, i, element, item, base + at);
}

/* ---- reading ---- */

static inline void set_misfit(pass *p, size_t i, const char *from) {
  p->misfits[i >> 6] |= UINT64_C(1) << (i & 63);
  p->any_misfit = true;
  p->decoder->present[i] = true;
  p->decoder->values[i] = (mb_value){MB_JSON, {.s = {from, (size_t)(p->json.at - from)}}};
}

static inline void set_value(pass *p, size_t i, mb_value value) {
  if (p->any_misfit) p->misfits[i >> 6] &= ~(UINT64_C(1) << (i & 63));
  p->decoder->present[i] = true;
  p->decoder->values[i] = value;
}

/* A T[]: read once, each element as it comes. */
static bool read_array_of(pass *p, size_t i) {
  mb_json *json = &p->json;
  const char *from = json->at;
  char slot[MB_TIME_MAX];
  bool first = true, fits = true;
  int more;
  if (!mb__json_enter_array(json)) return false;
  while ((more = mb__json_next_item(json, &first)) > 0) {
    mb_value value;
    mb__json_peek(json);
    const char *item = json->at;
    if (!mb__json_value(json, &value)) return false;
    mb_bytes raw = {item, (size_t)(json->at - item)};
    fits &= fits_element(&p->schema->fields[i], raw, &value, slot);
  }
  if (more < 0) return false;
  if (fits)
    set_value(p, i, (mb_value){MB_JSON, {.s = {from, (size_t)(json->at - from)}}});
  else
    set_misfit(p, i, from);
  return true;
}

/* Is the value of a base field one that counts as lacking, or out of its bounds? */
static void check_base(pass *p, size_t i, const char *from) {
  const mb_value *value = &p->decoder->values[i];
  if (is_version(i) && !(value->kind == MB_INT && value->as.i >= 1)) set_misfit(p, i, from);
  if (i == MB_F_EVENT_TYPE && !value->as.s.len) p->decoder->present[i] = false;
}

/* The cursor is at field i's value, whatever it is. false = the text is not JSON. */
static bool read_field(pass *p, size_t i) {
  const mb_field *field = &p->schema->fields[i];
  mb_json *json = &p->json;
  mb_value value;
  char c = mb__json_peek(json);
  const char *from = json->at;
  if (field->array_of && c == '[') return read_array_of(p, i);
  if (!mb__json_value(json, &value)) return false;
  mb_bytes raw = {from, (size_t)(json->at - from)};
  if (value.kind == MB_NULL && (field->optional || field->base) && !field->raw) {
    set_value(p, i, value);
    p->decoder->present[i] = false;
  } else if (field->array_of || !mb__fit(field->type, raw, &value, slot_of(p, i))) {
    set_misfit(p, i, from);
  } else {
    set_value(p, i, value);
    if (field->base) check_base(p, i, from);
  }
  return true;
}

/* The field of that name, or count. guess is where members in schema order would have it. */
static size_t find(const mb_schema *schema, mb_bytes key, size_t guess) {
  for (size_t n = 0, i = guess; n < schema->count; n++, i++) {
    if (i >= schema->count) i = 0;
    if (schema->fields[i].name_len == key.len && !memcmp(schema->fields[i].name, key.data, key.len))
      return i;
  }
  return schema->count;
}

/* Read all members; false = the text is not JSON. */
static bool read_members(pass *p) {
  const mb_schema *schema = p->schema;
  mb_json *json = &p->json;
  mb_bytes key;
  size_t next = 0;
  bool first = true;
  int more;
  p->straight = true;
  for (;;) {
    mb_bytes guess = {0};
    if (!p->any_misfit) next = mb__read_straight(schema, next, json, &first, p->decoder);
    if (next < schema->count) guess = field_name(&schema->fields[next]);
    more = mb__json_guess_key(json, &first, guess, &key);
    if (more <= 0) break;
    p->straight = false;
    size_t i = more == 2 ? next : find(schema, key, next);
    if (!(i == schema->count ? mb__json_skip(json) : read_field(p, i))) return false;
    if (i < schema->count) next = i + 1;
  }
  p->straight &= next == schema->count;
  return more == 0;
}

/* ---- what the value lacks ---- */

static void set_text(pass *p, size_t i, const char *data, size_t len) {
  set_value(p, i, (mb_value){MB_STRING, {.s = {data, len}}});
}

/* A UUID from a header into field i. */
static bool header_uuid(pass *p, size_t i, const char *name) {
  mb_bytes text;
  char *slot = slot_of(p, i);
  if (!header_text(p, name, &text) || !mb__uuid_parse(text, slot, NULL)) return false;
  set_text(p, i, slot, MB_UUID_LEN);
  return true;
}

/* The same record always gives the same id, so that a handler may know it by that. */
static void derive_event_id(pass *p) {
  char name[320];
  const mb_origin *origin = p->origin;
  int len = snprintf(
      name, sizeof name, "moonbus:%s/%d/%lld", origin && origin->topic ? origin->topic : "",
      origin ? (int)origin->partition : -1, origin ? (long long)origin->offset : -1LL);
  /* a topic's name has at most 249 bytes; were it longer, it would be cut, not overrun */
  size_t size = (size_t)len < sizeof name ? (size_t)len : sizeof name - 1;
  char *slot = slot_of(p, MB_F_EVENT_ID);
  mb__uuid_from_name(slot, NULL, (mb_bytes){name, size});
  set_text(p, MB_F_EVENT_ID, slot, MB_UUID_LEN);
}

static void fill_occurred_at(pass *p) {
  mb_bytes text;
  char *slot = slot_of(p, MB_F_OCCURRED_AT);
  int64_t us = 0;
  if (header_text(p, "occurred_at", &text) && mb__time_normalise(text, slot, &text)) {
    set_text(p, MB_F_OCCURRED_AT, text.data, text.len);
    return;
  }
  if (p->origin && p->origin->timestamp_ms > 0 && p->origin->timestamp_ms < INT64_MAX / 1000)
    us = p->origin->timestamp_ms * 1000;
  set_text(p, MB_F_OCCURRED_AT, slot, mb__time_format(slot, us, "Z"));
}

static bool fill_string(pass *p, size_t i) {
  mb_bytes text;
  if (!header_text(p, p->schema->fields[i].name, &text)) return false;
  set_text(p, i, text.data, text.len);
  return true;
}

/* Give base field i what the contract says it has when the value lacks it; false = an error. */
static bool fill(pass *p, size_t i) {
  switch (i) {
  case MB_F_EVENT_ID:
    if (!header_uuid(p, i, "event_id")) derive_event_id(p);
    return true;
  case MB_F_OCCURRED_AT: fill_occurred_at(p); return true;
  case MB_F_CORRELATION_ID:
    if (!header_uuid(p, i, "correlation_id")) set_value(p, i, p->decoder->values[MB_F_EVENT_ID]);
    return true;
  case MB_F_EVENT_TYPE:
  case MB_F_AGGREGATE_TYPE: return fill_string(p, i);
  case MB_F_AGGREGATE_ID: return header_uuid(p, i, "aggregate_id");
  case MB_F_EVENT_VERSION:
  case MB_F_AGGREGATE_VERSION: set_value(p, i, (mb_value){MB_INT, {.i = 1}}); return true;
  case MB_F_METADATA: set_value(p, i, (mb_value){MB_JSON, {.s = {"{}", 2}}}); return true;
  default: return false;
  }
}

/* It has other fields than those declared now: they are not even looked at. */
static mb_err give_back(pass *p, int64_t version) {
  char name[MB_SHOWN_MAX];
  p->decoder->outdated = version;
  return mb__error(MB_EDECODE, p->errstr, p->errstr_size,
                   "%s: version %" PRId64 " is to be lifted to %" PRId64, event_name(p, name),
                   version, p->schema->version);
}

/* Every field has its value, or none where none is allowed. close is where the object ends. */
static mb_err settle_fields(pass *p, size_t close) {
  mb_decoder *decoder = p->decoder;
  if (p->schema->lifts) {
    int64_t version = version_of(p);
    if (version && version < p->schema->version) return give_back(p, version);
  }
  for (size_t i = 0; i < p->schema->count && !p->straight; i++) {
    const mb_field *field = &p->schema->fields[i];
    if (p->any_misfit && p->misfits[i >> 6] >> (i & 63) & 1) {
      mb_bytes raw = decoder->values[i].as.s;
      if (field->array_of && raw.data[0] == '[') return element_error(p, i, raw);
      return misfit_error(p, i, "", raw, (size_t)(raw.data - p->text.data));
    }
    if (decoder->present[i]) continue;
    decoder->values[i] = (mb_value){MB_NULL, {0}};
    if (field->optional || (field->base && fill(p, i))) continue;
    return misfit_error(p, i, "", (mb_bytes){0}, close);
  }
  return MB_OK;
}

static mb_err decode_text(pass *p) {
  mb_json *json = &p->json;
  if (mb__json_at_end(json))
    return mb__error(MB_EDECODE, p->errstr, p->errstr_size,
                     "value is not JSON: it is empty (byte 0)");
  if (mb__json_peek(json) != '{') {
    size_t offset = mb__json_offset(json);
    mb_value value;
    char got[MB_GOT_MAX];
    if (!mb__json_value(json, &value)) return json_error(p, json);
    mb_bytes raw = {json->begin + offset, mb__json_offset(json) - offset};
    if (!mb__json_at_end(json)) return trailing_error(p);
    return mb__error(MB_EDECODE, p->errstr, p->errstr_size,
                     "value is not a JSON object: got %s (byte %zu)", mb__got(got, raw), offset);
  }
  if (!mb__json_enter_object(json) || !read_members(p)) return json_error(p, json);
  size_t close = mb__json_offset(json) - 1;
  return mb__json_at_end(json) ? settle_fields(p, close) : trailing_error(p);
}

mb_err mb__decode(const mb_schema *schema, mb_bytes value, const mb_origin *origin,
                  mb_decoder *decoder, char *errstr, size_t errstr_size) {
  pass p;
  mb_buf *text = &decoder->text;
  size_t slots = schema->count * MB_TIME_MAX;
  if (!value.data)
    return mb__error(MB_EDECODE, errstr, errstr_size, "the record has no value (a tombstone)");
  mb__buf_clear(text);
  /* unescaped text is never longer than escaped, so the buffer moves no more and views hold */
  if (value.len > MB_BUF_CEILING || !mb__buf_reserve(text, slots + value.len))
    return mb__error(MB_ENOMEM, errstr, errstr_size, "no memory for a value of %zu bytes",
                     value.len);
  text->len = slots;
  p.schema = schema;
  p.decoder = decoder;
  p.origin = origin;
  p.text = value;
  p.any_misfit = false;
  decoder->outdated = 0;
  memset(p.misfits, 0, sizeof p.misfits);
  p.errstr = errstr;
  p.errstr_size = errstr_size;
  memset(decoder->present, 0, schema->count * sizeof *decoder->present);
  mb__json_init(&p.json, value);
  p.json.keep = true;
  p.json.scratch = *text;
  mb_err err = decode_text(&p);
  *text = p.json.scratch;
  return err;
}
