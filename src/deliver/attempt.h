/* deliver/attempt.h: one attempt at an event: a run of its handlers, from the record in hand to the
 * result. Decides nothing. */
#ifndef MB_ATTEMPT_H
#define MB_ATTEMPT_H

#include "deliver/deliver.h"

/* What is passed down while an event is handled; borrowed, all of it, and on the stack of
 * deliver/deliver.c. */
struct mb_attempt {
  mb_part *part;
  rd_kafka_message_t *record;
  mb_parked *parked; /* NULL on a first attempt that was not pending */
  mb_msg *msg;       /* its attempts: failed ones before, deaths included; -1 = the record knows */
  mb_tenant *tenant; /* that msg points to */
  mb_iteration *iteration;
  const mb_ids *only; /* NULL = all handlers */
  mb_result *result;
  int deaths;    /* of workers, with this event in hand */
  uint64_t sent; /* records of the transaction, before its handlers ran */
};

/* Run the handlers; true: one is pending. */
bool mb__attempt_run(mb_deliver *deliver, mb_attempt *attempt);
/* Go on after a completed one; true: another is pending. */
bool mb__attempt_go_on(mb_deliver *deliver, mb_attempt *attempt);
/* The result of an event that no handler can be given. type, why: of the failure; what: appended to
 * why. */
void mb__attempt_fail(mb_attempt *attempt, const char *type, const char *why, mb_bytes what);
/* ... and of one that its workers died with too often to run it again. */
void mb__attempt_fail_for_crashes(mb_deliver *deliver, mb_attempt *attempt,
                                  const mb_deaths *deaths);

/* ---- around all code of handlers ---- */

typedef struct mb_slice {
  const rd_kafka_message_t *outer;
  int64_t begin_us;
} mb_slice;

/* What the supervisor, publishing and the bus know of code that runs for a message. reported: a
 * failure says already that the handler took too long. */
void mb__attempt_enter(mb_deliver *deliver, const mb_msg *msg, mb_slice *slice);
void mb__attempt_leave(mb_deliver *deliver, const mb_msg *msg, const mb_slice *slice,
                       bool reported);

#endif
