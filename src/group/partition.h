/* group/partition.h: one assigned partition, and the list of them. Knows what is parked in a
 * partition; does not know handlers, outcomes or Lua. */
#ifndef MB_PARTITION_H
#define MB_PARTITION_H

#include <librdkafka/rdkafka.h>

#include "group/marks.h"
#include "group/retry.h"
#include "handlers/breaker.h"
#include "moonbus.h"

typedef struct mb_group mb_group;
typedef struct mb_consumer mb_consumer;

/* One assigned partition. */
typedef struct mb_part {
  int32_t id;
  int64_t next;    /* the offset after the last record that was settled or parked; -1 = none yet */
  int64_t fetched; /* the offset after the last record taken from librdkafka; -1 = none yet */
  int64_t committed; /* what the broker acknowledged; -1 = unknown */
  uint64_t marked;   /* of the marks sent with it, their hash; 0 = none, or not taken */
  mb_marks ahead;    /* settled past what was committed last, by this or an earlier owner */
  bool unread;       /* what is settled past the committed offset is not known yet, and must be */
  int64_t begin;     /* where it began since the assignment: the offset committed, or fetched; -1 =
                        unknown */
  bool paused;
  bool failing;      /* ... for retries that wait, not for events that run */
  bool stalled;      /* ... only because the inbox is full */
  bool at_end;       /* everything there was has been fetched */
  int64_t silent_us; /* since when no broker answers for it; 0 = one does */
  int32_t leader;    /* who should; -1 = it has no leader */
  bool moved;        /* a callback sought or paused it while records are polled */
  const rd_kafka_message_t
      *restart; /* in the inbox: the first record of the log that took the place
                                     of the one before; NULL = none */
  mb_retry_queue queue;
  int64_t
      held_at; /* the offset that its open breaker holds back; -1 = closed. retry queue.held is that
                        event, but while it is read again after an abort */
  mb_breaker breaker;
  mb_breaker
      breaker_kept; /* as it was when the last transaction was committed, or the unit began */
} mb_part;

/* NULL = it is not ours. */
mb_part *mb__consumer_part(const mb_group *group, int32_t partition);
/* Iterate over the assigned partitions: i from 0 until NULL. */
mb_part *mb__consumer_part_at(const mb_group *group, size_t i);
size_t mb__consumer_part_count(const mb_group *group);
/* The partition whose events wait in this retry queue. */
mb_part *mb__part_of(mb_retry_queue *queue);

/* committed: the group's offset, -1 = none or unknown. The part, also when it is ours already; NULL
 * when out of memory. */
mb_part *mb__part_add(mb_group *group, int32_t id, int64_t committed);
void mb__part_remove(mb_consumer *consumer, int32_t id);

/* Events parked in all assigned partitions. */
size_t mb__consumer_parked(const mb_group *group);
/* Since when no broker has answered for a partition, where that is no passing trouble; 0 = one
 * does. */
int64_t mb__part_silent_us(const mb_part *part);
/* Records between what is settled and the partition's end; -1 while unknown. */
int64_t mb__part_lag(const mb_group *group, const mb_part *part);

/* true if what is settled past a waiting event goes with a commit. */
bool mb__consumer_marks(const mb_group *group);
/* The key in whose order the record is handled; empty = that of its partition. Borrowed. */
mb_bytes mb__part_key(const mb_group *group, const rd_kafka_message_t *record);

#endif
