/* group/ended.c: why consumption ends, or what a broker refuses. Must not end anything: the next
 * step does. Called by group/consumer.c, group/offsets.c and group/txn.c. */
#include <stdio.h>

#include "group/consumer_internal.h"
#include "kafka/refusal.h"

void mb__consumer_end(mb_group *group, mb_err err, const char *reason) {
  mb_consumer *consumer = group->consumer;
  if (consumer->ended) return;
  consumer->ended = err;
  snprintf(consumer->ended_text, sizeof consumer->ended_text, "%s", reason);
}

void mb__consumer_refused(mb_group *group, rd_kafka_resp_err_t code, const char *text) {
  mb_consumer *consumer = group->consumer;
  if (!consumer) return;
  consumer->refused = code;
  consumer->refused_us = mb__mono_us();
  snprintf(consumer->refused_text, sizeof consumer->refused_text, "%s", text);
  if (!group->auto_reconnect) mb__consumer_end(group, mb__err_of(code), text);
}
