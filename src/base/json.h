/* base/json.h: the only JSON rules. RFC 8259, strict: no BOM, no NaN, no trailing text, valid
 * UTF-8, no lone surrogates, at most MB_JSON_DEPTH levels. Numbers are exact: integers as int64 or
 * uint64, the rest as the nearest double; a number beyond double's range is an error. Knows nothing
 * of events, Kafka or Lua. */
#ifndef MB_JSON_H
#define MB_JSON_H

#include "base/buf.h"
#include "moonbus.h"

#define MB_JSON_DEPTH 128

/* ---- reading: a cursor over text that is borrowed while it is read ---- */

typedef struct mb_json {
  const char *at, *end, *begin;
  int depth;
  bool spaced;       /* white space was passed over */
  bool keep;         /* scratch is appended to, not reused: every string stays valid. The owner of
                        scratch reserved as many bytes as the text has, so that it never moves */
  const char *error; /* static text of the first error; NULL while all is well */
  mb_buf scratch;    /* unescaped strings; freed by mb__json_done */
} mb_json;

void mb__json_init(mb_json *json, mb_bytes text);
void mb__json_done(mb_json *json);
/* Byte offset of the cursor, for error messages. */
static inline size_t mb__json_offset(const mb_json *json) {
  return (size_t)(json->at - json->begin);
}

/* Read one value. Scalars: filled in. A string without escapes borrows from the text, one with
 * escapes from scratch (valid until the next string that has escapes is read or mb__json_done,
 * whichever is first). Objects and arrays: validated whole and returned as MB_JSON, a borrowed
 * slice of the text. false on an error (json->error says which, json->at is where). */
bool mb__json_value(mb_json *json, mb_value *value);

/* Read a string: the cursor must be at '"' (after white space), else error. */
bool mb__json_string(mb_json *json, mb_bytes *string);

/* Validate and pass over one value. */
bool mb__json_skip(mb_json *json);

/* Step into an object or array: the cursor must be at '{' / '[' (after white space), else error. */
bool mb__json_enter_object(mb_json *json);
bool mb__json_enter_array(mb_json *json);
/* Inside an object: read the next key and its colon. 1 = there is one (*key as a string value, the
 * cursor at the member's value), 0 = the object ended, -1 = error. *first starts true. */
int mb__json_next_key(mb_json *json, bool *first, mb_bytes *key);
/* The same with a guess: 2 = the next key is guess, written without escapes (*key is not set).
 * guess is UTF-8 without quotes, backslashes and control characters; empty = no guess. */
int mb__json_guess_key(mb_json *json, bool *first, mb_bytes guess, mb_bytes *key);
/* Inside an array: 1 = the cursor is at the next element, 0 = the array ended, -1 = error. */
int mb__json_next_item(mb_json *json, bool *first);
/* Only white space is left. */
bool mb__json_at_end(mb_json *json);
/* The first byte of the next value after white space ('{', '[', '"', 't', 'f', 'n', '-', digit), or
 * 0 at the end; does not move past it. */
char mb__json_peek(mb_json *json);

/* A string that is a top-level member of a JSON object, without validating what follows it (so of
 * duplicate keys the first is taken); the way to read event_type from a record nobody may want.
 * Borrowed from text. MB_ENOENT; MB_EDECODE when it is no string, has escapes (callers then decode
 * in full), or the text up to it is not JSON. */
mb_err mb__json_peek_member(mb_bytes text, mb_bytes name, mb_bytes *string);

/* ---- writing ---- */

/* A quoted, escaped string: \" \\ \b \f \n \r \t, other control characters as \u00xx in lower case,
 * all else raw. false (nothing written) when the text is not valid UTF-8. */
bool mb__json_write_string(mb_buf *buf, mb_bytes text);
void mb__json_write_int(mb_buf *buf, int64_t i);
void mb__json_write_uint(mb_buf *buf, uint64_t u);
/* The shortest text that reads back as the same double, always with a '.' or an exponent: 100.0 0.1
 * -0.0 0.00001 1e-6 1000000000000000.0 1e+16 (fixed notation from 1e-5 up to below 1e16). false
 * (nothing written) for NaN and infinities. */
bool mb__json_write_double(mb_buf *buf, double d);

/* True when all of it is valid UTF-8 (no surrogates, no overlong forms, at most U+10FFFF). */
bool mb__utf8_valid(mb_bytes text);
/* The first byte that is not valid UTF-8, or NULL. */
const char *mb__utf8_bad(const char *at, const char *end);

#endif
