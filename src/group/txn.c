/* group/txn.c: transactions: begun with a batch of events, committed with the offsets, or undone.
 * Must not know handlers or decide outcomes.
 * Called by bus/step.c and deliver/ around batches, by group/rebalance.c at revocations, by
 * bus/publish.c and dlq/replay.c for what is published outside handlers. */
#include "group/txn.h"

#include <stdlib.h>
#include <string.h>

#include "group/group.h"
#include "handlers/backoff.h"
#include "kafka/single.h"

#define CALL_MS      30000
#define RENEW_MS     10000 /* for a producer to be ready in place of a lost one */
#define WAIT_FIRST_S 0.05  /* after a transaction that failed through no event's fault */
#define WAIT_MOST_S  30
#define GROW_AFTER   16 /* commits in a row, before transactions hold twice as many events again */

static int call_ms(const mb_group *group) {
  return group->txn.by_us ? mb__left_ms(group->txn.by_us) : CALL_MS;
}

/* Offsets are for the transaction that is open: librdkafka limits their time by that, too. */
static int offsets_ms(const mb_group *group) {
  int64_t most_ms = mb__conf_int(group->ctx->conf, MB_OPT_transaction_timeout_ms);
  int ms = call_ms(group);
  return ms < most_ms ? ms : (int)most_ms;
}

/* Repeat a call while librdkafka says that it may be repeated. NULL = done; else owned. */
static rd_kafka_error_t *persist(rd_kafka_error_t *(*call)(mb_group *group, void *opaque, int ms),
                                 mb_group *group, void *opaque, int timeout_ms) {
  int64_t end = mb__mono_us() + (int64_t)timeout_ms * 1000;
  for (;;) {
    rd_kafka_error_t *error = call(group, opaque, mb__left_ms(end));
    if (!error || !rd_kafka_error_is_retriable(error) || mb__mono_us() >= end) return error;
    rd_kafka_error_destroy(error);
    rd_kafka_poll(mb__producer_handle(group->ctx), 50);
  }
}

static rd_kafka_error_t *call_init(mb_group *group, void *opaque, int ms) {
  (void)opaque;
  return mb__client_txn_init(mb__producer_client(group->ctx), ms);
}

static rd_kafka_error_t *call_offsets(mb_group *group, void *opaque, int ms) {
  rd_kafka_consumer_group_metadata_t *member = mb__consumer_member(group);
  if (!member)
    return rd_kafka_error_new(RD_KAFKA_RESP_ERR__STATE, "the group's member is not known");
  return mb__client_txn_offsets(mb__producer_client(group->ctx), opaque, member, ms);
}

static rd_kafka_error_t *call_commit(mb_group *group, void *opaque, int ms) {
  (void)opaque;
  return mb__client_txn_commit(mb__producer_client(group->ctx), ms);
}

static rd_kafka_error_t *call_abort(mb_group *group, void *opaque, int ms) {
  (void)opaque;
  return mb__client_txn_abort(mb__producer_client(group->ctx), ms);
}

/* What failed and why; of a refusal, what to do about it. */
static void refused(mb_group *group, mb_err err, const char *what, const rd_kafka_error_t *error,
                    char *errstr, size_t errstr_size) {
  char text[MB_REFUSAL_MAX];
  const char *known = mb__producer_refusal(group->ctx);
  mb__producer_refusal_text(group->ctx, rd_kafka_error_code(error), rd_kafka_error_string(error),
                            group->ctx->topic, "Write", text, sizeof text);
  mb__error(err, errstr, errstr_size, "%s: %s", what, err == MB_ECONNECT && known ? known : text);
}

mb_err mb__txn_init(mb_group *group, int timeout_ms, char *errstr, size_t errstr_size) {
  rd_kafka_error_t *error = persist(call_init, group, NULL, timeout_ms);
  if (!error) group->txn.late = false;
  if (!error) return MB_OK;
  mb_err err = mb__err_of(rd_kafka_error_code(error));
  if (err == MB_ETIMEOUT) err = MB_ECONNECT;
  if (group->ctx->embedded)
    mb__error(MB_EUNSUPPORTED, errstr, errstr_size,
              "delivery = \"exactly_once\" needs a real broker: %s", rd_kafka_error_string(error));
  else
    refused(group, err, "no transaction can be started", error, errstr, errstr_size);
  rd_kafka_error_destroy(error);
  return err;
}

mb_err mb__txn_renew(mb_group *group, char *errstr, size_t errstr_size) {
  mb__producer_close(group->ctx, 0);
  group->txn.failed = MB_OK;
  mb_err err = mb__producer_open(group->ctx, errstr, errstr_size);
  return err ? err : mb__txn_init(group, RENEW_MS, errstr, errstr_size);
}

mb_err mb__txn_begin(mb_group *group, char *errstr, size_t errstr_size) {
  mb_transaction *transaction = &group->ctx->transaction;
  mb_txn *txn = &group->txn;
  if (mb__producer_lost(group->ctx) && !group->ctx->consuming) {
    mb_err err = mb__txn_renew(group, errstr, errstr_size);
    if (err) return err;
  }
  if (transaction->open) return MB_OK;
  rd_kafka_error_t *error = mb__client_txn_begin(mb__producer_client(group->ctx), call_ms(group));
  if (error) {
    refused(group, MB_EFATAL, "no transaction can begin", error, errstr, errstr_size);
    rd_kafka_error_destroy(error);
    return MB_EFATAL;
  }
  transaction->open = true;
  transaction->broken = false;
  transaction->refused = RD_KAFKA_RESP_ERR_NO_ERROR;
  transaction->refused_text[0] = 0;
  txn->publishers = 0;
  txn->events = 0;
  txn->begun_us = mb__mono_us();
  return MB_OK;
}

/* The broker counts from the first record on: later than we do. */
static bool is_overdue(const mb_group *group) {
  return group->ctx->transaction.open &&
         mb__mono_us() - group->txn.begun_us >=
             mb__conf_int(group->ctx->conf, MB_OPT_transaction_timeout_ms) * 1000;
}

bool mb__txn_is_late(const mb_group *group) {
  return group->txn.late || is_overdue(group);
}

bool mb__txn_is_full(const mb_group *group) {
  return group->txn.most && group->ctx->transaction.open && group->txn.events >= group->txn.most;
}

bool mb__txn_waits(const mb_group *group, int64_t now_us) {
  return now_us < group->txn.resume_us;
}

bool mb__txn_due(const mb_group *group, int64_t now_us) {
  const mb_txn *txn = &group->txn;
  if (!group->ctx->transaction.open) return false;
  return mb__txn_is_full(group) ||
         txn->events >= mb__conf_int(group->ctx->conf, MB_OPT_transaction_max_events) ||
         now_us - txn->begun_us >=
             mb__conf_int(group->ctx->conf, MB_OPT_transaction_interval_ms) * 1000;
}

/* End with the error said. Fatal: this producer was fenced off, or its state is beyond repair. */
static mb_err give_up(mb_group *group, rd_kafka_error_t *error, const char *what, char *errstr,
                      size_t errstr_size) {
  refused(group, MB_EFATAL, what, error, errstr, errstr_size);
  rd_kafka_error_destroy(error);
  return MB_EFATAL;
}

/* ---- refused outputs ---- */

void mb__txn_published(mb_group *group, const mb_publisher *publisher) {
  group->txn.publishers++;
  group->txn.publisher = *publisher;
}

/* It failed. An output that is refused for good is charged to the event whose handlers published
 * it; as long as several may have, transactions hold half as many. After anything else the next
 * begins later and later. */
static void blame(mb_group *group) {
  mb_transaction *transaction = &group->ctx->transaction;
  mb_txn *txn = &group->txn;
  if (mb__transaction_is_final(transaction->refused) && txn->publishers > 1) {
    txn->most = txn->events > 1 ? txn->events / 2 : 1;
    txn->fine = 0;
    return;
  }
  if (mb__transaction_is_final(transaction->refused) && txn->publishers == 1 &&
      group->charge(group->charge_opaque, &txn->publisher, transaction->refused_text))
    return;
  int64_t wait_us = mb__backoff_us(WAIT_FIRST_S, WAIT_MOST_S, 0.1, txn->aborts++, 0.5);
  txn->resume_us = mb__mono_us() + wait_us;
}

bool mb__txn_spoils(mb_group *group) {
  mb_transaction *transaction = &group->ctx->transaction;
  mb_txn *txn = &group->txn;
  if (!transaction->open || !transaction->broken) return false;
  mb__producer_flush(group->ctx, call_ms(group)); /* the reports say why */
  return txn->publishers > 0 || !mb__transaction_is_final(transaction->refused);
}

static void succeed(mb_group *group) {
  mb_txn *txn = &group->txn;
  txn->failing = NULL;
  txn->late = false;
  txn->aborts = 0;
  group->reopen_s = 0;
  txn->resume_us = 0;
  /* Records that are refused because they share a batch would be refused again at once. */
  if (txn->most && ++txn->fine >= GROW_AFTER) {
    txn->fine = 0;
    txn->most *= 2;
  }
  if (txn->most >= mb__conf_int(group->ctx->conf, MB_OPT_transaction_max_events)) txn->most = 0;
  group->ctx->stats.transactions_committed++;
}

/* Undo on the broker. An abort soon after a commit is fatal to librdkafka before 2.1 unless
 * everything was flushed first. */
static mb_err undo(mb_group *group, char *errstr, size_t errstr_size) {
  if (is_overdue(group)) group->txn.late = true;
  mb__producer_flush(group->ctx, call_ms(group));
  rd_kafka_error_t *error = persist(call_abort, group, NULL, call_ms(group));
  group->ctx->transaction.open = false;
  return error ? give_up(group, error, "the transaction was not aborted", errstr, errstr_size)
               : MB_OK;
}

mb_err mb__txn_abort(mb_group *group, char *errstr, size_t errstr_size) {
  if (!group->ctx->transaction.open) return MB_OK;
  mb__unit_end(group, false);
  mb_err err = undo(group, errstr, errstr_size);
  group->txn.rewinds++;
  group->ctx->stats.transactions_aborted++;
  mb__consumer_rewind_all(group);
  return err;
}

static const char UNDELIVERED[] = "an event published in it was not delivered";

static void log_aborted(mb_group *group, const char *what, const char *why) {
  group->txn.failing = what;
  mb__log(&group->ctx->log, MB_LOG_WARN, "transaction aborted, its events are read again: %s%s%s",
          what, why[0] ? ": " : "", why);
}

mb_err mb__txn_spoiled(mb_group *group, char *errstr, size_t errstr_size) {
  log_aborted(group, UNDELIVERED, group->ctx->transaction.refused_text);
  blame(group);
  return mb__txn_abort(group, errstr, errstr_size);
}

mb_err mb__txn_commit(mb_group *group, char *errstr, size_t errstr_size) {
  mb_transaction *transaction = &group->ctx->transaction;
  mb_txn *txn = &group->txn;
  if (!transaction->open) return MB_OK;
  const char *what = "what its handlers did elsewhere is lost";
  rd_kafka_error_t *error = NULL;
  rd_kafka_topic_partition_list_t *offsets = NULL;
  if (!mb__unit_end(group, true)) goto failed;
  what = UNDELIVERED;
  /* Flushed first: sending the offsets is several times as slow otherwise. */
  if (mb__producer_flush(group->ctx, call_ms(group)) || transaction->broken) goto failed;
  what = "its marks find no room";
  if (!mb__consumer_low_water(group, &offsets)) goto failed;
  what = "its offsets were not accepted";
  if (offsets && (error = persist(call_offsets, group, offsets, offsets_ms(group)))) goto failed;
  what = "it was not committed";
  if ((error = persist(call_commit, group, NULL, call_ms(group)))) goto failed;
  transaction->open = false;
  succeed(group);
  mb__consumer_committed(group, offsets);
  if (offsets) rd_kafka_topic_partition_list_destroy(offsets);
  return MB_OK;
failed:
  txn->failing = what;
  char why[MB_REFUSAL_MAX] = "";
  if (error)
    mb__producer_refusal_text(group->ctx, rd_kafka_error_code(error), rd_kafka_error_string(error),
                              group->ctx->topic, "Write", why, sizeof why);
  else if (mb__producer_refusal(group->ctx))
    snprintf(why, sizeof why, "%s", mb__producer_refusal(group->ctx));
  else
    snprintf(why, sizeof why, "%s", transaction->refused_text);
  if (is_overdue(group)) txn->late = true;
  if (mb__err_of(error ? rd_kafka_error_code(error) : 0) == MB_EAUTH)
    mb__consumer_refused(group, rd_kafka_error_code(error), why);
  if (error && rd_kafka_error_code(error) == RD_KAFKA_RESP_ERR_OFFSET_METADATA_TOO_LARGE)
    mb__consumer_unmark(group);
  if (offsets) rd_kafka_topic_partition_list_destroy(offsets);
  /* Whether a commit that did not return was made is for the next producer to end: it asks the
   * broker, and the offsets that count are read after that. */
  if (error && (rd_kafka_error_is_fatal(error) || mb__producer_lost(group->ctx)))
    return give_up(group, error, what, errstr, errstr_size);
  log_aborted(group, what, why);
  if (error) rd_kafka_error_destroy(error);
  blame(group);
  return mb__txn_abort(group, errstr, errstr_size);
}

mb_err mb__txn_end_alone(mb_group *group, bool commit, char *errstr, size_t errstr_size) {
  mb_transaction *transaction = &group->ctx->transaction;
  if (!commit || transaction->broken) {
    mb_err err = undo(group, errstr, errstr_size);
    return err || !commit ? err
                          : mb__error(MB_EDELIVERY, errstr, errstr_size,
                                      "the transaction was aborted: not all of it was delivered");
  }
  rd_kafka_error_t *error = persist(call_commit, group, NULL, call_ms(group));
  transaction->open = false;
  if (!error) return MB_OK;
  if (mb__producer_lost(group->ctx))
    return give_up(group, error, "whether the transaction was committed is not known", errstr,
                   errstr_size);
  if (rd_kafka_error_is_fatal(error))
    return give_up(group, error, "the transaction was not committed", errstr, errstr_size);
  refused(group, MB_EDELIVERY, "the transaction was not committed", error, errstr, errstr_size);
  rd_kafka_error_destroy(error);
  undo(group, NULL, 0);
  return MB_EDELIVERY;
}
