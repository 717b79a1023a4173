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

typedef struct mb_pend mb_pend;

struct mb_msg {
  const rd_kafka_message_t *record; /* borrowed */
  mb_bytes event_type;
  const mb_tenant *tenant; /* as the handlers were chosen by it */
  int attempts;            /* failed runs before this one; -1 = only the retry_count header knows */
  mb_json fields;          /* where mb_msg_field unescapes */
  mb_pend *run;            /* NULL = no handler asked for a token */
};

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

mb_err mb__runs_init(mb_bus *bus);
void mb__runs_free(mb_bus *bus);
/* No further event may run. */
bool mb__runs_full(const mb_bus *bus);
/* How many events are running that are still ours. */
size_t mb__runs_live(const mb_bus *bus);
/* Whether the run's event is no longer ours. */
bool mb__run_is_orphan(const mb_pend *run);

/* The run of a message whose handler is pending, to be kept with what its other handlers came to;
 * the message is spent. */
mb_pend *mb__run_keep(mb_bus *bus, mb_msg *msg, const mb_walk *walk);
/* It is settled, or nobody wants to know. NULL allowed. */
void mb__run_free(mb_bus *bus, mb_pend *run);
/* The oldest completed one, taken out; NULL = none. */
mb_pend *mb__runs_next(mb_bus *bus);
/* The pending one of a token; NULL = none. */
mb_pend *mb__run_of(const mb_bus *bus, mb_token token);

/* The lots of some partitions were cleared: their runs are orphans. */
void mb__runs_orphan(mb_bus *bus);
/* What the handlers did in this step is lost: none of their events is taken back. */
void mb__runs_undo(mb_bus *bus);
/* The consumer is about to go, and no record may outlive it. */
void mb__runs_let_go(mb_bus *bus);
/* The orphan for which an event of that key must wait; NULL = none. */
mb_pend *mb__runs_before(mb_bus *bus, int32_t partition, mb_bytes key);
/* An orphan's event was read again: it is the same run. */
void mb__run_take_back(mb_bus *bus, mb_pend *run, mb_parked *parked);

/* Consumption is to end: whether to wait for what is running. */
bool mb__runs_drain(mb_bus *bus, int64_t now_us);

/* ---- deliver/attempt.c: a stretch of a handler's code ---- */

typedef struct mb_stretch {
  const rd_kafka_message_t *outer;
  int64_t begin_us;
} mb_stretch;

/* Around all code of handlers: what the supervisor, publishing and the bus know of it. told: a
 * failure says already that the handler took too long. */
void mb__stretch_begin(mb_bus *bus, const mb_msg *msg, mb_stretch *stretch);
void mb__stretch_end(mb_bus *bus, const mb_msg *msg, const mb_stretch *stretch, bool told);
/* Run the handlers of an event (only those in the set, if given); true: one is pending. */
bool mb__run_handlers(mb_bus *bus, mb_msg *msg, const mb_ids *only, mb_walk *walk);
/* Go on after a completed one; true: another is pending. */
bool mb__run_on(mb_bus *bus, mb_pend *run);
/* The result of an event that no handler can be given. */
void mb__run_cannot(mb_bus *bus, const char *type, const char *why, mb_bytes what);
/* ... and of one that its workers died with too often to run it again; noted: by what, the last. */
void mb__run_condemn(mb_bus *bus, const mb_deaths *deaths);

#endif
