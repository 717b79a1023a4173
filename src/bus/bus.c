/* bus/bus.c: the life of a bus: made, connected, stepped, asked, closed.
 * Must not know Lua, nor what becomes of an event (deliver/deliver.c, handlers/settle.c).
 * Called by the public header's users and by the Lua side. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bus/internal.h"
#include "bus/publish.h"
#include "deliver/verdict.h"
#include "kafka/broker.h"

#define SLICE_US    100000 /* how long a step works before it lets others in */
#define WAIT_MAX_MS 1000
#define REOPEN_MS   5000    /* for a transactional producer to be ready again */
#define LEAVE_MS    2000    /* for a consumer to leave its group */
#define SILENT_US   1000000 /* at a stop, for a broker of which nothing was heard just before */
#define FLUSH_MS    250     /* between looks at what the broker has acknowledged */

/* When a stop last gave up a broker that did not answer: the next bus has the same one, most
 * likely.
 */
static _Thread_local int64_t silent_us;

/* ---- life ---- */

static void read_rules(mb_bus *bus) {
  bus->group.rules = (mb_rules){
      .max_retries = (int)mb__conf_int(bus->ctx.conf, MB_OPT_max_retries),
      .base_s = mb__conf_num(bus->ctx.conf, MB_OPT_retry_base_delay),
      .max_s = mb__conf_num(bus->ctx.conf, MB_OPT_retry_max_delay),
      .jitter = mb__conf_num(bus->ctx.conf, MB_OPT_retry_jitter),
      .dlq = mb__conf_bool(bus->ctx.conf, MB_OPT_enable_dlq),
      .halt_undecodable = mb__conf_is(bus->ctx.conf, MB_OPT_on_undecodable, "stop"),
      .breaker = {.run = (uint32_t)mb__conf_int(bus->ctx.conf, MB_OPT_dlq_breaker_run),
                  .ratio = mb__conf_num(bus->ctx.conf, MB_OPT_dlq_breaker_ratio),
                  .window = (uint32_t)mb__conf_int(bus->ctx.conf, MB_OPT_dlq_breaker_window)},
      .breaker_pause_us = mb__conf_int(bus->ctx.conf, MB_OPT_dlq_breaker_pause_ms) * 1000};
  bus->deliver.unknown_dead = mb__conf_is(bus->ctx.conf, MB_OPT_on_unknown, "dlq");
  bus->deliver.tracing = mb__conf_bool(bus->ctx.conf, MB_OPT_enable_tracing);
  bus->ctx.transaction.on = mb__conf_is(bus->ctx.conf, MB_OPT_delivery, "exactly_once");
  bus->deliver.handler_timeout_us = mb__conf_int(bus->ctx.conf, MB_OPT_handler_timeout_ms) * 1000;
}

mb_bus *mb_bus_new(const mb_config *conf, char *errstr, size_t errstr_size) {
  if (!conf) {
    mb__error(MB_EINVAL, errstr, errstr_size, "mb_bus_new needs a configuration");
    return NULL;
  }
  mb_bus *bus = calloc(1, sizeof *bus);
  if (!bus) goto no_memory;
  bus->ctx.wake_fd = bus->ctx.interrupt_fd = -1;
  bus->deliver.ctx = bus->group.ctx = &bus->ctx;
  bus->deliver.group = &bus->group;
  bus->group.charge = mb__verdict_charge;
  bus->group.charge_opaque = &bus->deliver;
  bus->ctx.conf = mb__config_copy(conf);
  if (!bus->ctx.conf) goto no_memory;
  bus->ctx.login.conf = bus->ctx.conf;
  if (mb_config_check(bus->ctx.conf, errstr, errstr_size)) goto failed;
  mb__log_init(&bus->ctx.log, mb_config_get(bus->ctx.conf, "log_level"),
               mb__conf_is(bus->ctx.conf, MB_OPT_log_format, "json"));
  if (mb__conf_bool(bus->ctx.conf, MB_OPT_enable_metrics) &&
      !(bus->deliver.metrics = calloc(1, sizeof *bus->deliver.metrics)))
    goto no_memory;
  bus->ctx.topic = strdup(mb_config_get(bus->ctx.conf, "topic_name"));
  bus->ctx.dlq_topic = strdup(mb_config_get(bus->ctx.conf, "dlq_topic_name"));
  bus->ctx.group_name = strdup(mb_config_get(bus->ctx.conf, "consumer_group"));
  bus->ctx.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (!bus->ctx.topic || !bus->ctx.dlq_topic || !bus->ctx.group_name) goto no_memory;
  bus->ctx.log.process = true;
  bus->ctx.log.group = bus->ctx.group_name;
  bus->ctx.log.topic = bus->ctx.topic;
  if (bus->ctx.wake_fd < 0) {
    mb__error(MB_EIO, errstr, errstr_size, "eventfd: %s", strerror(errno));
    goto failed;
  }
  if (mb__config_is_embedded(bus->ctx.conf)) {
    bus->ctx.embedded = mb__broker_shared(errstr, errstr_size);
    if (!bus->ctx.embedded) goto failed;
    if (mb__config_resolve(bus->ctx.conf, mb_broker_address(bus->ctx.embedded))) goto no_memory;
  }
  bus->deliver.random =
      (uint64_t)mb__mono_us() ^ ((uint64_t)(uintptr_t)bus << 16) ^ 0x9e3779b97f4a7c15ULL;
  bus->group.reopen_s = 0;
  read_rules(bus);
  if (!mb__pending_init(&bus->group)) return bus;
no_memory:
  mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
failed:
  mb_bus_free(bus);
  return NULL;
}

/* Its own code runs, further out, and needs it. */
static bool is_busy(const mb_bus *bus) {
  return bus->deliver.in_handler || bus->ctx.in_callback;
}

void mb_bus_free(mb_bus *bus) {
  if (!bus) return;
  if (is_busy(bus)) {
    mb__log(&bus->ctx.log, MB_LOG_ERROR,
            "a handler or callback cannot free its own bus: it stays; free it once that returned");
    return;
  }
  if (bus->ctx.conf) mb_bus_disconnect(bus, NULL, 0);
  mb__pending_free(&bus->group);
  mb__dispatch_free(&bus->group.dispatch);
  mb__skips_free(&bus->deliver.skips);
  mb__ids_free(&bus->deliver.own.failed);
  mb__ids_free(&bus->deliver.own.final);
  mb__encoder_free(&bus->encoder);
  mb__broker_release(bus->ctx.embedded);
  if (bus->ctx.wake_fd >= 0) close(bus->ctx.wake_fd);
  mb_config_free(bus->ctx.conf);
  free(bus->ctx.topic);
  free(bus->ctx.dlq_topic);
  free(bus->ctx.group_name);
  free(bus->deliver.metrics);
  free(bus);
}

mb_config *mb_bus_config(mb_bus *bus) {
  return bus->ctx.conf;
}
bool mb_bus_is_connected(const mb_bus *bus) {
  return bus->ctx.connected;
}
bool mb_bus_is_consuming(const mb_bus *bus) {
  return bus->ctx.consuming;
}

void mb_bus_set_log(mb_bus *bus, mb_log_fn log, void *opaque) {
  bus->ctx.log.fn = log;
  bus->ctx.log.opaque = opaque;
}

void mb_bus_on_publish_error(mb_bus *bus, mb_publish_error_fn fn, void *opaque) {
  bus->ctx.on_publish_error = fn;
  bus->ctx.on_publish_error_opaque = opaque;
}

void mb_bus_on_rebalance(mb_bus *bus, mb_rebalance_fn fn, void *opaque) {
  bus->group.on_rebalance = fn;
  bus->group.on_rebalance_opaque = opaque;
}

static void warn(const char *text, void *opaque) {
  mb_bus *bus = opaque;
  mb__log(&bus->ctx.log, MB_LOG_WARN, "%s", text);
}

mb_err mb_bus_connect(mb_bus *bus, int timeout_ms, char *errstr, size_t errstr_size) {
  if (bus->ctx.connected) return MB_OK;
  mb__config_warnings(bus->ctx.conf, warn, bus);
  bus->ctx.stop_seen_us = 0;
  bus->ctx.connect_ms = timeout_ms;
  bus->ctx.closing_by_us = mb__mono_us() + (int64_t)timeout_ms * 1000;
  mb_err err = mb__producer_open(&bus->ctx, errstr, errstr_size);
  if (!err) err = mb__producer_check(&bus->ctx, timeout_ms, errstr, errstr_size);
  if (!err && bus->ctx.transaction.on)
    err = mb__txn_init(&bus->group, timeout_ms, errstr, errstr_size);
  if (err) mb__producer_close(&bus->ctx, 0);
  bus->ctx.closing_by_us = 0;
  if (err) return err;
  bus->ctx.connected = true;
  bus->ended_why[0] = 0;
  bus->ctx.stats.connected_at_us = mb__now_us();
  mb__log(&bus->ctx.log, MB_LOG_DEBUG, "connected to %s",
          mb_config_get(bus->ctx.conf, "bootstrap_servers"));
  return MB_OK;
}

/* By when an end must be through. A stop that a call into librdkafka held up began then. */
static int64_t close_by(const mb_bus *bus) {
  int64_t from_us = bus->ctx.stop_seen_us ? bus->ctx.stop_seen_us : mb__mono_us();
  return from_us + (int64_t)(mb__conf_num(bus->ctx.conf, MB_OPT_shutdown_timeout) * 1e6);
}

/* By when a stop gives up a broker that does not answer: handlers may take all of shutdown_timeout,
 * but nothing is lost without the broker's answer. */
static int64_t answer_by(const mb_bus *bus, int64_t by_us) {
  int64_t now_us = mb__mono_us();
  int64_t wait_us = (int64_t)(mb__conf_num(bus->ctx.conf, MB_OPT_shutdown_timeout) * 1e6 / 6);
  if (silent_us && now_us - silent_us < wait_us) wait_us = SILENT_US;
  return now_us + wait_us < by_us ? now_us + wait_us : by_us;
}

/* Deliver what is queued, as long as the broker acknowledges any of it. Returns by when the
 * producer is to be closed. */
static int64_t flush_by(mb_bus *bus, int64_t by_us) {
  size_t queued = mb__producer_queued(&bus->ctx);
  int64_t give_up_us = answer_by(bus, by_us);
  while (queued && mb__mono_us() < give_up_us) {
    mb__producer_flush(&bus->ctx, FLUSH_MS);
    size_t left = mb__producer_queued(&bus->ctx);
    if (left < queued) give_up_us = answer_by(bus, by_us);
    queued = left;
  }
  if (!queued) return by_us;
  silent_us = mb__mono_us();
  return silent_us;
}

/* Finish what is under way, commit, leave the group. */
static void end_consuming(mb_bus *bus, int64_t by_us) {
  if (!bus->ctx.consuming) return;
  by_us = answer_by(bus, by_us);
  int timeout_ms = mb__left_ms(by_us);
  bus->ctx.closing_by_us = by_us;
  if (!bus->ctx.transaction.on) mb__unit_end(&bus->group, true);
  size_t parked = mb__consumer_parked(&bus->group), running = mb__pending_live(&bus->group);
  if (parked) mb__producer_flush(&bus->ctx, timeout_ms < 5000 ? timeout_ms : 5000);
  char why[MB_REFUSAL_MAX];
  bus->group.txn.by_us = by_us;
  if (bus->ctx.transaction.on && mb__txn_commit(&bus->group, why, sizeof why))
    mb__log(&bus->ctx.log, MB_LOG_ERROR, "%s; the events of the last transaction are read again",
            why);
  bus->group.txn.by_us = 0;
  mb__undone_forget(&bus->group.undone, -1);
  parked = mb__consumer_parked(&bus->group) - mb__pending_live(&bus->group);
  mb_part *part;
  for (size_t i = 0; (part = mb__consumer_part_at(&bus->group, i)); i++)
    if (part->held_at >= 0)
      mb__log_at(&bus->ctx.log, MB_LOG_WARN, part->id, part->held_at,
                 "%s[%d]: its circuit breaker is still open; the next start begins at offset %lld "
                 "or before",
                 bus->ctx.topic, (int)part->id, (long long)part->held_at);
  if (parked)
    mb__log(&bus->ctx.log, MB_LOG_INFO,
            "%zu events still waited for a retry; they are delivered again at the next start",
            parked);
  if (running)
    mb__log(&bus->ctx.log, MB_LOG_WARN,
            "%zu events were still running; they are delivered again at the next start", running);
  mb__consumer_close(&bus->group, mb__left_ms(by_us));
  if (mb__mono_us() >= by_us) silent_us = mb__mono_us();
  bus->group.pending.drain_by_us = 0;
  bus->ctx.consuming = false;
  bus->reopen_us = 0;
  bus->ctx.closing_by_us = 0;
  if (!mb__host_ends(&bus->ctx)) bus->ctx.stop_seen_us = 0;
  atomic_store(&bus->ctx.stop, false);
}

mb_err mb_bus_disconnect(mb_bus *bus, char *errstr, size_t errstr_size) {
  if (is_busy(bus))
    return mb__error(
        MB_ESTATE, errstr, errstr_size,
        "a handler or callback cannot disconnect its own bus; call stop_consuming, and disconnect "
        "once consumption has ended");
  int64_t by_us = close_by(bus);
  end_consuming(bus, by_us);
  mb__skips_report(&bus->deliver.skips, &bus->ctx.log);
  by_us = bus->ctx.closing_by_us = flush_by(bus, by_us);
  size_t failed = mb__producer_close(&bus->ctx, mb__left_ms(by_us));
  bus->ctx.closing_by_us = bus->ctx.stop_seen_us = 0;
  bus->ctx.connected = false;
  mb__log_unfold(&bus->ctx.log, true);
  if (!failed) return MB_OK;
  return mb__error(MB_EDELIVERY, errstr, errstr_size,
                   "%zu queued events were not delivered within shutdown_timeout", failed);
}

/* ---- publishing ---- */

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

static mb_err publish(mb_bus *bus, const mb_event *events, size_t count, bool background,
                      mb_receipt *receipts, size_t *queued, char *errstr, size_t errstr_size) {
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
  return publish(bus, events, count, false, receipts, NULL, errstr, errstr_size);
}

mb_err mb_bus_publish_background(mb_bus *bus, const mb_event *events, size_t count, size_t *queued,
                                 char *errstr, size_t errstr_size) {
  if (queued) *queued = 0;
  return publish(bus, events, count, true, NULL, queued, errstr, errstr_size);
}

mb_err mb_bus_flush(mb_bus *bus, int timeout_ms, char *errstr, size_t errstr_size) {
  if (!mb__producer_flush(&bus->ctx, timeout_ms)) return MB_OK;
  return mb__error(MB_ETIMEOUT, errstr, errstr_size, "%zu events are still on their way",
                   mb__producer_queued(&bus->ctx));
}

/* ---- subscribing ---- */

mb_err mb_bus_subscribe(mb_bus *bus, const char *event_type, mb_handler_fn handler, void *opaque,
                        void (*free_opaque)(void *), uint32_t *id) {
  return mb_bus_subscribe_with(bus, event_type, handler, opaque, free_opaque, NULL, id);
}

mb_err mb_bus_subscribe_with(mb_bus *bus, const char *event_type, mb_handler_fn handler,
                             void *opaque, void (*free_opaque)(void *),
                             const mb_subscription_options *options, uint32_t *id) {
  if (handler && (!event_type || *event_type))
    return mb__dispatch_add_with(&bus->group.dispatch, event_type, handler, opaque, free_opaque,
                                 options, id);
  if (free_opaque) free_opaque(opaque);
  return MB_EINVAL;
}

mb_err mb_bus_unsubscribe(mb_bus *bus, uint32_t id) {
  return mb__dispatch_remove(&bus->group.dispatch, id);
}

/* ---- consuming ---- */

void mb__bus_watch(mb_bus *bus, mb_watch *watch, int worker, int index) {
  bus->group.watch = mb__watch_bus(watch, worker, index, bus->ctx.topic, bus->ctx.group_name);
  if (!bus->group.watch) return;
  bus->group.dispatch.noted = mb__watch_handler(bus->group.watch);
  if (bus->ctx.log.json) mb__watch_log_json(bus->group.watch);
  /* A strict guard ends a handler by itself, unless it is stuck in C: it gets the time to. */
  bool strict = mb__conf_is(bus->ctx.conf, MB_OPT_guard, "strict");
  mb__watch_limits(bus->group.watch, bus->deliver.handler_timeout_us * (strict ? 2 : 1),
                   mb__conf_int(bus->ctx.conf, MB_OPT_worker_memory_max_bytes),
                   (int64_t)(mb__conf_num(bus->ctx.conf, MB_OPT_shutdown_timeout) * 1e6));
}

mb_err mb_bus_start(mb_bus *bus, bool auto_reconnect, char *errstr, size_t errstr_size) {
  if (!bus->ctx.connected)
    return mb__error(MB_ESTATE, errstr, errstr_size,
                     "the bus is not connected; call connect first");
  if (bus->ctx.consuming)
    return mb__error(MB_ESTATE, errstr, errstr_size, "the bus is consuming already");
  mb_err err = MB_OK;
  bus->ctx.stop_seen_us = 0;
  if (mb__producer_lost(&bus->ctx)) err = mb__txn_renew(&bus->group, errstr, errstr_size);
  if (!err && bus->group.rules.dlq) err = mb__dlq_check(&bus->deliver, errstr, errstr_size);
  if (!err) err = mb__consumer_open(&bus->group, errstr, errstr_size);
  if (err) return err;
  atomic_store(&bus->ctx.stop, false);
  bus->group.auto_reconnect = auto_reconnect;
  bus->ctx.consuming = true;
  bus->ended_why[0] = 0;
  bus->group.halted = false;
  bus->group.pending.drain_by_us = 0;
  bus->reopen_us = 0;
  bus->group.reopen_s = 0;
  mb__log(&bus->ctx.log, MB_LOG_INFO, "group %s: joining, topic %s", bus->ctx.group_name,
          bus->ctx.topic);
  return MB_OK;
}

/* Where only the producer broke, the group would wait for the consumer until its session is over:
 * it leaves, unless the next one has its name. What the transaction held is read again. */
static void close_broken(mb_bus *bus) {
  bool leaves = bus->group.txn.failed && !mb__conf_str(bus->ctx.conf, MB_OPT_group_instance_id);
  if (bus->ctx.transaction.on) mb__producer_close(&bus->ctx, 0);
  bus->ctx.transaction.open = false;
  mb__consumer_close(&bus->group, leaves ? LEAVE_MS : 0);
  bus->group.txn.failed = MB_OK;
}

/* Consumption broke: end it, or set a time for a new consumer. */
static mb_err broken(mb_bus *bus, mb_err err, const char *why, char *errstr, size_t errstr_size) {
  /* A producer that was fenced off has a successor: to go on would be to fight it. But the broker
   * speaks of fencing, too, when it ended a transaction that was open for too long. */
  bool late = bus->ctx.transaction.on && mb__txn_is_late(&bus->group);
  bool fenced =
      (bus->ctx.transaction.on && mb__producer_fenced(&bus->ctx) && !late) || err == MB_EFENCED;
  double outlast = mb__consumer_outlast(&bus->group);
  if (late && mb__producer_fenced(&bus->ctx))
    mb__log(&bus->ctx.log, MB_LOG_WARN,
            "a transaction was open for longer than transaction_timeout_ms and is undone; its "
            "events are read again; if handlers take that long, raise it");
  mb__unit_end(&bus->group, false);
  close_broken(bus);
  mb__undone_forget(&bus->group.undone, -1);
  if (!bus->group.auto_reconnect || fenced) {
    if (bus->ctx.transaction.on) bus->ctx.connected = false;
    bus->ctx.consuming = false;
    snprintf(bus->ended_why, sizeof bus->ended_why, "%s", why);
    return mb__error(fenced ? MB_EFENCED : err, errstr, errstr_size, "consumption ended: %s", why);
  }
  snprintf(bus->reopen_why, sizeof bus->reopen_why, "%s", why);
  double least = (double)mb__conf_int(bus->ctx.conf, MB_OPT_reconnect_backoff_ms) / 1e3;
  double most = (double)mb__conf_int(bus->ctx.conf, MB_OPT_reconnect_backoff_max_ms) / 1e3;
  bus->group.reopen_s = bus->group.reopen_s > 0 ? bus->group.reopen_s * 2 : least;
  if (bus->group.reopen_s > most) bus->group.reopen_s = most;
  if (bus->group.reopen_s < outlast) bus->group.reopen_s = outlast;
  bus->reopen_us = mb__mono_us() + (int64_t)(bus->group.reopen_s * 1e6);
  bus->ctx.stats.last_error_at_us = mb__now_us();
  mb__log(&bus->ctx.log, MB_LOG_ERROR, "the consumer stopped: %s; a new one in %.1f s", why,
          bus->group.reopen_s);
  return MB_OK;
}

static mb_err reopen(mb_bus *bus, char *errstr, size_t errstr_size) {
  char why[MB_REFUSAL_MAX] = "";
  bus->reopen_us = 0;
  bus->ctx.stats.reconnections++;
  mb_err err =
      mb__producer_open(&bus->ctx, why, sizeof why); /* open already, but for transactions */
  if (!err && bus->ctx.transaction.on) err = mb__txn_init(&bus->group, REOPEN_MS, why, sizeof why);
  if (!err) err = mb__consumer_open(&bus->group, why, sizeof why);
  return err ? broken(bus, err, why, errstr, errstr_size) : MB_OK;
}

/* The producer may have been lost by what was published outside handlers. */
static mb_err gather(mb_bus *bus, char *why, size_t why_size) {
  bool lost = mb__producer_lost(&bus->ctx);
  mb_err err = lost ? MB_OK : mb__consumer_gather(&bus->group, why, why_size);
  if (err || (!lost && !mb__consumer_lost(&bus->group))) return err;
  return mb__error(MB_EFATAL, why, why_size, "a call into librdkafka did not return");
}

static mb_err work(mb_bus *bus, bool *any, char *errstr, size_t errstr_size) {
  *any = mb__producer_poll(&bus->ctx) > 0;
  mb__log_unfold(&bus->ctx.log, false);
  if (bus->group.watch) mb__health_note(bus, mb__mono_us());
  if (!bus->ctx.consuming) return MB_OK;
  int64_t begin = mb__mono_us();
  if (bus->group.pending.first && mb__deliver_completed(&bus->deliver)) *any = true;
  /* What those did is kept before their offsets go with a revocation. */
  if (!bus->ctx.transaction.on && !mb__unit_end(&bus->group, true)) *any = true;
  if (atomic_load(&bus->ctx.stop) && !mb__pending_drain(&bus->group, begin)) {
    end_consuming(bus, close_by(bus));
    *any = true;
    return MB_OK;
  }
  if (bus->reopen_us) return begin >= bus->reopen_us ? reopen(bus, errstr, errstr_size) : MB_OK;
  char why[MB_REFUSAL_MAX] = "";
  mb_err err = gather(bus, why, sizeof why);
  if (err) return broken(bus, err, why, errstr, errstr_size);
  bool waits = mb__txn_waits(&bus->group, begin);
  if (!waits && mb__deliver_due(&bus->deliver, begin)) *any = true;
  uint64_t consumed = bus->ctx.stats.events_consumed;
  mb_part *part;
  rd_kafka_message_t *record;
  bus->deliver.clock_us = 0;
  while (!waits && !atomic_load(&bus->ctx.stop) && !bus->group.txn.failed && !bus->group.halted &&
         !bus->group.unit.lost && !mb__pending_full(&bus->group) && !mb__txn_is_full(&bus->group) &&
         (record = mb__consumer_take(&bus->group, &part))) {
    if (bus->ctx.transaction.on)
      bus->group.txn.failed =
          mb__txn_begin(&bus->group, bus->group.txn.why, sizeof bus->group.txn.why);
    if (bus->group.txn.failed) {
      rd_kafka_message_destroy(record);
      break;
    }
    mb__deliver_arrive(&bus->deliver, part, record);
    *any = true;
    if (!bus->ctx.transaction.on) bus->group.reopen_s = 0;
    if (!bus->deliver.clock_us) bus->deliver.clock_us = mb__mono_us();
    if (bus->deliver.clock_us - begin > SLICE_US) break;
  }
  bus->deliver.clock_us = 0;
  if (bus->ctx.stats.events_consumed != consumed) bus->ctx.stats.last_consume_at_us = mb__now_us();
  /* Within a transaction it ends with that. */
  if (!bus->ctx.transaction.on && !mb__unit_end(&bus->group, true)) *any = true;
  mb__consumer_commit_due(&bus->group, mb__mono_us());
  bool over = mb__txn_due(&bus->group, mb__mono_us()) || bus->group.unit.lost;
  if (!bus->group.txn.failed &&
      (over || (bus->ctx.transaction.open && !mb__consumer_pending(&bus->group)))) {
    bus->group.txn.failed =
        mb__txn_commit(&bus->group, bus->group.txn.why, sizeof bus->group.txn.why);
    *any = true;
  }
  if (bus->group.txn.failed)
    return broken(bus, bus->group.txn.failed, bus->group.txn.why, errstr, errstr_size);
  if (bus->group.halted && !mb__pending_drain(&bus->group, begin)) {
    end_consuming(bus, close_by(bus));
    bus->group.halted = false;
    snprintf(bus->ended_why, sizeof bus->ended_why, "%s", bus->group.halt_why);
    return mb__error(bus->group.halt_err, errstr, errstr_size, "consumption stopped: %s",
                     bus->group.halt_why);
  }
  if (mb_bus_wait_ms(bus) == 0) *any = true;
  return MB_OK;
}

int mb_bus_fd(const mb_bus *bus) {
  return bus->ctx.wake_fd;
}

int mb_bus_wait_ms(const mb_bus *bus) {
  int64_t due = INT64_MAX, now = mb__mono_us();
  if (is_busy(bus)) return WAIT_MAX_MS;
  if (bus->ctx.consuming && bus->group.pending.first) return 0;
  bool ends = bus->ctx.consuming && (atomic_load(&bus->ctx.stop) || bus->group.halted);
  if (ends && (!bus->group.pending.drain_by_us || !mb__pending_live(&bus->group))) return 0;
  if (ends)
    due = bus->group.pending.drain_by_us;
  else if (mb__txn_waits(&bus->group, now))
    due = bus->group.txn.resume_us;
  else if (!mb__pending_full(&bus->group) && mb__consumer_pending(&bus->group))
    return 0;
  if (bus->reopen_us)
    due = bus->reopen_us;
  else if (bus->group.consumer && !ends && !mb__txn_waits(&bus->group, now))
    due = mb__consumer_due_us(&bus->group);
  if (due <= now) return 0;
  return due - now > WAIT_MAX_MS * 1000 ? WAIT_MAX_MS : (int)((due - now + 999) / 1000);
}

mb_err mb_bus_step(mb_bus *bus, int timeout_ms, char *errstr, size_t errstr_size) {
  uint64_t count;
  if (bus->ctx.in_callback) return MB_OK; /* of a rebalance, say: the consumer is in use */
  bool any = false;
  /* Cleared before the work: what arrives from here on wakes the next wait. */
  while (read(bus->ctx.wake_fd, &count, sizeof count) > 0) continue;
  if (bus->deliver.in_handler) { /* a handler that waits: reports still come in, events do not */
    mb__producer_poll(&bus->ctx);
    return MB_OK;
  }
  mb_err err = work(bus, &any, errstr, errstr_size);
  if (err || any || !timeout_ms) return err;
  int wait_ms = mb_bus_wait_ms(bus);
  if (timeout_ms > 0 && timeout_ms < wait_ms) wait_ms = timeout_ms;
  struct pollfd fd = {.fd = bus->ctx.wake_fd, .events = POLLIN};
  if (poll(&fd, 1, wait_ms) > 0)
    while (read(bus->ctx.wake_fd, &count, sizeof count) > 0) continue;
  return work(bus, &any, errstr, errstr_size);
}

mb_err mb_bus_run(mb_bus *bus, char *errstr, size_t errstr_size) {
  if (is_busy(bus))
    return mb__error(MB_ESTATE, errstr, errstr_size,
                     "a handler or callback cannot run its own bus: it would wait for itself");
  mb_err err = bus->ctx.consuming ? MB_OK : mb_bus_start(bus, true, errstr, errstr_size);
  while (!err && bus->ctx.consuming) err = mb_bus_step(bus, -1, errstr, errstr_size);
  return err;
}

void mb_bus_stop(mb_bus *bus) {
  atomic_store(&bus->ctx.stop, true);
  mb__context_wake(&bus->ctx);
}

static mb_err reset_breaker(mb_bus *bus, mb_part *part) {
  if (part->held_at < 0) return MB_ENOENT;
  mb__log_at(&bus->ctx.log, MB_LOG_WARN, part->id, -1,
             "%s[%d]: the circuit breaker is closed by reset_breaker", bus->ctx.topic,
             (int)part->id);
  mb__consumer_reset_breaker(&bus->group, part);
  return MB_OK;
}

mb_err mb_bus_reset_breaker(mb_bus *bus, int32_t partition, int *reset, char *errstr,
                            size_t errstr_size) {
  int count = 0;
  mb_part *part;
  if (bus->ctx.in_callback)
    return mb__error(MB_ESTATE, errstr, errstr_size,
                     "reset_breaker: expected a call from outside a callback, got one from inside");
  for (size_t i = 0; (part = mb__consumer_part_at(&bus->group, i)); i++)
    if ((partition < 0 || part->id == partition) && !reset_breaker(bus, part)) count++;
  if (partition >= 0 && !count)
    return mb__error(MB_ENOENT, errstr, errstr_size,
                     "reset_breaker: expected a partition whose circuit breaker is open, got %d; "
                     "get_health lists them",
                     (int)partition);
  if (reset) *reset = count;
  /* A wait under way ends: there is work now. */
  if (count) mb__context_wake(&bus->ctx);
  return MB_OK;
}

mb_err mb_bus_release_brake(mb_bus *bus, int32_t partition, int *reset, char *errstr,
                            size_t errstr_size) {
  mb__log(&bus->ctx.log, MB_LOG_WARN,
          "mb_bus_release_brake is deprecated; call mb_bus_reset_breaker instead");
  return mb_bus_reset_breaker(bus, partition, reset, errstr, errstr_size);
}

/* ---- what can be asked of it ---- */

bool mb_bus_is_idle(mb_bus *bus) {
  return mb__consumer_at_end(&bus->group, false) && !mb__producer_queued(&bus->ctx);
}
