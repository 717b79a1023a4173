/* deliver/deliver.c: the line an event travels: from the consumer to its handlers, and on to what
 * handlers/settle.c says. Must not know Lua, decide what an outcome means, or wait. Called by
 * bus/bus.c for every record and every parked event that is due. */
#include <stdlib.h>
#include <string.h>

#include "deliver/attempt.h"
#include "deliver/dead_letter.h"
#include "deliver/deliver.h"
#include "kafka/msg.h"
#include "kafka/producer.h"
#include "kafka/record.h"

#define SLICE_US        100000 /* how long parked events may run before others are let in */
#define POISON_FLUSH_MS 5000

/* xorshift64*: the jitter needs no more. */
static double random_share(mb_deliver *deliver) {
  deliver->random ^= deliver->random >> 12;
  deliver->random ^= deliver->random << 25;
  deliver->random ^= deliver->random >> 27;
  return (double)((deliver->random * 2685821657736338717ULL) >> 11) / 9007199254740992.0;
}

static mb_parked *park(mb_deliver *deliver, mb_part *part, rd_kafka_message_t *record,
                       mb_parked_state state) {
  int64_t next = record->offset + 1;
  mb_parked *parked = mb__lot_park(&part->lot, record, mb__lane_key(deliver->group, record));
  if (parked) {
    mb__lot_due(&part->lot, parked, state, INT64_MAX);
    part->next = next;
    mb__note(&part->lot.notes, MB_NOTE_NEXT, part->next);
    mb__consumer_balance(deliver->group, part);
    return parked;
  }
  /* Without memory to park it, the event must come again: nothing after it may be committed. */
  mb__record_log(&deliver->ctx->log, MB_LOG_ERROR, record, 0, NULL,
                 "out of memory: partition %d is read again from offset %lld", (int)part->id,
                 (long long)record->offset);
  mb__consumer_rewind(deliver->group, part, record->offset);
  rd_kafka_message_destroy(record);
  return NULL;
}

static void keep_failure(mb_parked *parked, const mb_result *result) {
  mb_ids only = {0};
  bool final = result->rejected_count || result->exhausted_count > parked->exhausted;
  bool failed = final || result->failed_count;
  /* The dead letter describes the failure that made it one, not a later failure that passed. */
  bool tell = final || (failed && !parked->rejected && !parked->exhausted);
  if (result->rejected_count) parked->rejected = true;
  if (result->exhausted_count) parked->exhausted = true;
  if (!parked->first_failed_us)
    parked->first_failed_us = result->first_failed_us ? result->first_failed_us : mb__now_us();
  if (tell && !parked->fail) parked->fail = malloc(sizeof *parked->fail);
  if (tell && parked->fail) *parked->fail = result->fail;
  mb__ids_join(&only, &result->failed);
  mb__ids_free(&parked->failed);
  parked->failed = only;
  mb__ids_join(&parked->final, &result->final);
  mb__parked_own(parked);
}

static void drop(mb_deliver *deliver, const rd_kafka_message_t *record, const char *reason) {
  deliver->ctx->stats.events_dropped++;
  char line[MB_LOG_LINE_MAX], same[256];
  mb_log_field fields[MB_RECORD_FIELDS];
  if (!mb__log_on(&deliver->ctx->log, MB_LOG_WARN)) return;
  mb__record_fields(record, 0, NULL, fields);
  snprintf(line, sizeof line, "event at %s[%d] offset %lld dropped (%s): enable_dlq is false",
           deliver->ctx->topic, (int)record->partition, (long long)record->offset, reason);
  snprintf(same, sizeof same, "events dropped (%s): enable_dlq is false", reason);
  mb__log_folded(&deliver->ctx->log, MB_LOG_WARN, line, fields, MB_RECORD_FIELDS, same);
}

static void log_failure(mb_deliver *deliver, const rd_kafka_message_t *record, int attempt,
                        const mb_fail *fail, const mb_verdict *verdict) {
  char wait[32] = "", line[MB_LOG_LINE_MAX], same[MB_LOG_LINE_MAX];
  mb_log_field fields[MB_RECORD_FIELDS];
  const char *then = verdict->kind == MB_RETRY  ? "retry"
                     : verdict->kind == MB_DEAD ? "dead letter"
                     : verdict->kind == MB_HALT ? "consumption stops"
                     : verdict->kind == MB_HOLD ? "held back"
                                                : "dropped";
  if (!mb__log_on(&deliver->ctx->log, MB_LOG_WARN)) return;
  if (verdict->kind == MB_RETRY)
    snprintf(wait, sizeof wait, " in %.3f s", (double)verdict->delay_us / 1e6);
  snprintf(same, sizeof same, "attempt %d failed: %s: %s; %s", attempt, fail->type, fail->message,
           then);
  snprintf(line, sizeof line, "%s[%d] offset %lld, attempt %d failed: %s: %s; %s%s",
           deliver->ctx->topic, (int)record->partition, (long long)record->offset, attempt,
           fail->type, fail->message, then, wait);
  mb__record_fields(record, attempt, fail, fields);
  mb__log_folded(&deliver->ctx->log, MB_LOG_WARN, line, fields, MB_RECORD_FIELDS, same);
}

/* It stays unsettled, and with it whatever comes after it in its partition. */
static void halt(mb_deliver *deliver, rd_kafka_message_t *record, bool parked) {
  deliver->group->halted = true;
  deliver->group->halt_err = MB_EDECODE;
  mb__text(deliver->group->halt_why, sizeof deliver->group->halt_why,
           "%s[%d] offset %lld: %.1500s; on_undecodable is stop", deliver->ctx->topic,
           (int)record->partition, (long long)record->offset, deliver->result->fail.message);
  if (!parked) rd_kafka_message_destroy(record);
}

/* ---- the circuit breaker ---- */

/* One dead letter too many: it stays unsettled, and its partition stops until it is handled. */
static void hold(mb_deliver *deliver, mb_part *part, mb_parked *parked, int64_t due_us) {
  double pause_s = (double)deliver->group->rules.breaker_pause_us / 1e6;
  bool again = part->lot.held == parked, known = part->held_at == parked->record->offset;
  if (part->lot.held && !again) { /* it was running then: it goes on once the breaker is closed */
    mb__lot_due(&part->lot, parked, MB_BACKOFF, 0);
    return;
  }
  part->held_at = parked->record->offset;
  mb__lot_hold(&part->lot, parked, due_us);
  if (!again) mb__consumer_open_breaker(deliver->group, part);
  if (known) return;
  deliver->group->health_noted_us = 0; /* the supervisor learns of it at once */
  char why[128];
  mb__breaker_why(&part->breaker, &deliver->group->rules.breaker, why, sizeof why);
  mb__record_log(
      &deliver->ctx->log, MB_LOG_ERROR, parked->record, parked->attempts + 1, parked->fail,
      "%s[%d]: circuit breaker open at offset %lld: %s; the partition is paused, and nothing of it "
      "is lost; fix the cause of the failures: this event is tried again every %.3g s, and the "
      "partition resumes when it succeeds; reset_breaker lets dead letters go on",
      deliver->ctx->topic, (int)part->id, (long long)parked->record->offset, why, pause_s);
}

/* One that was dead runs once more: the handlers that made it so, as if they had not said so. */
static void revive(mb_parked *parked) {
  mb__ids_free(&parked->failed);
  parked->failed = parked->final;
  parked->final = (mb_ids){0};
  parked->rejected = parked->exhausted = false;
  parked->reason = NULL;
}

/* It is dead, or held back. */
static void bury(mb_deliver *deliver, mb_part *part, mb_parked *parked, mb_verdict verdict) {
  parked->reason = verdict.reason;
  if (verdict.kind == MB_HOLD) {
    hold(deliver, part, parked, mb__mono_us() + verdict.delay_us);
    return;
  }
  mb__consumer_note(deliver->group, part, true);
  if (verdict.kind == MB_DEAD) {
    mb__dlq_write(deliver, parked);
    return;
  }
  drop(deliver, parked->record, verdict.reason);
  mb__progress_settled(deliver->group, parked);
}

static void done(mb_deliver *deliver, mb_part *part, rd_kafka_message_t *record,
                 mb_parked *parked) {
  deliver->ctx->stats.events_processed_success++;
  mb__consumer_note(deliver->group, part, false);
  if (parked && parked == part->lot.held) {
    mb__record_log(&deliver->ctx->log, MB_LOG_INFO, record, 0, NULL,
                   "%s[%d]: offset %lld is handled, the circuit breaker is closed",
                   deliver->ctx->topic, (int)part->id, (long long)record->offset);
    mb__consumer_reset_breaker(deliver->group, part);
  }
  if (parked)
    mb__progress_settled(deliver->group, parked);
  else
    mb__progress_pass(deliver->group, part, record);
}

/* Do what handlers/settle.c said. parked is NULL on the first run. deaths: of workers, among the
 * attempts.
 */
static void apply(mb_deliver *deliver, mb_part *part, rd_kafka_message_t *record, mb_parked *parked,
                  mb_verdict verdict, int attempts, int deaths) {
  if (verdict.kind == MB_HALT) {
    halt(deliver, record, parked != NULL);
    return;
  }
  if (verdict.kind == MB_DONE) {
    done(deliver, part, record, parked);
    return;
  }
  if (!parked && !(parked = park(deliver, part, record, MB_WAITING))) return;
  keep_failure(parked, deliver->result);
  parked->attempts = attempts + (verdict.kind == MB_RETRY);
  if (verdict.kind == MB_RETRY) {
    deliver->ctx->stats.retries++;
    mb__lot_due(&part->lot, parked, MB_BACKOFF, mb__mono_us() + verdict.delay_us);
    return;
  }
  /* Deaths stay noted, and are added again when it is tried again. */
  if (verdict.kind == MB_HOLD)
    parked->attempts -= deaths;
  else if (deliver->result->died)
    parked->attempts--; /* the last death was the last attempt: none was made this time */
  bury(deliver, part, parked, verdict);
}

/* A failed run published something: its transaction is to be undone, and the events in it are read
 * again. The one that failed will be run alone when its time comes, or die. */
static void remember(mb_deliver *deliver, mb_part *part, rd_kafka_message_t *record,
                     mb_parked *parked, mb_verdict verdict, int attempts) {
  bool retry = verdict.kind == MB_RETRY;
  if (retry) deliver->ctx->stats.retries++;
  if (!parked && !(parked = park(deliver, part, record, MB_WAITING))) return;
  keep_failure(parked, deliver->result);
  parked->attempts = attempts + retry;
  parked->reason = verdict.reason;
  mb__lot_due(&part->lot, parked, MB_BACKOFF, mb__mono_us() + verdict.delay_us);
  if (verdict.kind == MB_HOLD) mb__lot_hold(&part->lot, parked, parked->due_us);
}

/* Before an event that workers died with: what was done so far is committed, so that another death
 * costs nothing but this event's run. false: that failed, and everything is read again. */
static bool set_apart(mb_deliver *deliver) {
  mb_txn *txn = &deliver->group->txn;
  unsigned rewinds = txn->rewinds;
  if (!deliver->ctx->transaction.on) return mb__unit_end(deliver->group, true);
  txn->failed = mb__txn_commit(deliver->group, txn->why, sizeof txn->why);
  if (!txn->failed) txn->failed = mb__txn_begin(deliver->group, txn->why, sizeof txn->why);
  return !txn->failed && rewinds == txn->rewinds;
}

/* How often its handlers failed before. */
static int attempts_before(const rd_kafka_message_t *record, int known) {
  return known >= 0 ? known : mb__record_retries(record);
}

/* The handlers have run: settle the event. parked is NULL on a first run that was not pending.
 * sent: of the transaction, before they ran. */
static void conclude(mb_deliver *deliver, mb_part *part, rd_kafka_message_t *record,
                     mb_parked *parked, int known_attempts, int deaths, uint64_t sent) {
  mb_result *result = deliver->result;
  bool good = !result->failed_count && !result->rejected_count;
  if (!good && mb__txn_spoils(deliver->group)) { /* it runs again as if it had not yet */
    if (!parked) rd_kafka_message_destroy(record);
    deliver->group->txn.failed =
        mb__txn_spoiled(deliver->group, deliver->group->txn.why, sizeof deliver->group->txn.why);
    return;
  }
  int attempts = good && known_attempts < 0 ? 0 : attempts_before(record, known_attempts);
  int errors = result->failed_count + result->rejected_count;
  if (result->run_count)
    deliver->ctx->stats.handler_invocations += (uint64_t)(result->run_count - errors);
  mb__settle_weigh(&deliver->group->rules, result, attempts);
  if (parked && parked->exhausted) {
    result->exhausted_count++;
    if (parked->fail && !result->reason) result->reason = parked->fail->reason;
  }
  mb_verdict verdict = mb__settle(&deliver->group->rules, &part->breaker, result, attempts,
                                  parked && parked->rejected, good ? 0 : random_share(deliver));
  /* Whatever is done with it but to pass on may take its time. */
  if (verdict.kind != MB_DONE || parked || deaths || deliver->ctx->transaction.on)
    deliver->clock_us = 0;
  if (!good) {
    if (!result->undecodable) deliver->ctx->stats.events_processed_failed++;
    if (!result->undecodable) deliver->ctx->stats.handler_errors += (uint64_t)errors;
    deliver->ctx->stats.last_error_at_us = mb__now_us();
    log_failure(deliver, record, attempts + !result->died, &result->fail, &verdict);
  }
  if (deliver->ctx->transaction.on && verdict.kind == MB_DONE &&
      deliver->ctx->transaction.sent != sent)
    mb__txn_published(deliver->group,
                      &(mb_publisher){.partition = record->partition,
                                      .offset = record->offset,
                                      .attempts = attempts_before(record, known_attempts)});
  if (deliver->ctx->transaction.on && verdict.kind != MB_DONE &&
      deliver->ctx->transaction.sent != sent) {
    if (deaths) mb__watch_bury(deliver->group->watch, record->partition, record->offset);
    if (verdict.kind == MB_HALT)
      halt(deliver, record, parked != NULL);
    else
      remember(deliver, part, record, parked, verdict, attempts);
    deliver->group->txn.failed =
        mb__txn_abort(deliver->group, deliver->group->txn.why, sizeof deliver->group->txn.why);
    return;
  }
  int32_t partition = record->partition;
  int64_t offset = record->offset;
  apply(deliver, part, record, parked, verdict, attempts, deaths);
  if (!deaths || verdict.kind == MB_HOLD) return;
  /* Where workers die, this one may be next: the dead letter is settled before another event runs.
   */
  if (verdict.kind == MB_DEAD) mb__producer_flush(deliver->ctx, POISON_FLUSH_MS);
  if (!set_apart(deliver)) return;
  mb__watch_bury(deliver->group->watch, partition, offset);
}

/* What its handlers published was refused: they are taken to have failed, all of them, as nothing
 * of theirs is left. It is read again. */
bool mb__deliver_charge(void *opaque, const mb_publisher *publisher, const char *why) {
  mb_deliver *deliver = opaque;
  mb_part *part = mb__consumer_part(deliver->group, publisher->partition);
  mb_memory *memory =
      part ? mb__memory_new(&deliver->group->memories, part->id, publisher->offset) : NULL;
  mb_result result = {.failed_count = 1, .retry_after_us = -1};
  if (!memory) return false;
  mb_fail_set(&result.fail, "PublishRefused", "what its handlers published was refused: %s", why);
  mb_verdict verdict = mb__settle(&deliver->group->rules, &part->breaker, &result,
                                  publisher->attempts, false, random_share(deliver));
  bool retry = verdict.kind == MB_RETRY;
  memory->attempts = publisher->attempts + retry;
  memory->first_failed_us = mb__now_us();
  memory->due_us = retry ? mb__mono_us() + verdict.delay_us : 0;
  memory->reason = verdict.reason;
  memory->fail = malloc(sizeof *memory->fail);
  if (memory->fail) *memory->fail = result.fail;
  deliver->ctx->stats.events_processed_failed++;
  deliver->ctx->stats.retries += retry;
  deliver->ctx->stats.last_error_at_us = memory->first_failed_us;
  log_failure(deliver, &(rd_kafka_message_t){.partition = part->id, .offset = publisher->offset},
              publisher->attempts + 1, &result.fail, &verdict);
  return true;
}

/* One of its handlers is pending: it waits for that, and its key for it. */
static void suspend(mb_deliver *deliver, mb_part *part, rd_kafka_message_t *record,
                    mb_parked *parked, mb_pend *run) {
  if (parked)
    mb__lot_due(&part->lot, parked, MB_RUNNING, INT64_MAX);
  else
    parked = park(deliver, part, record, MB_RUNNING);
  run->parked = parked;
  if (parked) return;
  run->msg.record = NULL; /* it is read again */
  mb__runs_orphan(deliver->group);
}

/* Run the handlers of one event and settle it. parked is NULL on the first run. */
static void settle_one(mb_deliver *deliver, mb_part *part, rd_kafka_message_t *record,
                       mb_bytes type, mb_parked *parked) {
  mb_msg msg = {.record = record,
                .event_type = type,
                .tenant = &deliver->tenant,
                .attempts = parked ? parked->attempts : -1};
  mb_walk walk;
  bool again = parked && parked->failed.count;
  uint64_t sent = deliver->ctx->transaction.sent;
  mb_deaths died = mb__watch_deaths(deliver->group->watch, record->partition, record->offset);
  int deaths = died.count;
  if (deaths && !set_apart(deliver)) {
    if (!parked) rd_kafka_message_destroy(record);
    return;
  }
  if (deaths) msg.attempts = deaths + (parked ? parked->attempts : mb__record_retries(record));
  if (deaths && msg.attempts > deliver->group->rules.max_retries) {
    mb__run_condemn(deliver, &died);
  } else if (!type.data) {
    char why[256];
    mb__msg_untyped(record, why, sizeof why);
    mb__run_cannot(deliver, "DeserializationError", why, (mb_bytes){"", 0});
  } else if (!mb__dispatch_wants(&deliver->group->dispatch, type)) {
    mb__run_cannot(deliver, "UnknownEventType", "nothing subscribes to it: ", type);
    deliver->result->unknown = true;
  } else if (mb__run_handlers(deliver, &msg, again ? &parked->failed : NULL, &walk)) {
    mb_pend *run = mb__run_keep(&msg, &walk, deliver->result);
    run->again = again;
    run->deaths = deaths;
    suspend(deliver, part, record, parked, run);
    deliver->clock_us = 0;
    return;
  }
  mb__msg_done(&msg);
  conclude(deliver, part, record, parked, msg.attempts, deaths, sent);
}

static void handle(mb_deliver *deliver, mb_part *part, rd_kafka_message_t *record, mb_bytes type,
                   mb_parked *parked) {
  if (!deliver->metrics) {
    settle_one(deliver, part, record, type, parked);
    return;
  }
  int64_t begin = deliver->clock_us ? deliver->clock_us : mb__mono_us();
  deliver->clock_us = begin;
  settle_one(deliver, part, record, type, parked);
  if (!deliver->clock_us) deliver->clock_us = mb__mono_us();
  mb__histogram_add(&deliver->metrics->of[MB_CONSUME_DURATION], deliver->clock_us - begin);
}

/* A pending handler was completed. */
static void finish(mb_deliver *deliver, mb_pend *run) {
  mb_parked *parked = run->parked;
  mb_part *part = mb__part_of(parked->lot);
  deliver->result = &run->result;
  if (!mb__run_on(deliver, run)) {
    mb__lot_due(&part->lot, parked, MB_WAITING, INT64_MAX);
    mb__msg_done(&run->msg);
    run->kept = false; /* no part of the lot any more */
    run->parked = NULL;
    conclude(deliver, part, parked->record, parked, run->msg.attempts, run->deaths,
             deliver->ctx->transaction.sent);
    mb__run_free(deliver->group, run);
  }
  deliver->result = &deliver->own;
}

bool mb__deliver_completed(mb_deliver *deliver) {
  int64_t begin_us = mb__mono_us();
  mb_pend *run;
  bool any = false;
  while (!deliver->group->unit.lost && (run = mb__runs_next(deliver->group))) {
    finish(deliver, run);
    any = true;
    if (mb__mono_us() - begin_us > SLICE_US) break;
  }
  return any;
}

/* Nobody subscribes to its type, or to its type and tenant; or it is meant for another group. */
static bool is_skipped(mb_deliver *deliver, const rd_kafka_message_t *record, mb_bytes type) {
  bool wanted = type.data && mb__dispatch_wants(&deliver->group->dispatch, type);
  deliver->tenant.kind = MB_TENANT_UNSEEN;
  if (type.data && !wanted && !deliver->unknown_dead) {
    mb__skips_note(&deliver->skips, &deliver->ctx->log, type);
    return true;
  }
  if (mb__msg_elsewhere(deliver->ctx->group_name, record)) return true;
  if (!wanted || !deliver->group->dispatch.filters) return false;
  mb__msg_tenant(record, &deliver->tenant);
  return !mb__dispatch_takes(&deliver->group->dispatch, type, &deliver->tenant);
}

/* An event that a breaker held back is held back again, unless the breaker was reset meanwhile. One
 * that is dead is not run any more. */
static void go_on(mb_deliver *deliver, mb_part *part, mb_parked *parked, const mb_memory *memory) {
  mb_verdict verdict = mb__settle_dead(&deliver->group->rules, &part->breaker, memory->reason);
  if (memory->held && verdict.kind == MB_HOLD) {
    hold(deliver, part, parked, memory->due_us);
  } else if (memory->held || !memory->reason) {
    if (memory->held) part->held_at = -1;
    mb__lot_due(&part->lot, parked, MB_BACKOFF, memory->held ? 0 : memory->due_us);
  } else if (verdict.kind == MB_DEAD) {
    /* Due, not written: in a transaction of its own, which no other event undoes. One that was
     * refused waits for its time. */
    mb__consumer_note(deliver->group, part, true);
    mb__lot_due(&part->lot, parked, MB_TO_DLQ, memory->due_us);
  } else {
    bury(deliver, part, parked, verdict);
  }
}

/* An event that failed, and is read again because something was undone, comes back. */
static void come_back(mb_deliver *deliver, mb_part *part, rd_kafka_message_t *record,
                      mb_memory *memory) {
  mb_bytes key = mb__lane_key(deliver->group, record);
  bool waits = part->lot.count && mb__lot_holds(&part->lot, key);
  waits |= mb__runs_before(deliver->group, part->id, key) != NULL;
  mb_parked *parked = park(deliver, part, record, MB_WAITING);
  if (parked) mb__memory_restore(memory, parked);
  if (parked && parked->dlq_attempts) deliver->dlq_stuck = true;
  if (parked) mb__parked_own(parked);
  if (parked && !waits) go_on(deliver, part, parked, memory);
  mb__memory_free(memory);
}

static bool is_same(const rd_kafka_message_t *a, const rd_kafka_message_t *b) {
  return a->offset == b->offset && a->len == b->len && a->key_len == b->key_len &&
         (!a->len || memcmp(a->payload, b->payload, a->len) == 0) &&
         (!a->key_len || memcmp(a->key, b->key, a->key_len) == 0);
}

/* A handler of its key is still running since the partition was ours before: of an earlier event,
 * or of this one, which then need not run again. false: there is none. */
static bool wait_for_orphan(mb_deliver *deliver, mb_part *part, rd_kafka_message_t *record) {
  mb_pend *run = mb__runs_before(deliver->group, part->id, mb__lane_key(deliver->group, record));
  if (!run) return false;
  bool same = !run->undone && run->msg.record && is_same(run->msg.record, record);
  mb_parked *parked = park(deliver, part, record, same ? MB_RUNNING : MB_WAITING);
  if (parked && same) mb__run_take_back(deliver->group, run, parked);
  return true;
}

void mb__deliver_arrive(mb_deliver *deliver, mb_part *part, rd_kafka_message_t *record) {
  deliver->ctx->stats.events_consumed++;
  /* What it held back is no more: the topic forgot it. */
  if (part->held_at >= 0 && record->offset > part->held_at && !part->lot.held) part->held_at = -1;
  /* Settled by a worker that died before it could commit so, or while an event before it waited. */
  if (mb__watch_settled(part->lot.notes.part, record->offset) ||
      mb__marks_has(&part->ahead, record->offset)) {
    mb__progress_pass(deliver->group, part, record);
    return;
  }
  mb_memory *memory = deliver->group->memories
                          ? mb__recall(&deliver->group->memories, record->partition, record->offset)
                          : NULL;
  if (memory) {
    come_back(deliver, part, record, memory);
    return;
  }
  if (part->lot.count && mb__lot_holds(&part->lot, mb__lane_key(deliver->group, record))) {
    park(deliver, part, record, MB_WAITING);
    return;
  }
  if (deliver->group->runs.orphans && wait_for_orphan(deliver, part, record)) return;
  mb_bytes type = mb__msg_type(record);
  if (is_skipped(deliver, record, type)) {
    deliver->ctx->stats.events_skipped++;
    mb__progress_pass(deliver->group, part, record);
    return;
  }
  handle(deliver, part, record, type, NULL);
}

/* A parked event whose time has come. */
static void resume(mb_deliver *deliver, mb_part *part, mb_parked *parked) {
  parked->due_us = INT64_MAX;
  if (parked->state == MB_TO_DLQ) {
    mb__dlq_write(deliver, parked);
    return;
  }
  if (parked->reason) revive(parked);
  /* Those that waited behind it have not run yet; a handler unsubscribed meanwhile leaves none. */
  mb_bytes type = mb__msg_type(parked->record);
  if (is_skipped(deliver, parked->record, type)) {
    deliver->ctx->stats.events_skipped++;
    if (parked == part->lot.held) mb__consumer_reset_breaker(deliver->group, part);
    mb__progress_settled(deliver->group, parked);
    return;
  }
  if (!parked->failed.count && !parked->attempts)
    parked->attempts = mb__record_retries(parked->record);
  handle(deliver, part, parked->record, type, parked);
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
           (parked = mb__lot_next(&part->lot, now_us, mb__runs_full(deliver->group)))) {
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
