/* kafka/transaction.h: what the producer knows of its transaction: whether one is open, and why it
 * cannot be committed. group/txn.c begins and ends them; without delivery = "exactly_once" there are
 * none. */
#ifndef MB_TRANSACTION_H
#define MB_TRANSACTION_H

#include <librdkafka/rdkafka.h>
#include <stdbool.h>
#include <stdint.h>

#include "kafka/refusal.h"

typedef struct mb_transaction {
  bool on;                     /* delivery = "exactly_once" */
  bool open;                   /* between begin and commit */
  bool broken;                 /* something published in it was not delivered */
  uint64_t sent;               /* records handed over, ever */
  rd_kafka_resp_err_t refused; /* why an event published in it was not delivered; 0 = all were */
  char refused_text[MB_REFUSAL_MAX];
} mb_transaction;

/* An event published in it was not delivered. topic: "" = unknown. */
void mb__transaction_refused(mb_transaction *transaction, rd_kafka_resp_err_t err,
                             const char *topic);
/* A log line of librdkafka: the reason for which a transaction has to be aborted stands nowhere
 * else when its records were not sent at all. */
void mb__transaction_heard(mb_transaction *transaction, const char *text);
/* Of the refusals, those that stay true of that record, or of all records for that topic. */
bool mb__transaction_is_final(rd_kafka_resp_err_t err);

#endif
