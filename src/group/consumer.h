/* group/consumer.h: the bus as a member of its consumer group: records in, offsets out. Knows
 * librdkafka's consumer, partitions and what is parked in them; does not know handlers, outcomes or
 * Lua. */
#ifndef MB_CONSUMER_H
#define MB_CONSUMER_H

#include <librdkafka/rdkafka.h>

#include "group/marks.h"
#include "group/retry.h"
#include "handlers/brake.h"
#include "moonbus.h"

typedef struct mb_consumer mb_consumer;

/* One assigned partition. */
typedef struct mb_part {
  int32_t id;
  int64_t next;    /* the offset after the last record that was settled or parked; -1 = none yet */
  int64_t fetched; /* the offset after the last record taken from librdkafka; -1 = none yet */
  int64_t committed; /* what the broker acknowledged; -1 = unknown */
  uint64_t marked;   /* of the marks sent with it, their hash; 0 = none, or not taken */
  mb_marks ahead;    /* settled past what was committed last, by us or whoever had it before */
  bool unread;       /* what is settled past the committed offset is not known yet, and must be */
  int64_t begin;     /* where it began since the assignment: the offset committed, or fetched; -1 =
                        unknown */
  bool paused;
  bool failing;                   /* ... for retries that wait, not for events that run */
  bool stalled;                   /* ... only because the inbox is full */
  bool at_end;                    /* everything there was has been fetched */
  int64_t silent_us;              /* since when no broker answers for it; 0 = one does */
  int32_t leader;                 /* who should; -1 = it has no leader */
  bool moved;                     /* a callback sought or paused it while records are polled */
  const rd_kafka_message_t *anew; /* in the inbox: the first record of the log that took the place
                                     of the one before; NULL = none */
  mb_lot lot;
  int64_t braked_at; /* the offset its brake holds back; -1 = the brake is off. lot.braked is that
                        event, but while it is read again after an abort */
  mb_brake brake;
  mb_brake brake_kept; /* as it was when the last transaction was committed, or the unit began */
} mb_part;

/* Join the group. MB_ECONFIG, MB_ENOMEM. */
mb_err mb__consumer_open(mb_bus *bus, char *errstr, size_t errstr_size);
/* Commit what is settled, leave the group, close; takes no more than a second longer than
 * timeout_ms. */
void mb__consumer_close(mb_bus *bus, int timeout_ms);
/* true if a call into librdkafka did not return: this consumer is to be closed. */
bool mb__consumer_lost(const mb_bus *bus);

/* A line that librdkafka logs: only there it says that a broker before Kafka 4 has no consumer
 * protocol; it asks such a one again for ever. Consumption is halted then. */
void mb__consumer_heard(mb_bus *bus, const char *text);

/* Fetch records into the inbox without waiting (callbacks run in here: rebalances, commits, logs),
 * up to its capacity, at least one poll each time so that the group membership holds. returns the
 * error that ended consumption, or MB_OK */
mb_err mb__consumer_gather(mb_bus *bus, char *errstr, size_t errstr_size);
/* The next record of a partition that is still ours, or NULL. Owned by the caller. */
rd_kafka_message_t *mb__consumer_take(mb_bus *bus, mb_part **part);
/* Whether the inbox holds anything or the last gather did not drain librdkafka's queue. */
bool mb__consumer_pending(const mb_bus *bus);

mb_part *mb__consumer_part(const mb_bus *bus, int32_t partition);
/* Walk the assigned partitions: i from 0 until NULL. */
mb_part *mb__consumer_part_at(const mb_bus *bus, size_t i);
size_t mb__consumer_part_count(const mb_bus *bus);

/* Commit the low-water marks if the interval passed or enough is settled; does not wait. */
void mb__consumer_commit_due(mb_bus *bus, int64_t now_us);
/* One more event is settled. */
void mb__consumer_count_settled(mb_bus *bus);

/* Read a partition again from an offset; what was fetched after it is dropped. */
void mb__consumer_rewind(mb_bus *bus, mb_part *part, int64_t offset);

/* For transactions: who we are in the group (owned); the low-water marks not committed yet, with
 * what is settled past them (owned, NULL = none; false = that finds no room, and from now on
 * nothing is settled past a waiting event); that they are committed; and, after an abort,
 * everything read again from where it was committed. */
rd_kafka_consumer_group_metadata_t *mb__consumer_member(const mb_bus *bus);
bool mb__consumer_low_water(mb_bus *bus, rd_kafka_topic_partition_list_t **offsets);
void mb__consumer_committed(mb_bus *bus, const rd_kafka_topic_partition_list_t *offsets);
void mb__consumer_rewind_all(mb_bus *bus);
/* Commits go without marks from now on: the broker does not take them. */
void mb__consumer_unmark(mb_bus *bus);
bool mb__consumer_marks(const mb_bus *bus);

/* Pause a partition that is braked or whose parked events reached the limit, resume one that has
 * room again. */
void mb__consumer_balance(mb_bus *bus, mb_part *part);
/* The partition's brake is on, at a parked event: pause it, to be read on from there later. */
void mb__consumer_brake(mb_bus *bus, mb_part *part);
/* Should what is done from here on be undone, the brakes are as they are now. */
void mb__consumer_keep_brakes(mb_bus *bus);
/* One more event of the partition was handled, or is dead. */
void mb__consumer_note(mb_bus *bus, mb_part *part, bool dead);
/* Take the brake off: the window is cleared, and what was held back runs at once. */
void mb__consumer_release(mb_bus *bus, mb_part *part);

/* Since when no broker has answered for a partition, where that is no passing trouble; 0 = one
 * does. */
int64_t mb__part_silent_us(const mb_part *part);
/* Since when the group's coordinator has not answered a commit; 0 = it does. */
int64_t mb__offsets_silent_us(const mb_bus *bus);

mb_part *mb__part_of(mb_lot *lot);
/* Events parked in all assigned partitions. */
size_t mb__consumer_parked(const mb_bus *bus);
/* The group has told what is ours, each partition of it (but braked ones, if told so) was read to
 * its end, and nothing waits in the inbox or is parked. */
bool mb__consumer_at_end(const mb_bus *bus, bool but_held);
/* Seconds that have to pass before a new consumer can do better than this one; 0 = none. */
double mb__consumer_outlast(const mb_bus *bus);

/* When it must be looked at again even if its queue stays quiet; monotonic microseconds. */
int64_t mb__consumer_due_us(const mb_bus *bus);
/* Records behind the ends of the assigned partitions, or of one; -1 while unknown. */
int64_t mb__consumer_lag(const mb_bus *bus);
int64_t mb__part_lag(const mb_bus *bus, const mb_part *part);

/* A broker refuses the login, the group or the topic: health says so until that is over, and
 * without auto_reconnect consumption ends. */
void mb__consumer_refused(mb_bus *bus, rd_kafka_resp_err_t code, const char *text);

#endif
