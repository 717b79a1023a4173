/* txn.c: transactions: begun with a batch of events, committed with the offsets, or undone.
 * Must not know handlers or decide outcomes.
 * Called by bus.c and flow.c around batches, by rebalance.c at revocations, by batch.c and replay.c
 * for what is published outside handlers. */
#include "txn.h"

#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define CALL_MS 30000

const char *mb__txn_id(mb_bus *bus, char *buf, size_t size) {
  const char *id = mb__conf_str(bus->conf, MB_OPT_transactional_id);
  if (id) return id;
  const char *instance = mb__conf_str(bus->conf, MB_OPT_group_instance_id);
  if (!instance) instance = mb_config_get(bus->conf, "consumer_name");
  snprintf(buf, size, "%s/%s/%s", bus->group, bus->topic, instance);
  return buf;
}

static int call_ms(const mb_bus *bus) {
  return bus->txn.by_us ? mb__left_ms(bus->txn.by_us) : CALL_MS;
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
  return rd_kafka_init_transactions(mb__producer_handle(bus), ms);
}

static rd_kafka_error_t *call_offsets(mb_bus *bus, void *opaque, int ms) {
  rd_kafka_consumer_group_metadata_t *member = mb__consumer_member(bus);
  rd_kafka_error_t *error =
      rd_kafka_send_offsets_to_transaction(mb__producer_handle(bus), opaque, member, ms);
  rd_kafka_consumer_group_metadata_destroy(member);
  return error;
}

static rd_kafka_error_t *call_commit(mb_bus *bus, void *opaque, int ms) {
  (void)opaque;
  return rd_kafka_commit_transaction(mb__producer_handle(bus), ms);
}

static rd_kafka_error_t *call_abort(mb_bus *bus, void *opaque, int ms) {
  (void)opaque;
  return rd_kafka_abort_transaction(mb__producer_handle(bus), ms);
}

mb_err mb__txn_init(mb_bus *bus, int timeout_ms, char *errstr, size_t errstr_size) {
  rd_kafka_error_t *error = persist(call_init, bus, NULL, timeout_ms);
  if (!error) return MB_OK;
  mb_err err = mb__err_of(rd_kafka_error_code(error));
  if (err == MB_ETIMEOUT) err = MB_ECONNECT;
  if (bus->embedded)
    mb__error(MB_EUNSUPPORTED, errstr, errstr_size,
              "delivery = \"exactly_once\" needs a real broker: %s", rd_kafka_error_string(error));
  else
    mb__error(err, errstr, errstr_size, "transactions cannot be had: %s",
              rd_kafka_error_string(error));
  rd_kafka_error_destroy(error);
  return err;
}

mb_err mb__txn_begin(mb_bus *bus, char *errstr, size_t errstr_size) {
  mb_txn *txn = &bus->txn;
  if (txn->open) return MB_OK;
  rd_kafka_error_t *error = rd_kafka_begin_transaction(mb__producer_handle(bus));
  if (error) {
    mb__error(MB_EFATAL, errstr, errstr_size, "no transaction can begin: %s",
              rd_kafka_error_string(error));
    rd_kafka_error_destroy(error);
    return MB_EFATAL;
  }
  txn->open = true;
  txn->broken = false;
  txn->events = 0;
  txn->begun_us = mb__mono_us();
  return MB_OK;
}

bool mb__txn_overdue(const mb_bus *bus, int64_t now_us) {
  return now_us - bus->txn.begun_us >=
         mb__conf_int(bus->conf, MB_OPT_transaction_timeout_ms) * 1000;
}

bool mb__txn_due(const mb_bus *bus, int64_t now_us) {
  const mb_txn *txn = &bus->txn;
  if (!txn->open) return false;
  return txn->events >= mb__conf_int(bus->conf, MB_OPT_transaction_max_events) ||
         now_us - txn->begun_us >= mb__conf_int(bus->conf, MB_OPT_transaction_interval_ms) * 1000;
}

/* End with the error said. Fatal: this producer was fenced off, or its state is beyond repair. */
static mb_err give_up(rd_kafka_error_t *error, const char *what, char *errstr, size_t errstr_size) {
  mb__error(MB_EFATAL, errstr, errstr_size, "%s: %s", what, rd_kafka_error_string(error));
  rd_kafka_error_destroy(error);
  return MB_EFATAL;
}

/* Undo on the broker. An abort soon after a commit is fatal to librdkafka before 2.1 unless
 * everything was flushed first. */
static mb_err undo(mb_bus *bus, char *errstr, size_t errstr_size) {
  mb__producer_flush(bus, call_ms(bus));
  rd_kafka_error_t *error = persist(call_abort, bus, NULL, call_ms(bus));
  bus->txn.open = false;
  return error ? give_up(error, "the transaction was not aborted", errstr, errstr_size) : MB_OK;
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

mb_err mb__txn_commit(mb_bus *bus, char *errstr, size_t errstr_size) {
  mb_txn *txn = &bus->txn;
  if (!txn->open) return MB_OK;
  const char *what = "what its handlers did elsewhere is lost";
  rd_kafka_error_t *error = NULL;
  rd_kafka_topic_partition_list_t *offsets = NULL;
  if (!mb__unit_end(bus, true)) goto failed;
  what = "an event published in it was not delivered";
  /* Flushed first: sending the offsets is several times as slow otherwise. */
  if (mb__producer_flush(bus, call_ms(bus)) || txn->broken) goto failed;
  what = "its marks find no room";
  if (!mb__consumer_low_water(bus, &offsets)) goto failed;
  what = "its offsets were not accepted";
  if (offsets && (error = persist(call_offsets, bus, offsets, call_ms(bus)))) goto failed;
  what = "it was not committed";
  if ((error = persist(call_commit, bus, NULL, call_ms(bus)))) goto failed;
  txn->open = false;
  txn->failing = NULL;
  bus->stats.transactions_committed++;
  mb__consumer_committed(bus, offsets);
  if (offsets) rd_kafka_topic_partition_list_destroy(offsets);
  return MB_OK;
failed:
  txn->failing = what;
  if (error && rd_kafka_error_code(error) == RD_KAFKA_RESP_ERR_OFFSET_METADATA_TOO_LARGE)
    mb__consumer_unmark(bus);
  if (offsets) rd_kafka_topic_partition_list_destroy(offsets);
  if (error && rd_kafka_error_is_fatal(error)) return give_up(error, what, errstr, errstr_size);
  mb__log(&bus->log, MB_LOG_WARN, "transaction aborted, its events are read again: %s%s%s", what,
          error ? ": " : "", error ? rd_kafka_error_string(error) : "");
  if (error) rd_kafka_error_destroy(error);
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
  if (rd_kafka_error_is_fatal(error))
    return give_up(error, "the transaction was not committed", errstr, errstr_size);
  mb__error(MB_EDELIVERY, errstr, errstr_size, "the transaction was not committed: %s",
            rd_kafka_error_string(error));
  rd_kafka_error_destroy(error);
  undo(bus, NULL, 0);
  return MB_EDELIVERY;
}
