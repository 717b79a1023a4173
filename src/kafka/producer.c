/* kafka/producer.c: enqueues records, serves delivery reports, flushes; says what a full queue
 * means. Must not know what an event means, handlers or Lua. Called by bus/publish.c (publish),
 * deliver/dead_letter.c (dead letters), dlq/replay.c, bus/step.c and group/txn.c. */
#include "kafka/producer.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "kafka/answers.h"
#include "kafka/conf.h"
#include "kafka/context.h"
#include "kafka/single.h"
#include "kafka/topic_wait.h"

#define TOPICS_MAX 4
#define PURGE_MS   500      /* for the reports of what is purged */
#define TOLD_US    60000000 /* an error that repeats within this time is not logged again */
#define LOOK_US    1000000  /* between looks at connections after a refusal */
#define SINGLY_US  60000000 /* after a refusal, so long a transaction's records go one at a time */
#define ALONE_MS   30000    /* for the one before */
#define DRIVE_MS   10

struct mb_producer {
  mb_client *client;
  rd_kafka_t *rk; /* the client's */
  rd_kafka_queue_t *queue;
  /* Handles are kept: without one the first record to a topic waits for metadata for up to 1 s
   * (librdkafka before 2.10.1). */
  rd_kafka_topic_t *topics[TOPICS_MAX];
  int topic_count;
  mb_trouble *trouble;         /* the client's */
  int64_t logged_us;           /* when it was logged */
  int64_t looked_us;           /* when connections were looked at after a refusal */
  int64_t down_us;             /* since when no broker can be reached; 0 = one can */
  int64_t silent_us;           /* since when events wait for a broker's answer; 0 = none do */
  mb_answer silent;            /* for which */
  size_t failed;               /* reports of failure since open */
  mb_delivery *deliveries;     /* without a report so far */
  size_t background;           /* records without a report and a delivery */
  size_t under_way;            /* with librdkafka */
  uint64_t sent;               /* records */
  mb_single single;            /* records that are sent one at a time */
  int64_t singly_us;           /* until when those of transactions are; 0 = they are not */
  rd_kafka_resp_err_t refused; /* why the last send did not queue its record */
};

void mb__producer_refusal_text(mb_context *ctx, rd_kafka_resp_err_t code, const char *reason,
                               const char *topic, const char *rights, char *text, size_t size) {
  char id[512];
  mb_request request = {.topic = topic,
                        .rights = rights,
                        .group = ctx->group_name,
                        .transactional_id = mb__producer_transactional_id(ctx, id, sizeof id)};
  mb__refusal_text(&ctx->login, code, reason, &request, text, size);
}

/* ---- reports ---- */

/* A background event has no delivery: what librdkafka keeps with it is its order, and odd. */
static void *background_opaque(uint64_t order) {
  return (void *)(uintptr_t)(order * 2 + 1);
}

static mb_delivery *delivery_of(const rd_kafka_message_t *record) {
  return (uintptr_t)record->_private & 1 ? NULL : record->_private;
}

static uint64_t order_of(const rd_kafka_message_t *record) {
  const mb_delivery *delivery = delivery_of(record);
  return delivery ? delivery->order : (uintptr_t)record->_private / 2;
}

static void link_delivery(mb_producer *producer, mb_delivery *delivery) {
  delivery->prev = NULL;
  delivery->next = producer->deliveries;
  if (delivery->next) delivery->next->prev = delivery;
  producer->deliveries = delivery;
}

static void unlink_delivery(mb_producer *producer, mb_delivery *delivery) {
  if (delivery->next) delivery->next->prev = delivery->prev;
  if (delivery->prev)
    delivery->prev->next = delivery->next;
  else
    producer->deliveries = delivery->next;
}

/* A background event has no delivery: its headers say which it was. */
static void background_failed(mb_context *ctx, rd_kafka_resp_err_t code, mb_bytes type,
                              mb_bytes id) {
  const char *reason = mb__refusal_undelivered(code);
  /* The transaction is aborted and says why; its events publish it once more. */
  bool again = ctx->transaction.on && ctx->consuming;
  if (again)
    mb__log(&ctx->log, MB_LOG_DEBUG, "event %.*s %.*s was not delivered to %s: %s", (int)type.len,
            type.data, (int)id.len, id.data, ctx->topic, reason);
  if (again) return;
  ctx->stats.publish_errors++;
  ctx->stats.last_error_at_us = mb__now_us();
  mb_log_field fields[] = {{.name = "event_type", .text = type}, {.name = "event_id", .text = id}};
  char line[1024], same[256];
  /* Without a callback the log alone has the names of the events that are lost: all of them. */
  snprintf(line, sizeof line, "event %.*s %.*s was not delivered to %s: %s", (int)type.len,
           type.data, (int)id.len, id.data, ctx->topic, reason);
  snprintf(same, sizeof same, "events not delivered to %s: %s", ctx->topic, reason);
  if (!ctx->on_publish_error) {
    mb__log_fields(&ctx->log, MB_LOG_ERROR, line, fields, 2, false);
    return;
  }
  mb__log_folded(&ctx->log, MB_LOG_ERROR, line, fields, 2, same);
  bool inner = ctx->in_callback;
  ctx->in_callback = true;
  ctx->on_publish_error(mb__err_of(code), reason, type, id, ctx->on_publish_error_opaque);
  ctx->in_callback = inner;
}

/* Health reports a right that one of the bus's topics lacks, until something is delivered. */
static void note_denied(mb_context *ctx, const rd_kafka_message_t *record) {
  mb_producer *producer = ctx->producer;
  if (mb__err_of(record->err) != MB_EAUTH || !record->rkt) return;
  const char *topic = rd_kafka_topic_name(record->rkt);
  if (strcmp(topic, ctx->topic) && strcmp(topic, ctx->dlq_topic)) return;
  producer->trouble->code = record->err;
  mb__producer_refusal_text(ctx, record->err, rd_kafka_err2str(record->err), topic, "Write",
                            producer->trouble->text, sizeof producer->trouble->text);
}

/* Dead letters are their own events' concern. */
static void note_undelivered(mb_context *ctx, const rd_kafka_message_t *record) {
  const char *topic = record->rkt ? rd_kafka_topic_name(record->rkt) : "";
  if (ctx->transaction.on && strcmp(topic, ctx->dlq_topic) != 0)
    mb__transaction_refused(&ctx->transaction, record->err, topic);
}

/* One record's outcome. type, id: of a background event that failed. */
static void settle(mb_context *ctx, const rd_kafka_message_t *record, mb_bytes type, mb_bytes id) {
  mb_producer *producer = ctx->producer;
  mb_delivery *delivery = delivery_of(record);
  if (record->err) {
    producer->failed++;
    ctx->transaction.broken = true;
    note_undelivered(ctx, record);
    note_denied(ctx, record);
  } else if (mb__err_of(ctx->producer->trouble->code) == MB_EAUTH) {
    ctx->producer->trouble->code = RD_KAFKA_RESP_ERR_NO_ERROR;
  }
  if (delivery) {
    unlink_delivery(producer, delivery);
    delivery->done(delivery, record);
    return;
  }
  producer->background--;
  if (record->err)
    background_failed(ctx, record->err, type, id);
  else
    ctx->stats.events_published++;
}

/* ---- one at a time ---- */

static rd_kafka_error_t *produce(mb_producer *producer, rd_kafka_topic_t *topic, mb_bytes key,
                                 mb_bytes value, rd_kafka_headers_t *headers, void *opaque,
                                 int64_t at_ms);
static rd_kafka_topic_t *topic_of(mb_producer *producer, const char *name);

static bool produce_held(mb_producer *producer, mb_held *held, rd_kafka_message_t *report) {
  rd_kafka_topic_t *topic = topic_of(producer, held->topic);
  rd_kafka_error_t *error = topic ? produce(producer, topic, held->key, held->value, held->headers,
                                            held->opaque, held->at_ms)
                                  : rd_kafka_error_new(RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION, NULL);
  if (!error) {
    held->headers = NULL;
    return true;
  }
  *report = (rd_kafka_message_t){
      .err = rd_kafka_error_code(error), .partition = -1, .offset = -1, ._private = held->opaque};
  rd_kafka_error_destroy(error);
  return false;
}

/* Send the next once nothing else is under way. */
static void drive(mb_context *ctx) {
  mb_producer *producer = ctx->producer;
  mb_single *single = &producer->single;
  rd_kafka_message_t report;
  mb_held *held;
  if (single->on && !single->flying && producer->under_way) mb__single_purge(producer->rk);
  while (single->on && !single->flying && !producer->under_way &&
         (held = mb__single_next(single, producer->rk))) {
    single->flying = produce_held(producer, held, &report);
    mb__held_free(held);
    if (!single->flying) settle(ctx, &report, mb_str("?"), mb_str("?"));
  }
  if (!producer->under_way) mb__single_resume(single, producer->rk);
}

/* Refused, perhaps because of another record of its batch; or behind one that was. */
static bool comes_back(mb_context *ctx, const rd_kafka_message_t *record) {
  mb_producer *producer = ctx->producer;
  bool refused = mb__single_may_be_other(record->err);
  if (refused && ctx->transaction.on) producer->singly_us = mb__mono_us() + SINGLY_US;
  if (refused && !ctx->transaction.on && record->rkt) mb__single_paused(&producer->single, record);
  if (ctx->transaction.on || producer->single.flying || !record->rkt) return false;
  if (!refused && !(producer->single.on && record->err == RD_KAFKA_RESP_ERR__PURGE_QUEUE))
    return false;
  if (!producer->single.on)
    mb__log(&ctx->log, MB_LOG_WARN,
            "%s refused a batch: %s; its records are sent again one at a time. If that is "
            "frequent, set batch_size below the topic's max.message.bytes",
            rd_kafka_topic_name(record->rkt), rd_kafka_err2str(record->err));
  return mb__single_take_back(&producer->single, record, order_of(record));
}

static void report(mb_context *ctx, const rd_kafka_message_t *record, mb_bytes type, mb_bytes id) {
  mb_producer *producer = ctx->producer;
  if (producer->under_way) producer->under_way--;
  if (!comes_back(ctx, record)) {
    producer->single.flying = false;
    settle(ctx, record, type, id);
  }
  if (ctx->producer == producer) drive(ctx);
}

/* A report that came on the thread of a call. */
typedef struct kept_report {
  mb_deferred deferred; /* first */
  rd_kafka_message_t record;
  size_t type_len, id_len;
  char text[];
} kept_report;

static void serve_report(void *owner, const mb_deferred *deferred) {
  const kept_report *kept = (const kept_report *)deferred;
  report(owner, &kept->record, (mb_bytes){kept->text, kept->type_len},
         (mb_bytes){kept->text + kept->type_len, kept->id_len});
}

/* Without memory the report is lost; what it was for is settled when the producer is closed. */
static void keep_report(mb_client *client, const rd_kafka_message_t *record, mb_bytes type,
                        mb_bytes id) {
  kept_report *kept = malloc(sizeof *kept + type.len + id.len);
  if (!kept) return;
  kept->deferred.serve = serve_report;
  kept->record = (rd_kafka_message_t){.err = record->err,
                                      .partition = record->partition,
                                      .offset = record->offset,
                                      ._private = record->_private};
  kept->type_len = type.len;
  kept->id_len = id.len;
  memcpy(kept->text, type.data, type.len);
  memcpy(kept->text + type.len, id.data, id.len);
  mb__client_defer(client, &kept->deferred);
}

static void on_report(rd_kafka_t *rk, const rd_kafka_message_t *record, void *opaque) {
  rd_kafka_headers_t *headers = NULL;
  const void *type = "?", *id = "?";
  size_t type_len = 1, id_len = 1;
  (void)rk;
  if (record->err && !delivery_of(record) && !rd_kafka_message_headers(record, &headers)) {
    rd_kafka_header_get_last(headers, "event_type", &type, &type_len);
    rd_kafka_header_get_last(headers, "event_id", &id, &id_len);
  }
  if (mb__client_is_away()) {
    keep_report(opaque, record, (mb_bytes){type, type_len}, (mb_bytes){id, id_len});
    return;
  }
  mb_context *ctx = mb__client_owner(opaque);
  if (ctx) report(ctx, record, (mb_bytes){type, type_len}, (mb_bytes){id, id_len});
}

/* No report comes any more: what has none failed, as far as anybody knows. */
static void settle_rest(mb_context *ctx) {
  mb_producer *producer = ctx->producer;
  rd_kafka_message_t record = {
      .err = RD_KAFKA_RESP_ERR__MSG_TIMED_OUT, .partition = -1, .offset = -1};
  mb__single_clear(&producer->single);
  while ((record._private = producer->deliveries)) settle(ctx, &record, mb_str(""), mb_str(""));
  while (producer->background) settle(ctx, &record, mb_str("?"), mb_str("?"));
}

/* ---- errors ---- */

static void note_error(mb_context *ctx, int code, const char *reason) {
  mb_producer *producer = ctx->producer;
  if (!producer) return;
  int64_t now_us = mb__mono_us();
  if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN && !producer->down_us) producer->down_us = now_us;
  rd_kafka_resp_err_t err = (rd_kafka_resp_err_t)code, before = producer->trouble->code;
  /* What all that is queued then fails with says less than its cause. */
  if (err == RD_KAFKA_RESP_ERR__FATAL) err = rd_kafka_fatal_error(producer->rk, NULL, 0);
  char id[512];
  mb_request request = {.topic = ctx->topic,
                        .rights = "Describe",
                        .group = ctx->group_name,
                        .transactional_id = mb__producer_transactional_id(ctx, id, sizeof id)};
  if (!mb__trouble_note(producer->trouble, &ctx->login, err, reason, &request)) return;
  bool repeated = producer->trouble->code == before && now_us - producer->logged_us < TOLD_US;
  if (repeated) return;
  producer->logged_us = now_us;
  mb__log(&ctx->log, ctx->connected ? MB_LOG_WARN : MB_LOG_DEBUG, "producer: %s",
          producer->trouble->text);
}

typedef struct kept_error {
  mb_deferred deferred; /* first */
  int code;
  char reason[];
} kept_error;

static void serve_error(void *owner, const mb_deferred *deferred) {
  const kept_error *kept = (const kept_error *)deferred;
  mb_context *ctx = owner;
  if (ctx->producer) ctx->login.certificate = mb__client_certificate(ctx->producer->client);
  note_error(ctx, kept->code, kept->reason);
}

static void on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque) {
  (void)rk;
  if (mb__client_is_away()) {
    size_t size = strlen(reason) + 1;
    kept_error *kept = malloc(sizeof *kept + size);
    if (!kept) return;
    kept->deferred.serve = serve_error;
    kept->code = code;
    memcpy(kept->reason, reason, size);
    mb__client_defer(opaque, &kept->deferred);
    return;
  }
  mb_context *ctx = mb__client_owner(opaque);
  if (!ctx) return;
  ctx->login.certificate = mb__client_certificate(opaque);
  note_error(ctx, code, reason);
}

/* ---- open ---- */

typedef struct silence {
  int64_t before_us, since_us, now_us;
  mb_answer answer;
} silence;

static void note_answer(const mb_answer *answer, void *opaque) {
  silence *to = opaque;
  bool waits = answer->waiting || answer->quiet_us;
  int64_t since_us = waits ? mb__answers_since(to->before_us, answer, false, to->now_us) : 0;
  if (!since_us || (to->since_us && since_us >= to->since_us)) return;
  to->since_us = since_us;
  to->answer = *answer;
}

static int on_statistics(rd_kafka_t *rk, char *text, size_t len, void *opaque) {
  mb_context *ctx = mb__client_owner(opaque);
  mb_producer *producer = ctx ? ctx->producer : NULL;
  (void)rk;
  if (!producer) return 0;
  silence to = {.before_us = producer->silent_us, .now_us = mb__mono_us()};
  if (!mb__answers_read((mb_bytes){text, len}, ctx->topic, 0, note_answer, &to))
    mb__log(&ctx->log, MB_LOG_DEBUG, "producer: librdkafka's statistics cannot be read");
  producer->silent_us = to.since_us;
  producer->silent = to.answer;
  return 0;
}

int64_t mb__producer_silent_us(const mb_context *ctx, int32_t *partition, int32_t *broker) {
  const mb_producer *producer = ctx->producer;
  if (!producer || !producer->silent_us) return 0;
  *partition = producer->silent.partition;
  *broker = producer->silent.broker;
  return mb__mono_us() - producer->silent_us >= MB_SILENT_US ? producer->silent_us : 0;
}

static void on_line(void *owner, const char *text) {
  mb_context *ctx = owner;
  mb__transaction_heard(&ctx->transaction, text);
}

mb_err mb__producer_open(mb_context *ctx, char *errstr, size_t errstr_size) {
  if (ctx->producer) return MB_OK;
  rd_kafka_conf_t *conf = mb__config_producer(ctx->conf, errstr, errstr_size);
  if (!conf) return MB_ECONFIG;
  if (ctx->transaction.on) {
    char id[512], timeout[24];
    int64_t timeout_ms = mb__conf_int(ctx->conf, MB_OPT_transaction_timeout_ms);
    snprintf(timeout, sizeof timeout, "%lld", (long long)timeout_ms);
    rd_kafka_conf_set(conf, "transactional.id", mb__producer_transactional_id(ctx, id, sizeof id),
                      NULL, 0);
    rd_kafka_conf_set(conf, "transaction.timeout.ms", timeout, NULL, 0);
    /* Nothing can be delivered in a transaction that is no more. */
    if (mb__conf_int(ctx->conf, MB_OPT_delivery_timeout_ms) > timeout_ms)
      rd_kafka_conf_set(conf, "message.timeout.ms", timeout, NULL, 0);
  }
  if (!ctx->transaction.on) mb__single_watch(conf);
  rd_kafka_conf_set_dr_msg_cb(conf, on_report);
  rd_kafka_conf_set_error_cb(conf, on_error);
  rd_kafka_conf_set_log_cb(conf, mb__client_log);
  rd_kafka_conf_set_stats_cb(conf, on_statistics);
  mb_producer *producer = calloc(1, sizeof *producer);
  if (!producer) {
    rd_kafka_conf_destroy(conf);
    return mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
  }
  mb_err err = mb__client_open(ctx, RD_KAFKA_PRODUCER, "producer", conf, ctx, &producer->client,
                               errstr, errstr_size);
  if (err) {
    free(producer);
    return err;
  }
  mb__client_on_line(producer->client, on_line);
  producer->trouble = mb__client_trouble(producer->client);
  producer->rk = mb__client_handle(producer->client);
  producer->queue = rd_kafka_queue_get_main(producer->rk);
  static const uint64_t one = 1;
  rd_kafka_queue_io_event_enable(producer->queue, ctx->wake_fd, &one, sizeof one);
  ctx->producer = producer;
  return MB_OK;
}

rd_kafka_t *mb__producer_handle(const mb_context *ctx) {
  return ctx->producer ? ctx->producer->rk : NULL;
}

mb_client *mb__producer_client(const mb_context *ctx) {
  return ctx->producer ? ctx->producer->client : NULL;
}

bool mb__producer_lost(const mb_context *ctx) {
  return ctx->producer && mb__client_lost(ctx->producer->client);
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

/* One look at the topic's metadata. MB_ETOPIC: the topic is not there, perhaps not yet. */
static mb_err look(mb_context *ctx, mb_topic_wait *wait) {
  const struct rd_kafka_metadata *metadata = NULL;
  mb_producer *producer = ctx->producer;
  if (!topic_of(producer, ctx->topic)) return MB_ETOPIC;
  rd_kafka_resp_err_t err =
      mb__client_metadata(producer->client, ctx->topic, &metadata, mb__topic_wait_ask_ms(wait));
  mb__topic_wait_note(wait, err, metadata);
  if (err == RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE) return MB_ENOMEM;
  if (err) return mb__topic_wait_denied(wait) ? MB_ETOPIC : MB_ECONNECT;
  mb_err found = MB_ETOPIC;
  if (metadata->topic_cnt == 1 && metadata->topics[0].partition_cnt > 0)
    found = MB_OK;
  else if (metadata->topic_cnt == 1 && metadata->topics[0].err) {
    producer->trouble->code = metadata->topics[0].err;
    mb__producer_refusal_text(ctx, producer->trouble->code,
                              rd_kafka_err2str(producer->trouble->code), ctx->topic,
                              "Describe, and Create where it does not exist yet,",
                              producer->trouble->text, sizeof producer->trouble->text);
  }
  rd_kafka_metadata_destroy(metadata);
  return found;
}

mb_err mb__producer_check(mb_context *ctx, int timeout_ms, char *errstr, size_t errstr_size) {
  mb_producer *producer = ctx->producer;
  const char *servers = mb_config_get(ctx->conf, "bootstrap_servers");
  mb_topic_wait wait;
  mb__topic_wait_begin(&wait, producer->client, (int64_t)timeout_ms * 1000);
  for (;;) {
    mb_err err = look(ctx, &wait);
    rd_kafka_poll(producer->rk, 0);
    if (!err) return MB_OK;
    if (err == MB_ENOMEM) return mb__error(err, errstr, errstr_size, "out of memory");
    if (mb__context_host_ends(ctx))
      return mb__error(MB_ECONNECT, errstr, errstr_size,
                       "interrupted before a broker answered at %s", servers);
    if (mb__err_of(producer->trouble->code) == MB_EAUTH)
      return mb__trouble_error(producer->trouble, ctx->conf, RD_KAFKA_RESP_ERR_NO_ERROR, errstr,
                               errstr_size);
    if (mb__topic_wait_on(&wait)) continue;
    if (err == MB_ETOPIC)
      return mb__error(MB_ETOPIC, errstr, errstr_size,
                       "topic \"%s\" does not exist and the broker %s; create it "
                       "with: moonbus topics create %s --partitions 4",
                       ctx->topic,
                       mb__topic_wait_refused(&wait) ? "does not create topics"
                                                     : "did not create it",
                       ctx->topic);
    return mb__trouble_error(producer->trouble, ctx->conf, RD_KAFKA_RESP_ERR_NO_ERROR, errstr,
                             errstr_size);
  }
}

int mb__producer_poll(mb_context *ctx) {
  mb_producer *producer = ctx->producer;
  if (!producer) return 0;
  if (producer->down_us && mb__mono_us() - producer->down_us >= LOOK_US &&
      mb__client_has_link(producer->rk)) {
    producer->down_us = 0;
    producer->trouble->code = RD_KAFKA_RESP_ERR_NO_ERROR; /* the next one is logged again */
  }
  if (mb__refusal_is_login(producer->trouble->code) &&
      mb__mono_us() - producer->looked_us >= LOOK_US) {
    /* A login that failed after one that holds: the connections of that are in use. */
    producer->looked_us = mb__mono_us();
    if (mb__client_has_link(producer->rk)) producer->trouble->code = RD_KAFKA_RESP_ERR_NO_ERROR;
  }
  int count = rd_kafka_poll(producer->rk, 0);
  drive(ctx);
  return count;
}

const char *mb__producer_refusal(const mb_context *ctx) {
  const mb_producer *producer = ctx->producer;
  return producer && mb__err_of(producer->trouble->code) == MB_EAUTH ? producer->trouble->text
                                                                     : NULL;
}

int64_t mb__producer_down_us(const mb_context *ctx) {
  return ctx->producer ? ctx->producer->down_us : 0;
}

bool mb__producer_fatal(const mb_context *ctx, char *text, size_t size) {
  if (mb__producer_lost(ctx)) {
    snprintf(text, size, "a call into librdkafka did not return");
    return true;
  }
  return ctx->producer && rd_kafka_fatal_error(ctx->producer->rk, text, size);
}

bool mb__producer_fenced(const mb_context *ctx) {
  rd_kafka_resp_err_t code =
      ctx->producer ? rd_kafka_fatal_error(ctx->producer->rk, NULL, 0) : RD_KAFKA_RESP_ERR_NO_ERROR;
  return code == RD_KAFKA_RESP_ERR__FENCED || code == RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH ||
         code == RD_KAFKA_RESP_ERR_PRODUCER_FENCED;
}

rd_kafka_resp_err_t mb__producer_refused(const mb_context *ctx) {
  return ctx->producer->refused;
}

bool mb__producer_singly(const mb_context *ctx) {
  const mb_producer *producer = ctx->producer;
  return ctx->transaction.on && producer && producer->singly_us &&
         mb__mono_us() < producer->singly_us;
}

size_t mb__producer_queued(const mb_context *ctx) {
  if (!ctx->producer) return 0;
  return (size_t)rd_kafka_outq_len(ctx->producer->rk) + ctx->producer->single.count;
}

/* false: it takes longer. */
static bool flush(mb_context *ctx, int timeout_ms) {
  mb_producer *producer = ctx->producer;
  int64_t end_us = mb__mono_us() + (int64_t)timeout_ms * 1000;
  rd_kafka_resp_err_t err;
  do {
    int left_ms = timeout_ms ? mb__left_ms(end_us) : 0;
    err = rd_kafka_flush(producer->rk,
                         producer->single.on && left_ms > DRIVE_MS ? DRIVE_MS : left_ms);
    drive(ctx);
  } while ((err || producer->single.on) && mb__mono_us() < end_us);
  return !err && !producer->single.on;
}

mb_err mb__producer_flush(mb_context *ctx, int timeout_ms) {
  if (!ctx->producer) return MB_OK;
  if (mb__producer_lost(ctx)) return MB_ETIMEOUT;
  return flush(ctx, timeout_ms) ? MB_OK : MB_ETIMEOUT;
}

size_t mb__producer_close(mb_context *ctx, int timeout_ms) {
  mb_producer *producer = ctx->producer;
  if (!producer) return 0;
  size_t before = producer->failed;
  int64_t by_us = mb__mono_us() + (int64_t)timeout_ms * 1000;
  if (!flush(ctx, mb__producer_lost(ctx) ? 0 : timeout_ms)) {
    mb__single_clear(&producer->single);
    /* Reports of failure still come for what is purged, so that every event is accounted for. */
    rd_kafka_purge(producer->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT |
                                     RD_KAFKA_PURGE_F_NON_BLOCKING);
    rd_kafka_flush(producer->rk, PURGE_MS);
  }
  settle_rest(ctx);
  size_t failed = producer->failed - before;
  rd_kafka_queue_io_event_enable(producer->queue, -1, NULL, 0);
  rd_kafka_queue_destroy(producer->queue);
  while (producer->topic_count) rd_kafka_topic_destroy(producer->topics[--producer->topic_count]);
  mb__client_close(producer->client, 0, by_us);
  free(producer);
  ctx->producer = NULL;
  ctx->transaction.open = false; /* it ends with its producer */
  return failed;
}

mb_err mb__producer_send(mb_context *ctx, const char *topic, mb_bytes key, mb_bytes value,
                         rd_kafka_headers_t *headers, mb_delivery *delivery, int timeout_ms,
                         char *errstr, size_t errstr_size) {
  return mb__producer_send_at(ctx, topic, key, value, headers, delivery, 0, timeout_ms, errstr,
                              errstr_size);
}

/* librdkafka refuses records of a topic that it was denied, until it hears of the topic again: it
 * is made to ask. */
static mb_err not_queued(mb_context *ctx, const char *topic, rd_kafka_topic_t *handle,
                         const rd_kafka_error_t *error, char *errstr, size_t errstr_size) {
  const struct rd_kafka_metadata *metadata = NULL;
  char text[MB_REFUSAL_MAX];
  rd_kafka_resp_err_t code = rd_kafka_error_code(error);
  /* A record before this one was refused: the transaction can only be aborted. */
  if (ctx->transaction.open && code == RD_KAFKA_RESP_ERR__STATE) ctx->transaction.broken = true;
  if (code == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED &&
      !rd_kafka_metadata(ctx->producer->rk, 0, handle, &metadata, 0))
    rd_kafka_metadata_destroy(metadata);
  if (code == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE)
    mb__text(text, sizeof text, "%s", mb__refusal_undelivered(code));
  else
    mb__producer_refusal_text(ctx, code, rd_kafka_error_string(error), topic, "Write", text,
                              sizeof text);
  return mb__error(mb__err_of(code), errstr, errstr_size, "%s", text);
}

static rd_kafka_error_t *produce(mb_producer *producer, rd_kafka_topic_t *topic, mb_bytes key,
                                 mb_bytes value, rd_kafka_headers_t *headers, void *opaque,
                                 int64_t at_ms) {
  rd_kafka_vu_t vu[7];
  size_t n = 0;
  vu[n++] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_RKT, .u.rkt = topic};
  vu[n++] =
      (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {(void *)(uintptr_t)key.data, key.len}};
  vu[n++] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_VALUE,
                            .u.mem = {(void *)(uintptr_t)value.data, value.len}};
  vu[n++] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY};
  if (headers) vu[n++] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = headers};
  if (at_ms) vu[n++] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_TIMESTAMP, .u.i64 = at_ms};
  vu[n++] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_OPAQUE, .u.ptr = opaque};
  rd_kafka_error_t *error = rd_kafka_produceva(producer->rk, vu, n);
  producer->under_way += !error;
  return error;
}

static bool is_full(const mb_context *ctx) {
  return ctx->producer->single.count >=
         (size_t)mb__conf_int(ctx->conf, MB_OPT_producer_queue_max_events);
}

/* Other records are sent one at a time: it waits behind them. */
static mb_err send_behind(mb_context *ctx, const char *topic, mb_bytes key, mb_bytes value,
                          rd_kafka_headers_t *headers, void *opaque, int64_t at_ms, char *errstr,
                          size_t errstr_size) {
  mb_producer *producer = ctx->producer;
  mb_delivery *delivery = delivery_of(&(rd_kafka_message_t){._private = opaque});
  if (!mb__single_add(&producer->single, topic, key, value, headers, opaque, at_ms)) {
    producer->refused = RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE;
    return mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
  }
  if (delivery)
    link_delivery(producer, delivery);
  else
    producer->background++;
  return MB_OK;
}

mb_err mb__producer_send_at(mb_context *ctx, const char *topic, mb_bytes key, mb_bytes value,
                            rd_kafka_headers_t *headers, mb_delivery *delivery, int64_t at_ms,
                            int timeout_ms, char *errstr, size_t errstr_size) {
  mb_producer *producer = ctx->producer;
  if (!producer) return mb__error(MB_ESTATE, errstr, errstr_size, "the bus is not connected");
  rd_kafka_topic_t *handle = topic_of(producer, topic);
  if (!handle) {
    producer->refused = RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION;
    return mb__error(MB_ETOPIC, errstr, errstr_size, "\"%s\" is not a topic name", topic);
  }
  int64_t end = 0; /* of the waiting, once it has begun */
  void *opaque = delivery ? (void *)delivery : background_opaque(++producer->sent);
  if (delivery) delivery->order = ++producer->sent;
  if (mb__producer_singly(ctx)) mb__producer_flush(ctx, ALONE_MS);
  for (;;) {
    if (producer->single.on && !is_full(ctx))
      return send_behind(ctx, topic, key, value, headers, opaque, at_ms, errstr, errstr_size);
    rd_kafka_error_t *error = producer->single.on
                                  ? rd_kafka_error_new(RD_KAFKA_RESP_ERR__QUEUE_FULL, NULL)
                                  : produce(producer, handle, key, value, headers, opaque, at_ms);
    if (!error) {
      if (delivery)
        link_delivery(producer, delivery);
      else
        producer->background++;
      ctx->transaction.sent++;
      return MB_OK;
    }
    rd_kafka_resp_err_t code = producer->refused = rd_kafka_error_code(error);
    if (code != RD_KAFKA_RESP_ERR__QUEUE_FULL) {
      mb_err err = not_queued(ctx, topic, handle, error, errstr, errstr_size);
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
                       (int)mb__producer_queued(ctx));
    rd_kafka_poll(producer->rk, 10);
    drive(ctx);
  }
}

mb_err mb__producer_client_open(mb_context *ctx, mb_client **client, char *errstr,
                                size_t errstr_size) {
  mb_err err = mb__producer_open(ctx, errstr, errstr_size);
  if (!err) *client = mb__producer_client(ctx);
  return err;
}

const char *mb__producer_transactional_id(mb_context *ctx, char *buf, size_t size) {
  const char *id = mb__conf_str(ctx->conf, MB_OPT_transactional_id);
  if (id) return id;
  const char *instance = mb__conf_str(ctx->conf, MB_OPT_group_instance_id);
  if (!instance) instance = mb_config_get(ctx->conf, "consumer_name");
  snprintf(buf, size, "%s/%s/%s", ctx->group_name, ctx->topic, instance);
  return buf;
}
