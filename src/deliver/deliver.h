/* deliver/deliver.h: events on their way from the consumer to their handlers, and on to what
 * handlers/settle.c says. Does not know Lua, or the bus that steps it. */
#ifndef MB_DELIVER_H
#define MB_DELIVER_H

#include "base/histogram.h"
#include "group/group.h"
#include "handlers/dispatch.h"
#include "handlers/skips.h"
#include "kafka/context.h"

typedef struct mb_attempt mb_attempt;

typedef struct mb_deliver {
  mb_context *ctx;     /* of the bus; borrowed */
  mb_group *group;     /* of the bus; borrowed */
  mb_skips skips;      /* events that nothing subscribes to, by type */
  mb_metrics *metrics; /* owned; NULL with enable_metrics = false */
  mb_result own;       /* of an event that is handled in one go: storage for the next */
  mb_attempt *in_hand; /* while its handlers are called; NULL = none */
  bool in_handler;
  bool tracing;               /* enable_tracing */
  bool unknown_dead;          /* on_unknown = "dlq" */
  bool dlq_stuck;             /* a dead letter was not written; perhaps it is by now */
  int64_t handler_timeout_us; /* 0 = none */
  int64_t clock_us; /* the time, read a moment ago; 0 = too long ago. A read costs as much as a good
                       part of what is done with an event */
  uint64_t random;  /* state of the jitter's generator */
} mb_deliver;

/* A record fresh from the consumer: taken. */
void mb__deliver_arrive(mb_deliver *deliver, mb_part *part, rd_kafka_message_t *record);
/* Run the parked events that are due. Whether there were any. */
bool mb__deliver_due(mb_deliver *deliver, int64_t now_us);
/* Settle the events whose pending handlers were completed, or call the handlers after those.
 * Whether there were any. */
bool mb__deliver_completed(mb_deliver *deliver);

#endif
