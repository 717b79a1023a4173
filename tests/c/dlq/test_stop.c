/* test_stop.c: a stop ends a replay as a whole, also when it comes while the record that a dead
 * letter points to is about to be read.
 * Must not need a broker: librdkafka's mock cluster. Run by ctest. */
#include <librdkafka/rdkafka.h>

#include <librdkafka/rdkafka_mock.h>

#include "bus.h"
#include "check.h"

#define LETTERS 3

/* A record of partition 0; with pointer, as a dead letter that had no room but for its place. */
static bool put(rd_kafka_t *rk, const char *topic, const char *value, const char *pointer) {
  const char *const HEADERS[][2] = {{"dlq_value_omitted_bytes", "2"},
                                    {"dlq_original_topic", "stops.stream"},
                                    {"dlq_original_partition", "0"},
                                    {"dlq_original_offset", pointer}};
  rd_kafka_headers_t *headers = rd_kafka_headers_new(4);
  for (int i = 0; pointer && i < 4; i++)
    rd_kafka_header_add(headers, HEADERS[i][0], -1, HEADERS[i][1], -1);
  return !rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(0),
                            RD_KAFKA_V_VALUE((void *)(uintptr_t)value, value ? strlen(value) : 0),
                            RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_HEADERS(headers),
                            RD_KAFKA_V_END);
}

static int asked;

static int stop_at_first(const mb_msg *letter, void *opaque) {
  (void)letter;
  if (!asked++) mb_bus_stop(opaque);
  return 1;
}

int main(void) {
  char text[256];
  rd_kafka_conf_t *quiet = rd_kafka_conf_new();
  rd_kafka_conf_set(quiet, "log_level", "0", NULL, 0);
  rd_kafka_t *host = rd_kafka_new(RD_KAFKA_PRODUCER, quiet, text, sizeof text);
  rd_kafka_mock_cluster_t *cluster = rd_kafka_mock_cluster_new(host, 1);
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  const char *address = rd_kafka_mock_cluster_bootstraps(cluster);
  rd_kafka_conf_set(conf, "bootstrap.servers", address, NULL, 0);
  rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
  bool written = true;
  for (int i = 0; i < LETTERS; i++) {
    const char place[] = {(char)('0' + i), 0};
    written &= put(rk, "stops.stream", "{}", NULL) && put(rk, "stops.stream.dlq", NULL, place);
  }
  ok(written && !rd_kafka_flush(rk, 30000), "events, and dead letters that point to them");
  const char *const options_of_bus[][2] = {{"bootstrap_servers", address},
                                           {"topic_prefix", "stops"},
                                           {"consumer_group", "stops"},
                                           {"fetch_wait_max_ms", "10"},
                                           {"log_level", "error"}};
  mb_bus *bus = bus_of(options_of_bus, 5);
  if (!ok(bus, "a bus: %s", err)) return done();
  mb_replay_options options;
  mb_replay_result result;
  mb_replay_options_init(&options);
  options.filter.where = stop_at_first;
  options.filter.where_opaque = bus;
  mb_err first = mb_bus_replay_dlq(bus, &options, &result, err, sizeof err);
  ok(!first && result.stopped && !result.replayed,
     "a stop while they are read ends the replay: %d replayed", (int)result.replayed);
  ok(asked == 1, "at once: %d were read", asked);
  mb_err second = mb_bus_replay_dlq(bus, &options, &result, err, sizeof err);
  ok(!second && !result.stopped && result.replayed == LETTERS,
     "and the next goes on to its end: %d replayed", (int)result.replayed);
  mb_bus_free(bus);
  rd_kafka_destroy(rk);
  rd_kafka_mock_cluster_destroy(cluster);
  rd_kafka_destroy(host);
  return done();
}
