/* raw_consume.c: the hand-written consumer: as fast as librdkafka lets it be while it is as safe as
 * moonbus: no batch calls (they lose records at rebalances before 2.1.0), a rebalance callback,
 * offsets stored by hand once their records are done with, committed every second, and again when
 * partitions are taken away. Called by raw.c. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "raw.h"

#define BURST 1000

typedef struct reader {
  rd_kafka_t *rk;
  const char *topic;
  int64_t next[PARTITIONS]; /* to be stored; -1 = nothing new */
} reader;

/* A list of what was handled since the last store, handed to librdkafka's committer. */
static void store(reader *reader) {
  rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(PARTITIONS);
  for (int i = 0; i < PARTITIONS; i++) {
    if (reader->next[i] < 0) continue;
    rd_kafka_topic_partition_list_add(list, reader->topic, i)->offset = reader->next[i];
    reader->next[i] = -1;
  }
  if (list->cnt) rd_kafka_offsets_store(reader->rk, list);
  rd_kafka_topic_partition_list_destroy(list);
}

static void on_rebalance(rd_kafka_t *rk, rd_kafka_resp_err_t err,
                         rd_kafka_topic_partition_list_t *list, void *opaque) {
  reader *reader = opaque;
  if (err == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
    rd_kafka_assign(rk, list);
    return;
  }
  store(reader);
  if (!rd_kafka_assignment_lost(rk)) rd_kafka_commit(rk, NULL, 0);
  rd_kafka_assign(rk, NULL);
}

static void open_reader(reader *reader, const char *address, const char *topic,
                        const char *const *settings) {
  char group[64], why[512];
  snprintf(group, sizeof group, "bench-%d-%" PRId64, (int)getpid(), now_us());
  *reader = (struct reader){.topic = topic};
  for (int i = 0; i < PARTITIONS; i++) reader->next[i] = -1;
  rd_kafka_conf_t *conf = configure(address, settings);
  if (rd_kafka_conf_set(conf, "group.id", group, why, sizeof why)) DIE("%s", why);
  rd_kafka_conf_set_opaque(conf, reader);
  rd_kafka_conf_set_rebalance_cb(conf, on_rebalance);
  reader->rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof why);
  if (!reader->rk) DIE("%s", why);
  rd_kafka_poll_set_consumer(reader->rk);
  rd_kafka_topic_partition_list_t *topics = rd_kafka_topic_partition_list_new(1);
  rd_kafka_topic_partition_list_add(topics, topic, RD_KAFKA_PARTITION_UA);
  if (rd_kafka_subscribe(reader->rk, topics)) DIE("cannot subscribe to %s", topic);
  rd_kafka_topic_partition_list_destroy(topics);
}

static void close_reader(reader *reader) {
  store(reader);
  rd_kafka_consumer_close(reader->rk);
  rd_kafka_destroy(reader->rk);
}

#define SAFE                                                                                       \
  "enable.auto.offset.store", "false", "auto.commit.interval.ms", "1000", "auto.offset.reset",     \
      "earliest"

/* So long a queue does not make librdkafka before 2.2 wait; its own limits are measured besides.
 * (moonbus makes do with a shorter one: src/kafka/prefetch.c.) */
static const char *const LONG_QUEUE[] = {
    SAFE, "queued.min.messages", "400000", "queued.max.messages.kbytes", "131072", NULL};
static const char *const DEFAULTS[] = {SAFE, NULL};

/* The next record, or NULL; waits only when nothing is there. */
static rd_kafka_message_t *next(reader *reader) {
  rd_kafka_message_t *record = rd_kafka_consumer_poll(reader->rk, 0);
  if (record) return record;
  store(reader);
  record = rd_kafka_consumer_poll(reader->rk, 100);
  /* A topic made a moment ago is not known everywhere yet. */
  if (!record || record->err != RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) return record;
  rd_kafka_message_destroy(record);
  return NULL;
}

static bool is_matching(const rd_kafka_message_t *record) {
  rd_kafka_headers_t *headers;
  const void *type;
  size_t len;
  return !rd_kafka_message_headers(record, &headers) &&
         !rd_kafka_header_get(headers, 0, "event_type", &type, &len) && len == sizeof TYPE - 1 &&
         memcmp(type, TYPE, len) == 0;
}

int consume(const char *address, const char *topic, int64_t count, const char *how,
            const char *fetch) {
  reader reader;
  clocks clocks = {0};
  int64_t seen = 0, matching = 0, unstored = 0;
  bool header = strcmp(how, "header") == 0;
  open_reader(&reader, address, topic, strcmp(fetch, "defaults") ? LONG_QUEUE : DEFAULTS);
  while (seen < count) {
    rd_kafka_message_t *record = next(&reader);
    if (!record) continue;
    if (record->err) DIE("%s", rd_kafka_message_errstr(record));
    if (!seen) clocks_start(&clocks);
    matching += !header || is_matching(record);
    reader.next[record->partition] = record->offset + 1;
    rd_kafka_message_destroy(record);
    seen++;
    if (++unstored == BURST) {
      store(&reader);
      unstored = 0;
    }
  }
  clocks_stop(&clocks);
  if (matching != seen) DIE("%" PRId64 " of %" PRId64 " are no " TYPE, seen - matching, seen);
  close_reader(&reader);
  clocks_print(&clocks, seen, 0);
  return 0;
}

/* ---- latency ---- */

static int compare(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

/* The number behind "sent_us": in an event's value. */
static int64_t sent_us(const rd_kafka_message_t *record) {
  static const char name[] = "\"sent_us\":";
  const char *at = memmem(record->payload, record->len, name, sizeof name - 1);
  if (!at) DIE("an event without sent_us");
  return atoll(at + sizeof name - 1);
}

/* The first tenth is warming up and does not count. */
int receive(const char *address, const char *topic, int64_t count) {
  reader reader;
  int64_t *late = malloc(sizeof *late * (size_t)count);
  int64_t seen = 0, warm = count / 10;
  if (!late) DIE("out of memory");
  open_reader(&reader, address, topic, LONG_QUEUE);
  rd_kafka_topic_partition_list_t *assigned = NULL;
  bool ready = false;
  while (seen < count) {
    rd_kafka_message_t *record = next(&reader);
    if (!ready && !rd_kafka_assignment(reader.rk, &assigned)) {
      ready = assigned->cnt > 0;
      rd_kafka_topic_partition_list_destroy(assigned);
      if (ready && (puts("ready") < 0 || fflush(stdout))) DIE("cannot write");
    }
    if (!record) continue;
    if (record->err) DIE("%s", rd_kafka_message_errstr(record));
    if (!is_matching(record)) DIE("an event that is no " TYPE);
    late[seen++] = now_us() - sent_us(record);
    reader.next[record->partition] = record->offset + 1;
    rd_kafka_message_destroy(record);
  }
  close_reader(&reader);
  int64_t kept = count - warm, *from = late + warm;
  qsort(from, (size_t)kept, sizeof *from, compare);
  printf("{\"events\":%" PRId64 ",\"p50_us\":%" PRId64 ",\"p95_us\":%" PRId64 ",\"p99_us\":%" PRId64
         ",\"max_us\":%" PRId64 "}\n",
         seen, from[kept * 50 / 100], from[kept * 95 / 100], from[kept * 99 / 100], from[kept - 1]);
  free(late);
  return 0;
}
