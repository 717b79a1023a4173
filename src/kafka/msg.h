/* kafka/msg.h: what a record says of its event: type, key, tenant, headers, attempts. Knows
 * librdkafka's records and the wire's headers; does not know handlers' results. */
#ifndef MB_MSG_H
#define MB_MSG_H

#include <librdkafka/rdkafka.h>

#include "base/json.h"
#include "base/log.h"
#include "event/trace.h"
#include "handlers/dispatch.h"
#include "moonbus.h"

typedef struct mb_pend mb_pend;

struct mb_msg {
  const rd_kafka_message_t *record; /* borrowed */
  mb_bytes event_type;
  const mb_tenant *tenant; /* as the handlers were chosen by it */
  int attempts;            /* failed runs before this one; -1 = only the retry_count header knows */
  mb_json fields;          /* where mb_msg_field unescapes */
  mb_pend *pend;           /* NULL = no handler asked for a token */
};

/* The record's event type: what its value says, else its header; absent when neither does. */
mb_bytes mb__msg_type(const rd_kafka_message_t *record);
/* Why it has none. */
void mb__msg_untyped(const rd_kafka_message_t *record, char *why, size_t why_size);
/* Whose event it is: what the value's tenant_id says. Headers are not asked: parsing them costs
 * more, and what a handler reads is the value. */
void mb__msg_tenant(const rd_kafka_message_t *record, mb_tenant *tenant);
mb_err mb__record_header(const rd_kafka_message_t *record, const char *name, mb_bytes *value);
/* The first header of that name; of those that describe a death the last, which was added last: of
 * deaths before it a record may bring the headers along. Absent if there is none; headers NULL =
 * none. */
mb_bytes mb__headers_get(const rd_kafka_headers_t *headers, const char *name);
/* Whether a header of this name (dlq_...) describes a death. */
bool mb__header_of_death(const char *name);
/* Whether they are those of a dead letter: of a record that another client put back as it was. */
bool mb__headers_died(const rd_kafka_headers_t *headers);
/* The count a header holds; otherwise when it is absent or not a number. */
int mb__record_count(const rd_kafka_message_t *record, const char *name, int otherwise);
/* The fields of a log line about a record, or about a partition and offset alone (_private NULL);
 * borrowed from it and from fail.
 * attempt 0 = none
 * fail    NULL = none
 * fields  receives MB_RECORD_FIELDS */
#define MB_RECORD_FIELDS 8
void mb__record_fields(const rd_kafka_message_t *record, int attempt, const mb_fail *fail,
                       mb_log_field *fields);
/* A line about a record, with these fields. */
void mb__record_log(mb_log *log, mb_level level, const rd_kafka_message_t *record, int attempt,
                    const mb_fail *fail, const char *fmt, ...) MB_PRINTF(6, 7);
/* The failed attempts that a record brings along (retry_count); those before an earlier death are
 * none. */
int mb__record_retries(const rd_kafka_message_t *record);
void mb__msg_done(mb_msg *msg);
/* true for a replay to another group than this one. */
bool mb__msg_elsewhere(const char *group, const rd_kafka_message_t *record);
/* The timestamp of a record that goes to one group alone: now, or up to 63 ms before. */
int64_t mb__addressed_ms(int64_t now_ms);

/* The event whose handlers run on this thread; NULL = none, or its bus does not trace. Handlers
 * nest: one that waits lets other buses run theirs. One store per event, hence the model. */
extern _Thread_local const rd_kafka_message_t *mb__in_hand
    __attribute__((tls_model("initial-exec")));

/* What the record brings along, clean; all absent for NULL. */
void mb__trace_read(const rd_kafka_message_t *record, mb_trace *trace);

#endif
