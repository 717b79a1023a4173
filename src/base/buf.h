/* base/buf.h: a growing byte buffer with a ceiling. Knows nothing of what is written.
 * A failed append sets failed and drops what follows, so that callers check once, at the end. */
#ifndef MB_BUF_H
#define MB_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "moonbus.h"

typedef struct mb_buf {
  char *data;               /* owned; NULL until the first append */
  size_t len, cap, ceiling; /* ceiling 0 = MB_BUF_CEILING */
  bool failed;
} mb_buf;

#define MB_BUF_CEILING ((size_t)256 * 1024 * 1024)

char *mb__buf_grow(mb_buf *buf, size_t n);
/* Room for n more bytes: the place to write them, or NULL (then failed is set). Does not move len.
 */
static inline char *mb__buf_reserve(mb_buf *buf, size_t n) {
  if (!buf->failed && buf->data && n <= buf->cap - buf->len) return buf->data + buf->len;
  return mb__buf_grow(buf, n);
}
void mb__buf_free(mb_buf *buf);

/* FNV-1a, its end mixed; never 0. */
uint64_t mb__hash(uint64_t seed, mb_bytes text);

static inline void mb__buf_clear(mb_buf *buf) {
  buf->len = 0;
  buf->failed = false;
}

static inline void mb__buf_add(mb_buf *buf, const char *data, size_t len) {
  char *to = mb__buf_reserve(buf, len);
  if (to && len) {
    memcpy(to, data, len);
    buf->len += len;
  }
}

static inline void mb__buf_char(mb_buf *buf, char c) {
  char *to = mb__buf_reserve(buf, 1);
  if (to) {
    *to = c;
    buf->len++;
  }
}

#define mb__buf_lit(buf, literal) mb__buf_add((buf), "" literal, sizeof(literal) - 1)

static inline mb_bytes mb__buf_bytes(const mb_buf *buf) {
  return (mb_bytes){buf->data ? buf->data : "", buf->len};
}

#endif
