/* raw.c: a client written by hand in C on librdkafka, what scripts/bench measures moonbus against.
 * Must not know moonbus. Called by scripts/bench.d/bench.lua.
 *
 *   raw topic ADDRESS TOPIC                          make a topic
 *   raw untopic ADDRESS TOPIC                        delete it
 *   raw publish ADDRESS TOPIC COUNT BATCH            0 = all at once, else wait for each BATCH
 *   raw consume ADDRESS TOPIC COUNT header|nothing long|defaults
 *   raw send ADDRESS TOPIC RATE COUNT                RATE events a second, on a fixed schedule
 *   raw receive ADDRESS TOPIC COUNT                  how late each of them is handled
 *   raw version                                      librdkafka's */
#include "raw.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

void die(const char *where, const char *fmt, ...) {
  va_list args;
  fprintf(stderr, "raw: %s: ", where);
  va_start(args, fmt);
  vfprintf(stderr, fmt, args);
  va_end(args);
  fputc('\n', stderr);
  exit(1);
}

int64_t now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* ---- clocks ---- */

static double cpu_seconds(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* jemalloc's, where the program has it */
extern int mallctl(const char *name, void *old, size_t *old_len, void *new, size_t new_len)
    __attribute__((weak));

static int64_t allocations(void) {
  uint64_t epoch = 1, small, large;
  size_t len = sizeof epoch;
  if (!mallctl || mallctl("epoch", NULL, NULL, &epoch, len) ||
      mallctl("stats.arenas.4096.small.nrequests", &small, &len, NULL, 0) ||
      mallctl("stats.arenas.4096.large.nrequests", &large, &len, NULL, 0))
    return -1;
  return (int64_t)(small + large);
}

void clocks_start(clocks *clocks) {
  clocks->start_allocs = allocations();
  clocks->start_cpu = cpu_seconds();
  clocks->start_us = now_us();
}

void clocks_stop(clocks *clocks) {
  clocks->stop_us = now_us();
  clocks->stop_cpu = cpu_seconds();
  clocks->stop_allocs = allocations();
}

static long peak_kb(void) {
  char line[256];
  long kb = 0;
  FILE *file = fopen("/proc/self/status", "r");
  while (file && fgets(line, sizeof line, file))
    if (sscanf(line, "VmHWM: %ld kB", &kb) == 1) break;
  if (file) fclose(file);
  return kb;
}

void clocks_print(const clocks *clocks, int64_t events, double sum) {
  printf("{\"events\":%lld,\"seconds\":%.6f,\"cpu_seconds\":%.6f,\"peak_kb\":%ld,\"sum\":%.1f",
         (long long)events, (double)(clocks->stop_us - clocks->start_us) / 1e6,
         clocks->stop_cpu - clocks->start_cpu, peak_kb(), sum);
  if (clocks->start_allocs >= 0)
    printf(",\"allocations\":%lld", (long long)(clocks->stop_allocs - clocks->start_allocs));
  puts("}");
}

/* ---- events ---- */

static uint64_t mix(uint64_t x) { /* splitmix64 */
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

static void uuid_of(char out[37], uint64_t seed) {
  static const char digits[] = "0123456789abcdef";
  static const char shape[] = "xxxxxxxx-xxxx-4xxx-8xxx-xxxxxxxxxxxx";
  uint64_t bits = mix(seed);
  for (int i = 0; i < 37; i++) {
    if (i == 18) bits = mix(~seed);
    out[i] = shape[i] == 'x' ? digits[bits & 15] : shape[i];
    if (shape[i] == 'x') bits >>= 4;
  }
}

#define KEYS 10000

/* Keys whose partitions, by Kafka's murmur2, follow each other: every partition gets its share. */
static const char *key_of(int64_t number) {
  static char(*keys)[37];
  if (!keys && !(keys = malloc(sizeof *keys * KEYS))) DIE("out of memory");
  int64_t i = number % KEYS;
  if (keys[i][0]) return keys[i];
  for (uint64_t seed = (uint64_t)i << 20;; seed++) {
    uuid_of(keys[i], seed);
    if (rd_kafka_msg_partitioner_murmur2(NULL, keys[i], 36, PARTITIONS, NULL, NULL) ==
        (int32_t)(i % PARTITIONS))
      return keys[i];
  }
}

static char *put_number(char *at, int64_t number) {
  char digits[24];
  int n = 0;
  do digits[n++] = (char)('0' + number % 10);
  while (number /= 10);
  while (n) *at++ = digits[--n];
  return at;
}

static char *put(char *at, const char *text, size_t len) {
  memcpy(at, text, len);
  return at + len;
}
#define PUT(at, text) put(at, text, sizeof text - 1)

double event_amount(int64_t number) {
  return (double)(number % 1000) + 0.5;
}

void event_make(event *event, int64_t number, int64_t sent_us) {
  char *at = event->value;
  memcpy(event->key, key_of(number), 37);
  uuid_of(event->id, (uint64_t)number | 1ULL << 48);
  uuid_of(event->correlation, (uint64_t)number | 1ULL << 49);
  at = put(PUT(at, "{\"event_id\":\""), event->id, 36);
  at = PUT(at, "\",\"event_type\":\"" TYPE "\",\"event_version\":1,"
               "\"occurred_at\":\"2026-01-02T03:04:05.678901Z\",\"aggregate_id\":\"");
  at = put(at, event->key, 36);
  at = PUT(at, "\",\"aggregate_type\":\"Order\",\"aggregate_version\":1,\"tenant_id\":null,"
               "\"actor_id\":null,\"correlation_id\":\"");
  at = put(at, event->correlation, 36);
  at = PUT(at, "\",\"causation_id\":null,\"metadata\":{},\"customer_id\":\"CUST-");
  at = put_number(at, 100000 + number % 900000);
  at = put_number(PUT(at, "\",\"total_amount\":"), number % 1000);
  at = put_number(PUT(at, ".5,\"currency\":\"EUR\",\"sent_us\":"), sent_us);
  at = PUT(at, "}");
  event->value_len = (int)(at - event->value);
}

rd_kafka_headers_t *event_headers(const event *event) {
  rd_kafka_headers_t *headers = rd_kafka_headers_new(7);
  rd_kafka_header_add(headers, "event_id", -1, event->id, 36);
  rd_kafka_header_add(headers, "event_type", -1, TYPE, sizeof TYPE - 1);
  rd_kafka_header_add(headers, "aggregate_id", -1, event->key, 36);
  rd_kafka_header_add(headers, "aggregate_type", -1, "Order", 5);
  rd_kafka_header_add(headers, "aggregate_version", -1, "1", 1);
  rd_kafka_header_add(headers, "occurred_at", -1, "2026-01-02T03:04:05.678901+00:00", 32);
  rd_kafka_header_add(headers, "correlation_id", -1, event->correlation, 36);
  return headers;
}

/* ---- topics ---- */

rd_kafka_conf_t *configure(const char *address, const char *const *pairs) {
  char why[512];
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  if (rd_kafka_conf_set(conf, "bootstrap.servers", address, why, sizeof why)) DIE("%s", why);
  for (; *pairs; pairs += 2)
    if (rd_kafka_conf_set(conf, pairs[0], pairs[1], why, sizeof why)) DIE("%s", why);
  return conf;
}

static int change_topic(const char *address, const char *topic, bool make) {
  static const char *const none[] = {NULL};
  char why[512];
  rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, configure(address, none), why, sizeof why);
  if (!rk) DIE("%s", why);
  rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
  const rd_kafka_topic_result_t **results = NULL;
  size_t count = 0;
  if (make) {
    rd_kafka_NewTopic_t *new_topic = rd_kafka_NewTopic_new(topic, PARTITIONS, 1, why, sizeof why);
    if (!new_topic) DIE("%s", why);
    rd_kafka_CreateTopics(rk, &new_topic, 1, NULL, queue);
    rd_kafka_NewTopic_destroy(new_topic);
  } else {
    rd_kafka_DeleteTopic_t *unwanted = rd_kafka_DeleteTopic_new(topic);
    rd_kafka_DeleteTopics(rk, &unwanted, 1, NULL, queue);
    rd_kafka_DeleteTopic_destroy(unwanted);
  }
  rd_kafka_event_t *done = rd_kafka_queue_poll(queue, 60000);
  if (!done) DIE("no answer from %s", address);
  if (rd_kafka_event_error(done)) DIE("%s", rd_kafka_event_error_string(done));
  if (make)
    results = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(done), &count);
  else
    results = rd_kafka_DeleteTopics_result_topics(rd_kafka_event_DeleteTopics_result(done), &count);
  for (size_t i = 0; i < count; i++)
    if (rd_kafka_topic_result_error(results[i]))
      DIE("%s: %s", topic, rd_kafka_err2str(rd_kafka_topic_result_error(results[i])));
  rd_kafka_event_destroy(done);
  rd_kafka_queue_destroy(queue);
  rd_kafka_destroy(rk);
  return 0;
}

int main(int argc, char **argv) {
  const char *verb = argc > 1 ? argv[1] : "";
  if (argc == 2 && !strcmp(verb, "version")) return puts(rd_kafka_version_str()) < 0;
  if (argc == 4 && !strcmp(verb, "topic")) return change_topic(argv[2], argv[3], true);
  if (argc == 4 && !strcmp(verb, "untopic")) return change_topic(argv[2], argv[3], false);
  if (argc == 6 && !strcmp(verb, "publish"))
    return publish(argv[2], argv[3], atoll(argv[4]), atoll(argv[5]));
  if (argc == 7 && !strcmp(verb, "consume"))
    return consume(argv[2], argv[3], atoll(argv[4]), argv[5], argv[6]);
  if (argc == 6 && !strcmp(verb, "send"))
    return send_at_rate(argv[2], argv[3], atoll(argv[4]), atoll(argv[5]));
  if (argc == 5 && !strcmp(verb, "receive")) return receive(argv[2], argv[3], atoll(argv[4]));
  fputs("raw: see the head of raw.c\n", stderr);
  return 2;
}
