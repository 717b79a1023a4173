/* test_commit.c: a commit that the broker refuses is no failure of the events it covers: they are
 * not run again, and the next commit covers them. Nor does a reader begin again when it is refused.
 * Must not need a broker: librdkafka's mock cluster, which refuses on request. Run by ctest; takes
 * some seconds, as a first join of a group takes three there. */
#include <librdkafka/rdkafka.h>

#include <librdkafka/rdkafka_mock.h>
#include <time.h>

#include "check.h"
#include "moonbus.h"

#define OFFSET_COMMIT 8 /* the requests' numbers */
#define OFFSET_FETCH  9
#define EVENTS        20

static char err[512];
static int runs, refusals;
static rd_kafka_mock_cluster_t *cluster;

static double now_s(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void on_log(mb_level level, const char *line, void *opaque) {
  (void)level, (void)opaque;
  if (strstr(line, "not committed")) refusals++;
}

static mb_outcome handler(const mb_msg *msg, mb_fail *fail, void *opaque) {
  (void)msg, (void)fail, (void)opaque;
  runs++;
  return MB_HANDLED;
}

static mb_bus *bus_new(void) {
  static const char *const SET[][2] = {
      {"topic_prefix", "commits"},    {"consumer_group", "commits"},
      {"session_timeout_ms", "6000"}, {"heartbeat_interval_ms", "500"},
      {"fetch_wait_max_ms", "10"},    {"commit_interval_ms", "50"},
      {"max_retries", "3"},           {"log_level", "warn"}};
  mb_config *conf = mb_config_new();
  bool taken = !mb_config_set(conf, "bootstrap_servers", rd_kafka_mock_cluster_bootstraps(cluster),
                              MB_FROM_SCRIPT, err, sizeof err);
  for (size_t i = 0; i < sizeof SET / sizeof *SET; i++)
    taken &= !mb_config_set(conf, SET[i][0], SET[i][1], MB_FROM_SCRIPT, err, sizeof err);
  mb_bus *bus = taken ? mb_bus_new(conf, err, sizeof err) : NULL;
  mb_config_free(conf);
  if (!bus) return NULL;
  mb_bus_set_log(bus, on_log, NULL);
  if (mb_bus_subscribe(bus, "Paid", handler, NULL, NULL, NULL) ||
      mb_bus_connect(bus, 30000, err, sizeof err)) {
    mb_bus_free(bus);
    return NULL;
  }
  return bus;
}

/* Run the bus until so many handlers ran, and so many commits were refused, and it is idle. */
static bool until(mb_bus *bus, int least_runs, int least_refusals) {
  for (double end = now_s() + 60; now_s() < end;) {
    if (mb_bus_step(bus, 50, err, sizeof err)) return false;
    if (runs >= least_runs && refusals >= least_refusals && mb_bus_is_idle(bus)) return true;
  }
  return false;
}

/* Run it until its health is that; how long it took, -1 = for ever. */
static double until_health(mb_bus *bus, mb_health expected) {
  double begin = now_s();
  while (now_s() - begin < 60) {
    if (mb_bus_health(bus, NULL, NULL) == expected) return now_s() - begin;
    if (mb_bus_step(bus, 20, err, sizeof err)) return -1;
  }
  return -1;
}

static bool publish(mb_bus *bus) {
  mb_event events[EVENTS];
  for (int i = 0; i < EVENTS; i++)
    events[i] = (mb_event){.event_type = mb_str("Paid"),
                           .aggregate_id = mb_str("11111111-2222-4333-8444-555555555555"),
                           .aggregate_type = mb_str("Bill"),
                           .data = mb_str("{}")};
  return !mb_bus_publish(bus, events, EVENTS, NULL, err, sizeof err);
}

static bool count_read(const mb_msg *msg, void *opaque) {
  (void)msg;
  ++*(int *)opaque;
  return true;
}

/* A reader goes on where its group is; it does not begin again when that is not known.
 */
static void reading(mb_bus *bus) {
  mb_read_options options = {
      .partition = -1, .offset = -1, .timeout_ms = 30000, .group = "readers"};
  const char *topic = mb_config_get(mb_bus_config(bus), "topic_name");
  int first = 0, second = 0, third = 0;
  ok(!mb_bus_read(bus, topic, &options, count_read, &first, err, sizeof err) && first == EVENTS,
     "a reader of a group is given all there is: %s", err);
  rd_kafka_resp_err_t no = RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
  rd_kafka_mock_push_request_errors(cluster, OFFSET_FETCH, 1, no);
  ok(mb_bus_read(bus, topic, &options, count_read, &second, err, sizeof err) && !second &&
         strstr(err, "readers"),
     "it is an error when the broker does not say where it was");
  ok(!mb_bus_read(bus, topic, &options, count_read, &third, err, sizeof err) && !third,
     "and the next goes on behind it");
}

/* For a reason that is not the user's to give, and for a rebalance, which is no reason to worry. */
static void refused_otherwise(mb_bus *bus) {
  rd_kafka_resp_err_t size = RD_KAFKA_RESP_ERR_INVALID_COMMIT_OFFSET_SIZE,
                      early = RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS;
  refusals = 0;
  rd_kafka_mock_push_request_errors(cluster, OFFSET_COMMIT, 2, size, size);
  ok(publish(bus) && until(bus, 2 * EVENTS, 1), "another refusal is said, too");
  ok(mb_bus_health(bus, NULL, NULL) == MB_RED, "and health red");
  ok(until_health(bus, MB_GREEN) >= 0 && refusals == 1, "until a commit is accepted");
  refusals = 0;
  rd_kafka_mock_push_request_errors(cluster, OFFSET_COMMIT, 2, early, early);
  ok(publish(bus) && until(bus, 3 * EVENTS, 0), "a rebalance refuses commits");
  ok(mb_bus_health(bus, NULL, NULL) == MB_GREEN && !refusals, "which nobody need be told");
}

int main(void) {
  char text[256];
  mb_stats stats;
  rd_kafka_conf_t *quiet = rd_kafka_conf_new();
  rd_kafka_conf_set(quiet, "log_level", "0", NULL, 0);
  rd_kafka_t *host = rd_kafka_new(RD_KAFKA_PRODUCER, quiet, text, sizeof text);
  cluster = rd_kafka_mock_cluster_new(host, 1);
  mb_bus *bus = bus_new();
  ok(bus && publish(bus), "a bus publishes: %s", err);
  if (!bus) return done();
  reading(bus);
  rd_kafka_resp_err_t no = RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
  rd_kafka_mock_push_request_errors(cluster, OFFSET_COMMIT, 3, no, no, no);
  ok(!mb_bus_start(bus, true, err, sizeof err), "it consumes");
  ok(until(bus, EVENTS, 1), "a commit is refused, and said to be");
  ok(mb_bus_health(bus, NULL, NULL) == MB_RED, "health is red at once");
  double took = until_health(bus, MB_GREEN);
  /* after 50, 100 and 200 ms; the first may be half over */
  ok(took >= 0.3, "the tries come later and later: %.3f s", took);
  ok(refusals == 1, "three refusals for one reason are one line: %d", refusals);
  refused_otherwise(bus);
  mb_bus_stats(bus, &stats);
  ok(runs == 3 * EVENTS, "every event ran once: %d", runs);
  ok(stats.events_processed_success == (uint64_t)runs, "each is a success");
  ok(!stats.events_processed_failed && !stats.retries && !stats.messages_sent_to_dlq,
     "none is a failure, a retry or a dead letter");
  ok(publish(bus) && until(bus, 4 * EVENTS, 0), "later ones are handled");
  mb_bus_free(bus);
  runs = 0;
  bus = bus_new();
  ok(bus && !mb_bus_start(bus, true, err, sizeof err) && publish(bus) && until(bus, EVENTS, 0),
     "another bus of the group goes on");
  ok(runs == EVENTS, "behind what was committed in the end: %d", runs);
  mb_bus_free(bus);
  rd_kafka_mock_cluster_destroy(cluster);
  rd_kafka_destroy(host);
  return done();
}
