/* kafka/prefetch.h: keeps librdkafka fetching while its queue is emptied. Knows the queue's limits;
 * knows nothing of what is in it. */
#ifndef MB_PREFETCH_H
#define MB_PREFETCH_H

#include <librdkafka/rdkafka.h>

#include "config/config.h"

typedef struct mb_prefetch {
  rd_kafka_queue_t *queue; /* the consumer's; borrowed. NULL = librdkafka looks by itself */
  size_t events_most, bytes_most;
  size_t taken;        /* since the last look */
  size_t record_bytes; /* of those that came last, about */
  bool was_full;       /* near a limit, and not half empty since */
} mb_prefetch;

void mb__prefetch_init(mb_prefetch *prefetch, const mb_config *conf, rd_kafka_queue_t *queue);
static inline void mb__prefetch_took(mb_prefetch *prefetch, const rd_kafka_message_t *record) {
  prefetch->taken++;
  prefetch->record_bytes = (prefetch->record_bytes * 15 + record->len + record->key_len) / 16;
}
/* Whether fetching must be set going again: to be asked once every few hundred records. */
bool mb__prefetch_is_low(mb_prefetch *prefetch);
/* Set it going, for the topic's partitions in the list; the list's offsets are changed. */
void mb__prefetch_go_on(rd_kafka_t *rk, rd_kafka_topic_partition_list_t *partitions);

#endif
