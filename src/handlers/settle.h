/* handlers/settle.h: what becomes of an event after its handlers ran. Pure: no I/O, no clock, no
 * state. */
#ifndef MB_SETTLE_H
#define MB_SETTLE_H

#include "handlers/breaker.h"
#include "handlers/dispatch.h"
#include "moonbus.h"

typedef enum mb_verdict_kind {
  MB_DONE,  /* its offset may be committed */
  MB_RETRY, /* park it and its key; run the failed handlers again after delay_us */
  MB_DEAD,  /* write a dead letter; settled once the broker acknowledged it */
  MB_HALT,  /* unsettled: consumption stops in front of it */
  MB_DROP,  /* dead, but dead letters are off: settled, with a warning */
  MB_HOLD,  /* dead, but one too many: unsettled, its partition stops; tried again after delay_us */
} mb_verdict_kind;

typedef struct mb_verdict {
  mb_verdict_kind kind;
  int64_t delay_us;   /* MB_RETRY, MB_HOLD */
  const char *reason; /* MB_DEAD, MB_DROP, MB_HOLD: the dlq_reason header; static */
} mb_verdict;

typedef struct mb_rules {
  int max_retries;
  double base_s, max_s, jitter;
  bool dlq;
  bool halt_undecodable; /* on_undecodable = "stop" */
  mb_breaker_rules breaker;
  int64_t breaker_pause_us;
} mb_rules;

/* Sort the failed handlers: those that had their last run (by their own max_retries, or the bus's)
 * are taken out of result->failed and counted as exhausted. attempts as below. */
void mb__settle_weigh(const mb_rules *rules, mb_result *result, int attempts);

/* What earlier attempts left behind. */
typedef struct mb_past {
  bool rejected;      /* a handler refused the event */
  bool exhausted;     /* a handler had its last attempt */
  const char *reason; /* of the dead letter, as the failure said; static; NULL = the usual */
} mb_past;

/* breaker: of the event's partition. result: mb__settle_weigh is applied to it. attempts: failed
 * ones before this one, the record's retry_count header included. past NULL = this is the first.
 * random: 0..1, for the jitter. */
mb_verdict mb__settle(const mb_rules *rules, const mb_breaker *breaker, mb_result *result,
                      int attempts, const mb_past *past, double random);
/* What becomes of one that is dead for that reason. */
mb_verdict mb__settle_dead(const mb_rules *rules, const mb_breaker *breaker, const char *reason);

#endif
