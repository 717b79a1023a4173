/* group/undone.h: what is known of failed events that will be read again: a transaction was
 * aborted, or what handlers did in a database was lost. So that their attempts go on where they
 * were, and two that fail in turn do not make each other start over. No I/O. */
#ifndef MB_MEMORY_H
#define MB_MEMORY_H

#include "group/retry.h"

typedef struct mb_memory {
  int32_t partition;
  int64_t offset;
  bool held; /* dead, and held back by an open breaker */
  int attempts, dlq_attempts;
  mb_lean lean;
  int64_t first_failed_us;
  int64_t due_us;
  const char *reason; /* dead: of the dead letter; NULL = to be retried */
  mb_fail *fail;      /* owned; NULL = unknown */
  struct mb_memory *next;
} mb_memory;

/* Remember a parked event that has failed; no other is. All its handlers will run again: which of
 * them succeeded in what was undone, nobody knows. */
void mb__remember(mb_memory **memories, int32_t partition, mb_parked *parked);
/* Remember that an event failed. NULL when out of memory. */
mb_memory *mb__memory_new(mb_memory **memories, int32_t partition, int64_t offset);
/* The memory of an event, taken out: owned. NULL = none. */
mb_memory *mb__recall(mb_memory **memories, int32_t partition, int64_t offset);
/* Restore it into the event, which is parked again. */
void mb__memory_restore(mb_memory *memory, mb_parked *parked);
void mb__memory_free(mb_memory *memory);
/* Forget those of a partition; -1 = all. */
void mb__forget(mb_memory **memories, int32_t partition);

#endif
