/* offsets.c: how far the group has come: low-water marks, commits, and reading again from them.
 * Must not know handlers, outcomes or Lua.
 * Called by bus.c, by consumer.c at rebalances, and by txn.c. */
#include <stdlib.h>
#include <string.h>

#include "consumer_internal.h"

/* The low-water marks that moved since the broker last acknowledged one; NULL when none did. only,
 * if given, restricts it to those partitions. */
static rd_kafka_topic_partition_list_t *low_water(mb_bus *bus,
                                                  const rd_kafka_topic_partition_list_t *only) {
  mb_consumer *consumer = bus->consumer;
  rd_kafka_topic_partition_list_t *list =
      rd_kafka_topic_partition_list_new((int)consumer->part_count);
  for (size_t i = 0; i < consumer->part_count; i++) {
    mb_part *part = consumer->parts[i];
    int64_t low = mb__lot_low(&part->lot, part->next);
    if (low < 0 || low <= part->committed) continue;
    if (only && !rd_kafka_topic_partition_list_find(only, bus->topic, part->id)) continue;
    rd_kafka_topic_partition_list_add(list, bus->topic, part->id)->offset = low;
  }
  if (list->cnt) return list;
  rd_kafka_topic_partition_list_destroy(list);
  return NULL;
}

static void acknowledge(mb_bus *bus, rd_kafka_resp_err_t err,
                        const rd_kafka_topic_partition_list_t *offsets) {
  for (int i = 0; offsets && i < offsets->cnt; i++) {
    const rd_kafka_topic_partition_t *elem = &offsets->elems[i];
    mb_part *part = mb__consumer_part(bus, elem->partition);
    if (err || elem->err) {
      rd_kafka_resp_err_t why = err ? err : elem->err;
      /* Nothing is lost: the mark is committed with the next try, or the events are read again. */
      mb__log(&bus->log, MB_LOG_WARN, "group %s: offset %lld of partition %d not committed: %s",
              bus->group, (long long)elem->offset, (int)elem->partition, rd_kafka_err2str(why));
      bus->consumer->settled++; /* so that the next interval tries again */
    } else if (part && elem->offset > part->committed) {
      part->committed = elem->offset;
      mb__watch_committed(part->lot.notes.part, elem->offset);
    }
  }
}

void mb__offsets_on_commit(rd_kafka_t *rk, rd_kafka_resp_err_t err,
                           rd_kafka_topic_partition_list_t *offsets, void *opaque) {
  mb_bus *bus = opaque;
  (void)rk;
  if (!bus->consumer) return;
  bus->consumer->committing = false;
  if (err == RD_KAFKA_RESP_ERR__NO_OFFSET) return;
  acknowledge(bus, err, offsets);
}

void mb__consumer_commit_due(mb_bus *bus, int64_t now_us) {
  mb_consumer *consumer = bus->consumer;
  if (bus->txn.on || consumer->committing || !consumer->settled) return;
  int64_t interval_us = mb__conf_int(bus->conf, MB_OPT_commit_interval_ms) * 1000;
  if (consumer->settled < mb__conf_int(bus->conf, MB_OPT_commit_interval_events) &&
      now_us - consumer->last_commit_us < interval_us)
    return;
  consumer->last_commit_us = now_us;
  consumer->settled = 0;
  rd_kafka_topic_partition_list_t *list = low_water(bus, NULL);
  if (!list) return;
  rd_kafka_resp_err_t err = rd_kafka_commit(consumer->rk, list, 1);
  if (err) {
    mb__log(&bus->log, MB_LOG_WARN, "group %s: commit: %s", bus->group, rd_kafka_err2str(err));
    consumer->settled = 1;
  } else {
    consumer->committing = true;
  }
  rd_kafka_topic_partition_list_destroy(list);
}

void mb__consumer_count_settled(mb_bus *bus) {
  bus->consumer->settled++;
  bus->txn.events++;
}

void mb__offsets_commit_wait(mb_bus *bus, const rd_kafka_topic_partition_list_t *only,
                             int timeout_ms) {
  rd_kafka_topic_partition_list_t *list = low_water(bus, only);
  if (!list) return;
  rd_kafka_queue_t *queue = rd_kafka_queue_new(bus->consumer->rk);
  rd_kafka_resp_err_t err = rd_kafka_commit_queue(bus->consumer->rk, list, queue, NULL, NULL);
  rd_kafka_event_t *event = err ? NULL : rd_kafka_queue_poll(queue, timeout_ms);
  if (event) {
    acknowledge(bus, rd_kafka_event_error(event), rd_kafka_event_topic_partition_list(event));
    rd_kafka_event_destroy(event);
  } else {
    acknowledge(bus, err ? err : RD_KAFKA_RESP_ERR__TIMED_OUT, list);
  }
  rd_kafka_queue_destroy(queue);
  rd_kafka_topic_partition_list_destroy(list);
}

rd_kafka_consumer_group_metadata_t *mb__consumer_member(const mb_bus *bus) {
  return rd_kafka_consumer_group_metadata(bus->consumer->rk);
}

rd_kafka_topic_partition_list_t *mb__consumer_low_water(mb_bus *bus) {
  return bus->consumer ? low_water(bus, NULL) : NULL;
}

void mb__consumer_committed(mb_bus *bus, const rd_kafka_topic_partition_list_t *offsets) {
  acknowledge(bus, RD_KAFKA_RESP_ERR_NO_ERROR, offsets);
  for (size_t i = 0; i < mb__consumer_part_count(bus); i++) {
    mb_part *part = bus->consumer->parts[i];
    mb__brake_copy(&part->brake_kept, &part->brake, &bus->rules.brake);
  }
}

/* A braked partition comes back to where it stopped, and no earlier to its next try. What is noted
 * of events that are read again is taken back. */
static void brake_rewound(mb_bus *bus, mb_part *part) {
  const mb_parked *parked = part->lot.braked;
  if (parked)
    mb__txn_remember(bus,
                     (mb_memory){.partition = part->id,
                                 .offset = parked->record->offset,
                                 .attempts = parked->attempts,
                                 .due_us = parked->due_us,
                                 .reason = parked->reason,
                                 .held = true},
                     parked->fail);
  mb__brake_copy(&part->brake, &part->brake_kept, &bus->rules.brake);
}

void mb__consumer_rewind_all(mb_bus *bus) {
  for (size_t i = 0; i < mb__consumer_part_count(bus); i++) {
    mb_part *part = bus->consumer->parts[i];
    int64_t from = part->committed >= 0 ? part->committed : part->begin;
    if (from < 0) continue;
    brake_rewound(bus, part);
    if (part->paused) mb__part_pause(bus, part, false);
    mb__lot_clear(&part->lot);
    part->next = -1;
    part->at_end = false;
    mb__consumer_rewind(bus, part, from);
  }
}

void mb__consumer_rewind(mb_bus *bus, mb_part *part, int64_t offset) {
  rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
  rd_kafka_topic_partition_list_add(list, bus->topic, part->id)->offset = offset;
  mb__inbox_purge(bus->consumer, part->id);
  part->fetched = offset;
  rd_kafka_error_t *error = rd_kafka_seek_partitions(bus->consumer->rk, list, 0);
  if (error) rd_kafka_error_destroy(error);
  rd_kafka_topic_partition_list_destroy(list);
}
