/* kafka/headers.h: lists of a record's headers: copied, added to. Knows librdkafka's; does not
 * know what a header says. */
#ifndef MB_HEADERS_H
#define MB_HEADERS_H

#include <librdkafka/rdkafka.h>

#include "moonbus.h"

/* A copy of a list of headers (NULL = none), without those the filter (NULL = none) drops. NULL
 * when out of memory. */
rd_kafka_headers_t *mb__headers_copy(const rd_kafka_headers_t *from,
                                     bool (*drop)(const char *name, mb_bytes value,
                                                  const void *opaque),
                                     const void *opaque);
bool mb__headers_add(rd_kafka_headers_t *headers, const char *name, const char *value, size_t len);
bool mb__headers_add_int(rd_kafka_headers_t *headers, const char *name, int64_t value);

#endif
