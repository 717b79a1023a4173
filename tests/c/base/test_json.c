/* test_json.c: base/json.h does what it says.
 * Must not know events.
 * Run by ctest. */
#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>

#include "base/json.h"
#include "check.h"

#define STR(literal) ((mb_bytes){literal, sizeof literal - 1})

/* Text in a block of its own size, so that the address sanitizer sees a byte read too many. */
static mb_bytes exact_copy(const char *data, size_t len) {
  char *copy = malloc(len ? len : 1);
  memcpy(copy, data, len);
  return (mb_bytes){copy, len};
}

static bool reads(mb_bytes text, mb_value *value, mb_json *json) {
  mb__json_init(json, text);
  return mb__json_value(json, value) && mb__json_at_end(json);
}

/* Both ways of reading agree on whether text is JSON. */
static bool valid(const char *data, size_t len) {
  mb_bytes text = exact_copy(data, len);
  mb_json json;
  mb_value value;
  bool by_value = reads(text, &value, &json);
  mb__json_done(&json);
  mb__json_init(&json, text);
  bool by_skip = mb__json_skip(&json) && mb__json_at_end(&json);
  mb__json_done(&json);
  free((char *)text.data);
  if (by_value != by_skip) ok(false, "value and skip agree on %.*s", (int)len, data);
  return by_value && by_skip;
}

static void accepts_and_rejects(void) {
  static const mb_bytes good[] = {
      STR("{}"),
      STR("[]"),
      STR(" [ ] "),
      STR("{ }"),
      STR("\t\r\n 1 \n"),
      STR("[1,2]"),
      STR("{\"a\":1,\"a\":2}"),
      STR("{\"\":0}"),
      STR("\"\""),
      STR("\"\\u0000\""),
      STR("\"\\/\""),
      STR("0"),
      STR("-0"),
      STR("0.0"),
      STR("1e5"),
      STR("1E+5"),
      STR("1e-05"),
      STR("0e0"),
      STR("-1.5e300"),
      STR("\"\x7f\""),
      STR("\"\xe2\x80\xa8\""),
      STR("[[[[]]],{}]"),
      STR("{\"a\":{\"b\":[null,true,false]}}"),
      STR("\"\\uD83D\\ude00\""),
      STR("1e-400"),
      STR("123456789012345678901234567890"),
      STR("[ 1 , { \"a\" : [ ] } ]"),
  };
  static const mb_bytes bad[] = {
      STR(""),
      STR(" "),
      STR("\xef\xbb\xbf{}"),
      STR("{"),
      STR("}"),
      STR("["),
      STR("]"),
      STR("[1,]"),
      STR("[,1]"),
      STR("[1 2]"),
      STR("{\"a\":1,}"),
      STR("{,}"),
      STR("{\"a\"}"),
      STR("{\"a\":}"),
      STR("{a:1}"),
      STR("{1:1}"),
      STR("{\"a\" 1}"),
      STR("{\"a\":1 \"b\":2}"),
      STR("[}"),
      STR("{]"),
      STR("[1}"),
      STR("{\"a\":1]"),
      STR("1 2"),
      STR("{} x"),
      STR("{}{}"),
      STR("nul"),
      STR("truE"),
      STR("tru"),
      STR("fals"),
      STR("nulll"),
      STR("NaN"),
      STR("Infinity"),
      STR("-Infinity"),
      STR("01"),
      STR("-"),
      STR("+1"),
      STR(".5"),
      STR("1."),
      STR("1.e5"),
      STR("1e"),
      STR("1e+"),
      STR("0x10"),
      STR("--1"),
      STR("1_000"),
      STR("1e309"),
      STR("-1e309"),
      STR("[1e999]"),
      STR("1e99999999999999999999"),
      STR("\""),
      STR("\"abc"),
      STR("\"\\"),
      STR("\"\\\""),
      STR("\"\\x\""),
      STR("\"\\u12\""),
      STR("\"\\u12g4\""),
      STR("\"\\U0041\""),
      STR("'a'"),
      STR("\"a\nb\""),
      STR("\"a\tb\""),
      STR("\"\x01\""),
      STR("\"\x1f\""),
      STR("\"\0\""),
      STR("\0"),
      STR("{}\0"),
      STR("\"\\ud800\""),
      STR("\"\\udc00\""),
      STR("\"\\ud800\\ud800\""),
      STR("\"\\ud800x\""),
      STR("\"\\ud800\\n\""),
      STR("\"\\udbff\\ue000\""),
      STR("\"\\ud800\\u\""),
      STR("\"\xff\""),
      STR("/**/1"),
      STR("{\"\xff\":1}"),
      STR("\x0b 1"),
      STR("\xa0 1"),
  };
  for (size_t i = 0; i < sizeof good / sizeof *good; i++)
    ok(valid(good[i].data, good[i].len), "accepts %.*s", (int)good[i].len, good[i].data);
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    ok(!valid(bad[i].data, bad[i].len), "rejects row %zu: %.*s", i, (int)bad[i].len, bad[i].data);
}

static void utf8(void) {
  static const mb_bytes good[] = {
      STR("\x7f"),
      STR("\xc2\x80"),
      STR("\xdf\xbf"),
      STR("\xe0\xa0\x80"),
      STR("\xec\xbf\xbf"),
      STR("\xed\x9f\xbf"),
      STR("\xee\x80\x80"),
      STR("\xef\xbf\xbf"),
      STR("\xf0\x90\x80\x80"),
      STR("\xf3\xbf\xbf\xbf"),
      STR("\xf4\x8f\xbf\xbf"),
      STR("abcdefghijklmnop\xc3\xa9"),
  };
  static const mb_bytes bad[] = {
      STR("\x80"),
      STR("\xbf"),
      STR("\xc0\x80"),
      STR("\xc1\xbf"),
      STR("\xc2"),
      STR("\xc2\x7f"),
      STR("\xc2\xc0"),
      STR("\xe0\x9f\xbf"),
      STR("\xe0\xa0"),
      STR("\xe1\x80\x7f"),
      STR("\xed\xa0\x80"),
      STR("\xed\xbf\xbf"),
      STR("\xf0\x8f\xbf\xbf"),
      STR("\xf0\x90\x80"),
      STR("\xf0\x90\x80\xc0"),
      STR("\xf4\x90\x80\x80"),
      STR("\xf5\x80\x80\x80"),
      STR("\xfe"),
      STR("\xff"),
      STR("\xf8\x88\x80\x80\x80"),
      STR("abcdefghijklmnop\xc3"),
  };
  char quoted[64];
  /* at several places, for the scanners look at 8 and 16 bytes at once */
  for (size_t pad = 0; pad < 20; pad++) {
    bool right = true;
    for (size_t i = 0; i < sizeof good / sizeof *good + sizeof bad / sizeof *bad; i++) {
      bool want = i < sizeof good / sizeof *good;
      mb_bytes text = want ? good[i] : bad[i - sizeof good / sizeof *good];
      int len = snprintf(quoted, sizeof quoted, "\"%.*s%.*s\"", (int)pad, "....................",
                         (int)text.len, text.data);
      mb_buf buf = {0};
      right &= valid(quoted, (size_t)len) == want && mb__utf8_valid(text) == want;
      right &= mb__json_write_string(&buf, (mb_bytes){quoted + 1, (size_t)len - 2}) == want;
      right &= want || buf.len == 0;
      mb__buf_free(&buf);
      if (!right && !ok(false, "UTF-8 row %zu behind %zu bytes", i, pad)) break;
    }
    ok(right, "UTF-8 is validated behind %zu bytes", pad);
  }
  ok(mb__utf8_valid((mb_bytes){NULL, 0}), "no text is valid UTF-8");
}

static void string_reads(mb_bytes text, mb_bytes expected) {
  mb_json json;
  mb_value value;
  bool good = reads(text, &value, &json) && value.kind == MB_STRING &&
              value.as.s.len == expected.len &&
              !memcmp(value.as.s.data, expected.data, expected.len);
  ok(good, "the string %.*s is unescaped", (int)text.len, text.data);
  mb__json_done(&json);
}

static void strings(void) {
  string_reads(STR("\"\""), STR(""));
  string_reads(STR("\"abc\""), STR("abc"));
  string_reads(STR("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""), STR("\"\\/\b\f\n\r\t"));
  string_reads(STR("\"\\u0041\\u00e9\\u20ac\\ud83d\\ude00\\u0000x\""),
               STR("A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\0x"));
  string_reads(STR("\"\\uFFFF\\uDBFF\\uDFFF\""), STR("\xef\xbf\xbf\xf4\x8f\xbf\xbf"));
  string_reads(STR("\"0123456789abcdef\\n0123456789abcdef\""),
               STR("0123456789abcdef\n0123456789abcdef"));

  mb_buf buf = {0};
  char all[128], expected[512] = "\"";
  for (int c = 0; c < 128; c++) {
    static const char *const named[] = {[8] = "\\b",  [9] = "\\t",    [10] = "\\n",   [12] = "\\f",
                                        [13] = "\\r", ['"'] = "\\\"", ['\\'] = "\\\\"};
    size_t at = strlen(expected);
    all[c] = (char)c;
    if (c < (int)(sizeof named / sizeof *named) && named[c])
      strcpy(expected + at, named[c]);
    else
      sprintf(expected + at, c < 0x20 ? "\\u%04x" : "%c", c);
  }
  strcat(expected, "\"");
  mb__json_write_string(&buf, (mb_bytes){all, sizeof all});
  same("every ASCII character is written as the wire wants it", buf.data, buf.len, expected);
  mb__buf_clear(&buf);
  mb__json_write_string(&buf, (mb_bytes){NULL, 0});
  same("an absent string is written as an empty one", buf.data, buf.len, "\"\"");
  mb__buf_free(&buf);
}

static void borrowing(void) {
  mb_json json;
  mb_value plain, escaped;
  mb_bytes text = STR("[\"plain\",\"es\\nc\",\"later\",1]");
  bool first = true;
  mb__json_init(&json, text);
  ok(mb__json_enter_array(&json) && mb__json_next_item(&json, &first) == 1 &&
         mb__json_value(&json, &plain) && plain.as.s.data == text.data + 2,
     "a string without escapes borrows from the text");
  ok(mb__json_next_item(&json, &first) == 1 && mb__json_value(&json, &escaped) &&
         escaped.as.s.data == json.scratch.data,
     "one with escapes borrows from scratch");
  ok(mb__json_next_item(&json, &first) == 1 && mb__json_value(&json, &plain) &&
         mb__json_next_item(&json, &first) == 1 && mb__json_value(&json, &plain) &&
         mb__json_next_item(&json, &first) == 0 && !memcmp(escaped.as.s.data, "es\nc", 4),
     "and stays until the next one with escapes");
  mb__json_done(&json);
}

/* ---- numbers ---- */

static uint64_t bits(double d) {
  uint64_t u;
  memcpy(&u, &d, sizeof u);
  return u;
}

static void number_reads(const char *text, mb_kind kind, uint64_t expected) {
  mb_json json;
  mb_value value = {0};
  bool good = reads(mb_str(text), &value, &json) && value.kind == kind &&
              (kind == MB_DOUBLE ? bits(value.as.d) : value.as.u) == expected;
  ok(good, "%.60s is read exactly", text);
  mb__json_done(&json);
}

static void numbers(void) {
  char digits[1200];
  number_reads("0", MB_INT, 0);
  number_reads("-0", MB_INT, 0);
  number_reads("-1", MB_INT, (uint64_t)-1);
  number_reads("9007199254740993", MB_INT, 9007199254740993u);
  number_reads("9223372036854775807", MB_INT, INT64_MAX);
  number_reads("9223372036854775808", MB_UINT, (uint64_t)1 << 63);
  number_reads("-9223372036854775808", MB_INT, (uint64_t)1 << 63);
  number_reads("-9223372036854775809", MB_DOUBLE, bits(-9223372036854775808.0));
  number_reads("18446744073709551615", MB_UINT, UINT64_MAX);
  number_reads("18446744073709551616", MB_DOUBLE, bits(18446744073709551616.0));
  number_reads("99999999999999999999", MB_DOUBLE, bits(1e20));
  number_reads("1000000000000000000000000000000", MB_DOUBLE, bits(1e30));
  number_reads("1.0", MB_DOUBLE, bits(1.0));
  number_reads("-0.0", MB_DOUBLE, bits(-0.0));
  number_reads("-0e5", MB_DOUBLE, bits(-0.0));
  number_reads("1e2", MB_DOUBLE, bits(100.0));
  number_reads("0.1", MB_DOUBLE, bits(0.1));
  number_reads("0e99999999999999999999", MB_DOUBLE, bits(0.0));
  number_reads("1e-99999999999999999999", MB_DOUBLE, bits(0.0));
  number_reads("9007199254740993.0", MB_DOUBLE, bits(9007199254740992.0));
  number_reads("9007199254740995.0", MB_DOUBLE, bits(9007199254740996.0));
  number_reads("123456789012345e22", MB_DOUBLE, bits(123456789012345e22));
  number_reads("123456789012345e-22", MB_DOUBLE, bits(123456789012345e-22));
  number_reads("5e-324", MB_DOUBLE, 1);
  number_reads("2.4703282292062327e-324", MB_DOUBLE, 0);
  number_reads("2.4703282292062328e-324", MB_DOUBLE, 1);
  number_reads("2.2250738585072011e-308", MB_DOUBLE, bits(2.2250738585072011e-308));
  number_reads("1e308", MB_DOUBLE, bits(1e308));
  number_reads("1.7976931348623157e308", MB_DOUBLE, bits(DBL_MAX));
  number_reads("1.7976931348623158e308", MB_DOUBLE, bits(DBL_MAX));
  ok(!valid("1.7976931348623159e308", 22), "what rounds to infinity is rejected");

  /* a tie, decided by its thousandth digit */
  snprintf(digits, sizeof digits, "9007199254740993.%01000d1", 0);
  number_reads(digits, MB_DOUBLE, bits(9007199254740994.0));
  snprintf(digits, sizeof digits, "9007199254740993.%01000d", 0);
  number_reads(digits, MB_DOUBLE, bits(9007199254740992.0));
  snprintf(digits, sizeof digits, "0.%0300d1e301", 0);
  number_reads(digits, MB_DOUBLE, bits(1.0));
  snprintf(digits, sizeof digits, "1%0400de-400", 0);
  number_reads(digits, MB_DOUBLE, bits(1.0));
  snprintf(digits, sizeof digits, "1%0400d", 0);
  ok(!valid(digits, strlen(digits)), "an integer of 401 digits is out of range");
}

static void random_numbers(uint64_t state) {
  bool right = true;
  char text[80];
  for (int i = 0; i < 100000 && right; i++) {
    int len = 1 + (int)(roll(&state) % 25), point = (int)(roll(&state) % (unsigned)(len + 1));
    char *to = text;
    if (roll(&state) & 1) *to++ = '-';
    for (int k = 0; k < len; k++) {
      if (k == point && k) *to++ = '.';
      *to++ = (char)('0' + (k ? roll(&state) % 10 : 1 + roll(&state) % 9));
    }
    sprintf(to, "e%d", (int)(roll(&state) % 640) - 330);
    mb_json json;
    mb_value value;
    double d = strtod(text, NULL);
    bool read = reads(mb_str(text), &value, &json);
    right = isfinite(d) ? read && value.kind == MB_DOUBLE && bits(value.as.d) == bits(d) : !read;
    mb__json_done(&json);
  }
  ok(right, "random decimals are read as the nearest double (last: %s)", text);
}

static void double_writes(double d, const char *expected) {
  mb_buf buf = {0};
  mb__json_write_double(&buf, d);
  char name[80];
  snprintf(name, sizeof name, "a double is written %s", expected);
  same(name, buf.data, buf.len, expected);
  mb__buf_free(&buf);
}

static void doubles(void) {
  static const struct {
    double d;
    const char *text;
  } rows[] = {
      {0.0, "0.0"},
      {-0.0, "-0.0"},
      {1.0, "1.0"},
      {-1.0, "-1.0"},
      {100.0, "100.0"},
      {0.1, "0.1"},
      {0.3, "0.3"},
      {0.1 + 0.2, "0.30000000000000004"},
      {1e-4, "0.0001"},
      {1e-5, "0.00001"},
      {1.5e-5, "0.000015"},
      {1e-6, "1e-6"},
      {9.99e-6, "9.99e-6"},
      {1.5e-7, "1.5e-7"},
      {1e15, "1000000000000000.0"},
      {1e16, "1e+16"},
      {1.5e16, "1.5e+16"},
      {123456789012345680.0, "1.2345678901234568e+17"},
      {9007199254740992.0, "9007199254740992.0"},
      {9007199254740994.0, "9007199254740994.0"},
      {999999999999999.9, "999999999999999.9"},
      {1e21, "1e+21"},
      {1e22, "1e+22"},
      {1e23, "1e+23"},
      {1e100, "1e+100"},
      {12.34, "12.34"},
      {5e-324, "5e-324"},
      {2.2250738585072014e-308, "2.2250738585072014e-308"},
      {2.225073858507201e-308, "2.225073858507201e-308"},
      {1e308, "1e+308"},
      {DBL_MAX, "1.7976931348623157e+308"},
      {-DBL_MAX, "-1.7976931348623157e+308"},
      {123.456, "123.456"},
      {1234567.891, "1234567.891"},
      {0.000123456789, "0.000123456789"},
      {9.5367431640625e-07, "9.5367431640625e-7"},
      {5.684341886080802e-14, "5.684341886080802e-14"},
      {1.0 / 3, "0.3333333333333333"},
      {2e-5, "0.00002"},
      {2251799813685248.5, "2251799813685248.5"},
  };
  mb_buf buf = {0};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) double_writes(rows[i].d, rows[i].text);
  ok(!mb__json_write_double(&buf, NAN) && !mb__json_write_double(&buf, INFINITY) &&
         !mb__json_write_double(&buf, -INFINITY) && buf.len == 0,
     "NaN and infinities are not written");
  mb__buf_free(&buf);
}

/* Does any of the three decimals of n digits next to d read back as d? */
static bool near_reads(double d, int n) {
  char text[64], other[64];
  long long digits = 0;
  bool found = false;
  snprintf(text, sizeof text, "%.*e", n - 1, d);
  char *e = strchr(text, 'e');
  for (char *at = text; at < e; at++)
    if (*at != '.') digits = digits * 10 + (*at - '0');
  for (int step = -1; step <= 1; step++) {
    snprintf(other, sizeof other, "%llde%d", digits + step, atoi(e + 1) - n + 1);
    found |= strtod(other, NULL) == d;
  }
  return found;
}

/* The text of d reads back as d, has the form the wire wants, and no fewer digits would do. */
static bool shortest(double d, mb_buf *buf) {
  mb_json json;
  mb_value value;
  mb__buf_clear(buf);
  if (!mb__json_write_double(buf, d)) return false;
  mb__buf_char(buf, 0);
  bool good = bits(strtod(buf->data, NULL)) == bits(d);
  buf->len--;
  good &= reads(mb__buf_bytes(buf), &value, &json) && value.kind == MB_DOUBLE &&
          bits(value.as.d) == bits(d);
  mb__json_done(&json);
  const char *e = strchr(buf->data, 'e');
  double a = fabs(d);
  good &= !e == (a == 0 || (a >= 1e-5 && a < 1e16)) && (e || strchr(buf->data, '.'));
  int count = 0, zeros = 0;
  for (const char *at = buf->data; *at && at != e; at++) {
    if (*at < '0' || *at > '9' || (!count && *at == '0')) continue;
    count++;
    zeros = *at == '0' ? zeros + 1 : 0;
  }
  for (int n = count - zeros - 1; n > 0; n--) good &= !near_reads(a, n);
  return good;
}

static void random_doubles(uint64_t state) {
  mb_buf buf = {0};
  double d = 0;
  bool right = true;
  for (int i = 0; i < 100000 && right; i++) {
    uint64_t u = roll(&state);
    memcpy(&d, &u, sizeof d);
    right = !isfinite(d) || shortest(d, &buf);
  }
  ok(right, "random bit patterns are written shortest and read back (last: %.17g)", d);
  for (int i = 0; i < 100000 && right; i++) {
    d = (double)(int64_t)(roll(&state) >> (roll(&state) % 40 + 12)) /
        pow(10, (int)(roll(&state) % 12));
    right = shortest(d, &buf);
  }
  ok(right, "random plain decimals too (last: %.17g)", d);
  for (int i = 0; i < 20000 && right; i++) {
    uint64_t u = roll(&state) >> (12 + roll(&state) % 50);
    memcpy(&d, &u, sizeof d);
    right = shortest(d, &buf);
  }
  ok(right, "random subnormals too (last: %.17g)", d);
  for (int e = -1074; e < 1024 && right; e++) right = shortest(d = ldexp(1, e), &buf);
  ok(right, "every power of two too (last: %.17g)", d);
  mb__buf_free(&buf);
}

static void locales(void) {
  static const char *const names[] = {"de_DE.UTF-8", "de_DE", "fr_FR.UTF-8", "pt_BR.UTF-8"};
  bool found = false;
  for (size_t i = 0; i < sizeof names / sizeof *names && !found; i++)
    found = setlocale(LC_ALL, names[i]) != NULL;
  if (!found) {
    printf("# SKIPPED: numbers in a locale with a decimal comma; none of de_DE, fr_FR, pt_BR is "
           "installed\n");
    return;
  }
  double_writes(0.1 + 0.2, "0.30000000000000004");
  number_reads("1.2345678901234567890", MB_DOUBLE, bits(1.2345678901234567890));
  setlocale(LC_ALL, "C");
}

static void integers(void) {
  mb_buf buf = {0};
  mb__json_write_int(&buf, INT64_MIN);
  mb__buf_char(&buf, ' ');
  mb__json_write_int(&buf, INT64_MAX);
  mb__buf_char(&buf, ' ');
  mb__json_write_uint(&buf, UINT64_MAX);
  mb__buf_char(&buf, ' ');
  mb__json_write_int(&buf, 0);
  same("integers are written in full", buf.data, buf.len,
       "-9223372036854775808 9223372036854775807 18446744073709551615 0");
  mb__buf_free(&buf);
}

/* ---- structure ---- */

static void depth(void) {
  char text[2 * MB_JSON_DEPTH + 4];
  for (int levels = MB_JSON_DEPTH; levels <= MB_JSON_DEPTH + 1; levels++) {
    memset(text, '[', (size_t)levels);
    memset(text + levels, ']', (size_t)levels);
    ok(valid(text, 2 * (size_t)levels) == (levels == MB_JSON_DEPTH), "%d levels are %s", levels,
       levels == MB_JSON_DEPTH ? "read" : "too deep");
    mb_json json;
    int entered = 0;
    bool first = true;
    mb__json_init(&json, (mb_bytes){text, 2 * (size_t)levels});
    while (mb__json_enter_array(&json)) {
      entered++;
      first = true;
      if (mb__json_next_item(&json, &first) <= 0) break;
    }
    ok(entered == MB_JSON_DEPTH, "%d of %d levels can be entered", entered, levels);
    mb__json_done(&json);
  }
  char *deep = malloc(1000000);
  memset(deep, '[', 1000000);
  ok(!valid(deep, 1000000), "a million open brackets are refused");
  memset(deep, '{', 1000000);
  ok(!valid(deep, 1000000), "a million open braces are refused");
  free(deep);
}

static void stepping(void) {
  mb_json json;
  mb_bytes key;
  mb_value value;
  bool first = true;
  mb__json_init(&json, STR(" { \"a\" : 1 , \"b\\n\":[ ] ,\"c\":\"x\"} "));
  ok(mb__json_peek(&json) == '{' && mb__json_enter_object(&json), "an object is entered");
  ok(mb__json_next_key(&json, &first, &key) == 1 && key.len == 1 && *key.data == 'a' &&
         mb__json_peek(&json) == '1' && mb__json_value(&json, &value) && value.as.i == 1,
     "a key, then its value");
  ok(mb__json_next_key(&json, &first, &key) == 1 && key.len == 2 && key.data[1] == '\n' &&
         mb__json_value(&json, &value) && value.kind == MB_JSON && value.as.s.len == 3,
     "an escaped key; an array comes as its text");
  ok(mb__json_guess_key(&json, &first, STR("c"), &key) == 2 && mb__json_string(&json, &key) &&
         key.len == 1,
     "a key that was guessed");
  ok(mb__json_next_key(&json, &first, &key) == 0 && mb__json_at_end(&json) && json.depth == 0,
     "the end of both");
  mb__json_done(&json);

  mb__json_init(&json, STR("{\"ab\":1}"));
  first = true;
  ok(mb__json_enter_object(&json) && mb__json_guess_key(&json, &first, STR("a"), &key) == 1 &&
         key.len == 2,
     "a guess that is only a prefix is not taken");
  mb__json_done(&json);

  mb__json_init(&json, STR("[1,x]"));
  ok(!mb__json_skip(&json) && json.error && mb__json_offset(&json) == 3, "errors say where");
  ok(!mb__json_skip(&json) && !mb__json_value(&json, &value) && !mb__json_enter_array(&json) &&
         mb__json_offset(&json) == 3,
     "and stay the first");
  mb__json_done(&json);
  mb__json_init(&json, (mb_bytes){NULL, 0});
  ok(mb__json_peek(&json) == 0 && !mb__json_value(&json, &value), "no text is no value");
  mb__json_done(&json);
}

static void peeking(void) {
  mb_bytes s = {0};
  mb_bytes name = STR("event_type");
  ok(!mb__json_peek_member(STR("{\"a\":{\"event_type\":\"no\"},\"event_type\":\"Yes\",..."), name,
                           &s) &&
         s.len == 3 && !memcmp(s.data, "Yes", 3),
     "a member is found, and what follows is not read");
  ok(mb__json_peek_member(STR("{\"a\":1}"), name, &s) == MB_ENOENT, "ENOENT when there is none");
  ok(mb__json_peek_member(STR("{\"a\":1"), name, &s) == MB_EDECODE, "EDECODE when cut");
  ok(mb__json_peek_member(STR("[]"), name, &s) == MB_EDECODE, "EDECODE when no object");
  ok(mb__json_peek_member(STR(""), name, &s) == MB_EDECODE, "EDECODE when empty");
  ok(mb__json_peek_member(STR("{\"event_type\":5}"), name, &s) == MB_EDECODE,
     "EDECODE when no string");
  ok(mb__json_peek_member(STR("{\"event_type\":\"a\\nb\"}"), name, &s) == MB_EDECODE,
     "EDECODE when it has escapes");
  ok(!mb__json_peek_member(STR("{\"event\\u005ftype\":\"Z\"}"), name, &s) && *s.data == 'Z',
     "an escaped key is found");
}

/* ---- what is written is what is read ---- */

static mb_bytes random_text(uint64_t *state, char *to) {
  size_t len = 0, runes = roll(state) % 24;
  for (size_t i = 0; i < runes; i++) {
    static const char *const rare[] = {"\xc3\xa9", "\xe2\x80\xa8", "\xf0\x9f\x98\x80",
                                       "\"",       "\\",           "\n"};
    uint64_t r = roll(state);
    if (r % 5)
      to[len++] = (char)(r >> 8 & 0x7f);
    else {
      const char *s = rare[(r >> 8) % 6];
      memcpy(to + len, s, strlen(s));
      len += strlen(s);
    }
  }
  return (mb_bytes){to, len};
}

static double random_double(uint64_t *state) {
  double d;
  do {
    uint64_t u = roll(state);
    memcpy(&d, &u, sizeof d);
  } while (!isfinite(d));
  return d;
}

static void make(uint64_t *state, int depth, mb_buf *to) {
  char text[128];
  switch (roll(state) % (depth < 5 ? 8 : 6)) {
  case 0: mb__buf_lit(to, "null"); break;
  case 1:
    if (roll(state) & 1)
      mb__buf_lit(to, "true");
    else
      mb__buf_lit(to, "false");
    break;
  case 2: mb__json_write_int(to, (int64_t)roll(state)); break;
  case 3: mb__json_write_uint(to, roll(state)); break;
  case 4: mb__json_write_double(to, random_double(state)); break;
  case 5: mb__json_write_string(to, random_text(state, text)); break;
  case 6:
    mb__buf_char(to, '[');
    for (uint64_t i = 0, n = roll(state) % 5; i < n; i++) {
      if (i) mb__buf_lit(to, " ,\n");
      make(state, depth + 1, to);
    }
    mb__buf_char(to, ']');
    break;
  default:
    mb__buf_lit(to, "{ ");
    for (uint64_t i = 0, n = roll(state) % 5; i < n; i++) {
      if (i) mb__buf_char(to, ',');
      mb__json_write_string(to, random_text(state, text));
      mb__buf_lit(to, " : ");
      make(state, depth + 1, to);
    }
    mb__buf_char(to, '}');
  }
}

static bool matches(uint64_t *state, int depth, mb_json *json) {
  char text[128];
  mb_value v = {0};
  mb_bytes key, expected;
  bool first = true, good = true;
  uint64_t kind = roll(state) % (depth < 5 ? 8 : 6), u;
  if (kind < 6 && !mb__json_value(json, &v)) return false;
  switch (kind) {
  case 0: return v.kind == MB_NULL;
  case 1: return v.kind == MB_BOOL && v.as.b == (roll(state) & 1);
  case 2: return v.kind == MB_INT && v.as.i == (int64_t)roll(state);
  case 3: u = roll(state); return v.kind == (u > INT64_MAX ? MB_UINT : MB_INT) && v.as.u == u;
  case 4: return v.kind == MB_DOUBLE && bits(v.as.d) == bits(random_double(state));
  case 5:
    expected = random_text(state, text);
    return v.kind == MB_STRING && v.as.s.len == expected.len &&
           !memcmp(v.as.s.data, expected.data, expected.len);
  case 6:
    good = mb__json_enter_array(json);
    for (uint64_t i = 0, n = roll(state) % 5; good && i < n; i++)
      good = mb__json_next_item(json, &first) == 1 && matches(state, depth + 1, json);
    return good && mb__json_next_item(json, &first) == 0;
  default:
    good = mb__json_enter_object(json);
    for (uint64_t i = 0, n = roll(state) % 5; good && i < n; i++) {
      good = mb__json_next_key(json, &first, &key) == 1;
      expected = random_text(state, text);
      good = good && key.len == expected.len && !memcmp(key.data, expected.data, key.len) &&
             matches(state, depth + 1, json);
    }
    return good && mb__json_next_key(json, &first, &key) == 0;
  }
}

static void round_trip(uint64_t state) {
  mb_buf text = {0};
  bool right = true;
  for (int i = 0; i < 20000 && right; i++) {
    uint64_t start = state, again = state;
    mb_json json;
    mb__buf_clear(&text);
    make(&state, 0, &text);
    mb_bytes copy = exact_copy(text.data, text.len);
    mb__json_init(&json, copy);
    right = matches(&again, 0, &json) && mb__json_at_end(&json) && again == state;
    mb__json_done(&json);
    right &= valid(copy.data, copy.len);
    if (!right) printf("# state %llx: %.*s\n", (unsigned long long)start, (int)copy.len, copy.data);
    free((char *)copy.data);
  }
  ok(right, "random values are read as they were written");
  mb__buf_free(&text);
}

int main(int argc, char **argv) {
  uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : UINT64_C(20260102);
  printf("# seed %llu\n", (unsigned long long)seed);
  accepts_and_rejects();
  utf8();
  strings();
  borrowing();
  numbers();
  random_numbers(seed);
  doubles();
  random_doubles(seed);
  locales();
  integers();
  depth();
  stepping();
  peeking();
  round_trip(seed);
  return done();
}
