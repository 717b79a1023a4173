/* base/number.c: reads JSON numbers exactly: integers as 64 bits, the rest as the nearest double.
 * Must not know the process's locale.
 * Called by the JSON reader; its powers of ten and strtod by the writer. */
#include "base/number.h"

#include <float.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const double mb__power10[MB_EXACT_POWERS + 1] = {
    1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
};

static pthread_once_t locale_once = PTHREAD_ONCE_INIT;
static locale_t c_locale;

static void locale_make(void) {
  c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

double mb__strtod(const char *text) {
  pthread_once(&locale_once, locale_make);
  /* without the locale there is no exact answer; NaN is what no JSON number means */
  return c_locale ? strtod_l(text, NULL, c_locale) : (double)NAN;
}

/* What the text of a number says: (negative) digits * 10^exp10. */
typedef struct decimal {
  uint64_t digits; /* exact while count <= 19 */
  size_t count;    /* significant digits */
  int64_t exp10;
  bool negative, integer;
  bool wide; /* an integer of more than 64 bits */
} decimal;

static inline bool is_digit(const char *at, const char *end) {
  return at < end && (unsigned char)(*at - '0') <= 9;
}

static inline void add_digit(decimal *n, char c) {
  unsigned digit = (unsigned)(c - '0');
  if (n->count < 19) {
    n->digits = n->digits * 10 + digit;
    if (n->digits) n->count++;
    return;
  }
  if (__builtin_mul_overflow(n->digits, (uint64_t)10, &n->digits) ||
      __builtin_add_overflow(n->digits, (uint64_t)digit, &n->digits))
    n->wide = true;
  n->count++;
}

/* The exponent behind 'e'; saturates far beyond what matters. */
static const char *exponent(const char **from, const char *end, int64_t *exp10) {
  const char *at = *from;
  bool negative = at < end && *at == '-';
  int64_t n = 0;
  if (at < end && (*at == '-' || *at == '+')) at++;
  *from = at;
  if (!is_digit(at, end)) return "expected a digit";
  for (; is_digit(at, end); at++)
    if (n < INT64_C(1000000000000)) n = n * 10 + (*at - '0');
  *exp10 += negative ? -n : n;
  *from = at;
  return NULL;
}

int64_t mb__number_exponent(const char *at, const char *end) {
  const char *digits = at + 1;
  int64_t exp10 = 0;
  if (at < end) (void)exponent(&digits, end, &exp10);
  return exp10;
}

static const char *split(const char **from, const char *end, decimal *n) {
  const char *at = *from, *error = NULL;
  *n = (decimal){.integer = true};
  if (at < end && *at == '-') {
    n->negative = true;
    at++;
  }
  *from = at;
  if (!is_digit(at, end)) return "expected a digit";
  if (*at == '0')
    at++;
  else
    for (; is_digit(at, end); at++) add_digit(n, *at);
  if (at < end && *at == '.') {
    n->integer = false;
    const char *point = ++at;
    for (; is_digit(at, end); at++) add_digit(n, *at);
    n->exp10 = -(int64_t)(at - point);
    if (at == point) error = "expected a digit";
  }
  if (!error && at < end && (*at == 'e' || *at == 'E')) {
    n->integer = false;
    at++;
    error = exponent(&at, end, &n->exp10);
  }
  *from = at;
  return error;
}

/* No double, and no midpoint of two, needs more digits to differ from its neighbours. */
#define DIGITS_MAX 780

/* The nearest double, by the C library: for what the exact path cannot do. */
static double nearest(const char *text, const char *end, const decimal *n) {
  char copy[DIGITS_MAX + 40], *to = copy;
  size_t count = 0, dropped = 0;
  bool rest = false;
  if (n->negative) *to++ = '-';
  for (; text < end && *text != 'e' && *text != 'E'; text++) {
    if (!is_digit(text, end) || (!count && *text == '0')) continue;
    if (count < DIGITS_MAX) {
      *to++ = *text;
      count++;
    } else {
      dropped++;
      rest |= *text != '0';
    }
  }
  if (rest) to[-1] |= 1; /* digits that are cut must still break a tie: 0 becomes 1, the odd stay */
  if (!count) *to++ = '0';
  snprintf(to, 32, "e%lld", (long long)(n->exp10 + (int64_t)dropped));
  return mb__strtod(copy);
}

static bool exact(const decimal *n, double *d) {
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD == 0
  /* both operands are exact, so the one operation rounds once, as it must */
  if (n->count > 15 || n->exp10 > MB_EXACT_POWERS || n->exp10 < -MB_EXACT_POWERS) return false;
  double m = (double)n->digits;
  m = n->exp10 < 0 ? m / mb__power10[-n->exp10] : m * mb__power10[n->exp10];
  *d = n->negative ? -m : m;
  return true;
#else
  (void)n, (void)d;
  return false;
#endif
}

/* The value of eight digits. false: they are none. */
static inline bool eight_digits(const char *at, int64_t *value) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  const uint64_t ones = UINT64_C(0x0101010101010101);
  uint64_t v;
  memcpy(&v, at, sizeof v);
  v -= ones * '0';
  /* above 9 a byte has one of its upper bits set, or would have with 6 more */
  if ((v | (v + ones * 6)) & ones * 0xf0) return false;
  v = (v * 10 + (v >> 8)) & UINT64_C(0x00ff00ff00ff00ff);   /* two digits in each other byte */
  v = (v * 100 + (v >> 16)) & UINT64_C(0x0000ffff0000ffff); /* four */
  *value = (int64_t)((v * 10000 + (v >> 32)) & UINT64_C(0xffffffff)); /* eight */
  return true;
#else
  (void)at, (void)value;
  return false;
#endif
}

/* The commonest numbers: up to 15 digits, perhaps with a point among them, and no exponent; they
 * are exact. false: not such a one, nothing done. */
static inline bool read_short(const char **from, const char *end, mb_value *value) {
  const char *at = *from, *point = NULL;
  bool negative = *at == '-';
  at += negative;
  const char *begin = at;
  const char *most = end - at > 16 ? at + 16 : end;
  int64_t digits = 0;
  if (most - at >= 8 && eight_digits(at, &digits)) at += 8;
  for (; at < most; at++) {
    unsigned digit = (unsigned char)*at - (unsigned)'0';
    if (digit <= 9) {
      digits = digits * 10 + digit;
    } else if (*at == '.' && !point) {
      point = at;
    } else {
      break;
    }
  }
  size_t count = (size_t)(at - begin) - (point != NULL);
  if (at == end || at == most || !count || point == begin || point == at - 1) return false;
  if ((*at | 0x20) == 'e' || *at == '.' || (*begin == '0' && count > 1 && point != begin + 1))
    return false;
  *from = at;
  if (!value) return true;
  if (!point) {
    *value = (mb_value){MB_INT, {.i = negative ? -digits : digits}};
    return true;
  }
  double d = (double)digits / mb__power10[at - point - 1];
  *value = (mb_value){MB_DOUBLE, {.d = negative ? -d : d}};
  return true;
}

const char *mb__number_read(const char **at, const char *end, mb_value *value) {
  const char *from = *at;
  decimal n;
  double d;
  if (FLT_EVAL_METHOD == 0 && read_short(at, end, value)) return NULL;
  const char *error = split(at, end, &n);
  if (error) return error;
  if (n.integer && !n.wide) {
    if (!value) return NULL;
    if (n.digits <= (uint64_t)INT64_MAX || (n.negative && n.digits == (uint64_t)1 << 63)) {
      int64_t i = n.negative ? (int64_t)(0 - n.digits) : (int64_t)n.digits;
      *value = (mb_value){MB_INT, {.i = i}};
      return NULL;
    }
    if (!n.negative) {
      *value = (mb_value){MB_UINT, {.u = n.digits}};
      return NULL;
    }
  }
  /* below 10^308 it is in range, whatever it is */
  if (!value && (int64_t)n.count + n.exp10 <= 308) return NULL;
  if (!exact(&n, &d)) {
    d = nearest(from, *at, &n);
    if (!isfinite(d)) {
      *at = from;
      return "a number out of range";
    }
  }
  if (value) *value = (mb_value){MB_DOUBLE, {.d = d}};
  return NULL;
}
