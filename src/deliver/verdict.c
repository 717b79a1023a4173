/* deliver/verdict.c: does what handlers/settle.c says of an event: settled, retried, held back, a
 * dead letter, or undone with its transaction. Must not decide that itself, run handlers or know
 * Lua. Called by deliver/deliver.c, and by group/txn.c for what handlers published. */
#include "deliver/verdict.h"

#include <stdlib.h>
#include <string.h>

#include "deliver/dead_letter.h"
#include "kafka/msg.h"
#include "kafka/producer.h"

#define POISON_FLUSH_MS 5000 /* for the dead letter of an event that workers died with */

/* xorshift64*: the jitter needs no more. */
static double random_share(mb_deliver *deliver) {
  deliver->random ^= deliver->random >> 12;
  deliver->random ^= deliver->random << 25;
  deliver->random ^= deliver->random >> 27;
  return (double)((deliver->random * 2685821657736338717ULL) >> 11) / 9007199254740992.0;
}

mb_parked *mb__verdict_park(mb_deliver *deliver, mb_part *part, rd_kafka_message_t *record,
                            mb_parked_state state) {
  int64_t next = record->offset + 1;
  mb_parked *parked = mb__retry_park(&part->queue, record, mb__part_key(deliver->group, record));
  if (parked) {
    mb__retry_due(&part->queue, parked, state, INT64_MAX);
    part->next = next;
    mb__note(&part->queue.notes, MB_NOTE_NEXT, part->next);
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
  bool final = result->rejected_count || result->exhausted_count > 0;
  bool failed = final || result->failed_count;
  /* The dead letter describes the failure that made it one, not a later failure that passed. */
  bool describes = final || (failed && !parked->rejected && !parked->exhausted);
  if (result->rejected_count) parked->rejected = true;
  if (result->exhausted_count) parked->exhausted = true;
  if (!parked->first_failed_us)
    parked->first_failed_us = result->first_failed_us ? result->first_failed_us : mb__now_us();
  if (describes && !parked->fail) parked->fail = malloc(sizeof *parked->fail);
  if (describes && parked->fail) *parked->fail = result->fail;
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
static void halt(mb_deliver *deliver, mb_attempt *attempt) {
  mb_group *group = deliver->group;
  group->halted = true;
  group->halt_err = MB_EDECODE;
  mb__text(group->halt_why, sizeof group->halt_why,
           "%s[%d] offset %lld: %.1500s; on_undecodable is stop", deliver->ctx->topic,
           (int)attempt->part->id, (long long)attempt->record->offset,
           attempt->result->fail.message);
  if (!attempt->parked) rd_kafka_message_destroy(attempt->record);
}

/* ---- the circuit breaker ---- */

/* One dead letter too many: it stays unsettled, and its partition stops until it is handled. */
void mb__verdict_hold(mb_deliver *deliver, mb_part *part, mb_parked *parked, int64_t due_us) {
  double pause_s = (double)deliver->group->rules.breaker_pause_us / 1e6;
  bool again = part->queue.held == parked, known = part->held_at == parked->record->offset;
  if (part->queue.held && !again) { /* it was running then: it goes on once the breaker is closed */
    mb__retry_due(&part->queue, parked, MB_BACKOFF, 0);
    return;
  }
  part->held_at = parked->record->offset;
  mb__retry_hold(&part->queue, parked, due_us);
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

void mb__verdict_end(mb_deliver *deliver, mb_part *part, mb_parked *parked,
                     const mb_verdict *verdict) {
  parked->reason = verdict->reason;
  if (verdict->kind == MB_HOLD) {
    mb__verdict_hold(deliver, part, parked, mb__mono_us() + verdict->delay_us);
    return;
  }
  mb__consumer_note(deliver->group, part, true);
  if (verdict->kind == MB_DEAD) {
    mb__dlq_write(deliver, parked);
    return;
  }
  drop(deliver, parked->record, verdict->reason);
  mb__progress_settled(deliver->group, parked);
}

static void done(mb_deliver *deliver, mb_attempt *attempt) {
  mb_part *part = attempt->part;
  mb_parked *parked = attempt->parked;
  deliver->ctx->stats.events_processed_success++;
  mb__consumer_note(deliver->group, part, false);
  if (parked && parked == part->queue.held) {
    mb__record_log(&deliver->ctx->log, MB_LOG_INFO, attempt->record, 0, NULL,
                   "%s[%d]: offset %lld is handled, the circuit breaker is closed",
                   deliver->ctx->topic, (int)part->id, (long long)attempt->record->offset);
    mb__consumer_reset_breaker(deliver->group, part);
  }
  if (parked)
    mb__progress_settled(deliver->group, parked);
  else
    mb__progress_pass(deliver->group, part, attempt->record);
}

/* The event waits from here on, with what is known of its failure. false: no memory is left, and it
 * is read again. */
static bool keep(mb_deliver *deliver, mb_attempt *attempt, const mb_verdict *verdict,
                 int attempts) {
  bool retry = verdict->kind == MB_RETRY;
  if (!attempt->parked)
    attempt->parked = mb__verdict_park(deliver, attempt->part, attempt->record, MB_WAITING);
  if (!attempt->parked) return false;
  keep_failure(attempt->parked, attempt->result);
  attempt->parked->attempts = attempts + retry;
  if (retry) deliver->ctx->stats.retries++;
  return true;
}

/* Do what handlers/settle.c said. */
static void apply(mb_deliver *deliver, mb_attempt *attempt, const mb_verdict *verdict,
                  int attempts) {
  if (verdict->kind == MB_HALT) {
    halt(deliver, attempt);
    return;
  }
  if (verdict->kind == MB_DONE) {
    done(deliver, attempt);
    return;
  }
  if (!keep(deliver, attempt, verdict, attempts)) return;
  mb_part *part = attempt->part;
  mb_parked *parked = attempt->parked;
  if (verdict->kind == MB_RETRY) {
    mb__retry_due(&part->queue, parked, MB_BACKOFF, mb__mono_us() + verdict->delay_us);
    return;
  }
  /* Deaths stay noted, and are added again when it is tried again. */
  if (verdict->kind == MB_HOLD)
    parked->attempts -= attempt->deaths;
  else if (attempt->result->died)
    parked->attempts--; /* the last death was the last attempt: none was made this time */
  mb__verdict_end(deliver, part, parked, verdict);
}

/* A failed attempt published something: its transaction is undone, and the events in it are read
 * again. The one that failed runs alone when its time comes, or becomes a dead letter then. */
static void undo(mb_deliver *deliver, mb_attempt *attempt, const mb_verdict *verdict,
                 int attempts) {
  mb_txn *txn = &deliver->group->txn;
  if (attempt->deaths)
    mb__watch_forget(deliver->group->watch, attempt->part->id, attempt->record->offset);
  if (verdict->kind == MB_HALT) {
    halt(deliver, attempt);
  } else if (keep(deliver, attempt, verdict, attempts)) {
    mb_retry_queue *queue = &attempt->part->queue;
    mb_parked *parked = attempt->parked;
    parked->reason = verdict->reason;
    mb__retry_due(queue, parked, MB_BACKOFF, mb__mono_us() + verdict->delay_us);
    if (verdict->kind == MB_HOLD) mb__retry_hold(queue, parked, parked->due_us);
  }
  txn->failed = mb__txn_abort(deliver->group, txn->why, sizeof txn->why);
}

bool mb__verdict_set_apart(mb_deliver *deliver) {
  mb_txn *txn = &deliver->group->txn;
  unsigned rewinds = txn->rewinds;
  if (!deliver->ctx->transaction.on) return mb__unit_end(deliver->group, true);
  txn->failed = mb__txn_commit(deliver->group, txn->why, sizeof txn->why);
  if (!txn->failed) txn->failed = mb__txn_begin(deliver->group, txn->why, sizeof txn->why);
  return !txn->failed && rewinds == txn->rewinds;
}

/* How often its handlers failed before. */
static int attempts_before(const mb_attempt *attempt) {
  int known = attempt->msg->attempts;
  return known >= 0 ? known : mb__record_retries(attempt->record);
}

/* What this attempt adds to the counters and the log. attempts: failed ones before it. */
static void count(mb_deliver *deliver, const mb_attempt *attempt, const mb_verdict *verdict,
                  int errors, int attempts) {
  const mb_result *result = attempt->result;
  mb_stats *stats = &deliver->ctx->stats;
  if (!result->undecodable) {
    stats->events_processed_failed++;
    stats->handler_errors += (uint64_t)errors;
  }
  stats->last_error_at_us = mb__now_us();
  log_failure(deliver, attempt->record, attempts + !result->died, &result->fail, verdict);
}

/* Workers died with it: it is settled, and what was done so far is committed, before another event
 * runs. */
static void settle_deaths(mb_deliver *deliver, int32_t partition, int64_t offset, bool dead) {
  if (dead) mb__producer_flush(deliver->ctx, POISON_FLUSH_MS);
  if (mb__verdict_set_apart(deliver)) mb__watch_forget(deliver->group->watch, partition, offset);
}

void mb__verdict_conclude(mb_deliver *deliver, mb_attempt *attempt) {
  mb_group *group = deliver->group;
  mb_result *result = attempt->result;
  const mb_parked *parked = attempt->parked;
  bool good = !result->failed_count && !result->rejected_count;
  if (!good && mb__txn_spoils(group)) { /* it runs again as if it had not yet */
    if (!parked) rd_kafka_message_destroy(attempt->record);
    group->txn.failed = mb__txn_spoiled(group, group->txn.why, sizeof group->txn.why);
    return;
  }
  int attempts = good && attempt->msg->attempts < 0 ? 0 : attempts_before(attempt);
  int errors = result->failed_count + result->rejected_count;
  if (result->run_count)
    deliver->ctx->stats.handler_invocations += (uint64_t)(result->run_count - errors);
  const mb_past past = {.rejected = parked && parked->rejected,
                        .exhausted = parked && parked->exhausted,
                        .reason = parked && parked->fail ? parked->fail->reason : NULL};
  mb_verdict verdict = mb__settle(&group->rules, &attempt->part->breaker, result, attempts, &past,
                                  good ? 0 : random_share(deliver));
  bool passes = verdict.kind == MB_DONE, in_transaction = deliver->ctx->transaction.on;
  /* Whatever is done with it but to pass on may take its time. */
  if (!passes || parked || attempt->deaths || in_transaction) deliver->clock_us = 0;
  if (!good) count(deliver, attempt, &verdict, errors, attempts);
  bool published = in_transaction && deliver->ctx->transaction.sent != attempt->sent;
  if (published && !passes) {
    undo(deliver, attempt, &verdict, attempts);
    return;
  }
  if (published)
    mb__txn_published(group, &(mb_publisher){.partition = attempt->part->id,
                                             .offset = attempt->record->offset,
                                             .attempts = attempts_before(attempt)});
  int32_t partition = attempt->part->id;
  int64_t offset = attempt->record->offset;
  apply(deliver, attempt, &verdict, attempts);
  if (attempt->deaths && verdict.kind != MB_HOLD)
    settle_deaths(deliver, partition, offset, verdict.kind == MB_DEAD);
}

/* What its handlers published was refused: they are taken to have failed, all of them, as nothing
 * of theirs is left. It is read again. */
bool mb__verdict_charge(void *opaque, const mb_publisher *publisher, const char *why) {
  mb_deliver *deliver = opaque;
  mb_part *part = mb__consumer_part(deliver->group, publisher->partition);
  mb_undone *undone =
      part ? mb__undone_new(&deliver->group->undone, part->id, publisher->offset) : NULL;
  mb_result result = {.failed_count = 1, .retry_after_us = -1};
  if (!undone) return false;
  mb_fail_set(&result.fail, "PublishRefused", "what its handlers published was refused: %s", why);
  mb_verdict verdict = mb__settle(&deliver->group->rules, &part->breaker, &result,
                                  publisher->attempts, NULL, random_share(deliver));
  bool retry = verdict.kind == MB_RETRY;
  undone->attempts = publisher->attempts + retry;
  undone->first_failed_us = mb__now_us();
  undone->due_us = retry ? mb__mono_us() + verdict.delay_us : 0;
  undone->reason = verdict.reason;
  undone->fail = malloc(sizeof *undone->fail);
  if (undone->fail) *undone->fail = result.fail;
  deliver->ctx->stats.events_processed_failed++;
  deliver->ctx->stats.retries += retry;
  deliver->ctx->stats.last_error_at_us = undone->first_failed_us;
  log_failure(deliver, &(rd_kafka_message_t){.partition = part->id, .offset = publisher->offset},
              publisher->attempts + 1, &result.fail, &verdict);
  return true;
}
