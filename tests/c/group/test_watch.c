/* test_watch.c: what a worker notes of a partition, as the next worker believes it.
 * Must not need a broker or a supervisor: both workers are this process. Run by ctest. */
#include "group/watch.h"

#include "check.h"

#define PARTITION 3

static mb_watch *watch;
static mb_watch_bus *workers[2];

/* Park those offsets and go past them, as deliver/deliver.c notes it. */
static void park(mb_notes *notes, int64_t from, int64_t to) {
  for (int64_t offset = from; offset < to; offset++) {
    mb__note(notes, MB_NOTE_PARK, offset);
    mb__note(notes, MB_NOTE_NEXT, offset + 1);
  }
}

static mb_notes take(int worker, int64_t committed) {
  return (mb_notes){.part = mb__watch_take(workers[worker], PARTITION, committed)};
}

static int settled(const mb_notes *notes, int64_t from, int64_t to) {
  int count = 0;
  for (int64_t offset = from; offset < to; offset++)
    count += mb__watch_settled(notes->part, offset);
  return count;
}

static void handed_on(void) {
  mb_notes first = take(0, 10);
  for (int64_t offset = 10; offset < 20; offset++) mb__note(&first, MB_NOTE_PASS, offset);
  park(&first, 20, 22);
  mb__note(&first, MB_NOTE_PASS, 22);
  mb__watch_give(first.part);
  mb_notes second = take(1, 10);
  ok(settled(&second, 10, 20) == 10 && settled(&second, 20, 22) == 0 && settled(&second, 22, 23),
     "the next worker knows what is settled and what waits");
  mb__note(&second, MB_NOTE_PASS, 20);
  ok(settled(&second, 20, 22) == 1, "what waited is settled once it is handled");
  mb__watch_give(second.part);
  mb_notes third = take(0, 5);
  ok(!settled(&third, 5, 30), "nothing is believed once the group's offset went back");
  mb__watch_reset(third.part);
  mb__watch_give(third.part);
}

/* The partition was elsewhere meanwhile: what waited here was settled there, and is not read again,
 * so nobody will say so. */
static void been_elsewhere(void) {
  int64_t at = 0;
  for (int turn = 0; turn < 3; turn++, at += 2000) {
    mb_notes notes = take(turn % 2, at);
    park(&notes, at, at + 2000);
    ok(!settled(&notes, at, at + 2000), "turn %d: none of 2,000 that wait counts as settled", turn);
    mb__watch_give(notes.part);
  }
  mb_notes last = take(1, at);
  mb__watch_reset(last.part);
  mb__watch_give(last.part);
}

/* More than can be kept track of: better all of them once more than one of them never. */
static void too_many(void) {
  mb_notes notes = take(0, 0);
  park(&notes, 0, MB_WATCH_PARKED_MAX + 10);
  mb_notes next = take(1, 0);
  ok(!settled(&next, 0, MB_WATCH_PARKED_MAX + 10),
     "one more than there is room for is not settled");
  mb__watch_give(next.part);
  mb__watch_give(notes.part);
}

int main(void) {
  char err[256];
  watch = mb_watch_new(2, err, sizeof err);
  for (int i = 0; watch && i < 2; i++) workers[i] = mb__watch_bus(watch, i, 0, "topic", "group");
  if (!ok(watch && workers[0] && workers[1], "two workers have their places")) return done();
  handed_on();
  been_elsewhere();
  too_many();
  mb_watch_free(watch);
  return done();
}
