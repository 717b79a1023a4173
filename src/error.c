/* error.c: the error codes' names and texts, and mb_str.
 * Must not know who fails or why.
 * Called by everything that reports an error. */
#include <string.h>

#include "moonbus.h"

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
