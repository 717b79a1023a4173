/* group/undone.h: what is known of failed events that will be read again: a transaction was
 * aborted, or what handlers did in a database was lost. So that their attempts go on where they
 * were, and two that fail in turn do not make each other start over. No I/O. */
#ifndef MB_UNDONE_H
#define MB_UNDONE_H

#include "group/retry.h"

typedef struct mb_undone {
  int32_t partition;
  int64_t offset;
  bool held; /* dead, and held back by an open breaker */
  int attempts, dlq_attempts;
  mb_lean lean;
  int64_t first_failed_us;
  int64_t due_us;
  const char *reason; /* dead: of the dead letter; NULL = to be retried */
  mb_fail *fail;      /* owned; NULL = unknown */
  struct mb_undone *next;
} mb_undone;

/* Keep what is known of a parked event, if it has failed. All its handlers will run again: which of
 * them succeeded in what was undone is not known. */
void mb__undone_keep(mb_undone **list, int32_t partition, mb_parked *parked);
/* Note that an event failed. NULL when out of memory. */
mb_undone *mb__undone_new(mb_undone **list, int32_t partition, int64_t offset);
/* What is known of an event, taken out of the list: owned. NULL = nothing. */
mb_undone *mb__undone_take(mb_undone **list, int32_t partition, int64_t offset);
/* Restore it into the event, which is parked again. */
void mb__undone_restore(mb_undone *undone, mb_parked *parked);
void mb__undone_free(mb_undone *undone);
/* Forget those of a partition; -1 = all. */
void mb__undone_forget(mb_undone **list, int32_t partition);

#endif
