/* kafka/poller.h: takes what librdkafka has fetched, many records at a time where that is sound.
 * Knows a consumer's queue; knows nothing of what becomes of the records. */
#ifndef MB_POLLER_H
#define MB_POLLER_H

#include <librdkafka/rdkafka.h>

#define MB_POLLER_MOST 64 /* records */

typedef struct mb_poller {
  rd_kafka_t *rk;          /* borrowed */
  rd_kafka_queue_t *queue; /* the consumer's; borrowed. NULL = records are taken one at a time */
  size_t largest_bytes;    /* of the records taken lately */
} mb_poller;

void mb__poller_init(mb_poller *poller, rd_kafka_t *rk, rd_kafka_queue_t *queue);
/* Up to most records (at least 1, counted up to MB_POLLER_MOST) and about most_bytes, owned by the
 * caller, and events of the consumer as records with an error. Waits up to timeout_ms for the first
 * and for no other; librdkafka's callbacks run in here. Returns their number; 0 = none is there. */
size_t mb__poller_take(mb_poller *poller, int timeout_ms, rd_kafka_message_t **records, size_t most,
                       size_t most_bytes);

#endif
