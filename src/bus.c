/* bus.c: the bus's life, and the line an event travels: consumer -> dispatch -> settle -> next.
 * Must not know Lua, nor decide what an outcome means (settle.c does).
 * Called by the public header's users and by the Lua side. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "internal.h"

#define SLICE_US        100000 /* how long a step works before it lets others in */
#define WAIT_MAX_MS     1000
#define POISON_FLUSH_MS 5000

void mb__rdkafka_log(const rd_kafka_t *rk, int level, const char *fac, const char *text) {
  mb_bus *bus = rd_kafka_opaque(rk);
  /* What librdkafka mends by itself it still calls an error; what it cannot, the error callbacks
   * tell. */
  mb_level ours = level <= 2 ? MB_LOG_ERROR : MB_LOG_DEBUG;
  if (bus) mb__log(&bus->log, ours, "librdkafka %s: %s", fac, text);
}

/* xorshift64*: the jitter needs no more. */
static double random_share(mb_bus *bus) {
  bus->random ^= bus->random >> 12;
  bus->random ^= bus->random << 25;
  bus->random ^= bus->random >> 27;
  return (double)((bus->random * 2685821657736338717ULL) >> 11) / 9007199254740992.0;
}

/* ---- life ---- */

static void read_rules(mb_bus *bus) {
  bus->rules = (mb_rules){.max_retries = (int)mb__conf_int(bus->conf, MB_OPT_max_retries),
                          .base_s = mb__conf_num(bus->conf, MB_OPT_retry_base_delay),
                          .max_s = mb__conf_num(bus->conf, MB_OPT_retry_max_delay),
                          .jitter = mb__conf_num(bus->conf, MB_OPT_retry_jitter),
                          .dlq = mb__conf_bool(bus->conf, MB_OPT_enable_dlq)};
  bus->handler_timeout_us = mb__conf_int(bus->conf, MB_OPT_handler_timeout_ms) * 1000;
}

mb_bus *mb_bus_new(const mb_config *conf, char *errstr, size_t errstr_size) {
  mb_bus *bus = calloc(1, sizeof *bus);
  if (!bus) goto no_memory;
  bus->wake_fd = bus->interrupt_fd = -1;
  bus->conf = mb__config_copy(conf);
  if (!bus->conf) goto no_memory;
  if (mb_config_check(bus->conf, errstr, errstr_size)) goto failed;
  mb__log_init(&bus->log, bus->conf);
  bus->topic = strdup(mb_config_get(bus->conf, "topic_name"));
  bus->dlq_topic = strdup(mb_config_get(bus->conf, "dlq_topic_name"));
  bus->group = strdup(mb_config_get(bus->conf, "consumer_group"));
  bus->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (!bus->topic || !bus->dlq_topic || !bus->group) goto no_memory;
  if (bus->wake_fd < 0) {
    mb__error(MB_EIO, errstr, errstr_size, "eventfd: %s", strerror(errno));
    goto failed;
  }
  if (strcmp(mb_config_get(bus->conf, "bootstrap_servers"), "embedded") == 0) {
    bus->embedded = mb__broker_shared(errstr, errstr_size);
    if (!bus->embedded) goto failed;
  }
  bus->random = (uint64_t)mb__mono_us() ^ ((uint64_t)(uintptr_t)bus << 16) ^ 0x9e3779b97f4a7c15ULL;
  bus->reopen_s = 0;
  read_rules(bus);
  return bus;
no_memory:
  mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
failed:
  mb_bus_free(bus);
  return NULL;
}

void mb_bus_free(mb_bus *bus) {
  if (!bus) return;
  mb_bus_disconnect(bus, NULL, 0);
  mb__dispatch_free(&bus->dispatch);
  mb__ids_free(&bus->result.failed);
  mb__encoder_free(&bus->encoder);
  mb__broker_release(bus->embedded);
  if (bus->wake_fd >= 0) close(bus->wake_fd);
  mb_config_free(bus->conf);
  free(bus->topic);
  free(bus->dlq_topic);
  free(bus->group);
  free(bus);
}

mb_config *mb_bus_config(mb_bus *bus) {
  return bus->conf;
}
bool mb_bus_is_connected(const mb_bus *bus) {
  return bus->connected;
}
bool mb_bus_is_consuming(const mb_bus *bus) {
  return bus->consuming;
}

void mb_bus_set_log(mb_bus *bus, mb_log_fn log, void *opaque) {
  bus->log.fn = log;
  bus->log.opaque = opaque;
}

void mb_bus_on_publish_error(mb_bus *bus, mb_publish_error_fn fn, void *opaque) {
  bus->on_publish_error = fn;
  bus->on_publish_error_opaque = opaque;
}

static void warn(const char *text, void *opaque) {
  mb_bus *bus = opaque;
  mb__log(&bus->log, MB_LOG_WARN, "%s", text);
}

mb_err mb__bus_client(mb_bus *bus, rd_kafka_t **rk, char *errstr, size_t errstr_size) {
  mb_err err = mb__producer_open(bus, errstr, errstr_size);
  if (!err) *rk = mb__producer_handle(bus);
  return err;
}

mb_err mb_bus_connect(mb_bus *bus, int timeout_ms, char *errstr, size_t errstr_size) {
  if (bus->connected) return MB_OK;
  mb__config_warnings(bus->conf, warn, bus);
  mb_err err = mb__producer_open(bus, errstr, errstr_size);
  if (!err) err = mb__producer_check(bus, timeout_ms, errstr, errstr_size);
  if (err) {
    mb__producer_close(bus, 0);
    return err;
  }
  bus->connected = true;
  bus->stats.connected_at_us = mb__now_us();
  mb__log(&bus->log, MB_LOG_DEBUG, "connected to %s",
          mb_config_get(bus->conf, "bootstrap_servers"));
  return MB_OK;
}

/* Finish what is under way, commit, leave the group. */
static void end_consuming(mb_bus *bus) {
  if (!bus->consuming) return;
  int timeout_ms = (int)(mb__conf_num(bus->conf, MB_OPT_shutdown_timeout) * 1000);
  size_t parked = mb__consumer_parked(bus);
  if (parked) mb__producer_flush(bus, timeout_ms < 5000 ? timeout_ms : 5000);
  parked = mb__consumer_parked(bus);
  if (parked)
    mb__log(&bus->log, MB_LOG_INFO,
            "%zu events still waited for a retry; they are delivered again at the next start",
            parked);
  mb__consumer_close(bus, timeout_ms);
  bus->consuming = false;
  bus->reopen_us = 0;
  atomic_store(&bus->stop, false);
}

mb_err mb_bus_disconnect(mb_bus *bus, char *errstr, size_t errstr_size) {
  if (bus->in_handler || bus->in_callback)
    return mb__error(
        MB_ESTATE, errstr, errstr_size,
        "a handler or callback cannot disconnect its own bus; call stop_consuming, and disconnect "
        "once consumption has ended");
  end_consuming(bus);
  int timeout_ms = (int)(mb__conf_num(bus->conf, MB_OPT_shutdown_timeout) * 1000);
  size_t failed = mb__producer_close(bus, timeout_ms);
  bus->connected = false;
  if (!failed) return MB_OK;
  return mb__error(MB_EDELIVERY, errstr, errstr_size,
                   "%zu queued events were not delivered within shutdown_timeout", failed);
}

/* ---- publishing ---- */

static mb_err encode_all(mb_bus *bus, mb_batch *batch, const mb_event *events, size_t count,
                         char *errstr, size_t errstr_size) {
  for (size_t i = 0; i < count; i++) {
    mb_err err = mb__encode(&events[i], &bus->encoder, errstr, errstr_size);
    if (!err && mb__batch_add(batch, &bus->encoder))
      err = mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
    if (err) return err;
  }
  return MB_OK;
}

static mb_err publish(mb_bus *bus, const mb_event *events, size_t count, bool background,
                      mb_receipt *receipts, size_t *queued, char *errstr, size_t errstr_size) {
  if (!bus->connected)
    return mb__error(MB_ESTATE, errstr, errstr_size,
                     "the bus is not connected; call connect first");
  if (bus->in_callback)
    return mb__error(MB_ESTATE, errstr, errstr_size, "a callback cannot publish");
  if (!count) return MB_OK;
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
  return publish(bus, events, count, false, receipts, NULL, errstr, errstr_size);
}

mb_err mb_bus_publish_background(mb_bus *bus, const mb_event *events, size_t count, size_t *queued,
                                 char *errstr, size_t errstr_size) {
  if (queued) *queued = 0;
  return publish(bus, events, count, true, NULL, queued, errstr, errstr_size);
}

mb_err mb_bus_flush(mb_bus *bus, int timeout_ms, char *errstr, size_t errstr_size) {
  if (!mb__producer_flush(bus, timeout_ms)) return MB_OK;
  return mb__error(MB_ETIMEOUT, errstr, errstr_size, "%zu events are still on their way",
                   mb__producer_queued(bus));
}

/* ---- subscribing ---- */

mb_err mb_bus_subscribe(mb_bus *bus, const char *event_type, mb_handler_fn handler, void *opaque,
                        void (*free_opaque)(void *), uint32_t *id) {
  if (handler && (!event_type || *event_type))
    return mb__dispatch_add(&bus->dispatch, event_type, handler, opaque, free_opaque, id);
  if (free_opaque) free_opaque(opaque);
  return MB_EINVAL;
}

mb_err mb_bus_unsubscribe(mb_bus *bus, uint32_t id) {
  return mb__dispatch_remove(&bus->dispatch, id);
}

/* ---- the line of one event ---- */

/* A settled event that was never parked. */
static void pass(mb_bus *bus, mb_part *part, rd_kafka_message_t *record) {
  part->next = record->offset + 1;
  mb__watch_next(part->lot.watch, part->next);
  mb__consumer_count_settled(bus);
  rd_kafka_message_destroy(record);
}

void mb__bus_settled(mb_bus *bus, mb_parked *parked) {
  mb_part *part = mb__part_of(parked->lot);
  mb__lot_settle(parked->lot, parked);
  mb__consumer_count_settled(bus);
  mb__consumer_balance(bus, part);
}

static mb_bytes lane_key(const mb_bus *bus, const rd_kafka_message_t *record) {
  if (mb__conf_is(bus->conf, MB_OPT_retry_scope, "partition") || !record->key)
    return (mb_bytes){"", 0};
  return (mb_bytes){record->key, record->key_len};
}

static mb_parked *park(mb_bus *bus, mb_part *part, rd_kafka_message_t *record) {
  mb_parked *parked = mb__lot_park(&part->lot, record, lane_key(bus, record));
  if (parked) {
    part->next = record->offset + 1;
    mb__watch_next(part->lot.watch, part->next);
    mb__consumer_balance(bus, part);
    return parked;
  }
  /* Without memory to park it, the event must come again: nothing after it may be committed. */
  mb__log(&bus->log, MB_LOG_ERROR, "out of memory: partition %d is read again from offset %lld",
          (int)part->id, (long long)record->offset);
  mb__consumer_rewind(bus, part, record->offset);
  rd_kafka_message_destroy(record);
  return NULL;
}

static void keep_failure(mb_parked *parked, const mb_result *result) {
  mb_ids only = {0};
  if (!parked->fail) parked->fail = malloc(sizeof *parked->fail);
  if (parked->fail) *parked->fail = result->fail;
  for (size_t i = 0; i < result->failed.count; i++)
    if (!mb__ids_add(&only, result->failed.id[i])) break;
  mb__ids_free(&parked->failed);
  parked->failed = only;
  if (result->rejected_count) parked->rejected = true;
}

static void drop(mb_bus *bus, const rd_kafka_message_t *record, const char *reason) {
  bus->stats.events_dropped++;
  mb__log(&bus->log, MB_LOG_WARN, "event at %s[%d] offset %lld dropped (%s): enable_dlq is false",
          bus->topic, (int)record->partition, (long long)record->offset, reason);
}

static void log_failure(mb_bus *bus, const rd_kafka_message_t *record, int attempt,
                        const mb_verdict *verdict) {
  char then[64];
  if (verdict->kind == MB_RETRY)
    snprintf(then, sizeof then, "retry in %.3f s", (double)verdict->delay_us / 1e6);
  else
    snprintf(then, sizeof then, "%s", verdict->kind == MB_DEAD ? "dead letter" : "dropped");
  mb__log(&bus->log, MB_LOG_WARN, "%s[%d] offset %lld, attempt %d failed: %s: %s; %s", bus->topic,
          (int)record->partition, (long long)record->offset, attempt, bus->result.fail.type,
          bus->result.fail.message, then);
}

/* Do what settle.c said. parked is NULL on the first run. */
static void apply(mb_bus *bus, mb_part *part, rd_kafka_message_t *record, mb_parked *parked,
                  mb_verdict verdict, int attempts) {
  if (verdict.kind == MB_DONE || verdict.kind == MB_DROP) {
    if (verdict.kind == MB_DONE)
      bus->stats.events_processed_success++;
    else
      drop(bus, record, verdict.reason);
    if (parked)
      mb__bus_settled(bus, parked);
    else
      pass(bus, part, record);
    return;
  }
  if (!parked && !(parked = park(bus, part, record))) return;
  keep_failure(parked, &bus->result);
  parked->attempts = attempts + (verdict.kind == MB_RETRY);
  parked->reason = verdict.reason;
  if (verdict.kind == MB_RETRY) {
    bus->stats.retries++;
    mb__lot_due(&part->lot, parked, MB_BACKOFF, mb__mono_us() + verdict.delay_us);
  } else {
    mb__dlq_write(bus, parked);
  }
}

static void run_handlers(mb_bus *bus, const mb_msg *msg, const mb_ids *only) {
  int64_t begin = bus->watch || bus->handler_timeout_us ? mb__mono_us() : 0;
  if (bus->watch) mb__watch_begin(bus->watch, msg->record->partition, msg->record->offset, begin);
  bus->in_handler = true;
  mb__dispatch_run(&bus->dispatch, msg, msg->event_type, only, &bus->result);
  bus->in_handler = false;
  if (bus->watch) mb__watch_end(bus->watch);
  if (!bus->handler_timeout_us) return;
  int64_t took = mb__mono_us() - begin;
  if (took > bus->handler_timeout_us)
    mb__log(&bus->log, MB_LOG_WARN,
            "%s[%d] offset %lld: its handlers took %.3f s (handler_timeout_ms %lld)", bus->topic,
            (int)msg->record->partition, (long long)msg->record->offset, (double)took / 1e6,
            (long long)(bus->handler_timeout_us / 1000));
}

static const char *death_reason(const char *noted) {
  static const char *const known[] = {"handler_timeout", "out_of_memory"};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strcmp(noted, known[i]) == 0) return known[i];
  return "worker_crashed";
}

/* The result of an event that its workers died with too often to run it again. */
static void condemn(mb_bus *bus, int deaths, const char *noted) {
  mb_result *result = &bus->result;
  *result =
      (mb_result){.rejected_count = 1, .reason = death_reason(noted), .failed = result->failed};
  result->failed.count = 0;
  mb_fail_set(&result->fail, "WorkerDied",
              "%d worker%s died with this event in hand, the last by %s", deaths,
              deaths == 1 ? "" : "s", noted);
}

/* Run the handlers of one event and settle it. parked is NULL on the first run. */
static void handle(mb_bus *bus, mb_part *part, rd_kafka_message_t *record, mb_bytes type,
                   mb_parked *parked) {
  mb_msg msg = {.record = record, .event_type = type, .attempts = parked ? parked->attempts : -1};
  mb_result *result = &bus->result;
  bool again = parked && parked->failed.count;
  const char *noted = NULL;
  int deaths = mb__watch_deaths(bus->watch, record->partition, record->offset, &noted);
  if (deaths)
    msg.attempts =
        deaths + (parked ? parked->attempts : mb__record_count(record, "retry_count", 0));
  if (deaths && msg.attempts > bus->rules.max_retries) {
    condemn(bus, deaths, noted);
  } else if (!type.data) {
    *result = (mb_result){.undecodable = true, .rejected_count = 1, .failed = result->failed};
    result->failed.count = 0;
    mb_fail_set(&result->fail, "DeserializationError", "%s",
                record->payload ? "neither the value nor the headers have an event_type"
                                : "the record has no value (a tombstone) and no event_type header");
  } else {
    run_handlers(bus, &msg, again ? &parked->failed : NULL);
  }
  mb__msg_done(&msg);
  bool good = !result->failed_count && !result->rejected_count;
  int attempts = msg.attempts >= 0 ? msg.attempts
                 : good            ? 0
                                   : mb__record_count(record, "retry_count", 0);
  mb_verdict verdict = mb__settle(&bus->rules, result, attempts, parked && parked->rejected,
                                  good ? 0 : random_share(bus));
  if (!good) {
    if (!result->undecodable) bus->stats.events_processed_failed++;
    if (!result->undecodable)
      bus->stats.handler_errors += (uint64_t)(result->failed_count + result->rejected_count);
    bus->stats.last_error_at_us = mb__now_us();
    log_failure(bus, record, attempts + 1, &verdict);
  }
  int32_t partition = record->partition;
  int64_t offset = record->offset;
  apply(bus, part, record, parked, verdict, attempts);
  if (!deaths) return;
  /* Where workers die, this one may be next: the dead letter is settled before another event runs.
   */
  if (verdict.kind == MB_DEAD) mb__producer_flush(bus, POISON_FLUSH_MS);
  mb__watch_bury(bus->watch, partition, offset);
}

/* A record fresh from the consumer. */
static void arrive(mb_bus *bus, mb_part *part, rd_kafka_message_t *record) {
  bus->stats.events_consumed++;
  /* Settled by a worker that died before it could commit so. */
  if (mb__watch_settled(part->lot.watch, record->offset)) {
    pass(bus, part, record);
    return;
  }
  if (part->lot.count && mb__lot_holds(&part->lot, lane_key(bus, record))) {
    park(bus, part, record);
    return;
  }
  mb_bytes type = mb__msg_type(record);
  if (type.data && !mb__dispatch_wants(&bus->dispatch, type)) {
    bus->stats.events_skipped++;
    pass(bus, part, record);
    return;
  }
  handle(bus, part, record, type, NULL);
}

/* A parked event whose time has come. */
static void resume(mb_bus *bus, mb_part *part, mb_parked *parked) {
  parked->due_us = INT64_MAX;
  if (parked->state == MB_TO_DLQ) {
    mb__dlq_write(bus, parked);
    return;
  }
  /* Those that waited behind it have not run yet; a handler unsubscribed meanwhile leaves none. */
  mb_bytes type = mb__msg_type(parked->record);
  if (type.data && !mb__dispatch_wants(&bus->dispatch, type)) {
    bus->stats.events_skipped++;
    mb__bus_settled(bus, parked);
    return;
  }
  if (!parked->failed.count && !parked->attempts)
    parked->attempts = mb__record_count(parked->record, "retry_count", 0);
  handle(bus, part, parked->record, type, parked);
}

/* ---- consuming ---- */

void mb__bus_watch(mb_bus *bus, mb_watch *watch, int worker, int index) {
  bus->watch = mb__watch_bus(watch, worker, index, bus->topic, bus->group);
  bus->watch_fresh = bus->watch != NULL;
  if (!bus->watch) return;
  mb__watch_limits(bus->watch, bus->handler_timeout_us,
                   mb__conf_int(bus->conf, MB_OPT_worker_memory_max_bytes),
                   (int64_t)(mb__conf_num(bus->conf, MB_OPT_shutdown_timeout) * 1e6));
}

mb_err mb_bus_start(mb_bus *bus, bool auto_reconnect, char *errstr, size_t errstr_size) {
  if (!bus->connected)
    return mb__error(MB_ESTATE, errstr, errstr_size,
                     "the bus is not connected; call connect first");
  if (bus->consuming)
    return mb__error(MB_ESTATE, errstr, errstr_size, "the bus is consuming already");
  mb_err err = MB_OK;
  if (bus->rules.dlq) err = mb__dlq_check(bus, errstr, errstr_size);
  if (!err) err = mb__consumer_open(bus, errstr, errstr_size);
  if (err) return err;
  atomic_store(&bus->stop, false);
  bus->auto_reconnect = auto_reconnect;
  bus->consuming = true;
  bus->reopen_us = 0;
  bus->reopen_s = 0;
  mb__log(&bus->log, MB_LOG_INFO, "group %s: joining, topic %s", bus->group, bus->topic);
  return MB_OK;
}

/* Consumption broke: end it, or set a time for a new consumer. */
static mb_err broken(mb_bus *bus, mb_err err, const char *why, char *errstr, size_t errstr_size) {
  mb__consumer_close(bus, 0);
  if (!bus->auto_reconnect) {
    bus->consuming = false;
    return mb__error(err, errstr, errstr_size, "consumption ended: %s", why);
  }
  double least = (double)mb__conf_int(bus->conf, MB_OPT_reconnect_backoff_ms) / 1e3;
  double most = (double)mb__conf_int(bus->conf, MB_OPT_reconnect_backoff_max_ms) / 1e3;
  bus->reopen_s = bus->reopen_s > 0 ? bus->reopen_s * 2 : least;
  if (bus->reopen_s > most) bus->reopen_s = most;
  bus->reopen_us = mb__mono_us() + (int64_t)(bus->reopen_s * 1e6);
  bus->stats.last_error_at_us = mb__now_us();
  mb__log(&bus->log, MB_LOG_ERROR, "the consumer stopped: %s; a new one in %.1f s", why,
          bus->reopen_s);
  return MB_OK;
}

static mb_err reopen(mb_bus *bus, char *errstr, size_t errstr_size) {
  char why[256] = "";
  bus->reopen_us = 0;
  bus->stats.reconnections++;
  mb_err err = mb__consumer_open(bus, why, sizeof why);
  return err ? broken(bus, err, why, errstr, errstr_size) : MB_OK;
}

static bool run_due(mb_bus *bus, int64_t now_us) {
  bool any = false;
  mb_part *part;
  for (size_t i = 0; (part = mb__consumer_part_at(bus, i)); i++) {
    mb_parked *parked;
    while (!atomic_load(&bus->stop) && (parked = mb__lot_next(&part->lot, now_us))) {
      resume(bus, part, parked);
      any = true;
      if (mb__mono_us() - now_us > SLICE_US) return true;
    }
  }
  return any;
}

static mb_err work(mb_bus *bus, bool *any, char *errstr, size_t errstr_size) {
  *any = mb__producer_poll(bus) > 0;
  if (!bus->consuming) return MB_OK;
  if (atomic_load(&bus->stop)) {
    end_consuming(bus);
    *any = true;
    return MB_OK;
  }
  int64_t begin = mb__mono_us();
  if (bus->reopen_us) return begin >= bus->reopen_us ? reopen(bus, errstr, errstr_size) : MB_OK;
  char why[256] = "";
  mb_err err = mb__consumer_gather(bus, why, sizeof why);
  if (err) return broken(bus, err, why, errstr, errstr_size);
  if (run_due(bus, begin)) *any = true;
  uint64_t consumed = bus->stats.events_consumed;
  mb_part *part;
  rd_kafka_message_t *record;
  while (!atomic_load(&bus->stop) && (record = mb__consumer_take(bus, &part))) {
    arrive(bus, part, record);
    *any = true;
    bus->reopen_s = 0;
    if (mb__mono_us() - begin > SLICE_US) break;
  }
  if (bus->stats.events_consumed != consumed) bus->stats.last_consume_at_us = mb__now_us();
  mb__consumer_commit_due(bus, mb__mono_us());
  if (mb__consumer_pending(bus) || atomic_load(&bus->stop)) *any = true;
  return MB_OK;
}

int mb_bus_fd(const mb_bus *bus) {
  return bus->wake_fd;
}

int mb_bus_wait_ms(const mb_bus *bus) {
  int64_t due = INT64_MAX, now = mb__mono_us();
  if (bus->in_handler) return WAIT_MAX_MS;
  if (atomic_load(&bus->stop) || mb__consumer_pending(bus)) return 0;
  if (bus->reopen_us)
    due = bus->reopen_us;
  else if (bus->consumer)
    due = mb__consumer_due_us(bus);
  if (due <= now) return 0;
  return due - now > WAIT_MAX_MS * 1000 ? WAIT_MAX_MS : (int)((due - now + 999) / 1000);
}

mb_err mb_bus_step(mb_bus *bus, int timeout_ms, char *errstr, size_t errstr_size) {
  uint64_t count;
  bool any = false;
  /* Cleared before the work: what arrives from here on wakes the next wait. */
  while (read(bus->wake_fd, &count, sizeof count) > 0) continue;
  if (bus->in_handler) { /* a handler that waits: reports still come in, events do not */
    mb__producer_poll(bus);
    return MB_OK;
  }
  mb_err err = work(bus, &any, errstr, errstr_size);
  if (err || any || !timeout_ms) return err;
  int wait_ms = mb_bus_wait_ms(bus);
  if (timeout_ms > 0 && timeout_ms < wait_ms) wait_ms = timeout_ms;
  struct pollfd fd = {.fd = bus->wake_fd, .events = POLLIN};
  if (poll(&fd, 1, wait_ms) > 0)
    while (read(bus->wake_fd, &count, sizeof count) > 0) continue;
  return work(bus, &any, errstr, errstr_size);
}

mb_err mb_bus_run(mb_bus *bus, char *errstr, size_t errstr_size) {
  mb_err err = bus->consuming ? MB_OK : mb_bus_start(bus, true, errstr, errstr_size);
  while (!err && bus->consuming) err = mb_bus_step(bus, -1, errstr, errstr_size);
  return err;
}

void mb_bus_stop(mb_bus *bus) {
  static const uint64_t one = 1;
  int saved = errno;
  atomic_store(&bus->stop, true);
  ssize_t written = write(bus->wake_fd, &one, sizeof one);
  (void)written;
  errno = saved;
}

/* ---- what can be asked of it ---- */

void mb_bus_stats(mb_bus *bus, mb_stats *stats) {
  *stats = bus->stats;
  stats->events_parked = mb__consumer_parked(bus);
  stats->publish_queued = mb__producer_queued(bus);
  stats->lag = mb__consumer_lag(bus);
  stats->assigned_count = (uint32_t)mb__consumer_part_count(bus);
}

bool mb_bus_is_idle(mb_bus *bus) {
  return mb__consumer_at_end(bus) && !mb__producer_queued(bus);
}
