/* base/buf.c: a growing byte buffer with a ceiling.
 * Must not know what is written into it.
 * Called by everything that writes text or JSON. */
#include "base/buf.h"

#include <stdlib.h>

char *mb__buf_grow(mb_buf *buf, size_t n) {
  size_t ceiling = buf->ceiling ? buf->ceiling : MB_BUF_CEILING;
  if (buf->failed) return NULL;
  if (n <= buf->cap - buf->len) return buf->data ? buf->data + buf->len : NULL;
  if (n > ceiling || buf->len > ceiling - n) {
    buf->failed = true;
    return NULL;
  }
  size_t cap = buf->cap ? buf->cap : 256;
  while (cap < buf->len + n) cap *= 2;
  char *data = realloc(buf->data, cap);
  if (!data) {
    buf->failed = true;
    return NULL;
  }
  buf->data = data;
  buf->cap = cap;
  return data + buf->len;
}

void mb__buf_free(mb_buf *buf) {
  free(buf->data);
  *buf = (mb_buf){.ceiling = buf->ceiling};
}

uint64_t mb__hash(uint64_t seed, mb_bytes text) {
  uint64_t hash = 14695981039346656037u ^ (seed * 0x9e3779b97f4a7c15u);
  for (size_t i = 0; i < text.len; i++)
    hash = (hash ^ (unsigned char)text.data[i]) * 1099511628211u;
  hash = (hash ^ (hash >> 32)) * 0xd6e8feb86659fd93u;
  hash ^= hash >> 32;
  return hash ? hash : 1;
}
