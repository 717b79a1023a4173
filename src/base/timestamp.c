/* base/timestamp.c: ISO 8601 text <-> microseconds since 1970, in the proleptic Gregorian calendar.
 * Must not know time zones beyond a numeric offset, nor the process's own.
 * Called by the codec, and by the dead letters' headers. */
#include <time.h>

#include "base/scan.h"
#include "base/timestamp.h"

#define DAY_US       (INT64_C(86400) * 1000000)
#define DAYS_TO_1970 719162                                  /* from 0001-01-01 */
#define US_MIN       (-DAYS_TO_1970 * DAY_US)                /* 0001-01-01T00:00:00 */
#define US_MAX       ((3652059 - DAYS_TO_1970) * DAY_US - 1) /* 9999-12-31T23:59:59.999999 */

static const short days_before[14] = {0,   0,   31,  59,  90,  120, 151,
                                      181, 212, 243, 273, 304, 334, 365};

static bool is_leap(int year) {
  return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}

static int month_length(int year, int month) {
  return days_before[month + 1] - days_before[month] + (month == 2 && is_leap(year));
}

/* Days from 0001-01-01 to the first of January of year. */
static int days_before_year(int year) {
  int y = year - 1;
  return y * 365 + y / 4 - y / 100 + y / 400;
}

static int64_t days_since_1970(int year, int month, int day) {
  return days_before_year(year) + days_before[month] + (month > 2 && is_leap(year)) + day - 1 -
         DAYS_TO_1970;
}

int64_t mb__now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* ---- writing ---- */

static char *put(char *to, int n, int digits) {
  for (int i = digits - 1; i >= 0; i--, n /= 10) to[i] = (char)('0' + n % 10);
  return to + digits;
}

static char *make_date(char *to, int days) {
  /* the estimate is the right year or the one after it */
  int year = (int)((int64_t)days * 400 / 146097) + 1, month = 1;
  while (days_before_year(year) > days) year--;
  while (days_before_year(year + 1) <= days) year++;
  days -= days_before_year(year);
  while (days >= month_length(year, month)) days -= month_length(year, month++);
  to = put(to, year, 4);
  *to++ = '-';
  to = put(to, month, 2);
  *to++ = '-';
  return put(to, days + 1, 2);
}

/* Today is asked for most. */
static char *put_date(char *to, int days) {
  static _Thread_local struct {
    int days;
    char text[10];
  } last = {.days = -1};
  if (days != last.days) {
    make_date(last.text, days);
    last.days = days;
  }
  memcpy(to, last.text, sizeof last.text);
  return to + sizeof last.text;
}

size_t mb__time_format(char out[MB_TIME_MAX], int64_t us, const char *suffix) {
  us = us < US_MIN ? US_MIN : us > US_MAX ? US_MAX : us;
  int64_t since = us - US_MIN, in_day = since % DAY_US;
  int second = (int)(in_day / 1000000), micro = (int)(in_day % 1000000);
  char *to = put_date(out, (int)(since / DAY_US));
  *to++ = 'T';
  to = put(to, second / 3600, 2);
  *to++ = ':';
  to = put(to, second / 60 % 60, 2);
  *to++ = ':';
  to = put(to, second % 60, 2);
  if (micro) {
    *to++ = '.';
    to = put(to, micro, 6);
  }
  for (; *suffix && to < out + MB_TIME_MAX - 1; suffix++) *to++ = *suffix;
  *to = 0;
  return (size_t)(to - out);
}

/* ---- reading ---- */

typedef struct cursor {
  const char *at, *end;
} cursor;

static bool number(cursor *c, int digits, int *n) {
  int value = 0;
  if (c->end - c->at < digits) return false;
  for (int i = 0; i < digits; i++) {
    unsigned digit = (unsigned)(unsigned char)c->at[i] - '0';
    if (digit > 9) return false;
    value = value * 10 + (int)digit;
  }
  c->at += digits;
  *n = value;
  return true;
}

static bool take(cursor *c, char what) {
  if (c->at == c->end || *c->at != what) return false;
  c->at++;
  return true;
}

static bool read_date(cursor *c, int64_t *us) {
  int year, month, day;
  if (!number(c, 4, &year) || !take(c, '-') || !number(c, 2, &month) || !take(c, '-') ||
      !number(c, 2, &day))
    return false;
  if (year < 1 || month < 1 || month > 12 || day < 1 || day > month_length(year, month))
    return false;
  *us = days_since_1970(year, month, day) * DAY_US;
  return true;
}

/* The fraction behind its point: at least one digit; those behind the sixth do not count. */
static bool read_fraction(cursor *c, int *micro, int *digits) {
  int scale = 100000;
  for (*micro = *digits = 0; c->at < c->end && (unsigned char)(*c->at - '0') <= 9; c->at++) {
    *micro += (*c->at - '0') * scale;
    scale /= 10;
    if (*digits < 7) ++*digits;
  }
  return *digits > 0;
}

static bool read_clock(cursor *c, int64_t *us, bool *canonical) {
  int hour, minute, second, micro, digits;
  if (!number(c, 2, &hour) || !take(c, ':') || !number(c, 2, &minute) || !take(c, ':') ||
      !number(c, 2, &second))
    return false;
  if (hour > 23 || minute > 59 || second > 59) return false;
  *us += ((hour * 60 + minute) * 60 + second) * INT64_C(1000000);
  if (take(c, '.')) {
    if (!read_fraction(c, &micro, &digits)) return false;
    if (digits != 6 || !micro) *canonical = false;
    *us += micro;
  }
  return true;
}

static bool read_zone(cursor *c, int64_t *us, bool *canonical) {
  int hour, minute;
  if (take(c, 'Z')) return true;
  if (c->at == c->end) {
    *canonical = false;
    return true;
  }
  bool east = *c->at == '+';
  if (!east && *c->at != '-') return false;
  c->at++;
  if (!number(c, 2, &hour)) return false;
  if (!take(c, ':')) *canonical = false;
  if (!number(c, 2, &minute) || hour > 23 || minute > 59) return false;
  int64_t offset = (hour * 60 + minute) * INT64_C(60000000);
  if (!offset) *canonical = false;
  *us += east ? -offset : offset;
  return true;
}

bool mb__time_read(mb_bytes text, int64_t *us, bool *canonical) {
  cursor c = {text.data, text.data + text.len};
  int64_t value;
  bool same = true;
  if (!text.len || !read_date(&c, &value)) return false;
  if (c.at == c.end) {
    same = false;
  } else {
    if (!take(&c, 'T')) {
      if (!take(&c, ' ')) return false;
      same = false;
    }
    if (!read_clock(&c, &value, &same) || !read_zone(&c, &value, &same) || c.at != c.end)
      return false;
  }
  if (value < US_MIN || value > US_MAX) return false;
  *us = value;
  *canonical = same;
  return true;
}

/* Whether each of 16 bytes is at least, and at most, what stands in its place. */
static inline bool within(const char *at, const char *least, const char *most) {
#ifdef __SSE2__
  __m128i v = _mm_loadu_si128((const __m128i *)(const void *)at);
  __m128i low = _mm_max_epu8(v, _mm_loadu_si128((const __m128i *)(const void *)least));
  __m128i high = _mm_min_epu8(v, _mm_loadu_si128((const __m128i *)(const void *)most));
  return _mm_movemask_epi8(_mm_and_si128(_mm_cmpeq_epi8(v, low), _mm_cmpeq_epi8(v, high))) ==
         0xffff;
#else
  for (int i = 0; i < 16; i++)
    if (at[i] < least[i] || at[i] > most[i]) return false;
  return true;
#endif
}

/* Of two digits. */
static inline unsigned two(const char *at) {
  return (unsigned)(at[0] - '0') * 10 + (unsigned)(at[1] - '0');
}

size_t mb__time_plain(mb_bytes text) {
  const char *at = text.data;
  if (text.len < 20 || !within(at, "0000-00-00T00:00", "9999-19-39T29:59")) return 0;
  bool whole = at[19] == 'Z';
  if (whole ? !within(at + 4, "-00-00T00:00:00Z", "-19-39T29:59:59Z")
            : text.len < 27 || !within(at + 11, "00:00:00.000000Z", "29:59:59.999999Z"))
    return 0;
  /* the ends of months, and the year 0, are for those who know them */
  if (two(at + 5) - 1 > 11 || two(at + 8) - 1 > 27 || two(at + 11) > 23 || !memcmp(at, "0000", 4))
    return 0;
  if (whole) return 20;
  return memcmp(at + 20, "000000", 6) ? 27 : 0;
}

bool mb__time_parse(mb_bytes text, int64_t *us) {
  bool canonical;
  return mb__time_read(text, us, &canonical);
}

bool mb__time_normalise(mb_bytes text, char out[MB_TIME_MAX], mb_bytes *wire) {
  int64_t us;
  bool canonical;
  if (text.len && mb__time_plain(text) == text.len) {
    *wire = text;
    return true;
  }
  if (!mb__time_read(text, &us, &canonical)) return false;
  *wire = canonical ? text : (mb_bytes){out, mb__time_format(out, us, "Z")};
  return true;
}

bool mb__time_in_range(int64_t us) {
  return us >= US_MIN && us <= US_MAX;
}
