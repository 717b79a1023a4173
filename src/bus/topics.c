/* bus/topics.c: topics as a user of the bus asks for them: what there is, how much, and records.
 * Must not know librdkafka; kafka/ does the work. Called through moonbus.h by users. */
#include <stdlib.h>

#include "bus/internal.h"
#include "kafka/count.h"
#include "kafka/reader.h"
#include "kafka/topics.h"

mb_err mb_bus_topic_partitions(mb_bus *bus, const char *topic, int *count, char *errstr,
                               size_t errstr_size) {
  return mb__topic_partitions(&bus->ctx, topic ? topic : bus->ctx.topic, count, errstr,
                              errstr_size);
}

mb_err mb_topic_offsets(mb_bus *bus, const char *topic, int32_t partition, int64_t *low,
                        int64_t *high, char *errstr, size_t errstr_size) {
  return mb__topic_offsets(&bus->ctx, topic ? topic : bus->ctx.topic, partition, low, high, errstr,
                           errstr_size);
}

mb_err mb_topic_create(mb_bus *bus, const char *topic, int partitions, int replication,
                       char *errstr, size_t errstr_size) {
  return mb__topic_create(&bus->ctx, topic, partitions, replication, errstr, errstr_size);
}

mb_err mb_topic_count(mb_bus *bus, const char *topic, const int64_t *from, int64_t *counts,
                      int count, char *errstr, size_t errstr_size) {
  if (!counts || count < 1)
    return mb__error(MB_EINVAL, errstr, errstr_size,
                     "mb_topic_count: expected counts for 1 or more partitions, got %d", count);
  mb__context_forget_stop(&bus->ctx);
  return mb__topic_count(&bus->ctx, topic ? topic : bus->ctx.topic, from, counts, count, errstr,
                         errstr_size);
}

mb_err mb_bus_committed(mb_bus *bus, int64_t *offsets, int count, char *errstr,
                        size_t errstr_size) {
  return mb__reader_committed(&bus->ctx, offsets, count, errstr, errstr_size);
}

/* The last records of each partition, of which offsets say only where they may begin. */
static mb_err read_last(mb_bus *bus, const char *topic, const mb_read_options *options,
                        mb_read_fn fn, void *opaque, char *errstr, size_t errstr_size) {
  mb_read_options exact = *options;
  mb_err err =
      mb__last_offsets(&bus->ctx, topic, MB_READ_LAST - options->offset, options->partition,
                       &exact.offsets, &exact.offset_count, errstr, errstr_size);
  if (!err) err = mb__reader_read(&bus->ctx, topic, &exact, fn, opaque, errstr, errstr_size);
  free(exact.offsets);
  return err;
}

mb_err mb_bus_read(mb_bus *bus, const char *topic, const mb_read_options *options, mb_read_fn fn,
                   void *opaque, char *errstr, size_t errstr_size) {
  mb__context_forget_stop(&bus->ctx);
  if (topic && fn && options && !options->offsets && options->offset <= MB_READ_LAST)
    return read_last(bus, topic, options, fn, opaque, errstr, errstr_size);
  return mb__reader_read(&bus->ctx, topic, options, fn, opaque, errstr, errstr_size);
}
