/* test_ability.c: what is said of a librdkafka that is too old, whichever this one is: the linker
 * puts the version here in place of librdkafka's (--wrap).
 * Must not need a broker: librdkafka's mock cluster. Run by ctest; takes some seconds, as a first
 * join of a group takes three there. */
#include <librdkafka/rdkafka.h>

#include <librdkafka/rdkafka_mock.h>

#include "bus.h"
#include "bus/internal.h"
#include "check.h"
#include "kafka/ability.h"

#define FETCH 1 /* the request's number */

static int version;
static const char *version_text;
static rd_kafka_mock_cluster_t *cluster;
static char logged[1024];

int __wrap_rd_kafka_version(void);
const char *__wrap_rd_kafka_version_str(void);

int __wrap_rd_kafka_version(void) {
  return version;
}

const char *__wrap_rd_kafka_version_str(void) {
  return version_text;
}

static void pretend(int number, const char *text) {
  version = number;
  version_text = text;
}

static bool says(const char *text, const char *const *parts) {
  for (; *parts; parts++)
    if (!strstr(text, *parts)) return false;
  return true;
}

#define SAYS(text, ...) says(text, (const char *const[]){__VA_ARGS__, NULL})

static void table(void) {
  mb_requirement row;
  size_t count = 0, unmet = 0;
  pretend(0x000b00ff, "0.11.0");
  for (; mb_requirement_at(count, &row); count++)
    unmet += !row.met && SAYS(row.why, row.what, row.since, "0.11.0", "install one");
  ok(count == MB_ABLE_COUNT && unmet == count, "an old version can do none of %zu", count);
  ok(mb_requirement_at(MB_ABLE_SCRAM, &row) && SAYS(row.why, "scripts/setup --librdkafka"),
     "SCRAM: setup builds one that can");
  ok(mb_requirement_at(MB_ABLE_CONSUMER_PROTOCOL, &row) && SAYS(row.why, "PKG_CONFIG_PATH") &&
         !strstr(row.why, "scripts/setup"),
     "group_protocol: what setup builds is too old, and is not recommended");
  pretend(0x7fffffff, "127.0.0");
  ok(mb_requirement_at(MB_ABLE_CONSUMER_PROTOCOL, &row) && row.met && !row.why[0],
     "group_protocol: a version of the future can");
}

static bool set(mb_config *conf, const char *key, const char *value) {
  return !mb_config_set(conf, key, value, MB_FROM_SCRIPT, err, sizeof err);
}

/* At the start, or only once the broker has answered? */
static void checks(void) {
  pretend(0x020002ff, "2.0.2");
  ok(mb__able_check(MB_ABLE_COOPERATIVE, err, sizeof err) == MB_ECONFIG &&
         SAYS(err, "cooperative-sticky", "2.0.2", "2.4.0", "scripts/setup --librdkafka"),
     "cooperative-sticky is refused at the start");
  ok(!mb__able(MB_ABLE_SCRAM) && !mb__able_check(MB_ABLE_SCRAM, err, sizeof err),
     "SCRAM is tried: an older broker takes it");
  pretend(0x020400ff, "2.4.0");
  ok(!mb__able_check(MB_ABLE_COOPERATIVE, err, sizeof err), "cooperative-sticky is taken by 2.4.0");
}

/* mb_config_check of a configuration with one option set, under that version. */
static mb_err check_with(int number, const char *version_name, const char *key, const char *value) {
  mb_config *conf = mb_config_new();
  pretend(number, version_name);
  mb_err result = set(conf, key, value) ? mb_config_check(conf, err, sizeof err) : MB_EINVAL;
  mb_config_free(conf);
  return result;
}

static void configurations(void) {
  static const char STRATEGY[] = "partition_assignment_strategy", STICKY[] = "cooperative-sticky";
  ok(check_with(0x020002ff, "2.0.2", STRATEGY, STICKY) == MB_ECONFIG && SAYS(err, STICKY, "2.4.0"),
     "a configuration that an old version cannot do is refused: %s", err);
  ok(!check_with(0x020400ff, "2.4.0", STRATEGY, STICKY), "and taken by a newer one");
  ok(!check_with(0x020002ff, "2.0.2", STRATEGY, "range,roundrobin"), "what needs nothing is taken");
  ok(check_with(0x020800ff, "2.8.0", "group_protocol", "consumer") == MB_ECONFIG &&
         SAYS(err, "group_protocol", "2.12.0"),
     "so is a group protocol that the version does not have: %s", err);
}

static void refusals(void) {
  char text[MB_REFUSAL_MAX];
  mb_config *conf = mb_config_new();
  mb_login login = {.conf = conf};
  const mb_request request = {0};
  const rd_kafka_resp_err_t refused = RD_KAFKA_RESP_ERR__AUTHENTICATION;
  bool taken = set(conf, "security_protocol", "SASL_SSL") && set(conf, "sasl_mechanism", "PLAIN");
  pretend(0x020002ff, "2.0.2");
  mb__refusal_text(&login, refused, "no", &request, text, sizeof text);
  ok(taken && !strstr(text, "librdkafka"), "a refused PLAIN login is the password's fault");
  taken = set(conf, "sasl_mechanism", "SCRAM-SHA-512");
  mb__refusal_text(&login, refused, "no", &request, text, sizeof text);
  ok(taken && SAYS(text, "no; ", "SCRAM", "2.0.2", "2.6.1", "scripts/setup --librdkafka"),
     "a refused SCRAM login may be the version's");
  mb__refusal_text(&login, RD_KAFKA_RESP_ERR__TRANSPORT, "gone", &request, text, sizeof text);
  ok(!strcmp(text, "gone"), "a lost connection is not");
  pretend(0x020601ff, "2.6.1");
  mb__refusal_text(&login, refused, "no", &request, text, sizeof text);
  ok(!strstr(text, "librdkafka"), "nor is a login that 2.6.1 makes");
  mb_config_free(conf);
}

static void on_log(mb_level level, const char *line, void *opaque) {
  (void)level, (void)opaque;
  if (strstr(line, "2.6.1")) snprintf(logged, sizeof logged, "%s", line);
}

static void on_health(mb_health health, const char *code, const char *text, int32_t partition,
                      void *opaque) {
  (void)health, (void)partition;
  if (!strcmp(code, "refused")) snprintf(opaque, 1024, "%s", text);
}

static mb_outcome handler(const mb_msg *msg, mb_fail *fail, void *opaque) {
  (void)msg, (void)fail, (void)opaque;
  return MB_HANDLED;
}

/* The broker refuses the login of a consumer that is running; as in a connection made again. */
static void running(bool auto_reconnect) {
  char health[1024] = "";
  const char *options[][2] = {{"bootstrap_servers", rd_kafka_mock_cluster_bootstraps(cluster)},
                              {"topic_prefix", "logins"},
                              {"consumer_group", "logins"},
                              {"session_timeout_ms", "6000"},
                              {"heartbeat_interval_ms", "500"},
                              {"fetch_wait_max_ms", "10"},
                              {"log_level", "warn"}};
  pretend(0x020002ff, "2.0.2");
  mb_bus *bus = bus_of(options, sizeof options / sizeof *options);
  bool good = bus && !mb_bus_subscribe(bus, "Paid", handler, NULL, NULL, NULL) &&
              !mb_bus_start(bus, auto_reconnect, err, sizeof err);
  if (!ok(good, "a bus consumes: %s", bus ? "" : err)) return;
  mb_bus_set_log(bus, on_log, NULL);
  logged[0] = 0;
  mb_err ended = MB_OK;
  double end = now_s() + 60;
  while (!ended && !mb_bus_is_idle(bus) && now_s() < end)
    ended = mb_bus_step(bus, 50, err, sizeof err);
  /* The mock cluster knows no SASL; only what is said of the refusal looks at these. */
  mb_config *conf = mb_bus_config(bus);
  good = set(conf, "security_protocol", "SASL_PLAINTEXT") &&
         set(conf, "sasl_mechanism", "SCRAM-SHA-256");
  rd_kafka_resp_err_t no = RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED;
  rd_kafka_mock_push_request_errors(cluster, FETCH, 1, no);
  while (!ended && !*logged && now_s() < end) ended = mb_bus_step(bus, 50, err, sizeof err);
  mb_bus_health(bus, on_health, health);
  ok(good && SAYS(logged, "2.0.2", "scripts/setup --librdkafka"), "the log says which version");
  if (auto_reconnect)
    ok(!ended && SAYS(health, "2.0.2", "2.6.1", "scripts/setup --librdkafka"), "so does health: %s",
       health);
  else
    ok(ended == MB_EAUTH && SAYS(err, "2.0.2", "2.6.1", "scripts/setup --librdkafka"),
       "so does the error that ends consumption: %s", err);
  mb_bus_free(bus);
}

int main(void) {
  table();
  checks();
  configurations();
  refusals();
  rd_kafka_conf_t *quiet = rd_kafka_conf_new();
  rd_kafka_conf_set(quiet, "log_level", "0", NULL, 0);
  rd_kafka_t *host = rd_kafka_new(RD_KAFKA_PRODUCER, quiet, err, sizeof err);
  cluster = rd_kafka_mock_cluster_new(host, 1);
  rd_kafka_mock_topic_create(cluster, "logins.stream", 1, 1);
  running(true);
  running(false);
  rd_kafka_mock_cluster_destroy(cluster);
  rd_kafka_destroy(host);
  return done();
}
