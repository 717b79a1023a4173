/* group/undone.c: failed events that will be read again, and how far they were.
 * Must not do I/O nor decide outcomes.
 * Called by group/offsets.c before a partition is read again, by deliver/deliver.c when its events
 * come back, by group/rebalance.c and bus/bus.c when they will not. */
#include "group/undone.h"

#include <stdlib.h>

mb_memory *mb__memory_new(mb_memory **memories, int32_t partition, int64_t offset) {
  mb_memory *memory = calloc(1, sizeof *memory);
  if (!memory) return NULL;
  *memory = (mb_memory){.partition = partition, .offset = offset, .next = *memories};
  *memories = memory;
  return memory;
}

void mb__remember(mb_memory **memories, int32_t partition, mb_parked *parked) {
  bool held = parked == parked->lot->held;
  if (parked->outlived || (!parked->attempts && !parked->reason && !held)) return;
  mb_memory *memory = mb__memory_new(memories, partition, parked->record->offset);
  if (!memory) return; /* then it only starts over with its attempts */
  memory->held = held;
  memory->attempts = parked->attempts;
  memory->dlq_attempts = parked->dlq_attempts;
  memory->lean = parked->lean;
  memory->first_failed_us = parked->first_failed_us;
  memory->due_us = parked->due_us < INT64_MAX ? parked->due_us : 0;
  memory->reason = parked->reason;
  memory->fail = parked->fail;
  parked->fail = NULL;
}

mb_memory *mb__recall(mb_memory **memories, int32_t partition, int64_t offset) {
  for (mb_memory **at = memories; *at; at = &(*at)->next) {
    mb_memory *memory = *at;
    if (memory->partition != partition || memory->offset != offset) continue;
    *at = memory->next;
    return memory;
  }
  return NULL;
}

void mb__memory_restore(mb_memory *memory, mb_parked *parked) {
  parked->attempts = memory->attempts;
  parked->dlq_attempts = memory->dlq_attempts;
  parked->lean = memory->lean;
  parked->first_failed_us = memory->first_failed_us;
  parked->reason = memory->reason;
  parked->fail = memory->fail;
  memory->fail = NULL;
}

void mb__memory_free(mb_memory *memory) {
  if (!memory) return;
  free(memory->fail);
  free(memory);
}

void mb__forget(mb_memory **memories, int32_t partition) {
  for (mb_memory **at = memories; *at;) {
    mb_memory *memory = *at;
    if (partition >= 0 && memory->partition != partition) {
      at = &memory->next;
      continue;
    }
    *at = memory->next;
    mb__memory_free(memory);
  }
}
