/* event/fit.c: does a JSON value fit a declared type, and what is it then?
 * Must not know fields, schemas or records.
 * Called by event/decode.c. */
#include <stdio.h>

#include "base/number.h"
#include "event/codec.h"
#include "event/wire.h"

#define MILLISECONDS_MAX INT64_C(300000000000000) /* past the year 9999 */

static bool integer(bool negative, uint64_t n, mb_value *value) {
  if (negative ? n > (uint64_t)1 << 63 : n > (uint64_t)INT64_MAX) {
    if (negative) return false;
    *value = (mb_value){MB_UINT, {.u = n}};
  } else {
    *value = (mb_value){MB_INT, {.i = (int64_t)(negative ? 0 - n : n)}};
  }
  return true;
}

/* false: it has more than 64 bits. */
static bool add_digit(uint64_t *n, unsigned digit) {
  return !__builtin_mul_overflow(*n, (uint64_t)10, n) &&
         !__builtin_add_overflow(*n, (uint64_t)digit, n);
}

/* Digits with an optional sign, of at most 64 bits. */
static bool integer_of_text(mb_bytes text, mb_value *value) {
  size_t i = text.len && (text.data[0] == '-' || text.data[0] == '+');
  bool negative = i && text.data[0] == '-';
  uint64_t n = 0;
  if (i == text.len) return false;
  for (; i < text.len; i++) {
    unsigned digit = (unsigned)(unsigned char)text.data[i] - '0';
    if (digit > 9 || !add_digit(&n, digit)) return false;
  }
  return integer(negative, n, value);
}

/* Any JSON number. By its digits: a double would have rounded it, and may be whole where the number
 * is not. */
static bool integer_of_number(mb_bytes raw, mb_value *value) {
  const char *at = raw.data, *end = at + raw.len;
  bool negative = *at == '-', fraction = false;
  uint64_t n = 0;
  int64_t zeros = 0, shift = 0; /* n, then so many zeros, times 10^shift */
  for (at += negative; at < end && (*at | 0x20) != 'e'; at++) {
    if (*at == '.') {
      fraction = true;
      continue;
    }
    shift -= fraction;
    zeros++;
    if (*at == '0') continue;
    for (; zeros > 1; zeros--)
      if (!add_digit(&n, 0)) return false;
    if (!add_digit(&n, (unsigned)(*at - '0'))) return false;
    zeros = 0;
  }
  if (!n) return integer(false, 0, value);
  shift += zeros + mb__number_exponent(at, end);
  if (shift < 0) return false;
  for (; shift > 0; shift--)
    if (!add_digit(&n, 0)) return false;
  return integer(negative, n, value);
}

static bool fit_integer(mb_bytes raw, mb_value *value) {
  switch (value->kind) {
  case MB_INT:
  case MB_UINT: return true;
  case MB_DOUBLE: return integer_of_number(raw, value);
  case MB_STRING: return integer_of_text(value->as.s, value);
  default: return false;
  }
}

static bool fit_number(mb_value *value) {
  double d;
  switch (value->kind) {
  case MB_INT: d = (double)value->as.i; break;
  case MB_UINT: d = (double)value->as.u; break;
  case MB_DOUBLE: return true;
  default: return false;
  }
  *value = (mb_value){MB_DOUBLE, {.d = d}};
  return true;
}

static bool fit_uuid(mb_value *value, char *slot) {
  bool canonical;
  if (value->kind != MB_STRING || !mb__uuid_parse(value->as.s, slot, &canonical)) return false;
  if (!canonical) value->as.s = (mb_bytes){slot, MB_UUID_LEN};
  return true;
}

/* Epoch seconds or, beyond 2e10, milliseconds. */
static bool time_of_number(const mb_value *number, int64_t *us) {
  /* a whole number this large is in milliseconds: as seconds it would be the year 2603 and later */
  const int64_t watershed = INT64_C(20000000000);
  int64_t value;
  if (number->kind == MB_INT) {
    int64_t i = number->as.i;
    if (i > MILLISECONDS_MAX || i < -MILLISECONDS_MAX) return false;
    value = i > watershed || i < -watershed ? i * 1000 : i * 1000000;
  } else if (number->kind == MB_DOUBLE) {
    double d = number->as.d, scale = d > 2e10 || d < -2e10 ? 1e3 : 1e6;
    if (!(d * scale > -9e17 && d * scale < 9e17)) return false;
    value = (int64_t)(d * scale + (d < 0 ? -0.5 : 0.5));
  } else {
    return false;
  }
  if (!mb__time_in_range(value)) return false;
  *us = value;
  return true;
}

static bool fit_timestamp(mb_value *value, char *slot) {
  int64_t us;
  if (value->kind == MB_STRING) return mb__time_normalise(value->as.s, slot, &value->as.s);
  if (!time_of_number(value, &us)) return false;
  *value = (mb_value){MB_STRING, {.s = {slot, mb__time_format(slot, us, "Z")}}};
  return true;
}

static const char *digits(const char *at, const char *end) {
  while (at < end && (unsigned char)(*at - '0') <= 9) at++;
  return at;
}

/* Python's str(Decimal) and what a person may write: [+-] digits [. digits] [e [+-] digits]. */
bool mb__decimal_valid(mb_bytes text) {
  const char *at = text.data, *end = at + text.len;
  if (at < end && (*at == '-' || *at == '+')) at++;
  const char *from = at;
  at = digits(at, end);
  bool some = at > from;
  if (at < end && *at == '.') {
    from = ++at;
    at = digits(at, end);
    some |= at > from;
  }
  if (!some) return false;
  if (at < end && (*at == 'e' || *at == 'E')) {
    at++;
    if (at < end && (*at == '-' || *at == '+')) at++;
    from = at;
    at = digits(at, end);
    if (at == from) return false;
  }
  return at == end;
}

static bool fit_decimal(mb_bytes raw, mb_value *value) {
  switch (value->kind) {
  case MB_STRING: return mb__decimal_valid(value->as.s);
  case MB_INT:
  case MB_UINT:
  case MB_DOUBLE: *value = (mb_value){MB_STRING, {.s = raw}}; return true;
  default: return false;
  }
}

bool mb__fit(mb_type type, mb_bytes raw, mb_value *value, char *slot) {
  switch (type) {
  case MB_T_STRING: return value->kind == MB_STRING;
  case MB_T_NUMBER: return fit_number(value);
  case MB_T_INTEGER: return fit_integer(raw, value);
  case MB_T_BOOLEAN: return value->kind == MB_BOOL;
  case MB_T_UUID: return fit_uuid(value, slot);
  case MB_T_TIMESTAMP: return fit_timestamp(value, slot);
  case MB_T_DECIMAL: return fit_decimal(raw, value);
  case MB_T_OBJECT: return value->kind == MB_JSON && raw.data[0] == '{';
  case MB_T_ARRAY: return value->kind == MB_JSON && raw.data[0] == '[';
  case MB_T_ANY: return true;
  }
  return false;
}

const char *mb__got(char out[MB_GOT_MAX], mb_bytes raw) {
  char shown[MB_SHOWN_MAX];
  const char *kind = "number ";
  switch (raw.len ? raw.data[0] : 0) {
  case 0: return "nothing";
  case '{': return "an object";
  case '[': return "an array";
  case 'n': return "null";
  case 't':
  case 'f': kind = "boolean "; break;
  case '"': kind = "string "; break;
  }
  snprintf(out, MB_GOT_MAX, "%s%s", kind, mb__shown(shown, raw));
  return out;
}
