/* group/rebalance.c: partitions come and go: what is done in librdkafka's rebalance callback.
 * Must not know handlers, outcomes or Lua, nor wait longer than the group does.
 * Called by librdkafka, within the polls of group/consumer.c. */
#include <stdlib.h>
#include <string.h>

#include "group/consumer_internal.h"

#define REVOKE_MS 10000 /* at most, to settle and commit when partitions are taken away */
#define END_MS    3000  /* to ask for the end of a partition */

static void log_list(mb_group *group, const char *what,
                     const rd_kafka_topic_partition_list_t *list) {
  char text[256];
  size_t len = 0;
  text[0] = 0;
  for (int i = 0; i < list->cnt && len < sizeof text - 16; i++)
    len += (size_t)snprintf(text + len, sizeof text - len, "%s%d", i ? "," : "",
                            (int)list->elems[i].partition);
  mb__log(&group->ctx->log, MB_LOG_INFO, "group %s: %s partitions of %s: %s",
          group->ctx->group_name, what, group->ctx->topic, list->cnt ? text : "none");
}

static void call_on_rebalance(mb_group *group, mb_rebalance what,
                              const rd_kafka_topic_partition_list_t *list) {
  if (!group->on_rebalance) return;
  int32_t *partitions = malloc((size_t)(list->cnt + 1) * sizeof *partitions);
  if (!partitions) return;
  for (int i = 0; i < list->cnt; i++) partitions[i] = list->elems[i].partition;
  bool inner = group->ctx->in_callback;
  group->ctx->in_callback = true;
  group->on_rebalance(what, partitions, (size_t)list->cnt, group->on_rebalance_opaque);
  group->ctx->in_callback = inner;
  free(partitions);
}

/* A broker gives a static member that returns what its id had before, also if the member subscribes
 * to another topic now. Those partitions are not read: by their numbers they could be mistaken for
 * those of this topic. */
static bool is_foreign(mb_group *group, const rd_kafka_topic_partition_list_t *list) {
  mb_consumer *consumer = group->consumer;
  for (int i = 0; i < list->cnt; i++) {
    if (!strcmp(list->elems[i].topic, group->ctx->topic)) continue;
    consumer->foreign = true;
    consumer->ended = MB_EKAFKA;
    snprintf(consumer->ended_text, sizeof consumer->ended_text,
             "group %.60s still has this group_instance_id as a reader of %.80s; it forgets that "
             "after session_timeout_ms",
             group->ctx->group_name, list->elems[i].topic);
    return true;
  }
  return false;
}

double mb__consumer_outlast(const mb_group *group) {
  bool foreign = group->consumer && group->consumer->foreign;
  /* A broker that assigns refuses the id until its session, of a length we do not know, is over. */
  if (mb__conf_broker_assigns(group->ctx->conf)) return 0;
  return foreign ? (double)mb__conf_int(group->ctx->conf, MB_OPT_session_timeout_ms) / 1e3 + 1 : 0;
}

static void halt(mb_group *group, const char *asked, const char *reason, const char *advice) {
  group->halted = true;
  group->halt_err = MB_EUNSUPPORTED;
  snprintf(group->halt_why, sizeof group->halt_why, "%s: the broker does not have it (%s); %s",
           asked, reason, advice);
}

static void halt_protocol(mb_group *group, const char *reason) {
  halt(group, "group_protocol consumer", reason,
       "use Kafka 4 or newer, or leave group_protocol classic");
}

void mb__consumer_heard(mb_group *group, const char *text) {
  if (group->consumer->joined || !mb__conf_broker_assigns(group->ctx->conf)) return;
  if (strstr(text, "ConsumerGroupHeartbeatRequest not supported"))
    halt_protocol(group, rd_kafka_err2str(RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE));
}

/* true if the member lost its place since its last assignment, or shortly before that: it has
 * another member id, or none. A member that has nothing assigned loses its place without a
 * revocation. Another process that joins under the name leaves the member id as it is. */
static bool has_rejoined(const mb_group *group) {
  const mb_consumer *consumer = group->consumer;
  char id[MB_MEMBER_ID_MAX];
  int64_t session_us = mb__conf_int(group->ctx->conf, MB_OPT_session_timeout_ms) * 1000;
  if (!consumer->member_id[0]) return false;
  if (consumer->rejoined_us && mb__mono_us() - consumer->rejoined_us < session_us) return true;
  return mb__client_member_id(consumer->client, id, sizeof id) && strcmp(id, consumer->member_id);
}

static void note_member(mb_group *group) {
  mb_consumer *consumer = group->consumer;
  char id[MB_MEMBER_ID_MAX];
  if (!mb__conf_str(group->ctx->conf, MB_OPT_group_instance_id) ||
      mb__conf_broker_assigns(group->ctx->conf) ||
      !mb__client_member_id(consumer->client, id, sizeof id) || !id[0])
    return;
  if (consumer->member_id[0] && strcmp(id, consumer->member_id))
    consumer->rejoined_us = mb__mono_us();
  snprintf(consumer->member_id, sizeof consumer->member_id, "%s", id);
}

/* A static member whose session ran out is fenced by its own earlier self: librdkafka forgets the
 * member id, and asks once more without it; or two of its requests to join overtake each other. */
static bool is_away(const mb_group *group) {
  const mb_consumer *consumer = group->consumer;
  bool away = !consumer->joined || consumer->link_down_us || has_rejoined(group) ||
              rd_kafka_assignment_lost(consumer->rk);
  for (size_t i = 0; !away && i < consumer->part_count; i++)
    away = consumer->parts[i]->silent_us != 0;
  return away;
}

mb_err mb__group_refused(mb_group *group, rd_kafka_resp_err_t code, char *text, size_t size) {
  const char *reason = rd_kafka_err2str(code);
  /* One that another process fenced meanwhile takes the name back, which ends that process. */
  if (code == RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID && is_away(group)) {
    snprintf(text, size, "group %.60s: the session of member \"%.60s\" ran out before it was back",
             group->ctx->group_name, mb__conf_str(group->ctx->conf, MB_OPT_group_instance_id));
    return MB_EFATAL;
  }
  if (code == RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID) {
    snprintf(text, size,
             "group %.60s: another process has joined with group_instance_id \"%.60s\"; give each "
             "process a name of its own (static_members, with --workers)",
             group->ctx->group_name, mb__conf_str(group->ctx->conf, MB_OPT_group_instance_id));
    return MB_EFENCED;
  }
  if (!mb__conf_broker_assigns(group->ctx->conf)) return MB_EFATAL;
  if (code == RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION ||
      code == RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE) {
    halt_protocol(group, reason);
    return MB_OK;
  }
  if (code == MB_UNSUPPORTED_ASSIGNOR) {
    halt(group, "kafka property group.remote.assignor", reason,
         "name one of its group.consumer.assignors");
    return MB_OK;
  }
  if (code == MB_UNRELEASED_INSTANCE_ID)
    snprintf(text, size,
             "group %.60s: a member that has not left holds the group_instance_id %.60s; the "
             "broker releases it after its group.consumer.session.timeout.ms",
             group->ctx->group_name, mb__conf_str(group->ctx->conf, MB_OPT_group_instance_id));
  return mb__err_of(code) == MB_EAUTH ? MB_EAUTH : MB_EFATAL;
}

static void take(mb_client *client, const rd_kafka_topic_partition_list_t *list, bool incremental) {
  if (incremental)
    mb__client_assign_more(client, list);
  else
    mb__client_assign(client, list);
}

static void give(mb_client *client, const rd_kafka_topic_partition_list_t *list, bool incremental) {
  if (incremental)
    mb__client_assign_less(client, list);
  else
    mb__client_assign(client, NULL);
}

/* auto_offset_reset is none: another consumer would not know better. */
static void no_beginning(mb_group *group, int32_t partition) {
  group->halted = true;
  group->halt_err = MB_EKAFKA;
  snprintf(
      group->halt_why, sizeof group->halt_why,
      "%s[%d]: group %s has committed no offset, and auto_offset_reset is none; commit one, or "
      "say earliest or latest",
      group->ctx->topic, (int)partition, group->ctx->group_name);
}

static void not_known(mb_group *group, const char *what) {
  mb_consumer *consumer = group->consumer;
  if (consumer->ended) return;
  consumer->ended = MB_ECONNECT;
  snprintf(consumer->ended_text, sizeof consumer->ended_text, "group %.60s: %s cannot be read",
           group->ctx->group_name, what);
}

/* A group that has committed nothing begins at the end: what comes from now on is the group's, and
 * so that it stays so, the place is committed. */
static void begin_at_end(mb_group *group, mb_part *part, rd_kafka_topic_partition_t *elem) {
  int64_t low, high;
  if (mb__client_watermarks(group->consumer->client, group->ctx->topic, part->id, &low, &high,
                            END_MS)) {
    not_known(group, "the end of the log");
    return;
  }
  elem->offset = part->begin = part->next = part->fetched = high;
  group->consumer->settled++;
}

/* Where a partition begins for which librdkafka is not to ask the group. known: the group's answer;
 * NULL = there is none. */
static void choose_begin(mb_group *group, mb_part *part, rd_kafka_topic_partition_t *elem,
                         const rd_kafka_topic_partition_t *known) {
  bool late = mb__conf_is(group->ctx->conf, MB_OPT_auto_offset_reset, "latest");
  if (!late && !mb__conf_is(group->ctx->conf, MB_OPT_auto_offset_reset, "none")) return;
  if (known && !known->err && known->offset >= 0) return;
  if (part->unread) return; /* the transaction that is open has offsets of the group */
  if (!known || known->err)
    not_known(group, "its offsets");
  else if (late)
    begin_at_end(group, part, elem);
  else
    no_beginning(group, part->id);
}

static void assign(mb_group *group, rd_kafka_topic_partition_list_t *list, bool incremental) {
  mb_consumer *consumer = group->consumer;
  if (is_foreign(group, list)) {
    /* What comes of them before the consumer is closed has no part, and is dropped. */
    take(consumer->client, list, incremental);
    return;
  }
  rd_kafka_topic_partition_list_t *known = list->cnt ? mb__offsets_committed(group, list) : NULL;
  for (int i = 0; i < list->cnt; i++) {
    const rd_kafka_topic_partition_t *elem = known ? &known->elems[i] : NULL;
    bool has = elem && !elem->err && elem->offset >= 0;
    mb_part *part = mb__part_add(group, list->elems[i].partition, has ? elem->offset : -1);
    if (part && has && part->begin < 0) part->begin = elem->offset;
    if (part && has) mb__offsets_ahead(group, part, elem);
    /* While a transaction of its last owner is open, the broker does not answer; librdkafka waits
     * for its end before it fetches. */
    if (part && group->ctx->transaction.on) part->unread = !elem || elem->err;
    if (part) choose_begin(group, part, &list->elems[i], elem);
    if (part) continue;
    consumer->ended = MB_ENOMEM;
    snprintf(consumer->ended_text, sizeof consumer->ended_text, "out of memory at an assignment");
  }
  if (known) rd_kafka_topic_partition_list_destroy(known);
  consumer->joined = true;
  note_member(group);
  /* Nothing is assigned of a topic that is denied, too. */
  if (list->cnt || mb__err_of(consumer->refused) != MB_EAUTH ||
      consumer->refused == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED)
    consumer->refused = RD_KAFKA_RESP_ERR_NO_ERROR;
  log_list(group, "assigned", list);
  call_on_rebalance(group, MB_ASSIGNED, list);
  take(consumer->client, list, incremental);
}

/* librdkafka keeps a partition paused across assignments; it must not come back that way. */
static void unpause(mb_group *group, const rd_kafka_topic_partition_list_t *list) {
  rd_kafka_topic_partition_list_t *paused = rd_kafka_topic_partition_list_new(list->cnt);
  for (int i = 0; i < list->cnt; i++) {
    mb_part *part = mb__consumer_part(group, list->elems[i].partition);
    if (part && part->paused)
      rd_kafka_topic_partition_list_add(paused, group->ctx->topic, part->id);
  }
  if (paused->cnt) mb__client_pause(group->consumer->client, paused, false);
  rd_kafka_topic_partition_list_destroy(paused);
}

/* By when a revocation must be through: the whole group waits for it, and throws out who takes
 * longer than max_poll_interval_ms. What is not committed then is abandoned: the next owner reads
 * it again. */
static int64_t revoke_by(const mb_group *group) {
  int64_t third_ms = mb__conf_int(group->ctx->conf, MB_OPT_max_poll_interval_ms) / 3;
  int64_t by_us = mb__mono_us() + (third_ms < REVOKE_MS ? third_ms : REVOKE_MS) * 1000;
  return group->ctx->closing_by_us && group->ctx->closing_by_us < by_us ? group->ctx->closing_by_us
                                                                        : by_us;
}

static void revoke(mb_group *group, rd_kafka_topic_partition_list_t *list, bool incremental) {
  mb_consumer *consumer = group->consumer;
  if (consumer->foreign) {
    give(consumer->client, list, incremental);
    return;
  }
  int64_t by_us = revoke_by(group);
  bool lost = rd_kafka_assignment_lost(consumer->rk);
  group->txn.by_us = by_us;
  log_list(group, lost ? "lost" : "gave up", list);
  call_on_rebalance(group, lost ? MB_LOST : MB_REVOKED, list);
  if (!lost) {
    /* Dead letters on their way settle their events before the offsets are given away. */
    if (mb__consumer_parked(group)) mb__producer_flush(group->ctx, mb__left_ms(by_us) / 2);
    if (!group->ctx->transaction.on)
      mb__offsets_commit_wait(group, list, mb__left_ms(by_us));
    else if (mb__txn_commit(group, consumer->ended_text, sizeof consumer->ended_text))
      consumer->ended = MB_EFATAL;
  }
  if (lost) mb__offsets_uncommitted(group, list);
  if (lost && mb__txn_abort(group, consumer->ended_text, sizeof consumer->ended_text))
    consumer->ended = MB_EFATAL;
  group->txn.by_us = 0;
  unpause(group, list);
  for (int i = 0; i < list->cnt; i++) {
    mb__undone_forget(&group->undone, list->elems[i].partition);
    mb__part_remove(consumer, list->elems[i].partition);
  }
  mb__pending_detach(group);
  mb__inbox_purge(consumer, -1);
  consumer->joined = incremental && consumer->part_count > 0;
  give(consumer->client, list, incremental);
}

void mb__on_rebalance(rd_kafka_t *rk, rd_kafka_resp_err_t err,
                      rd_kafka_topic_partition_list_t *list, void *opaque) {
  mb_group *group = mb__client_owner(opaque);
  (void)rk;
  if (!group) return;
  mb_client *client = group->consumer->client;
  bool incremental = mb__client_is_cooperative(client);
  if (incremental) mb__consumer_seek_all(group);
  if (err == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
    group->ctx->stats.rebalance_count++;
    assign(group, list, incremental);
  } else if (err == RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS) {
    revoke(group, list, incremental);
  } else {
    mb__log(&group->ctx->log, MB_LOG_ERROR, "group %s: rebalance: %s", group->ctx->group_name,
            rd_kafka_err2str(err));
    mb__client_assign(client, NULL);
  }
}
