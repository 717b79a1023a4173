/* group/inbox.c: the records that were fetched and are not looked at yet.
 * Must not know what becomes of a record.
 * Called by group/consumer.c, which fills it, and by what reads a partition again. */
#include "group/consumer_internal.h"

rd_kafka_message_t **mb__inbox_at(mb_consumer *consumer, size_t i) {
  return &consumer->inbox[(consumer->head + i) % INBOX_MAX];
}

/* Drop what was fetched from partitions that are no longer ours (they will be read by their new
 * owner, or by us from the committed offset if they come back), and from one that is read again. */
void mb__inbox_purge(mb_consumer *consumer, int32_t rewound) {
  size_t kept = 0;
  for (size_t i = 0; i < consumer->count; i++) {
    rd_kafka_message_t *record = *mb__inbox_at(consumer, i);
    int32_t id = record->partition;
    if (id != rewound && (size_t)id < consumer->by_id_len && consumer->by_id[id]) {
      *mb__inbox_at(consumer, kept++) = record;
      continue;
    }
    if (id == rewound && consumer->by_id[id]->restart == record)
      consumer->by_id[id]->restart = NULL;
    consumer->bytes -= record->len;
    rd_kafka_message_destroy(record);
  }
  consumer->count = kept;
}

/* The log ended before what was read already: the topic was created again, or lost its end. No note
 * of its offsets is valid any more; events that wait for a retry still are. */
static void begin_restarted(mb_part *part, int64_t offset) {
  mb__marks_free(&part->ahead);
  mb__notes_drop(&part->queue.notes);
  mb__watch_reset(part->queue.notes.part);
  mb__retry_keep_after_recreate(&part->queue);
  part->restart = NULL;
  part->committed = -1;
  part->marked = 0;
  part->begin = part->next = offset;
}

rd_kafka_message_t *mb__consumer_take(mb_group *group, mb_part **part) {
  mb_consumer *consumer = group->consumer;
  while (consumer->count) {
    rd_kafka_message_t *record = consumer->inbox[consumer->head];
    consumer->head = (consumer->head + 1) % INBOX_MAX;
    consumer->count--;
    consumer->bytes -= record->len;
    *part = mb__consumer_part(group, record->partition);
    if (*part && (*part)->restart == record) begin_restarted(*part, record->offset);
    if (*part) return record;
    rd_kafka_message_destroy(record);
  }
  return NULL;
}
