/* test_marks.c: settled offsets past the committed one, as runs and as text.
 * Must not need a broker. Run by ctest; MB_SEED chooses the random operations. */
#include <inttypes.h>
#include <stdlib.h>

#include "check.h"
#include "group/marks.h"

#define OFFSETS 6000

static mb_marks parsed(const char *text, int64_t low) {
  mb_marks marks = {0};
  mb__marks_parse(&marks, text, strlen(text), "here", low);
  mb__marks_tidy(&marks);
  return marks;
}

static bool has_none(const char *text, int64_t low) {
  mb_marks marks = parsed(text, low);
  bool none = marks.count == 0;
  mb__marks_free(&marks);
  return none;
}

static void runs(void) {
  mb_marks marks = {0};
  ok(!mb__marks_has(&marks, 0), "nothing is settled where nothing was noted");
  mb__marks_add(&marks, 20, 30);
  mb__marks_add(&marks, 5, 10);
  mb__marks_add(&marks, 8, 12);
  mb__marks_add(&marks, 12, 13);
  mb__marks_add(&marks, 40, 40);
  mb__marks_tidy(&marks);
  ok(marks.count == 2, "runs that touch or overlap are one, empty ones none");
  ok(!mb__marks_has(&marks, 4) && mb__marks_has(&marks, 5) && mb__marks_has(&marks, 12) &&
         !mb__marks_has(&marks, 13) && !mb__marks_has(&marks, 19) && mb__marks_has(&marks, 20) &&
         mb__marks_has(&marks, 29) && !mb__marks_has(&marks, 30),
     "each run has its offsets, and not the one after");
  mb__marks_free(&marks);
}

static void writes(void) {
  mb_marks_text text;
  mb__marks_begin(&text, "here", 100);
  ok(!text.any, "a text without runs says so");
  mb__marks_put(&text, 101, 103);
  mb__marks_put(&text, 103, 104);
  mb__marks_put(&text, 110, 110);
  mb__marks_put(&text, 110, 111);
  same("is how many wait and how many are settled, in turn", text.text, text.len,
       "mb1 here 100 1 2 0 1 6 1");
  mb_marks marks = parsed(text.text, 100);
  ok(marks.count == 2 && marks.ranges[0].from == 101 && marks.ranges[0].to == 104 &&
         marks.ranges[1].from == 110 && marks.ranges[1].to == 111,
     "and is read as the runs it was written from");
  mb__marks_free(&marks);
}

static void refuses(void) {
  static const char *const GARBAGE[] = {
      "",
      "m",
      "mb1",
      "mb1 here",
      "mb1 here 10",
      "mb1 here 10 ",
      "mb1 here 100 1 2",
      "mb1 here 1 1 2",
      "mb1 there 10 1 2",
      "mb2 here 10 1 2",
      "mb1 here 10 1",
      "mb1 here 10 1 2 3",
      "mb1 here 10 1 2 3 x",
      "mb1 here 10  1 2",
      "mb1 here 10 1 2 ",
      "mb1 here 10 -1 2",
      "mb1 here 10 1 99999999999999999999",
      "mb1 here 10 9223372036854775807 1",
      "mb1 here 10 1 9223372036854775807",
      "mb1 here 10 1 2 9223372036854775790 9223372036854775790",
  };
  for (size_t i = 0; i < sizeof GARBAGE / sizeof *GARBAGE; i++)
    ok(has_none(GARBAGE[i], 10), "'%s' notes nothing", GARBAGE[i]);
  ok(!has_none("mb1 here 10 0 2", 10), "though 'mb1 here 10 0 2' would");
  ok(has_none("mb1 here 10 0 2", -1), "but nowhere without a committed offset");
  char *large = malloc(MB_MARKS_MAX + 100);
  size_t len = (size_t)sprintf(large, "mb1 here 10");
  while (len < MB_MARKS_MAX) len += (size_t)sprintf(large + len, " 1 1");
  ok(has_none(large, 10), "a text longer than is ever written notes nothing");
  free(large);
}

/* Some offsets wait, the others are settled: what a text says is settled is; where it has room, all
 * that is settled is in it. */
static bool round_trip(uint64_t *seed, unsigned one_in, bool *whole) {
  static bool settled[OFFSETS];
  int64_t low = (int64_t)(roll(seed) % 1000000000000u);
  mb_marks_text text;
  for (int i = 0; i < OFFSETS; i++) settled[i] = roll(seed) % one_in != 0;
  mb__marks_begin(&text, "here", low);
  for (int i = 0, from = 0; i <= OFFSETS; i++) {
    if (i < OFFSETS && settled[i]) continue;
    mb__marks_put(&text, low + from, low + i);
    from = i + 1;
  }
  *whole = !text.full;
  mb_marks marks = parsed(text.text, low);
  bool good = text.len <= MB_MARKS_MAX && strlen(text.text) == text.len;
  for (int i = 0; i < OFFSETS; i++) {
    bool has = mb__marks_has(&marks, low + i);
    good &= low + i < text.at ? has == settled[i] : !has;
  }
  good &= !mb__marks_has(&marks, low - 1) && !mb__marks_has(&marks, low + OFFSETS);
  mb__marks_free(&marks);
  return good;
}

static void at_random(void) {
  const char *given = getenv("MB_SEED");
  uint64_t first = given ? strtoull(given, NULL, 10) : 42, seed = first;
  static const unsigned SHARES[] = {2, 3, 10, 100, 1000};
  for (size_t s = 0; s < sizeof SHARES / sizeof *SHARES; s++) {
    bool good = true, whole = false, fits = true, cut = false;
    for (int i = 0; i < 200; i++) {
      good &= round_trip(&seed, SHARES[s], &whole);
      fits &= whole;
      cut |= !whole;
    }
    ok(good, "one of %u waits: what is read is what was written (MB_SEED %" PRIu64 ")", SHARES[s],
       first);
    if (SHARES[s] < 10)
      ok(cut, "one of %u waits: the text ends before it is too long", SHARES[s]);
    else
      ok(fits, "one of %u waits: all of it finds room", SHARES[s]);
  }
}

/* Bytes of the right alphabet, whatever they say: no crash, and no run below the committed offset.
 */
static void hostile(void) {
  static const char ALPHABET[] = "0123456789  mb1here-x\0";
  uint64_t seed = 7;
  bool good = true;
  for (int i = 0; i < 100000; i++) {
    char text[64] = "mb1 here 10 ";
    size_t len = 12 + roll(&seed) % 40;
    for (size_t at = 12 - (roll(&seed) % 8 ? 0 : roll(&seed) % 12); at < len; at++)
      text[at] = ALPHABET[roll(&seed) % (sizeof ALPHABET - 1)];
    mb_marks marks = {0};
    mb__marks_parse(&marks, text, len, "here", 10);
    for (size_t r = 0; r < marks.count; r++)
      good &= marks.ranges[r].from >= 10 && marks.ranges[r].to > marks.ranges[r].from;
    mb__marks_free(&marks);
  }
  ok(good, "texts at random note no run below the committed offset, nor an empty one");
}

int main(void) {
  runs();
  writes();
  refuses();
  at_random();
  hostile();
  return done();
}
