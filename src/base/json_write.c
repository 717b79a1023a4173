/* base/json_write.c: writes JSON strings and numbers.
 * Must not know what they stand for, nor the process's locale.
 * Called by the codec and by whatever turns Lua values into JSON. */
#include <float.h>
#include <math.h>
#include <stdio.h>

#include "base/json.h"
#include "base/number.h"
#include "base/scan.h"

static void write_escape(mb_buf *buf, unsigned char c) {
  static const char hex[] = "0123456789abcdef", names[] = "btn?fr"; /* 8..13 */
  char out[6] = {'\\', (char)c};
  size_t len = 2;
  if (c >= 8 && c <= 13 && c != 11) {
    out[1] = names[c - 8];
  } else if (c < 0x20) {
    memcpy(out, "\\u00", 4);
    out[4] = hex[c >> 4];
    out[5] = hex[c & 15];
    len = 6;
  }
  mb__buf_add(buf, out, len);
}

bool mb__json_write_string(mb_buf *buf, mb_bytes text) {
  unsigned high = 0;
  const char *at = text.data ? text.data : "", *end = at + (text.data ? text.len : 0);
  const char *stop = mb__scan_plain(at, end, &high);
  if ((high || stop < end) && mb__utf8_bad(at, end)) return false;
  char *to = mb__buf_reserve(buf, (size_t)(end - at) + 2);
  if (to && stop == end) {
    *to = '"';
    memcpy(to + 1, at, (size_t)(end - at));
    to[1 + (end - at)] = '"';
    buf->len += (size_t)(end - at) + 2;
    return true;
  }
  mb__buf_char(buf, '"');
  for (;;) {
    mb__buf_add(buf, at, (size_t)(stop - at));
    if (stop == end) break;
    write_escape(buf, (unsigned char)*stop);
    at = stop + 1;
    stop = mb__scan_plain(at, end, &high);
  }
  mb__buf_char(buf, '"');
  return true;
}

/* Decimal digits of u at the end of out (20 bytes); returns how many. */
static size_t digits_of(char out[20], uint64_t u) {
  size_t at = 20;
  do out[--at] = (char)('0' + u % 10);
  while (u /= 10);
  return 20 - at;
}

void mb__json_write_uint(mb_buf *buf, uint64_t u) {
  char out[20];
  size_t len = digits_of(out, u);
  mb__buf_add(buf, out + 20 - len, len);
}

void mb__json_write_int(mb_buf *buf, int64_t i) {
  if (i >= 0 && i <= 9) {
    mb__buf_char(buf, (char)('0' + i));
    return;
  }
  if (i < 0) mb__buf_char(buf, '-');
  mb__json_write_uint(buf, i < 0 ? 0 - (uint64_t)i : (uint64_t)i);
}

/* ---- doubles: 0.DIGITS * 10^point, d > 0 ---- */

typedef struct shortest {
  char digits[20]; /* without trailing zeros */
  int count, point;
} shortest;

static void strip_zeros(shortest *s) {
  while (s->count > 1 && s->digits[s->count - 1] == '0') s->count--;
}

/* d as an integer of at most 15 digits divided by a power of ten. Such an integer is the only one
 * of 15 digits that reads back as d, so the first found is the shortest; the division of two exact
 * numbers rounds as reading the text would. */
static bool plain(double d, shortest *s) {
  if (FLT_EVAL_METHOD != 0 || d >= 1e15 || d < 1e-7) return false;
  for (int k = 0; k <= MB_EXACT_POWERS; k++) {
    double scaled = d * mb__power10[k];
    if (scaled >= 1e15) return false;
    uint64_t n = (uint64_t)(scaled + 0.5);
    if ((double)n / mb__power10[k] != d) continue;
    char out[20];
    size_t len = digits_of(out, n);
    memcpy(s->digits, out + 20 - len, len);
    s->count = (int)len;
    s->point = (int)len - k;
    strip_zeros(s);
    return true;
  }
  return false;
}

static bool reads_back(double d, const shortest *s) {
  char text[40];
  snprintf(text, sizeof text, "%.*se%d", s->count, s->digits, s->point - s->count);
  return mb__strtod(text) == d;
}

static void next_up(shortest *s) {
  int i = s->count - 1;
  for (; i >= 0 && s->digits[i] == '9'; i--) s->digits[i] = '0';
  if (i >= 0) {
    s->digits[i]++;
  } else {
    s->digits[0] = '1';
    s->point++;
  }
}

/* true if d is the same when it is written with that many digits and read again. The locale decides
 * what the decimal point is, so the digits alone are taken from the text. */
static bool survives(double d, int precision, shortest *s) {
  char text[64];
  snprintf(text, sizeof text, "%.*e", precision - 1, d);
  const char *at = text;
  for (s->count = 0; *at && *at != 'e'; at++)
    if (*at >= '0' && *at <= '9' && s->count < (int)sizeof s->digits) s->digits[s->count++] = *at;
  int sign = at[0] && at[1] == '-' ? -1 : 1, exp10 = 0;
  for (at += 2; *at >= '0' && *at <= '9'; at++) exp10 = exp10 * 10 + (*at - '0');
  s->point = sign * exp10 + 1;
  bool good = reads_back(d, s);
  /* below a power of two doubles lie closer: what is nearest may miss, and the next above hit */
  uint64_t bits;
  memcpy(&bits, &d, sizeof bits);
  if (!good && !(bits << 12)) {
    next_up(s);
    good = reads_back(d, s);
  }
  if (good) strip_zeros(s);
  return good;
}

static void search(double d, shortest *s) {
  /* any normal double keeps 15 digits, so that fewer are found by dropping zeros */
  for (int precision = d >= DBL_MIN ? 15 : 1; precision < 17; precision++)
    if (survives(d, precision, s)) return;
  (void)survives(d, 17, s);
}

static char *put_zeros(char *to, int n) {
  for (; n > 0; n--) *to++ = '0';
  return to;
}

static char *put_digits(char *to, const shortest *s, int from, int n) {
  memcpy(to, s->digits + from, (size_t)n);
  return to + n;
}

static char *put_fixed(char *to, const shortest *s) {
  if (s->point <= 0) {
    *to++ = '0';
    *to++ = '.';
    return put_digits(put_zeros(to, -s->point), s, 0, s->count);
  }
  if (s->point >= s->count) {
    to = put_zeros(put_digits(to, s, 0, s->count), s->point - s->count);
    *to++ = '.';
    *to++ = '0';
    return to;
  }
  to = put_digits(to, s, 0, s->point);
  *to++ = '.';
  return put_digits(to, s, s->point, s->count - s->point);
}

static char *put_exponent(char *to, const shortest *s) {
  char out[20];
  int exp10 = s->point - 1;
  *to++ = s->digits[0];
  if (s->count > 1) {
    *to++ = '.';
    to = put_digits(to, s, 1, s->count - 1);
  }
  *to++ = 'e';
  *to++ = exp10 < 0 ? '-' : '+';
  size_t len = digits_of(out, (uint64_t)(exp10 < 0 ? -exp10 : exp10));
  memcpy(to, out + 20 - len, len);
  return to + len;
}

bool mb__json_write_double(mb_buf *buf, double d) {
  char out[48], *to = out;
  shortest s = {.digits = "0", .count = 1, .point = 1};
  if (!isfinite(d)) return false;
  if (signbit(d)) *to++ = '-';
  d = fabs(d);
  if (d != 0 && !plain(d, &s)) search(d, &s);
  to = s.point > -5 && s.point <= 16 ? put_fixed(to, &s) : put_exponent(to, &s);
  mb__buf_add(buf, out, (size_t)(to - out));
  return true;
}
