/* group/consumer.h: the bus as a member of its consumer group: records in, offsets out. Knows
 * librdkafka's consumer, partitions and what is parked in them; does not know handlers, outcomes or
 * Lua. */
#ifndef MB_CONSUMER_H
#define MB_CONSUMER_H

#include <librdkafka/rdkafka.h>

#include "group/partition.h"
#include "moonbus.h"

/* Join the group. MB_ECONFIG, MB_ENOMEM. */
mb_err mb__consumer_open(mb_group *group, char *errstr, size_t errstr_size);
/* Commit what is settled, leave the group, close; takes no more than a second longer than
 * timeout_ms. */
void mb__consumer_close(mb_group *group, int timeout_ms);
/* true if a call into librdkafka did not return: this consumer is to be closed. */
bool mb__consumer_lost(const mb_group *group);

/* A line that librdkafka logs: only there it says that a broker before Kafka 4 has no consumer
 * protocol; it asks such a one again for ever. Consumption is halted then. */
void mb__consumer_heard(mb_group *group, const char *text);

/* Fetch records into the inbox without waiting (callbacks run in here: rebalances, commits, logs),
 * up to its capacity, at least one poll each time so that the group membership holds. returns the
 * error that ended consumption, or MB_OK */
mb_err mb__consumer_gather(mb_group *group, char *errstr, size_t errstr_size);
/* The next record of a partition that is still ours, or NULL. Owned by the caller. */
rd_kafka_message_t *mb__consumer_take(mb_group *group, mb_part **part);
/* Whether the inbox holds anything or the last gather did not drain librdkafka's queue. */
bool mb__consumer_pending(const mb_group *group);

/* Commit the low-water marks if the interval passed or enough is settled; does not wait. */
void mb__consumer_commit_due(mb_group *group, int64_t now_us);

/* Read a partition again from an offset; what was fetched after it is dropped. */
void mb__consumer_rewind(mb_group *group, mb_part *part, int64_t offset);

/* For transactions: who we are in the group (owned); the low-water marks not committed yet, with
 * what is settled past them (owned, NULL = none; false = that finds no room, and from now on
 * nothing is settled past a waiting event); that they are committed; and, after an abort,
 * everything read again from where it was committed. */
rd_kafka_consumer_group_metadata_t *mb__consumer_member(const mb_group *group);
bool mb__consumer_low_water(mb_group *group, rd_kafka_topic_partition_list_t **offsets);
void mb__consumer_committed(mb_group *group, const rd_kafka_topic_partition_list_t *offsets);
void mb__consumer_rewind_all(mb_group *group);
/* Commits go without marks from now on: the broker does not take them. */
void mb__consumer_unmark(mb_group *group);

/* Pause a partition whose breaker is open or whose parked events reached the limit, resume one that
 * has room again. */
void mb__consumer_balance(mb_group *group, mb_part *part);
/* The partition's breaker opens at a parked event: pause it, to be read on from there later. */
void mb__consumer_open_breaker(mb_group *group, mb_part *part);
/* Should what is done from here on be undone, the breakers are as they are now. */
void mb__consumer_keep_breakers(mb_group *group);
/* One more event of the partition was handled, or is dead. */
void mb__consumer_note(mb_group *group, mb_part *part, bool dead);
/* Close the breaker: the window is cleared, and what was held back runs at once. */
void mb__consumer_reset_breaker(mb_group *group, mb_part *part);

/* Since when the group's coordinator has not answered a commit; 0 = it does. */
int64_t mb__offsets_silent_us(const mb_group *group);

/* true if the group has assigned this member its partitions, each was read to its end (except those
 * that breakers hold, if but_held), and nothing waits in the inbox or is parked. */
bool mb__consumer_at_end(const mb_group *group, bool but_held);
/* Seconds that have to pass before a new consumer can do better than this one; 0 = none. */
double mb__consumer_outlast(const mb_group *group);

/* When it must be looked at again even if its queue stays quiet; monotonic microseconds. */
int64_t mb__consumer_due_us(const mb_group *group);
/* Records behind the ends of the assigned partitions, or of one; -1 while unknown. */
int64_t mb__consumer_lag(const mb_group *group);

/* A broker refuses the login, the group or the topic: health says so until that is over, and
 * without auto_reconnect consumption ends. */
void mb__consumer_refused(mb_group *group, rd_kafka_resp_err_t code, const char *text);

#endif
