/* event/codec.h: record value and headers <-> event. The wire contract, byte-compatible with
 * eventsource-py. Knows JSON and the twelve base fields; knows nothing of brokers, buses or Lua. */
#ifndef MB_CODEC_H
#define MB_CODEC_H

#include "base/buf.h"
#include "base/json.h"
#include "base/timestamp.h"
#include "base/uuid.h"
#include "moonbus.h"

/* true if the text is a decimal number as Python's Decimal writes it: "12.340", "1E+3", "-0.0". */
bool mb__decimal_valid(mb_bytes text);

/* ---- schemas: what an event type declares ---- */

typedef enum mb_type {
  MB_T_STRING,
  MB_T_NUMBER,  /* a double; written with '.' or exponent */
  MB_T_INTEGER, /* int64 or uint64; reads 5, "5" and 5.0 */
  MB_T_BOOLEAN,
  MB_T_UUID,      /* text, normalised to lower case with hyphens */
  MB_T_TIMESTAMP, /* ISO 8601 text; JSON numbers are epoch seconds or milliseconds */
  MB_T_DECIMAL,   /* text such as "12.340"; JSON numbers are taken by their digits */
  MB_T_OBJECT,
  MB_T_ARRAY,
  MB_T_ANY,
} mb_type;

#define MB_KEY_MAX 32

typedef struct mb_field {
  const char *name; /* owned by the schema */
  size_t name_len;
  char key[MB_KEY_MAX];  /* ,"name": as it stands between members, then zeros; see key_len */
  unsigned char key_len; /* 0 = the name is too long for it */
  uint32_t key_mask; /* a bit for each byte of key, the first the lowest; all if there is none */
  mb_type type;
  bool array_of; /* "string[]": an array whose elements are of type */
  bool optional; /* null or absent is allowed */
  bool base;     /* one of the twelve */
  bool raw;      /* undeclared: any value, null too, or none */
} mb_field;

/* The twelve base fields come first, in wire order; declared fields follow in declaration order. */
enum {
  MB_F_EVENT_ID,
  MB_F_EVENT_TYPE,
  MB_F_EVENT_VERSION,
  MB_F_OCCURRED_AT,
  MB_F_AGGREGATE_ID,
  MB_F_AGGREGATE_TYPE,
  MB_F_AGGREGATE_VERSION,
  MB_F_TENANT_ID,
  MB_F_ACTOR_ID,
  MB_F_CORRELATION_ID,
  MB_F_CAUSATION_ID,
  MB_F_METADATA,
  MB_F_BASE_COUNT
};

#define MB_FIELDS_MAX 128 /* base and declared */

typedef struct mb_schema {
  char *name;       /* event type; owned */
  mb_field *fields; /* owned */
  size_t count;     /* >= MB_F_BASE_COUNT */
  int64_t version;  /* the event_version that is declared; 0 = none is */
  bool lifts;       /* events of lower versions are not read, but given back to be lifted */
} mb_schema;

/* A schema with only the base fields. NULL when out of memory or the name is empty, longer than 249
 * bytes or not UTF-8. */
mb_schema *mb__schema_new(mb_bytes name);
/* Add a declared field. spec is "string", "number?", "uuid[]", "string[]?" and so on.
 * MB_EINVAL: unknown type (errstr names the types), the name is empty, a base field's or taken, not
 * UTF-8 or has a quote, backslash or control character, too many fields. MB_ENOMEM. */
mb_err mb__schema_add(mb_schema *schema, mb_bytes name, mb_bytes spec, char *errstr,
                      size_t errstr_size);
void mb__schema_free(mb_schema *schema);
/* A schema with the base fields and the name "", for events of undeclared types, and one more
 * member of theirs to be read: whatever it is, null is kept, and it may be absent. A base field's
 * name changes nothing. NULL, MB_ENOMEM: out of memory; MB_EINVAL as of mb__schema_add. */
mb_schema *mb__schema_undeclared(void);
mb_err mb__schema_take(mb_schema *schema, mb_bytes name);
/* The base fields alone, static, with the name ""; for events of undeclared types. Errors then name
 * the event by the event_type it has. */
const mb_schema *mb__schema_base(void);
/* "string", "uuid[]?" ... as it was declared. buf is at least 24 bytes. */
const char *mb__field_spec(const mb_field *field, char *buf, size_t size);

/* ---- decoding ---- */

/* Storage a decode writes into and reuses: unescaped and normalised text. All zero to begin with.
 */
typedef struct mb_decoder {
  mb_buf text; /* a slot for each field's normalised text, then unescaped strings */
  mb_value values[MB_FIELDS_MAX];
  bool present[MB_FIELDS_MAX];
  int64_t outdated; /* the version of an event that was given back to be lifted; 0 = it was not */
} mb_decoder;

void mb__decoder_free(mb_decoder *decoder);

/* Where a record comes from, to fill base fields its value lacks. */
typedef struct mb_origin {
  const char *topic;
  int32_t partition;
  int64_t offset;
  int64_t timestamp_ms;
  /* first header of that name; NULL = there are no headers */
  mb_err (*header)(const void *record, const char *name, mb_bytes *value);
  const void *record;
} mb_origin;

/* Decode an event value against a schema, in one pass over the text; every byte is validated,
 * members that are not declared are passed over, of duplicate keys the last wins.
 *
 * On MB_OK decoder->values[i] holds field i: present[i] false or MB_NULL when an optional field is
 * absent or null; otherwise a value of the declared type: STRING, UUID, TIMESTAMP, DECIMAL as
 * MB_STRING (uuid lower-cased and hyphenated, timestamps in the wire's form with the offset kept
 * when it is canonical already and normalised to Z otherwise), NUMBER as MB_DOUBLE, INTEGER as
 * MB_INT or MB_UINT, BOOLEAN as MB_BOOL, OBJECT, ARRAY and T[] as MB_JSON (elements of T[]
 * checked, but as they stand: see mb__fit; none may be null unless T is any), ANY as it comes (null
 * too). Base versions are MB_INT, at least 1. A type error is found only after the whole text was
 * read, so that the last of duplicate keys decides, and text that is not JSON is always called so.
 * Views point into the text or into the decoder: valid until either changes.
 *
 * Base fields that the value lacks (or has as null where null is not allowed): event_id from the
 * header, else derived from topic, partition and offset (so that a redelivery has the same id);
 * occurred_at from the header, else the record's timestamp, else 1970; correlation_id from the
 * header, else event_id; event_type (also when empty), aggregate_id, aggregate_type from the
 * headers, else an error; versions 1; metadata {}. Headers that are no UUID, timestamp or UTF-8
 * count as absent. origin may be NULL.
 *
 * An event_version below that of a schema that lifts: MB_EDECODE with decoder->outdated set, before
 * any field is looked at; the values are not to be used then.
 *
 * MB_EDECODE with errstr like `OrderPlaced.total: expected number, got string "abc" (byte 312)` or
 * `value is not JSON: ... (byte 17)`; tombstones: `the record has no value (a tombstone)`. */
mb_err mb__decode(const mb_schema *schema, mb_bytes value, const mb_origin *origin,
                  mb_decoder *decoder, char *errstr, size_t errstr_size);

/* Turn a JSON value into one of the declared type, as mb__decode promises it of a field. raw is its
 * JSON text; slot has MB_TIME_MAX bytes for text that must be normalised. false when it does not
 * fit. */
bool mb__fit(mb_type type, mb_bytes raw, mb_value *value, char *slot);

/* ---- encoding ---- */

/* One header to write: its name is a literal's, its value borrowed from the encoder. */
typedef struct mb_header {
  mb_bytes name, value;
} mb_header;

#define MB_HEADERS_MAX 13 /* three of them the trace context: event/trace.h */

/* Storage an encode writes into and reuses. */
typedef struct mb_encoder {
  mb_buf value;                      /* the JSON text */
  mb_header headers[MB_HEADERS_MAX]; /* in wire order */
  size_t header_count;
  char key[MB_UUID_LEN]; /* aggregate_id, lower case */
  /* what the header views point to */
  char event_id[MB_UUID_LEN], correlation_id[MB_UUID_LEN], causation_id[MB_UUID_LEN],
      tenant_id[MB_UUID_LEN];
  char occurred_json[MB_TIME_MAX], occurred_header[MB_TIME_MAX], version[24];
  mb_buf names; /* event_type, aggregate_type, actor_id: copied */
} mb_encoder;

void mb__encoder_free(mb_encoder *encoder);

/* Write an event's value, headers and key. Checks everything: UUIDs, timestamps, versions >= 1,
 * UTF-8, data and metadata are JSON objects, data has no base field's name; members of data are
 * copied as they stand (white space outside strings removed), in their order, after the base
 * fields. MB_EEVENT with errstr naming event and field. */
mb_err mb__encode(const mb_event *event, mb_encoder *encoder, char *errstr, size_t errstr_size);

/* The same for data that is known to hold no base field's name, no white space and nothing nested,
 * and to be JSON. */
mb_err mb__encode_flat(const mb_event *event, mb_encoder *encoder, char *errstr,
                       size_t errstr_size);

/* An event from one JSON object that holds base fields and own fields side by side, as a line of
 * `moonbus publish` does; a base field that is null counts as absent. Fills *event: its views
 * borrow from text, default_type and store (which must outlive them). default_type fills a missing
 * event_type. Checks JSON types only; mb__encode checks the rest. MB_EEVENT, MB_EDECODE. */
typedef struct mb_event_store {
  mb_buf data, text;
} mb_event_store;
void mb__event_store_free(mb_event_store *store);
mb_err mb__event_from_json(mb_bytes text, mb_bytes default_type, mb_event_store *store,
                           mb_event *event, char *errstr, size_t errstr_size);

#endif
