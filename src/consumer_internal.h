/* consumer_internal.h: what consumer.c, rebalance.c and offsets.c share. */
#ifndef MB_CONSUMER_INTERNAL_H
#define MB_CONSUMER_INTERNAL_H

#include "internal.h"
#include "prefetch.h"

#define INBOX_MAX   1024 /* records */
#define INBOX_BYTES (16u << 20)

struct mb_consumer {
  rd_kafka_t *rk;
  rd_kafka_queue_t *queue;
  mb_part **parts; /* assigned ones, in order of assignment; owned */
  size_t part_count;
  mb_part **by_id; /* partition number -> part or NULL */
  size_t by_id_len;
  rd_kafka_message_t *inbox[INBOX_MAX];
  size_t head, count, bytes;
  mb_prefetch prefetch;
  bool drained;         /* the last poll found nothing */
  int64_t full_us;      /* since when the inbox has no room; 0 = it has */
  int64_t stalled_us;   /* since when all is paused for that; 0 = it is not */
  bool joined;          /* assigned, be it nothing */
  int64_t link_down_us; /* since when no broker can be reached; 0 = one can */
  int64_t looked_us;    /* when the connections were looked at last */
  bool deaf;            /* there was none then */
  mb_err refused;       /* what a broker refuses, and why; MB_OK = nothing */
  char refused_text[256];
  bool unmarked;   /* the broker takes no marks with a commit */
  bool committing; /* an asynchronous commit is under way */
  int64_t last_commit_us;
  int64_t settled; /* since the last commit */
  bool foreign;    /* it was given what an earlier life of its static member read */
  mb_err ended;    /* why consumption cannot go on */
  char ended_text[256];
};

/* ---- consumer.c ---- */

/* Drop what was fetched from partitions that are no longer ours, and from one that is read again
 * (-1 = none). */
void mb__inbox_purge(mb_consumer *consumer, int32_t rewound);
/* committed: the group's offset, -1 = none or unknown. The part, also when it is ours already; NULL
 * when out of memory. */
mb_part *mb__part_add(mb_bus *bus, int32_t id, int64_t committed);
void mb__part_remove(mb_consumer *consumer, int32_t id);

/* ---- pause.c ---- */

void mb__part_pause(mb_bus *bus, mb_part *part, bool paused);
/* How many records the inbox may be given. When that is none for long, the partitions are paused,
 * so that the consumer can be polled for the membership's sake, until half of it is free. */
size_t mb__inbox_room(mb_bus *bus);
/* Pause one for that reason; offset: of its first record, which is read again later. */
void mb__part_stall(mb_bus *bus, mb_part *part, int64_t offset);

/* ---- rebalance.c ---- */

void mb__on_rebalance(rd_kafka_t *rk, rd_kafka_resp_err_t err,
                      rd_kafka_topic_partition_list_t *list, void *opaque);

/* ---- offsets.c ---- */

/* The group's offsets of these partitions, with what was noted at their last commit. NULL = they
 * cannot be had now. Owned. */
rd_kafka_topic_partition_list_t *mb__offsets_committed(mb_bus *bus,
                                                       const rd_kafka_topic_partition_list_t *list);
/* What is settled past the committed offset of a partition that was just assigned. */
void mb__offsets_ahead(mb_bus *bus, mb_part *part, const rd_kafka_topic_partition_t *committed);
/* The same, asked anew, for partitions of which that is not known yet. false: it cannot be had. */
bool mb__offsets_reread(mb_bus *bus);

/* Commit the low-water marks of these partitions and wait for the broker's answer, but not for
 * ever. */
void mb__offsets_commit_wait(mb_bus *bus, const rd_kafka_topic_partition_list_t *only,
                             int timeout_ms);
void mb__offsets_on_commit(rd_kafka_t *rk, rd_kafka_resp_err_t err,
                           rd_kafka_topic_partition_list_t *offsets, void *opaque);

#endif
