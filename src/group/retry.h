/* group/retry.h: backoff arithmetic and the events that wait, partition by partition. No I/O.
 *
 * A failed event is parked; later events of its key are parked behind it, so that a key never runs
 * out of order; other keys go on. An event whose dead letter is on its way to the broker is parked
 * as well, and so is one whose handler is pending. The oldest parked offset is the partition's
 * low-water mark: nothing at or after it is committed. */
#ifndef MB_RETRY_H
#define MB_RETRY_H

#include <librdkafka/rdkafka.h>

#include "group/watch.h"
#include "handlers/dispatch.h"
#include "kafka/producer.h"

typedef enum mb_parked_state {
  MB_WAITING, /* behind an earlier event of its key */
  MB_BACKOFF, /* runs again at due_us */
  MB_TO_DLQ,  /* its dead letter is written at due_us */
  MB_IN_DLQ,  /* its dead letter awaits the broker's acknowledgement */
  MB_RUNNING, /* one of its handlers is pending */
} mb_parked_state;

typedef enum mb_lean { MB_WHOLE, MB_POINTER, MB_BARE } mb_lean;

typedef struct mb_retry_queue mb_retry_queue;
typedef struct mb_key_queue mb_key_queue; /* the parked events of one key */

typedef struct mb_parked {
  mb_delivery delivery;       /* what the dead letter's report finds its way back by */
  rd_kafka_message_t *record; /* owned */
  mb_parked_state state;
  int attempts;            /* failed runs, the retry_count header included */
  int dlq_attempts;        /* dead letter writes that failed */
  mb_lean lean;            /* what its dead letter leaves out to fit */
  bool exhausted;          /* a handler had its last run; dead once no other has a retry left */
  int64_t first_failed_us; /* since 1970 */
  bool rejected;           /* a handler refused it; dead once no other has a retry left */
  bool of_old_log;         /* the log it was in is no more: its offset means nothing */
  int64_t due_us;          /* monotonic; MB_BACKOFF and MB_TO_DLQ */
  mb_ids failed;           /* the handlers that run again */
  mb_ids final;            /* those that made it dead; an open breaker runs them again */
  const char *reason;      /* of the dead letter; static */
  mb_fail *fail;           /* the last failure; owned */
  mb_retry_queue *queue;   /* NULL once the partition is gone */
  mb_key_queue *key_queue;
  struct mb_parked *prev, *next;         /* the retry queue's, by offset, outlived ones first */
  struct mb_parked *key_prev, *key_next; /* the key queue's, likewise */
} mb_parked;

struct mb_retry_queue {
  mb_notes notes;           /* for a supervisor */
  mb_parked *head;          /* by offset */
  mb_key_queue *key_queues; /* by key */
  size_t count, bytes;
  size_t running;  /* of those */
  mb_parked *held; /* the one that the partition's open breaker holds back; NULL = closed. While it
                        is on, no other runs; only dead letters decided before go on */
  int64_t due_us;  /* the earliest of all that may; INT64_MAX = none */
};

void mb__retry_init(mb_retry_queue *queue);
/* Whether an event of this key is parked. */
bool mb__retry_holds(mb_retry_queue *queue, mb_bytes key);
/* Park a record at the end of its key queue, MB_WAITING. Takes the record, in whose place there may
 * be a copy then; NULL (record not taken) when out of memory. */
mb_parked *mb__retry_park(mb_retry_queue *queue, rd_kafka_message_t *record, mb_bytes key);
/* It has failed, and will wait: its record, and those behind it, become copies (kafka/record.h). */
void mb__parked_own(mb_parked *parked);
void mb__retry_due(mb_retry_queue *queue, mb_parked *parked, mb_parked_state state, int64_t due_us);
/* Hold back an event, to be tried again at due_us, or none (NULL). */
void mb__retry_hold(mb_retry_queue *queue, mb_parked *parked, int64_t due_us);
/* The first one due at now_us, or NULL; queue->due_us is right after a NULL. full: nothing may run;
 * the search starts again when queue->due_us is set to 0. */
mb_parked *mb__retry_next(mb_retry_queue *queue, int64_t now_us, bool full);
/* The head of a key queue waited for an event that was in no retry queue, and need not wait any
 * more; key.data NULL = of every key queue. */
void mb__retry_wake(mb_retry_queue *queue, mb_bytes key);
/* Whether one of them failed, and waits for its retry or its dead letter. */
bool mb__retry_failing(const mb_retry_queue *queue);
/* Take a settled event out and free it; the next of its key falls due at once. */
void mb__retry_settle(mb_retry_queue *queue, mb_parked *parked);
/* The log starts again: what is parked stays, but its offsets mean nothing any more. */
void mb__retry_keep_after_recreate(mb_retry_queue *queue);
/* The oldest parked offset of this log, or otherwise. */
int64_t mb__retry_low(const mb_retry_queue *queue, int64_t otherwise);
/* Forget everything (the partition is no longer ours). Those whose dead letter is in flight are
 * freed by mb__parked_free when its report comes, those that are running (with their record) when
 * their handler is done. */
void mb__retry_clear(mb_retry_queue *queue);
void mb__parked_free(mb_parked *parked);

#endif
