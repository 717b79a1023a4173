/* deliver/verdict.h: what is done with an event after an attempt at it. */
#ifndef MB_VERDICT_H
#define MB_VERDICT_H

#include "deliver/attempt.h"

/* The handlers have run: settle the event, or keep it for later. Takes the record. */
void mb__verdict_conclude(mb_deliver *deliver, mb_attempt *attempt);
/* Park a record, to be run or settled later. NULL when out of memory: it is read again. Takes the
 * record. */
mb_parked *mb__verdict_park(mb_deliver *deliver, mb_part *part, rd_kafka_message_t *record,
                            mb_parked_state state);
/* One dead letter too many: the event stays unsettled, and its partition stops until it is
 * handled. */
void mb__verdict_hold(mb_deliver *deliver, mb_part *part, mb_parked *parked, int64_t due_us);
/* The event is dead (MB_DEAD, MB_DROP), or held back (MB_HOLD). */
void mb__verdict_end(mb_deliver *deliver, mb_part *part, mb_parked *parked,
                     const mb_verdict *verdict);
/* Before and after an event that workers died with: what was done so far is committed, so that
 * another death costs nothing but this event's attempt. false: that failed, and everything is read
 * again. */
bool mb__verdict_set_apart(mb_deliver *deliver);
/* Charge an event with a failed attempt, as what its handlers published was refused: the charge of
 * mb_group. opaque: the mb_deliver. false: that cannot be noted. */
bool mb__verdict_charge(void *opaque, const mb_publisher *publisher, const char *why);

#endif
