/* group/pending.h: events whose handlers go on after they returned (MB_PENDING): tokens, and what
 * is kept of an event until its handler is completed. Knows how many may run at once; decides no
 * outcome.
 *
 * Such an event is parked in its lane as MB_RUNNING. One whose partition is no longer ours, or is
 * read again, is an orphan: the outcome of its handler is ignored, and until then no event of its
 * key runs here. */
#ifndef MB_PENDING_H
#define MB_PENDING_H

#include "base/json.h"
#include "group/retry.h"
#include "handlers/dispatch.h"
#include "kafka/msg.h"

typedef struct mb_group mb_group;

struct mb_pend {
  mb_token token;   /* of the handler that is pending */
  uint32_t handler; /* who asked for it */
  bool kept;        /* the handler has returned: a completion is for the next step */
  bool completed;
  mb_outcome outcome;
  mb_fail *fail; /* owned; NULL = nobody asked for it */
  mb_msg msg;    /* record NULL: it went with its consumer */
  mb_tenant tenant;
  mb_walk walk;
  mb_result result; /* of the handlers before it */
  bool again;       /* only parked->failed run */
  int deaths;       /* of workers, with this event in hand */
  int32_t partition;
  int64_t offset;
  mb_parked *parked; /* an orphan's is in no lot, and owned; NULL = gone with the record */
  bool counted;      /* among the orphans */
  bool undone;       /* what earlier handlers did is lost: an orphan is not taken back */
  char *key;         /* an orphan's, once its record is gone; NULL = unknown: any. Owned */
  size_t key_len;
  size_t slot;
  mb_pend *next; /* completed after this one */
};

typedef struct mb_runs {
  mb_pend **slots; /* owned; NULL where none is */
  size_t most;     /* option concurrency */
  size_t count, orphans;
  int64_t full_us;       /* when the last place was taken */
  uint64_t last;         /* the number of tokens given */
  mb_pend *first, *tail; /* completed, to be settled by the next step */
  int64_t drain_by_us;   /* consumption ends, and waits so long for them; 0 = it does not end */
  mb_pend *spare;        /* those that were freed, for the next */
} mb_runs;

mb_err mb__runs_init(mb_group *group);
void mb__runs_free(mb_group *group);
/* Give the handler that runs a token, for its message. false when out of memory. */
bool mb__run_token(mb_group *group, mb_msg *msg, uint32_t handler, mb_token *token);
/* A pending handler has come to its end; its event is settled by the next step. */
void mb__run_complete(mb_group *group, mb_pend *run, mb_outcome outcome);
/* No further event may run. */
bool mb__runs_full(const mb_group *group);
/* How many events are running that are still ours. */
size_t mb__runs_live(const mb_group *group);
/* Whether the run's event is no longer ours. */
bool mb__run_is_orphan(const mb_pend *run);

/* The run of a message whose handler is pending, to be kept with what its other handlers came to;
 * the message is spent. */
mb_pend *mb__run_keep(mb_msg *msg, const mb_walk *walk, mb_result *result);
/* It is settled, or nobody wants to know. NULL allowed. */
void mb__run_free(mb_group *group, mb_pend *run);
/* The oldest completed one, taken out; NULL = none. */
mb_pend *mb__runs_next(mb_group *group);
/* The pending one of a token; NULL = none. */
mb_pend *mb__run_of(const mb_group *group, mb_token token);

/* The lots of some partitions were cleared: their runs are orphans. */
void mb__runs_orphan(mb_group *group);
/* What the handlers did in this step is lost: none of their events is taken back. */
void mb__runs_undo(mb_group *group);
/* The consumer is about to go, and no record may outlive it. */
void mb__runs_let_go(mb_group *group);
/* The orphan for which an event of that key must wait; NULL = none. */
mb_pend *mb__runs_before(mb_group *group, int32_t partition, mb_bytes key);
/* An orphan's event was read again: it is the same run. */
void mb__run_take_back(mb_group *group, mb_pend *run, mb_parked *parked);

/* Consumption is to end: whether to wait for what is running. */
bool mb__runs_drain(mb_group *group, int64_t now_us);

#endif
