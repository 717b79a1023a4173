/* test_retry.c: the backoff's arithmetic and the parking retry queue.
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

static mb_parked *park(mb_retry_queue *queue, int64_t offset, const char *key) {
  return mb__retry_park(queue, record_new(offset, key), mb_str(key ? key : ""));
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

/* ---- the retry queue ---- */

static void empty(void) {
  mb_retry_queue queue;
  mb__retry_init(&queue);
  ok(mb__retry_low(&queue, 77) == 77, "an empty lot's low-water mark is the caller's");
  ok(!mb__retry_holds(&queue, mb_str("a")), "an empty lot holds no key");
  ok(!mb__retry_next(&queue, INT64_MAX - 1, false), "an empty lot has nothing due");
  ok(queue.due_us == INT64_MAX, "an empty lot is never due");
  mb__retry_clear(&queue);
  ok(queue.count == 0 && queue.bytes == 0, "an empty lot can be cleared");
}

static void key_queues(void) {
  mb_retry_queue queue;
  mb__retry_init(&queue);
  mb_parked *a1 = park(&queue, 10, "a");
  mb_parked *b1 = park(&queue, 11, "b");
  mb_parked *a2 = park(&queue, 12, "a");
  mb_parked *a3 = park(&queue, 15, "a");
  ok(queue.count == 4 && queue.bytes > 400, "a lot counts its events and their bytes");
  ok(mb__retry_holds(&queue, mb_str("a")) && mb__retry_holds(&queue, mb_str("b")),
     "it holds their keys");
  ok(!mb__retry_holds(&queue, mb_str("c")) && !mb__retry_holds(&queue, mb_str("")) &&
         !mb__retry_holds(&queue, mb_str("aa")),
     "it holds no other key");
  ok(a1->state == MB_WAITING && a1->due_us == INT64_MAX, "an event parks waiting");
  ok(!mb__retry_next(&queue, INT64_MAX - 1, false), "nothing is due until it is told so");
  ok(mb__retry_low(&queue, 99) == 10, "the low-water mark is the oldest parked offset");
  mb__retry_due(&queue, a1, MB_BACKOFF, 500);
  mb__retry_due(&queue, b1, MB_BACKOFF, 300);
  ok(queue.due_us == 300, "the lot is due when the first of its events is");
  ok(!mb__retry_next(&queue, 299, false), "nothing is due before its time");
  ok(mb__retry_next(&queue, 300, false) == b1, "the one whose time has come is due");
  mb__retry_settle(&queue, b1);
  ok(!mb__retry_holds(&queue, mb_str("b")), "a key is free once its last event is settled");
  ok(mb__retry_low(&queue, 99) == 10, "a younger one settled leaves the mark");
  ok(!mb__retry_next(&queue, 499, false) && queue.due_us == 500,
     "the lot knows when the next is due");
  ok(mb__retry_next(&queue, 500, false) == a1, "then it is");
  mb__retry_settle(&queue, a1);
  ok(mb__retry_low(&queue, 99) == 12, "the oldest settled, the mark moves to the next");
  ok(mb__retry_next(&queue, 1, false) == a2, "settling one makes the next of its key due at once");
  ok(!a2->failed.count && a2->attempts == 0, "which starts with no failed run");
  ok(a3->state == MB_WAITING && a3->due_us == INT64_MAX, "the one behind that goes on waiting");
  mb__retry_settle(&queue, a2);
  ok(mb__retry_next(&queue, 1, false) == a3, "and has its turn after it");
  mb__retry_settle(&queue, a3);
  ok(queue.count == 0 && queue.bytes == 0 && mb__retry_low(&queue, 99) == 99,
     "all settled, it is empty");
  ok(!mb__retry_next(&queue, INT64_MAX - 1, false) && queue.due_us == INT64_MAX, "and never due");
  ok(records_alive == 0, "every record was freed");
  mb__retry_clear(&queue);
}

static void keyless(void) {
  mb_retry_queue queue;
  mb__retry_init(&queue);
  mb_parked *first = park(&queue, 1, NULL), *second = park(&queue, 2, NULL);
  char zero[] = {'a', 0, 'b'};
  mb_parked *binary = mb__retry_park(&queue, record_new(3, NULL), (mb_bytes){zero, 3});
  ok(mb__retry_holds(&queue, mb_str("")), "events without a key share a lane");
  ok(!mb__retry_holds(&queue, mb_str("a")) && mb__retry_holds(&queue, (mb_bytes){zero, 3}),
     "keys may hold any bytes");
  mb__retry_settle(&queue, first);
  ok(mb__retry_next(&queue, 1, false) == second, "they keep their order");
  mb__retry_settle(&queue, second);
  mb__retry_settle(&queue, binary);
  ok(records_alive == 0, "every record was freed");
  mb__retry_clear(&queue);
}

static void holding(void) {
  mb_retry_queue queue;
  mb__retry_init(&queue);
  mb_parked *first = park(&queue, 1, "a"), *held = park(&queue, 2, "b"),
            *behind = park(&queue, 3, "b");
  mb_parked *dead = park(&queue, 4, "c");
  mb__retry_due(&queue, first, MB_BACKOFF, 5);
  mb__retry_due(&queue, dead, MB_TO_DLQ, 7);
  mb__retry_hold(&queue, held, 100);
  ok(mb__retry_next(&queue, 50, false) == dead,
     "a dead letter decided before the breaker opened goes on");
  mb__retry_due(&queue, dead, MB_IN_DLQ, INT64_MAX);
  ok(!mb__retry_next(&queue, 99, false) && queue.due_us == 100,
     "nothing else is due while an event is held back");
  mb__retry_due(&queue, first, MB_BACKOFF, 6);
  ok(queue.due_us == 100, "nor wakes anybody");
  ok(mb__retry_next(&queue, 100, false) == held, "but the one held back, in its time");
  mb__retry_hold(&queue, held, 200);
  ok(!mb__retry_next(&queue, 199, false) && queue.due_us == 200, "and once more");
  mb__retry_hold(&queue, NULL, 0);
  ok(mb__retry_next(&queue, 150, false) == first, "released, the others have their time back");
  mb__retry_hold(&queue, held, 300);
  mb__retry_settle(&queue, held);
  ok(!queue.held, "settling the one held back closes the breaker");
  mb__retry_settle(&queue, first);
  ok(mb__retry_next(&queue, 1, false) == behind, "and the next of its key has its turn");
  mb__retry_hold(&queue, behind, 300);
  mb__retry_clear(&queue);
  ok(!queue.held, "a cleared lot holds nothing back");
  mb__parked_free(dead);
  ok(records_alive == 0, "every record was freed");
}

static void running(void) {
  mb_retry_queue queue;
  mb__retry_init(&queue);
  mb_parked *run = park(&queue, 1, "a"), *behind = park(&queue, 2, "a"),
            *other = park(&queue, 3, "b");
  ok(mb__retry_failing(&queue), "what is parked and waits for none of its key has failed");
  mb__retry_due(&queue, run, MB_RUNNING, INT64_MAX);
  mb__retry_due(&queue, other, MB_RUNNING, INT64_MAX);
  ok(queue.running == 2 && !mb__retry_failing(&queue), "what runs, or waits for that, has not");
  ok(!mb__retry_next(&queue, INT64_MAX - 1, false), "nor is it due");
  mb__retry_wake(&queue, mb_str("a"));
  ok(!mb__retry_next(&queue, INT64_MAX - 1, false), "who waits behind it is not woken");
  mb__retry_due(&queue, other, MB_BACKOFF, 5);
  ok(queue.running == 1 && !mb__retry_next(&queue, 9, true) && queue.due_us == INT64_MAX,
     "a retry has no turn while all places are taken");
  queue.due_us = 0;
  ok(mb__retry_next(&queue, 9, false) == other, "and has it once one is free");
  mb__retry_due(&queue, other, MB_TO_DLQ, 5);
  ok(mb__retry_next(&queue, 9, true) == other, "a dead letter needs no place");
  mb__retry_settle(&queue, run);
  ok(queue.running == 0 && behind->state == MB_BACKOFF, "the next of the key comes after it");
  mb__retry_due(&queue, behind, MB_RUNNING, INT64_MAX);
  mb__retry_clear(&queue);
  ok(!queue.running && !queue.count && !behind->queue && behind->record,
     "a cleared lot leaves those that run to their handlers");
  mb__parked_free(behind);
  mb_parked *waits = park(&queue, 4, "c"), *more = park(&queue, 5, "c");
  mb__retry_wake(&queue, (mb_bytes){NULL, 0});
  ok(mb__retry_next(&queue, 1, false) == waits && more->state == MB_WAITING,
     "the head of a lane is woken when what it waited for is gone");
  mb__retry_clear(&queue);
  ok(records_alive == 0, "every record was freed");
}

static void outliving(void) {
  mb_retry_queue queue;
  mb_undone *list = NULL;
  mb__retry_init(&queue);
  mb_parked *old = park(&queue, 70, "a");
  park(&queue, 71, "b");
  mb__retry_keep_after_recreate(&queue);
  ok(mb__retry_low(&queue, 3) == 3 && queue.count == 2,
     "what outlives its log is no low-water mark");
  park(&queue, 3, "a");
  ok(mb__retry_low(&queue, 4) == 3 && mb__retry_holds(&queue, mb_str("b")),
     "what is parked of the new one is, and keys wait for both");
  old->attempts = 1;
  mb__undone_keep(&list, 0, old);
  ok(!list, "nor is it remembered by its offset");
  mb__retry_clear(&queue);
  ok(records_alive == 0, "every record was freed");
}

static void clearing(void) {
  mb_retry_queue queue;
  mb__retry_init(&queue);
  park(&queue, 1, "a");
  mb_parked *dead = park(&queue, 2, "b"), *behind = park(&queue, 3, "b");
  mb_parked *again = park(&queue, 4, "c");
  dead->fail = calloc(1, sizeof *dead->fail);
  mb__ids_add(&dead->failed, 7, -1);
  mb__retry_due(&queue, dead, MB_IN_DLQ, INT64_MAX);
  mb__retry_due(&queue, again, MB_TO_DLQ, 5);
  (void)behind;
  mb__retry_clear(&queue);
  ok(queue.count == 0 && queue.bytes == 0 && queue.due_us == INT64_MAX && !queue.head &&
         !queue.key_queues,
     "a cleared lot is empty");
  ok(records_alive == 0, "no record outlives it, that of a dead letter in flight neither");
  ok(!dead->queue && !dead->record, "the dead letter in flight is told that the lot is gone");
  mb__parked_free(dead);
  ok(park(&queue, 5, "b") && queue.count == 1, "a cleared lot can be used again");
  mb__retry_clear(&queue);
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

static void model_settle(mb_retry_queue *queue, size_t i) {
  int key = model[i].key;
  mb__retry_settle(queue, model[i].parked);
  memmove(&model[i], &model[i + 1], (--model_count - i) * sizeof *model);
  for (size_t k = i; k < model_count; k++) {
    if (model[k].key != key) continue;
    model[k].due_us = 0;
    break;
  }
}

static const char *model_check(mb_retry_queue *queue, int64_t now_us) {
  bool held[KEYS] = {false};
  mb_parked *due = NULL;
  if (queue->count != model_count) return "the count is wrong";
  if (mb__retry_low(queue, -7) != (model_count ? model[0].offset : -7)) return "the mark is wrong";
  for (size_t i = 0; i < model_count; i++) held[model[i].key] = true;
  for (int k = 0; k < KEYS; k++)
    if (mb__retry_holds(queue, mb_str(keys[k])) != held[k]) return "a key is held or free wrongly";
  for (size_t i = 0; i < model_count && !due; i++)
    if (model[i].due_us <= now_us) due = model[i].parked;
  if (mb__retry_next(queue, now_us, false) != due) return "the wrong event is due";
  if (due) return NULL;
  int64_t earliest = INT64_MAX;
  for (size_t i = 0; i < model_count; i++)
    if (model[i].due_us < earliest) earliest = model[i].due_us;
  return queue->due_us == earliest ? NULL : "the lot's next time is wrong";
}

static void against_model(void) {
  const char *given = getenv("MB_SEED"), *wrong = NULL;
  uint64_t first = given ? strtoull(given, NULL, 10) : 20260102, seed = first;
  int64_t offset = 0, now_us = 0;
  mb_retry_queue queue;
  int step;
  mb__retry_init(&queue);
  for (step = 0; step < STEPS && !wrong; step++) {
    uint64_t what = roll(&seed) % 10;
    size_t i = model_count ? roll(&seed) % model_count : 0;
    if (what < 4 && model_count < MOST) {
      int key = (int)(roll(&seed) % KEYS);
      offset += 1 + (int64_t)(roll(&seed) % 3);
      mb_parked *parked = park(&queue, offset, keys[key]);
      model[model_count++] = (model_event){offset, INT64_MAX, key, parked};
    } else if (what < 7 && model_count && free_to_move(i, now_us)) {
      int64_t due_us = now_us + (int64_t)(roll(&seed) % 1000);
      model[i].due_us = due_us;
      mb__retry_due(&queue, model[i].parked, MB_BACKOFF, due_us);
    } else if (what < 9 && model_count && free_to_move(i, now_us)) {
      model_settle(&queue, i);
    } else {
      now_us += (int64_t)(roll(&seed) % 300);
    }
    wrong = model_check(&queue, now_us);
  }
  ok(!wrong, "over random operations the lot is as its model says: %s, step %d, MB_SEED=%" PRIu64,
     wrong ? wrong : "all of them", step, first);
  mb__retry_clear(&queue);
  ok(records_alive == 0, "and leaks no record");
}

/* ---- failed events that are read again ---- */

static void memories(void) {
  mb_retry_queue queue;
  mb_undone *list = NULL;
  mb__retry_init(&queue);
  mb_parked *failed = park(&queue, 3, "a"), *behind = park(&queue, 4, "a"),
            *held = park(&queue, 5, "b");
  mb_parked *dead = park(&queue, 6, "c");
  failed->attempts = 2;
  failed->first_failed_us = 77;
  failed->fail = calloc(1, sizeof *failed->fail);
  mb__retry_due(&queue, failed, MB_BACKOFF, 1000);
  mb__retry_hold(&queue, held, 2000);
  dead->reason = "max_retries_exceeded";
  dead->lean = MB_POINTER;
  mb__retry_due(&queue, dead, MB_IN_DLQ, INT64_MAX);
  mb_parked *all[] = {failed, behind, held, dead};
  for (size_t i = 0; i < 4; i++) mb__undone_keep(&list, 7, all[i]);
  ok(!failed->fail, "a memory takes the failure's text");
  mb__retry_clear(&queue);
  mb__parked_free(dead); /* as its report would */
  ok(!mb__undone_take(&list, 7, 4), "an event that only waited is not remembered");
  ok(!mb__undone_take(&list, 6, 3), "nor one of another partition");
  mb_undone *memory = mb__undone_take(&list, 7, 3);
  ok(memory && memory->attempts == 2 && memory->due_us == 1000 && !memory->held,
     "a failed one comes back to its attempts and its time");
  ok(!mb__undone_take(&list, 7, 3), "once");
  mb_parked *again = park(&queue, 3, "a");
  mb__undone_restore(memory, again);
  ok(again->attempts == 2 && again->first_failed_us == 77 && again->fail && !memory->fail,
     "and has them, and the failure's text, when it is parked again");
  mb__undone_free(memory);
  memory = mb__undone_take(&list, 7, 5);
  ok(memory && memory->held && memory->due_us == 2000,
     "one held back by an open breaker comes back so");
  mb__undone_free(memory);
  memory = mb__undone_take(&list, 7, 6);
  ok(memory && memory->reason && memory->lean == MB_POINTER && memory->due_us == 0,
     "one whose dead letter was on its way is due at once");
  mb__undone_free(memory);
  mb__undone_keep(&list, 7, again);
  mb__undone_keep(&list, 8, again);
  mb__undone_forget(&list, 7);
  ok(list && list->partition == 8 && !list->next, "a partition's are forgotten alone");
  mb__undone_forget(&list, -1);
  ok(!list, "or all of them");
  mb__retry_clear(&queue);
}

int main(void) {
  memories();
  backoff();
  empty();
  key_queues();
  keyless();
  holding();
  running();
  outliving();
  clearing();
  against_model();
  return done();
}
