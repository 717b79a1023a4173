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

struct mb_lane {
  char *key;
  size_t key_len;
  mb_parked *head;
  UT_hash_handle hh;
};

void mb__lot_init(mb_lot *lot) {
  *lot = (mb_lot){.due_us = INT64_MAX};
}

static mb_lane *lane_of(mb_lot *lot, mb_bytes key) {
  mb_lane *lane = NULL;
  if (lot->count) HASH_FIND(hh, lot->lanes, key.data, key.len, lane);
  return lane;
}

bool mb__lot_holds(mb_lot *lot, mb_bytes key) {
  return lane_of(lot, key) != NULL;
}

static mb_lane *lane_new(mb_lot *lot, mb_bytes key) {
  mb_lane *lane = calloc(1, sizeof *lane);
  if (!lane || !(lane->key = malloc(key.len + 1))) {
    free(lane);
    return NULL;
  }
  if (key.len) memcpy(lane->key, key.data, key.len);
  lane->key_len = key.len;
  HASH_ADD_KEYPTR(hh, lot->lanes, lane->key, lane->key_len, lane);
  if (lane->hh.tbl) return lane;
  free(lane->key);
  free(lane);
  return NULL;
}

static size_t weight(const mb_parked *parked) {
  return parked->record->len + parked->record->key_len + sizeof *parked;
}

mb_parked *mb__lot_park(mb_lot *lot, rd_kafka_message_t *record, mb_bytes key) {
  mb_parked *parked = calloc(1, sizeof *parked);
  if (!parked) return NULL;
  mb_lane *lane = lane_of(lot, key);
  if (!lane && !(lane = lane_new(lot, key))) {
    free(parked);
    return NULL;
  }
  parked->record = record;
  parked->state = MB_WAITING;
  parked->due_us = INT64_MAX;
  parked->lot = lot;
  parked->lane = lane;
  DL_APPEND(lot->head, parked);
  DL_APPEND2(lane->head, parked, lane_prev, lane_next);
  lot->count++;
  lot->bytes += weight(parked);
  mb__note(&lot->notes, MB_NOTE_PARK, record->offset);
  if (mb__record_is_own(lane->head->record)) mb__parked_own(parked);
  return parked;
}

void mb__parked_own(mb_parked *parked) {
  for (; parked; parked = parked->lane_next) {
    rd_kafka_message_t *own =
        mb__record_is_own(parked->record) ? NULL : mb__record_own(parked->record);
    if (own) parked->record = own;
  }
}

static bool may_go(const mb_lot *lot, const mb_parked *parked) {
  return !lot->held || parked == lot->held || parked->state == MB_TO_DLQ;
}

void mb__lot_due(mb_lot *lot, mb_parked *parked, mb_parked_state state, int64_t due_us) {
  lot->running += (state == MB_RUNNING) - (parked->state == MB_RUNNING);
  parked->state = state;
  parked->due_us = due_us;
  if (due_us < lot->due_us && may_go(lot, parked)) lot->due_us = due_us;
}

void mb__lot_hold(mb_lot *lot, mb_parked *parked, int64_t due_us) {
  lot->held = parked;
  if (parked) mb__lot_due(lot, parked, MB_BACKOFF, due_us);
  lot->due_us = 0; /* who may go has changed: the next look finds out */
}

mb_parked *mb__lot_next(mb_lot *lot, int64_t now_us, bool full) {
  if (lot->due_us > now_us) return NULL;
  int64_t earliest = INT64_MAX;
  mb_parked *parked;
  DL_FOREACH(lot->head, parked) {
    if (!may_go(lot, parked) || (full && parked->state != MB_TO_DLQ)) continue;
    if (parked->due_us <= now_us) return parked;
    if (parked->due_us < earliest) earliest = parked->due_us;
  }
  lot->due_us = earliest;
  return NULL;
}

void mb__lot_wake(mb_lot *lot, mb_bytes key) {
  mb_lane *lane = key.data ? lane_of(lot, key) : lot->lanes;
  for (; lane; lane = key.data ? NULL : lane->hh.next)
    if (lane->head->state == MB_WAITING) mb__lot_due(lot, lane->head, MB_BACKOFF, 0);
}

bool mb__lot_failing(const mb_lot *lot) {
  const mb_parked *parked;
  DL_FOREACH(lot->head, parked) {
    /* One that waits for none of its key has just failed. */
    bool alone = parked->state == MB_WAITING && parked->lane->head == parked;
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

static void take_out(mb_lot *lot, mb_parked *parked) {
  mb_lane *lane = parked->lane;
  lot->count--;
  lot->bytes -= weight(parked);
  lot->running -= parked->state == MB_RUNNING;
  if (parked == lot->held) mb__lot_hold(lot, NULL, 0);
  DL_DELETE(lot->head, parked);
  DL_DELETE2(lane->head, parked, lane_prev, lane_next);
  parked->lot = NULL;
  parked->lane = NULL;
  if (lane->head) return;
  HASH_DEL(lot->lanes, lane);
  free(lane->key);
  free(lane);
}

void mb__lot_settle(mb_lot *lot, mb_parked *parked) {
  mb_parked *next = parked->lane_next;
  if (!parked->outlived) mb__note(&lot->notes, MB_NOTE_UNPARK, parked->record->offset);
  take_out(lot, parked);
  mb__parked_free(parked);
  if (next) mb__lot_due(lot, next, MB_BACKOFF, 0);
}

void mb__lot_outlive(mb_lot *lot) {
  mb_parked *parked;
  DL_FOREACH(lot->head, parked) parked->outlived = true;
}

int64_t mb__lot_low(const mb_lot *lot, int64_t otherwise) {
  const mb_parked *parked = lot->head;
  while (parked && parked->outlived) parked = parked->next;
  return parked ? parked->record->offset : otherwise;
}

void mb__lot_clear(mb_lot *lot) {
  mb_parked *parked, *tmp;
  DL_FOREACH_SAFE(lot->head, parked, tmp) {
    take_out(lot, parked);
    if (parked->state == MB_RUNNING) continue;
    if (parked->state != MB_IN_DLQ) {
      mb__parked_free(parked);
      continue;
    }
    /* The record must not outlive its consumer; the report still needs the rest. */
    mb__record_destroy(parked->record);
    parked->record = NULL;
  }
  mb__notes_drop(&lot->notes);
  mb_notes notes = lot->notes;
  mb__lot_init(lot);
  lot->notes = notes;
}
