/* test_calls.c: calls into librdkafka that do not return: the bus's thread is back in time, what
 * the bus is asked has an answer, and it goes on with another client.
 * Must not need a broker: librdkafka's mock cluster. The engine's calls come here first (the
 * linker's --wrap). Run by ctest; takes a minute, as a first join of a group takes three seconds
 * there. */
#include <librdkafka/rdkafka.h>

#include <librdkafka/rdkafka_mock.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "bus.h"
#include "check.h"

#define EVENTS 20
#define SLACK  10.0 /* seconds, on a machine that is busy; a call blocks until it is released */

/* ---- calls that block ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static const char *armed; /* the call that blocks, once; NULL = none */
static int blocked, released;

static void arm(const char *name) {
  pthread_mutex_lock(&lock);
  armed = name;
  pthread_mutex_unlock(&lock);
}

static int blocked_now(void) {
  pthread_mutex_lock(&lock);
  int now = blocked;
  pthread_mutex_unlock(&lock);
  return now;
}

static void may_block(const char *name) {
  pthread_mutex_lock(&lock);
  if (armed && !strcmp(armed, name)) {
    armed = NULL;
    int mine = ++blocked;
    pthread_cond_broadcast(&changed);
    while (released < mine) pthread_cond_wait(&changed, &lock);
  }
  pthread_mutex_unlock(&lock);
}

static void release_all(void) {
  pthread_mutex_lock(&lock);
  armed = NULL;
  released = blocked;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
}

#define WRAP(type, name, parameters, arguments)                                                    \
  type __real_rd_kafka_##name parameters;                                                          \
  type __wrap_rd_kafka_##name parameters;                                                          \
  type __wrap_rd_kafka_##name parameters {                                                         \
    may_block(#name);                                                                              \
    return __real_rd_kafka_##name arguments;                                                       \
  }

static atomic_bool no_threads; /* librdkafka is refused any */

rd_kafka_t *__real_rd_kafka_new(rd_kafka_type_t type, rd_kafka_conf_t *conf, char *text,
                                size_t size);
rd_kafka_t *__wrap_rd_kafka_new(rd_kafka_type_t type, rd_kafka_conf_t *conf, char *text,
                                size_t size);
rd_kafka_t *__wrap_rd_kafka_new(rd_kafka_type_t type, rd_kafka_conf_t *conf, char *text,
                                size_t size) {
  may_block("new");
  if (!no_threads) return __real_rd_kafka_new(type, conf, text, size);
  if (type == RD_KAFKA_PRODUCER && rd_kafka_version() < 0x020d0000)
    rd_kafka_conf_destroy(conf); /* its caller must not */
  snprintf(text, size, "Failed to create thread: Resource temporarily unavailable (11)");
  return NULL;
}

rd_kafka_resp_err_t __real_rd_kafka_last_error(void);
rd_kafka_resp_err_t __wrap_rd_kafka_last_error(void);
rd_kafka_resp_err_t __wrap_rd_kafka_last_error(void) {
  return no_threads ? RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE : __real_rd_kafka_last_error();
}

WRAP(rd_kafka_resp_err_t, metadata,
     (rd_kafka_t * rk, int all, rd_kafka_topic_t *topic, const struct rd_kafka_metadata **found,
      int timeout_ms),
     (rk, all, topic, found, timeout_ms))
WRAP(rd_kafka_resp_err_t, query_watermark_offsets,
     (rd_kafka_t * rk, const char *topic, int32_t partition, int64_t *low, int64_t *high,
      int timeout_ms),
     (rk, topic, partition, low, high, timeout_ms))
WRAP(rd_kafka_resp_err_t, committed,
     (rd_kafka_t * rk, rd_kafka_topic_partition_list_t *list, int timeout_ms),
     (rk, list, timeout_ms))
WRAP(rd_kafka_resp_err_t, subscribe, (rd_kafka_t * rk, const rd_kafka_topic_partition_list_t *list),
     (rk, list))
WRAP(rd_kafka_resp_err_t, assign, (rd_kafka_t * rk, const rd_kafka_topic_partition_list_t *list),
     (rk, list))
WRAP(rd_kafka_resp_err_t, pause_partitions,
     (rd_kafka_t * rk, rd_kafka_topic_partition_list_t *list), (rk, list))
WRAP(rd_kafka_error_t *, init_transactions, (rd_kafka_t * rk, int timeout_ms), (rk, timeout_ms))
WRAP(rd_kafka_error_t *, begin_transaction, (rd_kafka_t * rk), (rk))
WRAP(rd_kafka_error_t *, send_offsets_to_transaction,
     (rd_kafka_t * rk, const rd_kafka_topic_partition_list_t *list,
      const rd_kafka_consumer_group_metadata_t *member, int timeout_ms),
     (rk, list, member, timeout_ms))
WRAP(rd_kafka_error_t *, commit_transaction, (rd_kafka_t * rk, int timeout_ms), (rk, timeout_ms))
WRAP(rd_kafka_error_t *, abort_transaction, (rd_kafka_t * rk, int timeout_ms), (rk, timeout_ms))

void __real_rd_kafka_destroy_flags(rd_kafka_t *rk, int flags);
void __wrap_rd_kafka_destroy_flags(rd_kafka_t *rk, int flags);
void __wrap_rd_kafka_destroy_flags(rd_kafka_t *rk, int flags) {
  may_block("destroy_flags");
  __real_rd_kafka_destroy_flags(rk, flags);
}

/* ---- buses ---- */

static rd_kafka_mock_cluster_t *cluster;
static int handled, failures, buses;

static mb_outcome handler(const mb_msg *msg, mb_fail *fail, void *opaque) {
  (void)msg, (void)fail, (void)opaque;
  handled++;
  return MB_HANDLED;
}

static void on_failure(mb_err why, const char *reason, mb_bytes type, mb_bytes id, void *opaque) {
  (void)why, (void)reason, (void)type, (void)id, (void)opaque;
  failures++;
}

/* A connected bus, of a group and a topic of its own. */
static mb_bus *open_bus(const char *call, const char *delivery) {
  char group[64];
  snprintf(group, sizeof group, "%s-%s-%d", call, delivery, ++buses);
  const char *const options[][2] = {
      {"bootstrap_servers", rd_kafka_mock_cluster_bootstraps(cluster)},
      {"topic_prefix", group},
      {"consumer_group", group},
      {"group_instance_id", group}, /* a member that takes the place of one that is stuck */
      {"delivery", delivery},
      {"session_timeout_ms", "6000"},
      {"heartbeat_interval_ms", "500"},
      {"fetch_wait_max_ms", "10"},
      {"transaction_timeout_ms", "2000"},
      {"reconnect_backoff_ms", "100"},
      {"shutdown_timeout", "3"},
      {"log_level", "error"}};
  mb_bus *bus = bus_of(options, sizeof options / sizeof *options);
  if (!ok(bus != NULL, "%s: a bus: %s", group, bus ? "" : err)) return NULL;
  mb_bus_on_publish_error(bus, on_failure, NULL);
  mb_bus_subscribe(bus, "Paid", handler, NULL, NULL, NULL);
  handled = failures = 0;
  return bus;
}

static mb_err publish(mb_bus *bus, bool background) {
  mb_event events[EVENTS];
  for (int i = 0; i < EVENTS; i++)
    events[i] = (mb_event){.event_type = mb_str("Paid"),
                           .aggregate_id = mb_str("11111111-2222-4333-8444-555555555555"),
                           .aggregate_type = mb_str("Bill"),
                           .data = mb_str("{}")};
  if (background) return mb_bus_publish_background(bus, events, EVENTS, NULL, err, sizeof err);
  return mb_bus_publish(bus, events, EVENTS, NULL, err, sizeof err);
}

/* Step until so many events were handled, in transactions that are committed. */
static bool run_until(mb_bus *bus, int count, bool transactions) {
  mb_stats stats;
  for (double end = now_s() + 90; now_s() < end;) {
    if (mb_bus_step(bus, 50, err, sizeof err)) return false;
    mb_bus_stats(bus, &stats);
    if (handled >= count && mb_bus_is_idle(bus) && (!transactions || stats.transactions_committed))
      return true;
  }
  return false;
}

static int blocked_before;
static double stopped_at;

static void *stop_when_blocked(void *opaque) {
  while (blocked_now() == blocked_before) usleep(1000);
  stopped_at = now_s();
  mb_bus_stop(opaque);
  return NULL;
}

static bool took_at_most(double begin, double limit, const char *what) {
  double took = now_s() - begin;
  return ok(took < limit + SLACK, "%s: back in time (%.1f s)", what, took);
}

/* ---- the tests ---- */

/* Connecting, when a call of it blocks. */
static void connecting(const char *call, const char *delivery) {
  mb_bus *bus = open_bus(call, delivery);
  if (!bus) return;
  mb_bus_disconnect(bus, NULL, 0);
  arm(call);
  double begin = now_s();
  mb_err first = mb_bus_connect(bus, 1000, err, sizeof err);
  took_at_most(begin, 2, call);
  ok(first != MB_OK && !mb_bus_is_connected(bus), "%s: connect fails: %s", call, err);
  ok(!mb_bus_connect(bus, 30000, err, sizeof err) && !publish(bus, false),
     "%s: connected again, it publishes", call);
  release_all();
  mb_bus_free(bus);
}

/* Consuming, when a call blocks once; a new client goes on while it still does. */
static void consuming(const char *call, const char *delivery) {
  mb_bus *bus = open_bus(call, delivery);
  if (!bus) return;
  int before = blocked_now();
  bool started = !publish(bus, false);
  arm(call);
  /* The first fails when it blocks itself. */
  started = started && (!mb_bus_start(bus, true, err, sizeof err) ||
                        !mb_bus_start(bus, true, err, sizeof err));
  ok(started && run_until(bus, EVENTS, *delivery == 'e'), "%s: events are handled while it blocks",
     call);
  ok(blocked_now() == before + 1, "%s: it did block", call);
  mb_bus_disconnect(bus, NULL, 0);
  /* The mock cluster keeps no offsets of transactions: tests/kafka/blocking_spec.lua has those. */
  if (*delivery == 'a') {
    int64_t offsets[4] = {-1, -1, -1, -1}, sum = 0;
    ok(!mb_bus_committed(bus, offsets, 4, err, sizeof err), "%s: offsets are read", call);
    for (int i = 0; i < 4; i++) sum += offsets[i] > 0 ? offsets[i] : 0;
    ok(sum == EVENTS, "%s: and they are committed", call);
  }
  release_all();
  mb_bus_free(bus);
}

/* A stop while a call blocks. */
static void stopping(const char *call) {
  mb_bus *bus = open_bus(call, "exactly_once");
  pthread_t thread;
  if (!bus) return;
  blocked_before = blocked_now();
  publish(bus, false);
  arm(call);
  pthread_create(&thread, NULL, stop_when_blocked, bus);
  mb_err ended = mb_bus_run(bus, err, sizeof err);
  pthread_join(thread, NULL);
  mb_bus_disconnect(bus, NULL, 0);
  mb_bus_free(bus);
  ok(!ended, "%s: a stop ends consumption", call);
  took_at_most(stopped_at, 4, "a stop, and the bus's end");
  release_all();
}

/* The broker is away and librdkafka does not close: each event has one outcome all the same. */
static void closing(void) {
  mb_bus *bus = open_bus("closing", "at_least_once");
  if (!bus) return;
  rd_kafka_mock_broker_set_down(cluster, 1);
  ok(!publish(bus, true), "closing: events are queued");
  arm("destroy_flags");
  double begin = now_s();
  mb_err left = mb_bus_disconnect(bus, err, sizeof err);
  took_at_most(begin, 4, "closing");
  ok(left == MB_EDELIVERY && failures == EVENTS, "closing: each failed once: %d", failures);
  rd_kafka_mock_broker_set_up(cluster, 1);
  ok(!mb_bus_connect(bus, 30000, err, sizeof err) && !publish(bus, false),
     "closing: connected again, it publishes");
  mb_bus_free(bus);
  release_all();
  ok(failures == EVENTS, "closing: and nothing is reported twice");
}

/* A question that is not answered. */
static void asking(void) {
  mb_bus *bus = open_bus("asking", "at_least_once");
  int64_t low, high;
  if (!bus) return;
  publish(bus, false);
  arm("query_watermark_offsets");
  double begin = now_s();
  mb_err first = mb_topic_offsets(bus, NULL, 0, &low, &high, err, sizeof err);
  took_at_most(begin, 6, "asking");
  ok(first == MB_ETIMEOUT, "asking: it has no answer: %s", err);
  ok(!publish(bus, false), "asking: the bus publishes meanwhile");
  release_all();
  for (int i = 0; i < 1000 && first; i++) {
    first = mb_topic_offsets(bus, NULL, 0, &low, &high, err, sizeof err);
    if (first) usleep(10000);
  }
  ok(!first, "asking: once it is back, it can be asked again");
  mb_bus_free(bus);
}

/* What is published outside handlers goes on with another producer. */
static void publishing(const char *call) {
  mb_bus *bus = open_bus(call, "exactly_once");
  if (!bus) return;
  arm(call);
  mb_err first = publish(bus, false);
  ok(first == MB_EFATAL, "%s: the publish fails: %s", call, err);
  ok(!publish(bus, false), "%s: the next is done by another producer", call);
  release_all();
  mb_bus_free(bus);
}

/* What the system refuses is not the configuration's fault. */
static void without_threads(void) {
  mb_bus *bus = open_bus("no_threads", "at_least_once");
  if (!bus) return;
  mb_bus_disconnect(bus, NULL, 0);
  no_threads = true;
  mb_err first = mb_bus_connect(bus, 5000, err, sizeof err);
  ok(first == MB_ENOMEM && strstr(err, "Failed to create thread") && strstr(err, "ulimit -u"),
     "librdkafka cannot create a thread: %s", err);
  no_threads = false;
  ok(!mb_bus_connect(bus, 30000, err, sizeof err), "it connects once there is one");
  mb_bus_free(bus);
}

int main(void) {
  char text[256];
  rd_kafka_conf_t *quiet = rd_kafka_conf_new();
  rd_kafka_conf_set(quiet, "log_level", "0", NULL, 0);
  rd_kafka_t *host = rd_kafka_new(RD_KAFKA_PRODUCER, quiet, text, sizeof text);
  cluster = rd_kafka_mock_cluster_new(host, 1);
  connecting("new", "at_least_once");
  connecting("metadata", "at_least_once");
  connecting("init_transactions", "exactly_once");
  consuming("committed", "at_least_once");
  consuming("subscribe", "at_least_once");
  consuming("assign", "at_least_once");
  consuming("assign", "exactly_once");
  consuming("send_offsets_to_transaction", "exactly_once");
  stopping("send_offsets_to_transaction");
  stopping("commit_transaction");
  closing();
  asking();
  publishing("begin_transaction");
  without_threads();
  rd_kafka_mock_cluster_destroy(cluster);
  rd_kafka_destroy(host);
  return done();
}
