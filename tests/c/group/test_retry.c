/* test_retry.c: the backoff's arithmetic and the parking lot.
 * Must not need a broker: records are made here, and rd_kafka_message_destroy is this file's own,
 * so that every record freed is counted. Run by ctest; MB_SEED chooses the random operations. */
#include <inttypes.h>
#include <stdlib.h>

#include "check.h"
#include "group/retry.h"
#include "group/undone.h"
#include "handlers/backoff.h"

#define SECOND 1000000

/* ---- records of our own ---- */

static size_t records_alive;

void rd_kafka_message_destroy(rd_kafka_message_t *record) {
  if (!record) return;
  records_alive--;
  free(record->key);
  free(record);
}

static rd_kafka_message_t *record_new(int64_t offset, const char *key) {
  rd_kafka_message_t *record = calloc(1, sizeof *record);
  record->offset = offset;
  record->len = 100;
  if (key) {
    record->key = strdup(key);
    record->key_len = strlen(key);
  }
  records_alive++;
  return record;
}

static mb_parked *park(mb_lot *lot, int64_t offset, const char *key) {
  return mb__lot_park(lot, record_new(offset, key), mb_str(key ? key : ""));
}

/* ---- backoff (10, 11) ---- */

static void backoff(void) {
  bool doubles = true, capped = true, never_above = true, never_below = true, monotone = true;
  for (int n = 0; n < 4; n++) doubles &= mb__backoff_us(1, 60, 0, n, 0.5) == ((int64_t)SECOND << n);
  ok(doubles, "waits 1, 2, 4, 8 s without jitter");
  ok(mb__backoff_us(0.001, 60, 0, 0, 0.5) == 1000, "counts milliseconds");
  for (int n = 6; n < 2000; n++) capped &= mb__backoff_us(1, 60, 0, n, 0.5) == 60 * SECOND;
  ok(capped, "stays at the longest wait, however many runs failed");
  ok(mb__backoff_us(86400, 86400, 0, 1000, 0.5) == INT64_C(86400) * SECOND,
     "holds the longest wait that can be asked for");
  uint64_t seed = 42;
  int64_t before = 0;
  for (int n = 0; n < 80; n++) {
    int64_t now = mb__backoff_us(0.3, 17, 0, n, 0.5);
    monotone &= now >= before;
    before = now;
  }
  ok(monotone, "never becomes shorter without jitter");
  for (int i = 0; i < 200000; i++) {
    double base = (double)(roll(&seed) % 100000 + 1) / 1000, jitter = (double)(roll(&seed) % 1001);
    double max = base + (double)(roll(&seed) % 100000) / 1000;
    double random = (double)(roll(&seed) % 1000001) / 1000000;
    int attempts = (int)(roll(&seed) % 70);
    int64_t got = mb__backoff_us(base, max, jitter / 1000, attempts, random);
    never_below &= got >= 0;
    never_above &= got <= (int64_t)(max * SECOND) + 1;
  }
  ok(never_below, "is never below 0, whatever the jitter");
  ok(never_above, "is never above the longest wait, whatever the jitter");
  ok(mb__backoff_us(1, 60, 1, 0, 0) == 0, "may be nothing with a jitter of 1");
  ok(mb__backoff_us(4, 60, 0.25, 0, 0) == 3 * SECOND &&
         mb__backoff_us(4, 60, 0.25, 0, 1) == 5 * SECOND &&
         mb__backoff_us(4, 60, 0.25, 0, 0.5) == 4 * SECOND,
     "is spread to both sides evenly");
  ok(mb__backoff_us(1, 60, 0.1, 3, 0.7) == mb__backoff_us(1, 60, 0.1, 3, 0.7),
     "is the same for the same random number");
}

/* ---- the lot ---- */

static void empty(void) {
  mb_lot lot;
  mb__lot_init(&lot);
  ok(mb__lot_low(&lot, 77) == 77, "an empty lot's low-water mark is the caller's");
  ok(!mb__lot_holds(&lot, mb_str("a")), "an empty lot holds no key");
  ok(!mb__lot_next(&lot, INT64_MAX - 1, false), "an empty lot has nothing due");
  ok(lot.due_us == INT64_MAX, "an empty lot is never due");
  mb__lot_clear(&lot);
  ok(lot.count == 0 && lot.bytes == 0, "an empty lot can be cleared");
}

static void lanes(void) {
  mb_lot lot;
  mb__lot_init(&lot);
  mb_parked *a1 = park(&lot, 10, "a");
  mb_parked *b1 = park(&lot, 11, "b");
  mb_parked *a2 = park(&lot, 12, "a");
  mb_parked *a3 = park(&lot, 15, "a");
  ok(lot.count == 4 && lot.bytes > 400, "a lot counts its events and their bytes");
  ok(mb__lot_holds(&lot, mb_str("a")) && mb__lot_holds(&lot, mb_str("b")), "it holds their keys");
  ok(!mb__lot_holds(&lot, mb_str("c")) && !mb__lot_holds(&lot, mb_str("")) &&
         !mb__lot_holds(&lot, mb_str("aa")),
     "it holds no other key");
  ok(a1->state == MB_WAITING && a1->due_us == INT64_MAX, "an event parks waiting");
  ok(!mb__lot_next(&lot, INT64_MAX - 1, false), "nothing is due until it is told so");
  ok(mb__lot_low(&lot, 99) == 10, "the low-water mark is the oldest parked offset");
  mb__lot_due(&lot, a1, MB_BACKOFF, 500);
  mb__lot_due(&lot, b1, MB_BACKOFF, 300);
  ok(lot.due_us == 300, "the lot is due when the first of its events is");
  ok(!mb__lot_next(&lot, 299, false), "nothing is due before its time");
  ok(mb__lot_next(&lot, 300, false) == b1, "the one whose time has come is due");
  mb__lot_settle(&lot, b1);
  ok(!mb__lot_holds(&lot, mb_str("b")), "a key is free once its last event is settled");
  ok(mb__lot_low(&lot, 99) == 10, "a younger one settled leaves the mark");
  ok(!mb__lot_next(&lot, 499, false) && lot.due_us == 500, "the lot knows when the next is due");
  ok(mb__lot_next(&lot, 500, false) == a1, "then it is");
  mb__lot_settle(&lot, a1);
  ok(mb__lot_low(&lot, 99) == 12, "the oldest settled, the mark moves to the next");
  ok(mb__lot_next(&lot, 1, false) == a2, "settling one makes the next of its key due at once");
  ok(!a2->failed.count && a2->attempts == 0, "which starts with no failed run");
  ok(a3->state == MB_WAITING && a3->due_us == INT64_MAX, "the one behind that goes on waiting");
  mb__lot_settle(&lot, a2);
  ok(mb__lot_next(&lot, 1, false) == a3, "and has its turn after it");
  mb__lot_settle(&lot, a3);
  ok(lot.count == 0 && lot.bytes == 0 && mb__lot_low(&lot, 99) == 99, "all settled, it is empty");
  ok(!mb__lot_next(&lot, INT64_MAX - 1, false) && lot.due_us == INT64_MAX, "and never due");
  ok(records_alive == 0, "every record was freed");
  mb__lot_clear(&lot);
}

static void keyless(void) {
  mb_lot lot;
  mb__lot_init(&lot);
  mb_parked *first = park(&lot, 1, NULL), *second = park(&lot, 2, NULL);
  char zero[] = {'a', 0, 'b'};
  mb_parked *binary = mb__lot_park(&lot, record_new(3, NULL), (mb_bytes){zero, 3});
  ok(mb__lot_holds(&lot, mb_str("")), "events without a key share a lane");
  ok(!mb__lot_holds(&lot, mb_str("a")) && mb__lot_holds(&lot, (mb_bytes){zero, 3}),
     "keys may hold any bytes");
  mb__lot_settle(&lot, first);
  ok(mb__lot_next(&lot, 1, false) == second, "they keep their order");
  mb__lot_settle(&lot, second);
  mb__lot_settle(&lot, binary);
  ok(records_alive == 0, "every record was freed");
  mb__lot_clear(&lot);
}

static void holding(void) {
  mb_lot lot;
  mb__lot_init(&lot);
  mb_parked *first = park(&lot, 1, "a"), *held = park(&lot, 2, "b"), *behind = park(&lot, 3, "b");
  mb_parked *dead = park(&lot, 4, "c");
  mb__lot_due(&lot, first, MB_BACKOFF, 5);
  mb__lot_due(&lot, dead, MB_TO_DLQ, 7);
  mb__lot_hold(&lot, held, 100);
  ok(mb__lot_next(&lot, 50, false) == dead,
     "a dead letter decided before the breaker opened goes on");
  mb__lot_due(&lot, dead, MB_IN_DLQ, INT64_MAX);
  ok(!mb__lot_next(&lot, 99, false) && lot.due_us == 100,
     "nothing else is due while an event is held back");
  mb__lot_due(&lot, first, MB_BACKOFF, 6);
  ok(lot.due_us == 100, "nor wakes anybody");
  ok(mb__lot_next(&lot, 100, false) == held, "but the one held back, in its time");
  mb__lot_hold(&lot, held, 200);
  ok(!mb__lot_next(&lot, 199, false) && lot.due_us == 200, "and once more");
  mb__lot_hold(&lot, NULL, 0);
  ok(mb__lot_next(&lot, 150, false) == first, "released, the others have their time back");
  mb__lot_hold(&lot, held, 300);
  mb__lot_settle(&lot, held);
  ok(!lot.held, "settling the one held back closes the breaker");
  mb__lot_settle(&lot, first);
  ok(mb__lot_next(&lot, 1, false) == behind, "and the next of its key has its turn");
  mb__lot_hold(&lot, behind, 300);
  mb__lot_clear(&lot);
  ok(!lot.held, "a cleared lot holds nothing back");
  mb__parked_free(dead);
  ok(records_alive == 0, "every record was freed");
}

static void running(void) {
  mb_lot lot;
  mb__lot_init(&lot);
  mb_parked *run = park(&lot, 1, "a"), *behind = park(&lot, 2, "a"), *other = park(&lot, 3, "b");
  ok(mb__lot_failing(&lot), "what is parked and waits for none of its key has failed");
  mb__lot_due(&lot, run, MB_RUNNING, INT64_MAX);
  mb__lot_due(&lot, other, MB_RUNNING, INT64_MAX);
  ok(lot.running == 2 && !mb__lot_failing(&lot), "what runs, or waits for that, has not");
  ok(!mb__lot_next(&lot, INT64_MAX - 1, false), "nor is it due");
  mb__lot_wake(&lot, mb_str("a"));
  ok(!mb__lot_next(&lot, INT64_MAX - 1, false), "who waits behind it is not woken");
  mb__lot_due(&lot, other, MB_BACKOFF, 5);
  ok(lot.running == 1 && !mb__lot_next(&lot, 9, true) && lot.due_us == INT64_MAX,
     "a retry has no turn while all places are taken");
  lot.due_us = 0;
  ok(mb__lot_next(&lot, 9, false) == other, "and has it once one is free");
  mb__lot_due(&lot, other, MB_TO_DLQ, 5);
  ok(mb__lot_next(&lot, 9, true) == other, "a dead letter needs no place");
  mb__lot_settle(&lot, run);
  ok(lot.running == 0 && behind->state == MB_BACKOFF, "the next of the key comes after it");
  mb__lot_due(&lot, behind, MB_RUNNING, INT64_MAX);
  mb__lot_clear(&lot);
  ok(!lot.running && !lot.count && !behind->lot && behind->record,
     "a cleared lot leaves those that run to their handlers");
  mb__parked_free(behind);
  mb_parked *waits = park(&lot, 4, "c"), *more = park(&lot, 5, "c");
  mb__lot_wake(&lot, (mb_bytes){NULL, 0});
  ok(mb__lot_next(&lot, 1, false) == waits && more->state == MB_WAITING,
     "the head of a lane is woken when what it waited for is gone");
  mb__lot_clear(&lot);
  ok(records_alive == 0, "every record was freed");
}

static void outliving(void) {
  mb_lot lot;
  mb_memory *list = NULL;
  mb__lot_init(&lot);
  mb_parked *old = park(&lot, 70, "a");
  park(&lot, 71, "b");
  mb__lot_outlive(&lot);
  ok(mb__lot_low(&lot, 3) == 3 && lot.count == 2, "what outlives its log is no low-water mark");
  park(&lot, 3, "a");
  ok(mb__lot_low(&lot, 4) == 3 && mb__lot_holds(&lot, mb_str("b")),
     "what is parked of the new one is, and keys wait for both");
  old->attempts = 1;
  mb__remember(&list, 0, old);
  ok(!list, "nor is it remembered by its offset");
  mb__lot_clear(&lot);
  ok(records_alive == 0, "every record was freed");
}

static void clearing(void) {
  mb_lot lot;
  mb__lot_init(&lot);
  park(&lot, 1, "a");
  mb_parked *dead = park(&lot, 2, "b"), *behind = park(&lot, 3, "b");
  mb_parked *again = park(&lot, 4, "c");
  dead->fail = calloc(1, sizeof *dead->fail);
  mb__ids_add(&dead->failed, 7, -1);
  mb__lot_due(&lot, dead, MB_IN_DLQ, INT64_MAX);
  mb__lot_due(&lot, again, MB_TO_DLQ, 5);
  (void)behind;
  mb__lot_clear(&lot);
  ok(lot.count == 0 && lot.bytes == 0 && lot.due_us == INT64_MAX && !lot.head && !lot.lanes,
     "a cleared lot is empty");
  ok(records_alive == 0, "no record outlives it, that of a dead letter in flight neither");
  ok(!dead->lot && !dead->record, "the dead letter in flight is told that the lot is gone");
  mb__parked_free(dead);
  ok(park(&lot, 5, "b") && lot.count == 1, "a cleared lot can be used again");
  mb__lot_clear(&lot);
  mb__parked_free(NULL);
  ok(records_alive == 0, "nothing is left");
}

/* ---- against a model: a list of events by offset ---- */

#define KEYS  5
#define MOST  200
#define STEPS 20000

typedef struct model_event {
  int64_t offset, due_us;
  int key;
  mb_parked *parked;
} model_event;

static model_event model[MOST];
static size_t model_count;
static const char *const keys[KEYS] = {"", "a", "b", "a-longer-key", "b2"};

static bool in_front(size_t i) {
  for (size_t k = 0; k < i; k++)
    if (model[k].key == model[i].key) return false;
  return true;
}

/* An event is only touched when nothing waits for it: before it was told a time, or once that came.
 */
static bool free_to_move(size_t i, int64_t now_us) {
  return in_front(i) && (model[i].due_us == INT64_MAX || model[i].due_us <= now_us);
}

static void model_settle(mb_lot *lot, size_t i) {
  int key = model[i].key;
  mb__lot_settle(lot, model[i].parked);
  memmove(&model[i], &model[i + 1], (--model_count - i) * sizeof *model);
  for (size_t k = i; k < model_count; k++) {
    if (model[k].key != key) continue;
    model[k].due_us = 0;
    break;
  }
}

static const char *model_check(mb_lot *lot, int64_t now_us) {
  bool held[KEYS] = {false};
  mb_parked *due = NULL;
  if (lot->count != model_count) return "the count is wrong";
  if (mb__lot_low(lot, -7) != (model_count ? model[0].offset : -7)) return "the mark is wrong";
  for (size_t i = 0; i < model_count; i++) held[model[i].key] = true;
  for (int k = 0; k < KEYS; k++)
    if (mb__lot_holds(lot, mb_str(keys[k])) != held[k]) return "a key is held or free wrongly";
  for (size_t i = 0; i < model_count && !due; i++)
    if (model[i].due_us <= now_us) due = model[i].parked;
  if (mb__lot_next(lot, now_us, false) != due) return "the wrong event is due";
  if (due) return NULL;
  int64_t earliest = INT64_MAX;
  for (size_t i = 0; i < model_count; i++)
    if (model[i].due_us < earliest) earliest = model[i].due_us;
  return lot->due_us == earliest ? NULL : "the lot's next time is wrong";
}

static void against_model(void) {
  const char *given = getenv("MB_SEED"), *wrong = NULL;
  uint64_t first = given ? strtoull(given, NULL, 10) : 20260102, seed = first;
  int64_t offset = 0, now_us = 0;
  mb_lot lot;
  int step;
  mb__lot_init(&lot);
  for (step = 0; step < STEPS && !wrong; step++) {
    uint64_t what = roll(&seed) % 10;
    size_t i = model_count ? roll(&seed) % model_count : 0;
    if (what < 4 && model_count < MOST) {
      int key = (int)(roll(&seed) % KEYS);
      offset += 1 + (int64_t)(roll(&seed) % 3);
      mb_parked *parked = park(&lot, offset, keys[key]);
      model[model_count++] = (model_event){offset, INT64_MAX, key, parked};
    } else if (what < 7 && model_count && free_to_move(i, now_us)) {
      int64_t due_us = now_us + (int64_t)(roll(&seed) % 1000);
      model[i].due_us = due_us;
      mb__lot_due(&lot, model[i].parked, MB_BACKOFF, due_us);
    } else if (what < 9 && model_count && free_to_move(i, now_us)) {
      model_settle(&lot, i);
    } else {
      now_us += (int64_t)(roll(&seed) % 300);
    }
    wrong = model_check(&lot, now_us);
  }
  ok(!wrong, "over random operations the lot is as its model says: %s, step %d, MB_SEED=%" PRIu64,
     wrong ? wrong : "all of them", step, first);
  mb__lot_clear(&lot);
  ok(records_alive == 0, "and leaks no record");
}

/* ---- failed events that are read again ---- */

static void memories(void) {
  mb_lot lot;
  mb_memory *list = NULL;
  mb__lot_init(&lot);
  mb_parked *failed = park(&lot, 3, "a"), *behind = park(&lot, 4, "a"), *held = park(&lot, 5, "b");
  mb_parked *dead = park(&lot, 6, "c");
  failed->attempts = 2;
  failed->first_failed_us = 77;
  failed->fail = calloc(1, sizeof *failed->fail);
  mb__lot_due(&lot, failed, MB_BACKOFF, 1000);
  mb__lot_hold(&lot, held, 2000);
  dead->reason = "max_retries_exceeded";
  dead->lean = MB_POINTER;
  mb__lot_due(&lot, dead, MB_IN_DLQ, INT64_MAX);
  mb_parked *all[] = {failed, behind, held, dead};
  for (size_t i = 0; i < 4; i++) mb__remember(&list, 7, all[i]);
  ok(!failed->fail, "a memory takes the failure's text");
  mb__lot_clear(&lot);
  mb__parked_free(dead); /* as its report would */
  ok(!mb__recall(&list, 7, 4), "an event that only waited is not remembered");
  ok(!mb__recall(&list, 6, 3), "nor one of another partition");
  mb_memory *memory = mb__recall(&list, 7, 3);
  ok(memory && memory->attempts == 2 && memory->due_us == 1000 && !memory->held,
     "a failed one comes back to its attempts and its time");
  ok(!mb__recall(&list, 7, 3), "once");
  mb_parked *again = park(&lot, 3, "a");
  mb__memory_restore(memory, again);
  ok(again->attempts == 2 && again->first_failed_us == 77 && again->fail && !memory->fail,
     "and has them, and the failure's text, when it is parked anew");
  mb__memory_free(memory);
  memory = mb__recall(&list, 7, 5);
  ok(memory && memory->held && memory->due_us == 2000,
     "one held back by an open breaker comes back so");
  mb__memory_free(memory);
  memory = mb__recall(&list, 7, 6);
  ok(memory && memory->reason && memory->lean == MB_POINTER && memory->due_us == 0,
     "one whose dead letter was on its way is due at once");
  mb__memory_free(memory);
  mb__remember(&list, 7, again);
  mb__remember(&list, 8, again);
  mb__forget(&list, 7);
  ok(list && list->partition == 8 && !list->next, "a partition's are forgotten alone");
  mb__forget(&list, -1);
  ok(!list, "or all of them");
  mb__lot_clear(&lot);
}

int main(void) {
  memories();
  backoff();
  empty();
  lanes();
  keyless();
  holding();
  running();
  outliving();
  clearing();
  against_model();
  return done();
}
