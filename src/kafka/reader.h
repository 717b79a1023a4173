/* kafka/reader.h: reading a topic without being a member of a consumer group. */
#ifndef MB_READER_H
#define MB_READER_H

#include "kafka/context.h"
#include "moonbus.h"

/* As mb_bus_committed. */
mb_err mb__reader_committed(mb_context *ctx, int64_t *offsets, int count, char *errstr,
                            size_t errstr_size);
/* mb_bus_read as a part of something larger, which a stop is to end as a whole. */
mb_err mb__reader_read(mb_context *ctx, const char *topic, const mb_read_options *options,
                       mb_read_fn fn, void *opaque, char *errstr, size_t errstr_size);

#endif
