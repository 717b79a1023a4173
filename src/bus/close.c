/* bus/close.c: the end of consumption, and of the connection: what is queued is delivered, what is
 * settled is committed, within shutdown_timeout. Must not decide when to end. Called by bus/step.c,
 * and through moonbus.h by users. */
#include "bus/internal.h"

#define SILENT_US 250000 /* at a stop, for a broker of which nothing was heard just before */
#define FLUSH_MS  250    /* between looks at what the broker has acknowledged */

/* When a stop last gave up a broker that did not answer: the next bus has the same one, most
 * likely.
 */
static _Thread_local int64_t silent_us;

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

/* What the next start delivers again. running: events whose handlers were pending. */
static void log_unfinished(mb_bus *bus, size_t running) {
  size_t waiting = mb__consumer_parked(&bus->group) - mb__pending_live(&bus->group);
  const mb_part *part;
  for (size_t i = 0; (part = mb__consumer_part_at(&bus->group, i)); i++)
    if (part->held_at >= 0)
      mb__log_at(&bus->ctx.log, MB_LOG_WARN, part->id, part->held_at,
                 "%s[%d]: its circuit breaker is still open; the next start begins at offset %lld "
                 "or before",
                 bus->ctx.topic, (int)part->id, (long long)part->held_at);
  if (waiting)
    mb__log(&bus->ctx.log, MB_LOG_INFO,
            "%zu events still waited for a retry; they are delivered again at the next start",
            waiting);
  if (running)
    mb__log(&bus->ctx.log, MB_LOG_WARN,
            "%zu events were still running; they are delivered again at the next start", running);
}

/* Finish what is under way, commit, leave the group. */
static void end_consuming(mb_bus *bus, int64_t by_us) {
  if (!bus->ctx.consuming) return;
  by_us = answer_by(bus, by_us);
  int timeout_ms = mb__left_ms(by_us);
  bus->ctx.closing_by_us = by_us;
  if (!bus->ctx.transaction.on) mb__unit_end(&bus->group, true);
  size_t running = mb__pending_live(&bus->group);
  if (mb__consumer_parked(&bus->group))
    mb__producer_flush(&bus->ctx, timeout_ms < 5000 ? timeout_ms : 5000);
  char why[MB_REFUSAL_MAX];
  bus->group.txn.by_us = by_us;
  if (bus->ctx.transaction.on && mb__txn_commit(&bus->group, why, sizeof why))
    mb__log(&bus->ctx.log, MB_LOG_ERROR, "%s; the events of the last transaction are read again",
            why);
  bus->group.txn.by_us = 0;
  mb__undone_forget(&bus->group.undone, -1);
  log_unfinished(bus, running);
  mb__consumer_close(&bus->group, mb__left_ms(by_us));
  if (mb__mono_us() >= by_us) silent_us = mb__mono_us();
  bus->group.pending.drain_by_us = 0;
  bus->ctx.consuming = false;
  bus->reopen_us = 0;
  bus->ctx.closing_by_us = 0;
  if (!mb__context_host_ends(&bus->ctx)) bus->ctx.stop_seen_us = 0;
  atomic_store(&bus->ctx.stop, false);
}

void mb__close_consuming(mb_bus *bus) {
  end_consuming(bus, close_by(bus));
}

mb_err mb_bus_disconnect(mb_bus *bus, char *errstr, size_t errstr_size) {
  if (mb__bus_is_busy(bus))
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
