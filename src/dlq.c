/* dlq.c: dead letters: written with everything needed to put them back, counted, replayed.
 * Must not decide which event is dead (settle.c) nor know handlers or Lua.
 * Called by bus.c, and through moonbus.h by users. */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define ERROR_MESSAGE_CHARS 1000
#define REPLAY_READ_MS      10000
#define COUNT_READ_MS       60000
#define HISTORY_READ_MS     60000

mb_err mb__dlq_check(mb_bus *bus, char *errstr, size_t errstr_size) {
  int count;
  mb_err err = mb_bus_topic_partitions(bus, bus->dlq_topic, &count, errstr, errstr_size);
  if (err != MB_ETOPIC) return err;
  return mb__error(MB_ETOPIC, errstr, errstr_size,
                   "the dead letter topic \"%s\" does not exist and the broker did not create "
                   "it; create it with: moonbus topics create %s, or set enable_dlq to false",
                   bus->dlq_topic, bus->dlq_topic);
}

/* ---- headers ---- */

static bool add(rd_kafka_headers_t *headers, const char *name, const char *value, size_t len) {
  return rd_kafka_header_add(headers, name, -1, value, (ssize_t)len) == 0;
}

static bool add_text(rd_kafka_headers_t *headers, const char *name, const char *value) {
  return add(headers, name, value, strlen(value));
}

static bool add_int(rd_kafka_headers_t *headers, const char *name, int64_t value) {
  char text[24];
  return add(headers, name, text, (size_t)snprintf(text, sizeof text, "%lld", (long long)value));
}

/* The first so many characters, never half of one; not more than the text has. */
static size_t first_chars(const char *text, size_t chars) {
  size_t len = 0;
  while (text[len] && (chars || ((unsigned char)text[len] & 0xC0) == 0x80)) {
    if (((unsigned char)text[len] & 0xC0) != 0x80) chars--;
    len++;
  }
  return len;
}

/* A copy of a record's headers, without those the filter drops. NULL when out of memory. */
static rd_kafka_headers_t *copy_headers(const rd_kafka_message_t *record,
                                        bool (*drop)(const char *name)) {
  rd_kafka_headers_t *from = NULL, *to = rd_kafka_headers_new(24);
  const char *name;
  const void *value;
  size_t len;
  if (!to || rd_kafka_message_headers(record, &from)) return to;
  for (size_t i = 0; !rd_kafka_header_get_all(from, i, &name, &value, &len); i++) {
    if (drop && drop(name)) continue;
    /* A null header value stays null: length -1 would measure it. */
    if (rd_kafka_header_add(to, name, -1, value, value ? (ssize_t)len : 0)) {
      rd_kafka_headers_destroy(to);
      return NULL;
    }
  }
  return to;
}

/* An error text may hold any bytes; a header that is not UTF-8 breaks readers of whole lists. */
static mb_bytes clean_text(const char *text, char *out, size_t size) {
  snprintf(out, size, "%s", text);
  char *at = out, *end = out + strlen(out), *bad;
  while ((bad = (char *)(uintptr_t)mb__utf8_bad(at, end))) {
    *bad = '?';
    at = bad + 1;
  }
  return (mb_bytes){out, first_chars(out, ERROR_MESSAGE_CHARS)};
}

/* Beyond what eventsource-py writes: who failed, how often, since when, and where. */
static bool add_more(rd_kafka_headers_t *headers, const mb_parked *parked, const mb_fail *fail) {
  char text[MB_FAIL_TRACE_MAX];
  bool ok = add_int(headers, "dlq_attempts", parked->attempts + 1);
  if (ok && parked->first_failed_us) {
    size_t len = mb__time_format(text, parked->first_failed_us, "+00:00");
    ok = add(headers, "dlq_first_failed_at", text, len);
  }
  if (ok && fail->handler[0]) {
    mb_bytes name = clean_text(fail->handler, text, sizeof text);
    ok = add(headers, "dlq_handler", name.data, name.len);
  }
  if (ok && fail->trace[0]) {
    mb_bytes trace = clean_text(fail->trace, text, sizeof text);
    ok = add(headers, "dlq_traceback", text, strlen(trace.data));
  }
  return ok;
}

/* lean: how much is left out so that it fits: MB_WHOLE, MB_POINTER (the value), MB_BARE (the
 * original's headers, too). */
static rd_kafka_headers_t *dead_headers(mb_bus *bus, const mb_parked *parked, mb_lean lean) {
  const rd_kafka_message_t *record = parked->record;
  static const mb_fail unknown = {.type = "Error",
                                  .message = "out of memory while the failure was noted"};
  const mb_fail *fail = parked->fail ? parked->fail : &unknown;
  char now[MB_TIME_MAX], message[MB_FAIL_MESSAGE_MAX], type[MB_FAIL_TYPE_MAX];
  mb_bytes text = clean_text(fail->message, message, sizeof message);
  mb_bytes type_text = clean_text(fail->type, type, sizeof type);
  size_t now_len = mb__time_format(now, mb__now_us(), "+00:00");
  rd_kafka_headers_t *headers =
      lean == MB_BARE ? rd_kafka_headers_new(12) : copy_headers(record, NULL);
  if (!headers) return NULL;
  bool ok = add_text(headers, "dlq_reason", parked->reason) &&
            add(headers, "dlq_error_type", type_text.data, type_text.len) &&
            add(headers, "dlq_error_message", text.data, text.len) &&
            add_int(headers, "dlq_retry_count", parked->attempts) &&
            add(headers, "dlq_timestamp", now, now_len) &&
            add_text(headers, "dlq_original_topic", bus->topic) &&
            add_int(headers, "dlq_original_partition", record->partition) &&
            add_int(headers, "dlq_original_offset", record->offset) &&
            add_text(headers, "dlq_consumer_group", bus->group) &&
            (lean != MB_WHOLE || add_more(headers, parked, fail));
  if (ok && lean != MB_WHOLE)
    ok = add_int(headers, "dlq_value_omitted_bytes", (int64_t)record->len);
  if (ok) return headers;
  rd_kafka_headers_destroy(headers);
  return NULL;
}

/* ---- writing ---- */

static void try_later(mb_bus *bus, mb_parked *parked, const char *why) {
  int64_t delay = mb__backoff_us(1, 60, 0.1, parked->dlq_attempts++, 0.5);
  mb__log(&bus->log, MB_LOG_ERROR,
          "dead letter of %s[%d] offset %lld not written: %s; again in %.1f s", bus->topic,
          (int)parked->record->partition, (long long)parked->record->offset, why,
          (double)delay / 1e6);
  bus->stats.last_error_at_us = mb__now_us();
  bus->dlq_stuck = true;
  mb__lot_due(parked->lot, parked, MB_TO_DLQ, mb__mono_us() + delay);
}

const mb_parked *mb__dlq_stuck(mb_bus *bus) {
  const mb_part *part;
  if (!bus->dlq_stuck) return NULL;
  for (size_t i = 0; (part = mb__consumer_part_at(bus, i)); i++)
    for (const mb_parked *parked = part->lot.head; parked; parked = parked->next)
      if (parked->dlq_attempts) return parked;
  bus->dlq_stuck = false;
  return NULL;
}

static void on_dead_letter(mb_bus *bus, mb_delivery *delivery, const rd_kafka_message_t *report) {
  mb_parked *parked = (mb_parked *)delivery;
  if (!report->err) bus->stats.messages_sent_to_dlq++;
  if (!parked->lot)
    mb__parked_free(parked); /* the partition went meanwhile */
  else if (report->err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE && parked->lean < MB_BARE) {
    parked->lean++;
    mb__dlq_write(bus, parked);
  } else if (report->err)
    try_later(bus, parked, rd_kafka_err2str(report->err));
  else
    mb__bus_settled(bus, parked);
}

static void on_report_in_transaction(mb_bus *bus, mb_delivery *delivery,
                                     const rd_kafka_message_t *report) {
  (void)bus, (void)delivery, (void)report; /* a failure has marked the transaction already */
}

static mb_delivery in_transaction = {on_report_in_transaction};

void mb__dlq_write(mb_bus *bus, mb_parked *parked) {
  const rd_kafka_message_t *record = parked->record;
  char why[256] = "out of memory";
  for (;;) {
    rd_kafka_headers_t *headers = dead_headers(bus, parked, parked->lean);
    mb_err err = headers ? MB_OK : MB_ENOMEM;
    mb_bytes value = {record->payload, record->len};
    if (parked->lean != MB_WHOLE) value = (mb_bytes){NULL, 0};
    parked->delivery.done = on_dead_letter;
    mb_delivery *delivery = bus->txn.on ? &in_transaction : &parked->delivery;
    if (!err)
      err = mb__producer_send(bus, bus->dlq_topic, (mb_bytes){record->key, record->key_len}, value,
                              false, headers, delivery, 0, why, sizeof why);
    if (!err && bus->txn.on) {
      /* It stands and falls with the transaction, like the offset of its event. */
      bus->stats.messages_sent_to_dlq++;
      mb__bus_settled(bus, parked);
      return;
    }
    if (!err) {
      mb__lot_due(parked->lot, parked, MB_IN_DLQ, INT64_MAX);
      return;
    }
    if (headers) rd_kafka_headers_destroy(headers);
    /* With the headers it has become too large: a pointer to the original goes instead. */
    if (err != MB_EDELIVERY || parked->lean == MB_BARE) break;
    parked->lean++;
  }
  try_later(bus, parked, why);
}

/* ---- counting and replaying ---- */

static bool count_one(const mb_msg *msg, void *opaque) {
  (void)msg;
  ++*(int64_t *)opaque;
  return true;
}

/* Transactions leave marks in a partition that take offsets but are no records: those are counted
 * one by one. */
static mb_err count_records(mb_bus *bus, int64_t *count, char *errstr, size_t errstr_size) {
  int64_t total = 0;
  mb_read_options options = {.partition = -1, .offset = -1, .timeout_ms = COUNT_READ_MS};
  mb_err err = mb_bus_read(bus, bus->dlq_topic, &options, count_one, &total, errstr, errstr_size);
  if (!err) *count = total;
  return err;
}

mb_err mb_dlq_count(mb_bus *bus, int64_t *count, char *errstr, size_t errstr_size) {
  int partitions;
  int64_t total = 0;
  mb_err err = mb_bus_topic_partitions(bus, bus->dlq_topic, &partitions, errstr, errstr_size);
  if (err == MB_ETOPIC) {
    *count = 0;
    return MB_OK;
  }
  if (!err && bus->txn.on) return count_records(bus, count, errstr, errstr_size);
  for (int32_t i = 0; !err && i < partitions; i++) {
    int64_t low, high;
    err = mb_topic_offsets(bus, bus->dlq_topic, i, &low, &high, errstr, errstr_size);
    if (!err) total += high - low;
  }
  if (!err) *count = total;
  return err;
}

typedef struct replay {
  mb_delivery delivery;
  mb_bus *bus;
  bool found, force;
  mb_err err;
  int64_t offset;
  char *errstr;
  size_t errstr_size;
  bool reported;
  int replays; /* so far */
  rd_kafka_resp_err_t code;
  mb_receipt receipt;
} replay;

static bool drop_dead_headers(const char *name) {
  return strncmp(name, "dlq_", 4) == 0 || strcmp(name, "retry_count") == 0 ||
         strcmp(name, "retry_after") == 0;
}

static void on_replayed(mb_bus *bus, mb_delivery *delivery, const rd_kafka_message_t *report) {
  replay *job = (replay *)delivery;
  (void)bus;
  job->reported = true;
  job->code = report->err;
  if (!report->err) job->receipt = (mb_receipt){MB_OK, report->partition, report->offset};
}

/* On an exactly-once bus a replay is a transaction of its own. */
static mb_err begin_alone(replay *job) {
  mb_err err = mb__txn_commit(job->bus, job->errstr, job->errstr_size);
  return err ? err : mb__txn_begin(job->bus, job->errstr, job->errstr_size);
}

static mb_err put_back(replay *job, const rd_kafka_message_t *record, mb_bytes value, int replays) {
  rd_kafka_headers_t *headers = copy_headers(record, drop_dead_headers);
  if (!headers || !add_int(headers, "retry_count", 0) ||
      !add_int(headers, "dlq_replay_count", replays + 1)) {
    if (headers) rd_kafka_headers_destroy(headers);
    return mb__error(MB_ENOMEM, job->errstr, job->errstr_size, "out of memory");
  }
  job->delivery.done = on_replayed;
  mb_err err = job->bus->txn.on ? begin_alone(job) : MB_OK;
  if (!err)
    err = mb__producer_send(job->bus, job->bus->topic, (mb_bytes){record->key, record->key_len},
                            value, false, headers, &job->delivery, 10000, job->errstr,
                            job->errstr_size);
  if (err) {
    rd_kafka_headers_destroy(headers);
    return err;
  }
  while (!job->reported) mb__producer_flush(job->bus, 1000);
  if (job->bus->txn.on)
    err = mb__txn_end_alone(job->bus, !job->code, job->errstr, job->errstr_size);
  if (!job->code) return err;
  return mb__error(MB_EDELIVERY, job->errstr, job->errstr_size, "the replay was not delivered: %s",
                   rd_kafka_err2str(job->code));
}

static bool on_original(const mb_msg *msg, void *opaque) {
  replay *job = ((replay **)opaque)[0];
  const mb_msg *dead = ((mb_msg **)opaque)[1];
  if (msg->record->offset != job->offset) return false;
  job->found = true;
  job->err = put_back(job, dead->record, mb_msg_value(msg), job->replays);
  return false;
}

/* The dead letter was too large to hold the value: fetch that from where it points. */
static void follow(replay *job, const mb_msg *dead) {
  int partition = mb__record_count(dead->record, "dlq_original_partition", -1);
  mb_bytes topic, text;
  char name[256], digits[24];
  job->err = MB_ENOENT;
  job->found = false;
  if (partition >= 0 && !mb_msg_header(dead, "dlq_original_topic", &topic) &&
      topic.len < sizeof name && !mb_msg_header(dead, "dlq_original_offset", &text) &&
      text.len < sizeof digits) {
    memcpy(name, topic.data, topic.len);
    name[topic.len] = 0;
    memcpy(digits, text.data, text.len);
    digits[text.len] = 0;
    job->offset = strtoll(digits, NULL, 10);
    mb_read_options options = {
        .partition = partition, .offset = job->offset, .timeout_ms = REPLAY_READ_MS};
    const void *pair[2] = {job, dead};
    mb_err err =
        mb_bus_read(job->bus, name, &options, on_original, pair, job->errstr, job->errstr_size);
    if (err) job->err = err;
  }
  if (!job->found && job->err == MB_ENOENT)
    mb__error(MB_ENOENT, job->errstr, job->errstr_size,
              "the dead letter points to a record that the topic no longer holds");
  job->found = true;
}

/* An event's replays, over all copies of its dead letter: each went to the main topic with its
 * number. */
typedef struct history {
  mb_bytes event_id;
  int replays;
} history;

static bool on_earlier(const mb_msg *msg, void *opaque) {
  history *past = opaque;
  mb_bytes id;
  int count = mb__record_count(msg->record, "dlq_replay_count", 0);
  if (count > past->replays && !mb_msg_header(msg, "event_id", &id) &&
      id.len == past->event_id.len && memcmp(id.data, past->event_id.data, id.len) == 0)
    past->replays = count;
  return true;
}

/* What the letter itself tells, and what has been put back since it was written. */
static int replays_so_far(replay *job, const mb_msg *msg) {
  history past = {.replays = mb__record_count(msg->record, "dlq_replay_count", 0)};
  mb_read_options options = {.partition = -1,
                             .offset = -1,
                             .since_ms = mb_msg_timestamp_ms(msg),
                             .timeout_ms = HISTORY_READ_MS};
  if (mb_msg_header(msg, "event_id", &past.event_id)) return past.replays;
  job->err = mb_bus_read(job->bus, job->bus->topic, &options, on_earlier, &past, job->errstr,
                         job->errstr_size);
  return past.replays;
}

static bool on_dead(const mb_msg *msg, void *opaque) {
  replay *job = opaque;
  mb_bytes omitted;
  if (msg->record->offset != job->offset) return false;
  job->found = true;
  int replays = job->replays = replays_so_far(job, msg);
  if (job->err) return false;
  int most = (int)mb__conf_int(job->bus->conf, MB_OPT_dlq_max_replay_attempts);
  if (!job->force && replays >= most)
    job->err = mb__error(MB_EREPLAY, job->errstr, job->errstr_size,
                         "replayed %d times already (dlq_max_replay_attempts %d); force it if its "
                         "cause is mended",
                         replays, most);
  else if (!mb_msg_header(msg, "dlq_value_omitted_bytes", &omitted))
    follow(job, msg);
  else
    job->err = put_back(job, msg->record, mb_msg_value(msg), replays);
  return false;
}

mb_err mb_dlq_replay(mb_bus *bus, int32_t partition, int64_t offset, bool force,
                     mb_receipt *receipt, char *errstr, size_t errstr_size) {
  if (!bus->connected)
    return mb__error(MB_ESTATE, errstr, errstr_size,
                     "the bus is not connected; call connect first");
  if (bus->txn.on && bus->in_handler)
    return mb__error(MB_ESTATE, errstr, errstr_size,
                     "a handler of an exactly-once bus cannot replay through it");
  if (partition < 0 || offset < 0)
    return mb__error(MB_EINVAL, errstr, errstr_size, "partition and offset are 0 or more");
  replay job = {
      .bus = bus, .force = force, .offset = offset, .errstr = errstr, .errstr_size = errstr_size};
  mb_read_options options = {
      .partition = partition, .offset = offset, .timeout_ms = REPLAY_READ_MS};
  mb_err err = mb_bus_read(bus, bus->dlq_topic, &options, on_dead, &job, errstr, errstr_size);
  if (!err && !job.found)
    err = mb__error(MB_ENOENT, errstr, errstr_size, "no dead letter at %s[%d] offset %lld",
                    bus->dlq_topic, (int)partition, (long long)offset);
  if (!err) err = job.err;
  if (!err && receipt) *receipt = job.receipt;
  return err;
}
