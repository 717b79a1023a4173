/* group/progress.c: events that are settled: their partition's position, and the next commit.
 * Must not know why an event is settled.
 * Called by deliver/. */
#include "group/progress.h"

#include "group/consumer_internal.h"

static void count_settled(mb_group *group) {
  group->consumer->settled++;
  group->txn.events++;
}

void mb__progress_pass(mb_group *group, mb_part *part, rd_kafka_message_t *record) {
  part->next = record->offset + 1;
  mb__note(&part->queue.notes, MB_NOTE_PASS, record->offset);
  count_settled(group);
  rd_kafka_message_destroy(record);
}

void mb__progress_settled(mb_group *group, mb_parked *parked) {
  mb_part *part = mb__part_of(parked->queue);
  mb__retry_settle(parked->queue, parked);
  count_settled(group);
  mb__consumer_balance(group, part);
}
