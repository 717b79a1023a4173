/* kafka/client.h: a handle of librdkafka with the calls into it that may block, each with a
 * deadline. Knows librdkafka; does not know what a call is for, events, handlers or Lua. */
#ifndef MB_CLIENT_H
#define MB_CLIENT_H

#include <librdkafka/rdkafka.h>

#include <librdkafka/rdkafka_mock.h>

#include "kafka/context.h"
#include "moonbus.h"

typedef struct mb_client mb_client;

/* A line that librdkafka logged, on the bus's thread. */
typedef void (*mb_heard_fn)(void *owner, const char *text);

/* How much longer than its timeout_ms a call may hold the caller. */
#define MB_CALL_GRACE_US 900000

/* ---- life ---- */

/* rd_kafka_new.
 * bus     NULL = none; its end shortens the calls
 * name    of the configuration, for errors: "producer"
 * conf    taken, also on failure; its opaque becomes the client
 * owner   what mb__client_owner returns until mb__client_close
 * returns MB_ENOMEM (threads, too), MB_ETIMEOUT, or why librdkafka refused conf */
mb_err mb__client_open(mb_context *ctx, rd_kafka_type_t type, const char *name,
                       rd_kafka_conf_t *conf, void *owner, mb_client **opened, char *errstr,
                       size_t errstr_size);
/* rd_kafka_destroy_flags, waited for until by_us (monotonic) plus MB_CALL_GRACE_US. Queues, topics
 * and records of the handle are destroyed by then. NULL allowed. false: librdkafka goes on closing
 * without us. */
bool mb__client_close(mb_client *client, int flags, int64_t by_us);
rd_kafka_t *mb__client_handle(const mb_client *client);
/* true if a call that changes the handle did not return: the handle is not used any more, and
 * every further call fails. */
bool mb__client_lost(const mb_client *client);

/* OpenSSL's number for what was wrong with the last broker's certificate that was refused; 0 = none
 * was. */
int mb__client_certificate(const mb_client *client);

/* Why the client gets no answers, as far as the callbacks said. */
struct mb_trouble *mb__client_trouble(mb_client *client);

/* heard is called with each line that librdkafka logs, until mb__client_close. */
void mb__client_on_line(mb_client *client, mb_heard_fn heard);

/* ---- callbacks: their opaque is the client ---- */

/* NULL: the callback is to do nothing, its owner is gone or another thread's. */
void *mb__client_owner(const mb_client *client);

/* What a callback on the thread of a call leaves for the owner's thread: one block of malloc. */
typedef struct mb_deferred mb_deferred;
struct mb_deferred {
  void (*serve)(void *owner, const mb_deferred *deferred);
  mb_deferred *next;
};

/* true if this is the thread of a call: the callback must not run here, but be deferred. */
bool mb__client_is_away(void);
/* Served on the owner's thread when the call is over; freed. */
void mb__client_defer(mb_client *client, mb_deferred *deferred);

/* ---- questions: one that is not answered in time costs nothing but the answer ---- */

/* topic NULL = all. *metadata is owned: rd_kafka_metadata_destroy. */
rd_kafka_resp_err_t mb__client_metadata(mb_client *client, const char *topic,
                                        const struct rd_kafka_metadata **metadata, int timeout_ms);
rd_kafka_resp_err_t mb__client_watermarks(mb_client *client, const char *topic, int32_t partition,
                                          int64_t *low, int64_t *high, int timeout_ms);
/* The list is replaced by one with the answers. */
rd_kafka_resp_err_t mb__client_committed(mb_client *client, rd_kafka_topic_partition_list_t **list,
                                         int timeout_ms);
rd_kafka_resp_err_t mb__client_offsets_for_times(mb_client *client,
                                                 rd_kafka_topic_partition_list_t **list,
                                                 int timeout_ms);
rd_kafka_resp_err_t mb__client_commit(mb_client *client,
                                      const rd_kafka_topic_partition_list_t *list, int timeout_ms);
/* Owned. NULL = librdkafka did not say in time, or no memory is left. */
rd_kafka_consumer_group_metadata_t *mb__client_member(mb_client *client);
/* The member id that the group gave this client; "" = none, or librdkafka gave it up. false when
 * librdkafka does not answer in time. */
bool mb__client_member_id(mb_client *client, char *id, size_t size);
/* true if the group's rebalances are cooperative. */
bool mb__client_is_cooperative(mb_client *client);

/* ---- changes: one that does not return in time loses the client ---- */

/* All have the errors of librdkafka's function; RD_KAFKA_RESP_ERR__TIMED_OUT without an answer. */
rd_kafka_resp_err_t mb__client_subscribe(mb_client *client,
                                         const rd_kafka_topic_partition_list_t *topics);
rd_kafka_resp_err_t mb__client_unsubscribe(mb_client *client);
/* list NULL = nothing. */
rd_kafka_resp_err_t mb__client_assign(mb_client *client,
                                      const rd_kafka_topic_partition_list_t *list);
void mb__client_assign_more(mb_client *client, const rd_kafka_topic_partition_list_t *list);
void mb__client_assign_less(mb_client *client, const rd_kafka_topic_partition_list_t *list);
void mb__client_pause(mb_client *client, const rd_kafka_topic_partition_list_t *list, bool paused);

/* NULL = done; else owned. */
rd_kafka_error_t *mb__client_txn_init(mb_client *client, int timeout_ms);
rd_kafka_error_t *mb__client_txn_begin(mb_client *client, int timeout_ms);
/* member: mb__client_member's, of the consumer; taken. */
rd_kafka_error_t *mb__client_txn_offsets(mb_client *client,
                                         const rd_kafka_topic_partition_list_t *offsets,
                                         rd_kafka_consumer_group_metadata_t *member,
                                         int timeout_ms);
rd_kafka_error_t *mb__client_txn_commit(mb_client *client, int timeout_ms);
rd_kafka_error_t *mb__client_txn_abort(mb_client *client, int timeout_ms);

/* rd_kafka_mock_cluster_destroy, then mb__client_close. */
void mb__client_close_mock(mb_client *client, rd_kafka_mock_cluster_t *cluster, int64_t by_us);

/* Logs of librdkafka, on the bus's thread. */
void mb__client_log(const rd_kafka_t *rk, int level, const char *fac, const char *text);
/* Whether a broker answers this client, as far as is known without waiting. Only to be asked of one
 * that said it lost them all: it sends a request each time. */
bool mb__client_has_link(rd_kafka_t *rk);

#endif
