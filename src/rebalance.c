/* rebalance.c: partitions come and go: what is done in librdkafka's rebalance callback.
 * Must not know handlers, outcomes or Lua, nor wait longer than the group does.
 * Called by librdkafka, within the polls of consumer.c. */
#include <stdlib.h>
#include <string.h>

#include "consumer_internal.h"

#define REVOKE_MS 10000 /* at most, to settle and commit when partitions are taken away */

static void log_list(mb_bus *bus, const char *what, const rd_kafka_topic_partition_list_t *list) {
  char text[256];
  size_t len = 0;
  text[0] = 0;
  for (int i = 0; i < list->cnt && len < sizeof text - 16; i++)
    len += (size_t)snprintf(text + len, sizeof text - len, "%s%d", i ? "," : "",
                            (int)list->elems[i].partition);
  mb__log(&bus->log, MB_LOG_INFO, "group %s: %s partitions of %s: %s", bus->group, what, bus->topic,
          list->cnt ? text : "none");
}

static void tell(mb_bus *bus, mb_rebalance what, const rd_kafka_topic_partition_list_t *list) {
  if (!bus->on_rebalance) return;
  int32_t *partitions = malloc((size_t)(list->cnt + 1) * sizeof *partitions);
  if (!partitions) return;
  for (int i = 0; i < list->cnt; i++) partitions[i] = list->elems[i].partition;
  bool inner = bus->in_callback;
  bus->in_callback = true;
  bus->on_rebalance(what, partitions, (size_t)list->cnt, bus->on_rebalance_opaque);
  bus->in_callback = inner;
  free(partitions);
}

/* A broker gives a static member that comes back what its id had before, also when it subscribes to
 * another topic now: those partitions are not read, lest they be taken for ours by their numbers.
 */
static bool is_foreign(mb_bus *bus, const rd_kafka_topic_partition_list_t *list) {
  mb_consumer *consumer = bus->consumer;
  for (int i = 0; i < list->cnt; i++) {
    if (!strcmp(list->elems[i].topic, bus->topic)) continue;
    consumer->foreign = true;
    consumer->ended = MB_EKAFKA;
    snprintf(consumer->ended_text, sizeof consumer->ended_text,
             "group %.60s still has this group_instance_id as a reader of %.80s; it forgets that "
             "after session_timeout_ms",
             bus->group, list->elems[i].topic);
    return true;
  }
  return false;
}

double mb__consumer_outlast(const mb_bus *bus) {
  bool foreign = bus->consumer && bus->consumer->foreign;
  return foreign ? (double)mb__conf_int(bus->conf, MB_OPT_session_timeout_ms) / 1e3 + 1 : 0;
}

static void take(rd_kafka_t *rk, const rd_kafka_topic_partition_list_t *list, bool incremental) {
  if (incremental)
    rd_kafka_error_destroy(rd_kafka_incremental_assign(rk, list));
  else
    rd_kafka_assign(rk, list);
}

static void give(rd_kafka_t *rk, const rd_kafka_topic_partition_list_t *list, bool incremental) {
  if (incremental)
    rd_kafka_error_destroy(rd_kafka_incremental_unassign(rk, list));
  else
    rd_kafka_assign(rk, NULL);
}

static void assign(mb_bus *bus, rd_kafka_topic_partition_list_t *list, bool incremental) {
  mb_consumer *consumer = bus->consumer;
  if (is_foreign(bus, list)) {
    /* What comes of them before the consumer is closed has no part, and is dropped. */
    take(consumer->rk, list, incremental);
    return;
  }
  rd_kafka_topic_partition_list_t *known = list->cnt ? mb__offsets_committed(bus, list) : NULL;
  for (int i = 0; i < list->cnt; i++) {
    const rd_kafka_topic_partition_t *elem = known ? &known->elems[i] : NULL;
    bool has = elem && !elem->err && elem->offset >= 0;
    mb_part *part = mb__part_add(bus, list->elems[i].partition, has ? elem->offset : -1);
    if (part && has) mb__offsets_ahead(bus, part, elem);
    /* While a transaction of its last owner is open, the broker does not tell; librdkafka waits for
     * its end before it fetches. */
    if (part && bus->txn.on) part->unread = !elem || elem->err;
    if (part) continue;
    consumer->ended = MB_ENOMEM;
    snprintf(consumer->ended_text, sizeof consumer->ended_text, "out of memory at an assignment");
  }
  if (known) rd_kafka_topic_partition_list_destroy(known);
  consumer->joined = true;
  consumer->refused = MB_OK;
  log_list(bus, "assigned", list);
  tell(bus, MB_ASSIGNED, list);
  take(consumer->rk, list, incremental);
}

/* librdkafka keeps a partition paused across assignments; it must not come back that way. */
static void unpause(mb_bus *bus, const rd_kafka_topic_partition_list_t *list) {
  rd_kafka_topic_partition_list_t *paused = rd_kafka_topic_partition_list_new(list->cnt);
  for (int i = 0; i < list->cnt; i++) {
    mb_part *part = mb__consumer_part(bus, list->elems[i].partition);
    if (part && part->paused) rd_kafka_topic_partition_list_add(paused, bus->topic, part->id);
  }
  if (paused->cnt) rd_kafka_resume_partitions(bus->consumer->rk, paused);
  rd_kafka_topic_partition_list_destroy(paused);
}

/* By when a revocation must be through: the whole group waits for it, and throws out who takes
 * longer than max_poll_interval_ms. What is not committed then is abandoned: the next owner reads
 * it again. */
static int64_t revoke_by(const mb_bus *bus) {
  int64_t third_ms = mb__conf_int(bus->conf, MB_OPT_max_poll_interval_ms) / 3;
  return mb__mono_us() + (third_ms < REVOKE_MS ? third_ms : REVOKE_MS) * 1000;
}

static void revoke(mb_bus *bus, rd_kafka_topic_partition_list_t *list, bool incremental) {
  mb_consumer *consumer = bus->consumer;
  if (consumer->foreign) {
    give(consumer->rk, list, incremental);
    return;
  }
  int64_t by_us = revoke_by(bus);
  bool lost = rd_kafka_assignment_lost(consumer->rk);
  bus->txn.by_us = by_us;
  log_list(bus, lost ? "lost" : "gave up", list);
  tell(bus, lost ? MB_LOST : MB_REVOKED, list);
  if (!lost) {
    /* Dead letters on their way settle their events before the offsets are given away. */
    if (mb__consumer_parked(bus)) mb__producer_flush(bus, mb__left_ms(by_us) / 2);
    if (!bus->txn.on)
      mb__offsets_commit_wait(bus, list, mb__left_ms(by_us));
    else if (mb__txn_commit(bus, consumer->ended_text, sizeof consumer->ended_text))
      consumer->ended = MB_EFATAL;
  }
  if (lost && mb__txn_abort(bus, consumer->ended_text, sizeof consumer->ended_text))
    consumer->ended = MB_EFATAL;
  bus->txn.by_us = 0;
  unpause(bus, list);
  for (int i = 0; i < list->cnt; i++) {
    mb__forget(&bus->memories, list->elems[i].partition);
    mb__part_remove(consumer, list->elems[i].partition);
  }
  mb__runs_orphan(bus);
  mb__inbox_purge(consumer, -1);
  consumer->joined = incremental && consumer->part_count > 0;
  give(consumer->rk, list, incremental);
}

void mb__on_rebalance(rd_kafka_t *rk, rd_kafka_resp_err_t err,
                      rd_kafka_topic_partition_list_t *list, void *opaque) {
  mb_bus *bus = opaque;
  bool incremental = strcmp(rd_kafka_rebalance_protocol(rk), "COOPERATIVE") == 0;
  if (err == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
    bus->stats.rebalance_count++;
    assign(bus, list, incremental);
  } else if (err == RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS) {
    revoke(bus, list, incremental);
  } else {
    mb__log(&bus->log, MB_LOG_ERROR, "group %s: rebalance: %s", bus->group, rd_kafka_err2str(err));
    rd_kafka_assign(rk, NULL);
  }
}
