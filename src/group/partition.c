/* group/partition.c: the assigned partitions: found, added, removed, and how far each one is.
 * Must not know handlers or outcomes.
 * Called by the rest of group/, and by deliver/ and bus/ for what they ask of a partition. */
#include "group/partition.h"

#include <stdlib.h>
#include <string.h>

#include "group/consumer_internal.h"
#include "kafka/answers.h"

mb_part *mb__consumer_part(const mb_group *group, int32_t partition) {
  const mb_consumer *consumer = group->consumer;
  if (partition < 0 || (size_t)partition >= consumer->by_id_len) return NULL;
  return consumer->by_id[partition];
}

mb_part *mb__consumer_part_at(const mb_group *group, size_t i) {
  return group->consumer && i < group->consumer->part_count ? group->consumer->parts[i] : NULL;
}

size_t mb__consumer_part_count(const mb_group *group) {
  return group->consumer ? group->consumer->part_count : 0;
}

mb_part *mb__part_add(mb_group *group, int32_t id, int64_t committed) {
  mb_consumer *consumer = group->consumer;
  if ((size_t)id >= consumer->by_id_len) {
    size_t len = (size_t)id + 16;
    mb_part **by_id = realloc(consumer->by_id, len * sizeof *by_id);
    if (!by_id) return NULL;
    memset(by_id + consumer->by_id_len, 0, (len - consumer->by_id_len) * sizeof *by_id);
    consumer->by_id = by_id;
    consumer->by_id_len = len;
  }
  if (consumer->by_id[id]) return consumer->by_id[id];
  mb_part **parts = realloc(consumer->parts, (consumer->part_count + 1) * sizeof *parts);
  if (!parts) return NULL;
  consumer->parts = parts;
  mb_part *part = calloc(1, sizeof *part);
  if (!part) return NULL;
  part->id = id;
  part->next = part->fetched = part->committed = part->begin = part->held_at = -1;
  mb__retry_init(&part->queue);
  /* What another worker settled is only believed if the group's offsets did not go back since. */
  if (group->watch && !group->ctx->transaction.on)
    part->queue.notes.part = mb__watch_take(group->watch, id, committed);
  part->queue.notes.hold = &group->unit.open;
  part->breaker.run = mb__watch_dead_run(part->queue.notes.part);
  parts[consumer->part_count++] = part;
  consumer->by_id[id] = part;
  return part;
}

void mb__part_remove(mb_consumer *consumer, int32_t id) {
  mb_part *part = id >= 0 && (size_t)id < consumer->by_id_len ? consumer->by_id[id] : NULL;
  if (!part) return;
  consumer->by_id[id] = NULL;
  for (size_t i = 0; i < consumer->part_count; i++) {
    if (consumer->parts[i] != part) continue;
    consumer->parts[i] = consumer->parts[--consumer->part_count];
    break;
  }
  mb__watch_give(part->queue.notes.part);
  mb__retry_clear(&part->queue);
  mb__marks_free(&part->ahead);
  mb__breaker_clear(&part->breaker);
  mb__breaker_clear(&part->breaker_kept);
  free(part);
}

mb_part *mb__part_of(mb_retry_queue *queue) {
  return (mb_part *)((char *)queue - offsetof(mb_part, queue));
}

size_t mb__consumer_parked(const mb_group *group) {
  size_t parked = 0;
  for (size_t i = 0; i < mb__consumer_part_count(group); i++)
    parked += group->consumer->parts[i]->queue.count;
  return parked;
}

int64_t mb__part_silent_us(const mb_part *part) {
  return part->silent_us && mb__mono_us() - part->silent_us >= MB_SILENT_US ? part->silent_us : 0;
}

int64_t mb__part_lag(const mb_group *group, const mb_part *part) {
  int64_t low, high;
  if (mb__part_silent_us(part)) return -1; /* nobody knows where it ends now */
  /* Past the last record there may be marks of transactions, which nobody is given. */
  if (part->at_end && !part->queue.count && part->next == part->fetched) return 0;
  if (rd_kafka_get_watermark_offsets(group->consumer->rk, group->ctx->topic, part->id, &low,
                                     &high) ||
      high < 0 || part->fetched < 0)
    return -1;
  int64_t done = mb__retry_low(&part->queue, part->next >= 0 ? part->next : part->fetched);
  return high > done ? high - done : 0;
}

bool mb__consumer_marks(const mb_group *group) {
  return !group->consumer->unmarked;
}

mb_bytes mb__part_key(const mb_group *group, const rd_kafka_message_t *record) {
  if (mb__conf_is(group->ctx->conf, MB_OPT_retry_scope, "partition") || !record->key)
    return (mb_bytes){"", 0};
  if (group->ctx->transaction.on && !mb__consumer_marks(group)) return (mb_bytes){"", 0};
  return (mb_bytes){record->key, record->key_len};
}
