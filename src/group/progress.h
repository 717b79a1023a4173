/* group/progress.h: that an event is settled. Knows partitions; does not know why. */
#ifndef MB_PROGRESS_H
#define MB_PROGRESS_H

#include "group/partition.h"

/* An event that was never parked is settled. Takes the record. */
void mb__progress_pass(mb_group *group, mb_part *part, rd_kafka_message_t *record);
/* An event's dead letter was acknowledged, it was handled, or it was dropped. */
void mb__progress_settled(mb_group *group, mb_parked *parked);

#endif
