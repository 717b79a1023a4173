/* kafka/context.h: what all parts of a bus share: its configuration, log and counters, its names,
 * its producer, and how it is woken and stopped. Does not know consumer groups, handlers or Lua. */
#ifndef MB_CONTEXT_H
#define MB_CONTEXT_H

#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/log.h"
#include "config/config.h"
#include "kafka/refusal.h"
#include "kafka/transaction.h"
#include "moonbus.h"

typedef struct mb_producer mb_producer;

typedef struct mb_context {
  mb_config *conf; /* owned */
  mb_log log;
  mb_stats stats;
  char *topic, *dlq_topic, *group_name; /* owned */
  mb_broker *embedded;                  /* a reference; NULL with a real broker */
  mb_login login;
  mb_producer *producer; /* NULL unless connected, or needed once */
  mb_transaction transaction;
  bool connected;
  bool consuming;
  bool in_callback; /* of a log line or a failed event: the bus must stay as it is */
  atomic_bool stop;
  int64_t stop_seen_us;  /* when a call into librdkafka was held up by a stop; 0 = none was */
  int64_t closing_by_us; /* until when such calls may wait; 0 = each has its own time */
  int connect_ms;        /* the time that connect was given */
  int wake_fd;           /* readable when there is work to do; -1 = none */
  int interrupt_fd;      /* of the host: readable when it wants an end; -1 = no host */
  mb_publish_error_fn on_publish_error;
  void *on_publish_error_opaque;
} mb_context;

/* The host wants an end: nobody waits for what is under way. */
static inline bool mb__context_host_ends(const mb_context *ctx) {
  struct pollfd fd = {.fd = ctx->interrupt_fd, .events = POLLIN};
  return fd.fd >= 0 && poll(&fd, 1, 0) > 0;
}

/* End the wait of the bus's thread, now or the next one; from any thread, also in a signal handler.
 */
void mb__context_wake(mb_context *ctx);
/* Whether the host or mb_bus_stop wants an end. */
bool mb__context_interrupted(const mb_context *ctx);
/* Something that can be stopped begins: a stop that was for what came before it is over. */
void mb__context_forget_stop(mb_context *ctx);

#endif
