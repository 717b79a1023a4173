/* config/check.c: what several options must agree on, and what is legal but not wise.
 * Must not know how options are set, nor librdkafka.
 * Called by mb_bus_new, `moonbus check` and the Lua side. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "config/config.h"

#define TOPIC_MAX 249

#define FAIL(...) mb__error(MB_ECONFIG, errstr, errstr_size, __VA_ARGS__)

static bool is_empty(const mb_config *conf, mb_opt id) {
  const char *text = mb__conf_str(conf, id);
  return !text || !*text;
}

/* ---- servers ----------------------------------------------------------- */

typedef struct server {
  const char *at; /* of the whole entry, for messages */
  size_t len;
  const char *host; /* without the brackets of an IPv6 address */
  size_t host_len;
  const char *wrong; /* static text; NULL when well formed */
} server;

static const char *port_error(const char *port, size_t len) {
  long number = 0;
  for (size_t i = 0; i < len; i++) {
    if (port[i] < '0' || port[i] > '9' || i >= 5) return "its port must be a number, 1 to 65535";
    number = number * 10 + (port[i] - '0');
  }
  return number < 1 || number > 65535 ? "its port must be a number, 1 to 65535" : NULL;
}

static size_t span(const char *at, size_t len, const char *accept) {
  size_t n = 0;
  while (n < len && strchr(accept, at[n]) && at[n]) n++;
  return n;
}

#define LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define ALNUM   LETTERS "0123456789"

static void split_server(server *s) {
  const char *rest;
  size_t rest_len;
  if (s->len && s->at[0] == '[') {
    const char *close = memchr(s->at, ']', s->len);
    s->host = s->at + 1;
    s->host_len = close ? (size_t)(close - s->host) : 0;
    if (!s->host_len || span(s->host, s->host_len, ALNUM ":.%") != s->host_len) {
      s->wrong = "an IPv6 address is written [address]:port";
      return;
    }
    rest = close + 1;
  } else {
    s->host = s->at;
    s->host_len = span(s->at, s->len, ALNUM "._-");
    rest = s->at + s->host_len;
  }
  rest_len = s->len - (size_t)(rest - s->at);
  if (!s->len)
    s->wrong = "there is an empty entry";
  else if (!s->host_len)
    s->wrong = "its host name is missing";
  else if (rest_len >= 3 && memcmp(rest, "://", 3) == 0)
    s->wrong = "write it without a scheme";
  else if (rest_len && rest[0] != ':')
    s->wrong = "a host name cannot have such a character";
  else if (rest_len && memchr(rest + 1, ':', rest_len - 1))
    s->wrong = "an IPv6 address is written [address]:port";
  else if (rest_len)
    s->wrong = port_error(rest + 1, rest_len - 1);
}

/* The next server of a list; *at starts at the list and is NULL after its last. Blanks after a
 * comma are passed over, as librdkafka does. */
static bool next_server(const char **at, server *s) {
  if (!*at) return false;
  const char *begin = *at + strspn(*at, " ");
  const char *end = begin + strcspn(begin, ",");
  *s = (server){.at = begin, .len = (size_t)(end - begin)};
  *at = *end ? end + 1 : NULL;
  split_server(s);
  return true;
}

static mb_err check_servers(mb_config *conf, char *errstr, size_t errstr_size) {
  if (is_empty(conf, MB_OPT_bootstrap_servers)) {
    return FAIL("bootstrap_servers is empty; write host:port, several separated by commas");
  }
  if (mb__config_is_embedded(conf)) {
    if (mb__conf_is(conf, MB_OPT_security_protocol, "PLAINTEXT")) return MB_OK;
    return FAIL("security_protocol: the embedded broker (bootstrap_servers) knows only PLAINTEXT");
  }
  server s;
  for (const char *at = mb__conf_str(conf, MB_OPT_bootstrap_servers); next_server(&at, &s);) {
    if (!s.wrong && s.len == 8 && memcmp(s.at, "embedded", 8) == 0) {
      s.wrong = "the embedded broker cannot be one of several";
    }
    if (!s.wrong) continue;
    return FAIL("bootstrap_servers: \"%.*s\": %s; write host:port, several separated by commas",
                (int)(s.len < 100 ? s.len : 100), s.at, s.wrong);
  }
  return MB_OK;
}

/* ---- names ------------------------------------------------------------- */

mb_err mb__topic_name_check(const char *topic, const char *governs, char *errstr,
                            size_t errstr_size) {
  size_t len = strlen(topic);
  if (!len || strcmp(topic, ".") == 0 || strcmp(topic, "..") == 0)
    return FAIL("%s: \"%s\" is no topic name", governs, topic);
  size_t legal = span(topic, len, ALNUM "._-");
  if (legal < len) {
    return FAIL("%s: a topic name has only letters, digits, '.', '_' and '-'; \"%.100s\" has "
                "something else at character %zu",
                governs, topic, legal + 1);
  }
  if (len > TOPIC_MAX) {
    return FAIL("%s: a topic name has at most %d characters, this would make one of %zu", governs,
                TOPIC_MAX, len);
  }
  return MB_OK;
}

static mb_err check_names(mb_config *conf, char *errstr, size_t errstr_size) {
  if (is_empty(conf, MB_OPT_topic_prefix)) {
    return FAIL("topic_prefix is empty; the topic is {topic_prefix}.stream");
  }
  if (is_empty(conf, MB_OPT_consumer_group)) {
    return FAIL("consumer_group is empty; name the group that shares the partitions");
  }
  if (is_empty(conf, MB_OPT_dlq_topic_suffix)) {
    return FAIL("dlq_topic_suffix is empty; dead letters would go to the main topic");
  }
  const char *topic = mb_config_get(conf, "topic_name");
  const char *dlq = mb_config_get(conf, "dlq_topic_name");
  if (!topic || !dlq) return mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
  mb_err err = mb__topic_name_check(topic, "topic_prefix", errstr, errstr_size);
  return err ? err : mb__topic_name_check(dlq, "dlq_topic_suffix", errstr, errstr_size);
}

/* ---- times and sizes --------------------------------------------------- */

static mb_err check_group(mb_config *conf, char *errstr, size_t errstr_size) {
  long long concurrency = mb__conf_int(conf, MB_OPT_concurrency);
  if (concurrency > 1 && mb__conf_is(conf, MB_OPT_delivery, "exactly_once"))
    return FAIL("concurrency %lld does not go with delivery exactly_once: a transaction holds what "
                "whole handlers publish, and would be committed while others are half done; more "
                "members of the group work at once instead",
                concurrency);
  if (mb__conf_broker_assigns(conf)) {
    if (mb__config_is_embedded(conf))
      return FAIL("group_protocol consumer: the embedded broker (bootstrap_servers) has only "
                  "classic; leave it unset, or use a Kafka 4");
    return MB_OK;
  }
  long long heartbeat = mb__conf_int(conf, MB_OPT_heartbeat_interval_ms);
  long long session = mb__conf_int(conf, MB_OPT_session_timeout_ms);
  long long poll = mb__conf_int(conf, MB_OPT_max_poll_interval_ms);
  if (heartbeat >= session) {
    return FAIL("heartbeat_interval_ms (%lld) must be below session_timeout_ms (%lld), best a "
                "third of it: at most %lld",
                heartbeat, session, session / 3);
  }
  if (session > poll) {
    return FAIL("session_timeout_ms (%lld) must not be above max_poll_interval_ms (%lld)", session,
                poll);
  }
  return MB_OK;
}

static mb_err check_times(mb_config *conf, char *errstr, size_t errstr_size) {
  double base = mb__conf_num(conf, MB_OPT_retry_base_delay);
  double max = mb__conf_num(conf, MB_OPT_retry_max_delay);
  if (!(base > 0)) return FAIL("retry_base_delay must be above 0 s");
  if (max < base) {
    return FAIL("retry_max_delay (%.10g s) must not be below retry_base_delay (%.10g s)", max,
                base);
  }
  long long least = mb__conf_int(conf, MB_OPT_reconnect_backoff_ms);
  long long most = mb__conf_int(conf, MB_OPT_reconnect_backoff_max_ms);
  if (most < least) {
    return FAIL("reconnect_backoff_max_ms (%lld) must not be below reconnect_backoff_ms (%lld)",
                most, least);
  }
  long long linger = mb__conf_int(conf, MB_OPT_linger_ms);
  long long delivery = mb__conf_int(conf, MB_OPT_delivery_timeout_ms);
  if (linger >= delivery) {
    return FAIL("linger_ms (%lld) must be below delivery_timeout_ms (%lld)", linger, delivery);
  }
  long long record = mb__conf_int(conf, MB_OPT_message_max_bytes);
  long long fetch = mb__conf_int(conf, MB_OPT_fetch_max_bytes);
  if (fetch < record) {
    return FAIL("fetch_max_bytes (%lld) must not be below message_max_bytes (%lld)", fetch, record);
  }
  return MB_OK;
}

/* ---- security ---------------------------------------------------------- */

/* Which options a mechanism needs, and which belong to others. */
static mb_err check_login(mb_config *conf, const mb_opt *needs, size_t need_count,
                          const mb_opt *others, size_t other_count, char *errstr,
                          size_t errstr_size) {
  const char *mechanism = mb__conf_str(conf, MB_OPT_sasl_mechanism);
  for (size_t i = 0; i < need_count; i++)
    if (is_empty(conf, needs[i]))
      return FAIL("%s is required with sasl_mechanism %s (security_protocol %s)",
                  mb__conf_row(needs[i])->public.key, mechanism,
                  mb__conf_str(conf, MB_OPT_security_protocol));
  for (size_t i = 0; i < other_count; i++)
    if (!is_empty(conf, others[i]))
      return FAIL("%s does not go with sasl_mechanism %s, which logs in with %s and %s; unset it, "
                  "or choose another sasl_mechanism",
                  mb__conf_row(others[i])->public.key, mechanism,
                  mb__conf_row(needs[0])->public.key, mb__conf_row(needs[1])->public.key);
  return MB_OK;
}

/* The host of the URL; wrong is set unless it is one that tokens can be fetched from. */
static server url_host(const char *url) {
  size_t scheme = strncmp(url, "https://", 8) == 0 ? 8 : strncmp(url, "http://", 7) == 0 ? 7 : 0;
  server s = {.at = url + scheme, .len = strcspn(url + scheme, "/?")};
  if (!scheme)
    s.wrong = "it must begin with https:// or http://";
  else if (!s.len)
    s.wrong = "its host name is missing";
  else if (url[span(url, strlen(url), ALNUM "-._~:/?#[]@!$&'()*+,;=%")])
    s.wrong = "a character of it must be written as % and two hexadecimal digits";
  else if (memchr(s.at, '@', s.len))
    s.wrong = "a login does not belong into it; set sasl_oauthbearer_client_id and "
              "sasl_oauthbearer_client_secret";
  else
    split_server(&s);
  return s;
}

/* name=value, several separated by commas; librdkafka drops what is written otherwise in silence.
 */
static mb_err check_extensions(mb_config *conf, char *errstr, size_t errstr_size) {
  const char *at = mb__conf_str(conf, MB_OPT_sasl_oauthbearer_extensions);
  while (at && *at) {
    size_t len = strcspn(at, ","), name = span(at, len, LETTERS);
    const char *wrong = NULL;
    if (!name || name == len || at[name] != '=')
      wrong = "write name=value, the name in letters, several separated by commas";
    else if (name == 4 && memcmp(at, "auth", 4) == 0)
      wrong = "the name auth is the token's own; choose another";
    else if (name + 1 == len)
      wrong = "its value is missing; write name=value";
    if (wrong)
      return FAIL("sasl_oauthbearer_extensions: \"%.*s\": %s", (int)(len < 100 ? len : 100), at,
                  wrong);
    at += len + (at[len] == ',');
  }
  return MB_OK;
}

static const mb_opt PASSWORD_LOGIN[] = {MB_OPT_sasl_username, MB_OPT_sasl_password};
static const mb_opt TOKEN_LOGIN[] = {
    MB_OPT_sasl_oauthbearer_client_id, MB_OPT_sasl_oauthbearer_client_secret,
    MB_OPT_sasl_oauthbearer_token_endpoint_url, MB_OPT_sasl_oauthbearer_scope,
    MB_OPT_sasl_oauthbearer_extensions};

static mb_err check_oauth(mb_config *conf, char *errstr, size_t errstr_size) {
  mb_err err = check_login(conf, TOKEN_LOGIN, 3, PASSWORD_LOGIN, 2, errstr, errstr_size);
  if (err) return err;
  const char *url = mb__conf_str(conf, MB_OPT_sasl_oauthbearer_token_endpoint_url);
  server host = url_host(url);
  if (host.wrong)
    return FAIL("sasl_oauthbearer_token_endpoint_url: %s; write it as in "
                "https://login.example.com/token",
                host.wrong);
  return check_extensions(conf, errstr, errstr_size);
}

static mb_err check_sasl(mb_config *conf, char *errstr, size_t errstr_size) {
  if (!mb__conf_uses_sasl(conf)) return MB_OK;
  if (is_empty(conf, MB_OPT_sasl_mechanism)) {
    return FAIL("sasl_mechanism is required with security_protocol %s; choose PLAIN, "
                "SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER",
                mb__conf_str(conf, MB_OPT_security_protocol));
  }
  if (mb__conf_uses_oauth(conf)) return check_oauth(conf, errstr, errstr_size);
  return check_login(conf, PASSWORD_LOGIN, 2, TOKEN_LOGIN, sizeof TOKEN_LOGIN / sizeof *TOKEN_LOGIN,
                     errstr, errstr_size);
}

/* The path itself only in the message when the option is not a secret. */
static mb_err check_readable(mb_config *conf, mb_opt id, char *errstr, size_t errstr_size) {
  const char *path = mb__conf_str(conf, id);
  if (!path || access(path, R_OK) == 0) return MB_OK;
  const char *reason = strerror(errno), *key = mb__conf_row(id)->public.key;
  return FAIL("%s: %.200s cannot be read: %s; name a PEM file this process may read", key,
              mb__config_shown(conf, key), reason);
}

static mb_err check_ssl(mb_config *conf, char *errstr, size_t errstr_size) {
  if (!mb__conf_uses_ssl(conf)) return MB_OK;
  bool cert = !is_empty(conf, MB_OPT_ssl_certfile), key = !is_empty(conf, MB_OPT_ssl_keyfile);
  if (cert && !key) return FAIL("ssl_keyfile is required with ssl_certfile: set both or neither");
  if (key && !cert) return FAIL("ssl_certfile is required with ssl_keyfile: set both or neither");
  static const mb_opt FILES[] = {MB_OPT_ssl_cafile, MB_OPT_ssl_certfile, MB_OPT_ssl_keyfile};
  for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++) {
    mb_err err = check_readable(conf, FILES[i], errstr, errstr_size);
    if (err) return err;
  }
  return MB_OK;
}

mb_err mb__config_check(mb_config *conf, char *errstr, size_t errstr_size) {
  static mb_err (*const RULES[])(mb_config *, char *, size_t) = {
      check_servers, check_names, check_group, check_times, check_sasl, check_ssl};
  if (!conf) return mb__error(MB_EINVAL, errstr, errstr_size, "no configuration given");
  for (size_t i = 0; i < sizeof RULES / sizeof *RULES; i++) {
    mb_err err = RULES[i](conf, errstr, errstr_size);
    if (err) return err;
  }
  return MB_OK;
}

/* ---- warnings ---------------------------------------------------------- */

static bool is_loopback(const server *s) {
  if (s->wrong) return false;
  if (s->host_len == 9 && strncasecmp(s->host, "localhost", 9) == 0) return true;
  if (s->host_len == 3 && memcmp(s->host, "::1", 3) == 0) return true;
  /* 127.0.0.1, and not a name that only begins like it */
  return s->host_len > 4 && memcmp(s->host, "127.", 4) == 0 &&
         span(s->host, s->host_len, "0123456789.") == s->host_len;
}

static bool stays_on_this_host(const mb_config *conf) {
  if (mb__config_is_embedded(conf)) return true;
  server s;
  for (const char *at = mb__conf_str(conf, MB_OPT_bootstrap_servers); next_server(&at, &s);) {
    if (!is_loopback(&s)) return false;
  }
  return true;
}

/* Options that are set and that the broker governs. */
static void warn_governed(const mb_config *conf, void (*emit)(const char *text, void *opaque),
                          void *opaque) {
  static const char TEXT[] = "%s has no effect with group_protocol consumer: the broker's settings "
                             "for the group (group.consumer.*) say it";
  char text[256];
  for (int id = 0; id < MB_OPT_COUNT; id++) {
    const mb_row *row = mb__conf_row((mb_opt)id);
    if (!(row->flags & MB_ONLY_CLASSIC) || mb__conf_source(conf, (mb_opt)id) == MB_FROM_DEFAULT)
      continue;
    snprintf(text, sizeof text, TEXT, row->public.key);
    emit(text, opaque);
  }
  for (size_t i = 0; i < conf->property_count; i++) {
    if (strcmp(conf->properties[i].name, MB__PROTOCOL_TYPE)) continue;
    snprintf(text, sizeof text, TEXT, "kafka property " MB__PROTOCOL_TYPE);
    emit(text, opaque);
  }
}

void mb__config_warnings(const mb_config *conf, void (*emit)(const char *text, void *opaque),
                         void *opaque) {
  for (int id = 0; id < MB_OPT_COUNT; id++) {
    char text[256];
    if (!conf->slots[id].by_old_name) continue;
    snprintf(text, sizeof text, "option %s is deprecated; set %s instead",
             mb__conf_old_name((mb_opt)id), mb__conf_row((mb_opt)id)->public.key);
    emit(text, opaque);
  }
  if (mb__conf_is(conf, MB_OPT_security_protocol, "PLAINTEXT") && !stays_on_this_host(conf)) {
    emit("security_protocol PLAINTEXT: events cross the network readable and without a login; "
         "production wants SASL_SSL or SSL",
         opaque);
  }
  if (mb__conf_is(conf, MB_OPT_security_protocol, "SASL_PLAINTEXT")) {
    emit("security_protocol SASL_PLAINTEXT: events and the login cross the network unencrypted; "
         "production wants SASL_SSL",
         opaque);
  }
  if (mb__conf_uses_oauth(conf)) {
    const char *url = mb__conf_str(conf, MB_OPT_sasl_oauthbearer_token_endpoint_url);
    server host = url_host(url);
    if (strncmp(url, "http://", 7) == 0 && !is_loopback(&host))
      emit("sasl_oauthbearer_token_endpoint_url: the client's secret and the token cross the "
           "network unencrypted; production wants https://",
           opaque);
  }
  if (mb__conf_uses_ssl(conf) && !mb__conf_bool(conf, MB_OPT_ssl_check_hostname)) {
    emit("ssl_check_hostname false: any broker with a certificate of a trusted authority is "
         "believed, whatever host it is for",
         opaque);
  }
  if (mb__conf_broker_assigns(conf)) warn_governed(conf, emit, opaque);
  if (mb__conf_is(conf, MB_OPT_guard, "strict") && !mb__conf_int(conf, MB_OPT_handler_timeout_ms))
    emit("guard strict: without a handler_timeout_ms it ends nothing", opaque);
}
