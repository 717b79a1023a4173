/* group/offsets.c: how far the group has come: low-water marks, commits, and reading again from
 * them. Must not know handlers, outcomes or Lua. Called by bus/step.c, deliver/deliver.c,
 * group/unit.c, group/consumer.c, group/rebalance.c and group/txn.c. */
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "group/consumer_internal.h"
#include "kafka/answers.h"

#define COMMITTED_MS   3000     /* to ask for the group's offsets */
#define EARLY_MS       20       /* before a request that came too early is made again, at first */
#define EARLY_MOST_MS  640      /* the last such wait: it is not the moment that is wrong */
#define TOLD_US        60000000 /* an error that repeats within this time is not logged again */
#define COMMIT_WAIT_US 30000000 /* at most, between tries of commits that are refused */

/* The broker did nothing, as the request was of the member's epoch before, or the group's leader
 * has not shared the partitions out yet: the same request will do in a moment. */
static bool is_early(rd_kafka_resp_err_t err) {
  return err == MB_STALE_MEMBER_EPOCH || err == RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS;
}

/* That of them which is early; 0 = none is. */
static rd_kafka_resp_err_t find_early(rd_kafka_resp_err_t err,
                                      const rd_kafka_topic_partition_list_t *list) {
  if (is_early(err)) return err;
  for (int i = 0; list && i < list->cnt; i++)
    if (is_early(list->elems[i].err)) return list->elems[i].err;
  return RD_KAFKA_RESP_ERR_NO_ERROR;
}

/* Wait before the same request is made again, longer each time. The next heartbeat brings a new
 * epoch; a leader shares partitions out at once, or not while this member is missed. false: enough
 * was tried, or there is no time left. */
static bool wait_for_moment(rd_kafka_resp_err_t early, int *wait_ms, int64_t by_us) {
  *wait_ms = *wait_ms ? *wait_ms * 2 : EARLY_MS;
  bool enough = *wait_ms > EARLY_MOST_MS;
  if (enough) *wait_ms = EARLY_MOST_MS;
  if (!early || (enough && early == RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS)) return false;
  if (mb__left_ms(by_us) <= *wait_ms) return false;
  poll(NULL, 0, *wait_ms);
  return true;
}

rd_kafka_topic_partition_list_t *
mb__offsets_committed(mb_group *group, const rd_kafka_topic_partition_list_t *list) {
  int64_t by_us = mb__mono_us() + COMMITTED_MS * 1000;
  int wait_ms = 0;
  for (;;) {
    rd_kafka_topic_partition_list_t *known = rd_kafka_topic_partition_list_copy(list);
    rd_kafka_resp_err_t err =
        mb__client_committed(group->consumer->client, &known, mb__left_ms(by_us));
    rd_kafka_resp_err_t early = find_early(err, known);
    if (!err && !early) return known;
    rd_kafka_topic_partition_list_destroy(known);
    if (!wait_for_moment(early, &wait_ms, by_us)) return NULL;
  }
}

/* ---- what is settled past the low-water mark ---- */

/* Which cluster it is; NULL while that is not known. Owned. */
static char *cluster_of(const mb_group *group) {
  char *id = rd_kafka_clusterid(group->consumer->rk, 0), *mine = NULL;
  if (id && id[0] && !strpbrk(id, " \t")) mine = strdup(id);
  if (id) rd_kafka_mem_free(group->consumer->rk, id);
  return mine;
}

static void add_marks(mb_group *group, mb_part *part, const rd_kafka_topic_partition_t *committed) {
  char *cluster = committed->metadata ? cluster_of(group) : NULL;
  if (cluster)
    mb__marks_parse(&part->ahead, committed->metadata, committed->metadata_size, cluster,
                    committed->offset);
  free(cluster);
}

void mb__offsets_ahead(mb_group *group, mb_part *part,
                       const rd_kafka_topic_partition_t *committed) {
  add_marks(group, part, committed);
  mb__watch_marks(part->queue.notes.part, committed->offset, &part->ahead);
  mb__marks_tidy(&part->ahead);
  if (part->ahead.count)
    mb__log_at(&group->ctx->log, MB_LOG_DEBUG, part->id, committed->offset,
               "%s[%d]: some of what comes after offset %lld is settled", group->ctx->topic,
               (int)part->id, (long long)committed->offset);
}

bool mb__offsets_reread(mb_group *group) {
  const mb_consumer *consumer = group->consumer;
  rd_kafka_topic_partition_list_t *list =
      rd_kafka_topic_partition_list_new((int)consumer->part_count);
  for (size_t i = 0; i < consumer->part_count; i++)
    if (consumer->parts[i]->unread)
      rd_kafka_topic_partition_list_add(list, group->ctx->topic, consumer->parts[i]->id);
  rd_kafka_topic_partition_list_t *known = mb__offsets_committed(group, list);
  bool all = known != NULL;
  for (int i = 0; known && i < known->cnt; i++) {
    const rd_kafka_topic_partition_t *elem = &known->elems[i];
    mb_part *part = mb__consumer_part(group, elem->partition);
    if (elem->err) all = false;
    if (elem->err || !part) continue;
    part->unread = false;
    if (elem->offset >= 0) mb__offsets_ahead(group, part, elem);
  }
  if (known) rd_kafka_topic_partition_list_destroy(known);
  rd_kafka_topic_partition_list_destroy(list);
  return all;
}

static void mark(mb_marks_text *text, const mb_part *part, const char *cluster, int64_t low) {
  const mb_parked *parked;
  int64_t from = low;
  mb__marks_begin(text, cluster, low);
  for (parked = part->queue.head; parked; parked = parked->next) {
    if (parked->of_old_log) continue;
    mb__marks_put(text, from, parked->record->offset);
    from = parked->record->offset + 1;
  }
  mb__marks_put(text, from, part->next);
  for (size_t i = 0; i < part->ahead.count; i++) {
    const mb_range *range = &part->ahead.ranges[i];
    if (range->to > part->next)
      mb__marks_put(text, range->from > part->next ? range->from : part->next, range->to);
  }
}

/* ---- commits ---- */

/* A partition's place in the next commit, unless nothing moved since the last. false: it does not
 * contain all that is settled. */
static bool add_mark(mb_group *group, mb_part *part, const char *cluster,
                     rd_kafka_topic_partition_list_t *list) {
  int64_t low = mb__retry_low(&part->queue, part->next);
  mb_marks_text text = {.any = false};
  if (low < 0 || low < part->committed) return true;
  if (cluster && !group->consumer->unmarked) mark(&text, part, cluster, low);
  uint64_t sum = text.any ? mb__hash(0, (mb_bytes){text.text, text.len}) : 0;
  bool whole = !text.full && (cluster || group->consumer->unmarked || !part->queue.head);
  if (low == part->committed && sum == part->marked) return whole;
  rd_kafka_topic_partition_t *elem =
      rd_kafka_topic_partition_list_add(list, group->ctx->topic, part->id);
  elem->offset = low;
  if (text.any && (elem->metadata = strdup(text.text))) elem->metadata_size = text.len;
  return whole && (!text.any || elem->metadata);
}

/* The low-water marks that moved since the broker last acknowledged one, and what is settled past
 * them; *offsets NULL when none did. only, if given, restricts it to those partitions. false: they
 * do not contain all that is settled. */
static bool low_water(mb_group *group, const rd_kafka_topic_partition_list_t *only,
                      rd_kafka_topic_partition_list_t **offsets) {
  mb_consumer *consumer = group->consumer;
  char *cluster = cluster_of(group);
  bool all = true;
  rd_kafka_topic_partition_list_t *list =
      rd_kafka_topic_partition_list_new((int)consumer->part_count);
  for (size_t i = 0; i < consumer->part_count; i++) {
    mb_part *part = consumer->parts[i];
    if (only && !rd_kafka_topic_partition_list_find(only, group->ctx->topic, part->id)) continue;
    all &= add_mark(group, part, cluster, list);
  }
  free(cluster);
  *offsets = list->cnt ? list : NULL;
  if (!list->cnt) rd_kafka_topic_partition_list_destroy(list);
  return all;
}

void mb__consumer_unmark(mb_group *group) {
  if (!group->consumer || group->consumer->unmarked) return;
  group->consumer->unmarked = true;
  mb__log(&group->ctx->log, MB_LOG_WARN,
          "group %s: commits go without notes of what is settled past a waiting event: they find "
          "no room; the broker's offset.metadata.max.bytes should be %d or more",
          group->ctx->group_name, MB_MARKS_MAX);
}

/* true if a rebalance is the reason: it is made again, or others have the partition by then. */
static bool is_of_rebalance(rd_kafka_resp_err_t err) {
  return err == RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS ||
         err == RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION ||
         err == RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID || err == MB_FENCED_MEMBER_EPOCH ||
         err == MB_STALE_MEMBER_EPOCH;
}

/* The next try comes later and later. */
static void wait_longer(mb_group *group) {
  mb_consumer *consumer = group->consumer;
  int64_t least_us = mb__conf_int(group->ctx->conf, MB_OPT_commit_interval_ms) * 1000;
  consumer->commit_wait_us *= 2;
  if (consumer->commit_wait_us > COMMIT_WAIT_US) consumer->commit_wait_us = COMMIT_WAIT_US;
  if (consumer->commit_wait_us < least_us) consumer->commit_wait_us = least_us;
}

static void log_refused(mb_group *group, const rd_kafka_topic_partition_t *elem, int count,
                        rd_kafka_resp_err_t why, const char *text) {
  mb_consumer *consumer = group->consumer;
  int64_t now_us = mb__mono_us();
  bool again = why == consumer->commit_err && now_us - consumer->commit_logged_us < TOLD_US;
  mb_level level = is_of_rebalance(why) || again ? MB_LOG_DEBUG : MB_LOG_WARN;
  if (level == MB_LOG_WARN) consumer->commit_logged_us = now_us;
  char more[48] = "";
  if (count > 1) snprintf(more, sizeof more, ", nor those of %d more", count - 1);
  mb__log_at(&group->ctx->log, level, elem->partition, elem->offset,
             "group %s: offset %lld of partition %d not committed%s: %s", group->ctx->group_name,
             (long long)elem->offset, (int)elem->partition, more, text);
}

/* Nothing is lost: the marks are committed with the next try, or the events are read again. elem:
 * the first of so many that were refused. */
static void refused(mb_group *group, const rd_kafka_topic_partition_t *elem, int count,
                    rd_kafka_resp_err_t why) {
  mb_consumer *consumer = group->consumer;
  char text[MB_REFUSAL_MAX];
  consumer->settled++; /* so that the next interval tries again */
  if (why == RD_KAFKA_RESP_ERR_OFFSET_METADATA_TOO_LARGE) {
    mb__consumer_unmark(group);
    return;
  }
  mb__producer_refusal_text(group->ctx, why, rd_kafka_err2str(why), group->ctx->topic, "Read", text,
                            sizeof text);
  if (mb__err_of(why) == MB_EAUTH) mb__consumer_refused(group, why, text);
  log_refused(group, elem, count, why, text);
  if (!is_of_rebalance(why)) wait_longer(group);
  consumer->commit_err = why;
  if (!consumer->commit_refused_us) consumer->commit_refused_us = mb__mono_us();
  snprintf(consumer->commit_text, sizeof consumer->commit_text, "%s", text);
}

static void accepted(mb_group *group, mb_part *part, const rd_kafka_topic_partition_t *elem) {
  if (group->consumer->refused == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED)
    group->consumer->refused = RD_KAFKA_RESP_ERR_NO_ERROR;
  if (part->next >= 0 && elem->offset > part->next) {
    group->consumer->settled++; /* the commit was sent before the log started again */
    return;
  }
  group->consumer->commit_wait_us = group->consumer->commit_refused_us = 0;
  group->consumer->commit_err = RD_KAFKA_RESP_ERR_NO_ERROR;
  part->marked =
      elem->metadata_size ? mb__hash(0, (mb_bytes){elem->metadata, elem->metadata_size}) : 0;
  if (elem->offset > part->committed) {
    part->committed = elem->offset;
    mb__watch_committed(part->queue.notes.part, elem->offset);
  }
  /* Should the partition be read again from there, this is not run again. */
  mb__marks_drop(&part->ahead, elem->offset);
  add_marks(group, part, elem);
  mb__marks_tidy(&part->ahead);
}

static void acknowledge(mb_group *group, rd_kafka_resp_err_t err,
                        const rd_kafka_topic_partition_list_t *offsets) {
  const rd_kafka_topic_partition_t *first = NULL;
  int count = 0;
  for (int i = 0; offsets && i < offsets->cnt; i++) {
    const rd_kafka_topic_partition_t *elem = &offsets->elems[i];
    mb_part *part = mb__consumer_part(group, elem->partition);
    if (err || elem->err)
      first = count++ ? first : elem;
    else if (part)
      accepted(group, part, elem);
  }
  if (first) refused(group, first, count, err ? err : first->err);
}

void mb__offsets_on_commit(rd_kafka_t *rk, rd_kafka_resp_err_t err,
                           rd_kafka_topic_partition_list_t *offsets, void *opaque) {
  mb_group *group = mb__client_owner(opaque);
  (void)rk;
  if (!group || !group->consumer) return;
  group->consumer->committing = false;
  if (err == RD_KAFKA_RESP_ERR__NO_OFFSET) return;
  acknowledge(group, err, offsets);
}

bool mb__offsets_refused(const mb_group *group, const char **text) {
  const mb_consumer *consumer = group->consumer;
  if (!consumer || !consumer->commit_refused_us) return false;
  *text = consumer->commit_text;
  return !is_of_rebalance(consumer->commit_err) ||
         mb__mono_us() - consumer->commit_refused_us > COMMIT_WAIT_US;
}

int64_t mb__offsets_silent_us(const mb_group *group) {
  const mb_consumer *consumer = group->consumer;
  if (!consumer || !consumer->committing || !consumer->joined) return 0;
  bool silent = consumer->unanswered_us - consumer->last_commit_us >= MB_SILENT_US;
  return silent ? consumer->last_commit_us : 0;
}

int64_t mb__offsets_due_us(const mb_group *group) {
  const mb_consumer *consumer = group->consumer;
  int64_t interval_us = mb__conf_int(group->ctx->conf, MB_OPT_commit_interval_ms) * 1000;
  if (consumer->commit_wait_us > interval_us) interval_us = consumer->commit_wait_us;
  return consumer->last_commit_us + interval_us;
}

void mb__consumer_commit_due(mb_group *group, int64_t now_us) {
  mb_consumer *consumer = group->consumer;
  if (group->ctx->transaction.on || consumer->committing || !consumer->settled) return;
  if (now_us < mb__offsets_due_us(group) &&
      (consumer->commit_wait_us ||
       consumer->settled < mb__conf_int(group->ctx->conf, MB_OPT_commit_interval_events)))
    return;
  consumer->last_commit_us = now_us;
  consumer->settled = 0;
  rd_kafka_topic_partition_list_t *list;
  low_water(group, NULL, &list);
  if (!list) return;
  rd_kafka_resp_err_t err = rd_kafka_commit(consumer->rk, list, 1);
  if (err) {
    mb__log(&group->ctx->log, MB_LOG_WARN, "group %s: commit: %s", group->ctx->group_name,
            rd_kafka_err2str(err));
    consumer->settled = 1;
  } else {
    consumer->committing = true;
  }
  rd_kafka_topic_partition_list_destroy(list);
}

static void commit_wait(mb_group *group, const rd_kafka_topic_partition_list_t *only,
                        int timeout_ms) {
  rd_kafka_topic_partition_list_t *list;
  low_water(group, only, &list);
  if (!list) return;
  int64_t by_us = mb__mono_us() + (int64_t)timeout_ms * 1000;
  rd_kafka_queue_t *queue = rd_kafka_queue_new(group->consumer->rk);
  rd_kafka_event_t *event = NULL;
  rd_kafka_resp_err_t err;
  int wait_ms = 0;
  for (;;) {
    err = rd_kafka_commit_queue(group->consumer->rk, list, queue, NULL, NULL);
    event = err ? NULL : rd_kafka_queue_poll(queue, mb__left_ms(by_us));
    if (!event) break;
    rd_kafka_resp_err_t early =
        find_early(rd_kafka_event_error(event), rd_kafka_event_topic_partition_list(event));
    if (!wait_for_moment(early, &wait_ms, by_us)) break;
    rd_kafka_event_destroy(event);
  }
  if (event) {
    acknowledge(group, rd_kafka_event_error(event), rd_kafka_event_topic_partition_list(event));
    rd_kafka_event_destroy(event);
  } else {
    acknowledge(group, err ? err : RD_KAFKA_RESP_ERR__TIMED_OUT, list);
  }
  rd_kafka_queue_destroy(queue);
  rd_kafka_topic_partition_list_destroy(list);
}

void mb__offsets_commit_wait(mb_group *group, const rd_kafka_topic_partition_list_t *only,
                             int timeout_ms) {
  bool unmarked = group->consumer->unmarked;
  commit_wait(group, only, timeout_ms);
  if (group->consumer->unmarked != unmarked) commit_wait(group, only, timeout_ms);
}

void mb__offsets_uncommitted(mb_group *group, const rd_kafka_topic_partition_list_t *only) {
  rd_kafka_topic_partition_list_t *list;
  low_water(group, only, &list);
  for (int i = 0; list && i < list->cnt; i++)
    mb__log_at(&group->ctx->log, MB_LOG_WARN, list->elems[i].partition, list->elems[i].offset,
               "group %s: offset %lld of partition %d not committed: the partition is lost",
               group->ctx->group_name, (long long)list->elems[i].offset,
               (int)list->elems[i].partition);
  if (list) rd_kafka_topic_partition_list_destroy(list);
}

rd_kafka_consumer_group_metadata_t *mb__consumer_member(const mb_group *group) {
  return mb__client_member(group->consumer->client);
}

bool mb__consumer_low_water(mb_group *group, rd_kafka_topic_partition_list_t **offsets) {
  *offsets = NULL;
  if (!group->consumer || low_water(group, NULL, offsets)) return true;
  mb__consumer_unmark(group);
  return false;
}

void mb__consumer_keep_breakers(mb_group *group) {
  mb_part *part;
  for (size_t i = 0; (part = mb__consumer_part_at(group, i)); i++)
    mb__breaker_copy(&part->breaker_kept, &part->breaker, &group->rules.breaker);
}

void mb__consumer_committed(mb_group *group, const rd_kafka_topic_partition_list_t *offsets) {
  acknowledge(group, RD_KAFKA_RESP_ERR_NO_ERROR, offsets);
  mb__consumer_keep_breakers(group);
}

void mb__consumer_rewind_all(mb_group *group) {
  mb__pending_undo(group);
  for (size_t i = 0; i < mb__consumer_part_count(group); i++) {
    mb_part *part = group->consumer->parts[i];
    int64_t from = part->committed >= 0 ? part->committed : part->begin;
    if (from < 0) continue;
    for (mb_parked *parked = part->queue.head; parked; parked = parked->next)
      mb__undone_keep(&group->undone, part->id, parked);
    /* What is noted of events that are read again is taken back. */
    mb__breaker_copy(&part->breaker, &part->breaker_kept, &group->rules.breaker);
    if (part->paused) mb__part_pause(group, part, false);
    part->stalled = false;
    mb__retry_clear(&part->queue);
    part->next = -1;
    part->at_end = false;
    mb__consumer_rewind(group, part, from);
  }
  mb__pending_detach(group);
}

void mb__consumer_rewind(mb_group *group, mb_part *part, int64_t offset) {
  mb__inbox_purge(group->consumer, part->id);
  part->fetched = offset;
  mb__part_seek(group, part);
}
