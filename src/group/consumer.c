/* group/consumer.c: group membership and fetching. Partitions are in group/partition.c, what was
 * fetched in group/inbox.c, rebalances in group/rebalance.c, pauses in group/pause.c, commits in
 * group/offsets.c. Must not know handlers, outcomes or Lua. Called by bus/step.c.
 *
 * Records come by kafka/poller.c into an inbox of our own. The rebalance callback is always set,
 * and a partition is resumed only if it was paused: otherwise librdkafka before 2.4.0 rewinds it.
 */
#include "group/consumer.h"

#include <stdlib.h>
#include <string.h>

#include "group/consumer_internal.h"
#include "kafka/answers.h"
#include "kafka/conf.h"

#define LINK_US       1000000 /* between looks at connections over which nothing comes */
#define CLOSE_TICK_MS 100
#define LEAVE_TICK_MS 10

bool mb__consumer_pending(const mb_group *group) {
  const mb_consumer *consumer = group->consumer;
  return consumer && (consumer->count > 0 || !consumer->drained);
}

/* ---- errors ---- */

static void trouble(mb_group *group, rd_kafka_resp_err_t code, const char *reason) {
  mb_consumer *consumer = group->consumer;
  mb_err err = mb__err_of(code);
  group->ctx->stats.last_error_at_us = mb__now_us();
  if (rd_kafka_fatal_error(consumer->rk, NULL, 0)) {
    char text[512];
    rd_kafka_resp_err_t fatal = rd_kafka_fatal_error(consumer->rk, text, sizeof text);
    err = mb__group_refused(group, fatal, text, sizeof text);
    if (err) mb__consumer_end(group, err, text);
    return;
  }
  if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN) {
    if (!consumer->link_down_us)
      mb__log(&group->ctx->log, MB_LOG_ERROR, "no broker can be reached: %s%s", reason,
              group->auto_reconnect ? "; reconnecting" : "");
    if (!consumer->link_down_us) consumer->link_down_us = mb__mono_us();
  } else {
    char text[MB_REFUSAL_MAX];
    mb__producer_refusal_text(group->ctx, code, reason, group->ctx->topic, "Read and Describe",
                              text, sizeof text);
    mb__log(&group->ctx->log, MB_LOG_WARN, "consumer: %s", text);
    if (err == MB_EAUTH || err == MB_ETOPIC) mb__consumer_refused(group, code, text);
  }
  if (!group->auto_reconnect && err == MB_ECONNECT) mb__consumer_end(group, err, reason);
}

static void on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque) {
  mb_group *group = mb__client_owner(opaque);
  (void)rk;
  rd_kafka_resp_err_t err = mb__refusal_code((rd_kafka_resp_err_t)code, reason);
  /* librdkafka repairs a single connection by itself, and has logged it. */
  if (err == RD_KAFKA_RESP_ERR__TRANSPORT || err == RD_KAFKA_RESP_ERR__TIMED_OUT) return;
  if (!group || !group->consumer) return;
  group->ctx->login.certificate = mb__client_certificate(opaque);
  trouble(group, err, reason);
}

static void note_answer(const mb_answer *answer, void *opaque) {
  mb_group *group = opaque;
  mb_part *part = mb__consumer_part(group, answer->partition);
  if (!part) return;
  part->silent_us =
      mb__answers_since(part->silent_us, answer, part->paused || part->stalled, mb__mono_us());
  part->leader = answer->broker;
}

static int on_statistics(rd_kafka_t *rk, char *text, size_t len, void *opaque) {
  mb_group *group = mb__client_owner(opaque);
  (void)rk;
  if (!group || !group->consumer) return 0;
  int64_t held_us = mb__conf_int(group->ctx->conf, MB_OPT_fetch_wait_max_ms) * 1000;
  if (!mb__answers_read((mb_bytes){text, len}, group->ctx->topic, held_us, note_answer, group))
    mb__log(&group->ctx->log, MB_LOG_DEBUG, "consumer: librdkafka's statistics cannot be read");
  return 0;
}

static void recovered(mb_group *group) {
  group->consumer->link_down_us = 0;
  if (mb__refusal_is_login(group->consumer->refused)) group->consumer->refused = 0;
  group->ctx->stats.reconnections++;
  mb__log(&group->ctx->log, MB_LOG_INFO, "reconnected to the broker");
}

/* ---- open, gather, close ---- */

/* The embedded broker sleeps for the whole wait of an empty fetch, whatever arrives meanwhile; and
 * a group that changes waits for its members until the session timeout, for ever if that is short.
 */
static void suit_embedded(rd_kafka_conf_t *conf) {
  rd_kafka_conf_set(conf, "fetch.wait.max.ms", "10", NULL, 0);
  rd_kafka_conf_set(conf, "session.timeout.ms", "6000", NULL, 0);
  rd_kafka_conf_set(conf, "heartbeat.interval.ms", "500", NULL, 0);
}

static void on_line(void *owner, const char *text) {
  mb_group *group = owner;
  if (group->consumer) mb__consumer_heard(group, text);
}

mb_err mb__consumer_open(mb_group *group, char *errstr, size_t errstr_size) {
  rd_kafka_topic_partition_list_t *topics = NULL;
  rd_kafka_conf_t *conf = mb__config_consumer(group->ctx->conf, errstr, errstr_size);
  if (!conf) return MB_ECONFIG;
  rd_kafka_conf_set_rebalance_cb(conf, mb__on_rebalance);
  rd_kafka_conf_set_offset_commit_cb(conf, mb__offsets_on_commit);
  rd_kafka_conf_set_error_cb(conf, on_error);
  rd_kafka_conf_set_log_cb(conf, mb__client_log);
  rd_kafka_conf_set_stats_cb(conf, on_statistics);
  if (group->ctx->embedded) suit_embedded(conf);
  mb_consumer *consumer = calloc(1, sizeof *consumer);
  if (!consumer) {
    rd_kafka_conf_destroy(conf);
    return mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
  }
  mb_err opened = mb__client_open(group->ctx, RD_KAFKA_CONSUMER, "consumer", conf, group,
                                  &consumer->client, errstr, errstr_size);
  if (opened) {
    free(consumer);
    return opened;
  }
  mb__client_on_line(consumer->client, on_line);
  rd_kafka_t *rk = consumer->rk = mb__client_handle(consumer->client);
  consumer->last_commit_us = mb__mono_us();
  group->consumer = consumer;
  rd_kafka_poll_set_consumer(rk);
  consumer->queue = rd_kafka_queue_get_consumer(rk);
  mb__prefetch_init(&consumer->prefetch, group->ctx->conf, consumer->queue);
  mb__poller_init(&consumer->poller, rk, consumer->queue);
  static const uint64_t one = 1;
  rd_kafka_queue_io_event_enable(consumer->queue, group->ctx->wake_fd, &one, sizeof one);
  topics = rd_kafka_topic_partition_list_new(1);
  rd_kafka_topic_partition_list_add(topics, group->ctx->topic, RD_KAFKA_PARTITION_UA);
  rd_kafka_resp_err_t err = mb__client_subscribe(consumer->client, topics);
  rd_kafka_topic_partition_list_destroy(topics);
  if (!err) return MB_OK;
  mb__consumer_close(group, 0);
  return mb__error(mb__err_of(err), errstr, errstr_size, "cannot subscribe to %s: %s",
                   group->ctx->topic, rd_kafka_err2str(err));
}

/* A record that was here already. librdkafka starts fetching from an older offset at times: after
 * a resume (before 2.4.0), and when a partition comes back while its first offset is still being
 * asked for. */
static bool is_repeated(mb_group *group, mb_part *part, const rd_kafka_message_t *record) {
  int64_t low, high;
  if (record->offset >= part->fetched) return false;
  if (rd_kafka_get_watermark_offsets(group->consumer->rk, group->ctx->topic, part->id, &low,
                                     &high) ||
      high < 0 || high >= part->fetched)
    return true;
  mb__log_at(
      &group->ctx->log, MB_LOG_WARN, part->id, record->offset,
      "%s[%d] goes on at offset %lld: the topic was created again or lost its end; what was read "
      "of it reached to offset %lld",
      group->ctx->topic, (int)part->id, (long long)record->offset, (long long)part->fetched);
  part->restart = record;
  return false;
}

/* The log no longer holds what comes next for the group, up to the record or end at offset:
 * librdkafka goes on at its start. */
static void note_expired(mb_group *group, mb_part *part, int64_t offset) {
  int64_t next = part->fetched >= 0 ? part->fetched : part->begin, low, high;
  if (next < 0 || offset <= next) return;
  if (rd_kafka_get_watermark_offsets(group->consumer->rk, group->ctx->topic, part->id, &low,
                                     &high) ||
      low <= next)
    return;
  if (low > offset) low = offset;
  group->ctx->stats.events_expired += (uint64_t)(low - next);
  mb__log_at(
      &group->ctx->log, MB_LOG_WARN, part->id, low,
      "%s[%d]: group %s goes on at offset %lld; the log no longer holds the %lld offsets from "
      "%lld on: they are not handled; keep records for longer (retention.ms, retention.bytes, "
      "compaction) than the group may be behind",
      group->ctx->topic, (int)part->id, group->ctx->group_name, (long long)low,
      (long long)(low - next), (long long)next);
  if (part->next >= 0 && part->next < part->fetched) return; /* some of it is still in hand */
  part->next = part->begin = low;
  mb__note(&part->queue.notes, MB_NOTE_NEXT, low);
  group->consumer->settled++; /* so that it is committed */
}

static bool is_fetched(const rd_kafka_message_t *record) {
  return !record->err || record->err == RD_KAFKA_RESP_ERR__PARTITION_EOF;
}

static void receive(mb_group *group, rd_kafka_message_t *record) {
  mb_consumer *consumer = group->consumer;
  mb_part *part = record->rkt ? mb__consumer_part(group, record->partition) : NULL;
  bool fetched = is_fetched(record);
  if (fetched && consumer->link_down_us) recovered(group);
  /* Records fetched before still come while the group, or another topic, is refused. */
  if (fetched && consumer->refused != RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED)
    consumer->refused = RD_KAFKA_RESP_ERR_NO_ERROR;
  if (!record->err && part && part->unread && !mb__offsets_reread(group)) {
    mb__consumer_end(group, MB_ECONNECT, "the group's offsets cannot be read");
    rd_kafka_message_destroy(record);
    return;
  }
  if (!record->err && part && is_repeated(group, part, record)) {
    rd_kafka_message_destroy(record);
    return;
  }
  if (!record->err && part && consumer->stalled_us) {
    mb__part_stall(group, part, record->offset);
    rd_kafka_message_destroy(record);
    return;
  }
  if (!record->err && part) {
    note_expired(group, part, record->offset);
    if (part->begin < 0) part->begin = record->offset;
    part->fetched = record->offset + 1;
    part->at_end = false;
    *mb__inbox_at(consumer, consumer->count++) = record;
    consumer->bytes += record->len;
    mb__prefetch_took(&consumer->prefetch, record);
    return;
  }
  if (record->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
    if (part) {
      note_expired(group, part, record->offset);
      part->at_end = true;
      if (part->fetched < 0) part->fetched = record->offset;
    }
  } else if (record->err) {
    trouble(group, record->err, rd_kafka_message_errstr(record));
  }
  rd_kafka_message_destroy(record);
}

/* Without records there is no sign that the broker is back. Nor is librdkafka's report that all
 * brokers are down reliable: it counts them, and misses the last one if the coordinator is
 * forgotten in the same moment. Two looks in a row without a connection count as that report. */
static void watch_link(mb_group *group) {
  mb_consumer *consumer = group->consumer;
  int64_t now_us = mb__mono_us();
  if (consumer->link_down_us) {
    /* A connection that is as lost as the others may not have noticed yet. */
    if (now_us - consumer->link_down_us >= LINK_US && mb__client_has_link(consumer->rk))
      recovered(group);
    return;
  }
  bool login = mb__refusal_is_login(consumer->refused);
  if ((!consumer->joined && !login) || now_us - consumer->looked_us < LINK_US) return;
  consumer->looked_us = now_us;
  bool deaf = !mb__client_has_link(consumer->rk);
  if (deaf && consumer->deaf)
    trouble(group, RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN, "every connection is lost");
  /* A login that failed after one that holds: the connections of that are in use. */
  if (login && !deaf && now_us - consumer->refused_us > 2 * LINK_US)
    consumer->refused = RD_KAFKA_RESP_ERR_NO_ERROR;
  consumer->deaf = deaf;
}

static void fetch_on(mb_group *group) {
  const mb_consumer *consumer = group->consumer;
  rd_kafka_topic_partition_list_t *list =
      rd_kafka_topic_partition_list_new((int)consumer->part_count);
  for (size_t i = 0; i < consumer->part_count; i++)
    rd_kafka_topic_partition_list_add(list, group->ctx->topic, consumer->parts[i]->id);
  mb__prefetch_go_on(consumer->rk, list);
  rd_kafka_topic_partition_list_destroy(list);
}

/* A callback sought or paused partitions while their records were being polled. Which of those were
 * taken before that is not known: all of them are dropped, and read again from where the callback
 * left the partition. Errors are kept. Returns how many are left. */
static size_t drop_moved(mb_group *group, rd_kafka_message_t **records, size_t count) {
  mb_consumer *consumer = group->consumer;
  size_t kept = 0;
  for (size_t i = 0; i < count; i++) {
    rd_kafka_message_t *record = records[i];
    const mb_part *part = record->rkt ? mb__consumer_part(group, record->partition) : NULL;
    if (part && part->moved && is_fetched(record))
      rd_kafka_message_destroy(record);
    else
      records[kept++] = record;
  }
  for (size_t i = 0; i < consumer->part_count; i++)
    if (consumer->parts[i]->moved) mb__part_seek(group, consumer->parts[i]);
  return kept;
}

/* Up to most records into the inbox. Returns how many librdkafka had. */
static size_t fetch(mb_group *group, size_t most) {
  mb_consumer *consumer = group->consumer;
  rd_kafka_message_t *records[MB_POLLER_MOST];
  size_t most_bytes = consumer->bytes < INBOX_BYTES ? INBOX_BYTES - consumer->bytes : 0;
  consumer->moved = false;
  consumer->polling = true;
  size_t polled = mb__poller_take(&consumer->poller, 0, records, most, most_bytes);
  consumer->polling = false;
  size_t count = consumer->moved ? drop_moved(group, records, polled) : polled;
  for (size_t i = 0; i < count; i++) {
    if (consumer->ended)
      rd_kafka_message_destroy(records[i]);
    else
      receive(group, records[i]);
  }
  return polled;
}

mb_err mb__consumer_gather(mb_group *group, char *errstr, size_t errstr_size) {
  mb_consumer *consumer = group->consumer;
  /* Half a free inbox is worth filling; a fuller one still gets one poll, for the membership's
   * sake, as long as it can take the record, or nothing can come. */
  size_t room = mb__inbox_room(group);
  size_t want = room > INBOX_MAX / 2 ? room : room > 0 || consumer->stalled_us ? 1 : 0;
  consumer->drained = false;
  while (want && !consumer->ended) {
    size_t polled = fetch(group, want);
    want -= polled;
    consumer->drained = !polled;
    if (!polled || consumer->bytes > INBOX_BYTES) break;
  }
  if (consumer->drained) watch_link(group);
  if (consumer->drained && consumer->committing) consumer->unanswered_us = mb__mono_us();
  if (mb__prefetch_is_low(&consumer->prefetch)) fetch_on(group);
  if (!consumer->ended) return MB_OK;
  return mb__error(consumer->ended, errstr, errstr_size, "%s", consumer->ended_text);
}

bool mb__consumer_lost(const mb_group *group) {
  return group->consumer && mb__client_lost(group->consumer->client);
}

static void serve(mb_consumer *consumer, int64_t end_us, int most_ms) {
  int left_ms = mb__left_ms(end_us);
  /* Not rd_kafka_queue_poll_callback: it aborts the process at a record still in the queue. */
  rd_kafka_message_t *record =
      rd_kafka_consumer_poll(consumer->rk, left_ms < most_ms ? left_ms : most_ms);
  if (record) rd_kafka_message_destroy(record);
}

/* A static member leaves the group only when it unsubscribes: closing alone keeps its place for one
 * of its name. librdkafka gives its member id up when it sends the request. */
static bool is_member(mb_consumer *consumer) {
  char id[MB_MEMBER_ID_MAX];
  return mb__client_member_id(consumer->client, id, sizeof id) && id[0];
}

static void leave_group(mb_group *group, int64_t end_us) {
  mb_consumer *consumer = group->consumer;
  if (mb__client_unsubscribe(consumer->client)) return;
  while (mb__mono_us() < end_us && !mb__consumer_lost(group) &&
         (consumer->part_count || is_member(consumer)))
    serve(consumer, end_us, LEAVE_TICK_MS);
}

/* The embedded broker takes no commit from the others while a member that left is missed. */
static bool takes_commits_meanwhile(const mb_consumer *consumer) {
  char *cluster = rd_kafka_clusterid(consumer->rk, 0);
  bool takes = !cluster || strncmp(cluster, "mockCluster", strlen("mockCluster")) != 0;
  if (cluster) rd_kafka_mem_free(consumer->rk, cluster);
  return takes;
}

void mb__consumer_close(mb_group *group, int timeout_ms) {
  mb_consumer *consumer = group->consumer;
  if (!consumer) return;
  int64_t end_us = mb__mono_us() + (int64_t)timeout_ms * 1000;
  while (consumer->count) {
    rd_kafka_message_destroy(*mb__inbox_at(consumer, --consumer->count));
  }
  consumer->bytes = 0;
  rd_kafka_queue_io_event_enable(consumer->queue, -1, NULL, 0);
  bool closed = false;
  if (timeout_ms > 0 && !mb__consumer_lost(group) && !rd_kafka_fatal_error(consumer->rk, NULL, 0)) {
    if (group->leaves && takes_commits_meanwhile(consumer)) leave_group(group, end_us);
    /* The last revocation comes through this queue: it commits, then the group is left. */
    rd_kafka_error_t *error = rd_kafka_consumer_close_queue(consumer->rk, consumer->queue);
    while (!error && !mb__consumer_lost(group) &&
           !(closed = rd_kafka_consumer_closed(consumer->rk)) && mb__mono_us() < end_us)
      serve(consumer, end_us, CLOSE_TICK_MS);
    if (error) rd_kafka_error_destroy(error);
  }
  if (!closed && timeout_ms > 0)
    mb__log(&group->ctx->log, MB_LOG_WARN,
            "group %s: left without the broker's word; the group notices "
            "after session_timeout_ms",
            group->ctx->group_name);
  if (timeout_ms > 0) mb__offsets_uncommitted(group, NULL);
  while (consumer->part_count) mb__part_remove(consumer, consumer->parts[0]->id);
  mb__pending_detach(group);
  mb__pending_drop_records(group);
  rd_kafka_queue_destroy(consumer->queue);
  mb__client_close(consumer->client, closed ? 0 : RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE, end_us);
  free(consumer->parts);
  free(consumer->by_id);
  free(consumer);
  group->consumer = NULL;
}

/* ---- lag, timers ---- */

/* Nothing of it is left to do but dead letters that their topic refuses, and what waits for them.
 */
static bool is_refused(const mb_part *part) {
  bool any = false;
  for (const mb_parked *parked = part->queue.head; parked; parked = parked->next) {
    if (!parked->dlq_attempts && parked->state != MB_WAITING) return false;
    any |= parked->dlq_attempts > 0;
  }
  return any && (part->at_end || part->paused);
}

bool mb__consumer_at_end(const mb_group *group, bool but_held) {
  const mb_consumer *consumer = group->consumer;
  if (!consumer || !consumer->joined || consumer->count) return false;
  for (size_t i = 0; i < consumer->part_count; i++) {
    const mb_part *part = consumer->parts[i];
    if (but_held && (part->held_at >= 0 || is_refused(part))) continue;
    if (!part->at_end || part->queue.count) return false;
  }
  return true;
}

int64_t mb__consumer_due_us(const mb_group *group) {
  const mb_consumer *consumer = group->consumer;
  int64_t due = INT64_MAX;
  if (consumer->settled) due = mb__offsets_due_us(group);
  for (size_t i = 0; i < consumer->part_count; i++)
    if (consumer->parts[i]->queue.due_us < due) due = consumer->parts[i]->queue.due_us;
  return due;
}

int64_t mb__consumer_lag(const mb_group *group) {
  const mb_consumer *consumer = group->consumer;
  int64_t sum = 0;
  if (!consumer || !consumer->part_count) return -1;
  for (size_t i = 0; i < consumer->part_count; i++) {
    int64_t lag = mb__part_lag(group, consumer->parts[i]);
    if (lag < 0) return -1;
    sum += lag;
  }
  return sum;
}
