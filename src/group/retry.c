/* group/retry.c: backoff arithmetic and the events that wait.
 * Must not do I/O, decide outcomes or know handlers.
 * Called by deliver/deliver.c, deliver/dead_letter.c, group/pause.c, group/pending.c,
 * group/offsets.c and group/consumer.c. */
#include "group/retry.h"

#include "kafka/record.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
/* Out of memory an addition leaves hh.tbl NULL; by default uthash would end the process. */
#define HASH_NONFATAL_OOM 1
#include <uthash.h>
#include <utlist.h>

struct mb_key_queue {
  char *key;
  size_t key_len;
  mb_parked *head;
  UT_hash_handle hh;
};

void mb__retry_init(mb_retry_queue *queue) {
  *queue = (mb_retry_queue){.due_us = INT64_MAX};
}

static mb_key_queue *lane_of(mb_retry_queue *queue, mb_bytes key) {
  mb_key_queue *key_queue = NULL;
  if (queue->count) HASH_FIND(hh, queue->key_queues, key.data, key.len, key_queue);
  return key_queue;
}

bool mb__retry_holds(mb_retry_queue *queue, mb_bytes key) {
  return lane_of(queue, key) != NULL;
}

static mb_key_queue *lane_new(mb_retry_queue *queue, mb_bytes key) {
  mb_key_queue *key_queue = calloc(1, sizeof *key_queue);
  if (!key_queue || !(key_queue->key = malloc(key.len + 1))) {
    free(key_queue);
    return NULL;
  }
  if (key.len) memcpy(key_queue->key, key.data, key.len);
  key_queue->key_len = key.len;
  HASH_ADD_KEYPTR(hh, queue->key_queues, key_queue->key, key_queue->key_len, key_queue);
  if (key_queue->hh.tbl) return key_queue;
  free(key_queue->key);
  free(key_queue);
  return NULL;
}

static size_t weight(const mb_parked *parked) {
  return parked->record->len + parked->record->key_len + sizeof *parked;
}

mb_parked *mb__retry_park(mb_retry_queue *queue, rd_kafka_message_t *record, mb_bytes key) {
  mb_parked *parked = calloc(1, sizeof *parked);
  if (!parked) return NULL;
  mb_key_queue *key_queue = lane_of(queue, key);
  if (!key_queue && !(key_queue = lane_new(queue, key))) {
    free(parked);
    return NULL;
  }
  parked->record = record;
  parked->state = MB_WAITING;
  parked->due_us = INT64_MAX;
  parked->queue = queue;
  parked->key_queue = key_queue;
  DL_APPEND(queue->head, parked);
  DL_APPEND2(key_queue->head, parked, key_prev, key_next);
  queue->count++;
  queue->bytes += weight(parked);
  mb__note(&queue->notes, MB_NOTE_PARK, record->offset);
  if (mb__record_is_own(key_queue->head->record)) mb__parked_own(parked);
  return parked;
}

void mb__parked_own(mb_parked *parked) {
  for (; parked; parked = parked->key_next) {
    rd_kafka_message_t *own =
        mb__record_is_own(parked->record) ? NULL : mb__record_own(parked->record);
    if (own) parked->record = own;
  }
}

static bool may_go(const mb_retry_queue *queue, const mb_parked *parked) {
  return !queue->held || parked == queue->held || parked->state == MB_TO_DLQ;
}

void mb__retry_due(mb_retry_queue *queue, mb_parked *parked, mb_parked_state state,
                   int64_t due_us) {
  queue->running += (state == MB_RUNNING) - (parked->state == MB_RUNNING);
  parked->state = state;
  parked->due_us = due_us;
  if (due_us < queue->due_us && may_go(queue, parked)) queue->due_us = due_us;
}

void mb__retry_hold(mb_retry_queue *queue, mb_parked *parked, int64_t due_us) {
  queue->held = parked;
  if (parked) mb__retry_due(queue, parked, MB_BACKOFF, due_us);
  queue->due_us = 0; /* who may go has changed: the next look finds out */
}

mb_parked *mb__retry_next(mb_retry_queue *queue, int64_t now_us, bool full) {
  if (queue->due_us > now_us) return NULL;
  int64_t earliest = INT64_MAX;
  mb_parked *parked;
  DL_FOREACH(queue->head, parked) {
    if (!may_go(queue, parked) || (full && parked->state != MB_TO_DLQ)) continue;
    if (parked->due_us <= now_us) return parked;
    if (parked->due_us < earliest) earliest = parked->due_us;
  }
  queue->due_us = earliest;
  return NULL;
}

void mb__retry_wake(mb_retry_queue *queue, mb_bytes key) {
  mb_key_queue *key_queue = key.data ? lane_of(queue, key) : queue->key_queues;
  for (; key_queue; key_queue = key.data ? NULL : key_queue->hh.next)
    if (key_queue->head->state == MB_WAITING) mb__retry_due(queue, key_queue->head, MB_BACKOFF, 0);
}

bool mb__retry_failing(const mb_retry_queue *queue) {
  const mb_parked *parked;
  DL_FOREACH(queue->head, parked) {
    /* One that waits for none of its key has just failed. */
    bool alone = parked->state == MB_WAITING && parked->key_queue->head == parked;
    if (alone || parked->first_failed_us || parked->reason) return true;
  }
  return false;
}

void mb__parked_free(mb_parked *parked) {
  if (!parked) return;
  if (parked->record) mb__record_destroy(parked->record);
  mb__ids_free(&parked->failed);
  mb__ids_free(&parked->final);
  free(parked->fail);
  free(parked);
}

static void take_out(mb_retry_queue *queue, mb_parked *parked) {
  mb_key_queue *key_queue = parked->key_queue;
  queue->count--;
  queue->bytes -= weight(parked);
  queue->running -= parked->state == MB_RUNNING;
  if (parked == queue->held) mb__retry_hold(queue, NULL, 0);
  DL_DELETE(queue->head, parked);
  DL_DELETE2(key_queue->head, parked, key_prev, key_next);
  parked->queue = NULL;
  parked->key_queue = NULL;
  if (key_queue->head) return;
  HASH_DEL(queue->key_queues, key_queue);
  free(key_queue->key);
  free(key_queue);
}

void mb__retry_settle(mb_retry_queue *queue, mb_parked *parked) {
  mb_parked *next = parked->key_next;
  if (!parked->of_old_log) mb__note(&queue->notes, MB_NOTE_UNPARK, parked->record->offset);
  take_out(queue, parked);
  mb__parked_free(parked);
  if (next) mb__retry_due(queue, next, MB_BACKOFF, 0);
}

void mb__retry_keep_after_recreate(mb_retry_queue *queue) {
  mb_parked *parked;
  DL_FOREACH(queue->head, parked) parked->of_old_log = true;
}

int64_t mb__retry_low(const mb_retry_queue *queue, int64_t otherwise) {
  const mb_parked *parked = queue->head;
  while (parked && parked->of_old_log) parked = parked->next;
  return parked ? parked->record->offset : otherwise;
}

void mb__retry_clear(mb_retry_queue *queue) {
  mb_parked *parked, *tmp;
  DL_FOREACH_SAFE(queue->head, parked, tmp) {
    take_out(queue, parked);
    if (parked->state == MB_RUNNING) continue;
    if (parked->state != MB_IN_DLQ) {
      mb__parked_free(parked);
      continue;
    }
    /* The record must not outlive its consumer; the report still needs the rest. */
    mb__record_destroy(parked->record);
    parked->record = NULL;
  }
  mb__notes_drop(&queue->notes);
  mb_notes notes = queue->notes;
  mb__retry_init(queue);
  queue->notes = notes;
}
