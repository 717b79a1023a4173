/* producer.c: enqueues records, serves delivery reports, flushes; says what a full queue means.
 * Must not know what an event means, handlers or Lua.
 * Called by batch.c (publish), dlq.c (dead letters), replay.c, bus.c and txn.c. */
#include "producer.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define TOPICS_MAX 4

struct mb_producer {
  rd_kafka_t *rk;
  rd_kafka_queue_t *queue;
  /* Handles are kept: without one the first record to a topic waits for metadata for up to 1 s
   * (librdkafka before 2.10.1). */
  rd_kafka_topic_t *topics[TOPICS_MAX];
  int topic_count;
  rd_kafka_resp_err_t trouble; /* the last error librdkafka told of, 0 = none */
  char trouble_text[256];
  int64_t down_us;             /* since when no broker can be reached; 0 = one can */
  size_t failed;               /* reports of failure since open */
  rd_kafka_resp_err_t refused; /* why the last send did not queue its record */
};

mb_err mb__err_of(rd_kafka_resp_err_t err) {
  switch (err) {
  case RD_KAFKA_RESP_ERR_NO_ERROR: return MB_OK;
  case RD_KAFKA_RESP_ERR__QUEUE_FULL: return MB_EFULL;
  case RD_KAFKA_RESP_ERR__TIMED_OUT:
  case RD_KAFKA_RESP_ERR__MSG_TIMED_OUT:
  case RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT: return MB_ETIMEOUT;
  case RD_KAFKA_RESP_ERR__TRANSPORT:
  case RD_KAFKA_RESP_ERR__RESOLVE:
  case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN: return MB_ECONNECT;
  case RD_KAFKA_RESP_ERR__AUTHENTICATION:
  case RD_KAFKA_RESP_ERR__SSL:
  case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
  case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
  case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
  case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED: return MB_EAUTH;
  case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
  case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
  case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
  case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION: return MB_ETOPIC;
  case RD_KAFKA_RESP_ERR__FATAL: return MB_EFATAL;
  case RD_KAFKA_RESP_ERR__INVALID_ARG: return MB_EINVAL;
  case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE: return MB_EDELIVERY;
  default: return MB_EKAFKA;
  }
}

const char *mb__undelivered_why(rd_kafka_resp_err_t err) {
  if (err == RD_KAFKA_RESP_ERR__MSG_TIMED_OUT)
    return "Local: Message timed out; it may have reached the broker all the same";
  if (err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE)
    return "Message size too large; message_max_bytes, and the topic's max.message.bytes, say what "
           "may be sent";
  return rd_kafka_err2str(err);
}

/* A background event has no delivery: its headers say which it was. */
static void background_failed(mb_bus *bus, const rd_kafka_message_t *record) {
  rd_kafka_headers_t *headers = NULL;
  const void *type = "?", *id = "?";
  size_t type_len = 1, id_len = 1;
  if (!rd_kafka_message_headers(record, &headers)) {
    rd_kafka_header_get_last(headers, "event_type", &type, &type_len);
    rd_kafka_header_get_last(headers, "event_id", &id, &id_len);
  }
  const char *reason = mb__undelivered_why(record->err);
  mb__log(&bus->log, MB_LOG_ERROR, "event %.*s %.*s was not delivered: %s", (int)type_len,
          (const char *)type, (int)id_len, (const char *)id, reason);
  if (!bus->on_publish_error) return;
  bool inner = bus->in_callback;
  bus->in_callback = true;
  bus->on_publish_error(mb__err_of(record->err), reason, (mb_bytes){type, type_len},
                        (mb_bytes){id, id_len}, bus->on_publish_error_opaque);
  bus->in_callback = inner;
}

static void on_report(rd_kafka_t *rk, const rd_kafka_message_t *record, void *opaque) {
  mb_bus *bus = opaque;
  mb_delivery *delivery = record->_private;
  (void)rk;
  if (record->err) {
    bus->producer->failed++;
    bus->txn.broken = true;
  }
  if (delivery) {
    delivery->done(bus, delivery, record);
    return;
  }
  if (!record->err) {
    bus->stats.events_published++;
    return;
  }
  bus->stats.publish_errors++;
  bus->stats.last_error_at_us = mb__now_us();
  background_failed(bus, record);
}

static void on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque) {
  mb_bus *bus = opaque;
  mb_producer *producer = bus->producer;
  (void)rk;
  if (!producer) return;
  if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN && !producer->down_us)
    producer->down_us = mb__mono_us();
  bool repeated = producer->trouble == (rd_kafka_resp_err_t)code;
  /* A refused credential says more than the lost connections that follow from it. */
  if (mb__err_of(producer->trouble) != MB_EAUTH) {
    producer->trouble = (rd_kafka_resp_err_t)code;
    snprintf(producer->trouble_text, sizeof producer->trouble_text, "%s", reason);
  }
  if (!repeated)
    mb__log(&bus->log, bus->connected ? MB_LOG_WARN : MB_LOG_DEBUG, "producer: %s", reason);
}

mb_err mb__producer_open(mb_bus *bus, char *errstr, size_t errstr_size) {
  if (bus->producer) return MB_OK;
  rd_kafka_conf_t *conf = mb__config_producer(bus->conf, errstr, errstr_size);
  if (!conf) return MB_ECONFIG;
  if (bus->txn.on) {
    char id[512], timeout[24];
    int64_t timeout_ms = mb__conf_int(bus->conf, MB_OPT_transaction_timeout_ms);
    snprintf(timeout, sizeof timeout, "%lld", (long long)timeout_ms);
    rd_kafka_conf_set(conf, "transactional.id", mb__txn_id(bus, id, sizeof id), NULL, 0);
    rd_kafka_conf_set(conf, "transaction.timeout.ms", timeout, NULL, 0);
    /* Nothing can be delivered in a transaction that is no more. */
    if (mb__conf_int(bus->conf, MB_OPT_delivery_timeout_ms) > timeout_ms)
      rd_kafka_conf_set(conf, "message.timeout.ms", timeout, NULL, 0);
  }
  rd_kafka_conf_set_opaque(conf, bus);
  rd_kafka_conf_set_dr_msg_cb(conf, on_report);
  rd_kafka_conf_set_error_cb(conf, on_error);
  rd_kafka_conf_set_log_cb(conf, mb__rdkafka_log);
  if (bus->embedded)
    rd_kafka_conf_set(conf, "bootstrap.servers", mb_broker_address(bus->embedded), NULL, 0);
  mb_producer *producer = calloc(1, sizeof *producer);
  char text[512];
  rd_kafka_t *rk = producer ? rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text) : NULL;
  if (!rk) {
    rd_kafka_conf_destroy(conf);
    if (!producer) return mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
    free(producer);
    return mb__config_refused(bus->conf, "producer", text, errstr, errstr_size);
  }
  rd_kafka_set_log_queue(rk, NULL);
  producer->rk = rk;
  producer->queue = rd_kafka_queue_get_main(rk);
  static const uint64_t one = 1;
  rd_kafka_queue_io_event_enable(producer->queue, bus->wake_fd, &one, sizeof one);
  bus->producer = producer;
  return MB_OK;
}

rd_kafka_t *mb__producer_handle(const mb_bus *bus) {
  return bus->producer ? bus->producer->rk : NULL;
}

static rd_kafka_topic_t *topic_of(mb_producer *producer, const char *name) {
  for (int i = 0; i < producer->topic_count; i++)
    if (strcmp(rd_kafka_topic_name(producer->topics[i]), name) == 0) return producer->topics[i];
  rd_kafka_topic_t *topic = rd_kafka_topic_new(producer->rk, name, NULL);
  if (!topic) return NULL;
  if (producer->topic_count == TOPICS_MAX)
    rd_kafka_topic_destroy(producer->topics[--producer->topic_count]);
  producer->topics[producer->topic_count++] = topic;
  return topic;
}

/* One look at the topic's metadata: MB_OK, MB_ETOPIC (not there, perhaps not yet) or MB_ECONNECT.
 */
static mb_err look(mb_producer *producer, const char *name, int timeout_ms) {
  const struct rd_kafka_metadata *metadata = NULL;
  rd_kafka_topic_t *topic = topic_of(producer, name);
  if (!topic) return MB_ETOPIC;
  rd_kafka_resp_err_t err = rd_kafka_metadata(producer->rk, 0, topic, &metadata, timeout_ms);
  if (err) return MB_ECONNECT;
  mb_err found = MB_ETOPIC;
  if (metadata->topic_cnt == 1 && metadata->topics[0].partition_cnt > 0)
    found = MB_OK;
  else if (metadata->topic_cnt == 1 && metadata->topics[0].err)
    producer->trouble = metadata->topics[0].err;
  rd_kafka_metadata_destroy(metadata);
  return found;
}

/* The host wants an end: nobody waits for this connection any more. */
static bool interrupted(const mb_bus *bus) {
  struct pollfd fd = {.fd = bus->interrupt_fd, .events = POLLIN};
  return fd.fd >= 0 && poll(&fd, 1, 0) > 0;
}

mb_err mb__producer_check(mb_bus *bus, int timeout_ms, char *errstr, size_t errstr_size) {
  mb_producer *producer = bus->producer;
  int64_t end = mb__mono_us() + (int64_t)timeout_ms * 1000;
  /* A topic the broker is just creating appears within a moment; one that it will not create never.
   */
  int64_t topic_end = 0;
  for (;;) {
    int64_t now = mb__mono_us();
    int64_t left_ms = (end - now) / 1000;
    mb_err err = look(producer, bus->topic, (int)(left_ms < 1 ? 1 : left_ms < 500 ? left_ms : 500));
    rd_kafka_poll(producer->rk, err ? 50 : 0);
    if (!err) return MB_OK;
    if (interrupted(bus))
      return mb__error(MB_ECONNECT, errstr, errstr_size,
                       "interrupted before a broker answered at %s",
                       mb_config_get(bus->conf, "bootstrap_servers"));
    if (mb__err_of(producer->trouble) == MB_EAUTH)
      return mb__error(MB_EAUTH, errstr, errstr_size,
                       "%s refused this client: %s; check security_protocol, the sasl_ and ssl_ "
                       "options and the user's permissions",
                       mb_config_get(bus->conf, "bootstrap_servers"),
                       producer->trouble_text[0] ? producer->trouble_text
                                                 : rd_kafka_err2str(producer->trouble));
    now = mb__mono_us();
    if (err == MB_ETOPIC && !topic_end) topic_end = now + MB_TOPIC_WAIT_US;
    if (err == MB_ETOPIC && (now > topic_end || now > end))
      return mb__error(MB_ETOPIC, errstr, errstr_size,
                       "topic \"%s\" does not exist and the broker did not create it; create it "
                       "with: moonbus topics create %s --partitions 4",
                       bus->topic, bus->topic);
    if (err == MB_ECONNECT && now > end)
      return mb__error(
          MB_ECONNECT, errstr, errstr_size,
          "no broker answers at %s%s%s; is it running, and is bootstrap_servers right?",
          mb_config_get(bus->conf, "bootstrap_servers"), producer->trouble_text[0] ? ": " : "",
          producer->trouble_text);
  }
}

int mb__producer_poll(mb_bus *bus) {
  mb_producer *producer = bus->producer;
  if (!producer) return 0;
  if (producer->down_us && mb__link_is_up(producer->rk)) {
    producer->down_us = 0;
    producer->trouble = RD_KAFKA_RESP_ERR_NO_ERROR; /* so that the next time it is told again */
  }
  return rd_kafka_poll(producer->rk, 0);
}

int64_t mb__producer_down_us(const mb_bus *bus) {
  return bus->producer ? bus->producer->down_us : 0;
}

bool mb__producer_fatal(const mb_bus *bus, char *text, size_t size) {
  return bus->producer && rd_kafka_fatal_error(bus->producer->rk, text, size);
}

bool mb__producer_fenced(const mb_bus *bus) {
  rd_kafka_resp_err_t code =
      bus->producer ? rd_kafka_fatal_error(bus->producer->rk, NULL, 0) : RD_KAFKA_RESP_ERR_NO_ERROR;
  return code == RD_KAFKA_RESP_ERR__FENCED || code == RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH ||
         code == RD_KAFKA_RESP_ERR_PRODUCER_FENCED;
}

rd_kafka_resp_err_t mb__producer_refused(const mb_bus *bus) {
  return bus->producer->refused;
}

size_t mb__producer_queued(const mb_bus *bus) {
  return bus->producer ? (size_t)rd_kafka_outq_len(bus->producer->rk) : 0;
}

mb_err mb__producer_flush(mb_bus *bus, int timeout_ms) {
  if (!bus->producer) return MB_OK;
  return rd_kafka_flush(bus->producer->rk, timeout_ms) ? MB_ETIMEOUT : MB_OK;
}

size_t mb__producer_close(mb_bus *bus, int timeout_ms) {
  mb_producer *producer = bus->producer;
  if (!producer) return 0;
  size_t before = producer->failed;
  if (rd_kafka_flush(producer->rk, timeout_ms)) {
    /* Reports of failure still come for what is purged, so that every event is accounted for. */
    rd_kafka_purge(producer->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
    rd_kafka_flush(producer->rk, 1000);
  }
  size_t failed = producer->failed - before;
  rd_kafka_queue_io_event_enable(producer->queue, -1, NULL, 0);
  rd_kafka_queue_destroy(producer->queue);
  while (producer->topic_count) rd_kafka_topic_destroy(producer->topics[--producer->topic_count]);
  rd_kafka_destroy(producer->rk);
  free(producer);
  bus->producer = NULL;
  bus->txn.open = false; /* it ends with its producer */
  return failed;
}

mb_err mb__producer_send(mb_bus *bus, const char *topic, mb_bytes key, mb_bytes value,
                         rd_kafka_headers_t *headers, mb_delivery *delivery, int timeout_ms,
                         char *errstr, size_t errstr_size) {
  return mb__producer_send_at(bus, topic, key, value, headers, delivery, 0, timeout_ms, errstr,
                              errstr_size);
}

mb_err mb__producer_send_at(mb_bus *bus, const char *topic, mb_bytes key, mb_bytes value,
                            rd_kafka_headers_t *headers, mb_delivery *delivery, int64_t at_ms,
                            int timeout_ms, char *errstr, size_t errstr_size) {
  mb_producer *producer = bus->producer;
  if (!producer) return mb__error(MB_ESTATE, errstr, errstr_size, "the bus is not connected");
  rd_kafka_topic_t *handle = topic_of(producer, topic);
  if (!handle) {
    producer->refused = RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION;
    return mb__error(MB_ETOPIC, errstr, errstr_size, "\"%s\" is not a topic name", topic);
  }
  int64_t end = 0; /* of the waiting, once it has begun */
  for (;;) {
    rd_kafka_vu_t vu[7];
    size_t n = 0;
    vu[n++] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_RKT, .u.rkt = handle};
    vu[n++] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_KEY,
                              .u.mem = {(void *)(uintptr_t)key.data, key.len}};
    vu[n++] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_VALUE,
                              .u.mem = {(void *)(uintptr_t)value.data, value.len}};
    vu[n++] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY};
    if (headers) vu[n++] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = headers};
    if (at_ms) vu[n++] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_TIMESTAMP, .u.i64 = at_ms};
    vu[n++] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_OPAQUE, .u.ptr = delivery};
    rd_kafka_error_t *error = rd_kafka_produceva(producer->rk, vu, n);
    if (!error) {
      bus->txn.sent++;
      return MB_OK;
    }
    rd_kafka_resp_err_t code = producer->refused = rd_kafka_error_code(error);
    if (code != RD_KAFKA_RESP_ERR__QUEUE_FULL) {
      mb_err err = mb__err_of(code);
      mb__error(err, errstr, errstr_size, "%s", rd_kafka_error_string(error));
      rd_kafka_error_destroy(error);
      return err;
    }
    rd_kafka_error_destroy(error);
    int64_t now = mb__mono_us();
    if (!end) end = now + (int64_t)timeout_ms * 1000;
    if (now >= end)
      return mb__error(MB_EFULL, errstr, errstr_size,
                       "the producer queue is full (%d records); flush, publish more slowly, or "
                       "raise producer_queue_max_events or producer_queue_max_kbytes",
                       rd_kafka_outq_len(producer->rk));
    rd_kafka_poll(producer->rk, 10);
  }
}
