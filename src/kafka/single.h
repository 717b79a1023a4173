/* kafka/single.h: records that wait to be sent again one at a time, because the broker refused them
 * together. Knows librdkafka's producer; does not know buses or what a record is for. */
#ifndef MB_SINGLE_H
#define MB_SINGLE_H

#include <librdkafka/rdkafka.h>

#include "moonbus.h"

/* A copy of a record. */
typedef struct mb_held mb_held;
struct mb_held {
  mb_held *next;
  char *topic;                 /* within bytes */
  rd_kafka_headers_t *headers; /* owned; NULL = none */
  void *opaque;                /* of the record; borrowed */
  uint64_t order;              /* among those that came back */
  int64_t at_ms;               /* 0 = when it is sent */
  mb_bytes key, value;         /* within bytes; data NULL = null */
  char bytes[];
};

typedef struct mb_held_list {
  mb_held *head, *last, *latest; /* the one added last; NULL = it is gone */
} mb_held_list;

typedef struct mb_single {
  bool on;            /* every record goes through here: some are held, or one is under way */
  bool flying;        /* that one; its report is the last word */
  mb_held_list back;  /* came back from the broker or the queue, by order */
  mb_held_list fresh; /* sent since */
  size_t count;       /* of both lists */
  rd_kafka_topic_partition_list_t *paused; /* owned; NULL = none */
} mb_single;

/* Whether a broker refuses with this error what is wrong with one record, and with it all records
 * of its batch. */
bool mb__single_may_be_other(rd_kafka_resp_err_t err);
/* Of a producer to be made: a partition with such a refusal is paused at once. */
void mb__single_watch(rd_kafka_conf_t *conf);
/* This report's partition was. */
void mb__single_paused(mb_single *single, const rd_kafka_message_t *report);
/* Hold a copy of the reported record, in the order in which they were sent: reports of what was
 * only queued come before those of what was on its way. false when out of memory. */
bool mb__single_take_back(mb_single *single, const rd_kafka_message_t *report, uint64_t order);
/* Hold a copy of a record that is sent now. headers are taken unless it returns false: out of
 * memory. */
bool mb__single_add(mb_single *single, const char *topic, mb_bytes key, mb_bytes value,
                    rd_kafka_headers_t *headers, void *opaque, int64_t at_ms);
/* Paused partitions go on. */
void mb__single_resume(mb_single *single, rd_kafka_t *rk);
/* What the queue still has is to come back: records that librdkafka would send again. */
void mb__single_purge(rd_kafka_t *rk);
/* The next to be sent, nothing else being under way; owned. NULL = there is none, and records are
 * sent in batches again. */
mb_held *mb__single_next(mb_single *single, rd_kafka_t *rk);
void mb__held_free(mb_held *held);
/* Forget all that is held. */
void mb__single_clear(mb_single *single);

#endif
