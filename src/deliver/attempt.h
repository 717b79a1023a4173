/* deliver/attempt.h: one run of an event's handlers, and what is to be known while their code runs. */
#ifndef MB_ATTEMPT_H
#define MB_ATTEMPT_H

#include "deliver/deliver.h"

typedef struct mb_stretch {
  const rd_kafka_message_t *outer;
  int64_t begin_us;
} mb_stretch;

/* Around all code of handlers: what the supervisor, publishing and the bus know of it. told: a
 * failure says already that the handler took too long. */
void mb__stretch_begin(mb_deliver *deliver, const mb_msg *msg, mb_stretch *stretch);
void mb__stretch_end(mb_deliver *deliver, const mb_msg *msg, const mb_stretch *stretch, bool told);
/* Run the handlers of an event (only those in the set, if given); true: one is pending. */
bool mb__run_handlers(mb_deliver *deliver, mb_msg *msg, const mb_ids *only, mb_walk *walk);
/* Go on after a completed one; true: another is pending. */
bool mb__run_on(mb_deliver *deliver, mb_pend *run);
/* The result of an event that no handler can be given. */
void mb__run_cannot(mb_deliver *deliver, const char *type, const char *why, mb_bytes what);
/* ... and of one that its workers died with too often to run it again; noted: by what, the last. */
void mb__run_condemn(mb_deliver *deliver, const mb_deaths *deaths);

#endif
