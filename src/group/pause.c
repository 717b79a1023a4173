/* group/pause.c: which partitions are paused: those whose breaker is open, those of which too much
 * waits, and all of them while handlers are so slow that the inbox finds no room. Must not know
 * handlers or outcomes. Called by bus/step.c, deliver/deliver.c, group/consumer.c and
 * group/offsets.c. */
#include "group/consumer_internal.h"

#define STALL_US 1000000 /* so long the inbox may be full before the partitions are paused */

void mb__part_seek(mb_group *group, mb_part *part) {
  mb_consumer *consumer = group->consumer;
  if (part->fetched < 0) return;
  rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
  rd_kafka_topic_partition_list_add(list, group->ctx->topic, part->id)->offset = part->fetched;
  rd_kafka_error_t *error = rd_kafka_seek_partitions(consumer->rk, list, 0);
  if (error) rd_kafka_error_destroy(error);
  rd_kafka_topic_partition_list_destroy(list);
  part->moved = consumer->polling;
  if (part->moved) consumer->moved = true;
}

/* Only what is paused may be resumed: else librdkafka before 2.4.0 reads it again. */
void mb__part_pause(mb_group *group, mb_part *part, bool paused) {
  mb_consumer *consumer = group->consumer;
  rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
  rd_kafka_topic_partition_list_add(list, group->ctx->topic, part->id);
  mb__client_pause(consumer->client, list, paused);
  rd_kafka_topic_partition_list_destroy(list);
  part->paused = paused;
  /* Without the seek, a resumed one is fetched only at librdkafka's next 1 s tick; a paused one
   * goes on from a position that kafka/poller.c explains. */
  if (!paused || consumer->poller.queue) mb__part_seek(group, part);
}

void mb__consumer_seek_all(mb_group *group) {
  mb_consumer *consumer = group->consumer;
  if (!consumer->poller.queue) return;
  for (size_t i = 0; i < consumer->part_count; i++) mb__part_seek(group, consumer->parts[i]);
}

/* ---- a full inbox ---- */

size_t mb__inbox_room(mb_group *group) {
  mb_consumer *consumer = group->consumer;
  bool full = mb__pending_full(group);
  size_t room = INBOX_MAX - consumer->count;
  if (full && consumer->bytes > INBOX_BYTES) room = 0;
  if (room > INBOX_MAX / 2 && consumer->stalled_us) {
    consumer->stalled_us = 0;
    for (size_t i = 0; i < consumer->part_count; i++) {
      mb_part *part = consumer->parts[i];
      if (!part->stalled) continue;
      part->stalled = false;
      mb__part_pause(group, part, false);
      mb__consumer_balance(group, part);
    }
  }
  if (consumer->stalled_us) return 0;
  if (room) {
    consumer->full_us = 0;
    return room;
  }
  int64_t now_us = mb__mono_us();
  if (!consumer->full_us) consumer->full_us = now_us;
  if (now_us - consumer->full_us < STALL_US) return 0;
  consumer->stalled_us = now_us;
  mb__log(&group->ctx->log, MB_LOG_DEBUG,
          "%zu events are running and %zu wait: nothing more is fetched", group->pending.count,
          consumer->count);
  /* One of which nothing has come yet has no place to go on from: it is paused when its first
   * record does. */
  for (size_t i = 0; i < consumer->part_count; i++)
    if (consumer->parts[i]->fetched >= 0) mb__part_stall(group, consumer->parts[i], -1);
  return 0;
}

void mb__part_stall(mb_group *group, mb_part *part, int64_t offset) {
  if (part->fetched < 0) part->fetched = offset;
  part->at_end = false;
  if (part->paused) return;
  mb__part_pause(group, part, true);
  part->stalled = true;
}

/* ---- what waits ---- */

/* What the inbox holds of a partition is read again later. */
static void unfetch(mb_group *group, mb_part *part) {
  if (part->fetched == part->next) return;
  mb__inbox_purge(group->consumer, part->id);
  part->fetched = part->next;
  part->at_end = false;
}

void mb__consumer_balance(mb_group *group, mb_part *part) {
  size_t most = (size_t)mb__conf_int(group->ctx->conf, MB_OPT_retry_parked_max);
  /* With what the inbox may add, and what is running, all of them must find room in the
   * supervisor's notes. */
  size_t room_noted =
      MB_WATCH_PARKED_MAX - INBOX_MAX - (group->pending.most > 1 ? group->pending.most : 0);
  if (group->watch && most > room_noted) most = room_noted;
  if (group->ctx->transaction.on && most > MB_TXN_PARKED_MAX) most = MB_TXN_PARKED_MAX;
  size_t most_bytes = (size_t)mb__conf_int(group->ctx->conf, MB_OPT_retry_parked_max_kbytes) * 1024;
  bool held = part->queue.held != NULL;
  size_t count = part->queue.count - part->queue.running;
  bool full = held || count >= most || part->queue.bytes >= most_bytes;
  bool room = !held && count <= most / 2 && part->queue.bytes <= most_bytes / 2;
  if (part->stalled) return; /* it is looked at again when that is over */
  if (part->paused ? !room : !full) return;
  if (full && group->ctx->transaction.on) unfetch(group, part);
  mb__part_pause(group, part, full);
  if (held) return; /* it is in the log already */
  if (full) part->failing = mb__retry_failing(&part->queue);
  if (full && part->failing)
    mb__log_at(&group->ctx->log, MB_LOG_WARN, part->id, -1,
               "partition %d paused: %zu events wait for retries (retry_parked_max %zu)",
               (int)part->id, count, most);
  else if (full)
    mb__log_at(&group->ctx->log, MB_LOG_DEBUG, part->id, -1,
               "partition %d paused: %zu events wait for others of their key", (int)part->id,
               count);
  else
    mb__log_at(&group->ctx->log, part->failing ? MB_LOG_INFO : MB_LOG_DEBUG, part->id, -1,
               "partition %d resumed", (int)part->id);
}

void mb__consumer_open_breaker(mb_group *group, mb_part *part) {
  unfetch(group, part);
  mb__consumer_balance(group, part);
}

void mb__consumer_note(mb_group *group, mb_part *part, bool dead) {
  uint32_t run = part->breaker.run;
  mb__breaker_note(&part->breaker, &group->rules.breaker, dead);
  if (part->breaker.run != run) mb__watch_note_run(part->queue.notes.part, part->breaker.run);
}

void mb__consumer_reset_breaker(mb_group *group, mb_part *part) {
  mb_parked *parked = part->queue.held;
  mb__breaker_clear(&part->breaker);
  mb__breaker_clear(&part->breaker_kept);
  mb__watch_note_run(part->queue.notes.part, 0);
  part->held_at = -1;
  mb__retry_hold(&part->queue, NULL, 0);
  if (parked) mb__retry_due(&part->queue, parked, MB_BACKOFF, 0);
  mb__consumer_balance(group, part);
}
