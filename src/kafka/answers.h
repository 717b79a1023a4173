/* kafka/answers.h: which partitions a broker answers for, read from librdkafka's statistics. Knows
 * their JSON; does not know the bus, records or what follows from an answer that does not come. */
#ifndef MB_ANSWERS_H
#define MB_ANSWERS_H

#include "moonbus.h"

/* No passing trouble: no broker has answered for so long. */
#define MB_SILENT_US 5000000

typedef struct mb_answer {
  int32_t partition;
  int32_t broker;   /* its leader, or the replica that is read; -1 = it has no leader */
  bool connected;   /* to that broker */
  int64_t quiet_us; /* since the broker said anything, while a request waits; 0 = none waits */
  uint64_t waiting; /* records that wait to be sent */
} mb_answer;

/* Call fn for each partition of a topic.
 * held_us  so long a broker may hold an answer back: a fetch for which it has nothing
 * returns  false: stats is not what librdkafka writes, or no memory is left; then fn may have been
 *          called for some */
bool mb__answers_read(mb_bytes stats, const char *topic, int64_t held_us,
                      void (*fn)(const mb_answer *answer, void *opaque), void *opaque);

/* Since when a partition is without answers, from one look to the next; 0 = it is not.
 * may_close: nothing is asked of the broker, so that the connection may be closed. */
int64_t mb__answers_since(int64_t since_us, const mb_answer *answer, bool may_close,
                          int64_t now_us);

#endif
