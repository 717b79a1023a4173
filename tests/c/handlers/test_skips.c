/* test_skips.c: skipped events by type, counted, logged once, reported.
 * Must not need a broker. Run by ctest. */
#include <stdio.h>

#include "check.h"
#include "handlers/skips.h"

static char lines[100][MB_LOG_LINE_MAX];
static int count;

static void keep(mb_level level, const char *line, void *opaque) {
  (void)level;
  (void)opaque;
  if (count < 100) snprintf(lines[count++], sizeof *lines, "%s", line);
}

static mb_log kept = {.level = MB_LOG_INFO, .fn = keep};

static void note(mb_skips *skips, const char *type, int times) {
  for (int i = 0; i < times; i++) mb__skips_note(skips, &kept, mb_str(type));
}

static void types(void) {
  mb_skips skips = {0};
  count = 0;
  mb__skips_report(&skips, &kept);
  ok(count == 0, "nothing is reported where nothing was skipped");
  note(&skips, "Tick", 3);
  note(&skips, "Tock", 1);
  note(&skips, "Tick", 2);
  note(&skips, "Tic", 1);
  ok(count == 3 && strstr(lines[0], "\"Tick\"") && strstr(lines[1], "\"Tock\"") &&
         strstr(lines[2], "\"Tic\""),
     "each type is logged once");
  mb__skips_report(&skips, &kept);
  ok(count == 4 && strstr(lines[3], "5 \"Tick\", 1 \"Tock\", 1 \"Tic\""), "all are reported");
  mb__skips_report(&skips, &kept);
  ok(count == 4, "what was reported is not reported again");
  note(&skips, "Tick", 2);
  mb__skips_report(&skips, &kept);
  ok(count == 5 && strstr(lines[4], ": 2 \"Tick\"") && !strstr(lines[4], "Tock"),
     "what came since is");
  mb__skips_free(&skips);
}

static void many(void) {
  mb_skips skips = {0};
  char type[300];
  count = 0;
  for (int i = 0; i < 80; i++) {
    snprintf(type, sizeof type, "T%0200d", i);
    note(&skips, type, 2);
  }
  ok(count == MB_SKIPS_MAX + 1, "types beyond so many are not named");
  ok(skips.list[MB_SKIPS_MAX].count == 32 && !skips.list[MB_SKIPS_MAX].type,
     "their events are counted together");
  ok(skips.list[0].count == 2 && skips.list[MB_SKIPS_MAX - 1].count == 2, "others by type");
  mb__skips_report(&skips, &kept);
  ok(strstr(lines[count - 1], "types more") != NULL, "a report that is too long says so");
  count = 0;
  mb__skips_report(&skips, &kept);
  ok(count == 0, "and leaves nothing for the next one");
  mb__skips_free(&skips);
}

int main(void) {
  types();
  many();
  return done();
}
