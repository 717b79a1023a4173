/* base/error.c: the error codes' names and texts, and mb_str.
 * Must not know who fails or why.
 * Called by everything that reports an error. */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *mb_err_name(mb_err err) {
  switch (err) {
  case MB_OK: return "OK";
#define ROW(name, number, text)                                                                    \
  case MB_##name: return #name;
    MB_ERRORS(ROW)
#undef ROW
  }
  return "EUNKNOWN";
}

const char *mb_err_text(mb_err err) {
  switch (err) {
  case MB_OK: return "no error";
#define ROW(name, number, text)                                                                    \
  case MB_##name: return text;
    MB_ERRORS(ROW)
#undef ROW
  }
  return "not an error code of this library";
}

mb_bytes mb_str(const char *s) {
  return s ? (mb_bytes){s, strlen(s)} : (mb_bytes){NULL, 0};
}

/* It did not fit: end with a whole character and "...", so that nobody takes it for all of it. */
void mb__text_cut(char *text, size_t size) {
  static const char mark[] = "...";
  size_t len = strlen(text);
  if (size <= sizeof mark) return;
  if (len > size - sizeof mark) len = size - sizeof mark;
  while (len && ((unsigned char)text[len] & 0xC0) == 0x80) len--;
  memcpy(text + len, mark, sizeof mark);
}

void mb__text(char *text, size_t size, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  int len = vsnprintf(text, size, fmt, args);
  va_end(args);
  if (len >= 0 && (size_t)len >= size) mb__text_cut(text, size);
}

#define NUL "\xC0\x80" /* longer than it need be, and so no UTF-8 */

void mb__text_keep(char *text, size_t size, mb_bytes bytes) {
  size_t used = 0;
  for (size_t i = 0; i < bytes.len; i++) {
    size_t len = bytes.data[i] ? 1 : 2;
    if (used + len >= size) {
      text[used] = 0;
      mb__text_cut(text, size);
      return;
    }
    memcpy(text + used, bytes.data[i] ? &bytes.data[i] : NUL, len);
    used += len;
  }
  text[used] = 0;
}

bool mb__text_skip_nul(const char **at) {
  if ((*at)[0] != NUL[0] || (*at)[1] != NUL[1]) return false;
  *at += 2;
  return true;
}

size_t mb__text_bytes(char *text) {
  const char *from = text;
  char *to = text;
  while (*from) *to++ = mb__text_skip_nul(&from) ? 0 : *from++;
  *to = 0;
  return (size_t)(to - text);
}

mb_err mb__error(mb_err err, char *errstr, size_t errstr_size, const char *fmt, ...) {
  va_list args;
  if (!errstr || !errstr_size) return err;
  va_start(args, fmt);
  int len = vsnprintf(errstr, errstr_size, fmt, args);
  va_end(args);
  if (len >= 0 && (size_t)len >= errstr_size) mb__text_cut(errstr, errstr_size);
  return err;
}
