/* kafka/record.c: copies of consumed records, and what is asked of a record that may be one.
 * Must not know why a record is kept.
 * Called by group/retry.c for what waits, by kafka/msg.c and deliver/dead_letter.c. */
#include "kafka/record.h"

#include <stdlib.h>
#include <string.h>

typedef struct copy {
  rd_kafka_message_t record; /* first: who has it need not know */
  rd_kafka_headers_t *headers;
  int64_t timestamp_ms;
  rd_kafka_timestamp_type_t timestamp_type;
  char bytes[]; /* key, value, the topic's name */
} copy;

char mb__record_mark;

static const copy *copy_of(const rd_kafka_message_t *record) {
  return mb__record_is_own(record) ? (const copy *)(const void *)record : NULL;
}

rd_kafka_message_t *mb__record_own(rd_kafka_message_t *record) {
  const char *topic = mb__record_topic(record);
  size_t topic_len = strlen(topic) + 1;
  rd_kafka_headers_t *headers = mb__record_headers(record);
  copy *c = malloc(sizeof *c + record->key_len + record->len + topic_len);
  if (!c) return NULL;
  *c = (copy){.record = *record, .headers = headers ? rd_kafka_headers_copy(headers) : NULL};
  c->timestamp_ms = mb__record_timestamp(record, &c->timestamp_type);
  c->record.rkt = NULL;
  c->record._private = &mb__record_mark;
  char *at = c->bytes;
  if (record->key) c->record.key = memcpy(at, record->key, record->key_len);
  at += record->key_len;
  if (record->payload) c->record.payload = memcpy(at, record->payload, record->len);
  memcpy(at + record->len, topic, topic_len);
  mb__record_destroy(record);
  return &c->record;
}

void mb__record_destroy(rd_kafka_message_t *record) {
  const copy *c = copy_of(record);
  if (!c) {
    rd_kafka_message_destroy(record);
    return;
  }
  if (c->headers) rd_kafka_headers_destroy(c->headers);
  free(record);
}

rd_kafka_headers_t *mb__record_headers(const rd_kafka_message_t *record) {
  const copy *c = copy_of(record);
  rd_kafka_headers_t *headers = NULL;
  if (c) return c->headers;
  return rd_kafka_message_headers(record, &headers) ? NULL : headers;
}

int64_t mb__own_timestamp(const rd_kafka_message_t *record, rd_kafka_timestamp_type_t *type) {
  const copy *c = copy_of(record);
  *type = c->timestamp_type;
  return c->timestamp_ms;
}

const char *mb__record_topic(const rd_kafka_message_t *record) {
  const copy *c = copy_of(record);
  return c ? c->bytes + record->key_len + record->len : rd_kafka_topic_name(record->rkt);
}
