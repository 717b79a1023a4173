/* kafka/producer.h: records to the broker, and what became of them. Knows librdkafka's producer;
 * does not know events' meaning, handlers or Lua. */
#ifndef MB_PRODUCER_H
#define MB_PRODUCER_H

#include <librdkafka/rdkafka.h>

#include "event/codec.h"
#include "kafka/client.h"
#include "kafka/context.h"
#include "kafka/refusal.h"
#include "moonbus.h"

typedef struct mb_delivery mb_delivery;

/* One record under way: the producer calls done on the bus's thread, exactly once, if send said
 * MB_OK. record is borrowed; of it, err, partition and offset are set. */
struct mb_delivery {
  void (*done)(mb_delivery *delivery, const rd_kafka_message_t *record);
  void *opaque;             /* of done, borrowed */
  mb_delivery *prev, *next; /* the producer's, until done */
  uint64_t order;           /* the producer's: of the records it sent */
};

/* Make the librdkafka producer (no network yet). Done already: MB_OK. */
mb_err mb__producer_open(mb_context *ctx, char *errstr, size_t errstr_size);
/* Wait until a broker answers and the bus's topic has partitions. */
mb_err mb__producer_check(mb_context *ctx, int timeout_ms, char *errstr, size_t errstr_size);
/* Deliver what is queued within timeout_ms, then close; what is left fails. Takes no more than a
 * second longer. Returns how many failed. */
size_t mb__producer_close(mb_context *ctx, int timeout_ms);
rd_kafka_t *mb__producer_handle(const mb_context *ctx);
mb_client *mb__producer_client(const mb_context *ctx);

/* Queue one record.
 * owns    key and value copied; headers taken on MB_OK; delivery borrowed until its done; NULL: a
 *         background event, failures are counted and logged, and passed to the callback
 * waits   up to timeout_ms for room in the queue, serving reports meanwhile (0 = not at all)
 * returns MB_EFULL, MB_ETOPIC, MB_EDELIVERY (too large, ...), MB_EFATAL */
mb_err mb__producer_send(mb_context *ctx, const char *topic, mb_bytes key, mb_bytes value,
                         rd_kafka_headers_t *headers, mb_delivery *delivery, int timeout_ms,
                         char *errstr, size_t errstr_size);

/* The same with a time of the record's own, in milliseconds since 1970; 0 = now. */
mb_err mb__producer_send_at(mb_context *ctx, const char *topic, mb_bytes key, mb_bytes value,
                            rd_kafka_headers_t *headers, mb_delivery *delivery, int64_t at_ms,
                            int timeout_ms, char *errstr, size_t errstr_size);

/* Serve reports and logs; does not wait. Returns how many there were. */
int mb__producer_poll(mb_context *ctx);
/* Send what lingers and wait for its reports. MB_ETIMEOUT if something is still under way. */
mb_err mb__producer_flush(mb_context *ctx, int timeout_ms);
/* Why this client is refused, as far as is known; NULL = it is not. Borrowed until the next call.
 */
const char *mb__producer_refusal(const mb_context *ctx);
/* Since when no broker can be reached, monotonic microseconds; 0 = one can. */
int64_t mb__producer_down_us(const mb_context *ctx);
/* Since when events wait for an answer, where that is no passing trouble; 0 = none do. For which
 * partition, and from which broker: -1 = it has no leader. */
int64_t mb__producer_silent_us(const mb_context *ctx, int32_t *partition, int32_t *broker);
/* Why it can do no more; false while it can. */
bool mb__producer_fatal(const mb_context *ctx, char *text, size_t size);
/* true if a call into librdkafka did not return: this producer is to be closed. */
bool mb__producer_lost(const mb_context *ctx);
/* Another producer took this one's transactional id. */
bool mb__producer_fenced(const mb_context *ctx);
/* librdkafka's reason why the last send did not queue its record. */
rd_kafka_resp_err_t mb__producer_refused(const mb_context *ctx);
/* Whether records of transactions go one at a time, as the broker refused some of a batch. */
bool mb__producer_singly(const mb_context *ctx);
/* Records queued or in flight. */
size_t mb__producer_queued(const mb_context *ctx);

/* The producer's client, opened if need be: what administration and reading go through. */
mb_err mb__producer_client_open(mb_context *ctx, mb_client **client, char *errstr,
                                size_t errstr_size);
/* The name under which an earlier life of this producer is fenced off. buf, or borrowed. */
const char *mb__producer_transactional_id(mb_context *ctx, char *buf, size_t size);

/* Why the broker, or this client, refused: mb__refusal_text of this bus. rights: on the topic. */
void mb__producer_refusal_text(mb_context *ctx, rd_kafka_resp_err_t code, const char *reason,
                               const char *topic, const char *rights, char *text, size_t size);

#endif
