/* group/pending.h: events whose handlers go on after they returned (MB_PENDING): tokens, and what
 * is kept of an event until its handler is completed. Knows how many may run at once; decides no
 * outcome.
 *
 * Such an event is parked in its key queue as MB_RUNNING. One whose partition is no longer ours, or
 * is read again, is detached: the outcome of its handler is ignored, and until that is known no
 * event of its key is handled here. */
#ifndef MB_PENDING_H
#define MB_PENDING_H

#include "base/json.h"
#include "group/retry.h"
#include "handlers/dispatch.h"
#include "kafka/msg.h"

typedef struct mb_group mb_group;

struct mb_pend {
  mb_token token;   /* of the handler that is pending */
  uint32_t handler; /* that asked for it */
  bool kept;        /* the handler has returned: a completion is for the next step */
  bool completed;
  mb_outcome outcome;
  mb_fail *fail; /* owned; NULL = not asked for */
  mb_msg msg;    /* record NULL: it went with its consumer */
  mb_tenant tenant;
  mb_iteration iteration;
  mb_result result; /* of the handlers before it */
  bool again;       /* only parked->failed run */
  int deaths;       /* of workers, with this event in hand */
  int32_t partition;
  int64_t offset;
  mb_parked *parked; /* owned, and in no retry queue, once detached; NULL = gone with the record */
  bool counted;      /* in mb_pending.detached */
  bool undone;       /* what earlier handlers did is lost: the event is not taken back */
  char *key;         /* once the record is gone; NULL = unknown: any. Owned */
  size_t key_len;
  size_t slot;
  mb_pend *next; /* completed after this one */
};

typedef struct mb_pending {
  mb_pend **slots; /* owned; NULL where none is */
  size_t most;     /* option concurrency */
  size_t count, detached;
  int64_t full_us;       /* when the last place was taken */
  uint64_t last;         /* the number of tokens given */
  mb_pend *first, *tail; /* completed, to be settled by the next step */
  int64_t drain_by_us;   /* consumption ends, and waits so long for them; 0 = it does not end */
  mb_pend *spare;        /* those that were freed, for the next */
} mb_pending;

mb_err mb__pending_init(mb_group *group);
void mb__pending_free(mb_group *group);
/* Give the handler that runs a token, for its message. false when out of memory. */
bool mb__pend_token(mb_group *group, mb_msg *msg, uint32_t handler, mb_token *token);
/* A pending handler has come to its end; its event is settled by the next step. */
void mb__pend_complete(mb_group *group, mb_pend *pend, mb_outcome outcome);
/* No further event may run. */
bool mb__pending_full(const mb_group *group);
/* How many events are running that are still ours. */
size_t mb__pending_live(const mb_group *group);
/* true if its event is no longer ours. */
bool mb__pend_is_detached(const mb_pend *pend);

/* What is kept of a message whose handler is pending, with the result of its other handlers; the
 * message is not used any more. */
mb_pend *mb__pend_keep(mb_msg *msg, const mb_iteration *iteration, mb_result *result);
/* It is settled, or its outcome does not matter any more. NULL allowed. */
void mb__pend_free(mb_group *group, mb_pend *pend);
/* The oldest completed one, taken out; NULL = none. */
mb_pend *mb__pending_next(mb_group *group);
/* The pending one of a token; NULL = none. */
mb_pend *mb__pend_of(const mb_group *group, mb_token token);

/* The retry queues of some partitions were cleared: their pending events are detached. */
void mb__pending_detach(mb_group *group);
/* What the handlers did in this step is lost: none of their events is taken back. */
void mb__pending_undo(mb_group *group);
/* The consumer is about to be closed: no record of it is kept. */
void mb__pending_drop_records(mb_group *group);
/* The detached one for which an event of that key must wait; NULL = none. */
mb_pend *mb__pending_before(mb_group *group, int32_t partition, mb_bytes key);
/* The event of a detached one was read again: it is the same attempt. */
void mb__pend_take_back(mb_group *group, mb_pend *pend, mb_parked *parked);

/* Consumption is to end: whether to wait for what is running. */
bool mb__pending_drain(mb_group *group, int64_t now_us);

#endif
