/* base/json.c: reads JSON text with a cursor.
 * Must not know events, Kafka or Lua; must not recurse.
 * Called by the codec, by mb_msg_field, and by whatever turns JSON into Lua values. */
#include "base/json.h"

#include "base/number.h"
#include "base/scan.h"

static bool fail(mb_json *json, const char *at, const char *error) {
  if (!json->error) {
    json->error = error;
    json->at = at;
  }
  return false;
}

static inline void space(mb_json *json) {
  const char *at = json->at;
  if (at < json->end && (unsigned char)*at > ' ') return;
  while (at < json->end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t')) at++;
  if (at != json->at) json->spaced = true;
  json->at = at;
}

void mb__json_init(mb_json *json, mb_bytes text) {
  const char *begin = text.data ? text.data : "";
  *json = (mb_json){.at = begin, .begin = begin, .end = begin + (text.data ? text.len : 0)};
}

void mb__json_done(mb_json *json) {
  mb__buf_free(&json->scratch);
}

char mb__json_peek(mb_json *json) {
  space(json);
  return json->at < json->end ? *json->at : 0;
}

bool mb__json_at_end(mb_json *json) {
  space(json);
  return json->at == json->end;
}

/* ---- strings ---- */

static bool hex4(const char *at, const char *end, unsigned *unit) {
  if (end - at < 4) return false;
  unsigned n = 0;
  for (int i = 0; i < 4; i++) {
    unsigned c = (unsigned char)at[i], digit = c - '0', letter = (c | 0x20) - 'a';
    if (digit > 9 && letter > 5) return false;
    n = n << 4 | (digit <= 9 ? digit : letter + 10);
  }
  *unit = n;
  return true;
}

static int utf8_put(char *to, unsigned rune) {
  if (rune < 0x80) {
    to[0] = (char)rune;
    return 1;
  }
  int len = rune < 0x800 ? 2 : rune < 0x10000 ? 3 : 4;
  for (int i = len - 1; i > 0; i--, rune >>= 6) to[i] = (char)(0x80 | (rune & 0x3f));
  to[0] = (char)((0xf00 >> len & 0xf0) | rune);
  return len;
}

/* at is behind "\u". The byte behind the escape (or pair of escapes), or NULL. */
static const char *escape_u(mb_json *json, const char *at, mb_buf *to) {
  unsigned rune, low;
  const char *escape = at - 2;
  if (!hex4(at, json->end, &rune)) {
    fail(json, escape, "\\u without four hex digits");
    return NULL;
  }
  at += 4;
  if (rune >= 0xd800 && rune <= 0xdfff) {
    bool pair = rune < 0xdc00 && json->end - at >= 6 && at[0] == '\\' && at[1] == 'u' &&
                hex4(at + 2, json->end, &low) && low >= 0xdc00 && low <= 0xdfff;
    if (!pair) {
      fail(json, escape, "a lone surrogate");
      return NULL;
    }
    rune = 0x10000 + ((rune - 0xd800) << 10) + (low - 0xdc00);
    at += 6;
  }
  if (to) {
    char utf8[4];
    mb__buf_add(to, utf8, (size_t)utf8_put(utf8, rune));
  }
  return at;
}

/* at is at a backslash. The byte behind the escape, or NULL. */
static const char *escape(mb_json *json, const char *at, mb_buf *to) {
  static const char names[] = "\"\\/bfnrt", means[] = "\"\\/\b\f\n\r\t";
  char c = json->end - at > 1 ? at[1] : 0;
  if (c == 'u') return escape_u(json, at + 2, to);
  const char *name = c ? memchr(names, c, sizeof names - 1) : NULL;
  if (!name) {
    fail(json, at, "an unknown escape in a string");
    return NULL;
  }
  if (to) mb__buf_char(to, means[name - names]);
  return at + 2;
}

/* The rest of a string that is not one plain run: from is behind its quote. */
static bool string_rest(mb_json *json, const char *from, mb_bytes *string) {
  mb_buf *to = string ? &json->scratch : NULL;
  if (to && !json->keep) mb__buf_clear(to);
  size_t start = json->scratch.len;
  for (;;) {
    unsigned high = 0;
    const char *at = mb__scan_plain(from, json->end, &high), *bad;
    if (high && (bad = mb__utf8_bad(from, at))) return fail(json, bad, "invalid UTF-8");
    if (to) mb__buf_add(to, from, (size_t)(at - from));
    if (at == json->end) return fail(json, at, "a string without its end");
    if (*at == '"') {
      json->at = at + 1;
      break;
    }
    if (*at != '\\') return fail(json, at, "a control character in a string");
    from = escape(json, at, to);
    if (!from) return false;
  }
  if (!string) return true;
  if (to->failed) return fail(json, json->at, "out of memory");
  *string = (mb_bytes){to->data + start, to->len - start};
  return true;
}

/* The cursor is at the opening quote. string may be NULL. */
static inline bool string_at(mb_json *json, mb_bytes *string) {
  unsigned high = 0;
  const char *from = json->at + 1, *at = mb__scan_plain(from, json->end, &high);
  if (at == json->end || *at != '"' || (high && mb__utf8_bad(from, at)))
    return string_rest(json, from, string);
  if (string) *string = (mb_bytes){from, (size_t)(at - from)};
  json->at = at + 1;
  return true;
}

bool mb__json_string(mb_json *json, mb_bytes *string) {
  if (json->error) return false;
  if (mb__json_peek(json) != '"') return fail(json, json->at, "expected a string");
  return string_at(json, string);
}

/* ---- values ---- */

static bool literal(mb_json *json, const char *word, size_t len) {
  if ((size_t)(json->end - json->at) < len || memcmp(json->at, word, len))
    return fail(json, json->at, "expected a value");
  json->at += len;
  return true;
}

/* A value that is no object and no array; c is its first byte. value may be NULL. */
static bool scalar(mb_json *json, char c, mb_value *value) {
  mb_value v = {MB_NULL, {0}};
  const char *error;
  switch (c) {
  case '"':
    v.kind = MB_STRING;
    if (!string_at(json, value ? &v.as.s : NULL)) return false;
    break;
  case 't':
  case 'f':
    v.kind = MB_BOOL;
    v.as.b = c == 't';
    if (!(c == 't' ? literal(json, "true", 4) : literal(json, "false", 5))) return false;
    break;
  case 'n':
    if (!literal(json, "null", 4)) return false;
    break;
  case '-':
  case '0':
  case '1':
  case '2':
  case '3':
  case '4':
  case '5':
  case '6':
  case '7':
  case '8':
  case '9':
    error = mb__number_read(&json->at, json->end, value ? &v : NULL);
    if (error) return fail(json, json->at, error);
    break;
  default:
    return fail(json, json->at,
                json->at == json->end ? "the text ends too early" : "expected a value");
  }
  if (value) *value = v;
  return true;
}

static bool deeper(mb_json *json) {
  if (json->depth >= MB_JSON_DEPTH) return fail(json, json->at, "nested too deeply");
  json->depth++;
  json->at++;
  return true;
}

static bool colon(mb_json *json) {
  if (mb__json_peek(json) != ':') return fail(json, json->at, "expected ':'");
  json->at++;
  return true;
}

static bool skip_key(mb_json *json) {
  if (mb__json_peek(json) != '"') return fail(json, json->at, "expected a key");
  return string_at(json, NULL) && colon(json);
}

/* What a skip has open: a bit per level, 1 = an object. */
typedef struct levels {
  uint64_t objects[(MB_JSON_DEPTH + 63) / 64];
  int floor; /* depth at which the skip began */
} levels;

static inline bool in_object(const levels *open, int depth) {
  return open->objects[(depth - 1) >> 6] >> ((depth - 1) & 63) & 1;
}

/* At '{' or '['. 1 = a value follows, 0 = it was empty, -1 = error. */
static int skip_open(mb_json *json, levels *open) {
  bool object = *json->at == '{';
  if (!deeper(json)) return -1;
  int i = json->depth - 1;
  uint64_t bit = UINT64_C(1) << (i & 63);
  if (object)
    open->objects[i >> 6] |= bit;
  else
    open->objects[i >> 6] &= ~bit;
  if (mb__json_peek(json) == (object ? '}' : ']')) {
    json->at++;
    json->depth--;
    return 0;
  }
  return !object || skip_key(json) ? 1 : -1;
}

/* Behind a value. 1 = another one follows, 0 = all that was opened is closed, -1 = error. */
static int skip_on(mb_json *json, const levels *open) {
  while (json->depth > open->floor) {
    bool object = in_object(open, json->depth);
    char c = mb__json_peek(json);
    if (c == ',') {
      json->at++;
      return !object || skip_key(json) ? 1 : -1;
    }
    if (c != (object ? '}' : ']')) {
      fail(json, json->at, object ? "expected ',' or '}'" : "expected ',' or ']'");
      return -1;
    }
    json->at++;
    json->depth--;
  }
  return 0;
}

bool mb__json_skip(mb_json *json) {
  levels open = {.floor = json->depth};
  int more = 1;
  if (json->error) return false;
  while (more > 0) {
    char c = mb__json_peek(json);
    if (c == '{' || c == '[') {
      more = skip_open(json, &open);
      if (more) continue;
    } else if (!scalar(json, c, NULL)) {
      return false;
    }
    more = skip_on(json, &open);
  }
  return more == 0;
}

bool mb__json_value(mb_json *json, mb_value *value) {
  if (json->error) return false;
  char c = mb__json_peek(json);
  if (c != '{' && c != '[') return scalar(json, c, value);
  const char *from = json->at;
  if (!mb__json_skip(json)) return false;
  *value = (mb_value){MB_JSON, {.s = {from, (size_t)(json->at - from)}}};
  return true;
}

/* ---- stepping ---- */

bool mb__json_enter_object(mb_json *json) {
  if (json->error) return false;
  if (mb__json_peek(json) != '{') return fail(json, json->at, "expected an object");
  return deeper(json);
}

bool mb__json_enter_array(mb_json *json) {
  if (json->error) return false;
  if (mb__json_peek(json) != '[') return fail(json, json->at, "expected an array");
  return deeper(json);
}

/* 1 = a member or an item follows, 0 = closed, -1 = error. */
static inline int step(mb_json *json, bool *first, char close, const char *error) {
  if (json->error) return -1;
  char c = mb__json_peek(json);
  if (c == close) {
    json->at++;
    json->depth--;
    return 0;
  }
  if (!*first) {
    if (c != ',') {
      fail(json, json->at, json->at == json->end ? "the text ends too early" : error);
      return -1;
    }
    json->at++;
    space(json);
  }
  *first = false;
  return 1;
}

int mb__json_next_item(mb_json *json, bool *first) {
  return step(json, first, ']', "expected ',' or ']'");
}

int mb__json_next_key(mb_json *json, bool *first, mb_bytes *key) {
  return mb__json_guess_key(json, first, (mb_bytes){0}, key);
}

int mb__json_guess_key(mb_json *json, bool *first, mb_bytes guess, mb_bytes *key) {
  int more = step(json, first, '}', "expected ',' or '}'");
  if (more <= 0) return more;
  const char *at = json->at;
  if (at == json->end || *at != '"') {
    fail(json, at, "expected a key");
    return -1;
  }
  if (guess.len && (size_t)(json->end - at) > guess.len + 2 && at[guess.len + 1] == '"' &&
      !memcmp(at + 1, guess.data, guess.len)) {
    json->at = at + guess.len + 2;
    return colon(json) ? 2 : -1;
  }
  return string_at(json, key) && colon(json) ? 1 : -1;
}

mb_err mb__json_peek_member(mb_bytes text, mb_bytes name, mb_bytes *string) {
  mb_json json;
  mb_bytes key, found;
  mb_err err = MB_EDECODE;
  bool first = true;
  int more = -1;
  mb__json_init(&json, text);
  if (mb__json_enter_object(&json)) {
    while ((more = mb__json_next_key(&json, &first, &key)) > 0) {
      if (key.len == name.len && !memcmp(key.data, name.data, key.len)) break;
      if (!mb__json_skip(&json)) more = -1;
      if (more < 0) break;
    }
  }
  if (more == 0) err = MB_ENOENT;
  if (more > 0 && mb__json_string(&json, &found) && found.data != json.scratch.data) {
    *string = found;
    err = MB_OK;
  }
  mb__json_done(&json);
  return err;
}
