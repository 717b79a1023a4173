/* group/group.h: a bus as a member of its consumer group, with all that is kept of the events in
 * its hands. Does not know how an event is handled, or what an outcome means. */
#ifndef MB_GROUP_H
#define MB_GROUP_H

#include "group/consumer.h"
#include "group/pending.h"
#include "group/progress.h"
#include "group/txn.h"
#include "group/undone.h"
#include "group/unit.h"
#include "group/watch.h"
#include "handlers/dispatch.h"
#include "handlers/settle.h"
#include "kafka/context.h"

struct mb_group {
  mb_context *ctx;       /* of the bus; borrowed */
  mb_consumer *consumer; /* NULL unless consuming */
  mb_dispatch dispatch;
  mb_rules rules;
  mb_txn txn;
  mb_unit unit;
  mb_pending pending;      /* events whose handlers are pending */
  mb_undone *undone;       /* of failed events that will be read again */
  mb_watch_bus *watch;     /* notes for a supervisor; NULL without one */
  int64_t health_noted_us; /* in there, the last time */
  bool auto_reconnect;
  bool leaves; /* a static member that will not come back after a stop */
  bool halted; /* a record that must not be passed: consumption ends */
  mb_err halt_err;
  char halt_why[MB_REFUSAL_MAX];
  double reopen_s; /* the wait before a new consumer; doubles up to reconnect_backoff_max_ms */
  mb_rebalance_fn on_rebalance;
  void *on_rebalance_opaque;
  /* Charge an event with a failed attempt, as what its handlers published was refused. false: that
   * cannot be noted. */
  bool (*charge)(void *opaque, const mb_publisher *publisher, const char *why);
  void *charge_opaque;
};

#endif
