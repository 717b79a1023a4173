/* test_conf.c: what the librdkafka configurations hold, and which properties may be passed.
 * Must not need a broker.
 * Run by ctest. */
#include <stdlib.h>

#include "check.h"
#include "config/config.h"
#include "kafka/ability.h"
#include "kafka/conf.h"

static char err[512];

typedef rd_kafka_conf_t *(*builder)(const mb_config *, char *, size_t);

static mb_config *with(const char *key, const char *value) {
  mb_config *conf = mb_config_new();
  if (key && mb_config_set(conf, key, value, MB_FROM_SCRIPT, err, sizeof err)) {
    printf("# cannot set: %s\n", err);
  }
  return conf;
}

/* want NULL or "" = not set */
static bool holds(rd_kafka_conf_t *kafka, const char *name, const char *want) {
  char got[512] = "";
  size_t size = sizeof got;
  rd_kafka_conf_res_t found = rd_kafka_conf_get(kafka, name, got, &size);
  bool right = want && *want ? found == RD_KAFKA_CONF_OK && strcmp(got, want) == 0 : !got[0];
  if (!right) printf("# %s is \"%s\", want \"%s\"\n", name, got, want ? want : "");
  return right;
}

static bool builds(builder build, const mb_config *conf, const char *name, const char *want) {
  rd_kafka_conf_t *kafka = build(conf, err, sizeof err);
  if (!kafka) {
    printf("# %s\n", err);
    return false;
  }
  bool right = holds(kafka, name, want);
  rd_kafka_conf_destroy(kafka);
  return right;
}

static void test_all_of(builder build, const char *who, const char *const want[][2], size_t count) {
  mb_config *conf = with(NULL, NULL);
  (void)!mb_config_set(conf, "consumer_name", "me", MB_FROM_SCRIPT, err, sizeof err);
  rd_kafka_conf_t *kafka = build(conf, err, sizeof err);
  for (size_t i = 0; i < count; i++) {
    char name[120];
    snprintf(name, sizeof name, "%s has %s=%s", who, want[i][0], want[i][1]);
    ok(kafka && holds(kafka, want[i][0], want[i][1]), "%s", name);
  }
  rd_kafka_conf_destroy(kafka);
  mb_config_free(conf);
}

static void test_contents(void) {
  static const char *const PRODUCER[][2] = {
      {"bootstrap.servers", "localhost:9092"},
      {"client.id", "me"},
      {"acks", "-1"},
      {"enable.idempotence", "true"},
      {"compression.type", "gzip"},
      {"batch.size", "16384"},
      {"linger.ms", "5"},
      {"message.timeout.ms", "30000"},
      {"queue.buffering.max.messages", "100000"},
      {"queue.buffering.max.kbytes", "1048576"},
      {"message.max.bytes", "1000000"},
      {"socket.timeout.ms", "10000"},
      {"reconnect.backoff.ms", "100"},
      {"reconnect.backoff.max.ms", "1000"},
      {"partitioner", "murmur2_random"},
      {"log.queue", "true"},
      {"statistics.interval.ms", "3000"}, /* dear when frequent: librdkafka#2604 */
      {"security.protocol", "plaintext"},
      {"group.id", ""},
  };
  static const char *const CONSUMER[][2] = {
      {"bootstrap.servers", "localhost:9092"},
      {"client.id", "me"},
      {"group.id", "default"},
      {"auto.offset.reset", "smallest"}, /* librdkafka's word for earliest */
      {"session.timeout.ms", "30000"},
      {"heartbeat.interval.ms", "3000"},
      {"max.poll.interval.ms", "300000"},
      {"partition.assignment.strategy", "roundrobin,range"},
      {"fetch.max.bytes", "52428800"},
      {"max.partition.fetch.bytes", "1048576"},
      {"fetch.wait.max.ms", "500"},
      {"queued.min.messages", "50000"},
      {"queued.max.messages.kbytes", "65536"},
      {"isolation.level", "read_committed"},
      {"enable.auto.commit", "false"},
      {"enable.auto.offset.store", "false"},
      {"enable.partition.eof", "true"},
      {"log.queue", "true"},
      {"statistics.interval.ms", "3000"},
      {"socket.timeout.ms", "10000"},
      {"reconnect.backoff.ms", "100"},
  };
  static const char *const READER[][2] = {
      {"client.id", "me"},
      {"enable.auto.commit", "false"},
      {"group.instance.id", ""},
      {"enable.auto.offset.store", "false"},
      {"enable.partition.eof", "true"},
      {"auto.offset.reset", "smallest"},
      {"fetch.max.bytes", "52428800"},
      {"queued.min.messages", "50000"},
      {"statistics.interval.ms", "0"},
  };
  test_all_of(mb__config_producer, "producer", PRODUCER, sizeof PRODUCER / sizeof *PRODUCER);
  test_all_of(mb__config_consumer, "consumer", CONSUMER, sizeof CONSUMER / sizeof *CONSUMER);
  test_all_of(mb__config_reader, "reader", READER, sizeof READER / sizeof *READER);
}

static void test_mappings(void) {
  static const struct {
    builder build;
    const char *key, *value, *property, *want;
  } MAP[] = {
      {mb__config_producer, "acks", "1", "acks", "1"},
      {mb__config_producer, "delivery", "exactly_once", "socket.timeout.ms", "60000"},
      {mb__config_consumer, "delivery", "exactly_once", "socket.timeout.ms", "10000"},
      {mb__config_consumer, "fetch_wait_max_ms", "20000", "socket.timeout.ms", "21000"},
      {mb__config_producer, "acks", "1", "enable.idempotence", "false"},
      {mb__config_producer, "acks", "0", "acks", "0"},
      {mb__config_producer, "acks", "0", "enable.idempotence", "false"},
      {mb__config_producer, "acks", "-1", "enable.idempotence", "true"},
      {mb__config_producer, "compression_type", "none", "compression.type", "none"},
      {mb__config_consumer, "auto_offset_reset", "latest", "auto.offset.reset", "smallest"},
      {mb__config_consumer, "auto_offset_reset", "none", "auto.offset.reset", "smallest"},
      {mb__config_reader, "auto_offset_reset", "latest", "auto.offset.reset", "smallest"},
      {mb__config_consumer, "group_instance_id", "w1", "group.instance.id", "w1"},
      {mb__config_reader, "group_instance_id", "w1", "group.instance.id", NULL},
      {mb__config_producer, "message_max_bytes", "2000000", "message.max.bytes", "2000000"},
      {mb__config_consumer, "message_max_bytes", "2000000", "message.max.bytes", "2000000"},
      {mb__config_producer, "bootstrap_servers", "embedded", "bootstrap.servers", NULL},
      {mb__config_consumer, "sasl_password", "unused", "sasl.password", NULL},
  };
  for (size_t i = 0; i < sizeof MAP / sizeof *MAP; i++) {
    mb_config *conf = with(MAP[i].key, MAP[i].value);
    char name[160];
    snprintf(name, sizeof name, "%s=%s makes %s %s", MAP[i].key, MAP[i].value, MAP[i].property,
             MAP[i].want ? MAP[i].want : "unset");
    ok(builds(MAP[i].build, conf, MAP[i].property, MAP[i].want), "%s", name);
    mb_config_free(conf);
  }
  mb_config *conf = with("bootstrap_servers", "embedded");
  ok(mb__config_is_embedded(conf) && mb__config_resolve(conf, "127.0.0.1:4") == MB_OK &&
         builds(mb__config_reader, conf, "bootstrap.servers", "127.0.0.1:4") &&
         strcmp(mb_config_get(conf, "bootstrap_servers"), "embedded") == 0,
     "a resolved address stands in for embedded in the clients only");
  mb_config *copy = mb__config_copy(conf);
  ok(builds(mb__config_producer, copy, "bootstrap.servers", "127.0.0.1:4"),
     "a copy keeps the resolved address");
  mb_config_free(copy);
  mb_config_free(conf);
}

static void test_security(void) {
  static const char *const SET[][2] = {
      {"security_protocol", "SASL_SSL"}, {"sasl_mechanism", "SCRAM-SHA-512"},
      {"sasl_username", "app"},          {"sasl_password", "pw"},
      {"ssl_cafile", "/ca.pem"},         {"ssl_certfile", "/c.pem"},
      {"ssl_keyfile", "/k.pem"},         {"ssl_keyfile_password", "kp"},
      {"ssl_check_hostname", "false"},
  };
  static const char *const WANT[][2] = {
      {"security.protocol", "sasl_ssl"},
      {"sasl.mechanism", "SCRAM-SHA-512"},
      {"sasl.username", "app"},
      {"sasl.password", "pw"},
      {"ssl.ca.location", "/ca.pem"},
      {"ssl.certificate.location", "/c.pem"},
      {"ssl.key.location", "/k.pem"},
      {"ssl.key.password", "kp"},
      {"ssl.endpoint.identification.algorithm", "none"},
  };
  static const struct {
    builder build;
    const char *who;
  } CLIENTS[] = {{mb__config_producer, "producer"},
                 {mb__config_consumer, "consumer"},
                 {mb__config_reader, "reader"}};
  mb_config *conf = mb_config_new();
  for (size_t i = 0; i < sizeof SET / sizeof *SET; i++) {
    (void)!mb_config_set(conf, SET[i][0], SET[i][1], MB_FROM_SCRIPT, err, sizeof err);
  }
  for (int c = 0; c < 3; c++) {
    bool all = true;
    for (size_t i = 0; i < sizeof WANT / sizeof *WANT; i++) {
      all = builds(CLIENTS[c].build, conf, WANT[i][0], WANT[i][1]) && all;
    }
    char name[80];
    snprintf(name, sizeof name, "the %s gets login and certificates", CLIENTS[c].who);
    ok(all, "%s", name);
  }
  (void)!mb_config_set(conf, "ssl_check_hostname", "yes", MB_FROM_SCRIPT, err, sizeof err);
  ok(builds(mb__config_consumer, conf, "ssl.endpoint.identification.algorithm", "https"),
     "the host name check is on when asked for");
  mb_config_free(conf);
}

static void test_tokens(void) {
  static const char *const SET[][2] = {
      {"security_protocol", "SASL_SSL"},
      {"sasl_mechanism", "OAUTHBEARER"},
      {"sasl_oauthbearer_token_endpoint_url", "https://login/token"},
      {"sasl_oauthbearer_client_id", "app"},
      {"sasl_oauthbearer_client_secret", "hush"},
      {"sasl_oauthbearer_scope", "events"},
      {"sasl_oauthbearer_extensions", "tenant=acme"},
  };
  static const char *const WANT[][2] = {
      {"sasl.mechanism", "OAUTHBEARER"},
      {"sasl.oauthbearer.method", "oidc"},
      {"sasl.oauthbearer.token.endpoint.url", "https://login/token"},
      {"sasl.oauthbearer.client.id", "app"},
      {"sasl.oauthbearer.client.secret", "hush"},
      {"sasl.oauthbearer.scope", "events"},
      {"sasl.oauthbearer.extensions", "tenant=acme"},
  };
  static const builder BUILD[] = {mb__config_producer, mb__config_consumer, mb__config_reader};
  mb_config *conf = mb_config_new();
  for (size_t i = 0; i < sizeof SET / sizeof *SET; i++)
    (void)!mb_config_set(conf, SET[i][0], SET[i][1], MB_FROM_SCRIPT, err, sizeof err);
  for (int c = 0; c < 3; c++) {
    bool all = true;
    if (!mb__able(MB_ABLE_OIDC)) {
      strcpy(err, "");
      ok(!BUILD[c](conf, err, sizeof err) && strstr(err, "sasl_oauthbearer_"),
         "client %d: a librdkafka without token servers is an error", c);
      continue;
    }
    for (size_t i = 0; i < sizeof WANT / sizeof *WANT; i++)
      all = builds(BUILD[c], conf, WANT[i][0], WANT[i][1]) && all;
    ok(all, "client %d gets the token server and its credentials", c);
  }
  (void)!mb_config_set(conf, "sasl_mechanism", "PLAIN", MB_FROM_SCRIPT, err, sizeof err);
  ok(!builds(mb__config_consumer, conf, "sasl.oauthbearer.method", "oidc") &&
         builds(mb__config_consumer, conf, "sasl.oauthbearer.client.secret", NULL),
     "with another mechanism nothing of them is set");
  mb_config_free(conf);
}

/* ---- properties passed through ----------------------------------------- */

static bool refused(mb_config *conf, const char *name, const char *value, const char *piece) {
  strcpy(err, "");
  mb_err result = mb_config_set_kafka(conf, name, value, err, sizeof err);
  const char *bare = strncmp(name, "topic.", 6) ? name : name + 6;
  bool right = result == MB_ECONFIG && strstr(err, bare) && strstr(err, piece);
  if (!right) printf("# %s: %s\n", mb_err_name(result), err);
  return right;
}

static void test_refusals(void) {
  static const char *const REFUSED[][3] = {
      {"bootstrap.servers", "a:1", "option bootstrap_servers"},
      {"metadata.broker.list", "a:1", "option bootstrap_servers"},
      {"group.id", "g", "option consumer_group"},
      {"client.id", "c", "option consumer_name"},
      {"linger.ms", "1", "option linger_ms"},
      {"queue.buffering.max.ms", "1", "option linger_ms"},
      {"delivery.timeout.ms", "1", "option delivery_timeout_ms"},
      {"request.required.acks", "1", "option acks"},
      {"topic.acks", "1", "option acks"},
      {"compression.codec", "lz4", "option compression_type"},
      {"fetch.message.max.bytes", "1", "option max_partition_fetch_bytes"},
      {"sasl.mechanisms", "GSSAPI", "option sasl_mechanism"},
      {"sasl.oauthbearer.method", "default", "sasl_mechanism OAUTHBEARER"},
      {"enable.sasl.oauthbearer.unsecure.jwt", "true", "sasl_oauthbearer_token_endpoint_url"},
      {"enable.auto.commit", "true", "always false"},
      {"auto.commit.enable", "true", "settled"},
      {"enable.auto.offset.store", "true", "always false"},
      {"partitioner", "random", "always murmur2_random"},
      {"topic.partitioner", "random", "always murmur2_random"},
      {"log.queue", "false", "always true"},
      {"enable.partition.eof", "false", "always true"},
      {"enable.idempotence", "false", "follows from acks"},
      {"transactional.id", "t", "options delivery and transactional_id"},
      {"socket.keepalive.enabled", "true", "did you mean \"socket.keepalive.enable\"?"},
      {"no.such.thing.at.all", "1", "does not have it"},
      {"", "1", "does not have it"},
      {"socket.keepalive.enable", "perhaps", "refuses the value"},
      {"socket.timeout.ms", "1", "refuses the value"},
      {"error_cb", "1", "refuses the value"},
  };
  mb_config *conf = mb_config_new();
  for (size_t i = 0; i < sizeof REFUSED / sizeof *REFUSED; i++) {
    char name[120];
    snprintf(name, sizeof name, "kafka property \"%s\"=%s is refused: %s", REFUSED[i][0],
             REFUSED[i][1], REFUSED[i][2]);
    ok(refused(conf, REFUSED[i][0], REFUSED[i][1], REFUSED[i][2]), "%s", name);
  }
  bool all = true;
  for (size_t i = 0; i < MB_OPT_COUNT; i++) {
    const mb_option *option = mb_option_at(i);
    if (option->kafka) all = refused(conf, option->kafka, "1", option->key) && all;
  }
  ok(all, "every property of the option table is refused in favour of its option");
  char huge[3000];
  memset(huge, 'x', sizeof huge - 1);
  huge[sizeof huge - 1] = '\0';
  ok(mb_config_set_kafka(conf, huge, "1", err, sizeof err) == MB_ECONFIG,
     "a huge name is only unknown");
  ok(mb_config_set_kafka(conf, "debug", NULL, err, sizeof err) == MB_EINVAL,
     "a NULL value is an invalid argument");
  ok(!conf->property_count, "nothing refused was kept");
  mb_config_free(conf);
}

static void test_passing(void) {
  mb_config *conf = mb_config_new();
  ok(mb_config_set_kafka(conf, "socket.keepalive.enable", "true", err, sizeof err) == MB_OK &&
         mb_config_set_kafka(conf, "sticky.partitioning.linger.ms", "7", err, sizeof err) ==
             MB_OK &&
         mb_config_set_kafka(conf, "fetch.error.backoff.ms", "70", err, sizeof err) == MB_OK &&
         mb_config_set_kafka(conf, "topic.compression.level", "3", err, sizeof err) == MB_OK &&
         mb_config_set_kafka(conf, "ssl.keystore.password", "pw", err, sizeof err) == MB_OK,
     "properties that no option governs are taken");
  ok(builds(mb__config_producer, conf, "socket.keepalive.enable", "true") &&
         builds(mb__config_consumer, conf, "socket.keepalive.enable", "true") &&
         builds(mb__config_reader, conf, "socket.keepalive.enable", "true"),
     "a property of both goes to every client");
  ok(builds(mb__config_producer, conf, "sticky.partitioning.linger.ms", "7") &&
         builds(mb__config_producer, conf, "compression.level", "3") &&
         builds(mb__config_consumer, conf, "sticky.partitioning.linger.ms", "10"),
     "a producer property goes to the producer only");
  ok(builds(mb__config_consumer, conf, "fetch.error.backoff.ms", "70") &&
         builds(mb__config_reader, conf, "fetch.error.backoff.ms", "70") &&
         builds(mb__config_producer, conf, "fetch.error.backoff.ms", "500"),
     "a consumer property goes to the consumers only");
  ok(mb_config_set_kafka(conf, "socket.keepalive.enable", "false", err, sizeof err) == MB_OK &&
         builds(mb__config_producer, conf, "socket.keepalive.enable", "false"),
     "the later of two values wins");
  mb_config *copy = mb__config_copy(conf);
  mb_config_free(conf);
  ok(builds(mb__config_producer, copy, "sticky.partitioning.linger.ms", "7"),
     "a copy has the properties too");
  mb_config_free(copy);
}

/* With the consumer protocol nothing is left of what the broker governs, or librdkafka would refuse
 * to start; with the classic one its property is not touched. */
static void test_group_protocol(void) {
  static const char *const GOVERNED[][3] = {
      {"session_timeout_ms", "6000", "session.timeout.ms"},
      {"heartbeat_interval_ms", "100", "heartbeat.interval.ms"},
      {"partition_assignment_strategy", "range", "partition.assignment.strategy"}};
  mb_config *conf = with("group_protocol", "consumer");
  ok(mb_config_set_kafka(conf, "group.protocol", "consumer", err, sizeof err) == MB_ECONFIG &&
         strstr(err, "the option group_protocol"),
     "group.protocol is governed by group_protocol");
  ok(mb_config_set_kafka(conf, "group.protocol.type", "consumer", err, sizeof err) == MB_OK,
     "group.protocol.type is taken");
  if (rd_kafka_version() >= 0x020400ff) {
    rd_kafka_conf_t *plain = rd_kafka_conf_new();
    for (size_t i = 0; i < sizeof GOVERNED / sizeof *GOVERNED; i++) {
      char usual[80];
      size_t size = sizeof usual;
      rd_kafka_conf_get(plain, GOVERNED[i][2], usual, &size);
      (void)!mb_config_set(conf, GOVERNED[i][0], GOVERNED[i][1], MB_FROM_SCRIPT, err, sizeof err);
      ok(builds(mb__config_consumer, conf, GOVERNED[i][2], usual),
         "%s is left out with the consumer protocol", GOVERNED[i][0]);
    }
    rd_kafka_conf_destroy(plain);
    ok(builds(mb__config_consumer, conf, "group.protocol", "consumer") &&
           builds(mb__config_reader, conf, "group.protocol", "classic"),
       "the consumer protocol is for the member of the group alone");
    rd_kafka_conf_t *kafka = mb__config_consumer(conf, err, sizeof err);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, kafka, err, sizeof err);
    ok(rk != NULL, "librdkafka takes all that is left%s%s", rk ? "" : ": ", rk ? "" : err);
    if (rk) rd_kafka_destroy(rk);
  }
  (void)!mb_config_set(conf, "group_protocol", "classic", MB_FROM_SCRIPT, err, sizeof err);
  (void)!mb_config_set(conf, "session_timeout_ms", "6000", MB_FROM_SCRIPT, err, sizeof err);
  ok(builds(mb__config_consumer, conf, "session.timeout.ms", "6000"),
     "the classic protocol sets what was left out");
  mb_config_free(conf);
}

/* ---- real clients ------------------------------------------------------ */

static int warnings;

static void on_log(const rd_kafka_t *rk, int level, const char *facility, const char *text) {
  (void)rk;
  if (level > 4 || strcmp(facility, "CONFWARN")) return;
  __atomic_add_fetch(&warnings, 1, __ATOMIC_RELAXED);
  printf("# librdkafka warns: %s\n", text);
}

/* A client can be made of it, without a warning. */
static bool starts(const mb_config *conf, builder build, rd_kafka_type_t type) {
  rd_kafka_conf_t *kafka = build(conf, err, sizeof err);
  if (!kafka) {
    printf("# %s\n", err);
    return false;
  }
  rd_kafka_conf_set(kafka, "log.queue", "false", NULL, 0); /* so that on_log hears it at once */
  rd_kafka_conf_set_log_cb(kafka, on_log);
  warnings = 0;
  rd_kafka_t *rk = rd_kafka_new(type, kafka, err, sizeof err);
  if (!rk) {
    printf("# %s\n", err);
    rd_kafka_conf_destroy(kafka);
    return false;
  }
  rd_kafka_destroy(rk);
  return warnings == 0;
}

static bool all_start(const mb_config *conf) {
  bool producer = starts(conf, mb__config_producer, RD_KAFKA_PRODUCER);
  bool consumer = starts(conf, mb__config_consumer, RD_KAFKA_CONSUMER);
  return starts(conf, mb__config_reader, RD_KAFKA_CONSUMER) && producer && consumer;
}

static void test_clients(void) {
  mb_config *conf = with("bootstrap_servers", "127.0.0.1:1");
  (void)!mb_config_set_kafka(conf, "fetch.error.backoff.ms", "70", err, sizeof err);
  (void)!mb_config_set_kafka(conf, "sticky.partitioning.linger.ms", "7", err, sizeof err);
  (void)!mb_config_set(conf, "sasl_mechanism", "PLAIN", MB_FROM_SCRIPT, err, sizeof err);
  ok(all_start(conf), "clients start without a configuration warning");
  mb_config_free(conf);

  /* What mb_config_check lets through, librdkafka takes: every bound of every option. */
  bool extremes = true;
  for (size_t i = 0; i < MB_OPT_COUNT; i++) {
    const mb_option *option = mb_option_at(i);
    if (strcmp(option->type, "integer") || !option->kafka) continue;
    for (int end = 0; end < 2; end++) {
      char value[32];
      snprintf(value, sizeof value, "%.0f", end ? option->max : option->min);
      conf = with("bootstrap_servers", "127.0.0.1:1");
      bool taken =
          mb_config_set(conf, option->key, value, MB_FROM_SCRIPT, err, sizeof err) == MB_OK;
      if (taken && mb_config_check(conf, err, sizeof err) == MB_OK && !all_start(conf)) {
        taken = false;
      }
      if (!taken) printf("# %s=%s\n", option->key, value);
      extremes = extremes && taken;
      mb_config_free(conf);
    }
  }
  ok(extremes, "librdkafka takes every bound that the check lets through");
}

int main(void) {
  test_contents();
  test_mappings();
  test_security();
  test_tokens();
  test_refusals();
  test_passing();
  test_clients();
  test_group_protocol();
  return done();
}
