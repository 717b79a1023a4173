/* check.h: the least a test program in C needs: facts that hold or do not, and a count of both. */
#ifndef MB_CHECK_H
#define MB_CHECK_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static int checks_passed, checks_failed;

/* One fact, named in the present tense. Returns good, to leave a loop at the first failure. */
__attribute__((format(printf, 2, 3))) static bool ok(bool good, const char *fmt, ...) {
  char name[200];
  va_list args;
  va_start(args, fmt);
  vsnprintf(name, sizeof name, fmt, args);
  va_end(args);
  for (char *at = name; *at; at++)
    if ((unsigned char)*at < 0x20 || (unsigned char)*at >= 0x7f) *at = '?';
  printf("%s - %s\n", good ? "ok" : "not ok", name);
  good ? checks_passed++ : checks_failed++;
  return good;
}

/* got and expected are the same text; shows both when they are not. */
static inline bool same(const char *name, const char *got, size_t got_len, const char *expected) {
  bool good = got && got_len == strlen(expected) && !memcmp(got, expected, got_len);
  ok(good, "%s", name);
  if (!good) printf("#   got    %.*s\n#   expected %s\n", (int)got_len, got ? got : "", expected);
  return good;
}

static inline int done(void) {
  printf("%d passed, %d failed\n", checks_passed, checks_failed);
  return checks_failed != 0;
}

/* xorshift64*: the same numbers for the same seed, everywhere. */
static inline uint64_t roll(uint64_t *state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * UINT64_C(2685821657736338717);
}

#endif
