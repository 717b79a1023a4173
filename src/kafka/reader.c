/* kafka/reader.c: reads a topic without being a member of any consumer group; for a group, if asked
 * to. Must not join one, nor know handlers or Lua. Called by bus/topics.c, kafka/count.c,
 * dlq/filter.c, dlq/parcel.c and dlq/read.c. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "kafka/conf.h"
#include "kafka/context.h"
#include "kafka/count.h"
#include "kafka/msg.h"
#include "kafka/poller.h"
#include "kafka/prefetch.h"
#include "kafka/reader.h"
#include "kafka/topics.h"

#define LOOK_EVERY 64         /* records, between looks at what is fetched ahead */
#define POLL_BYTES (4u << 20) /* of records taken and not handed over yet */

#define REQUEST_MS   10000
#define COMMITTED_MS 10000
#define COMMIT_MS    10000

typedef struct reader {
  mb_context *ctx;
  mb_client *client;
  rd_kafka_t *rk;            /* the client's */
  const char *topic, *group; /* group NULL = none */
  rd_kafka_queue_t *queue;
  mb_prefetch prefetch;
  mb_poller poller;
  rd_kafka_message_t *taken[MB_POLLER_MOST]; /* from at on they are not handed over yet; owned */
  size_t at, count;
  rd_kafka_topic_partition_list_t *list; /* what is assigned */
  int open;                              /* partitions not read to their end yet */
  bool *ended;                           /* by index in the list */
  int64_t *stop;                         /* the end each had when the read began */
  int64_t *next;       /* by index: the offset after the last record handed over; 0 = none */
  mb_trouble *trouble; /* the client's */
} reader;

static mb_request request_of(const reader *r) {
  return (mb_request){.topic = r->topic, .rights = "Read and Describe", .group = r->group};
}

static void note_trouble(reader *r, rd_kafka_resp_err_t code, const char *reason) {
  mb_request request = request_of(r);
  mb__trouble_note(mb__client_trouble(r->client), &r->ctx->login, code, reason, &request);
}

/* One that a request was answered with. */
static mb_err failed(const reader *r, rd_kafka_resp_err_t code, const char *what, char *errstr,
                     size_t errstr_size) {
  char text[MB_REFUSAL_MAX];
  mb_request request = request_of(r);
  if (mb__trouble_is_silence(code))
    return mb__client_silent(r->client, r->ctx->conf, code, what, errstr, errstr_size);
  mb__refusal_text(&r->ctx->login, code, rd_kafka_err2str(code), &request, text, sizeof text);
  return mb__error(mb__err_of(code), errstr, errstr_size, "%s: %s", what, text);
}

static void on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque) {
  reader *r = mb__client_owner(opaque);
  (void)rk;
  if (!r) return;
  r->ctx->login.certificate = mb__client_certificate(opaque);
  note_trouble(r, (rd_kafka_resp_err_t)code, reason);
}

static mb_err open_reader(reader *r, const char *group, char *errstr, size_t errstr_size) {
  rd_kafka_conf_t *conf = mb__config_reader(r->ctx->conf, errstr, errstr_size);
  if (!conf) return MB_ECONFIG;
  rd_kafka_conf_set_error_cb(conf, on_error);
  rd_kafka_conf_set_log_cb(conf, mb__client_log);
  if (r->ctx->embedded) rd_kafka_conf_set(conf, "fetch.wait.max.ms", "10", NULL, 0);
  if (group) rd_kafka_conf_set(conf, "group.id", group, NULL, 0);
  mb_err err = mb__client_open(r->ctx, RD_KAFKA_CONSUMER, "reader", conf, r, &r->client, errstr,
                               errstr_size);
  if (err) return err;
  r->rk = mb__client_handle(r->client);
  r->trouble = mb__client_trouble(r->client);
  rd_kafka_poll_set_consumer(r->rk);
  r->queue = rd_kafka_queue_get_consumer(r->rk);
  mb__prefetch_init(&r->prefetch, r->ctx->conf, r->queue);
  mb__poller_init(&r->poller, r->rk, r->queue);
  return MB_OK;
}

/* Go on where the group is, if it has committed anything. */
static mb_err go_on(reader *r, int32_t partition, int timeout_ms, int64_t *from, char *errstr,
                    size_t errstr_size) {
  rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
  rd_kafka_topic_partition_list_add(list, r->topic, partition);
  rd_kafka_resp_err_t code = mb__client_committed(r->client, &list, timeout_ms);
  if (!code) code = list->elems[0].err;
  if (!code && list->elems[0].offset >= 0) *from = list->elems[0].offset;
  rd_kafka_topic_partition_list_destroy(list);
  if (!code) return MB_OK;
  return failed(r, code, "the group's offsets", errstr, errstr_size);
}

/* The first offset at or after a time; -1 = unknown, also to the broker. */
static int64_t offset_since(reader *r, const char *topic, int32_t partition, int64_t ms,
                            int timeout_ms) {
  rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
  rd_kafka_topic_partition_list_add(list, topic, partition)->offset = ms;
  rd_kafka_resp_err_t code = mb__client_offsets_for_times(r->client, &list, timeout_ms);
  int64_t offset = code || list->elems[0].err ? -1 : list->elems[0].offset;
  rd_kafka_topic_partition_list_destroy(list);
  return offset < 0 ? -1 : offset;
}

/* Commit the offset after the last record that was handed over, partition by partition. */
static mb_err commit_read(reader *r, char *errstr, size_t errstr_size) {
  rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(r->list->cnt);
  for (int i = 0; i < r->list->cnt; i++)
    if (r->next[i] > 0)
      rd_kafka_topic_partition_list_add(list, r->list->elems[i].topic, r->list->elems[i].partition)
          ->offset = r->next[i];
  rd_kafka_resp_err_t code = list->cnt ? mb__client_commit(r->client, list, COMMIT_MS) : 0;
  rd_kafka_topic_partition_list_destroy(list);
  if (!code) return MB_OK;
  return failed(r, code, "the offsets read were not committed", errstr, errstr_size);
}

/* Where to begin, and where the end is now. Partitions with nothing in between are done already. */
static mb_err plan(reader *r, const char *topic, const mb_read_options *options, int timeout_ms,
                   char *errstr, size_t errstr_size) {
  int count;
  mb_err err =
      mb__topic_look(r->ctx, r->client, topic, MB_TOPIC_NEWS_US, &count, errstr, errstr_size);
  if (err) return err;
  if (options->partition >= count)
    return mb__error(MB_ENOENT, errstr, errstr_size, "topic \"%s\" has %d partitions, no number %d",
                     topic, count, (int)options->partition);
  if (options->offsets && options->offset_count < count) count = options->offset_count;
  r->list = rd_kafka_topic_partition_list_new(count);
  r->ended = calloc((size_t)count, sizeof *r->ended);
  r->stop = calloc((size_t)count, sizeof *r->stop);
  r->next = calloc((size_t)count, sizeof *r->next);
  if (!r->ended || !r->stop || !r->next)
    return mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
  for (int32_t i = 0; i < count; i++) {
    int64_t low, high, from = options->offset;
    if (options->partition >= 0 && options->partition != i) continue;
    if (options->offsets) from = options->offsets[i];
    err = mb__topic_ends(r->ctx, r->client, topic, i, timeout_ms, &low, &high, errstr, errstr_size);
    if (err) return err;
    if (from == -1 && options->since_ms > 0)
      from = offset_since(r, topic, i, options->since_ms, timeout_ms);
    if (options->group && (err = go_on(r, i, timeout_ms, &from, errstr, errstr_size))) return err;
    if (from == -1 || (from >= 0 && from < low))
      from = low;
    else if (from == -2)
      from = high;
    if (options->offsets) options->offsets[i] = from;
    if (from >= high && !options->follow) continue;
    r->stop[r->list->cnt] = high;
    rd_kafka_topic_partition_list_add(r->list, topic, i)->offset = from;
    r->open++;
  }
  rd_kafka_resp_err_t code = r->list->cnt ? mb__client_assign(r->client, r->list) : 0;
  if (!code) return MB_OK;
  return mb__error(mb__err_of(code), errstr, errstr_size, "assign: %s", rd_kafka_err2str(code));
}

static void end_partition(reader *r, int32_t partition, int64_t next, bool forced) {
  for (int i = 0; i < r->list->cnt; i++) {
    if (r->list->elems[i].partition != partition || r->ended[i]) continue;
    if (!forced && next < r->stop[i]) return;
    r->ended[i] = true;
    r->open--;
  }
}

/* Asked to end from outside? The host's descriptor is looked at only when nothing is to be read. */
static bool interrupted(const mb_context *ctx, bool quiet) {
  return atomic_load(&ctx->stop) || (quiet && mb__context_host_ends(ctx));
}

static void note(reader *r, const rd_kafka_message_t *record) {
  for (int i = 0; i < r->list->cnt; i++)
    if (r->list->elems[i].partition == record->partition) r->next[i] = record->offset + 1;
}

/* record is NULL when there was none to take. */
static void fetch_on(reader *r, const rd_kafka_message_t *record) {
  if (record) mb__prefetch_took(&r->prefetch, record);
  if (record && r->prefetch.taken < LOOK_EVERY) return;
  if (!mb__prefetch_is_low(&r->prefetch)) return;
  rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_copy(r->list);
  mb__prefetch_go_on(r->rk, list);
  rd_kafka_topic_partition_list_destroy(list);
}

/* Owned by the caller. NULL = none came in time. */
static rd_kafka_message_t *next_record(reader *r, int timeout_ms) {
  if (r->at == r->count) {
    r->at = 0;
    r->count = mb__poller_take(&r->poller, timeout_ms, r->taken, MB_POLLER_MOST, POLL_BYTES);
  }
  return r->at < r->count ? r->taken[r->at++] : NULL;
}

static mb_err pump(reader *r, const mb_read_options *options, mb_read_fn fn, void *opaque,
                   char *errstr, size_t errstr_size) {
  int64_t begin = mb__mono_us(), stall_us = (int64_t)options->stall_ms * 1000;
  int64_t end = options->timeout_ms < 0 ? INT64_MAX : begin + (int64_t)options->timeout_ms * 1000;
  int64_t stalled = stall_us ? begin + stall_us : INT64_MAX;
  while (r->open || options->follow) {
    int64_t now = mb__mono_us();
    int64_t left_ms = ((end < stalled ? end : stalled) - now) / 1000;
    if (left_ms <= 0) {
      if (options->follow) return MB_OK;
      return mb__error(MB_ETIMEOUT, errstr, errstr_size,
                       "the topic was not read to its end in time%s%s",
                       r->trouble->code ? ": " : "", r->trouble->text);
    }
    if (mb__err_of(r->trouble->code) == MB_EAUTH)
      return mb__error(MB_EAUTH, errstr, errstr_size, "%s", r->trouble->text);
    rd_kafka_message_t *record = next_record(r, left_ms < 100 ? (int)left_ms : 100);
    if (interrupted(r->ctx, !record)) {
      if (record) rd_kafka_message_destroy(record);
      return MB_OK;
    }
    fetch_on(r, record);
    if (!record) continue;
    bool more = true;
    if (!record->err) {
      mb_msg msg = {.record = record, .attempts = -1};
      more = fn(&msg, opaque);
      note(r, record);
      mb__msg_done(&msg);
      if (!options->follow) end_partition(r, record->partition, record->offset + 1, false);
    } else if (record->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
      if (!options->follow) end_partition(r, record->partition, record->offset, true);
    } else {
      note_trouble(r, record->err, rd_kafka_message_errstr(record));
    }
    rd_kafka_message_destroy(record);
    if (!more) return MB_OK;
    if (stall_us) stalled = mb__mono_us() + stall_us; /* what fn takes is no wait for records */
  }
  return MB_OK;
}

static void report_offsets(const reader *r, const mb_read_options *options) {
  for (int i = 0; options->offsets && r->list && i < r->list->cnt; i++) {
    int64_t next = r->next[i] > 0 ? r->next[i] : r->list->elems[i].offset;
    if (r->ended[i] && next < r->stop[i]) next = r->stop[i]; /* transactions' marks come last */
    options->offsets[r->list->elems[i].partition] = next;
  }
}

/* How long a single question may take. */
static int request_ms(const mb_read_options *options) {
  int ms = REQUEST_MS;
  if (options->timeout_ms >= 0 && options->timeout_ms < ms) ms = options->timeout_ms;
  if (options->stall_ms > 0 && options->stall_ms < ms) ms = options->stall_ms;
  return ms;
}

mb_err mb__reader_read(mb_context *ctx, const char *topic, const mb_read_options *options,
                       mb_read_fn fn, void *opaque, char *errstr, size_t errstr_size) {
  reader r = {.ctx = ctx, .topic = topic, .group = options ? options->group : NULL};
  if (!topic || !options || !fn)
    return mb__error(MB_EINVAL, errstr, errstr_size,
                     "mb_bus_read needs a topic, options and a function");
  int timeout_ms = request_ms(options);
  mb_err err = open_reader(&r, options->group, errstr, errstr_size);
  if (!err) err = plan(&r, topic, options, timeout_ms, errstr, errstr_size);
  if (!err) {
    err = pump(&r, options, fn, opaque, errstr, errstr_size);
    report_offsets(&r, options);
  }
  if (!err && options->group) err = commit_read(&r, errstr, errstr_size);
  while (r.at < r.count) rd_kafka_message_destroy(r.taken[r.at++]);
  if (r.list) rd_kafka_topic_partition_list_destroy(r.list);
  if (r.queue) rd_kafka_queue_destroy(r.queue);
  mb__client_close(r.client, 0, mb__mono_us());
  free(r.ended);
  free(r.stop);
  free(r.next);
  return err;
}

mb_err mb__reader_committed(mb_context *ctx, int64_t *offsets, int count, char *errstr,
                            size_t errstr_size) {
  reader r = {.ctx = ctx, .topic = ctx->topic, .group = ctx->group_name};
  mb_err err = open_reader(&r, ctx->group_name, errstr, errstr_size);
  if (err) return err;
  rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(count);
  for (int i = 0; i < count; i++) rd_kafka_topic_partition_list_add(list, ctx->topic, i);
  rd_kafka_resp_err_t code = mb__client_committed(r.client, &list, COMMITTED_MS);
  for (int i = 0; !code && i < count; i++) code = list->elems[i].err;
  if (code) err = failed(&r, code, "the group's offsets", errstr, errstr_size);
  for (int i = 0; !code && i < count; i++)
    offsets[i] = list->elems[i].offset < 0 ? -1 : list->elems[i].offset;
  rd_kafka_topic_partition_list_destroy(list);
  rd_kafka_queue_destroy(r.queue);
  mb__client_close(r.client, 0, mb__mono_us());
  return err;
}
