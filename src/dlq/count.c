/* dlq/count.c: how many dead letters there are. Must not know what they say. Called through
 * moonbus.h by users. */
#include <stdlib.h>

#include "bus/internal.h"

mb_err mb_dlq_count(mb_bus *bus, int64_t *count, char *errstr, size_t errstr_size) {
  int partitions;
  int64_t total = 0;
  mb_err err = mb_bus_topic_partitions(bus, bus->ctx.dlq_topic, &partitions, errstr, errstr_size);
  if (err == MB_ETOPIC) {
    if (errstr && errstr_size) errstr[0] = 0;
    *count = 0;
    return MB_OK;
  }
  if (err) return err;
  int64_t *counts = malloc((size_t)partitions * sizeof *counts);
  if (!counts) return mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
  err = mb_topic_count(bus, bus->ctx.dlq_topic, NULL, counts, partitions, errstr, errstr_size);
  for (int i = 0; !err && i < partitions; i++) total += counts[i];
  free(counts);
  if (!err) *count = total;
  return err;
}
