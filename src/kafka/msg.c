/* kafka/msg.c: what can be asked of a record.
 * Must not know handlers, the bus's state or Lua; headers are parsed only when asked for.
 * Called by handlers through moonbus.h, and by the engine. */
#include "kafka/msg.h"

#include <stdlib.h>
#include <string.h>

#include "base/scan.h"
#include "event/wire.h"
#include "kafka/record.h"

/* The type of a value that begins as ours do: {"event_id":"...","event_type":"...". false: it does
 * not, which says nothing of others. */
static bool plain_type(mb_bytes value, mb_bytes *type) {
  static const char before[] = "{\"event_id\":\"", between[] = "\",\"event_type\":\"";
  const size_t id = sizeof before - 1, behind = id + MB_UUID_LEN,
               from = behind + sizeof between - 1;
  unsigned high = 0;
  if (value.len <= from || memcmp(value.data, before, id) ||
      memcmp(value.data + behind, between, sizeof between - 1) ||
      !mb__uuid_canonical(value.data + id))
    return false;
  const char *begin = value.data + from, *limit = value.data + value.len;
  const char *end = mb__scan_plain(begin, limit, &high);
  if (high || end == limit || *end != '"' || end == begin) return false;
  *type = (mb_bytes){begin, (size_t)(end - begin)};
  return true;
}

mb_bytes mb__msg_type(const rd_kafka_message_t *record) {
  static const char name[] = "event_type";
  mb_bytes type = {NULL, 0};
  if (record->payload) {
    mb_bytes value = {record->payload, record->len};
    if (plain_type(value, &type)) return type;
    if (!mb__json_peek_member(value, (mb_bytes){name, sizeof name - 1}, &type) && type.len)
      return type;
  }
  if (mb__record_header(record, name, &type) || !type.len || !mb__utf8_valid(type))
    return (mb_bytes){NULL, 0};
  return type;
}

void mb__msg_untyped(const rd_kafka_message_t *record, char *why, size_t why_size) {
  mb_bytes value = {record->payload, record->len};
  mb_json json;
  if (!value.data) {
    snprintf(why, why_size, "the record has no value (a tombstone) and no event_type header");
    return;
  }
  mb__json_init(&json, value);
  bool object = mb__json_peek(&json) == '{', whole = mb__json_skip(&json);
  if (!whole || !mb__json_at_end(&json))
    snprintf(why, why_size, "value is not JSON: %s (byte %zu); and no header has an event_type",
             whole ? "text after its end" : json.error, mb__json_offset(&json));
  else
    snprintf(why, why_size, "neither the value%s nor the headers have an event_type",
             object ? "" : ", which is no object,");
  mb__json_done(&json);
}

void mb__msg_tenant(const rd_kafka_message_t *record, mb_tenant *tenant) {
  static const char name[] = "tenant_id";
  mb_json json;
  mb_bytes key;
  mb_value value = {.kind = MB_NULL};
  bool first = true;
  int more = -1;
  mb__json_init(&json, (mb_bytes){record->payload ? record->payload : "", record->len});
  if (mb__json_enter_object(&json)) {
    while ((more = mb__json_next_key(&json, &first, &key)) > 0) {
      bool found = key.len == sizeof name - 1 && memcmp(key.data, name, key.len) == 0;
      if (!(found ? mb__json_value(&json, &value) : mb__json_skip(&json))) more = -1;
      if (found || more < 0) break;
    }
  }
  tenant->kind = MB_TENANT_UNREADABLE;
  if (more >= 0 && value.kind == MB_NULL)
    tenant->kind = MB_TENANT_NONE;
  else if (more > 0 && value.kind == MB_STRING && mb__uuid_parse(value.as.s, tenant->id, NULL))
    tenant->kind = MB_TENANT_ID;
  mb__json_done(&json);
}

bool mb__header_of_death(const char *name) {
  return strncmp(name, "dlq_", 4) == 0;
}

mb_bytes mb__headers_get(const rd_kafka_headers_t *headers, const char *name) {
  const void *data;
  size_t len;
  if (!headers || (mb__header_of_death(name) ? rd_kafka_header_get_last(headers, name, &data, &len)
                                             : rd_kafka_header_get(headers, 0, name, &data, &len)))
    return (mb_bytes){NULL, 0};
  return (mb_bytes){data ? data : "", data ? len : 0};
}

mb_err mb__record_header(const rd_kafka_message_t *record, const char *name, mb_bytes *value) {
  mb_bytes found = mb__headers_get(mb__record_headers(record), name);
  if (!found.data) return MB_ENOENT;
  *value = found;
  return MB_OK;
}

int mb__record_count(const rd_kafka_message_t *record, const char *name, int otherwise) {
  mb_bytes text;
  int count = 0;
  if (mb__record_header(record, name, &text) || !text.len || text.len > 9) return otherwise;
  for (size_t i = 0; i < text.len; i++) {
    if (text.data[i] < '0' || text.data[i] > '9') return otherwise;
    count = count * 10 + (text.data[i] - '0');
  }
  return count;
}

bool mb__headers_died(const rd_kafka_headers_t *headers) {
  return mb__headers_get(headers, "dlq_reason").data != NULL;
}

int mb__record_retries(const rd_kafka_message_t *record) {
  if (mb__headers_died(mb__record_headers(record))) return 0;
  return mb__record_count(record, "retry_count", 0);
}

/* A record with a replay_group header is for that group alone. To look for a header costs more than
 * all that is done with a record until its handler runs (librdkafka allocates every header when the
 * first is asked for: 0.7 us, where fetching the record takes 0.4), so a replay to one group is
 * marked by its timestamp: divided by 64, the milliseconds leave 37. One in 64 other records is
 * looked at without need, 0.01 us each on average. Where the broker sets the time (LogAppendTime),
 * or the record has none, every record is looked at. 37 is odd: no time in whole seconds leaves it.
 * */
#define ADDRESSED_STEP 64
#define ADDRESSED_MARK 37

int64_t mb__addressed_ms(int64_t now_ms) {
  int64_t ms = now_ms / ADDRESSED_STEP * ADDRESSED_STEP + ADDRESSED_MARK;
  return ms <= now_ms ? ms : ms - ADDRESSED_STEP;
}

bool mb__msg_elsewhere(const char *group, const rd_kafka_message_t *record) {
  rd_kafka_timestamp_type_t type;
  mb_bytes to;
  int64_t ms = mb__record_timestamp(record, &type);
  if (type == RD_KAFKA_TIMESTAMP_CREATE_TIME && ms % ADDRESSED_STEP != ADDRESSED_MARK) return false;
  return !mb__record_header(record, "replay_group", &to) && to.len &&
         (to.len != strlen(group) || memcmp(to.data, group, to.len) != 0);
}

void mb__msg_done(mb_msg *msg) {
  if (msg->fields.scratch.data) mb__json_done(&msg->fields);
}

const char *mb_msg_topic(const mb_msg *msg) {
  return mb__record_topic(msg->record);
}
int32_t mb_msg_partition(const mb_msg *msg) {
  return msg->record->partition;
}
int64_t mb_msg_offset(const mb_msg *msg) {
  return msg->record->offset;
}

int64_t mb_msg_timestamp_ms(const mb_msg *msg) {
  rd_kafka_timestamp_type_t type;
  int64_t ms = mb__record_timestamp(msg->record, &type);
  return type == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE ? -1 : ms;
}

int mb_msg_attempt(const mb_msg *msg) {
  int before = msg->attempts;
  if (before < 0) before = mb__record_retries(msg->record);
  return before + 1;
}

mb_bytes mb_msg_key(const mb_msg *msg) {
  return (mb_bytes){msg->record->key, msg->record->key_len};
}

mb_bytes mb_msg_value(const mb_msg *msg) {
  return (mb_bytes){msg->record->payload, msg->record->len};
}

mb_bytes mb_msg_event_type(const mb_msg *msg) {
  return msg->event_type.data ? msg->event_type : mb__msg_type(msg->record);
}

mb_err mb_msg_header(const mb_msg *msg, const char *name, mb_bytes *value) {
  return mb__record_header(msg->record, name, value);
}

bool mb_msg_header_at(const mb_msg *msg, size_t i, const char **name, mb_bytes *value) {
  const rd_kafka_headers_t *headers = mb__record_headers(msg->record);
  const void *data;
  size_t len;
  if (!headers || rd_kafka_header_get_all(headers, i, name, &data, &len)) return false;
  *value = (mb_bytes){data, data ? len : 0};
  return true;
}

mb_err mb_msg_field(const mb_msg *msg, const char *name, mb_value *value) {
  mb_json *json = &((mb_msg *)(uintptr_t)msg)->fields; /* scratch only */
  mb_bytes want = mb_str(name), key;
  bool first = true;
  int more;
  mb__json_done(json);
  mb__json_init(json, mb_msg_value(msg));
  if (!mb__json_enter_object(json)) return MB_EDECODE;
  while ((more = mb__json_next_key(json, &first, &key)) > 0) {
    bool found = key.len == want.len && memcmp(key.data, want.data, key.len) == 0;
    if (!found && !mb__json_skip(json)) return MB_EDECODE;
    if (found) return mb__json_value(json, value) ? MB_OK : MB_EDECODE;
  }
  return more < 0 ? MB_EDECODE : MB_ENOENT;
}

void mb__record_fields(const rd_kafka_message_t *record, int attempt, const mb_fail *fail,
                       mb_log_field *fields) {
  mb_bytes id = {NULL, 0}, event = {NULL, 0}, handler = {NULL, 0}, type = {NULL, 0};
  if (record->_private) event = mb__msg_type(record);
  if (record->_private) mb__record_header(record, "event_id", &id);
  if (fail && fail->handler[0]) handler = mb_str(fail->handler);
  if (fail && fail->type[0]) type = mb_str(fail->type);
  mb_log_field all[MB_RECORD_FIELDS] = {
      {.name = "partition", .number = record->partition, .is_number = true},
      {.name = "offset", .number = record->offset, .is_number = true},
      {.name = "event_type", .text = event},
      {.name = "event_id", .text = id},
      {.name = "key", .text = {record->key, record->key_len}},
      {.name = "handler", .text = handler},
      {.name = "attempt", .number = attempt, .is_number = attempt > 0},
      {.name = "error_type", .text = type}};
  memcpy(fields, all, sizeof all);
}

void mb__record_log(mb_log *log, mb_level level, const rd_kafka_message_t *record, int attempt,
                    const mb_fail *fail, const char *fmt, ...) {
  if (!mb__log_on(log, level)) return;
  mb_log_field fields[MB_RECORD_FIELDS];
  va_list args;
  mb__record_fields(record, attempt, fail, fields);
  va_start(args, fmt);
  mb__log_args(log, level, fields, MB_RECORD_FIELDS, fmt, args);
  va_end(args);
}

/* ---- trace context ---- */

_Thread_local const rd_kafka_message_t *mb__in_hand;

void mb__trace_read(const rd_kafka_message_t *record, mb_trace *trace) {
  *trace = (mb_trace){0};
  if (!record) return;
  (void)mb__record_header(record, "traceparent", &trace->traceparent);
  (void)mb__record_header(record, "tracestate", &trace->tracestate);
  (void)mb__record_header(record, "baggage", &trace->baggage);
  mb__trace_clean(trace);
}
