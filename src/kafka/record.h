/* kafka/record.h: consumed records, as librdkafka gives them or as copies of our own. One of
 * librdkafka's keeps in memory all that was fetched or unpacked with it, a megabyte say: what waits
 * for long is better a copy. Knows librdkafka's records; nothing of what becomes of them.
 *
 * Of a record that may be a copy, these are asked for headers, timestamp and topic. */
#ifndef MB_RECORD_H
#define MB_RECORD_H

#include <librdkafka/rdkafka.h>
#include <stdbool.h>

/* A copy in place of the record, which is destroyed: owned. NULL (and the record stays) when out of
 * memory. */
rd_kafka_message_t *mb__record_own(rd_kafka_message_t *record);

/* What a copy's _private points to; librdkafka's points elsewhere. */
extern char mb__record_mark;

static inline bool mb__record_is_own(const rd_kafka_message_t *record) {
  return record->_private == &mb__record_mark;
}

void mb__record_destroy(rd_kafka_message_t *record);

/* NULL = it has none. */
rd_kafka_headers_t *mb__record_headers(const rd_kafka_message_t *record);
int64_t mb__own_timestamp(const rd_kafka_message_t *record, rd_kafka_timestamp_type_t *type);
/* Asked of every record: no call more than it takes. */
static inline int64_t mb__record_timestamp(const rd_kafka_message_t *record,
                                           rd_kafka_timestamp_type_t *type) {
  return mb__record_is_own(record) ? mb__own_timestamp(record, type)
                                   : rd_kafka_message_timestamp(record, type);
}
const char *mb__record_topic(const rd_kafka_message_t *record);

#endif
