/* bus/internal.h: the bus itself and what its files share. */
#ifndef MB_INTERNAL_H
#define MB_INTERNAL_H

#include "base/error.h"
#include "base/histogram.h"
#include "deliver/attempt.h"
#include "deliver/dead_letter.h"
#include "deliver/deliver.h"
#include "event/codec.h"
#include "event/trace.h"
#include "group/group.h"
#include "kafka/client.h"
#include "kafka/conf.h"
#include "kafka/context.h"
#include "kafka/msg.h"
#include "kafka/producer.h"
#include "kafka/refusal.h"
#include "moonbus.h"

struct mb_bus {
  mb_context ctx;
  mb_group group;
  mb_deliver deliver;
  mb_encoder encoder;
  char ended_why[MB_REFUSAL_MAX]; /* why consumption ended; empty = it runs, or was not asked for */
  int64_t reopen_us;              /* when to try the consumer again; 0 = it is open */
  char reopen_why[MB_REFUSAL_MAX];
};

/* true while code of its own runs, further out, which needs it. */
static inline bool mb__bus_is_busy(const mb_bus *bus) {
  return bus->deliver.in_handler || bus->ctx.in_callback;
}

/* Note what this bus does in a supervisor's memory, as worker's bus number index; before it starts.
 */
void mb__bus_watch(mb_bus *bus, mb_watch *watch, int worker, int index);

/* ---- bus/close.c ---- */

/* Finish what is under way, commit, leave the group: within shutdown_timeout. */
void mb__close_consuming(mb_bus *bus);

/* ---- bus/health.c ---- */

/* Report the health of the bus to the supervisor, if it has changed. */
void mb__health_note(mb_bus *bus, int64_t now_us);

#endif
