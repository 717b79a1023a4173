/* kafka/answers.c: which partitions a broker answers for, read from librdkafka's statistics.
 * Must not know the bus, keep anything, or decide what follows.
 * Called by group/consumer.c and kafka/producer.c, from the callback that is given the statistics.
 */
#include "kafka/answers.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"

#define QUIET_US 2000000 /* a broker that answers does so within this time */

typedef struct broker {
  int64_t id;
  bool connected;
  int64_t quiet_us;
} broker;

typedef struct brokers {
  broker *all;
  size_t count, cap;
  int64_t least_us; /* from which on one is quiet */
} brokers;

/* What the statistics say of a broker, or of a partition: members that are not there are 0. */
typedef struct members {
  int64_t nodeid, rxidle, waitresp_cnt, partition, broker, leader, msgq_cnt, xmit_msgq_cnt;
  mb_bytes state, source;
} members;

static bool is(mb_bytes text, const char *word) {
  return text.len == strlen(word) && memcmp(text.data, word, text.len) == 0;
}

static int64_t *number_of(members *of, mb_bytes key) {
  static const struct {
    const char *name;
    size_t at;
  } NUMBERS[] = {
      {"nodeid", offsetof(members, nodeid)},
      {"rxidle", offsetof(members, rxidle)},
      {"broker", offsetof(members, broker)},
      {"waitresp_cnt", offsetof(members, waitresp_cnt)},
      {"leader", offsetof(members, leader)},
      {"partition", offsetof(members, partition)},
      {"msgq_cnt", offsetof(members, msgq_cnt)},
      {"xmit_msgq_cnt", offsetof(members, xmit_msgq_cnt)},
  };
  for (size_t i = 0; i < sizeof NUMBERS / sizeof *NUMBERS; i++)
    if (is(key, NUMBERS[i].name)) return (int64_t *)((char *)of + NUMBERS[i].at);
  return NULL;
}

static bool read_members(mb_json *json, members *of) {
  bool first = true;
  mb_bytes key;
  int more;
  *of = (members){.nodeid = -1, .partition = -1, .broker = -1, .leader = -1};
  if (!mb__json_enter_object(json)) return false;
  while ((more = mb__json_next_key(json, &first, &key)) > 0) {
    int64_t *number = number_of(of, key);
    mb_bytes *text = is(key, "state") ? &of->state : is(key, "source") ? &of->source : NULL;
    mb_value value;
    if (!mb__json_value(json, &value)) return false;
    if (number && value.kind == MB_INT) *number = value.as.i;
    if (text && value.kind == MB_STRING) *text = value.as.s;
  }
  return more == 0;
}

/* Call fn with the cursor at each member of an object. */
static bool each_member(mb_json *json, bool (*fn)(mb_json *json, mb_bytes key, void *opaque),
                        void *opaque) {
  bool first = true;
  mb_bytes key;
  int more;
  if (!mb__json_enter_object(json)) return false;
  while ((more = mb__json_next_key(json, &first, &key)) > 0)
    if (!fn(json, key, opaque)) return false;
  return more == 0;
}

static bool add_broker(mb_json *json, mb_bytes key, void *opaque) {
  brokers *to = opaque;
  members of;
  (void)key;
  if (!read_members(json, &of)) return false;
  /* A connection to a coordinator has an entry of its own; what it waits for may take long. */
  if (of.nodeid < 0 || is(of.source, "logical")) return true;
  if (to->count == to->cap) {
    size_t cap = to->cap ? to->cap * 2 : 16;
    broker *all = realloc(to->all, cap * sizeof *all);
    if (!all) return false;
    to->all = all;
    to->cap = cap;
  }
  bool waits = of.waitresp_cnt > 0 && of.rxidle >= to->least_us;
  to->all[to->count++] =
      (broker){.id = of.nodeid,
               .connected = is(of.state, "UP") || is(of.state, "UPDATE") || is(of.state, "REAUTH"),
               .quiet_us = waits ? of.rxidle : 0};
  return true;
}

typedef struct reading {
  const char *topic;
  brokers brokers;
  void (*fn)(const mb_answer *answer, void *opaque);
  void *opaque;
} reading;

static bool pass_partition(mb_json *json, mb_bytes key, void *opaque) {
  const reading *to = opaque;
  members of;
  (void)key;
  if (!read_members(json, &of)) return false;
  if (of.partition < 0 || of.partition > INT32_MAX) return true; /* of no partition yet */
  mb_answer answer = {.partition = (int32_t)of.partition,
                      .broker = -1,
                      .waiting = (uint64_t)(of.msgq_cnt + of.xmit_msgq_cnt)};
  int64_t id = of.leader < 0 || of.broker < 0 ? of.leader : of.broker;
  for (size_t i = 0; i < to->brokers.count; i++) {
    const broker *from = &to->brokers.all[i];
    if (from->id != id) continue;
    answer.broker = (int32_t)id;
    answer.connected = from->connected;
    answer.quiet_us = from->quiet_us;
  }
  to->fn(&answer, to->opaque);
  return true;
}

static bool read_topic(mb_json *json, mb_bytes key, void *opaque) {
  if (is(key, "partitions")) return each_member(json, pass_partition, opaque);
  return mb__json_skip(json);
}

static bool read_topics(mb_json *json, mb_bytes key, void *opaque) {
  const reading *to = opaque;
  if (is(key, to->topic)) return each_member(json, read_topic, opaque);
  return mb__json_skip(json);
}

static bool read_all(mb_json *json, mb_bytes key, void *opaque) {
  reading *to = opaque;
  if (is(key, "brokers")) return each_member(json, add_broker, &to->brokers);
  if (is(key, "topics")) return each_member(json, read_topics, to);
  return mb__json_skip(json);
}

bool mb__answers_read(mb_bytes stats, const char *topic, int64_t held_us,
                      void (*fn)(const mb_answer *answer, void *opaque), void *opaque) {
  reading to = {.topic = topic, .brokers.least_us = held_us + QUIET_US, .fn = fn, .opaque = opaque};
  mb_json json;
  mb__json_init(&json, stats);
  bool whole = each_member(&json, read_all, &to);
  mb__json_done(&json);
  free(to.brokers.all);
  return whole;
}

int64_t mb__answers_since(int64_t since_us, const mb_answer *answer, bool may_close,
                          int64_t now_us) {
  bool answers = answer->broker >= 0 && !answer->quiet_us && (answer->connected || may_close);
  if (answers) return 0;
  return since_us ? since_us : now_us - answer->quiet_us;
}
