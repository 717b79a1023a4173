/* deliver/attempt.c: the handlers of one event, and what is to be known of them while their code
 * runs. Must not decide outcomes, nor know Lua. Called by deliver/deliver.c, and by the Lua side
 * when a handler that waited goes on. */
#include "deliver/attempt.h"

#include "kafka/msg.h"

void mb__attempt_enter(mb_deliver *deliver, const mb_msg *msg, mb_slice *slice) {
  const rd_kafka_message_t *record = msg->record;
  bool timed = deliver->group->watch || deliver->handler_timeout_us || deliver->metrics;
  slice->begin_us = deliver->clock_us || !timed ? deliver->clock_us : mb__mono_us();
  deliver->clock_us = 0;
  slice->outer = mb__in_hand;
  if (deliver->group->watch && record)
    mb__watch_begin(deliver->group->watch, record->partition, record->offset, slice->begin_us);
  mb__in_hand = deliver->tracing ? record : NULL;
  deliver->in_handler = true;
}

void mb__attempt_leave(mb_deliver *deliver, const mb_msg *msg, const mb_slice *slice,
                       bool reported) {
  deliver->in_handler = false;
  mb__in_hand = slice->outer;
  if (deliver->group->watch) mb__watch_end(deliver->group->watch);
  if (!deliver->handler_timeout_us && !deliver->metrics) return;
  deliver->clock_us = mb__mono_us();
  int64_t took = deliver->clock_us - slice->begin_us;
  if (deliver->metrics) mb__histogram_add(&deliver->metrics->of[MB_HANDLER_DURATION], took);
  if (!deliver->handler_timeout_us || took <= deliver->handler_timeout_us) return;
  deliver->ctx->stats.handler_timeouts++;
  if (reported || !msg->record) return;
  mb__record_log(&deliver->ctx->log, MB_LOG_WARN, msg->record, mb_msg_attempt(msg), NULL,
                 "%s[%d] offset %lld: its handlers took %.3f s (handler_timeout_ms %lld)",
                 deliver->ctx->topic, (int)msg->record->partition, (long long)msg->record->offset,
                 (double)took / 1e6, (long long)(deliver->handler_timeout_us / 1000));
}

/* true if a handler that returned MB_PENDING is complete already, or may not be pending; *outcome
 * is its outcome then. */
static bool is_over(mb_pend *pend, const mb_iteration *iteration, mb_fail *fail,
                    mb_outcome *outcome) {
  if (pend && pend->handler == iteration->at && !pend->completed) return false;
  if (pend && pend->handler == iteration->at) {
    *outcome = pend->outcome;
    if (pend->fail) *fail = *pend->fail;
    return true;
  }
  mb_fail_set(fail, "HandlerError", "the handler said MB_PENDING without a token of mb_bus_pend");
  *outcome = MB_FAILED;
  return true;
}

/* Of a handler that is pending: go on as long as it, or the next that is, is over. */
static bool see_through(mb_dispatch *dispatch, mb_attempt *attempt) {
  mb_fail fail;
  mb_outcome outcome;
  bool pending = true;
  while (pending) {
    mb__fail_clear(&fail);
    if (!is_over(attempt->msg->pend, attempt->iteration, &fail, &outcome)) return true;
    pending = mb__dispatch_go_on(dispatch, attempt->msg, attempt->only, attempt->iteration, outcome,
                                 &fail, attempt->result);
  }
  return false;
}

bool mb__attempt_run(mb_deliver *deliver, mb_attempt *attempt) {
  mb_dispatch *dispatch = &deliver->group->dispatch;
  mb_msg *msg = attempt->msg;
  mb_slice slice;
  mb__attempt_enter(deliver, msg, &slice);
  if (dispatch->filters && attempt->tenant->kind == MB_TENANT_UNSEEN)
    mb__msg_tenant(msg->record, attempt->tenant);
  deliver->in_hand = attempt;
  bool pending = mb__dispatch_run(dispatch, msg, msg->event_type, attempt->tenant, attempt->only,
                                  attempt->iteration, attempt->result) &&
                 see_through(dispatch, attempt);
  deliver->in_hand = NULL;
  mb__attempt_leave(deliver, msg, &slice, attempt->result->reason != NULL);
  if (pending || !msg->pend) return pending;
  mb__pend_free(deliver->group, msg->pend);
  msg->pend = NULL;
  return false;
}

bool mb__attempt_go_on(mb_deliver *deliver, mb_attempt *attempt) {
  mb_dispatch *dispatch = &deliver->group->dispatch;
  mb_pend *pend = attempt->msg->pend;
  mb_slice slice;
  mb_fail fail;
  mb__fail_clear(&fail);
  if (pend->fail) fail = *pend->fail;
  if (pend->fail) mb__fail_clear(pend->fail);
  mb_outcome outcome = pend->outcome;
  pend->completed = pend->kept = false;
  pend->handler = 0;
  mb__attempt_enter(deliver, attempt->msg, &slice);
  deliver->in_hand = attempt;
  bool pending = mb__dispatch_go_on(dispatch, attempt->msg, attempt->only, attempt->iteration,
                                    outcome, &fail, attempt->result) &&
                 see_through(dispatch, attempt);
  deliver->in_hand = NULL;
  mb__attempt_leave(deliver, attempt->msg, &slice, attempt->result->reason != NULL);
  pend->kept = true;
  return pending;
}

/* ---- without running any ---- */

/* What a result begins with when no handler ran: rejected, for a reason that is not a handler's. */
static void reject(mb_result *result) {
  *result = (mb_result){
      .rejected_count = 1, .retry_after_us = -1, .failed = result->failed, .final = result->final};
  mb__ids_clear(&result->failed);
  mb__ids_clear(&result->final);
}

void mb__attempt_fail(mb_attempt *attempt, const char *type, const char *why, mb_bytes what) {
  char text[MB_FAIL_MESSAGE_MAX];
  reject(attempt->result);
  attempt->result->undecodable = true;
  mb__text_keep(text, sizeof text, what);
  mb_fail_set(&attempt->result->fail, type, "%s%s", why, text);
}

static const char *death_reason(const char *noted) {
  static const char *const known[] = {"handler_timeout", "out_of_memory"};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strcmp(noted, known[i]) == 0) return known[i];
  return "worker_crashed";
}

void mb__attempt_fail_for_crashes(mb_deliver *deliver, mb_attempt *attempt,
                                  const mb_deaths *deaths) {
  mb_result *result = attempt->result;
  const char *name = mb__dispatch_name(&deliver->group->dispatch, deaths->handler);
  reject(result);
  result->reason = death_reason(deaths->reason);
  result->died = true;
  result->first_failed_us = deaths->first_us;
  mb_fail_set(&result->fail, "WorkerDied",
              "%d worker%s died with this event in hand, the last by %s", deaths->count,
              deaths->count == 1 ? "" : "s", deaths->reason);
  if (name) snprintf(result->fail.handler, sizeof result->fail.handler, "%s", name);
  snprintf(result->fail.trace, sizeof result->fail.trace,
           "the process of handler %s ended (%s); a process that ends leaves no traceback",
           name ? name : "(without a name)", deaths->reason);
}
