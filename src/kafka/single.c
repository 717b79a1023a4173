/* kafka/single.c: a broker refuses a whole batch for what is wrong with one of its records, or
 * because the batch is larger than the topic allows. Its records are held here, with those behind
 * them, and sent again one at a time, so that only the culprit is refused and a key's order stays.
 * With acks = "all" the broker takes nothing of a partition behind a gap, but for the very first
 * records of a producer, of which it does not know that some are missing. Must not know buses, or
 * what a record is for. Called by kafka/producer.c. */
#include "kafka/single.h"

#include <stdlib.h>
#include <string.h>

#define DIFFERENT_RECORD ((rd_kafka_resp_err_t)-138) /* has no name before librdkafka 2.2 */

bool mb__single_may_be_other(rd_kafka_resp_err_t err) {
  return err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE || err == RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE ||
         err == RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE ||
         err == RD_KAFKA_RESP_ERR_INVALID_RECORD || err == RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP ||
         err == RD_KAFKA_RESP_ERR_INVALID_MSG ||
         err == RD_KAFKA_RESP_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT || err == DIFFERENT_RECORD;
}

static char *copy(char *at, mb_bytes from, mb_bytes *to) {
  *to = (mb_bytes){from.data ? at : NULL, from.len};
  if (from.len) memcpy(at, from.data, from.len);
  return at + from.len;
}

static mb_held *hold(const char *topic, mb_bytes key, mb_bytes value, void *opaque, int64_t at_ms) {
  size_t topic_size = strlen(topic) + 1;
  mb_held *held = malloc(sizeof *held + topic_size + key.len + value.len);
  if (!held) return NULL;
  *held = (mb_held){.topic = held->bytes, .opaque = opaque, .at_ms = at_ms};
  memcpy(held->bytes, topic, topic_size);
  copy(copy(held->bytes + topic_size, key, &held->key), value, &held->value);
  return held;
}

/* Behind those of a lower order, and of the same. */
static void insert(mb_single *single, mb_held_list *list, mb_held *held) {
  mb_held *before = list->last;
  if (before && before->order > held->order) {
    before = list->latest && list->latest->order <= held->order ? list->latest : NULL;
    if (!before && list->head->order <= held->order) before = list->head;
    while (before && before->next && before->next->order <= held->order) before = before->next;
  }
  held->next = before ? before->next : list->head;
  if (before)
    before->next = held;
  else
    list->head = held;
  if (!held->next) list->last = held;
  list->latest = held;
  single->count++;
  single->on = true;
}

static mb_held *pop(mb_single *single, mb_held_list *list) {
  mb_held *held = list->head;
  if (!held) return NULL;
  list->head = held->next;
  if (!list->head) list->last = NULL;
  if (list->latest == held) list->latest = NULL;
  held->next = NULL;
  single->count--;
  return held;
}

/* On librdkafka's thread, before it goes on with the partition: what it would send again must not
 * overtake what was refused. */
static rd_kafka_resp_err_t on_refused(rd_kafka_t *rk, rd_kafka_message_t *record, void *opaque) {
  (void)opaque;
  if (!mb__single_may_be_other(record->err) || !record->rkt || record->partition < 0)
    return RD_KAFKA_RESP_ERR_NO_ERROR;
  rd_kafka_topic_partition_list_t *one = rd_kafka_topic_partition_list_new(1);
  rd_kafka_topic_partition_list_add(one, rd_kafka_topic_name(record->rkt), record->partition);
  rd_kafka_pause_partitions(rk, one);
  rd_kafka_topic_partition_list_destroy(one);
  return RD_KAFKA_RESP_ERR_NO_ERROR;
}

static rd_kafka_resp_err_t on_new(rd_kafka_t *rk, const rd_kafka_conf_t *conf, void *opaque,
                                  char *errstr, size_t errstr_size) {
  (void)conf, (void)errstr, (void)errstr_size;
  return rd_kafka_interceptor_add_on_acknowledgement(rk, "moonbus", on_refused, opaque);
}

void mb__single_watch(rd_kafka_conf_t *conf) {
  rd_kafka_conf_interceptor_add_on_new(conf, "moonbus", on_new, NULL);
}

void mb__single_paused(mb_single *single, const rd_kafka_message_t *report) {
  const char *topic = rd_kafka_topic_name(report->rkt);
  if (report->partition < 0) return;
  if (!single->paused) single->paused = rd_kafka_topic_partition_list_new(4);
  if (!rd_kafka_topic_partition_list_find(single->paused, topic, report->partition))
    rd_kafka_topic_partition_list_add(single->paused, topic, report->partition);
}

void mb__single_resume(mb_single *single, rd_kafka_t *rk) {
  if (!single->paused) return;
  rd_kafka_resume_partitions(rk, single->paused);
  rd_kafka_topic_partition_list_destroy(single->paused);
  single->paused = NULL;
}

void mb__single_purge(rd_kafka_t *rk) {
  rd_kafka_purge(rk, RD_KAFKA_PURGE_F_QUEUE); /* not later: what is sent next must stay */
}

bool mb__single_take_back(mb_single *single, const rd_kafka_message_t *report, uint64_t order) {
  rd_kafka_headers_t *headers = NULL;
  rd_kafka_timestamp_type_t type;
  const char *topic = rd_kafka_topic_name(report->rkt);
  int64_t at_ms = rd_kafka_message_timestamp(report, &type);
  mb_bytes key = {report->key, report->key_len}, value = {report->payload, report->len};
  mb_held *held = hold(topic, key, value, report->_private, at_ms > 0 ? at_ms : 0);
  if (!held) return false;
  if (!rd_kafka_message_headers(report, &headers) && headers)
    held->headers = rd_kafka_headers_copy(headers);
  held->order = order;
  insert(single, &single->back, held);
  return true;
}

bool mb__single_add(mb_single *single, const char *topic, mb_bytes key, mb_bytes value,
                    rd_kafka_headers_t *headers, void *opaque, int64_t at_ms) {
  mb_held *held = hold(topic, key, value, opaque, at_ms);
  if (!held) return false;
  held->headers = headers;
  insert(single, &single->fresh, held);
  return true;
}

mb_held *mb__single_next(mb_single *single, rd_kafka_t *rk) {
  mb__single_resume(single, rk);
  mb_held *held = pop(single, &single->back);
  if (!held) held = pop(single, &single->fresh);
  if (!held) single->on = false;
  return held;
}

void mb__held_free(mb_held *held) {
  if (!held) return;
  if (held->headers) rd_kafka_headers_destroy(held->headers);
  free(held);
}

void mb__single_clear(mb_single *single) {
  mb_held *held;
  while ((held = pop(single, &single->back)) || (held = pop(single, &single->fresh)))
    mb__held_free(held);
  if (single->paused) rd_kafka_topic_partition_list_destroy(single->paused);
  *single = (mb_single){0};
}
