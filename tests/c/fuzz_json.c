/* fuzz_json.c: libFuzzer target: any bytes may be read as JSON, and what is read can be written.
 * Must not know events.
 * Run by hand and by CI, built with -DFUZZ=ON. */
#include <math.h>
#include <stdlib.h>

#include "base/json.h"

#define MUST(fact)                                                                                 \
  do {                                                                                             \
    if (!(fact)) abort();                                                                          \
  } while (0)

/* Write the value at the cursor again; false = the text is not JSON. */
static bool copy_value(mb_json *json, mb_buf *to) {
  mb_value v;
  mb_bytes key;
  bool first = true;
  int more;
  char c = mb__json_peek(json);
  if (c == '{') {
    if (!mb__json_enter_object(json)) return false;
    mb__buf_char(to, '{');
    while (mb__buf_char(to, ' '), (more = mb__json_next_key(json, &first, &key)) > 0) {
      if (to->data[to->len - 2] != '{') mb__buf_char(to, ',');
      MUST(mb__json_write_string(to, key));
      mb__buf_char(to, ':');
      if (!copy_value(json, to)) return false;
    }
    mb__buf_char(to, '}');
    return more == 0;
  }
  if (c == '[') {
    if (!mb__json_enter_array(json)) return false;
    mb__buf_char(to, '[');
    while (mb__buf_char(to, ' '), (more = mb__json_next_item(json, &first)) > 0) {
      if (to->data[to->len - 2] != '[') mb__buf_char(to, ',');
      if (!copy_value(json, to)) return false;
    }
    mb__buf_char(to, ']');
    return more == 0;
  }
  if (!mb__json_value(json, &v)) return false;
  switch (v.kind) {
  case MB_NULL: mb__buf_lit(to, "null"); break;
  case MB_BOOL: mb__buf_add(to, v.as.b ? "true" : "false", v.as.b ? 4 : 5); break;
  case MB_INT: mb__json_write_int(to, v.as.i); break;
  case MB_UINT: mb__json_write_uint(to, v.as.u); break;
  case MB_DOUBLE: MUST(isfinite(v.as.d) && mb__json_write_double(to, v.as.d)); break;
  case MB_STRING: MUST(mb__json_write_string(to, v.as.s)); break;
  case MB_JSON: abort();
  }
  return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  mb_bytes text = {(const char *)data, size};
  mb_json json;
  mb_value value;
  mb_bytes member;
  mb_buf once = {0}, twice = {0};

  mb__json_init(&json, text);
  bool skipped = mb__json_skip(&json);
  MUST(skipped == !json.error && json.at >= json.begin && json.at <= json.end);
  skipped = skipped && mb__json_at_end(&json);
  mb__json_done(&json);

  mb__json_init(&json, text);
  MUST((mb__json_value(&json, &value) && mb__json_at_end(&json)) == skipped);
  mb__json_done(&json);

  mb__json_init(&json, text);
  MUST((copy_value(&json, &once) && mb__json_at_end(&json)) == skipped);
  mb__json_done(&json);

  if (skipped) {
    mb__json_init(&json, mb__buf_bytes(&once));
    MUST(copy_value(&json, &twice) && mb__json_at_end(&json));
    MUST(once.len == twice.len && !memcmp(once.data, twice.data, once.len));
    mb__json_done(&json);
  }
  mb_err err = mb__json_peek_member(text, mb_str("a"), &member);
  MUST(err == MB_OK || err == MB_ENOENT || err == MB_EDECODE);
  if (!err) MUST(member.data >= text.data && member.data + member.len <= text.data + size);
  mb__buf_free(&once);
  mb__buf_free(&twice);
  return 0;
}
