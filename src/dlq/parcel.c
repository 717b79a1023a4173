/* dlq/parcel.c: records kept in memory, and those that a dead letter points to.
 * Must not know what becomes of them.
 * Called by dlq/replay.c and dlq/read.c. */
#include <stdlib.h>
#include <string.h>

#include "dlq/replay_internal.h"

#define FETCH_MS 10000

mb_bytes mb__parcel_key(const mb_parcel *parcel) {
  if (!parcel->has_key) return (mb_bytes){NULL, 0};
  return (mb_bytes){parcel->bytes, parcel->key_len};
}

mb_bytes mb__parcel_value(const mb_parcel *parcel) {
  if (!parcel->has_value) return (mb_bytes){NULL, 0};
  return (mb_bytes){parcel->bytes + parcel->key_len, parcel->value_len};
}

size_t mb__parcel_size(const rd_kafka_message_t *record) {
  rd_kafka_headers_t *headers = NULL;
  size_t size = sizeof(mb_parcel) + record->key_len + record->len, len;
  const char *name;
  const void *value;
  if (rd_kafka_message_headers(record, &headers)) return size;
  for (size_t i = 0; !rd_kafka_header_get_all(headers, i, &name, &value, &len); i++)
    size += strlen(name) + len + 64;
  return size;
}

mb_parcel *mb__parcel_new(const rd_kafka_message_t *record) {
  rd_kafka_headers_t *headers = NULL;
  mb_parcel *parcel = malloc(sizeof *parcel + record->key_len + record->len);
  if (!parcel) return NULL;
  rd_kafka_message_headers(record, &headers);
  *parcel = (mb_parcel){.headers = mb__headers_copy(headers, NULL, NULL),
                        .size = mb__parcel_size(record),
                        .key_len = record->key_len,
                        .value_len = record->len,
                        .has_key = record->key != NULL,
                        .has_value = record->payload != NULL};
  if (record->key_len) memcpy(parcel->bytes, record->key, record->key_len);
  if (record->len) memcpy(parcel->bytes + record->key_len, record->payload, record->len);
  if (parcel->headers) return parcel;
  free(parcel);
  return NULL;
}

void mb__parcel_free(mb_parcel *parcel) {
  if (!parcel) return;
  rd_kafka_headers_destroy(parcel->headers);
  free(parcel);
}

/* ---- records that letters point to ---- */

typedef struct following {
  int64_t offset;
  mb_parcel *found;
} following;

static bool on_original(const mb_msg *msg, void *opaque) {
  following *f = opaque;
  if (mb_msg_offset(msg) == f->offset) f->found = mb__parcel_new(msg->record);
  return false;
}

/* The letter was too large to hold the value: the record it points to, or NULL and why. */
mb_parcel *mb__parcel_follow(mb_bus *bus, const rd_kafka_headers_t *headers, char *why,
                             size_t why_size) {
  mb_bytes topic = mb__headers_get(headers, "dlq_original_topic");
  mb_bytes partition = mb__headers_get(headers, "dlq_original_partition");
  mb_bytes offset = mb__headers_get(headers, "dlq_original_offset");
  char name[256], digits[2][24];
  following f = {.offset = -1};
  mb_err err = MB_OK;
  if (topic.len && topic.len < sizeof name && partition.len && partition.len < 11 && offset.len &&
      offset.len < sizeof digits[0]) {
    snprintf(name, sizeof name, "%.*s", (int)topic.len, topic.data);
    snprintf(digits[0], sizeof digits[0], "%.*s", (int)partition.len, partition.data);
    snprintf(digits[1], sizeof digits[1], "%.*s", (int)offset.len, offset.data);
    f.offset = strtoll(digits[1], NULL, 10);
    mb_read_options options = {.partition = (int32_t)strtol(digits[0], NULL, 10),
                               .offset = f.offset,
                               .timeout_ms = FETCH_MS};
    if (options.partition >= 0 && f.offset >= 0)
      err = mb__reader_read(&bus->ctx, name, &options, on_original, &f, why, why_size);
  }
  if (!f.found && !err)
    snprintf(why, why_size, "the dead letter points to a record that the topic no longer holds");
  return f.found;
}
