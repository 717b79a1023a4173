/* event/codec.c: the sentences the codec's errors are made of.
 * Must not know what is decoded or encoded.
 * Called by event/schema.c, event/decode.c, event/encode.c and event/from_json.c. */
#include "event/codec.h"

#include <stdio.h>

#include "event/wire.h"

const char *mb__shown(char out[MB_SHOWN_MAX], mb_bytes text) {
  const size_t most = 40;
  size_t len = text.data ? text.len : 0;
  bool cut = len > most;
  if (cut) {
    len = most;
    /* not in the middle of a character */
    while (len > most - 4 && ((unsigned char)text.data[len] & 0xc0) == 0x80) len--;
  }
  bool valid = !len || !mb__utf8_bad(text.data, text.data + len);
  for (size_t i = 0; i < len; i++) {
    unsigned char c = (unsigned char)text.data[i];
    out[i] = c < 0x20 || c == 0x7f || (c >= 0x80 && !valid) ? '?' : (char)c;
  }
  memcpy(out + len, cut ? "..." : "", cut ? 4 : 1);
  return out;
}
