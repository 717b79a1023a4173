/* event/partition.h: the partition that Kafka's clients choose for a key. */
#ifndef MB_EVENT_PARTITION_H
#define MB_EVENT_PARTITION_H

#include "moonbus.h"

/* murmur2 as Kafka's Java client computes it (seed 0x9747b28c), and the partition it picks (-1 when
 * there are no partitions). */
uint32_t mb__murmur2(mb_bytes key);
int32_t mb__partition_of(mb_bytes key, int32_t partition_count);

#endif
