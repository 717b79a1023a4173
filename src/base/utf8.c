/* base/utf8.c: validates UTF-8.
 * Must not know what the text means.
 * Called by the JSON reader and writer, and by the codec for bare text. */
#include "base/json.h"

static const char *skip_ascii(const char *at, const char *end) {
  for (; end - at >= 8; at += 8) {
    uint64_t v;
    memcpy(&v, at, 8);
    if (v & UINT64_C(0x8080808080808080)) break;
  }
  while (at < end && (unsigned char)*at < 0x80) at++;
  return at;
}

/* Length of the sequence that lead begins, and the bounds of its second byte; 0 = it begins none.
 */
static int sequence(unsigned char lead, unsigned char *low, unsigned char *high) {
  *low = 0x80, *high = 0xbf;
  if (lead >= 0xc2 && lead <= 0xdf) return 2;
  if (lead >= 0xe0 && lead <= 0xef) {
    if (lead == 0xe0) *low = 0xa0;
    if (lead == 0xed) *high = 0x9f;
    return 3;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    if (lead == 0xf0) *low = 0x90;
    if (lead == 0xf4) *high = 0x8f;
    return 4;
  }
  return 0;
}

const char *mb__utf8_bad(const char *at, const char *end) {
  while ((at = skip_ascii(at, end)) < end) {
    unsigned char low, high;
    const unsigned char *u = (const unsigned char *)at;
    int len = sequence(u[0], &low, &high);
    if (!len || end - at < len || u[1] < low || u[1] > high) return at;
    for (int i = 2; i < len; i++)
      if ((u[i] & 0xc0) != 0x80) return at;
    at += len;
  }
  return NULL;
}

bool mb__utf8_valid(mb_bytes text) {
  return !text.len || !mb__utf8_bad(text.data, text.data + text.len);
}
