/* bus/step.c: consumption, step by step: started, worked on, broken and begun again. Must not know
 * Lua, nor what becomes of an event (deliver/, handlers/settle.c). Called through moonbus.h by
 * users and by the Lua side. */
#include <poll.h>
#include <unistd.h>

#include "bus/internal.h"

#define SLICE_US    100000 /* how long a step works before it lets others in */
#define WAIT_MAX_MS 1000
#define REOPEN_MS   5000 /* for a transactional producer to be ready again */
#define LEAVE_MS    2000 /* for a consumer to leave its group */

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

/* ---- steps ---- */

int mb_bus_fd(const mb_bus *bus) {
  return bus->ctx.wake_fd;
}

int mb_bus_wait_ms(const mb_bus *bus) {
  int64_t due = INT64_MAX, now = mb__mono_us();
  if (mb__bus_is_busy(bus)) return WAIT_MAX_MS;
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

/* Events whose pending handlers were completed. What those did is kept before their offsets go with
 * a revocation. true if there was anything to do. */
static bool settle_completed(mb_bus *bus) {
  bool any = bus->group.pending.first && mb__deliver_completed(&bus->deliver);
  bool lost = !bus->ctx.transaction.on && !mb__unit_end(&bus->group, true);
  return any || lost;
}

/* false where what was handled has to be settled, or undone, before another record is taken. */
static bool may_take(const mb_bus *bus) {
  const mb_group *group = &bus->group;
  if (atomic_load(&bus->ctx.stop) || group->halted) return false;
  if (group->txn.failed || group->unit.lost) return false;
  return !mb__pending_full(group) && !mb__txn_is_full(group);
}

/* Handle one record. false: its transaction cannot begin. Takes the record. */
static bool handle_record(mb_bus *bus, mb_part *part, rd_kafka_message_t *record) {
  mb_txn *txn = &bus->group.txn;
  if (bus->ctx.transaction.on) txn->failed = mb__txn_begin(&bus->group, txn->why, sizeof txn->why);
  if (txn->failed) {
    rd_kafka_message_destroy(record);
    return false;
  }
  mb__deliver_arrive(&bus->deliver, part, record);
  if (!bus->ctx.transaction.on) bus->group.reopen_s = 0;
  return true;
}

/* Handle what is due and what has arrived, as long as a step may take. true if there was any. */
static bool handle_events(mb_bus *bus, int64_t begin_us) {
  int64_t *clock_us = &bus->deliver.clock_us;
  uint64_t consumed = bus->ctx.stats.events_consumed;
  mb_part *part;
  rd_kafka_message_t *record;
  bool any = mb__deliver_due(&bus->deliver, begin_us);
  *clock_us = 0;
  while (may_take(bus) && (record = mb__consumer_take(&bus->group, &part)) &&
         handle_record(bus, part, record)) {
    any = true;
    if (!*clock_us) *clock_us = mb__mono_us();
    if (*clock_us - begin_us > SLICE_US) break;
  }
  *clock_us = 0;
  if (bus->ctx.stats.events_consumed != consumed) bus->ctx.stats.last_consume_at_us = mb__now_us();
  return any;
}

/* Keep what handlers did, and commit what is due. true if something was ended or undone. */
static bool commit_settled(mb_bus *bus) {
  mb_group *group = &bus->group;
  /* Within a transaction the unit ends with that. */
  bool any = !bus->ctx.transaction.on && !mb__unit_end(group, true);
  mb__consumer_commit_due(group, mb__mono_us());
  bool over = mb__txn_due(group, mb__mono_us()) || group->unit.lost ||
              (bus->ctx.transaction.open && !mb__consumer_pending(group));
  if (group->txn.failed || !over) return any;
  group->txn.failed = mb__txn_commit(group, group->txn.why, sizeof group->txn.why);
  return true;
}

/* A record that must not be passed ended consumption. */
static mb_err end_halted(mb_bus *bus, char *errstr, size_t errstr_size) {
  mb_group *group = &bus->group;
  mb__close_consuming(bus);
  group->halted = false;
  snprintf(bus->ended_why, sizeof bus->ended_why, "%s", group->halt_why);
  return mb__error(group->halt_err, errstr, errstr_size, "consumption stopped: %s",
                   group->halt_why);
}

/* One round of all there is to do. *any: something was done, or is left to do at once. */
static mb_err work(mb_bus *bus, bool *any, char *errstr, size_t errstr_size) {
  mb_group *group = &bus->group;
  *any = mb__producer_poll(&bus->ctx) > 0;
  mb__log_unfold(&bus->ctx.log, false);
  int64_t begin_us = mb__mono_us();
  if (group->watch) mb__health_note(bus, begin_us);
  if (!bus->ctx.consuming) return MB_OK;
  *any |= settle_completed(bus);
  if (atomic_load(&bus->ctx.stop) && !mb__pending_drain(group, begin_us)) {
    mb__close_consuming(bus);
    *any = true;
    return MB_OK;
  }
  if (bus->reopen_us) return begin_us >= bus->reopen_us ? reopen(bus, errstr, errstr_size) : MB_OK;
  char why[MB_REFUSAL_MAX] = "";
  mb_err err = gather(bus, why, sizeof why);
  if (err) return broken(bus, err, why, errstr, errstr_size);
  if (!mb__txn_waits(group, begin_us)) *any |= handle_events(bus, begin_us);
  *any |= commit_settled(bus);
  if (group->txn.failed) return broken(bus, group->txn.failed, group->txn.why, errstr, errstr_size);
  if (group->halted && !mb__pending_drain(group, begin_us))
    return end_halted(bus, errstr, errstr_size);
  if (mb_bus_wait_ms(bus) == 0) *any = true;
  return MB_OK;
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
  if (mb__bus_is_busy(bus))
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
