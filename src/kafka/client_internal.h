/* kafka/client_internal.h: a client and one of its calls, which kafka/client.c and kafka/calls.c
 * share. */
#ifndef MB_CLIENT_INTERNAL_H
#define MB_CLIENT_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "kafka/client.h"
#include "kafka/context.h"

typedef struct mb_call mb_call;

struct mb_client {
  rd_kafka_t *rk;
  mb_context *ctx;
  void *owner;
  mb_heard_fn heard;
  pthread_mutex_t lock;
  pthread_cond_t returned;
  int refs; /* the owner's, and those of the calls that are out */
  int out;  /* calls that were abandoned, and have not returned yet */
  bool lost, closed;
  atomic_int certificate;
  mb_trouble trouble;
  int destroy_flags;
  mb_deferred *deferred, **tail;
  mb_call *closing; /* made in advance: closing needs no memory */
};

struct mb_call {
  mb_client *client;
  const char *name;
  void (*run)(rd_kafka_t *rk, mb_call *c);
  int timeout_ms;
  bool changes; /* the handle */
  bool done, abandoned;
  /* what it is given, owned */
  rd_kafka_type_t type;
  rd_kafka_conf_t *conf;
  char *topic;
  int32_t partition;
  bool flag;
  rd_kafka_topic_partition_list_t *list;
  rd_kafka_consumer_group_metadata_t *member; /* given or returned */
  rd_kafka_mock_cluster_t *cluster;
  /* what it returns, owned */
  rd_kafka_resp_err_t err;
  rd_kafka_error_t *error;
  const struct rd_kafka_metadata *metadata;
  int64_t low, high;
  char text[512];
};

/* run works on the handle and the call alone, on another thread. changes: the handle is lost if it
 * does not return in time. NULL when out of memory. */
mb_call *mb__call_new(mb_client *client, const char *name, void (*run)(rd_kafka_t *, mb_call *),
                      int timeout_ms, bool changes);
void mb__call_free(mb_call *c);
/* true if the call has returned, and the caller is to free it. */
bool mb__call_make(mb_call *c);

#endif
