/* event/from_json.c: one JSON object -> an event to publish.
 * Must not know where the object comes from.
 * Called by `moonbus publish` and by replays from files. */
#include "event/codec.h"
#include "event/wire.h"

typedef struct reader {
  mb_json json; /* its scratch is store->text */
  mb_buf *data; /* the own members, as they are written */
  mb_event event;
  char *errstr;
  size_t errstr_size;
} reader;

void mb__event_store_free(mb_event_store *store) {
  if (!store) return;
  mb__buf_free(&store->data);
  mb__buf_free(&store->text);
}

static mb_bytes *text_field(mb_event *event, int field) {
  switch (field) {
  case MB_F_EVENT_ID: return &event->event_id;
  case MB_F_EVENT_TYPE: return &event->event_type;
  case MB_F_OCCURRED_AT: return &event->occurred_at;
  case MB_F_AGGREGATE_ID: return &event->aggregate_id;
  case MB_F_AGGREGATE_TYPE: return &event->aggregate_type;
  case MB_F_TENANT_ID: return &event->tenant_id;
  case MB_F_ACTOR_ID: return &event->actor_id;
  case MB_F_CORRELATION_ID: return &event->correlation_id;
  case MB_F_CAUSATION_ID: return &event->causation_id;
  default: return NULL;
  }
}

/* Put a base field's value where it belongs; false when it is of the wrong JSON type. A null undoes
 * an earlier duplicate. */
static bool set_base(mb_event *event, int field, const mb_value *value) {
  mb_bytes *text = text_field(event, field);
  bool null = value->kind == MB_NULL;
  if (text) {
    if (!null && value->kind != MB_STRING) return false;
    *text = null ? (mb_bytes){NULL, 0} : value->as.s;
    return true;
  }
  if (field == MB_F_METADATA) {
    if (!null && (value->kind != MB_JSON || value->as.s.data[0] != '{')) return false;
    event->metadata = null ? (mb_bytes){NULL, 0} : value->as.s;
    return true;
  }
  if (!null && (value->kind != MB_INT || value->as.i < 1)) return false;
  *(field == MB_F_EVENT_VERSION ? &event->event_version : &event->aggregate_version) =
      null ? 0 : value->as.i;
  return true;
}

static const char *expected_of(int field) {
  if (field == MB_F_METADATA) return "object";
  if (field == MB_F_EVENT_VERSION || field == MB_F_AGGREGATE_VERSION)
    return "integer of at least 1";
  return "string";
}

static mb_err read_base(reader *r, int field) {
  char name[MB_SHOWN_MAX], got[MB_GOT_MAX];
  mb_value value;
  mb__json_peek(&r->json);
  const char *from = r->json.at;
  if (!mb__json_value(&r->json, &value)) return MB_EDECODE;
  if (set_base(&r->event, field, &value)) return MB_OK;
  mb_bytes raw = {from, (size_t)(r->json.at - from)}, type = r->event.event_type;
  return mb__error(MB_EEVENT, r->errstr, r->errstr_size, "%s.%s: expected %s, got %s (byte %zu)",
                   type.len ? mb__shown(name, type) : "event",
                   mb__schema_base()->fields[field].name, expected_of(field), mb__got(got, raw),
                   (size_t)(from - r->json.begin));
}

static mb_err read_own(reader *r, mb_bytes key) {
  mb__json_peek(&r->json);
  const char *from = r->json.at;
  if (!mb__json_skip(&r->json)) return MB_EDECODE;
  mb__buf_char(r->data, r->data->len ? ',' : '{');
  (void)mb__json_write_string(r->data, key); /* it was read as valid UTF-8 */
  mb__buf_char(r->data, ':');
  mb__buf_add(r->data, from, (size_t)(r->json.at - from));
  return MB_OK;
}

static mb_err read_object(reader *r) {
  mb_bytes key;
  bool first = true;
  int more;
  if (!mb__json_enter_object(&r->json)) return MB_EDECODE;
  while ((more = mb__json_next_key(&r->json, &first, &key)) > 0) {
    int field = mb__base_field(key);
    mb_err err = field >= 0 ? read_base(r, field) : read_own(r, key);
    if (err) return err;
  }
  if (more < 0) return MB_EDECODE;
  if (!mb__json_at_end(&r->json)) {
    r->json.error = "text after the object";
    return MB_EDECODE;
  }
  if (r->data->len) mb__buf_char(r->data, '}');
  return r->data->failed ? MB_ENOMEM : MB_OK;
}

mb_err mb__event_from_json(mb_bytes text, mb_bytes default_type, mb_event_store *store,
                           mb_event *event, char *errstr, size_t errstr_size) {
  reader r = {.data = &store->data, .errstr = errstr, .errstr_size = errstr_size};
  mb__buf_clear(&store->data);
  mb__buf_clear(&store->text);
  /* unescaped text is never longer than escaped, so the buffer moves no more and views hold */
  if (text.len > MB_BUF_CEILING || (text.len && !mb__buf_reserve(&store->text, text.len)))
    return mb__error(MB_ENOMEM, errstr, errstr_size, "no memory for %zu bytes", text.len);
  mb__json_init(&r.json, text);
  r.json.keep = true;
  r.json.scratch = store->text;
  mb_err err = read_object(&r);
  store->text = r.json.scratch;
  if (err == MB_EDECODE)
    return mb__error(err, errstr, errstr_size, "not a JSON object: %s (byte %zu)", r.json.error,
                     mb__json_offset(&r.json));
  if (err == MB_ENOMEM) return mb__error(err, errstr, errstr_size, "out of memory");
  if (err) return err;
  if (!r.event.event_type.data || !r.event.event_type.len) r.event.event_type = default_type;
  if (store->data.len) r.event.data = mb__buf_bytes(&store->data);
  *event = r.event;
  return MB_OK;
}
