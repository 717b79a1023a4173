/* deliver/deliver.c: the line an event travels: from the consumer to its handlers, and on to what
 * handlers/settle.c says. Must not know Lua, decide what an outcome means, or wait. Called by
 * bus/step.c for every record and every parked event that is due. */
#include <stdlib.h>
#include <string.h>

#include "deliver/attempt.h"
#include "deliver/dead_letter.h"
#include "deliver/deliver.h"
#include "deliver/verdict.h"
#include "kafka/msg.h"
#include "kafka/producer.h"
#include "kafka/record.h"

#define SLICE_US 100000 /* how long parked events may run before others are let in */

/* One of its handlers is pending: it waits for that, and its key for it. */
static void suspend(mb_deliver *deliver, const mb_attempt *attempt) {
  mb_pend *pend = mb__pend_keep(attempt->msg, attempt->iteration, attempt->result);
  mb_parked *parked = attempt->parked;
  pend->again = attempt->only != NULL;
  pend->deaths = attempt->deaths;
  deliver->clock_us = 0;
  if (parked)
    mb__retry_due(&attempt->part->queue, parked, MB_RUNNING, INT64_MAX);
  else
    parked = mb__verdict_park(deliver, attempt->part, attempt->record, MB_RUNNING);
  pend->parked = parked;
  if (parked) return;
  pend->msg.record = NULL; /* it is read again */
  mb__pending_detach(deliver->group);
}

/* Run the handlers, or say why none can be run. true: one is pending. */
static bool attempt_event(mb_deliver *deliver, mb_attempt *attempt, const mb_deaths *died) {
  mb_bytes type = attempt->msg->event_type;
  char why[256];
  if (died->count && attempt->msg->attempts > deliver->group->rules.max_retries) {
    mb__attempt_fail_for_crashes(deliver, attempt, died);
  } else if (!type.data) {
    mb__msg_untyped(attempt->record, why, sizeof why);
    mb__attempt_fail(attempt, "DeserializationError", why, (mb_bytes){"", 0});
  } else if (!mb__dispatch_wants(&deliver->group->dispatch, type)) {
    mb__attempt_fail(attempt, "UnknownEventType", "nothing subscribes to it: ", type);
    attempt->result->unknown = true;
  } else {
    return mb__attempt_run(deliver, attempt);
  }
  return false;
}

/* Run the handlers of one event and settle it. parked is NULL on the first attempt. */
static void handle_event(mb_deliver *deliver, mb_part *part, rd_kafka_message_t *record,
                         mb_bytes type, mb_tenant *tenant, mb_parked *parked) {
  mb_msg msg = {.record = record,
                .event_type = type,
                .tenant = tenant,
                .attempts = parked ? parked->attempts : -1};
  mb_iteration iteration;
  mb_deaths died = mb__watch_deaths(deliver->group->watch, record->partition, record->offset);
  mb_attempt attempt = {.part = part,
                        .record = record,
                        .parked = parked,
                        .msg = &msg,
                        .tenant = tenant,
                        .iteration = &iteration,
                        .only = parked && parked->failed.count ? &parked->failed : NULL,
                        .result = &deliver->own,
                        .deaths = died.count,
                        .sent = deliver->ctx->transaction.sent};
  if (died.count && !mb__verdict_set_apart(deliver)) {
    if (!parked) rd_kafka_message_destroy(record);
    return;
  }
  if (died.count)
    msg.attempts = died.count + (parked ? parked->attempts : mb__record_retries(record));
  if (attempt_event(deliver, &attempt, &died)) {
    suspend(deliver, &attempt);
    return;
  }
  mb__msg_done(&msg);
  mb__verdict_conclude(deliver, &attempt);
}

static void handle(mb_deliver *deliver, mb_part *part, rd_kafka_message_t *record, mb_bytes type,
                   mb_tenant *tenant, mb_parked *parked) {
  if (!deliver->metrics) {
    handle_event(deliver, part, record, type, tenant, parked);
    return;
  }
  int64_t begin = deliver->clock_us ? deliver->clock_us : mb__mono_us();
  deliver->clock_us = begin;
  handle_event(deliver, part, record, type, tenant, parked);
  if (!deliver->clock_us) deliver->clock_us = mb__mono_us();
  mb__histogram_add(&deliver->metrics->of[MB_CONSUME_DURATION], deliver->clock_us - begin);
}

/* A pending handler was completed. */
static void finish(mb_deliver *deliver, mb_pend *pend) {
  mb_parked *parked = pend->parked;
  mb_attempt attempt = {.part = mb__part_of(parked->queue),
                        .record = parked->record,
                        .parked = parked,
                        .msg = &pend->msg,
                        .tenant = &pend->tenant,
                        .iteration = &pend->iteration,
                        .only = pend->again ? &parked->failed : NULL,
                        .result = &pend->result,
                        .deaths = pend->deaths};
  if (mb__attempt_go_on(deliver, &attempt)) return;
  mb__retry_due(parked->queue, parked, MB_WAITING, INT64_MAX);
  mb__msg_done(&pend->msg);
  pend->kept = false; /* no part of the retry queue any more */
  pend->parked = NULL;
  attempt.sent = deliver->ctx->transaction.sent;
  mb__verdict_conclude(deliver, &attempt);
  mb__pend_free(deliver->group, pend);
}

bool mb__deliver_completed(mb_deliver *deliver) {
  int64_t begin_us = mb__mono_us();
  mb_pend *pend;
  bool any = false;
  while (!deliver->group->unit.lost && (pend = mb__pending_next(deliver->group))) {
    finish(deliver, pend);
    any = true;
    if (mb__mono_us() - begin_us > SLICE_US) break;
  }
  return any;
}

/* Nobody subscribes to its type, or to its type and tenant; or it is meant for another group. */
static bool is_skipped(mb_deliver *deliver, const rd_kafka_message_t *record, mb_bytes type,
                       mb_tenant *tenant) {
  mb_dispatch *dispatch = &deliver->group->dispatch;
  bool subscribed = type.data && mb__dispatch_wants(dispatch, type);
  tenant->kind = MB_TENANT_UNSEEN;
  if (type.data && !subscribed && !deliver->unknown_dead) {
    mb__skips_note(&deliver->skips, &deliver->ctx->log, type);
    return true;
  }
  if (mb__msg_elsewhere(deliver->ctx->group_name, record)) return true;
  if (!subscribed || !dispatch->filters) return false;
  mb__msg_tenant(record, tenant);
  return !mb__dispatch_takes(dispatch, type, tenant);
}

/* An event that a breaker held back is held back again, unless the breaker was reset meanwhile. One
 * that is dead is not run any more. */
static void go_on(mb_deliver *deliver, mb_part *part, mb_parked *parked, const mb_undone *undone) {
  mb_verdict verdict = mb__settle_dead(&deliver->group->rules, &part->breaker, undone->reason);
  if (undone->held && verdict.kind == MB_HOLD) {
    mb__verdict_hold(deliver, part, parked, undone->due_us);
  } else if (undone->held || !undone->reason) {
    if (undone->held) part->held_at = -1;
    mb__retry_due(&part->queue, parked, MB_BACKOFF, undone->held ? 0 : undone->due_us);
  } else if (verdict.kind == MB_DEAD) {
    /* Due, not written: in a transaction of its own, which no other event undoes. One that was
     * refused waits for its time. */
    mb__consumer_note(deliver->group, part, true);
    mb__retry_due(&part->queue, parked, MB_TO_DLQ, undone->due_us);
  } else {
    mb__verdict_end(deliver, part, parked, &verdict);
  }
}

/* An event that failed, and is read again because something was undone, comes back. */
static void come_back(mb_deliver *deliver, mb_part *part, rd_kafka_message_t *record,
                      mb_undone *undone) {
  mb_bytes key = mb__part_key(deliver->group, record);
  bool waits = part->queue.count && mb__retry_holds(&part->queue, key);
  waits |= mb__pending_before(deliver->group, part->id, key) != NULL;
  mb_parked *parked = mb__verdict_park(deliver, part, record, MB_WAITING);
  if (parked) mb__undone_restore(undone, parked);
  if (parked && parked->dlq_attempts) deliver->dlq_stuck = true;
  if (parked) mb__parked_own(parked);
  if (parked && !waits) go_on(deliver, part, parked, undone);
  mb__undone_free(undone);
}

static bool is_same(const rd_kafka_message_t *a, const rd_kafka_message_t *b) {
  return a->offset == b->offset && a->len == b->len && a->key_len == b->key_len &&
         (!a->len || memcmp(a->payload, b->payload, a->len) == 0) &&
         (!a->key_len || memcmp(a->key, b->key, a->key_len) == 0);
}

/* A handler of its key is still running since the partition was ours before: of an earlier event,
 * or of this one, which then need not run again. false: there is none. */
static bool wait_for_detached(mb_deliver *deliver, mb_part *part, rd_kafka_message_t *record) {
  mb_pend *pend =
      mb__pending_before(deliver->group, part->id, mb__part_key(deliver->group, record));
  if (!pend) return false;
  bool same = !pend->undone && pend->msg.record && is_same(pend->msg.record, record);
  mb_parked *parked = mb__verdict_park(deliver, part, record, same ? MB_RUNNING : MB_WAITING);
  if (parked && same) mb__pend_take_back(deliver->group, pend, parked);
  return true;
}

void mb__deliver_arrive(mb_deliver *deliver, mb_part *part, rd_kafka_message_t *record) {
  deliver->ctx->stats.events_consumed++;
  /* What it held back is no more: the topic forgot it. */
  if (part->held_at >= 0 && record->offset > part->held_at && !part->queue.held) part->held_at = -1;
  /* Settled by a worker that died before it could commit so, or while an event before it waited. */
  if (mb__watch_settled(part->queue.notes.part, record->offset) ||
      mb__marks_has(&part->ahead, record->offset)) {
    mb__progress_pass(deliver->group, part, record);
    return;
  }
  mb_undone *undone = deliver->group->undone ? mb__undone_take(&deliver->group->undone,
                                                               record->partition, record->offset)
                                             : NULL;
  if (undone) {
    come_back(deliver, part, record, undone);
    return;
  }
  if (part->queue.count && mb__retry_holds(&part->queue, mb__part_key(deliver->group, record))) {
    mb__verdict_park(deliver, part, record, MB_WAITING);
    return;
  }
  if (deliver->group->pending.detached && wait_for_detached(deliver, part, record)) return;
  mb_tenant tenant;
  mb_bytes type = mb__msg_type(record);
  if (is_skipped(deliver, record, type, &tenant)) {
    deliver->ctx->stats.events_skipped++;
    mb__progress_pass(deliver->group, part, record);
    return;
  }
  handle(deliver, part, record, type, &tenant, NULL);
}

/* One that was dead runs once more: the handlers that made it so, as if they had not said so. */
static void reset_failure(mb_parked *parked) {
  mb__ids_free(&parked->failed);
  parked->failed = parked->final;
  parked->final = (mb_ids){0};
  parked->rejected = parked->exhausted = false;
  parked->reason = NULL;
}

/* A parked event whose time has come. */
static void resume(mb_deliver *deliver, mb_part *part, mb_parked *parked) {
  parked->due_us = INT64_MAX;
  if (parked->state == MB_TO_DLQ) {
    mb__dlq_write(deliver, parked);
    return;
  }
  if (parked->reason) reset_failure(parked);
  /* Those that waited behind it have not run yet; a handler unsubscribed meanwhile leaves none. */
  mb_tenant tenant;
  mb_bytes type = mb__msg_type(parked->record);
  if (is_skipped(deliver, parked->record, type, &tenant)) {
    deliver->ctx->stats.events_skipped++;
    if (parked == part->queue.held) mb__consumer_reset_breaker(deliver->group, part);
    mb__progress_settled(deliver->group, parked);
    return;
  }
  if (!parked->failed.count && !parked->attempts)
    parked->attempts = mb__record_retries(parked->record);
  handle(deliver, part, parked->record, type, &tenant, parked);
}

static bool begin(mb_deliver *deliver) {
  deliver->group->txn.failed =
      mb__txn_begin(deliver->group, deliver->group->txn.why, sizeof deliver->group->txn.why);
  return !deliver->group->txn.failed;
}

/* In a transaction of its own, so that another failure undoes nothing but itself. */
static void resume_alone(mb_deliver *deliver, mb_part *part, mb_parked *parked) {
  mb_txn *txn = &deliver->group->txn;
  unsigned rewinds = txn->rewinds;
  txn->failed = mb__txn_commit(deliver->group, txn->why, sizeof txn->why);
  if (txn->failed || rewinds != txn->rewinds) return; /* then parked is no more */
  if (!begin(deliver)) return;
  resume(deliver, part, parked);
  if (!txn->failed) txn->failed = mb__txn_commit(deliver->group, txn->why, sizeof txn->why);
}

bool mb__deliver_due(mb_deliver *deliver, int64_t now_us) {
  bool any = false;
  mb_part *part;
  for (size_t i = 0; (part = mb__consumer_part_at(deliver->group, i)); i++) {
    mb_parked *parked;
    while (!atomic_load(&deliver->ctx->stop) && !deliver->group->txn.failed &&
           !deliver->group->halted && !deliver->group->unit.lost &&
           (parked = mb__retry_next(&part->queue, now_us, mb__pending_full(deliver->group)))) {
      /* Those that only waited behind a failed one share a transaction as usual. */
      if (deliver->ctx->transaction.on && (parked->attempts > 0 || parked->reason))
        resume_alone(deliver, part, parked);
      else if (!deliver->ctx->transaction.on || begin(deliver))
        resume(deliver, part, parked);
      any = true;
      if (mb__txn_is_full(deliver->group)) return true;
      if (mb__mono_us() - now_us > SLICE_US) return true;
    }
  }
  return any;
}
