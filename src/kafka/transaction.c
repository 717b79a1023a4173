/* kafka/transaction.c: why a transaction cannot be committed, as the broker and librdkafka say.
 * Must not begin or end one. Called by kafka/producer.c and group/txn.c. */
#include "kafka/transaction.h"

#include <stdio.h>
#include <string.h>

#include "kafka/refusal.h"
#include "kafka/single.h"

bool mb__transaction_is_final(rd_kafka_resp_err_t err) {
  bool by_broker = err > RD_KAFKA_RESP_ERR_NO_ERROR; /* not for another record of its batch */
  return by_broker && (mb__single_may_be_other(err) || err == RD_KAFKA_RESP_ERR_POLICY_VIOLATION ||
                       err == RD_KAFKA_RESP_ERR_UNSUPPORTED_COMPRESSION_TYPE);
}

/* What fails only because the transaction is aborted says nothing of its cause. */
static bool is_consequence(rd_kafka_resp_err_t err) {
  return err == RD_KAFKA_RESP_ERR__PURGE_QUEUE || err == RD_KAFKA_RESP_ERR__PURGE_INFLIGHT ||
         err == RD_KAFKA_RESP_ERR__FATAL;
}

void mb__transaction_refused(mb_transaction *transaction, rd_kafka_resp_err_t err,
                             const char *topic) {
  if (!transaction->open || is_consequence(err) || mb__transaction_is_final(transaction->refused))
    return;
  if (transaction->refused && !mb__transaction_is_final(err)) return;
  transaction->refused = err;
  snprintf(transaction->refused_text, sizeof transaction->refused_text, "%s%s%s", topic,
           *topic ? ": " : "", mb__refusal_undelivered(err));
}

void mb__transaction_heard(mb_transaction *transaction, const char *text) {
  static const char before[] = "Current transaction failed in state ";
  const char *reason = strstr(text, before);
  if (!transaction->open || transaction->refused_text[0] || !reason) return;
  reason = strstr(reason, ": ");
  if (reason)
    snprintf(transaction->refused_text, sizeof transaction->refused_text, "%s", reason + 2);
}
