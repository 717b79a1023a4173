/* kafka/count.h: how many records a topic holds, and where the last of them are. */
#ifndef MB_COUNT_H
#define MB_COUNT_H

#include "kafka/context.h"

/* As mb_topic_count. */
mb_err mb__topic_count(mb_context *ctx, const char *topic, const int64_t *from, int64_t *counts,
                       int count, char *errstr, size_t errstr_size);

#define MB_READ_LAST (-3) /* mb_read_options.offset: less N = the last N records */

/* Where the last `most` records of each partition (-1 = of all) begin.
 * offsets  owned, by partition; read no others than the one that was asked for */
mb_err mb__last_offsets(mb_context *ctx, const char *topic, int64_t most, int32_t partition,
                        int64_t **offsets, int *count, char *errstr, size_t errstr_size);

#endif
