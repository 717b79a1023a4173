/* deliver/dead_letter.c: dead letters: written with everything needed to put them back
 * (dlq/replay.c). Must not decide which event is dead (handlers/settle.c) nor know
 * handlers or Lua. Called by deliver/deliver.c and bus/step.c. */
#include <stdlib.h>
#include <string.h>

#include "deliver/dead_letter.h"
#include "event/wire.h"
#include "handlers/backoff.h"
#include "kafka/headers.h"
#include "kafka/msg.h"
#include "kafka/producer.h"
#include "kafka/record.h"
#include "kafka/topics.h"

#define ERROR_MESSAGE_CHARS 1000

mb_err mb__dlq_check(mb_deliver *deliver, char *errstr, size_t errstr_size) {
  int count;
  mb_err err = mb__topic_want(deliver->ctx, deliver->ctx->dlq_topic, &count, errstr, errstr_size);
  if (err != MB_ETOPIC) return err;
  return mb__error(MB_ETOPIC, errstr, errstr_size,
                   "the dead letter topic \"%s\" does not exist and the broker did not create "
                   "it; create it with: moonbus topics create %s, or set enable_dlq to false",
                   deliver->ctx->dlq_topic, deliver->ctx->dlq_topic);
}

/* ---- headers ---- */

static bool add_text(rd_kafka_headers_t *headers, const char *name, const char *value) {
  return mb__headers_add(headers, name, value, strlen(value));
}

/* The first so many characters, never half of one; not more than the text has. */
static size_t first_chars(mb_bytes text, size_t chars) {
  size_t len = 0;
  while (len < text.len && (chars || ((unsigned char)text.data[len] & 0xC0) == 0x80)) {
    if (((unsigned char)text.data[len] & 0xC0) != 0x80) chars--;
    len++;
  }
  return len;
}

/* A failure's text may hold any bytes; a header that is not UTF-8 breaks readers of whole lists. */
static mb_bytes clean_text(const char *text, char *out, size_t size) {
  snprintf(out, size, "%s", text);
  char *at = out, *end = out + mb__text_bytes(out), *bad;
  while ((bad = (char *)(uintptr_t)mb__utf8_bad(at, end))) {
    *bad = '?';
    at = bad + 1;
  }
  return (mb_bytes){out, (size_t)(end - out)};
}

/* Beyond what eventsource-py writes: who failed, how often, since when, and where. */
static bool add_more(rd_kafka_headers_t *headers, const mb_parked *parked, const mb_fail *fail) {
  char text[MB_FAIL_TRACE_MAX];
  bool ok = mb__headers_add_int(headers, "dlq_attempts", parked->attempts + 1);
  if (ok && parked->first_failed_us) {
    size_t len = mb__time_format(text, parked->first_failed_us, "+00:00");
    ok = mb__headers_add(headers, "dlq_first_failed_at", text, len);
  }
  if (ok && fail->handler[0]) {
    mb_bytes name = clean_text(fail->handler, text, sizeof text);
    ok = mb__headers_add(headers, "dlq_handler", name.data, name.len);
  }
  if (ok && fail->trace[0]) {
    mb_bytes trace = clean_text(fail->trace, text, sizeof text);
    ok = mb__headers_add(headers, "dlq_traceback", trace.data, trace.len);
  }
  return ok;
}

typedef struct former_life {
  const char *group; /* that failed now */
  bool died;         /* the record is a letter of before */
} former_life;

/* What a record brings along that is not of this death: headers of an earlier one (it is a letter
 * that was put back as it was), attempts before that, and the address of another group. */
static bool drop_former(const char *name, mb_bytes value, const void *opaque) {
  const former_life *former = opaque;
  if (mb__header_of_death(name)) return true;
  if (strcmp(name, "replay_group") == 0) return !mb__same(value, mb_str(former->group));
  return former->died && (strcmp(name, "retry_count") == 0 || strcmp(name, "retry_after") == 0);
}

/* lean: how much is left out so that it fits: MB_WHOLE, MB_POINTER (the value), MB_BARE (the
 * original's headers, too). */
static rd_kafka_headers_t *dead_headers(mb_deliver *deliver, const mb_parked *parked,
                                        mb_lean lean) {
  const rd_kafka_message_t *record = parked->record;
  static const mb_fail unknown = {.type = "Error",
                                  .message = "out of memory while the failure was noted"};
  const mb_fail *fail = parked->fail ? parked->fail : &unknown;
  char now[MB_TIME_MAX], message[MB_FAIL_MESSAGE_MAX], type[MB_FAIL_TYPE_MAX];
  mb_bytes text = clean_text(fail->message, message, sizeof message);
  text.len = first_chars(text, ERROR_MESSAGE_CHARS);
  mb_bytes type_text = clean_text(fail->type, type, sizeof type);
  size_t now_len = mb__time_format(now, mb__now_us(), "+00:00");
  const rd_kafka_headers_t *original = lean != MB_BARE ? mb__record_headers(record) : NULL;
  former_life former = {deliver->ctx->group_name, mb__headers_died(original)};
  mb_bytes replays = mb__headers_get(original, "dlq_replay_count");
  rd_kafka_headers_t *headers = mb__headers_copy(original, drop_former, &former);
  if (!headers) return NULL;
  bool ok =
      !replays.data || mb__headers_add(headers, "dlq_replay_count", replays.data, replays.len);
  ok = ok && add_text(headers, "dlq_reason", parked->reason) &&
       mb__headers_add(headers, "dlq_error_type", type_text.data, type_text.len) &&
       mb__headers_add(headers, "dlq_error_message", text.data, text.len) &&
       mb__headers_add_int(headers, "dlq_retry_count", parked->attempts) &&
       mb__headers_add(headers, "dlq_timestamp", now, now_len) &&
       add_text(headers, "dlq_original_topic", deliver->ctx->topic) &&
       mb__headers_add_int(headers, "dlq_original_partition", record->partition) &&
       mb__headers_add_int(headers, "dlq_original_offset", record->offset) &&
       add_text(headers, "dlq_consumer_group", deliver->ctx->group_name) &&
       (lean != MB_WHOLE || add_more(headers, parked, fail));
  if (ok && lean != MB_WHOLE)
    ok = mb__headers_add_int(headers, "dlq_value_omitted_bytes", (int64_t)record->len);
  if (ok) return headers;
  rd_kafka_headers_destroy(headers);
  return NULL;
}

/* ---- writing ---- */

static void try_later(mb_deliver *deliver, mb_parked *parked, const char *why) {
  int64_t delay = mb__backoff_us(1, 60, 0.1, parked->dlq_attempts++, 0.5);
  mb__record_log(
      &deliver->ctx->log, MB_LOG_ERROR, parked->record, parked->attempts + 1, parked->fail,
      "dead letter of %s[%d] offset %lld not written: %s: %s; again in %.1f s", deliver->ctx->topic,
      (int)parked->record->partition, (long long)parked->record->offset, deliver->ctx->dlq_topic,
      why, (double)delay / 1e6);
  deliver->ctx->stats.last_error_at_us = mb__now_us();
  deliver->dlq_stuck = true;
  mb__retry_due(parked->queue, parked, MB_TO_DLQ, mb__mono_us() + delay);
}

const mb_parked *mb__dlq_stuck(mb_deliver *deliver) {
  const mb_part *part;
  if (!deliver->dlq_stuck) return NULL;
  for (size_t i = 0; (part = mb__consumer_part_at(deliver->group, i)); i++)
    for (const mb_parked *parked = part->queue.head; parked; parked = parked->next)
      if (parked->dlq_attempts) return parked;
  deliver->dlq_stuck = false;
  return NULL;
}

static void on_dead_letter(mb_delivery *delivery, const rd_kafka_message_t *report) {
  mb_deliver *deliver = delivery->opaque;
  mb_parked *parked = (mb_parked *)delivery;
  if (!report->err) deliver->ctx->stats.messages_sent_to_dlq++;
  if (!parked->queue)
    mb__parked_free(parked); /* the partition went meanwhile */
  else if (report->err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE && parked->lean < MB_BARE) {
    parked->lean++;
    if (deliver->ctx->transaction.on) /* this one can only be aborted by now */
      mb__retry_due(parked->queue, parked, MB_TO_DLQ, 0);
    else
      mb__dlq_write(deliver, parked);
  } else if (report->err)
    try_later(deliver, parked, mb__refusal_undelivered(report->err));
  else
    mb__progress_settled(deliver->group, parked);
}

void mb__dlq_write(mb_deliver *deliver, mb_parked *parked) {
  const rd_kafka_message_t *record = parked->record;
  char why[MB_ERRSTR_MAX] = "out of memory";
  for (;;) {
    rd_kafka_headers_t *headers = dead_headers(deliver, parked, parked->lean);
    mb_err err = headers ? MB_OK : MB_ENOMEM;
    mb_bytes value = {record->payload, record->len};
    if (parked->lean != MB_WHOLE) value = (mb_bytes){NULL, 0};
    parked->delivery.done = on_dead_letter;
    parked->delivery.opaque = deliver;
    if (!err)
      err = mb__producer_send(deliver->ctx, deliver->ctx->dlq_topic,
                              (mb_bytes){record->key, record->key_len}, value, headers,
                              &parked->delivery, 0, why, sizeof why);
    if (!err) {
      mb__retry_due(parked->queue, parked, MB_IN_DLQ, INT64_MAX);
      return;
    }
    if (headers) rd_kafka_headers_destroy(headers);
    /* With the headers it has become too large: a pointer to the original goes instead. */
    if (err != MB_EDELIVERY || parked->lean == MB_BARE) break;
    parked->lean++;
  }
  try_later(deliver, parked, why);
}
