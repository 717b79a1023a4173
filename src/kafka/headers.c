/* kafka/headers.c: lists of a record's headers: copied, added to. Must not know what a header says.
 * Called by deliver/dead_letter.c and dlq/. */
#include "kafka/headers.h"

#include <stdio.h>

bool mb__headers_add(rd_kafka_headers_t *headers, const char *name, const char *value, size_t len) {
  return rd_kafka_header_add(headers, name, -1, value, (ssize_t)len) == 0;
}

bool mb__headers_add_int(rd_kafka_headers_t *headers, const char *name, int64_t value) {
  char text[24];
  int len = snprintf(text, sizeof text, "%lld", (long long)value);
  return mb__headers_add(headers, name, text, (size_t)len);
}

rd_kafka_headers_t *mb__headers_copy(const rd_kafka_headers_t *from,
                                     bool (*drop)(const char *name, mb_bytes value,
                                                  const void *opaque),
                                     const void *opaque) {
  rd_kafka_headers_t *to = rd_kafka_headers_new(24);
  const char *name;
  const void *value;
  size_t len;
  if (!to || !from) return to;
  for (size_t i = 0; !rd_kafka_header_get_all(from, i, &name, &value, &len); i++) {
    if (drop && drop(name, (mb_bytes){value, len}, opaque)) continue;
    /* A null header value stays null: length -1 would measure it. */
    if (rd_kafka_header_add(to, name, -1, value, value ? (ssize_t)len : 0)) {
      rd_kafka_headers_destroy(to);
      return NULL;
    }
  }
  return to;
}
