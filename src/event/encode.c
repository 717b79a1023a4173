/* event/encode.c: an event -> a record's value, headers and key.
 * Must not know brokers, buses or Lua; must not allocate once its buffers have grown.
 * Called by everything that publishes. */
#include <stdio.h>

#include "event/codec.h"
#include "event/wire.h"

typedef struct job {
  const mb_event *event;
  mb_encoder *encoder;
  char *errstr;
  size_t errstr_size;
} job;

/* What the value's text is made of, once checked. */
typedef struct parts {
  mb_bytes occurred_at, metadata, members; /* members: what stands between data's braces */
  bool metadata_spaced, members_spaced;
  int64_t event_version, aggregate_version;
} parts;

void mb__encoder_free(mb_encoder *encoder) {
  if (!encoder) return;
  mb__buf_free(&encoder->value);
  mb__buf_free(&encoder->names);
}

static mb_err problem(const job *j, const char *field, const char *expected, mb_bytes got) {
  char name[MB_SHOWN_MAX], shown[MB_SHOWN_MAX];
  mb_bytes type = j->event->event_type;
  const char *quote = got.data ? "\"" : "";
  return mb__error(MB_EEVENT, j->errstr, j->errstr_size, "%s.%s: expected %s, got %s%s%s",
                   type.data && type.len ? mb__shown(name, type) : "event", field, expected, quote,
                   got.data ? mb__shown(shown, got) : "nothing", quote);
}

static mb_err json_problem(const job *j, const char *field, const char *what, size_t offset) {
  char name[MB_SHOWN_MAX];
  return mb__error(MB_EEVENT, j->errstr, j->errstr_size, "%s.%s: %s (byte %zu)",
                   mb__shown(name, j->event->event_type), field, what, offset);
}

/* ---- checking ---- */

static mb_err check_text(const job *j, const char *field, mb_bytes text) {
  if (text.data && text.len && mb__utf8_valid(text)) return MB_OK;
  return problem(j, field, "UTF-8 text that is not empty", text);
}

static mb_err check_names(const job *j) {
  const mb_event *event = j->event;
  mb_err err = check_text(j, "event_type", event->event_type);
  if (err) return err;
  if (event->event_type.len > 249)
    return problem(j, "event_type", "at most 249 bytes", event->event_type);
  err = check_text(j, "aggregate_type", event->aggregate_type);
  if (err) return err;
  if (event->actor_id.data && !mb__utf8_valid(event->actor_id))
    return problem(j, "actor_id", "UTF-8 text", event->actor_id);
  return MB_OK;
}

static mb_err check_uuid(const job *j, const char *field, mb_bytes text, char out[MB_UUID_LEN]) {
  if (text.data && mb__uuid_parse(text, out, NULL)) return MB_OK;
  return problem(j, field, "uuid", text);
}

static mb_err check_ids(const job *j) {
  const mb_event *event = j->event;
  mb_encoder *to = j->encoder;
  mb_err err = check_uuid(j, "aggregate_id", event->aggregate_id, to->key);
  if (event->event_id.data && !err) err = check_uuid(j, "event_id", event->event_id, to->event_id);
  if (event->correlation_id.data && !err)
    err = check_uuid(j, "correlation_id", event->correlation_id, to->correlation_id);
  if (event->causation_id.data && !err)
    err = check_uuid(j, "causation_id", event->causation_id, to->causation_id);
  if (event->tenant_id.data && !err)
    err = check_uuid(j, "tenant_id", event->tenant_id, to->tenant_id);
  if (err) return err;
  if (!event->event_id.data) mb__uuid_random(to->event_id);
  if (!event->correlation_id.data) mb__uuid_random(to->correlation_id);
  return MB_OK;
}

static mb_err check_version(const job *j, const char *field, int64_t given, int64_t *version) {
  char name[MB_SHOWN_MAX];
  if (given < 0)
    return mb__error(MB_EEVENT, j->errstr, j->errstr_size,
                     "%s.%s: expected integer of at least 1, got %lld",
                     mb__shown(name, j->event->event_type), field, (long long)given);
  *version = given ? given : 1;
  return MB_OK;
}

/* The JSON form goes to parts, the header's, with "+00:00" for "Z", to the encoder. */
static mb_err check_time(const job *j, parts *p) {
  mb_encoder *to = j->encoder;
  mb_bytes given = j->event->occurred_at, wire;
  if (!given.data) {
    wire = (mb_bytes){to->occurred_json, mb__time_format(to->occurred_json, mb__now_us(), "Z")};
  } else if (!mb__time_normalise(given, to->occurred_json, &wire)) {
    return problem(j, "occurred_at", "timestamp", given);
  }
  memcpy(to->occurred_header, wire.data, wire.len);
  to->occurred_header[wire.len] = 0;
  if (wire.data[wire.len - 1] == 'Z') memcpy(to->occurred_header + wire.len - 1, "+00:00", 7);
  p->occurred_at = wire;
  return MB_OK;
}

/* Is the key in the way? Base fields have names of 8 to 17 bytes. */
static bool is_base_name(mb_bytes key) {
  return key.len >= 8 && key.len <= 17 && mb__base_field(key) >= 0;
}

/* data's members, each checked, as one slice of its text. */
static mb_err check_data(const job *j, parts *p) {
  mb_bytes data = j->event->data, key;
  mb_json json;
  bool first = true;
  int more = -1;
  mb_err err = MB_OK;
  p->members = (mb_bytes){"", 0};
  p->members_spaced = false;
  if (!data.data) return MB_OK;
  mb__json_init(&json, data);
  if (mb__json_enter_object(&json)) {
    const char *from = json.at;
    while ((more = mb__json_next_key(&json, &first, &key)) > 0) {
      if (is_base_name(key)) {
        char what[MB_SHOWN_MAX + 40], shown[MB_SHOWN_MAX];
        snprintf(what, sizeof what, "\"%s\" is a base field's name", mb__shown(shown, key));
        err = json_problem(j, "data", what, mb__json_offset(&json));
        goto done;
      }
      if (!mb__json_skip(&json)) break;
    }
    if (!more) p->members = (mb_bytes){from, (size_t)(json.at - 1 - from)};
  }
  p->members_spaced = json.spaced;
  if (json.error)
    err = json_problem(j, "data", json.error, mb__json_offset(&json));
  else if (!mb__json_at_end(&json))
    err = json_problem(j, "data", "text after the object", mb__json_offset(&json));
  else if (first)
    p->members.len = 0; /* nothing but white space */
done:
  mb__json_done(&json);
  return err;
}

static mb_err check_metadata(const job *j, parts *p) {
  mb_bytes text = j->event->metadata;
  mb_json json;
  mb_value value;
  mb_err err = MB_OK;
  p->metadata = (mb_bytes){"{}", 2};
  p->metadata_spaced = false;
  if (!text.data) return MB_OK;
  mb__json_init(&json, text);
  json.depth = 1; /* it will be inside the value's object */
  if (mb__json_peek(&json) != '{')
    err = json_problem(j, "metadata", "expected an object", mb__json_offset(&json));
  else if (!mb__json_value(&json, &value))
    err = json_problem(j, "metadata", json.error, mb__json_offset(&json));
  else if (!mb__json_at_end(&json))
    err = json_problem(j, "metadata", "text after the object", mb__json_offset(&json));
  else
    p->metadata = value.as.s;
  p->metadata_spaced = json.spaced;
  mb__json_done(&json);
  return err;
}

/* ---- writing: room was reserved, so that each piece is a plain copy ---- */

static inline void put(mb_buf *buf, const char *data, size_t len) {
  memcpy(buf->data + buf->len, data, len);
  buf->len += len;
}

#define put_lit(buf, literal) put((buf), "" literal, sizeof(literal) - 1)

static inline void put_uuid(mb_buf *buf, bool there, const char id[MB_UUID_LEN]) {
  if (!there) {
    put_lit(buf, "null");
    return;
  }
  put_lit(buf, "\"");
  put(buf, id, MB_UUID_LEN);
  put_lit(buf, "\"");
}

/* Valid JSON without the white space between its tokens. */
static void put_json(mb_buf *buf, mb_bytes text, bool spaced) {
  if (!spaced) {
    if (text.len) put(buf, text.data, text.len);
    return;
  }
  char *to = buf->data + buf->len;
  bool quoted = false;
  for (size_t i = 0; i < text.len; i++) {
    char c = text.data[i];
    if (!quoted && (c == ' ' || c == '\n' || c == '\r' || c == '\t')) continue;
    *to++ = c;
    if (c == '"')
      quoted = !quoted;
    else if (c == '\\')
      *to++ = text.data[++i]; /* only in strings, never last */
  }
  buf->len = (size_t)(to - buf->data);
}

/* Texts were checked to be UTF-8, so that writing them cannot fail. */
static void write_value(const job *j, const parts *p) {
  const mb_event *event = j->event;
  const mb_encoder *from = j->encoder;
  mb_buf *buf = &j->encoder->value;
  put_lit(buf, "{\"event_id\":");
  put_uuid(buf, true, from->event_id);
  put_lit(buf, ",\"event_type\":");
  (void)mb__json_write_string(buf, event->event_type);
  put_lit(buf, ",\"event_version\":");
  mb__json_write_int(buf, p->event_version);
  put_lit(buf, ",\"occurred_at\":\"");
  put(buf, p->occurred_at.data, p->occurred_at.len);
  put_lit(buf, "\",\"aggregate_id\":");
  put_uuid(buf, true, from->key);
  put_lit(buf, ",\"aggregate_type\":");
  (void)mb__json_write_string(buf, event->aggregate_type);
  put_lit(buf, ",\"aggregate_version\":");
  mb__json_write_int(buf, p->aggregate_version);
  put_lit(buf, ",\"tenant_id\":");
  put_uuid(buf, event->tenant_id.data, from->tenant_id);
  put_lit(buf, ",\"actor_id\":");
  if (event->actor_id.data)
    (void)mb__json_write_string(buf, event->actor_id);
  else
    put_lit(buf, "null");
  put_lit(buf, ",\"correlation_id\":");
  put_uuid(buf, true, from->correlation_id);
  put_lit(buf, ",\"causation_id\":");
  put_uuid(buf, event->causation_id.data, from->causation_id);
  put_lit(buf, ",\"metadata\":");
  put_json(buf, p->metadata, p->metadata_spaced);
  if (p->members.len) put_lit(buf, ",");
  put_json(buf, p->members, p->members_spaced);
  put_lit(buf, "}");
}

static mb_bytes keep(mb_buf *names, mb_bytes text) {
  size_t at = names->len;
  if (text.len) put(names, text.data, text.len);
  return (mb_bytes){names->data + at, text.len};
}

static void add_named(mb_encoder *to, mb_bytes name, const char *data, size_t len) {
  to->headers[to->header_count++] = (mb_header){name, {data, len}};
}

#define add_header(to, literal, data, len)                                                         \
  add_named((to), (mb_bytes){"" literal, sizeof(literal) - 1}, (data), (len))

static void write_headers(const job *j, const parts *p) {
  const mb_event *event = j->event;
  mb_encoder *to = j->encoder;
  mb_bytes type = keep(&to->names, event->event_type);
  mb_bytes aggregate = keep(&to->names, event->aggregate_type);
  mb_bytes actor = keep(&to->names, event->actor_id);
  mb_buf version = {.data = to->version, .cap = sizeof to->version};
  mb__json_write_int(&version, p->aggregate_version);
  to->header_count = 0;
  add_header(to, "event_id", to->event_id, MB_UUID_LEN);
  add_header(to, "event_type", type.data, type.len);
  add_header(to, "aggregate_id", to->key, MB_UUID_LEN);
  add_header(to, "aggregate_type", aggregate.data, aggregate.len);
  add_header(to, "aggregate_version", to->version, version.len);
  add_header(to, "occurred_at", to->occurred_header, strlen(to->occurred_header));
  add_header(to, "correlation_id", to->correlation_id, MB_UUID_LEN);
  if (event->tenant_id.data) add_header(to, "tenant_id", to->tenant_id, MB_UUID_LEN);
  if (event->causation_id.data) add_header(to, "causation_id", to->causation_id, MB_UUID_LEN);
  if (actor.len) add_header(to, "actor_id", actor.data, actor.len);
}

/* Room for all that will be written: names escape to at most six bytes for one. */
static bool reserve(mb_encoder *to, const mb_event *event, const parts *p) {
  const size_t fixed = 768, most = MB_BUF_CEILING;
  size_t actor = event->actor_id.data ? event->actor_id.len : 0;
  size_t aggregate = event->aggregate_type.len, type = event->event_type.len;
  mb__buf_clear(&to->value);
  mb__buf_clear(&to->names);
  if (actor > most / 8 || aggregate > most / 8 || p->metadata.len > most || p->members.len > most)
    return false;
  size_t names = type + aggregate + actor;
  return mb__buf_reserve(&to->names, names) &&
         mb__buf_reserve(&to->value, fixed + 6 * names + p->metadata.len + p->members.len);
}

static mb_err encode(const mb_event *event, mb_encoder *encoder, bool flat, char *errstr,
                     size_t errstr_size) {
  job j = {event, encoder, errstr, errstr_size};
  parts p = {0};
  mb_err err = check_names(&j);
  if (!err) err = check_ids(&j);
  if (!err) err = check_version(&j, "event_version", event->event_version, &p.event_version);
  if (!err)
    err = check_version(&j, "aggregate_version", event->aggregate_version, &p.aggregate_version);
  if (!err) err = check_time(&j, &p);
  if (!err) err = check_metadata(&j, &p);
  if (!err && flat)
    p.members = (mb_bytes){event->data.data + 1, event->data.len - 2};
  else if (!err)
    err = check_data(&j, &p);
  if (err) return err;
  if (!reserve(encoder, event, &p))
    return mb__error(MB_ENOMEM, errstr, errstr_size, "no memory for the event's text");
  write_value(&j, &p);
  write_headers(&j, &p);
  return MB_OK;
}

mb_err mb__encode(const mb_event *event, mb_encoder *encoder, char *errstr, size_t errstr_size) {
  return encode(event, encoder, false, errstr, errstr_size);
}

mb_err mb__encode_flat(const mb_event *event, mb_encoder *encoder, char *errstr,
                       size_t errstr_size) {
  return encode(event, encoder, true, errstr, errstr_size);
}
