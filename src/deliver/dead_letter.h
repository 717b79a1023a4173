/* deliver/dead_letter.h: writing dead letters. Does not decide which event is dead. */
#ifndef MB_DEAD_LETTER_H
#define MB_DEAD_LETTER_H

#include "deliver/deliver.h"
#include "group/retry.h"

/* Write a parked event's dead letter; its report settles it, or sets it due for another try. */
void mb__dlq_write(mb_deliver *deliver, mb_parked *parked);
/* Whether one of the parked events has a dead letter that could not be written: that event; NULL =
 * none. */
const mb_parked *mb__dlq_stuck(mb_deliver *deliver);
/* The dead letter topic must exist before anything may have to go there. */
mb_err mb__dlq_check(mb_deliver *deliver, char *errstr, size_t errstr_size);

#endif
