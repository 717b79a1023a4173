/* bus/internal.h: the bus itself and what its files share. */
#ifndef MB_INTERNAL_H
#define MB_INTERNAL_H

#include <librdkafka/rdkafka.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include "base/error.h"
#include "base/histogram.h"
#include "base/log.h"
#include "config/config.h"
#include "event/trace.h"
#include "group/consumer.h"
#include "group/pending.h"
#include "group/progress.h"
#include "group/txn.h"
#include "group/undone.h"
#include "group/unit.h"
#include "group/watch.h"
#include "handlers/dispatch.h"
#include "handlers/settle.h"
#include "handlers/skips.h"
#include "kafka/client.h"
#include "kafka/conf.h"
#include "kafka/msg.h"
#include "kafka/producer.h"
#include "kafka/refusal.h"
#include "moonbus.h"

struct mb_bus {
  mb_config *conf;
  mb_log log;
  mb_stats stats;
  mb_skips skips;                  /* events that nothing subscribes to, by type */
  mb_metrics *metrics;             /* NULL with enable_metrics = false */
  char *topic, *dlq_topic, *group; /* owned */
  mb_broker *embedded;             /* a reference; NULL with a real broker */
  mb_login login;
  mb_producer *producer;
  mb_consumer *consumer; /* NULL unless consuming */
  mb_dispatch dispatch;
  mb_result own;     /* of an event that is handled in one go */
  mb_result *result; /* of the event in hand: that, or a run's */
  mb_tenant tenant;  /* of the event in hand */
  mb_msg *running;   /* the event in hand while its handlers are called; NULL = none */
  mb_walk *walk;     /* of that */
  mb_runs runs;      /* events whose handlers are pending */
  mb_rules rules;
  mb_txn txn;
  mb_unit unit;
  mb_memory *memories; /* of failed events that will be read again */
  mb_encoder encoder;
  bool connected;
  bool consuming;
  bool in_handler;
  bool in_callback; /* of a log line or a failed event: the bus must stay as it is */
  bool auto_reconnect;
  bool tracing;      /* enable_tracing */
  bool unknown_dead; /* on_unknown = "dlq" */
  bool leaves;       /* a static member that will not come back after a stop */
  bool dlq_stuck;    /* a dead letter was not written; perhaps it is by now */
  bool halted;       /* a record that must not be passed: consumption ends */
  mb_err halt_err;
  char halt_why[MB_REFUSAL_MAX];
  char ended_why[MB_REFUSAL_MAX]; /* why consumption ended; empty = it runs, or was not asked for */
  int64_t reopen_us;              /* when to try the consumer again; 0 = it is open */
  char reopen_why[MB_REFUSAL_MAX];
  double reopen_s; /* the wait before that try; doubles up to reconnect_backoff_max_ms */
  atomic_bool stop;
  int64_t stop_seen_us;  /* when a call into librdkafka was held up by a stop; 0 = none was */
  int64_t closing_by_us; /* until when such calls may wait; 0 = each has its own time */
  int connect_ms;        /* the time that connect was given */
  int wake_fd;
  int interrupt_fd;           /* of the host: readable when it wants an end; -1 = no host */
  mb_watch_bus *watch;        /* notes for a supervisor; NULL without one */
  int64_t health_noted_us;    /* in there, the last time */
  int64_t handler_timeout_us; /* 0 = none */
  int64_t clock_us; /* the time, read a moment ago; 0 = too long ago. A read costs as much as a good
                       part of what is done with an event */
  uint64_t random;  /* state of the jitter's generator */
  mb_publish_error_fn on_publish_error;
  void *on_publish_error_opaque;
  mb_rebalance_fn on_rebalance;
  void *on_rebalance_opaque;
};

/* How long a broker may deny a topic that it may have been asked to create, unless it says that it
 * creates topics. */
#define MB_TOPIC_WAIT_US 5000000
/* How long a broker may not know a topic that was created a moment ago. */
#define MB_TOPIC_NEWS_US 500000

/* The host wants an end: nobody waits for what is under way. */
static inline bool mb__host_ends(const mb_bus *bus) {
  struct pollfd fd = {.fd = bus->interrupt_fd, .events = POLLIN};
  return fd.fd >= 0 && poll(&fd, 1, 0) > 0;
}

static inline int64_t mb__mono_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* What is left until then, at least 1 ms. */
static inline int mb__left_ms(int64_t by_us) {
  int64_t left_ms = (by_us - mb__mono_us()) / 1000;
  return left_ms > 1 ? (int)left_ms : 1;
}

/* ---- deliver/dead_letter.c ---- */

/* Write a parked event's dead letter; its report settles it, or sets it due for another try. */
void mb__dlq_write(mb_bus *bus, mb_parked *parked);
/* Whether one of the parked events has a dead letter that could not be written: that event; NULL =
 * none. */
const mb_parked *mb__dlq_stuck(mb_bus *bus);
/* The dead letter topic must exist before anything may have to go there. */
mb_err mb__dlq_check(mb_bus *bus, char *errstr, size_t errstr_size);

/* A copy of a list of headers (NULL = none), without those the filter (NULL = none) drops. NULL
 * when out of memory. */
rd_kafka_headers_t *mb__headers_copy(const rd_kafka_headers_t *from,
                                     bool (*drop)(const char *name, mb_bytes value,
                                                  const void *opaque),
                                     const void *opaque);
bool mb__headers_add(rd_kafka_headers_t *headers, const char *name, const char *value, size_t len);
bool mb__headers_add_int(rd_kafka_headers_t *headers, const char *name, int64_t value);

/* ---- dlq/filter.c ---- */

/* The member of the filter that leaves the letter out; NULL = none does. */
const char *mb__letter_left_out(const mb_dlq_filter *filter, const mb_msg *letter, bool *give_up);
/* Read the letters of the filter's place and time, whatever else it says. timeout_ms: as that of
 * mb_dlq_read. */
mb_err mb__letters_read(mb_bus *bus, const mb_dlq_filter *filter, int timeout_ms, mb_read_fn fn,
                        void *opaque, char *errstr, size_t errstr_size);
/* The number a header holds; -1 when it is absent or not one. */
int64_t mb__letter_number(const mb_msg *letter, const char *name);

/* ---- kafka/reader.c ---- */

/* Whether the host or mb_bus_stop wants an end. A read ends without error then. */
bool mb__bus_interrupted(const mb_bus *bus);
/* Something that can be stopped begins: a stop that was for what came before it is over. */
void mb__bus_forget_stop(mb_bus *bus);
/* mb_bus_read as a part of something larger, which a stop is to end as a whole. */
mb_err mb__bus_read(mb_bus *bus, const char *topic, const mb_read_options *options, mb_read_fn fn,
                    void *opaque, char *errstr, size_t errstr_size);

/* ---- dlq/count.c ---- */

#define MB_READ_LAST (-3) /* mb_read_options.offset: less N = the last N records */

/* Where the last `most` records of each partition (-1 = of all) begin.
 * offsets  owned, by partition; read no others than the one that was asked for */
mb_err mb__last_offsets(mb_bus *bus, const char *topic, int64_t most, int32_t partition,
                        int64_t **offsets, int *count, char *errstr, size_t errstr_size);

/* ---- kafka/producer.c ---- */

/* Why the broker, or this client, refused: mb__refusal_text of this bus. rights: on the topic. */
void mb__bus_refusal(mb_bus *bus, rd_kafka_resp_err_t code, const char *reason, const char *topic,
                     const char *rights, char *text, size_t size);

/* ---- kafka/topics.c ---- */

/* Waiting for a topic that the broker creates because it is asked for it. A busy broker may take
 * long; one that creates none is not waited for: it says so when asked for its configuration, or
 * denies the topic without delay for MB_TOPIC_WAIT_US. */
typedef struct mb_topic_wait {
  mb_client *client;
  int64_t end_us;
  int64_t asked_us;   /* when the last look began */
  int64_t missing_us; /* since when each look is answered soon, with no; 0 = the last was not */
  int ask_ms, pause_ms;
  int32_t broker;  /* which of them answered */
  bool cut;        /* the last look had less time than one needs: the end was near */
  bool coming;     /* it is being created */
  bool configured; /* the broker was asked whether it creates topics */
  enum { MB_CREATES_UNKNOWN, MB_CREATES_NONE, MB_CREATES } creates;
} mb_topic_wait;

void mb__topic_wait_begin(mb_topic_wait *wait, mb_client *client, int64_t wait_us);
/* A look begins: how long to wait for its answer. */
int mb__topic_wait_ask_ms(mb_topic_wait *wait);
/* It has ended. metadata: unless code is an error. */
void mb__topic_wait_note(mb_topic_wait *wait, rd_kafka_resp_err_t code,
                         const struct rd_kafka_metadata *metadata);
/* After a look that did not find it: pause, and true if another is worth it. */
bool mb__topic_wait_on(mb_topic_wait *wait);
/* true if the last look that had its time was answered: there is no such topic. */
bool mb__topic_wait_denied(const mb_topic_wait *wait);
/* true if the broker said that it creates no topics. */
bool mb__topic_wait_refused(const mb_topic_wait *wait);

/* The number of partitions, from this client's metadata; MB_ETOPIC if the topic is still missing
 * after wait_us. A request of a producer makes a broker create it, that of a consumer does not. */
mb_err mb__topic_look(mb_bus *bus, mb_client *client, const char *topic, int64_t wait_us,
                      int *count, char *errstr, size_t errstr_size);
/* The same for a topic that the broker may create at this request; waits as long as connect may. */
mb_err mb__topic_want(mb_bus *bus, const char *topic, int *count, char *errstr, size_t errstr_size);
/* First and next offset of a partition; waits for the leader of one that was made a moment ago. */
mb_err mb__topic_ends(mb_bus *bus, mb_client *client, const char *topic, int32_t partition,
                      int timeout_ms, int64_t *low, int64_t *high, char *errstr,
                      size_t errstr_size);
/* A request failed: the one sentence that says why, MB_EAUTH or MB_ECONNECT where no answer came.
 * what  was asked for, said where no cause is known; NULL = that no answer came */
mb_err mb__client_silent(mb_client *client, const mb_config *conf, rd_kafka_resp_err_t code,
                         const char *what, char *errstr, size_t errstr_size);
/* Whether there is such a topic; asking does not create it. */
mb_err mb__topic_exists(mb_bus *bus, const char *topic, bool *exists, char *errstr,
                        size_t errstr_size);

/* ---- deliver/deliver.c ---- */

/* A record fresh from the consumer: taken. */
void mb__flow_arrive(mb_bus *bus, mb_part *part, rd_kafka_message_t *record);
/* Run the parked events that are due. Whether there were any. */
bool mb__flow_due(mb_bus *bus, int64_t now_us);
/* Settle the events whose pending handlers were completed, or call the handlers after those.
 * Whether there were any. */
bool mb__flow_completed(mb_bus *bus);

/* Charge an event with a failed attempt, as what its handlers published was refused. false: that
 * cannot be noted. */
bool mb__flow_charge(mb_bus *bus, const mb_publisher *publisher, const char *why);

/* Note what this bus does in a supervisor's memory, as worker's bus number index; before it starts.
 */
void mb__bus_watch(mb_bus *bus, mb_watch *watch, int worker, int index);

/* ---- bus/health.c ---- */

/* Report the health of the bus to the supervisor, if it has changed. */
void mb__health_note(mb_bus *bus, int64_t now_us);

/* ---- kafka/broker.c ---- */

/* The embedded broker shared by the process, with one more reference. */
mb_broker *mb__broker_shared(char *errstr, size_t errstr_size);
void mb__broker_release(mb_broker *broker);

#endif
