/* bus/health.c: what is wrong with a bus right now, each cause in words that say what to do.
 * Must not repair anything, wait, or keep anything: its answer is true at the moment of the call.
 * Called by bus/step.c, and through moonbus.h by users. */
#include <stdarg.h>

#include "bus/internal.h"
#include "group/consumer_internal.h"

#define GRACE_US 1000000  /* a lost connection that lasts longer is reported */
#define NOTE_US  100000   /* between two notes for a supervisor */
#define WAIT_US  60000000 /* handlers that wait longer, all of them, wait for nothing */
#define TEXT_MAX MB_ERRSTR_MAX

typedef struct report {
  mb_health worst;
  mb_health_fn fn;
  void *opaque;
} report;

__attribute__((format(printf, 5, 6))) static void
add_cause(report *to, mb_health how, const char *code, int32_t partition, const char *fmt, ...) {
  char text[TEXT_MAX];
  if (how > to->worst) to->worst = how;
  if (!to->fn) return;
  va_list args;
  va_start(args, fmt);
  vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  to->fn(how, code, text, partition, to->opaque);
}

/* The earlier of two times, each 0 = never. */
static int64_t earlier(int64_t a, int64_t b) {
  return a && (!b || a < b) ? a : b;
}

/* false: no broker can be reached. */
static bool look_at_links(mb_bus *bus, report *to) {
  const mb_consumer *consumer = bus->group.consumer;
  int64_t now = mb__mono_us();
  int64_t since = earlier(consumer ? consumer->link_down_us : 0, mb__producer_down_us(&bus->ctx));
  const char *refusal = consumer && consumer->refused ? consumer->refused_text : NULL;
  char text[512];
  if (!refusal) refusal = mb__producer_refusal(&bus->ctx);
  bool down = since && now - since >= GRACE_US;
  if (down)
    add_cause(
        to, MB_RED, "no_broker", -1,
        "no broker at %s has been reachable for %lld s; it is tried again all the time: is it "
        "running, is the network up?",
        mb_config_get(bus->ctx.conf, "bootstrap_servers"), (long long)((now - since) / 1000000));
  if (refusal) add_cause(to, MB_RED, "refused", -1, "refused: %s", refusal);
  if (mb__producer_fatal(&bus->ctx, text, sizeof text))
    add_cause(to, MB_RED, "producer_fatal", -1,
              "the producer can do no more: %s; disconnect and "
              "connect again",
              text);
  return !down;
}

/* text: what waits for that partition. */
static void add_silence(report *to, const mb_bus *bus, int32_t partition, int32_t broker,
                        int64_t since_us, const char *what) {
  long long seconds = (mb__mono_us() - since_us) / 1000000;
  if (broker < 0)
    add_cause(to, MB_RED, "no_leader", partition,
              "%s[%d] has had no leader for %lld s: %s; are all brokers that hold it running?",
              bus->ctx.topic, (int)partition, seconds, what);
  else
    add_cause(
        to, MB_RED, "no_answer", partition,
        "no answer from broker %d, the leader of %s[%d], for %lld s: %s; is it stopped, overloaded "
        "or cut off?",
        (int)broker, bus->ctx.topic, (int)partition, seconds, what);
}

static void look_at_answers(mb_bus *bus, report *to) {
  const mb_part *part, *first = NULL;
  int32_t partition, broker;
  int more = -1;
  for (size_t i = 0; (part = mb__consumer_part_at(&bus->group, i)); i++) {
    if (!mb__part_silent_us(part)) continue;
    more++;
    if (!first || part->silent_us < first->silent_us) first = part;
  }
  char what[64] = "nothing of it is read";
  if (more > 0) snprintf(what, sizeof what, "nothing of it and %d more is read", more);
  if (first) add_silence(to, bus, first->id, first->leader, first->silent_us, what);
  int64_t since_us = mb__producer_silent_us(&bus->ctx, &partition, &broker);
  if (since_us) add_silence(to, bus, partition, broker, since_us, "events wait to be published");
  since_us = mb__offsets_silent_us(&bus->group);
  if (since_us)
    add_cause(to, MB_RED, "no_answer", -1,
              "no answer from the coordinator of group %s to a commit for %lld s: what is handled "
              "meanwhile is handled again after a restart or a rebalance",
              bus->ctx.group_name, (long long)((mb__mono_us() - since_us) / 1000000));
}

static void look_at_consumption(mb_bus *bus, report *to) {
  const mb_consumer *consumer = bus->group.consumer;
  const char *refusal;
  if (mb__offsets_refused(&bus->group, &refusal))
    add_cause(
        to, MB_RED, "commits_refused", -1,
        "commits of group %s are refused: %s; what is handled meanwhile is handled again after a "
        "restart or a rebalance",
        bus->ctx.group_name, refusal);
  if (bus->ended_why[0])
    add_cause(to, MB_RED, "consumption_ended", -1,
              "consumption ended: %s; fix the cause, and start it again", bus->ended_why);
  if (bus->ctx.consuming && bus->reopen_us) {
    int64_t left_us = bus->reopen_us - mb__mono_us();
    add_cause(to, MB_RED, "consumer_broken", -1, "the consumer stopped: %s; a new one in %.1f s",
              bus->reopen_why, left_us > 0 ? (double)left_us / 1e6 : 0.0);
  }
  if (bus->group.txn.failing)
    add_cause(to, MB_RED, "transactions_failing", -1,
              "the last transaction was aborted, %s; its events are read again",
              bus->group.txn.failing);
  if (consumer && !consumer->joined)
    add_cause(to, MB_YELLOW, "joining", -1,
              "group %s has not assigned partitions to this member yet", bus->ctx.group_name);
}

static void report_breaker(mb_bus *bus, report *to, const mb_part *part) {
  const mb_parked *parked = part->queue.held;
  const mb_fail *fail = parked ? parked->fail : NULL;
  int64_t left_us = parked ? parked->due_us - mb__mono_us() : 0;
  char why[128] = "";
  mb__breaker_why(&part->breaker, &bus->group.rules.breaker, why, sizeof why);
  add_cause(
      to, MB_RED, "breaker_open", part->id,
      "%s[%d] is paused at offset %lld: its circuit breaker is open: %s; this event failed%s%s%s"
      "%.300s; it is tried again in %.0f s: fix the cause, or let dead letters go on with "
      "reset_breaker",
      bus->ctx.topic, (int)part->id, (long long)part->held_at, why, fail ? " with " : "",
      fail ? fail->type : "", fail ? ": " : "", fail ? fail->message : "",
      left_us > 0 ? (double)left_us / 1e6 : 0.0);
}

static void look_at_partitions(mb_bus *bus, report *to) {
  const mb_part *part;
  const mb_parked *stuck = mb__dlq_stuck(&bus->deliver);
  for (size_t i = 0; (part = mb__consumer_part_at(&bus->group, i)); i++) {
    if (part->held_at >= 0)
      report_breaker(bus, to, part);
    else if (part->paused && !part->stalled && mb__retry_failing(&part->queue))
      add_cause(to, MB_YELLOW, "partition_full", part->id,
                "%s[%d] is paused: %zu events wait for retries (retry_parked_max)", bus->ctx.topic,
                (int)part->id, part->queue.count - part->queue.running);
  }
  if (stuck)
    add_cause(
        to, MB_RED, "dlq_unwritable", stuck->record->partition,
        "the dead letter of %s[%d] offset %lld was not written in %d tries; check that %s exists "
        "and takes records of that size",
        bus->ctx.topic, (int)stuck->record->partition, (long long)stuck->record->offset,
        stuck->dlq_attempts, bus->ctx.dlq_topic);
}

static void look_at_handlers(mb_bus *bus, report *to) {
  int64_t waiting_us = mb__mono_us() - bus->group.pending.full_us;
  if (!bus->group.pending.count || !mb__pending_full(&bus->group) || waiting_us < WAIT_US) return;
  add_cause(
      to, MB_YELLOW, "handlers_waiting", -1,
      "all %zu handlers that concurrency allows have been waiting for %lld s, and other events "
      "for them: set a time limit on what they wait for",
      bus->group.pending.count, (long long)(waiting_us / 1000000));
}

mb_health mb_bus_health(mb_bus *bus, mb_health_fn fn, void *opaque) {
  report to = {.worst = MB_GREEN, .fn = fn, .opaque = opaque};
  if (!bus->ctx.connected)
    add_cause(&to, MB_RED, "not_connected", -1, "the bus is not connected; call connect");
  if (look_at_links(bus, &to)) look_at_answers(bus, &to);
  look_at_consumption(bus, &to);
  look_at_partitions(bus, &to);
  look_at_handlers(bus, &to);
  return to.worst;
}

const char *mb_health_name(mb_health health) {
  static const char *const names[] = {"green", "yellow", "red"};
  return names[health];
}

void mb__health_note(mb_bus *bus, int64_t now_us) {
  if (now_us - bus->group.health_noted_us < NOTE_US) return;
  bus->group.health_noted_us = now_us;
  mb__watch_health(bus->group.watch, mb_bus_health(bus, NULL, NULL));
}
