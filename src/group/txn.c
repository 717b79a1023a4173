/* group/txn.c: transactions: begun with a batch of events, committed with the offsets, or undone.
 * Must not know handlers or decide outcomes.
 * Called by bus/bus.c and deliver/deliver.c around batches, by group/rebalance.c at revocations, by
 * bus/publish.c and dlq/replay.c for what is published outside handlers. */
#include "group/txn.h"

#include <stdlib.h>
#include <string.h>

#include "bus/internal.h"
#include "handlers/backoff.h"
#include "kafka/single.h"

#define CALL_MS      30000
#define RENEW_MS     10000 /* for a producer to be ready in place of a lost one */
#define WAIT_FIRST_S 0.05  /* after a transaction that failed through no event's fault */
#define WAIT_MOST_S  30
#define GROW_AFTER   16 /* commits in a row, before transactions hold twice as many events again */

static int call_ms(const mb_bus *bus) {
  return bus->txn.by_us ? mb__left_ms(bus->txn.by_us) : CALL_MS;
}

/* Offsets are for the transaction that is open: librdkafka limits their time by that, too. */
static int offsets_ms(const mb_bus *bus) {
  int64_t most_ms = mb__conf_int(bus->conf, MB_OPT_transaction_timeout_ms);
  int ms = call_ms(bus);
  return ms < most_ms ? ms : (int)most_ms;
}

/* Repeat a call while librdkafka says that it may be repeated. NULL = done; else owned. */
static rd_kafka_error_t *persist(rd_kafka_error_t *(*call)(mb_bus *bus, void *opaque, int ms),
                                 mb_bus *bus, void *opaque, int timeout_ms) {
  int64_t end = mb__mono_us() + (int64_t)timeout_ms * 1000;
  for (;;) {
    rd_kafka_error_t *error = call(bus, opaque, mb__left_ms(end));
    if (!error || !rd_kafka_error_is_retriable(error) || mb__mono_us() >= end) return error;
    rd_kafka_error_destroy(error);
    rd_kafka_poll(mb__producer_handle(bus), 50);
  }
}

static rd_kafka_error_t *call_init(mb_bus *bus, void *opaque, int ms) {
  (void)opaque;
  return mb__client_txn_init(mb__producer_client(bus), ms);
}

static rd_kafka_error_t *call_offsets(mb_bus *bus, void *opaque, int ms) {
  rd_kafka_consumer_group_metadata_t *member = mb__consumer_member(bus);
  if (!member)
    return rd_kafka_error_new(RD_KAFKA_RESP_ERR__STATE, "the group's member is not known");
  return mb__client_txn_offsets(mb__producer_client(bus), opaque, member, ms);
}

static rd_kafka_error_t *call_commit(mb_bus *bus, void *opaque, int ms) {
  (void)opaque;
  return mb__client_txn_commit(mb__producer_client(bus), ms);
}

static rd_kafka_error_t *call_abort(mb_bus *bus, void *opaque, int ms) {
  (void)opaque;
  return mb__client_txn_abort(mb__producer_client(bus), ms);
}

/* What failed and why; of a refusal, what to do about it. */
static void refused(mb_bus *bus, mb_err err, const char *what, const rd_kafka_error_t *error,
                    char *errstr, size_t errstr_size) {
  char text[MB_REFUSAL_MAX];
  const char *known = mb__producer_refusal(bus);
  mb__bus_refusal(bus, rd_kafka_error_code(error), rd_kafka_error_string(error), bus->topic,
                  "Write", text, sizeof text);
  mb__error(err, errstr, errstr_size, "%s: %s", what, err == MB_ECONNECT && known ? known : text);
}

mb_err mb__txn_init(mb_bus *bus, int timeout_ms, char *errstr, size_t errstr_size) {
  rd_kafka_error_t *error = persist(call_init, bus, NULL, timeout_ms);
  if (!error) bus->txn.late = false;
  if (!error) return MB_OK;
  mb_err err = mb__err_of(rd_kafka_error_code(error));
  if (err == MB_ETIMEOUT) err = MB_ECONNECT;
  if (bus->embedded)
    mb__error(MB_EUNSUPPORTED, errstr, errstr_size,
              "delivery = \"exactly_once\" needs a real broker: %s", rd_kafka_error_string(error));
  else
    refused(bus, err, "no transaction can be started", error, errstr, errstr_size);
  rd_kafka_error_destroy(error);
  return err;
}

mb_err mb__txn_renew(mb_bus *bus, char *errstr, size_t errstr_size) {
  mb__producer_close(bus, 0);
  bus->txn.failed = MB_OK;
  mb_err err = mb__producer_open(bus, errstr, errstr_size);
  return err ? err : mb__txn_init(bus, RENEW_MS, errstr, errstr_size);
}

mb_err mb__txn_begin(mb_bus *bus, char *errstr, size_t errstr_size) {
  mb_txn *txn = &bus->txn;
  if (mb__producer_lost(bus) && !bus->consuming) {
    mb_err err = mb__txn_renew(bus, errstr, errstr_size);
    if (err) return err;
  }
  if (txn->open) return MB_OK;
  rd_kafka_error_t *error = mb__client_txn_begin(mb__producer_client(bus), call_ms(bus));
  if (error) {
    refused(bus, MB_EFATAL, "no transaction can begin", error, errstr, errstr_size);
    rd_kafka_error_destroy(error);
    return MB_EFATAL;
  }
  txn->open = true;
  txn->broken = false;
  txn->refused = RD_KAFKA_RESP_ERR_NO_ERROR;
  txn->refused_text[0] = 0;
  txn->publishers = 0;
  txn->events = 0;
  txn->begun_us = mb__mono_us();
  return MB_OK;
}

/* The broker counts from the first record on: later than we do. */
static bool is_overdue(const mb_bus *bus) {
  return bus->txn.open && mb__mono_us() - bus->txn.begun_us >=
                              mb__conf_int(bus->conf, MB_OPT_transaction_timeout_ms) * 1000;
}

bool mb__txn_is_late(const mb_bus *bus) {
  return bus->txn.late || is_overdue(bus);
}

bool mb__txn_is_full(const mb_bus *bus) {
  return bus->txn.most && bus->txn.open && bus->txn.events >= bus->txn.most;
}

bool mb__txn_waits(const mb_bus *bus, int64_t now_us) {
  return now_us < bus->txn.resume_us;
}

bool mb__txn_due(const mb_bus *bus, int64_t now_us) {
  const mb_txn *txn = &bus->txn;
  if (!txn->open) return false;
  return mb__txn_is_full(bus) ||
         txn->events >= mb__conf_int(bus->conf, MB_OPT_transaction_max_events) ||
         now_us - txn->begun_us >= mb__conf_int(bus->conf, MB_OPT_transaction_interval_ms) * 1000;
}

/* End with the error said. Fatal: this producer was fenced off, or its state is beyond repair. */
static mb_err give_up(mb_bus *bus, rd_kafka_error_t *error, const char *what, char *errstr,
                      size_t errstr_size) {
  refused(bus, MB_EFATAL, what, error, errstr, errstr_size);
  rd_kafka_error_destroy(error);
  return MB_EFATAL;
}

/* ---- refused outputs ---- */

void mb__txn_published(mb_bus *bus, const mb_publisher *publisher) {
  bus->txn.publishers++;
  bus->txn.publisher = *publisher;
}

/* Of the refusals, those that stay true of that record, or of all records for that topic. */
static bool is_final(rd_kafka_resp_err_t err) {
  bool by_broker = err > RD_KAFKA_RESP_ERR_NO_ERROR; /* not for another record of its batch */
  return by_broker && (mb__single_may_be_other(err) || err == RD_KAFKA_RESP_ERR_POLICY_VIOLATION ||
                       err == RD_KAFKA_RESP_ERR_UNSUPPORTED_COMPRESSION_TYPE);
}

/* What fails only because the transaction is aborted says nothing of its cause. */
static bool is_consequence(rd_kafka_resp_err_t err) {
  return err == RD_KAFKA_RESP_ERR__PURGE_QUEUE || err == RD_KAFKA_RESP_ERR__PURGE_INFLIGHT ||
         err == RD_KAFKA_RESP_ERR__FATAL;
}

void mb__txn_refused(mb_bus *bus, rd_kafka_resp_err_t err, const char *topic) {
  mb_txn *txn = &bus->txn;
  if (!txn->open || is_consequence(err) || is_final(txn->refused)) return;
  if (txn->refused && !is_final(err)) return;
  txn->refused = err;
  snprintf(txn->refused_text, sizeof txn->refused_text, "%s%s%s", topic, *topic ? ": " : "",
           mb__undelivered_why(err));
}

void mb__txn_heard(mb_bus *bus, const char *text) {
  static const char before[] = "Current transaction failed in state ";
  mb_txn *txn = &bus->txn;
  const char *reason = strstr(text, before);
  if (!txn->open || txn->refused_text[0] || !reason) return;
  reason = strstr(reason, ": ");
  if (reason) snprintf(txn->refused_text, sizeof txn->refused_text, "%s", reason + 2);
}

/* It failed. An output that is refused for good is charged to the event whose handlers published
 * it; as long as several may have, transactions hold half as many. After anything else the next
 * begins later and later. */
static void blame(mb_bus *bus) {
  mb_txn *txn = &bus->txn;
  if (is_final(txn->refused) && txn->publishers > 1) {
    txn->most = txn->events > 1 ? txn->events / 2 : 1;
    txn->fine = 0;
    return;
  }
  if (is_final(txn->refused) && txn->publishers == 1 &&
      mb__flow_charge(bus, &txn->publisher, txn->refused_text))
    return;
  int64_t wait_us = mb__backoff_us(WAIT_FIRST_S, WAIT_MOST_S, 0.1, txn->aborts++, 0.5);
  txn->resume_us = mb__mono_us() + wait_us;
}

bool mb__txn_spoils(mb_bus *bus) {
  mb_txn *txn = &bus->txn;
  if (!txn->open || !txn->broken) return false;
  mb__producer_flush(bus, call_ms(bus)); /* the reports say why */
  return txn->publishers > 0 || !is_final(txn->refused);
}

static void succeed(mb_bus *bus) {
  mb_txn *txn = &bus->txn;
  txn->failing = NULL;
  txn->late = false;
  txn->aborts = 0;
  bus->reopen_s = 0;
  txn->resume_us = 0;
  /* Records that are refused because they share a batch would be refused again at once. */
  if (txn->most && ++txn->fine >= GROW_AFTER) {
    txn->fine = 0;
    txn->most *= 2;
  }
  if (txn->most >= mb__conf_int(bus->conf, MB_OPT_transaction_max_events)) txn->most = 0;
  bus->stats.transactions_committed++;
}

/* Undo on the broker. An abort soon after a commit is fatal to librdkafka before 2.1 unless
 * everything was flushed first. */
static mb_err undo(mb_bus *bus, char *errstr, size_t errstr_size) {
  if (is_overdue(bus)) bus->txn.late = true;
  mb__producer_flush(bus, call_ms(bus));
  rd_kafka_error_t *error = persist(call_abort, bus, NULL, call_ms(bus));
  bus->txn.open = false;
  return error ? give_up(bus, error, "the transaction was not aborted", errstr, errstr_size)
               : MB_OK;
}

mb_err mb__txn_abort(mb_bus *bus, char *errstr, size_t errstr_size) {
  if (!bus->txn.open) return MB_OK;
  mb__unit_end(bus, false);
  mb_err err = undo(bus, errstr, errstr_size);
  bus->txn.rewinds++;
  bus->stats.transactions_aborted++;
  mb__consumer_rewind_all(bus);
  return err;
}

static const char UNDELIVERED[] = "an event published in it was not delivered";

static void log_aborted(mb_bus *bus, const char *what, const char *why) {
  bus->txn.failing = what;
  mb__log(&bus->log, MB_LOG_WARN, "transaction aborted, its events are read again: %s%s%s", what,
          why[0] ? ": " : "", why);
}

mb_err mb__txn_spoiled(mb_bus *bus, char *errstr, size_t errstr_size) {
  log_aborted(bus, UNDELIVERED, bus->txn.refused_text);
  blame(bus);
  return mb__txn_abort(bus, errstr, errstr_size);
}

mb_err mb__txn_commit(mb_bus *bus, char *errstr, size_t errstr_size) {
  mb_txn *txn = &bus->txn;
  if (!txn->open) return MB_OK;
  const char *what = "what its handlers did elsewhere is lost";
  rd_kafka_error_t *error = NULL;
  rd_kafka_topic_partition_list_t *offsets = NULL;
  if (!mb__unit_end(bus, true)) goto failed;
  what = UNDELIVERED;
  /* Flushed first: sending the offsets is several times as slow otherwise. */
  if (mb__producer_flush(bus, call_ms(bus)) || txn->broken) goto failed;
  what = "its marks find no room";
  if (!mb__consumer_low_water(bus, &offsets)) goto failed;
  what = "its offsets were not accepted";
  if (offsets && (error = persist(call_offsets, bus, offsets, offsets_ms(bus)))) goto failed;
  what = "it was not committed";
  if ((error = persist(call_commit, bus, NULL, call_ms(bus)))) goto failed;
  txn->open = false;
  succeed(bus);
  mb__consumer_committed(bus, offsets);
  if (offsets) rd_kafka_topic_partition_list_destroy(offsets);
  return MB_OK;
failed:
  txn->failing = what;
  char why[MB_REFUSAL_MAX] = "";
  if (error)
    mb__bus_refusal(bus, rd_kafka_error_code(error), rd_kafka_error_string(error), bus->topic,
                    "Write", why, sizeof why);
  else if (mb__producer_refusal(bus))
    snprintf(why, sizeof why, "%s", mb__producer_refusal(bus));
  else
    snprintf(why, sizeof why, "%s", txn->refused_text);
  if (is_overdue(bus)) txn->late = true;
  if (mb__err_of(error ? rd_kafka_error_code(error) : 0) == MB_EAUTH)
    mb__consumer_refused(bus, rd_kafka_error_code(error), why);
  if (error && rd_kafka_error_code(error) == RD_KAFKA_RESP_ERR_OFFSET_METADATA_TOO_LARGE)
    mb__consumer_unmark(bus);
  if (offsets) rd_kafka_topic_partition_list_destroy(offsets);
  /* Whether a commit that did not return was made is for the next producer to end: it asks the
   * broker, and the offsets that count are read after that. */
  if (error && (rd_kafka_error_is_fatal(error) || mb__producer_lost(bus)))
    return give_up(bus, error, what, errstr, errstr_size);
  log_aborted(bus, what, why);
  if (error) rd_kafka_error_destroy(error);
  blame(bus);
  return mb__txn_abort(bus, errstr, errstr_size);
}

mb_err mb__txn_end_alone(mb_bus *bus, bool commit, char *errstr, size_t errstr_size) {
  if (!commit || bus->txn.broken) {
    mb_err err = undo(bus, errstr, errstr_size);
    return err || !commit ? err
                          : mb__error(MB_EDELIVERY, errstr, errstr_size,
                                      "the transaction was aborted: not all of it was delivered");
  }
  rd_kafka_error_t *error = persist(call_commit, bus, NULL, call_ms(bus));
  bus->txn.open = false;
  if (!error) return MB_OK;
  if (mb__producer_lost(bus))
    return give_up(bus, error, "whether the transaction was committed is not known", errstr,
                   errstr_size);
  if (rd_kafka_error_is_fatal(error))
    return give_up(bus, error, "the transaction was not committed", errstr, errstr_size);
  refused(bus, MB_EDELIVERY, "the transaction was not committed", error, errstr, errstr_size);
  rd_kafka_error_destroy(error);
  undo(bus, NULL, 0);
  return MB_EDELIVERY;
}
