/* deliver/attempt.c: the handlers of one event, and what is to be known of them while their code
 * runs. Must not decide outcomes, nor know Lua. Called by deliver/deliver.c, and by the Lua side
 * when a handler that waited goes on. */
#include "bus/internal.h"

void mb__stretch_begin(mb_bus *bus, const mb_msg *msg, mb_stretch *stretch) {
  const rd_kafka_message_t *record = msg->record;
  bool timed = bus->watch || bus->handler_timeout_us || bus->metrics;
  stretch->begin_us = bus->clock_us || !timed ? bus->clock_us : mb__mono_us();
  bus->clock_us = 0;
  stretch->outer = mb__in_hand;
  if (bus->watch && record)
    mb__watch_begin(bus->watch, record->partition, record->offset, stretch->begin_us);
  mb__in_hand = bus->tracing ? record : NULL;
  bus->in_handler = true;
}

void mb__stretch_end(mb_bus *bus, const mb_msg *msg, const mb_stretch *stretch, bool told) {
  bus->in_handler = false;
  mb__in_hand = stretch->outer;
  if (bus->watch) mb__watch_end(bus->watch);
  if (!bus->handler_timeout_us && !bus->metrics) return;
  bus->clock_us = mb__mono_us();
  int64_t took = bus->clock_us - stretch->begin_us;
  if (bus->metrics) mb__histogram_add(&bus->metrics->of[MB_HANDLER_DURATION], took);
  if (!bus->handler_timeout_us || took <= bus->handler_timeout_us) return;
  bus->stats.handler_timeouts++;
  if (told || !msg->record) return;
  mb__record_log(&bus->log, MB_LOG_WARN, msg->record, mb_msg_attempt(msg), NULL,
                 "%s[%d] offset %lld: its handlers took %.3f s (handler_timeout_ms %lld)",
                 bus->topic, (int)msg->record->partition, (long long)msg->record->offset,
                 (double)took / 1e6, (long long)(bus->handler_timeout_us / 1000));
}

/* true if a handler that returned MB_PENDING is complete already, or may not be pending; *outcome
 * is its outcome then. */
static bool is_over(mb_pend *run, const mb_walk *walk, mb_fail *fail, mb_outcome *outcome) {
  if (run && run->handler == walk->at && !run->completed) return false;
  if (run && run->handler == walk->at) {
    *outcome = run->outcome;
    if (run->fail) *fail = *run->fail;
    return true;
  }
  mb_fail_set(fail, "HandlerError", "the handler said MB_PENDING without a token of mb_bus_pend");
  *outcome = MB_FAILED;
  return true;
}

/* Of a handler that is pending: go on as long as it, or the next that is, is over. */
static bool see_through(mb_bus *bus, mb_msg *msg, const mb_ids *only, mb_walk *walk) {
  mb_fail fail;
  mb_outcome outcome;
  bool pending = true;
  while (pending) {
    mb__fail_clear(&fail);
    if (!is_over(msg->run, walk, &fail, &outcome)) return true;
    pending = mb__dispatch_go_on(&bus->dispatch, msg, only, walk, outcome, &fail, bus->result);
  }
  return false;
}

bool mb__run_handlers(mb_bus *bus, mb_msg *msg, const mb_ids *only, mb_walk *walk) {
  mb_stretch stretch;
  mb__stretch_begin(bus, msg, &stretch);
  if (bus->dispatch.filters && bus->tenant.kind == MB_TENANT_UNSEEN)
    mb__msg_tenant(msg->record, &bus->tenant);
  bus->running = msg;
  bus->walk = walk;
  bool pending = mb__dispatch_run(&bus->dispatch, msg, msg->event_type, &bus->tenant, only, walk,
                                  bus->result) &&
                 see_through(bus, msg, only, walk);
  bus->running = NULL;
  mb__stretch_end(bus, msg, &stretch, bus->result->reason != NULL);
  if (pending || !msg->run) return pending;
  mb__run_free(bus, msg->run);
  msg->run = NULL;
  return false;
}

bool mb__run_on(mb_bus *bus, mb_pend *run) {
  mb_stretch stretch;
  mb_fail fail;
  mb_msg *msg = &run->msg;
  const mb_ids *only = run->again ? &run->parked->failed : NULL;
  mb__fail_clear(&fail);
  if (run->fail) fail = *run->fail;
  if (run->fail) mb__fail_clear(run->fail);
  mb_outcome outcome = run->outcome;
  run->completed = run->kept = false;
  run->handler = 0;
  mb__stretch_begin(bus, msg, &stretch);
  bus->running = msg;
  bus->walk = &run->walk;
  bool pending =
      mb__dispatch_go_on(&bus->dispatch, msg, only, &run->walk, outcome, &fail, bus->result) &&
      see_through(bus, msg, only, &run->walk);
  bus->running = NULL;
  mb__stretch_end(bus, msg, &stretch, bus->result->reason != NULL);
  run->kept = true;
  return pending;
}

/* ---- without running any ---- */

void mb__run_cannot(mb_bus *bus, const char *type, const char *why, mb_bytes what) {
  mb_result *result = bus->result;
  *result = (mb_result){
      .undecodable = true, .rejected_count = 1, .failed = result->failed, .final = result->final};
  mb__ids_clear(&result->failed);
  mb__ids_clear(&result->final);
  result->retry_after_us = -1;
  char text[MB_FAIL_MESSAGE_MAX];
  mb__text_keep(text, sizeof text, what);
  mb_fail_set(&result->fail, type, "%s%s", why, text);
}

static const char *death_reason(const char *noted) {
  static const char *const known[] = {"handler_timeout", "out_of_memory"};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strcmp(noted, known[i]) == 0) return known[i];
  return "worker_crashed";
}

void mb__run_condemn(mb_bus *bus, const mb_deaths *deaths) {
  mb_result *result = bus->result;
  const char *name = mb__dispatch_name(&bus->dispatch, deaths->handler);
  *result = (mb_result){.rejected_count = 1,
                        .reason = death_reason(deaths->reason),
                        .died = true,
                        .first_failed_us = deaths->first_us,
                        .failed = result->failed,
                        .final = result->final};
  mb__ids_clear(&result->failed);
  mb__ids_clear(&result->final);
  result->retry_after_us = -1;
  mb_fail_set(&result->fail, "WorkerDied",
              "%d worker%s died with this event in hand, the last by %s", deaths->count,
              deaths->count == 1 ? "" : "s", deaths->reason);
  if (name) snprintf(result->fail.handler, sizeof result->fail.handler, "%s", name);
  snprintf(result->fail.trace, sizeof result->fail.trace,
           "the process of handler %s ended (%s); a process that ends leaves no traceback",
           name ? name : "(without a name)", deaths->reason);
}
