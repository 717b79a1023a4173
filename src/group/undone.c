/* group/undone.c: failed events that will be read again, and how far they were.
 * Must not do I/O nor decide outcomes.
 * Called by group/offsets.c before a partition is read again, by deliver/deliver.c when its events
 * come back, by group/rebalance.c and bus/step.c when they will not. */
#include "group/undone.h"

#include <stdlib.h>

mb_undone *mb__undone_new(mb_undone **list, int32_t partition, int64_t offset) {
  mb_undone *undone = calloc(1, sizeof *undone);
  if (!undone) return NULL;
  *undone = (mb_undone){.partition = partition, .offset = offset, .next = *list};
  *list = undone;
  return undone;
}

void mb__undone_keep(mb_undone **list, int32_t partition, mb_parked *parked) {
  bool held = parked == parked->queue->held;
  if (parked->of_old_log || (!parked->attempts && !parked->reason && !held)) return;
  mb_undone *undone = mb__undone_new(list, partition, parked->record->offset);
  if (!undone) return; /* then it only starts over with its attempts */
  undone->held = held;
  undone->attempts = parked->attempts;
  undone->dlq_attempts = parked->dlq_attempts;
  undone->lean = parked->lean;
  undone->first_failed_us = parked->first_failed_us;
  undone->due_us = parked->due_us < INT64_MAX ? parked->due_us : 0;
  undone->reason = parked->reason;
  undone->fail = parked->fail;
  parked->fail = NULL;
}

mb_undone *mb__undone_take(mb_undone **list, int32_t partition, int64_t offset) {
  for (mb_undone **at = list; *at; at = &(*at)->next) {
    mb_undone *undone = *at;
    if (undone->partition != partition || undone->offset != offset) continue;
    *at = undone->next;
    return undone;
  }
  return NULL;
}

void mb__undone_restore(mb_undone *undone, mb_parked *parked) {
  parked->attempts = undone->attempts;
  parked->dlq_attempts = undone->dlq_attempts;
  parked->lean = undone->lean;
  parked->first_failed_us = undone->first_failed_us;
  parked->reason = undone->reason;
  parked->fail = undone->fail;
  undone->fail = NULL;
}

void mb__undone_free(mb_undone *undone) {
  if (!undone) return;
  free(undone->fail);
  free(undone);
}

void mb__undone_forget(mb_undone **list, int32_t partition) {
  for (mb_undone **at = list; *at;) {
    mb_undone *undone = *at;
    if (partition >= 0 && undone->partition != partition) {
      at = &undone->next;
      continue;
    }
    *at = undone->next;
    mb__undone_free(undone);
  }
}
