/* group/consumer_internal.h: what group/consumer.c, group/rebalance.c and group/offsets.c share. */
#ifndef MB_CONSUMER_INTERNAL_H
#define MB_CONSUMER_INTERNAL_H

#include "group/group.h"
#include "kafka/poller.h"
#include "kafka/prefetch.h"

/* What brokers answer members whose partitions they assign; librdkafka before 2.4 has no names for
 * it. Stale: the member's epoch went on while a request was under way; the next one has the new
 * epoch. */
#define MB_UNRELEASED_INSTANCE_ID ((rd_kafka_resp_err_t)111)
#define MB_UNSUPPORTED_ASSIGNOR   ((rd_kafka_resp_err_t)112)
#define MB_STALE_MEMBER_EPOCH     ((rd_kafka_resp_err_t)113)
#define MB_FENCED_MEMBER_EPOCH    ((rd_kafka_resp_err_t)110)

#define MB_MEMBER_ID_MAX 512 /* what is longer is cut, which comparing two of them allows */

#define INBOX_MAX   1024 /* records */
#define INBOX_BYTES (16u << 20)

struct mb_consumer {
  mb_client *client;
  rd_kafka_t *rk; /* the client's */
  rd_kafka_queue_t *queue;
  mb_part **parts; /* assigned ones, in order of assignment; owned */
  size_t part_count;
  mb_part **by_id; /* partition number -> part or NULL */
  size_t by_id_len;
  rd_kafka_message_t *inbox[INBOX_MAX];
  size_t head, count, bytes;
  mb_prefetch prefetch;
  mb_poller poller;
  bool polling;       /* records are being polled: we are called by one of its callbacks */
  bool moved;         /* ... which sought or paused a partition */
  bool drained;       /* the last poll found nothing */
  int64_t full_us;    /* since when the inbox has no room; 0 = it has */
  int64_t stalled_us; /* since when all is paused for that; 0 = it is not */
  bool joined;        /* assigned, be it nothing */
  char member_id[MB_MEMBER_ID_MAX]; /* of a static member, at its last assignment; "" = unknown */
  int64_t rejoined_us;         /* when its assignment came under another member id; 0 = never */
  int64_t link_down_us;        /* since when no broker can be reached; 0 = one can */
  int64_t looked_us;           /* when the connections were looked at last */
  bool deaf;                   /* there was none then */
  rd_kafka_resp_err_t refused; /* what a broker refuses, and why; 0 = nothing */
  int64_t refused_us;
  char refused_text[MB_REFUSAL_MAX];
  bool unmarked;         /* the broker takes no marks with a commit */
  bool committing;       /* an asynchronous commit is under way */
  int64_t unanswered_us; /* ... and was without an answer then */
  int64_t last_commit_us;
  int64_t settled;                /* since the last commit */
  rd_kafka_resp_err_t commit_err; /* why the last commit was refused; 0 = it was not */
  int64_t commit_refused_us;      /* since when commits are refused; 0 = they are not */
  int64_t commit_wait_us;         /* until the next try, beyond the interval */
  int64_t commit_logged_us;       /* when the refusal was logged */
  char commit_text[MB_REFUSAL_MAX];
  bool foreign; /* it was given what an earlier life of its static member read */
  mb_err ended; /* why consumption cannot go on */
  char ended_text[MB_REFUSAL_MAX];
};

/* ---- group/ended.c ---- */

/* Consumption cannot go on with this consumer; the first reason counts. */
void mb__consumer_end(mb_group *group, mb_err err, const char *reason);

/* ---- group/inbox.c ---- */

/* The place of a record: 0 = the next one to be taken, count = the first free one. */
rd_kafka_message_t **mb__inbox_at(mb_consumer *consumer, size_t i);
/* Drop what was fetched from partitions that are no longer ours, and from one that is read again
 * (-1 = none). */
void mb__inbox_purge(mb_consumer *consumer, int32_t rewound);

/* ---- group/pause.c ---- */

void mb__part_pause(mb_group *group, mb_part *part, bool paused);
/* Fetch again from part->fetched, if anything was fetched of it. */
void mb__part_seek(mb_group *group, mb_part *part);
/* A cooperative rebalance begins, in its callback: librdkafka has paused all partitions, at
 * positions that are not relied on where records are polled many at a time. */
void mb__consumer_seek_all(mb_group *group);
/* How many records the inbox may be given. When that is none for long, the partitions are paused,
 * so that the consumer can be polled for the membership's sake, until half of it is free. */
size_t mb__inbox_room(mb_group *group);
/* Pause one for that reason; offset: of its first record, which is read again later. */
void mb__part_stall(mb_group *group, mb_part *part, int64_t offset);

/* ---- group/rebalance.c ---- */

void mb__on_rebalance(rd_kafka_t *rk, rd_kafka_resp_err_t err,
                      rd_kafka_topic_partition_list_t *list, void *opaque);
/* librdkafka ended the consumer for this. MB_OK: consumption is to stop, for no other consumer
 * would do better; else the error that ends this one, and text in words that say what to do. */
mb_err mb__group_refused(mb_group *group, rd_kafka_resp_err_t code, char *text, size_t size);

/* ---- group/offsets.c ---- */

/* The group's offsets of these partitions, with what was noted at their last commit. NULL = they
 * cannot be read now. Owned. */
rd_kafka_topic_partition_list_t *mb__offsets_committed(mb_group *group,
                                                       const rd_kafka_topic_partition_list_t *list);
/* What is settled past the committed offset of a partition that was just assigned. */
void mb__offsets_ahead(mb_group *group, mb_part *part, const rd_kafka_topic_partition_t *committed);
/* The same, requested again, for partitions where it is not known yet. false: the request failed.
   */
bool mb__offsets_reread(mb_group *group);

/* Commit the low-water marks of these partitions and wait for the broker's answer, but not for
 * ever. */
void mb__offsets_commit_wait(mb_group *group, const rd_kafka_topic_partition_list_t *only,
                             int timeout_ms);
/* Log which settled offsets of these partitions, NULL = of all, the group does not have. */
void mb__offsets_uncommitted(mb_group *group, const rd_kafka_topic_partition_list_t *only);
/* When the next commit is due. */
int64_t mb__offsets_due_us(const mb_group *group);
/* true if commits are refused, and not for a rebalance alone; text: why. */
bool mb__offsets_refused(const mb_group *group, const char **text);
void mb__offsets_on_commit(rd_kafka_t *rk, rd_kafka_resp_err_t err,
                           rd_kafka_topic_partition_list_t *offsets, void *opaque);

#endif
