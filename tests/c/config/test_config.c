/* test_config.c: the option table, values and their sources, the rules between options.
 * Must not know librdkafka; test_config_kafka.c does.
 * Run by ctest. */
#include <stdlib.h>

#include "check.h"
#include "config/config.h"

#include <librdkafka/rdkafka.h>

#include "kafka/ability.h"

static char err[512];

/* The text holds both pieces; prints it when it does not. */
static bool says(const char *text, const char *one, const char *two) {
  bool both = text && strstr(text, one) && strstr(text, two);
  if (!both) printf("# it says: %s\n", text ? text : "(nothing)");
  return both;
}

static bool equal(const char *a, const char *b) {
  bool right = a && b ? strcmp(a, b) == 0 : a == b;
  if (!right) printf("# got %s, want %s\n", a ? a : "NULL", b ? b : "NULL");
  return right;
}

static mb_err set(mb_config *conf, const char *key, const char *value) {
  strcpy(err, "untouched");
  return mb_config_set(conf, key, value, MB_FROM_SCRIPT, err, sizeof err);
}

/* ---- the table --------------------------------------------------------- */

static const char *const DEFAULTS[][2] = {
    {"bootstrap_servers", "localhost:9092"},
    {"topic_prefix", "events"},
    {"consumer_group", "default"},
    {"acks", "all"},
    {"compression_type", "gzip"},
    {"batch_size", "16384"},
    {"linger_ms", "5"},
    {"auto_offset_reset", "earliest"},
    {"session_timeout_ms", "30000"},
    {"group_protocol", "classic"},
    {"heartbeat_interval_ms", "3000"},
    {"max_poll_interval_ms", "300000"},
    {"max_retries", "3"},
    {"retry_base_delay", "1.0"},
    {"retry_max_delay", "60.0"},
    {"retry_jitter", "0.1"},
    {"enable_dlq", "true"},
    {"dlq_topic_suffix", ".dlq"},
    {"dlq_consumer_group", NULL},
    {"dlq_max_replay_attempts", "3"},
    {"security_protocol", "PLAINTEXT"},
    {"sasl_mechanism", NULL},
    {"sasl_username", NULL},
    {"sasl_password", NULL},
    {"ssl_cafile", NULL},
    {"ssl_certfile", NULL},
    {"ssl_keyfile", NULL},
    {"ssl_check_hostname", "true"},
    {"enable_tracing", "true"},
    {"enable_metrics", "true"},
    {"shutdown_timeout", "30.0"},
    {"fetch_max_bytes", "52428800"},
    {"max_partition_fetch_bytes", "1048576"},
    /* not of the seed */
    {"delivery_timeout_ms", "30000"},
    {"queue_full_timeout_ms", "30000"},
    {"producer_queue_max_events", "100000"},
    {"producer_queue_max_kbytes", "1048576"},
    {"message_max_bytes", "1000000"},
    {"group_instance_id", NULL},
    {"static_members", "auto"},
    {"partition_assignment_strategy", "roundrobin,range"},
    {"fetch_wait_max_ms", "500"},
    {"prefetch_max_events", "50000"},
    {"prefetch_max_kbytes", "65536"},
    {"isolation_level", "read_committed"},
    {"commit_interval_ms", "1000"},
    {"commit_interval_events", "5000"},
    {"reconnect_backoff_ms", "1000"},
    {"reconnect_backoff_max_ms", "60000"},
    {"retry_scope", "key"},
    {"retry_parked_max", "1000"},
    {"retry_parked_max_kbytes", "16384"},
    {"ssl_keyfile_password", NULL},
    {"sasl_oauthbearer_token_endpoint_url", NULL},
    {"sasl_oauthbearer_client_id", NULL},
    {"sasl_oauthbearer_client_secret", NULL},
    {"sasl_oauthbearer_scope", NULL},
    {"sasl_oauthbearer_extensions", NULL},
    {"log_level", "info"},
    {"log_format", "text"},
    {"on_unknown", "skip"},
    {"on_undecodable", "dlq"},
    {"dlq_breaker_run", "1000"},
    {"dlq_breaker_ratio", "0.5"},
    {"dlq_breaker_window", "4000"},
    {"dlq_breaker_pause_ms", "60000"},
    {"concurrency", "1"},
    {"handler_timeout_ms", "0"},
    {"guard", "fast"},
    {"lua_memory_max_bytes", "0"},
    {"worker_memory_max_bytes", "0"},
    {"delivery", "at_least_once"},
    {"transactional_id", NULL},
    {"transaction_interval_ms", "200"},
    {"transaction_max_events", "20000"},
    {"transaction_timeout_ms", "10000"},
    {"topic_name", "events.stream"},
    {"dlq_topic_name", "events.stream.dlq"},
};

static void test_defaults(void) {
  mb_config *conf = mb_config_new();
  size_t count = sizeof DEFAULTS / sizeof *DEFAULTS;
  for (size_t i = 0; i < count; i++) {
    ok(equal(mb_config_get(conf, DEFAULTS[i][0]), DEFAULTS[i][1]), "%s: has its default",
       DEFAULTS[i][0]);
  }
  /* consumer_name is in the table, the two topic names are not */
  ok(count == MB_OPT_COUNT - 1 + 2, "every option's default is checked");
  ok(mb_config_get(conf, "nonsense") == NULL, "an unknown key reads as NULL");
  ok(mb_config_check(conf, err, sizeof err) == MB_OK, "the defaults pass the check");
  ok(mb__conf_int(conf, MB_OPT_batch_size) == 16384, "an integer's default is read typed");
  ok(mb__conf_num(conf, MB_OPT_retry_jitter) == 0.1, "a number's default is read typed");
  ok(mb__conf_bool(conf, MB_OPT_enable_dlq), "a boolean's default is read typed");
  ok(mb__conf_is(conf, MB_OPT_acks, "all"), "a choice's default is read typed");
  mb_config_free(conf);
  mb_config_free(NULL);
}

static void test_rows(void) {
  mb_config *conf = mb_config_new();
  size_t i = 0;
  bool sane = true, sentences = true;
  for (const mb_option *option; (option = mb_option_at(i)); i++) {
    bool choice = strcmp(option->type, "choice") == 0;
    sane = sane && *option->key && *option->section && choice == (option->choices != NULL);
    size_t len = strlen(option->help);
    sentences = sentences && len > 10 && option->help[len - 1] == '.';
    if (!option->def) continue;
    ok(set(conf, option->key, option->def) == MB_OK &&
           equal(mb_config_get(conf, option->key), option->def),
       "%s: takes its own default", option->key);
  }
  ok(i == MB_OPT_COUNT && !mb_option_at(i + 1), "the table ends with NULL");
  ok(sane, "every row has key and section, and choices where there is a choice");
  ok(sentences, "every row has a help sentence");
  ok(mb_option_at(MB_OPT_sasl_password)->secret &&
         mb_option_at(MB_OPT_sasl_oauthbearer_client_secret)->secret &&
         mb_option_at(MB_OPT_ssl_keyfile_password)->secret &&
         mb_option_at(MB_OPT_ssl_keyfile)->secret && !mb_option_at(MB_OPT_sasl_username)->secret,
     "passwords and the key file are secrets");
  mb_config_free(conf);
}

/* ---- one value --------------------------------------------------------- */

static const struct {
  const char *key, *value, *want;
} GOOD_VALUES[] = {
    {"acks", "-1", "all"},
    {"acks", "1", "1"},
    {"acks", "0", "0"},
    {"linger_ms", "007", "7"},
    {"linger_ms", "0", "0"},
    {"linger_ms", "900000", "900000"},
    {"retry_jitter", "1", "1"},
    {"retry_base_delay", "1e-2", "1e-2"},
    {"enable_dlq", "no", "false"},
    {"enable_dlq", "1", "true"},
    {"enable_dlq", "off", "false"},
    {"enable_dlq", "Yes", "true"},
    {"enable_dlq", "0", "false"},
    {"enable_dlq", "ON", "true"},
    {"auto_offset_reset", "none", "none"},
    {"compression_type", "zstd", "zstd"},
    {"sasl_mechanism", "SCRAM-SHA-512", "SCRAM-SHA-512"},
    {"sasl_mechanism", "", NULL},
    {"sasl_password", "", NULL},
    {"partition_assignment_strategy", " range , roundrobin ", "range,roundrobin"},
    {"partition_assignment_strategy", "range", "range"},
    {"max_retries", "1000", "1000"},
};

static const char *const BAD_VALUES[][3] = {
    /* key, value, what the message says besides the key */
    {"linger_ms", "5x", "whole number"},
    {"linger_ms", "", "whole number"},
    {"linger_ms", " 5", "whole number"},
    {"linger_ms", "+5", "whole number"},
    {"linger_ms", "0x5", "whole number"},
    {"linger_ms", "5.0", "0 to 900000 ms"},
    {"linger_ms", "-1", "0 to 900000 ms"},
    {"linger_ms", "900001", "0 to 900000 ms"},
    {"batch_size", "99999999999999999999999", "1 to 2147483647 bytes"},
    {"max_retries", "1001", "0 to 1000"},
    {"retry_jitter", "1.01", "0 to 1"},
    {"retry_jitter", "-0.1", "0 to 1"},
    {"retry_base_delay", "0", "0.001 to 86400 s"},
    {"retry_base_delay", "nan", "decimal number"},
    {"retry_base_delay", "1s", "decimal number"},
    {"retry_base_delay", "1e", "decimal number"},
    {"retry_base_delay", "", "decimal number"},
    {"shutdown_timeout", "1e999", "0 to 86400 s"},
    {"enable_dlq", "maybe", "true or false"},
    {"enable_dlq", "", "true or false"},
    {"acks", "2", "all, 1 or 0"},
    {"security_protocol", "TLS", "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"},
    {"sasl_mechanism", "GSSAPI", "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"},
    {"auto_offset_reset", "bogus", "earliest, latest or none"},
    {"partition_assignment_strategy", "sticky", "roundrobin and range"},
    {"partition_assignment_strategy", "", "roundrobin and range"},
    {"partition_assignment_strategy", "range,", "roundrobin and range"},
    {"partition_assignment_strategy", "range range", "roundrobin and range"},
    {"partition_assignment_strategy", "range,range", "at most once"},
    {"partition_assignment_strategy", "range,cooperative-sticky", "only one in the list"},
};

static void test_values(void) {
  mb_config *conf = mb_config_new();
  for (size_t i = 0; i < sizeof GOOD_VALUES / sizeof *GOOD_VALUES; i++) {
    char fact[100];
    snprintf(fact, sizeof fact, "takes \"%s\"", GOOD_VALUES[i].value);
    ok(set(conf, GOOD_VALUES[i].key, GOOD_VALUES[i].value) == MB_OK &&
           equal(mb_config_get(conf, GOOD_VALUES[i].key), GOOD_VALUES[i].want) &&
           equal(err, "untouched"),
       "%s: %s", GOOD_VALUES[i].key, fact);
  }
  for (size_t i = 0; i < sizeof BAD_VALUES / sizeof *BAD_VALUES; i++) {
    char fact[100], before[64];
    snprintf(fact, sizeof fact, "refuses \"%s\"", BAD_VALUES[i][1]);
    const char *value = mb_config_get(conf, BAD_VALUES[i][0]);
    snprintf(before, sizeof before, "%s", value ? value : "");
    bool refused = set(conf, BAD_VALUES[i][0], BAD_VALUES[i][1]) == MB_ECONFIG &&
                   says(err, BAD_VALUES[i][0], BAD_VALUES[i][2]);
    value = mb_config_get(conf, BAD_VALUES[i][0]);
    ok(refused && equal(value ? value : "", before), "%s: %s", BAD_VALUES[i][0], fact);
  }
  ok(mb_config_set(conf, "acks", "2", MB_FROM_SCRIPT, NULL, 0) == MB_ECONFIG, "errstr may be NULL");
  ok(mb_config_set(conf, "acks", NULL, MB_FROM_SCRIPT, err, sizeof err) == MB_EINVAL &&
         mb_config_set(conf, NULL, "1", MB_FROM_SCRIPT, err, sizeof err) == MB_EINVAL,
     "a NULL key or value is an invalid argument");
  ok(!set(conf, "partition_assignment_strategy", "cooperative-sticky"),
     "cooperative-sticky is taken alone");
  mb_config_free(conf);
}

/* What only newer versions of librdkafka can do is refused by the check. */
static void test_strategy(void) {
  mb_config *conf = mb_config_new();
  mb_err sticky = set(conf, "partition_assignment_strategy", "cooperative-sticky");
  if (!sticky) sticky = mb_config_check(conf, err, sizeof err);
  if (rd_kafka_version() < 0x020400ff) {
    ok(sticky == MB_ECONFIG && says(err, "partition_assignment_strategy", "2.4.0") &&
           says(err, rd_kafka_version_str(), "scripts/setup --librdkafka"),
       "cooperative-sticky is refused with an old librdkafka, and which to install");
  } else {
    ok(sticky == MB_OK, "cooperative-sticky passes the check: %s", err);
  }
  mb_config_free(conf);
}

static void test_unknown(void) {
  static const char *const WORDS[][2] = {
      {"topic_prefx", "did you mean \"topic_prefix\"?"},
      {"tpoic_prefix", "did you mean \"topic_prefix\"?"},
      {"bootstrap.servers", "did you mean \"bootstrap_servers\"?"},
      {"BATCH_SIZE", "07-options.md"},
      {"message.timeout.ms", "did you mean \"delivery_timeout_ms\"?"},
      {"ack", "did you mean \"acks\"?"},
      {"fetch_max_byte", "did you mean \"fetch_max_bytes\"?"},
      {"compression", "did you mean \"compression_type\"?"},
      {"compr", "did you mean \"compression_type\"?"},
      {"group", "did you mean \"consumer_group\"?"},
      {"retries", "did you mean \"max_retries\"?"},
      {"kafka_topic_prefix", "did you mean \"topic_prefix\"?"},
      {"press", "07-options.md"},
      {"socket.keepalive.enable", "kafka = {"},
      {"wholly_different", "07-options.md"},
      {"", "07-options.md"},
      {"topic_name", "topic_prefix"},
      {"dlq_topic_name", "dlq_topic_suffix"},
  };
  mb_config *conf = mb_config_new();
  for (size_t i = 0; i < sizeof WORDS / sizeof *WORDS; i++) {
    ok(set(conf, WORDS[i][0], "x") == MB_ECONFIG && says(err, WORDS[i][0], WORDS[i][1]),
       "%s: the error names what was meant", WORDS[i][0]);
  }
  set(conf, "topic_prefx", "x");
  ok(equal(err, "unknown option \"topic_prefx\"; did you mean \"topic_prefix\"?"),
     "the suggestion reads as documented");
  char huge[5000];
  memset(huge, 'x', sizeof huge - 1);
  huge[sizeof huge - 1] = '\0';
  ok(set(conf, huge, "x") == MB_ECONFIG, "a huge key is only unknown");
  mb_config_free(conf);
}

/* ---- sources ----------------------------------------------------------- */

static void test_sources(void) {
  mb_config *conf = mb_config_new();
  ok(mb__conf_source(conf, MB_OPT_linger_ms) == MB_FROM_DEFAULT, "a default says so");
  ok(mb_config_set(conf, "linger_ms", "1", MB_FROM_ENV, err, sizeof err) == MB_OK &&
         mb_config_set(conf, "linger_ms", "2", MB_FROM_SCRIPT, err, sizeof err) == MB_OK &&
         mb__conf_int(conf, MB_OPT_linger_ms) == 1,
     "the script does not override the environment");
  ok(mb_config_set(conf, "linger_ms", "3", MB_FROM_FLAG, err, sizeof err) == MB_OK &&
         mb_config_set(conf, "linger_ms", "4", MB_FROM_ENV, err, sizeof err) == MB_OK &&
         mb__conf_int(conf, MB_OPT_linger_ms) == 3 &&
         mb__conf_source(conf, MB_OPT_linger_ms) == MB_FROM_FLAG,
     "a flag overrides the environment, whatever the order");
  ok(mb_config_set(conf, "linger_ms", "x", MB_FROM_SCRIPT, err, sizeof err) == MB_ECONFIG,
     "a wrong value is an error even where it would lose");
  ok(set(conf, "acks", "1") == MB_OK && set(conf, "acks", "0") == MB_OK &&
         equal(mb_config_get(conf, "acks"), "0"),
     "the later of two from one source wins");

  setenv("MOONBUS_BOOTSTRAP_SERVERS", "kafka:9092", 1);
  setenv("MOONBUS_RETRY_JITTER", "0.5", 1);
  setenv("MOONBUS_CONSUMER_GROUP", "", 1);
  setenv("MOONBUS_SOMETHING_ELSE", "1", 1);
  ok(mb_config_set_env(conf, err, sizeof err) == MB_OK &&
         equal(mb_config_get(conf, "bootstrap_servers"), "kafka:9092") &&
         mb__conf_num(conf, MB_OPT_retry_jitter) == 0.5 &&
         mb__conf_source(conf, MB_OPT_retry_jitter) == MB_FROM_ENV,
     "MOONBUS_<KEY> is read for every option");
  ok(equal(mb_config_get(conf, "consumer_group"), "default"), "an empty variable is not there");
  setenv("MOONBUS_MAX_RETRIES", "many", 1);
  ok(mb_config_set_env(conf, err, sizeof err) == MB_ECONFIG &&
         says(err, "MOONBUS_MAX_RETRIES", "whole number"),
     "a wrong variable is named");
  unsetenv("MOONBUS_MAX_RETRIES");
  mb_config_free(conf);
}

static void test_derived_and_copy(void) {
  mb_config *conf = mb_config_new();
  ok(set(conf, "topic_prefix", "orders") == MB_OK &&
         set(conf, "dlq_topic_suffix", ".dead") == MB_OK &&
         equal(mb_config_get(conf, "topic_name"), "orders.stream") &&
         equal(mb_config_get(conf, "dlq_topic_name"), "orders.stream.dead"),
     "the topic names follow prefix and suffix");
  const char *topic = mb_config_get(conf, "topic_name");
  ok(topic == mb_config_get(conf, "topic_name"), "a derived name is borrowed until the next set");

  ok(mb__conf_str(conf, MB_OPT_consumer_name) == NULL, "consumer_name is unset at first");
  mb_config *copy = mb__config_copy(conf), *other = mb__config_copy(conf);
  const char *name = mb__conf_str(copy, MB_OPT_consumer_name);
  const char *dash = name ? strrchr(name, '-') : NULL;
  ok(dash && dash > name && strlen(dash) == 9 && strspn(dash + 1, "0123456789abcdef") == 8,
     "a copy has a name of host and 8 hex digits");
  ok(strcmp(name, mb__conf_str(other, MB_OPT_consumer_name)) != 0, "two copies differ in it");
  ok(equal(mb_config_get(copy, "consumer_name"), name), "the name stays");
  ok(set(conf, "topic_prefix", "later") == MB_OK &&
         equal(mb_config_get(copy, "topic_name"), "orders.stream"),
     "a copy does not follow the original");
  ok(mb_config_get(conf, "consumer_name") != NULL, "reading consumer_name makes one");
  ok(set(conf, "consumer_name", "worker-1") == MB_OK &&
         equal(mb_config_get(conf, "consumer_name"), "worker-1"),
     "a set name wins over a made one");
  mb_config_free(conf);
  mb_config_free(copy);
  mb_config_free(other);
}

static void test_shown(void) {
  mb_config *conf = mb_config_new();
  ok(mb__config_shown(conf, "sasl_password") == NULL, "an unset secret is shown as unset");
  (void)!set(conf, "sasl_password", "hunter2");
  (void)!set(conf, "sasl_username", "app");
  (void)!set(conf, "ssl_keyfile", "/k.pem");
  (void)!set(conf, "ssl_keyfile_password", "k");
  (void)!set(conf, "ssl_certfile", "/c.pem");
  ok(equal(mb__config_shown(conf, "sasl_password"), "***") &&
         equal(mb__config_shown(conf, "ssl_keyfile_password"), "***") &&
         equal(mb__config_shown(conf, "ssl_keyfile"), "***"),
     "secrets are redacted");
  ok(equal(mb__config_shown(conf, "sasl_username"), "app") &&
         equal(mb__config_shown(conf, "ssl_certfile"), "/c.pem") &&
         equal(mb__config_shown(conf, "topic_name"), "events.stream") &&
         mb__config_shown(conf, "nonsense") == NULL,
     "everything else is shown");
  ok(equal(mb_config_get(conf, "sasl_password"), "hunter2"), "mb_config_get is not redacted");
  mb_config_free(conf);
}

/* ---- rules ------------------------------------------------------------- */

/* Set key/value pairs up to NULL on the defaults, check; the message must hold both pieces. */
static void rule(const char *const pairs[], const char *key, const char *piece) {
  mb_config *conf = mb_config_new();
  char name[300] = "";
  for (size_t i = 0; pairs[i]; i += 2) {
    size_t len = strlen(name);
    snprintf(name + len, sizeof name - len, "%s=%.60s ", pairs[i], pairs[i + 1]);
    if (set(conf, pairs[i], pairs[i + 1])) printf("# cannot set: %s\n", err);
  }
  strcat(name, key ? "is refused" : "is accepted");
  strcpy(err, "untouched");
  mb_err result = mb_config_check(conf, err, sizeof err);
  if (key)
    ok(result == MB_ECONFIG && says(err, key, piece), "%s", name);
  else
    ok(result == MB_OK && equal(err, "untouched"), "%s", name);
  mb_config_free(conf);
}

#define REFUSED(key, piece, ...) rule((const char *const[]){__VA_ARGS__, NULL}, key, piece)
#define ACCEPTED(...)            rule((const char *const[]){__VA_ARGS__, NULL}, NULL, NULL)

static void test_rules_servers(void) {
  static const char *const GOOD[] = {
      "kafka",         "kafka:1",    "kafka:65535",    "a:9092, b:9092,c",
      "10.0.0.1:9092", "[::1]:9092", "[fe80::1%eth0]", "my_host-1.example.com:9093",
      "embedded"};
  static const char *const BAD[][2] = {
      {"", "host:port"},
      {"a:9092,", "empty entry"},
      {"a,,b", "empty entry"},
      {" ", "empty entry"},
      {":9092", "host name is missing"},
      {"a:", "1 to 65535"},
      {"a:0", "1 to 65535"},
      {"a:65536", "1 to 65535"},
      {"a:900000000000", "1 to 65535"},
      {"a:9x", "1 to 65535"},
      {"a b:9092", "such a character"},
      {"a:9092 ,b", "1 to 65535"},
      {"kafka://a:9092", "without a scheme"},
      {"::1", "host name is missing"},
      {"fe80::1:9092", "[address]:port"},
      {"[::1", "[address]:port"},
      {"[]:9092", "[address]:port"},
      {"[::1]9092", "such a character"},
      {"embedded,a:9092", "one of several"},
  };
  for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++) ACCEPTED("bootstrap_servers", GOOD[i]);
  for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
    REFUSED("bootstrap_servers", BAD[i][1], "bootstrap_servers", BAD[i][0]);
  }
  REFUSED("security_protocol", "embedded", "bootstrap_servers", "embedded", "security_protocol",
          "SSL");
}

static void test_rules(void) {
  char prefix[400];
  memset(prefix, 'p', sizeof prefix);
  prefix[249 - strlen(".stream.dlq")] = '\0';
  ACCEPTED("topic_prefix", prefix);
  strcat(prefix, "p");
  REFUSED("dlq_topic_suffix", "249", "topic_prefix", prefix);
  strcat(prefix, "pppp");
  REFUSED("topic_prefix", "249", "topic_prefix", prefix, "dlq_topic_suffix", "x");
  REFUSED("topic_prefix", "empty", "topic_prefix", "");
  REFUSED("topic_prefix", "character 3", "topic_prefix", "my topic");
  REFUSED("topic_prefix", "letters, digits", "topic_prefix", "\xC3\xBC");
  REFUSED("dlq_topic_suffix", "letters, digits", "dlq_topic_suffix", "/dlq");
  REFUSED("dlq_topic_suffix", "empty", "dlq_topic_suffix", "");
  REFUSED("consumer_group", "empty", "consumer_group", "");

  REFUSED("heartbeat_interval_ms", "session_timeout_ms", "heartbeat_interval_ms", "30000");
  REFUSED("heartbeat_interval_ms", "at most 10000", "heartbeat_interval_ms", "40000");
  ACCEPTED("heartbeat_interval_ms", "29999");
  REFUSED("session_timeout_ms", "max_poll_interval_ms", "session_timeout_ms", "300001");
  ACCEPTED("session_timeout_ms", "300000");
  REFUSED("retry_max_delay", "retry_base_delay", "retry_max_delay", "0.5");
  ACCEPTED("retry_max_delay", "1");
  REFUSED("reconnect_backoff_max_ms", "reconnect_backoff_ms", "reconnect_backoff_max_ms", "10");
  REFUSED("linger_ms", "delivery_timeout_ms", "linger_ms", "30000");
  REFUSED("fetch_max_bytes", "message_max_bytes", "fetch_max_bytes", "1000");
}

static void test_rules_security(void) {
  static const char *const SASL[] = {"SASL_PLAINTEXT", "SASL_SSL"};
  static const char *const SSL[] = {"SSL", "SASL_SSL"};
  static const char *const MECHANISMS[] = {"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"};
#define LOGIN(m) "sasl_mechanism", m, "sasl_username", "u", "sasl_password", "p"
  for (int i = 0; i < 2; i++) {
    REFUSED("sasl_mechanism", SASL[i], "security_protocol", SASL[i], "sasl_username", "u",
            "sasl_password", "p");
    REFUSED("sasl_username", SASL[i], "security_protocol", SASL[i], "sasl_mechanism", "PLAIN",
            "sasl_password", "p");
    REFUSED("sasl_password", SASL[i], "security_protocol", SASL[i], "sasl_mechanism", "PLAIN",
            "sasl_username", "u", "sasl_password", "");
    for (int j = 0; j < 3; j++) ACCEPTED("security_protocol", SASL[i], LOGIN(MECHANISMS[j]));
    REFUSED("ssl_keyfile", "ssl_certfile", "security_protocol", SSL[i], LOGIN("PLAIN"),
            "ssl_certfile", "/dev/null");
    REFUSED("ssl_certfile", "ssl_keyfile", "security_protocol", SSL[i], LOGIN("PLAIN"),
            "ssl_keyfile", "/dev/null");
    ACCEPTED("security_protocol", SSL[i], LOGIN("PLAIN"), "ssl_certfile", "/dev/null",
             "ssl_keyfile", "/dev/null");
    REFUSED("ssl_cafile", "/nowhere/ca.pem", "security_protocol", SSL[i], LOGIN("PLAIN"),
            "ssl_cafile", "/nowhere/ca.pem");
    REFUSED("ssl_certfile", "No such file", "security_protocol", SSL[i], LOGIN("PLAIN"),
            "ssl_certfile", "/nowhere/c.pem", "ssl_keyfile", "/dev/null");
    REFUSED("ssl_keyfile", "No such file", "security_protocol", SSL[i], LOGIN("PLAIN"),
            "ssl_certfile", "/dev/null", "ssl_keyfile", "/nowhere/k.pem");
  }
  ACCEPTED("security_protocol", "PLAINTEXT", "ssl_cafile", "/nowhere/ca.pem");
}

static void test_rules_oauth(void) {
#define TOKENS(url)                                                                                \
  "security_protocol", "SASL_SSL", "sasl_mechanism", "OAUTHBEARER",                                \
      "sasl_oauthbearer_token_endpoint_url", url, "sasl_oauthbearer_client_id", "app",             \
      "sasl_oauthbearer_client_secret", "hush"
  static const char *const URLS[] = {"https://login.example.com/token", "http://localhost:8080",
                                     "https://[::1]:8443/token?realm=a", "http://10.0.0.1/t%20k"};
  static const char *const WRONG[][2] = {
      {"login.example.com/token", "https://"},
      {"ftp://login.example.com", "https://"},
      {"https:///token", "host name"},
      {"https://login:99999/token", "port"},
      {"https://app:hush@login/token", "client_id"},
      {"https://login/a b", "character"},
  };
  if (!mb__able(MB_ABLE_OIDC)) {
    REFUSED("OAUTHBEARER", "scripts/setup --librdkafka", TOKENS(URLS[0]));
  } else {
    for (size_t i = 0; i < sizeof URLS / sizeof *URLS; i++) ACCEPTED(TOKENS(URLS[i]));
    ACCEPTED(TOKENS(URLS[0]), "sasl_oauthbearer_extensions", "tenant=acme,region=north east=1");
  }
  for (size_t i = 0; i < sizeof WRONG / sizeof *WRONG; i++)
    REFUSED("sasl_oauthbearer_token_endpoint_url", WRONG[i][1], TOKENS(WRONG[i][0]));
  static const char *const EXTENSIONS[] = {"tenant",  "=acme",    "te-nant=acme",
                                           "tenant=", "a=b,,c=d", "auth=x"};
  for (size_t i = 0; i < sizeof EXTENSIONS / sizeof *EXTENSIONS; i++)
    REFUSED("sasl_oauthbearer_extensions", "name", TOKENS(URLS[0]), "sasl_oauthbearer_extensions",
            EXTENSIONS[i]);
  REFUSED("sasl_oauthbearer_client_id", "OAUTHBEARER", TOKENS(URLS[0]),
          "sasl_oauthbearer_client_id", "");
  REFUSED("sasl_oauthbearer_client_secret", "OAUTHBEARER", TOKENS(URLS[0]),
          "sasl_oauthbearer_client_secret", "");
  REFUSED("sasl_oauthbearer_token_endpoint_url", "OAUTHBEARER", TOKENS(""));
  REFUSED("sasl_username", "sasl_oauthbearer_client_id", TOKENS(URLS[0]), "sasl_username", "u");
  REFUSED("sasl_password", "OAUTHBEARER", TOKENS(URLS[0]), "sasl_password", "p");
  REFUSED("sasl_oauthbearer_scope", "sasl_username", "security_protocol", "SASL_SSL",
          LOGIN("PLAIN"), "sasl_oauthbearer_scope", "events");
  ACCEPTED("security_protocol", "SSL", "sasl_oauthbearer_client_id", "app");
}

static int warned;
static char warning[1000];

static void count_warning(const char *text, void *opaque) {
  (void)opaque;
  warned++;
  snprintf(warning, sizeof warning, "%s", text);
}

/* piece NULL = no warning at all */
static void warns(const char *servers, const char *protocol, const char *check_hostname,
                  const char *piece) {
  mb_config *conf = mb_config_new();
  (void)!set(conf, "bootstrap_servers", servers);
  (void)!set(conf, "security_protocol", protocol);
  (void)!set(conf, "ssl_check_hostname", check_hostname);
  warned = 0;
  mb__config_warnings(conf, count_warning, NULL);
  char name[200];
  snprintf(name, sizeof name, "%s on %s, hostname check %s: %s", protocol, servers, check_hostname,
           piece ? "one warning" : "no warning");
  ok(piece ? warned == 1 && says(warning, piece, "") : warned == 0, "%s", name);
  mb_config_free(conf);
}

static void test_guard_warning(void) {
  mb_config *conf = mb_config_new();
  (void)!set(conf, "guard", "strict");
  warned = 0;
  mb__config_warnings(conf, count_warning, NULL);
  ok(warned == 1 && says(warning, "guard", ""), "guard strict without a limit: one warning");
  (void)!set(conf, "handler_timeout_ms", "1000");
  warned = 0;
  mb__config_warnings(conf, count_warning, NULL);
  ok(warned == 0, "guard strict with a limit: no warning");
  mb_config_free(conf);
}

/* Unset, it follows a short session; set, it stays, whichever of the two comes first. */
static void test_heartbeat(void) {
  static const char *const FOLLOWS[][2] = {{"30000", "3000"}, {"9000", "3000"}, {"8999", "2999"},
                                           {"6000", "2000"},  {"2", "1"},       {"60000", "3000"}};
  mb_config *conf = mb_config_new();
  for (size_t i = 0; i < sizeof FOLLOWS / sizeof *FOLLOWS; i++) {
    bool follows = set(conf, "session_timeout_ms", FOLLOWS[i][0]) == MB_OK &&
                   equal(mb_config_get(conf, "heartbeat_interval_ms"), FOLLOWS[i][1]) &&
                   mb_config_check(conf, err, sizeof err) == MB_OK;
    ok(follows, "a session of %s ms: a heartbeat every %s", FOLLOWS[i][0], FOLLOWS[i][1]);
  }
  ok(set(conf, "heartbeat_interval_ms", "5000") == MB_OK &&
         set(conf, "session_timeout_ms", "6000") == MB_OK &&
         equal(mb_config_get(conf, "heartbeat_interval_ms"), "5000"),
     "a heartbeat that was set stays");
  mb_config_free(conf);
}

static void test_group_protocol(void) {
  mb_config *conf = mb_config_new();
  (void)!set(conf, "group_protocol", "consumer");
  if (mb__able(MB_ABLE_CONSUMER_PROTOCOL)) {
    ACCEPTED("group_protocol", "consumer");
    ACCEPTED("group_protocol", "consumer", "heartbeat_interval_ms", "60000");
    REFUSED("group_protocol", "embedded", "group_protocol", "consumer", "bootstrap_servers",
            "embedded");
  } else {
    ok(mb_config_check(conf, err, sizeof err) == MB_ECONFIG &&
           says(err, "group_protocol = \"consumer\"", "2.12.0"),
       "the consumer protocol is refused with an old librdkafka");
  }
  warned = 0;
  mb__config_warnings(conf, count_warning, NULL);
  ok(warned == 0, "the consumer protocol alone: no warning");
  (void)!set(conf, "heartbeat_interval_ms", "1000");
  (void)!set(conf, "session_timeout_ms", "6000");
  (void)!set(conf, "max_poll_interval_ms", "60000");
  mb__config_warnings(conf, count_warning, NULL);
  ok(warned == 2 && says(warning, "heartbeat_interval_ms has no effect", "group.consumer"),
     "a warning for each option that was set and that the broker governs");
  (void)!set(conf, "group_protocol", "classic");
  mb__config_warnings(conf, count_warning, NULL);
  ok(warned == 2, "with the classic protocol: no warning");
  mb_config_free(conf);
}

static void test_token_warning(void) {
  static const char *const URLS[][2] = {{"http://login.example.com/token", "unencrypted"},
                                        {"http://127.0.0.1:8080/token", NULL},
                                        {"https://login.example.com/token", NULL}};
  for (size_t i = 0; i < sizeof URLS / sizeof *URLS; i++) {
    mb_config *conf = mb_config_new();
    (void)!set(conf, "security_protocol", "SASL_SSL");
    (void)!set(conf, "sasl_mechanism", "OAUTHBEARER");
    (void)!set(conf, "sasl_oauthbearer_token_endpoint_url", URLS[i][0]);
    warned = 0;
    mb__config_warnings(conf, count_warning, NULL);
    ok(URLS[i][1] ? warned == 1 && says(warning, "sasl_oauthbearer_token_endpoint_url", URLS[i][1])
                  : warned == 0,
       "tokens from %s: %s", URLS[i][0], URLS[i][1] ? "a warning" : "no warning");
    mb_config_free(conf);
  }
}

static void test_warnings(void) {
  warns("kafka:9092", "PLAINTEXT", "true", "PLAINTEXT");
  warns("localhost:9092", "PLAINTEXT", "true", NULL);
  warns("LOCALHOST", "PLAINTEXT", "false", NULL);
  warns("127.0.0.1:9092,[::1]:9092", "PLAINTEXT", "true", NULL);
  warns("embedded", "PLAINTEXT", "true", NULL);
  warns("localhost:9092,kafka", "PLAINTEXT", "true", "PLAINTEXT");
  warns("127.evil.example:9092", "PLAINTEXT", "true", "PLAINTEXT");
  warns("kafka:9092", "SASL_PLAINTEXT", "true", "SASL_PLAINTEXT");
  warns("kafka:9092", "SSL", "true", NULL);
  warns("kafka:9092", "SSL", "false", "ssl_check_hostname");
  warns("kafka:9092", "SASL_SSL", "false", "ssl_check_hostname");
}

static void test_errors(void) {
  ok(equal(mb_err_name(MB_OK), "OK") && equal(mb_err_name(MB_EFULL), "EFULL") &&
         equal(mb_err_name((mb_err)-99), "EUNKNOWN") && equal(mb_err_name((mb_err)5), "EUNKNOWN"),
     "error codes have names");
  ok(equal(mb_err_text(MB_EFULL), "the producer queue is full") && *mb_err_text((mb_err)-99),
     "error codes have texts");
  mb_bytes absent = mb_str(NULL), empty = mb_str(""), word = mb_str("abc");
  ok(!absent.data && !absent.len && empty.data && !empty.len && word.len == 3,
     "mb_str distinguishes absent from empty");
}

static void keep_warning(const char *text, void *opaque) {
  snprintf(opaque, 256, "%s", text);
}

static void test_old_names(void) {
  char warned[256] = "";
  mb_config *conf = mb_config_new();
  ok(!set(conf, "bootstrap_servers", "embedded"), "an embedded broker gives no warning either");
  mb__config_warnings(conf, keep_warning, warned);
  ok(!warned[0], "options under their names give no warning");
  ok(!set(conf, "dlq_brake_run", "7") && mb__conf_int(conf, MB_OPT_dlq_breaker_run) == 7 &&
         !strcmp(mb_config_get(conf, "dlq_brake_run"), "7"),
     "an option can be set and read under its old name");
  mb_config *copy = mb__config_copy(conf);
  mb__config_warnings(copy, keep_warning, warned);
  ok(strstr(warned, "dlq_brake_run is deprecated; set dlq_breaker_run instead"),
     "which the warnings report, with the new name");
  mb_config_free(copy);
  warned[0] = 0;
  ok(!set(conf, "dlq_breaker_run", "8"), "and set under the new one");
  mb__config_warnings(conf, keep_warning, warned);
  ok(!warned[0] && mb__conf_int(conf, MB_OPT_dlq_breaker_run) == 8, "which has no warning");
  ok(set(conf, "dlq_brake_run", "x") == MB_ECONFIG && strstr(err, "dlq_breaker_run"),
     "an error names the new one");
  mb_config_free(conf);
  conf = mb_config_new();
  setenv("MOONBUS_DLQ_BRAKE_WINDOW", "9", 1);
  ok(!mb_config_set_env(conf, err, sizeof err) &&
         mb__conf_int(conf, MB_OPT_dlq_breaker_window) == 9,
     "a variable may have the old name");
  setenv("MOONBUS_DLQ_BREAKER_WINDOW", "10", 1);
  ok(!mb_config_set_env(conf, err, sizeof err) &&
         mb__conf_int(conf, MB_OPT_dlq_breaker_window) == 10,
     "beside it the new one counts");
  unsetenv("MOONBUS_DLQ_BRAKE_WINDOW");
  unsetenv("MOONBUS_DLQ_BREAKER_WINDOW");
  mb_config_free(conf);
}

int main(void) {
  test_errors();
  test_defaults();
  test_rows();
  test_values();
  test_strategy();
  test_unknown();
  test_sources();
  test_derived_and_copy();
  test_shown();
  test_rules_servers();
  test_rules();
  test_rules_security();
  test_rules_oauth();
  test_warnings();
  test_guard_warning();
  test_heartbeat();
  test_group_protocol();
  test_token_warning();
  test_old_names();
  return done();
}
