/* error.c: the error codes' names and texts, and mb_str.
 * Must not know who fails or why.
 * Called by everything that reports an error. */
#include "error.h"

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

mb_err mb__error(mb_err err, char *errstr, size_t errstr_size, const char *fmt, ...) {
  va_list args;
  if (!errstr || !errstr_size) return err;
  va_start(args, fmt);
  vsnprintf(errstr, errstr_size, fmt, args);
  va_end(args);
  return err;
}
