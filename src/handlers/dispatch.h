/* handlers/dispatch.h: event type -> handlers, in the order of subscription: the type's own first,
 * then those for all events. Knows nothing of Kafka, retries or Lua: a handler is a function and an
 * opaque. */
#ifndef MB_DISPATCH_H
#define MB_DISPATCH_H

#include "event/codec.h"
#include "moonbus.h"

#define MB_FAIL_TYPE_MAX    256
#define MB_FAIL_MESSAGE_MAX 4096

#define MB_FAIL_HANDLER_MAX 256
#define MB_FAIL_TRACE_MAX   4096

/* Its texts keep NUL bytes as mb__text_keep does. */
struct mb_fail {
  char type[MB_FAIL_TYPE_MAX];
  char message[MB_FAIL_MESSAGE_MAX];
  char handler[MB_FAIL_HANDLER_MAX]; /* its name; empty = unknown */
  char trace[MB_FAIL_TRACE_MAX];     /* where it failed; empty = unknown */
  int64_t retry_after_us;            /* -1 = the usual backoff */
  const char
      *reason; /* of the dead letter it may end as; static; NULL = as handlers/settle.c says */
};

/* Nothing is said yet. */
void mb__fail_clear(mb_fail *fail);
/* mb_fail_set with bytes of any kind. */
void mb__fail_put(mb_fail *fail, mb_bytes type, mb_bytes message);

typedef struct mb_subscription mb_subscription;
typedef struct mb_route mb_route;

/* Whose event it is, as far as anybody asked. */
typedef struct mb_tenant {
  enum {
    MB_TENANT_UNSEEN, /* nobody asked */
    MB_TENANT_NONE,   /* nobody's */
    MB_TENANT_ID,
    MB_TENANT_UNREADABLE,
  } kind;
  char id[MB_UUID_LEN];
} mb_tenant;

typedef struct mb_dispatch {
  mb_route *routes; /* by event type */
  mb_route *all;    /* the wildcard's */
  mb_route *last;   /* the route found last: runs of one type are common */
  uint32_t last_id;
  size_t filters;          /* subscriptions to the events of some tenants */
  int running;             /* > 0 while handlers run: removals wait */
  bool sweep;              /* something was removed meanwhile */
  _Atomic uint32_t *noted; /* where the id of the handler that is called is noted; NULL = nowhere */
} mb_dispatch;

/* A set of subscription ids; NULL stands for every handler, and so does an empty one for who runs
 * again: one that lacked the memory for an id is emptied, so that no handler is left out. */
typedef struct mb_ids {
  uint32_t *id; /* owned */
  int *limit;   /* max_retries of each, -1 = the bus's; owned */
  size_t count, cap;
  bool lost; /* it lacked memory, and takes no more */
} mb_ids;

void mb__ids_add(mb_ids *ids, uint32_t id, int limit);
void mb__ids_join(mb_ids *ids, const mb_ids *more);
/* Empty again; its storage is kept. */
static inline void mb__ids_clear(mb_ids *ids) {
  ids->count = 0;
  ids->lost = false;
}
bool mb__ids_has(const mb_ids *ids, uint32_t id);
void mb__ids_free(mb_ids *ids);

/* How far the handlers of one event are. */
typedef struct mb_iteration {
  mb_bytes type;           /* borrowed */
  const mb_tenant *tenant; /* borrowed */
  uint32_t last;           /* what is subscribed later has its turn with the next event */
  uint32_t at;             /* the handler that ran last, or is running */
  bool all;                /* it is one for all events */
  mb_subscription *kept;   /* its handler is pending; NULL = none is */
} mb_iteration;

/* The result of all handlers of one event. Storage is reused from event to event. */
typedef struct mb_result {
  int run_count;           /* handlers that ran */
  int failed_count;        /* ... and asked to run again */
  int rejected_count;      /* ... and refused the event for good */
  int exhausted_count;     /* ... and had their last run: mb__settle_weigh moves them here */
  bool weighed;            /* failed holds only those that may run again */
  int64_t retry_after_us;  /* the longest wait a failed one asked for; -1 = the usual backoff */
  bool undecodable;        /* a handler could not read the event */
  bool unknown;            /* nothing subscribes to it */
  mb_ids failed;           /* who asked to run again */
  mb_ids final;            /* who will not: refused it, or had their last run */
  bool died;               /* workers died with it: no handler ran this time */
  int64_t first_failed_us; /* since 1970, with died; 0 = now */
  const char *reason;      /* of the dead letter, should it become one; static; NULL = the usual */
  mb_fail fail;            /* the only failure, or a summary of several */
} mb_result;

void mb__dispatch_free(mb_dispatch *dispatch);
/* options NULL = none. */
mb_err mb__dispatch_add(mb_dispatch *dispatch, const char *event_type, mb_handler_fn fn,
                        void *opaque, void (*free_opaque)(void *),
                        const mb_subscription_options *options, uint32_t *id);
mb_err mb__dispatch_remove(mb_dispatch *dispatch, uint32_t id);
/* Whether anything subscribes to the type. */
bool mb__dispatch_wants(mb_dispatch *dispatch, mb_bytes event_type);
/* Whether anything subscribes to the type and takes the tenant's events. */
bool mb__dispatch_takes(mb_dispatch *dispatch, mb_bytes event_type, const mb_tenant *tenant);
/* Call the handlers (only those in the set, if given) that take the tenant's events; every one runs
 * even if an earlier one failed. The tenant must have been seen if there are filters. true: one of
 * them is pending, and the iteration goes on once it is completed. */
bool mb__dispatch_run(mb_dispatch *dispatch, const mb_msg *msg, mb_bytes event_type,
                      const mb_tenant *tenant, const mb_ids *only, mb_iteration *iteration,
                      mb_result *result);
/* The pending handler ended with that outcome: call those after it. true: another is pending. */
bool mb__dispatch_go_on(mb_dispatch *dispatch, const mb_msg *msg, const mb_ids *only,
                        mb_iteration *iteration, mb_outcome outcome, mb_fail *fail,
                        mb_result *result);
/* The name of a handler; NULL = it has none, or is subscribed no more. Borrowed. */
const char *mb__dispatch_name(const mb_dispatch *dispatch, uint32_t id);
/* Nobody waits for the pending handler any more. */
void mb__dispatch_release(mb_dispatch *dispatch, mb_iteration *iteration);

#endif
