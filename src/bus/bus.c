/* bus/bus.c: the life of a bus: made, connected, subscribed to, freed.
 * Must not know Lua, nor what becomes of an event (deliver/deliver.c, handlers/settle.c).
 * Called by the public header's users and by the Lua side. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bus/internal.h"
#include "deliver/verdict.h"
#include "kafka/broker.h"

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

void mb_bus_free(mb_bus *bus) {
  if (!bus) return;
  if (mb__bus_is_busy(bus)) {
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

/* ---- subscribing ---- */

mb_err mb_bus_subscribe(mb_bus *bus, const char *event_type, mb_handler_fn handler, void *opaque,
                        void (*free_opaque)(void *), uint32_t *id) {
  return mb_bus_subscribe_with(bus, event_type, handler, opaque, free_opaque, NULL, id);
}

mb_err mb_bus_subscribe_with(mb_bus *bus, const char *event_type, mb_handler_fn handler,
                             void *opaque, void (*free_opaque)(void *),
                             const mb_subscription_options *options, uint32_t *id) {
  if (handler && (!event_type || *event_type))
    return mb__dispatch_add(&bus->group.dispatch, event_type, handler, opaque, free_opaque, options,
                            id);
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
