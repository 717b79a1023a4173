/* test_settle.c: the table of verdicts: what becomes of an event after its handlers ran.
 * Must not need a broker.
 * Run by ctest. */
#include "check.h"
#include "handlers/settle.h"

static const mb_rules rules = {
    .max_retries = 3, .base_s = 1, .max_s = 60, .jitter = 0.1, .dlq = true};

typedef struct row {
  const char *name;
  int failed, rejected;
  bool undecodable;
  int attempts; /* failed runs before this one */
  bool before;  /* rejected in an earlier run */
  mb_verdict_kind kind;
  const char *reason; /* NULL = none */
} row;

static const row table[] = {
    {"all handlers did well", 0, 0, false, 0, false, MB_DONE, NULL},
    {"all did well at last", 0, 0, false, 3, false, MB_DONE, NULL},
    {"all did well after more runs than allowed now", 0, 0, false, 9, false, MB_DONE, NULL},
    {"one failed, first run", 1, 0, false, 0, false, MB_RETRY, NULL},
    {"several failed, first run", 4, 0, false, 0, false, MB_RETRY, NULL},
    {"one failed, one retry is left", 1, 0, false, 2, false, MB_RETRY, NULL},
    {"one failed, none is left", 1, 0, false, 3, false, MB_DEAD, "max_retries_exceeded"},
    {"one failed, the header told of more", 1, 0, false, 7, false, MB_DEAD, "max_retries_exceeded"},
    {"one refused the event", 0, 1, false, 0, false, MB_DEAD, "handler_rejected"},
    {"one refused it in a retry", 0, 1, false, 2, false, MB_DEAD, "handler_rejected"},
    {"one refused it before, the rest did well now", 0, 0, false, 1, true, MB_DEAD,
     "handler_rejected"},
    {"one refused it, another failed: that one has its retries", 1, 1, false, 0, false, MB_RETRY,
     NULL},
    {"one refused it before, another fails: that one has its retries", 1, 0, false, 1, true,
     MB_RETRY, NULL},
    {"one refused it, another failed for good", 1, 1, false, 3, false, MB_DEAD,
     "max_retries_exceeded"},
    {"nobody could read it", 0, 1, true, 0, false, MB_DEAD, "deserialization_error"},
    {"one could not read it, another failed: that one has its retries", 1, 1, true, 0, false,
     MB_RETRY, NULL},
    {"one could not read it, another failed for good", 1, 1, true, 3, false, MB_DEAD,
     "deserialization_error"},
};

static mb_verdict ask(const mb_rules *with, const row *r, double random) {
  mb_result result = {.run_count = 5,
                      .failed_count = r->failed,
                      .rejected_count = r->rejected,
                      .undecodable = r->undecodable};
  static const mb_breaker open;
  return mb__settle(with, &open, &result, r->attempts, &(mb_past){.rejected = r->before}, random);
}

static bool is(const mb_verdict *got, mb_verdict_kind kind, const char *reason) {
  if (got->kind != kind) return false;
  if (!reason || !got->reason) return reason == got->reason;
  return strcmp(got->reason, reason) == 0;
}

static void verdicts(void) {
  mb_rules off = rules;
  off.dlq = false;
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    const row *r = &table[i];
    mb_verdict got = ask(&rules, r, 0.5), dropped = ask(&off, r, 0.5);
    ok(is(&got, r->kind, r->reason), "%s", r->name);
    ok(is(&dropped, r->kind == MB_DEAD ? MB_DROP : r->kind, r->reason), "%s, without dead letters",
       r->name);
  }
}

/* 11: should_retry(n) iff n < max_retries; 29 31: at the limit it is dead, below it is not. */
static void limits(void) {
  for (int most = 0; most <= 20; most++) {
    mb_rules with = rules;
    with.max_retries = most;
    for (int attempts = 0; attempts <= 25; attempts++) {
      row r = {.failed = 1, .attempts = attempts};
      mb_verdict got = ask(&with, &r, 0.5);
      mb_verdict_kind expected = attempts < most ? MB_RETRY : MB_DEAD;
      if (got.kind != expected)
        ok(false, "max_retries %d after %d failed runs: %d", most, attempts, got.kind);
    }
  }
  ok(true, "an event is retried as long as fewer runs failed than max_retries");
}

/* Only what would be dead is held back; what may still be done is not. */
static void held_back(void) {
  mb_rules with = rules;
  with.breaker = (mb_breaker_rules){.run = 5};
  with.breaker_pause_us = 777;
  mb_rules drop = with, halt = with;
  drop.dlq = false;
  halt.halt_undecodable = true;
  const mb_breaker below = {.run = 4}, full = {.run = 5};
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    const row *r = &table[i];
    mb_result result = {
        .failed_count = r->failed, .rejected_count = r->rejected, .undecodable = r->undecodable};
    bool dead = r->kind == MB_DEAD;
    mb_verdict got =
        mb__settle(&with, &below, &result, r->attempts, &(mb_past){.rejected = r->before}, 0.5);
    ok(is(&got, r->kind, r->reason), "%s, one below the limit", r->name);
    got = mb__settle(&with, &full, &result, r->attempts, &(mb_past){.rejected = r->before}, 0.5);
    ok(is(&got, dead ? MB_HOLD : r->kind, r->reason) && (!dead || got.delay_us == 777),
       "%s, held back", r->name);
    got = mb__settle(&drop, &full, &result, r->attempts, &(mb_past){.rejected = r->before}, 0.5);
    ok(is(&got, dead ? MB_HOLD : r->kind, r->reason), "%s, held back without dead letters",
       r->name);
  }
  mb_result garbage = {.rejected_count = 1, .undecodable = true};
  mb_verdict got = mb__settle(&halt, &full, &garbage, 0, NULL, 0.5);
  ok(got.kind == MB_HALT, "on_undecodable = stop comes before the breaker");
}

static void delays(void) {
  mb_rules plain = rules;
  plain.jitter = 0;
  bool doubles = true, within = true;
  for (int attempts = 0; attempts < 3; attempts++) {
    row r = {.failed = 1, .attempts = attempts};
    mb_verdict got = ask(&plain, &r, 0.9);
    doubles &= got.delay_us == (int64_t)1000000 << attempts;
    got = ask(&rules, &r, 0);
    within &= got.delay_us == (int64_t)900000 << attempts;
    got = ask(&rules, &r, 1);
    within &= got.delay_us == (int64_t)1100000 << attempts;
  }
  ok(doubles, "retries wait 1, 2, 4 s without jitter");
  ok(within, "jitter moves the wait to both sides by its share");
  mb_verdict got = ask(&rules, &table[0], 1);
  ok(got.delay_us == 0, "what is done waits for nothing");
}

int main(void) {
  verdicts();
  limits();
  delays();
  held_back();
  return done();
}
