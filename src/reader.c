/* reader.c: reads a topic without being a member of any consumer group; for a group, if asked to.
 * Must not join one, nor know handlers or Lua.
 * Called by letters.c, parcel.c, replay_read.c and dlq.c, and through moonbus.h by users (tail,
 * lists of dead letters). */
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "prefetch.h"

#define LOOK_EVERY 64 /* records, between looks at what is fetched ahead */

#define COMMITTED_MS 10000

typedef struct reader {
  mb_bus *bus;
  rd_kafka_t *rk;
  rd_kafka_queue_t *queue;
  mb_prefetch prefetch;
  rd_kafka_topic_partition_list_t *list; /* what is assigned */
  int open;                              /* partitions not read to their end yet */
  bool *ended;                           /* by index in the list */
  int64_t *stop;                         /* the end each had when the read began */
  int64_t *next; /* by index: the offset after the last record handed over; 0 = none */
  rd_kafka_resp_err_t trouble;
  char trouble_text[256];
} reader;

static void on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque) {
  reader *r = opaque;
  (void)rk;
  r->trouble = (rd_kafka_resp_err_t)code;
  snprintf(r->trouble_text, sizeof r->trouble_text, "%s", reason);
}

static void on_log(const rd_kafka_t *rk, int level, const char *fac, const char *text) {
  reader *r = rd_kafka_opaque(rk);
  mb__log(&r->bus->log, level <= 2 ? MB_LOG_ERROR : MB_LOG_DEBUG, "librdkafka %s: %s", fac, text);
}

static mb_err open_reader(reader *r, const char *group, char *errstr, size_t errstr_size) {
  rd_kafka_conf_t *conf = mb__config_reader(r->bus->conf, errstr, errstr_size);
  if (!conf) return MB_ECONFIG;
  rd_kafka_conf_set_opaque(conf, r);
  rd_kafka_conf_set_error_cb(conf, on_error);
  rd_kafka_conf_set_log_cb(conf, on_log);
  if (r->bus->embedded) {
    rd_kafka_conf_set(conf, "bootstrap.servers", mb_broker_address(r->bus->embedded), NULL, 0);
    rd_kafka_conf_set(conf, "fetch.wait.max.ms", "10", NULL, 0);
  }
  if (group) rd_kafka_conf_set(conf, "group.id", group, NULL, 0);
  char text[512];
  r->rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof text);
  if (!r->rk) {
    rd_kafka_conf_destroy(conf);
    return mb__config_refused(r->bus->conf, "reader", text, errstr, errstr_size);
  }
  rd_kafka_set_log_queue(r->rk, NULL);
  rd_kafka_poll_set_consumer(r->rk);
  r->queue = rd_kafka_queue_get_consumer(r->rk);
  mb__prefetch_init(&r->prefetch, r->bus->conf, r->queue);
  return MB_OK;
}

/* Go on where the group is, if it has committed anything. */
static mb_err go_on(reader *r, const mb_read_options *options, const char *topic, int32_t partition,
                    int timeout_ms, int64_t *from, char *errstr, size_t errstr_size) {
  rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
  rd_kafka_topic_partition_list_add(list, topic, partition);
  rd_kafka_resp_err_t code = rd_kafka_committed(r->rk, list, timeout_ms);
  if (!code) code = list->elems[0].err;
  if (!code && list->elems[0].offset >= 0) *from = list->elems[0].offset;
  rd_kafka_topic_partition_list_destroy(list);
  if (!code) return MB_OK;
  return mb__error(mb__err_of(code), errstr, errstr_size, "offsets of group %s: %s", options->group,
                   rd_kafka_err2str(code));
}

/* The first offset at or after a time; -1 = unknown, or the broker cannot tell. */
static int64_t offset_since(reader *r, const char *topic, int32_t partition, int64_t ms,
                            int timeout_ms) {
  rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
  rd_kafka_topic_partition_list_add(list, topic, partition)->offset = ms;
  rd_kafka_resp_err_t code = rd_kafka_offsets_for_times(r->rk, list, timeout_ms);
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
  rd_kafka_resp_err_t code = list->cnt ? rd_kafka_commit(r->rk, list, 0) : 0;
  rd_kafka_topic_partition_list_destroy(list);
  if (!code) return MB_OK;
  return mb__error(mb__err_of(code), errstr, errstr_size, "the offsets read were not committed: %s",
                   rd_kafka_err2str(code));
}

/* Where to begin, and where the end is now. Partitions with nothing in between are done already. */
static mb_err plan(reader *r, const char *topic, const mb_read_options *options, int timeout_ms,
                   char *errstr, size_t errstr_size) {
  int count;
  mb_err err = mb__topic_look(r->bus, r->rk, topic, MB_TOPIC_NEWS_US, &count, errstr, errstr_size);
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
    err = mb__topic_ends(r->bus, r->rk, topic, i, timeout_ms, &low, &high, errstr, errstr_size);
    if (err) return err;
    if (from == -1 && options->since_ms > 0)
      from = offset_since(r, topic, i, options->since_ms, timeout_ms);
    if (options->group &&
        (err = go_on(r, options, topic, i, timeout_ms, &from, errstr, errstr_size)))
      return err;
    if (from == -1 || (from >= 0 && from < low))
      from = low;
    else if (from == -2)
      from = high;
    else if (from <= -3)
      from = high - (-3 - from) < low ? low : high - (-3 - from);
    if (options->offsets) options->offsets[i] = from;
    if (from >= high && !options->follow) continue;
    r->stop[r->list->cnt] = high;
    rd_kafka_topic_partition_list_add(r->list, topic, i)->offset = from;
    r->open++;
  }
  rd_kafka_resp_err_t code = r->list->cnt ? rd_kafka_assign(r->rk, r->list) : 0;
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
static bool interrupted(const mb_bus *bus, bool quiet) {
  struct pollfd fd = {.fd = bus->interrupt_fd, .events = POLLIN};
  return atomic_load(&bus->stop) || (quiet && fd.fd >= 0 && poll(&fd, 1, 0) > 0);
}

bool mb__bus_interrupted(const mb_bus *bus) {
  return interrupted(bus, true);
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
                       r->trouble_text[0] ? ": " : "", r->trouble_text);
    }
    if (mb__err_of(r->trouble) == MB_EAUTH)
      return mb__error(MB_EAUTH, errstr, errstr_size, "%s", r->trouble_text);
    rd_kafka_message_t *record = rd_kafka_consumer_poll(r->rk, left_ms < 100 ? (int)left_ms : 100);
    if (interrupted(r->bus, !record)) {
      if (record) rd_kafka_message_destroy(record);
      return MB_OK;
    }
    fetch_on(r, record);
    if (!record) continue;
    if (stall_us) stalled = now + stall_us;
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
      r->trouble = record->err;
      snprintf(r->trouble_text, sizeof r->trouble_text, "%s", rd_kafka_message_errstr(record));
    }
    rd_kafka_message_destroy(record);
    if (!more) return MB_OK;
  }
  return MB_OK;
}

static void tell_offsets(const reader *r, const mb_read_options *options) {
  for (int i = 0; options->offsets && r->list && i < r->list->cnt; i++) {
    int64_t next = r->next[i] > 0 ? r->next[i] : r->list->elems[i].offset;
    if (r->ended[i] && next < r->stop[i]) next = r->stop[i]; /* transactions' marks come last */
    options->offsets[r->list->elems[i].partition] = next;
  }
}

mb_err mb_bus_read(mb_bus *bus, const char *topic, const mb_read_options *options, mb_read_fn fn,
                   void *opaque, char *errstr, size_t errstr_size) {
  mb__bus_forget_stop(bus);
  return mb__bus_read(bus, topic, options, fn, opaque, errstr, errstr_size);
}

void mb__bus_forget_stop(mb_bus *bus) {
  if (!bus->consuming) atomic_store(&bus->stop, false);
}

mb_err mb__bus_read(mb_bus *bus, const char *topic, const mb_read_options *options, mb_read_fn fn,
                    void *opaque, char *errstr, size_t errstr_size) {
  reader r = {.bus = bus};
  if (!topic || !options || !fn)
    return mb__error(MB_EINVAL, errstr, errstr_size,
                     "mb_bus_read needs a topic, options and a function");
  int timeout_ms =
      options->timeout_ms < 0 || options->timeout_ms > 10000 ? 10000 : options->timeout_ms;
  mb_err err = open_reader(&r, options->group, errstr, errstr_size);
  if (!err) err = plan(&r, topic, options, timeout_ms, errstr, errstr_size);
  if (!err) {
    err = pump(&r, options, fn, opaque, errstr, errstr_size);
    tell_offsets(&r, options);
  }
  if (!err && options->group) err = commit_read(&r, errstr, errstr_size);
  if (r.list) rd_kafka_topic_partition_list_destroy(r.list);
  if (r.queue) rd_kafka_queue_destroy(r.queue);
  if (r.rk) rd_kafka_destroy(r.rk);
  free(r.ended);
  free(r.stop);
  free(r.next);
  return err;
}

mb_err mb_bus_committed(mb_bus *bus, int64_t *offsets, int count, char *errstr,
                        size_t errstr_size) {
  reader r = {.bus = bus};
  mb_err err = open_reader(&r, bus->group, errstr, errstr_size);
  if (err) return err;
  rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(count);
  for (int i = 0; i < count; i++) rd_kafka_topic_partition_list_add(list, bus->topic, i);
  rd_kafka_resp_err_t code = rd_kafka_committed(r.rk, list, COMMITTED_MS);
  for (int i = 0; !code && i < count; i++) code = list->elems[i].err;
  if (code)
    err = mb__error(mb__err_of(code), errstr, errstr_size, "offsets of group %s: %s", bus->group,
                    rd_kafka_err2str(code));
  for (int i = 0; !code && i < count; i++)
    offsets[i] = list->elems[i].offset < 0 ? -1 : list->elems[i].offset;
  rd_kafka_topic_partition_list_destroy(list);
  rd_kafka_queue_destroy(r.queue);
  rd_kafka_destroy(r.rk);
  return err;
}
