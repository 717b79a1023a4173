/* bus/publish.c: a publish() call: its events encoded one after the other, then all sent, and
 * waited for. Must not know what an event means, handlers or Lua. Called through moonbus.h by users,
 * and by lua/publish.c. */
#include <stdlib.h>
#include <string.h>

#include "bus/internal.h"
#include "bus/publish.h"
#include "kafka/producer.h"
#include "kafka/single.h"

typedef struct mb_item {
  mb_delivery delivery; /* first: a report's delivery is its item */
  size_t at, value_len; /* its value, in the batch's text, and behind that its headers */
  size_t header_count;
  rd_kafka_resp_err_t err;
  int32_t partition;
  int64_t offset;
} mb_item;

/* Of its headers, which are in wire order. */
enum { HEADER_EVENT_ID, HEADER_EVENT_TYPE, HEADER_AGGREGATE_ID };

/* librdkafka's copies are made one event at a time, when it is sent: they are many small pieces,
 * and those of a whole batch would not stay in the processor's cache. */
struct mb_batch {
  mb_bus *bus;
  mb_item *items;
  size_t count, cap;
  size_t pending;
  rd_kafka_resp_err_t refused; /* why the last event was not queued */
  mb_buf text;
};

/* Of a header: it stands in the text before the value. */
typedef struct mb_label {
  mb_bytes name; /* a literal's */
  size_t len;
} mb_label;

mb_batch *mb__batch_new(mb_bus *bus, size_t expected) {
  mb_batch *batch = calloc(1, sizeof *batch);
  if (!batch) return NULL;
  batch->bus = bus;
  batch->cap = expected ? expected : 1;
  batch->text.ceiling = SIZE_MAX / 4; /* what a batch may take is for its maker to know */
  batch->items = calloc(batch->cap, sizeof *batch->items);
  if (batch->items) return batch;
  free(batch);
  return NULL;
}

void mb__batch_free(mb_batch *batch) {
  if (!batch) return;
  mb__buf_free(&batch->text);
  free(batch->items);
  free(batch);
}

/* Room for an event of that length; with the first, for all that are expected. */
static bool reserve(mb_batch *batch, size_t len) {
  size_t room = len + len / 8, events = batch->count ? 1 : batch->cap;
  if (events > SIZE_MAX / 8 / (room + 1)) events = 1;
  return mb__buf_reserve(&batch->text, events * room) != NULL;
}

mb_err mb__batch_add(mb_batch *batch, const mb_encoder *encoder) {
  if (batch->count == batch->cap) {
    mb_item *grown = realloc(batch->items, batch->cap * 2 * sizeof *grown);
    if (!grown) return MB_ENOMEM;
    batch->items = grown;
    batch->cap *= 2;
  }
  mb_item *item = &batch->items[batch->count];
  mb_buf *text = &batch->text;
  size_t len = encoder->value.len;
  for (size_t i = 0; i < encoder->header_count; i++)
    len += sizeof(mb_label) + encoder->headers[i].value.len;
  if (!reserve(batch, len)) return MB_ENOMEM;
  *item = (mb_item){.partition = -1,
                    .offset = -1,
                    .at = text->len,
                    .value_len = encoder->value.len,
                    .header_count = encoder->header_count};
  char *to = text->data + text->len; /* there is room for all of it */
  memcpy(to, encoder->value.data, encoder->value.len);
  to += encoder->value.len;
  for (size_t i = 0; i < encoder->header_count; i++) {
    const mb_header *header = &encoder->headers[i];
    mb_label label = {header->name, header->value.len};
    memcpy(to, &label, sizeof label);
    memcpy(to + sizeof label, header->value.data, label.len);
    to += sizeof label + label.len;
  }
  text->len += len;
  batch->count++;
  return MB_OK;
}

/* The header at *at, which goes to the next. */
static mb_header next_header(const char **at) {
  mb_label label;
  memcpy(&label, *at, sizeof label);
  mb_header header = {label.name, {*at + sizeof label, label.len}};
  *at += sizeof label + label.len;
  return header;
}

static mb_bytes header_at(const mb_batch *batch, const mb_item *item, size_t n) {
  const char *at = batch->text.data + item->at + item->value_len;
  while (n--) next_header(&at);
  return next_header(&at).value;
}

static rd_kafka_headers_t *headers_of(const mb_batch *batch, const mb_item *item) {
  rd_kafka_headers_t *headers = rd_kafka_headers_new(item->header_count);
  const char *at = batch->text.data + item->at + item->value_len;
  for (size_t i = 0; headers && i < item->header_count; i++) {
    mb_header header = next_header(&at);
    if (!rd_kafka_header_add(headers, header.name.data, (ssize_t)header.name.len, header.value.data,
                             (ssize_t)header.value.len))
      continue;
    rd_kafka_headers_destroy(headers);
    headers = NULL;
  }
  return headers;
}

static void on_item(mb_delivery *delivery, const rd_kafka_message_t *record) {
  mb_item *item = (mb_item *)delivery;
  mb_batch *batch = delivery->opaque;
  batch->pending--;
  item->err = record->err;
  if (record->err) return;
  item->partition = record->partition;
  item->offset = record->offset;
}

static mb_err send_item(mb_batch *batch, const mb_item *item, mb_delivery *delivery, char *errstr,
                        size_t errstr_size) {
  int wait_ms = (int)mb__conf_int(batch->bus->ctx.conf, MB_OPT_queue_full_timeout_ms);
  mb_bytes value = {batch->text.data + item->at, item->value_len};
  rd_kafka_headers_t *headers = headers_of(batch, item);
  if (!headers) {
    batch->refused = RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE;
    return mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
  }
  mb_bytes key = header_at(batch, item, HEADER_AGGREGATE_ID);
  mb_err err = mb__producer_send(&batch->bus->ctx, batch->bus->ctx.topic, key, value, headers,
                                 delivery, wait_ms, errstr, errstr_size);
  if (!err) return MB_OK;
  rd_kafka_headers_destroy(headers);
  batch->refused = mb__producer_refused(&batch->bus->ctx);
  return err;
}

/* Of what is thrown away because the producer can do no more, the cause of that. */
static const char *undelivered_why(const mb_batch *batch, rd_kafka_resp_err_t err) {
  char text[8];
  const char *refusal = mb__producer_refusal(&batch->bus->ctx);
  return refusal && mb__producer_fatal(&batch->bus->ctx, text, sizeof text)
             ? refusal
             : mb__refusal_undelivered(err);
}

static mb_err summarize(mb_batch *batch, mb_receipt *receipts, char *errstr, size_t errstr_size) {
  size_t failed = 0;
  const mb_item *first = NULL;
  for (size_t i = 0; i < batch->count; i++) {
    mb_item *item = &batch->items[i];
    /* Without an acknowledgement there is no offset. */
    int64_t offset = item->offset < 0 ? -1 : item->offset;
    if (receipts) receipts[i] = (mb_receipt){mb__err_of(item->err), item->partition, offset};
    if (!item->err) continue;
    failed++;
    /* What a transaction threw away says less than why. */
    if (!first || (first->err == RD_KAFKA_RESP_ERR__PURGE_QUEUE && item->err != first->err))
      first = item;
  }
  mb_stats *stats = &batch->bus->ctx.stats;
  stats->events_published += batch->count - failed;
  if (batch->count > failed) stats->last_publish_at_us = mb__now_us();
  if (!failed) return MB_OK;
  stats->publish_errors += failed;
  stats->last_error_at_us = mb__now_us();
  mb_err err = first->err == RD_KAFKA_RESP_ERR__QUEUE_FULL ? MB_EFULL : MB_EDELIVERY;
  mb_bytes type = header_at(batch, first, HEADER_EVENT_TYPE);
  mb_bytes id = header_at(batch, first, HEADER_EVENT_ID);
  mb_bytes key = header_at(batch, first, HEADER_AGGREGATE_ID);
  char text[MB_ERRSTR_MAX];
  mb__text(text, sizeof text,
           "%zu of %zu events not delivered to %s, the first %.*s %.*s (aggregate %.*s): %s",
           failed, batch->count, batch->bus->ctx.topic, (int)type.len, type.data, (int)id.len,
           id.data, (int)key.len, key.data, undelivered_why(batch, first->err));
  mb__log(&batch->bus->ctx.log, MB_LOG_ERROR, "publish: %s", text);
  return mb__error(err, errstr, errstr_size, "%s", text);
}

static mb_err publish_background(mb_batch *batch, size_t *queued, char *errstr, size_t errstr_size);

/* Inside a handler of an exactly-once bus there is nothing to wait for: the events are delivered
 * when the transaction commits, or the event in hand is handled again. */
static mb_err publish_within(mb_batch *batch, mb_receipt *receipts, char *errstr,
                             size_t errstr_size) {
  size_t queued;
  mb_err err = publish_background(batch, &queued, errstr, errstr_size);
  for (size_t i = 0; receipts && i < batch->count; i++)
    receipts[i] = (mb_receipt){i < queued ? MB_OK : err, -1, -1};
  return err;
}

static void send_all(mb_batch *batch);

/* In one transaction; singly: its events went one at a time. */
static mb_err send_in_transaction(mb_batch *batch, bool *singly, char *errstr, size_t errstr_size) {
  for (size_t i = 0; i < batch->count; i++) batch->items[i].err = RD_KAFKA_RESP_ERR_NO_ERROR;
  mb_err err = mb__txn_begin(&batch->bus->group, errstr, errstr_size);
  *singly = mb__producer_singly(&batch->bus->ctx);
  if (!err) send_all(batch);
  return err;
}

/* Whether events failed that the broker may take: one was refused for what is wrong with another of
 * its batch; or the transaction fell to the gap in the sequence numbers that librdkafka leaves
 * behind a refusal, and closes when that is aborted. */
static bool may_succeed(const mb_batch *batch, bool singly) {
  bool failed = false, refused = false;
  for (size_t i = 0; i < batch->count; i++) {
    failed |= batch->items[i].err != RD_KAFKA_RESP_ERR_NO_ERROR;
    refused |= mb__single_may_be_other(batch->items[i].err);
  }
  if (refused) return !singly && batch->count > 1;
  return failed && singly;
}

/* Outside handlers a publish call is a transaction of its own. */
static mb_err publish_alone(mb_batch *batch, mb_receipt *receipts, char *errstr,
                            size_t errstr_size) {
  mb_bus *bus = batch->bus;
  bool singly;
  mb_err err = mb__txn_commit(&bus->group, errstr, errstr_size);
  if (!err) err = send_in_transaction(batch, &singly, errstr, errstr_size);
  for (int again = 0; !err && again < 2 && may_succeed(batch, singly); again++) {
    err = mb__txn_end_alone(&bus->group, false, errstr, errstr_size);
    if (!err) err = send_in_transaction(batch, &singly, errstr, errstr_size);
  }
  if (err) return err;
  err = summarize(batch, receipts, errstr, errstr_size);
  mb_err ended = mb__txn_end_alone(&bus->group, !err, errstr, errstr_size);
  return err ? err : ended;
}

static mb_err publish(mb_batch *batch, mb_receipt *receipts, char *errstr, size_t errstr_size) {
  if (batch->bus->ctx.transaction.on && batch->bus->deliver.in_handler)
    return publish_within(batch, receipts, errstr, errstr_size);
  if (batch->bus->ctx.transaction.on) return publish_alone(batch, receipts, errstr, errstr_size);
  send_all(batch);
  return summarize(batch, receipts, errstr, errstr_size);
}

/* Hand everything over and wait for every report. */
static void send_all(mb_batch *batch) {
  for (size_t i = 0; i < batch->count; i++) {
    mb_item *item = &batch->items[i];
    item->delivery.done = on_item;
    item->delivery.opaque = batch;
    mb_err err = send_item(batch, item, &item->delivery, NULL, 0);
    if (!err) {
      batch->pending++;
      continue;
    }
    /* The rest is not tried: order per aggregate would break. */
    for (size_t k = i; k < batch->count; k++) batch->items[k].err = batch->refused;
    break;
  }
  /* message.timeout.ms bounds this: every record gets its report. */
  while (batch->pending) {
    if (mb__producer_flush(&batch->bus->ctx, 1000) && mb__producer_lost(&batch->bus->ctx))
      rd_kafka_poll(mb__producer_handle(&batch->bus->ctx), 1000);
    mb__producer_poll(&batch->bus->ctx);
  }
}

static mb_err publish_background(mb_batch *batch, size_t *queued, char *errstr,
                                 size_t errstr_size) {
  mb_err err = MB_OK;
  size_t i;
  if (batch->bus->ctx.transaction.on && !batch->bus->deliver.in_handler) {
    err = publish_alone(batch, NULL, errstr, errstr_size);
    if (queued) *queued = err ? 0 : batch->count;
    return err;
  }
  for (i = 0; i < batch->count && !err; i++)
    err = send_item(batch, &batch->items[i], NULL, errstr, errstr_size);
  if (err) i--;
  if (queued) *queued = i;
  if (i) batch->bus->ctx.stats.last_publish_at_us = mb__now_us();
  if (err) {
    batch->bus->ctx.stats.publish_errors += batch->count - i;
    batch->bus->ctx.stats.last_error_at_us = mb__now_us();
  }
  return err;
}

static void measure(mb_batch *batch, int64_t begin) {
  mb_metrics *metrics = batch->bus->deliver.metrics;
  mb__histogram_add(&metrics->of[MB_PUBLISH_DURATION], mb__mono_us() - begin);
  mb__histogram_add(&metrics->of[MB_BATCH_SIZE], (int64_t)batch->count);
}

mb_err mb__batch_publish(mb_batch *batch, mb_receipt *receipts, char *errstr, size_t errstr_size) {
  int64_t begin = batch->bus->deliver.metrics ? mb__mono_us() : 0;
  mb_err err = publish(batch, receipts, errstr, errstr_size);
  if (!err && batch->bus->deliver.metrics) measure(batch, begin);
  return err;
}

mb_err mb__batch_publish_background(mb_batch *batch, size_t *queued, char *errstr,
                                    size_t errstr_size) {
  int64_t begin = batch->bus->deliver.metrics ? mb__mono_us() : 0;
  mb_err err = publish_background(batch, queued, errstr, errstr_size);
  if (!err && batch->bus->deliver.metrics) measure(batch, begin);
  return err;
}

const char *mb__batch_reason(const mb_batch *batch, size_t i) {
  return batch->items[i].err ? mb__refusal_undelivered(batch->items[i].err) : NULL;
}

mb_bytes mb__batch_event_id(const mb_batch *batch, size_t i) {
  return header_at(batch, &batch->items[i], HEADER_EVENT_ID);
}

/* ---- the public calls ---- */

static mb_err encode_all(mb_bus *bus, mb_batch *batch, const mb_event *events, size_t count,
                         char *errstr, size_t errstr_size) {
  mb_trace carried, trace;
  mb__trace_read(bus->deliver.tracing ? mb__in_hand : NULL, &carried);
  for (size_t i = 0; i < count; i++) {
    mb_trace given = {events[i].traceparent, events[i].tracestate, events[i].baggage};
    mb_err err =
        mb__trace_choose(bus->deliver.tracing, &given, &carried, &trace, errstr, errstr_size);
    if (!err) err = mb__encode(&events[i], &bus->encoder, errstr, errstr_size);
    if (!err) mb__trace_write(&bus->encoder, &trace);
    if (!err && mb__batch_add(batch, &bus->encoder))
      err = mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
    if (err) return err;
  }
  return MB_OK;
}

static mb_err publish_events(mb_bus *bus, const mb_event *events, size_t count, bool background,
                             mb_receipt *receipts, size_t *queued, char *errstr,
                             size_t errstr_size) {
  if (!bus->ctx.connected)
    return mb__error(MB_ESTATE, errstr, errstr_size,
                     "the bus is not connected; call connect first");
  if (bus->ctx.in_callback)
    return mb__error(MB_ESTATE, errstr, errstr_size, "a callback cannot publish");
  if (!count) return MB_OK;
  if (!events)
    return mb__error(MB_EINVAL, errstr, errstr_size, "publish: expected %zu events, got NULL",
                     count);
  mb_batch *batch = mb__batch_new(bus, count);
  if (!batch) return mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
  mb_err err = encode_all(bus, batch, events, count, errstr, errstr_size);
  if (!err && background)
    err = mb__batch_publish_background(batch, queued, errstr, errstr_size);
  else if (!err)
    err = mb__batch_publish(batch, receipts, errstr, errstr_size);
  mb__batch_free(batch);
  return err;
}

mb_err mb_bus_publish(mb_bus *bus, const mb_event *events, size_t count, mb_receipt *receipts,
                      char *errstr, size_t errstr_size) {
  return publish_events(bus, events, count, false, receipts, NULL, errstr, errstr_size);
}

mb_err mb_bus_publish_background(mb_bus *bus, const mb_event *events, size_t count, size_t *queued,
                                 char *errstr, size_t errstr_size) {
  if (queued) *queued = 0;
  return publish_events(bus, events, count, true, NULL, queued, errstr, errstr_size);
}

mb_err mb_bus_flush(mb_bus *bus, int timeout_ms, char *errstr, size_t errstr_size) {
  if (!mb__producer_flush(&bus->ctx, timeout_ms)) return MB_OK;
  return mb__error(MB_ETIMEOUT, errstr, errstr_size, "%zu events are still on their way",
                   mb__producer_queued(&bus->ctx));
}
