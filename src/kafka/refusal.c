/* kafka/refusal.c: makes sentences of refused logins, certificates and permissions.
 * Must not know buses, or what becomes of them after a refusal. */
#include "kafka/refusal.h"

#include <stdlib.h>
#include <string.h>

#include "kafka/ability.h"

#define NO_TLS_HERE                                                                                \
  "the port may be one without TLS: set security_protocol to PLAINTEXT or SASL_PLAINTEXT"
#define LOGIN_HERE                                                                                 \
  "where the broker closes connections, its port may require a login: set security_protocol to "   \
  "SASL_PLAINTEXT or SASL_SSL"

mb_err mb__err_of(rd_kafka_resp_err_t err) {
  switch (err) {
  case RD_KAFKA_RESP_ERR_NO_ERROR: return MB_OK;
  case RD_KAFKA_RESP_ERR__QUEUE_FULL: return MB_EFULL;
  case RD_KAFKA_RESP_ERR__TIMED_OUT:
  case RD_KAFKA_RESP_ERR__MSG_TIMED_OUT:
  case RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT: return MB_ETIMEOUT;
  case RD_KAFKA_RESP_ERR__TRANSPORT:
  case RD_KAFKA_RESP_ERR__RESOLVE:
  case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN: return MB_ECONNECT;
  case RD_KAFKA_RESP_ERR__AUTHENTICATION:
  case RD_KAFKA_RESP_ERR__SSL:
  case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
  case RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
  case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
  case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
  case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED: return MB_EAUTH;
  case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
  case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
  case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
  case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION: return MB_ETOPIC;
  case RD_KAFKA_RESP_ERR__FATAL: return MB_EFATAL;
  case RD_KAFKA_RESP_ERR__INVALID_ARG: return MB_EINVAL;
  case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE: return MB_EDELIVERY;
  default: return MB_EKAFKA;
  }
}

/* ---- certificates of brokers ---- */

/* librdkafka says "could not be verified" of every certificate; OpenSSL's numbers say why. */
static const struct certificate_error {
  int number;
  const char *what, *todo;
} CERTIFICATE_ERRORS[] = {
    {10, "has expired", "renew it on the broker"},
    {9, "is not valid yet", "check the clocks of this host and of the broker's authority"},
    {62, "is for another host name",
     "reach the broker by a name that is in its certificate (bootstrap_servers, and the broker's "
     "advertised.listeners), or set ssl_check_hostname to false"},
    {64, "is for another IP address",
     "reach the broker by a name or address that is in its certificate (bootstrap_servers, and the "
     "broker's advertised.listeners), or set ssl_check_hostname to false"},
    {18, "is signed by itself, and not trusted", "name it in ssl_cafile"},
    {19, "comes from an authority that is not trusted", "name that authority in ssl_cafile"},
    {20, "comes from an authority that is not trusted", "name that authority in ssl_cafile"},
    {21, "comes from an authority that is not trusted", "name that authority in ssl_cafile"},
    {23, "is revoked", "renew it on the broker"},
};

static void certificate_text(int number, const char *connection, char *text, size_t size) {
  const size_t count = sizeof CERTIFICATE_ERRORS / sizeof *CERTIFICATE_ERRORS;
  for (size_t i = 0; i < count; i++) {
    if (CERTIFICATE_ERRORS[i].number != number) continue;
    mb__text(text, size, "%s: the broker's certificate %s; %s", connection,
             CERTIFICATE_ERRORS[i].what, CERTIFICATE_ERRORS[i].todo);
    return;
  }
  mb__text(text, size,
           "%s: the broker's certificate is not trusted (OpenSSL's X.509 error %d); check "
           "ssl_cafile",
           connection, number);
}

/* ---- logins ---- */

/* What librdkafka's reason has in it, and what to do about that; the first that is found counts. */
static const struct hint {
  const char *piece, *todo;
} HINTS[] = {
    {"invalid_token",
     "the broker does not take the token: check that the token server's issuer, audience and keys "
     "are those that the broker expects, and sasl_oauthbearer_scope"},
    {"SSL alert number",
     "the broker does not accept this client's certificate, or requires one: check ssl_certfile "
     "and ssl_keyfile"},
    {"certificate verify failed", "check ssl_cafile"},
    {"mechanism handshake failed",
     "check that the broker's listener has sasl_mechanism, and that security_protocol is right for "
     "its port"},
    {"OAUTHBEARER", "check the sasl_oauthbearer_ options"},
    {"uthentication", "check sasl_username, sasl_password and sasl_mechanism"},
};

static const char *hint(const char *reason) {
  for (size_t i = 0; i < sizeof HINTS / sizeof *HINTS; i++)
    if (strstr(reason, HINTS[i].piece)) return HINTS[i].todo;
  return "check security_protocol, and the sasl_ and ssl_ options";
}

static void login_text(mb_login *login, const char *reason, char *text, size_t size) {
  static const char no_token[] = "Failed to acquire SASL OAUTHBEARER token: ";
  int number = login->certificate;
  const char *handshake = strstr(reason, ": SSL handshake failed");
  if (number && handshake && strstr(reason, "certificate verify failed")) {
    char connection[400];
    mb__text(connection, sizeof connection, "%.*s", (int)(handshake - reason), reason);
    certificate_text(number, connection, text, size);
  } else if (strncmp(reason, no_token, sizeof no_token - 1) == 0) {
    mb__text(text, size,
             "no token from %.500s: %.1000s; check sasl_oauthbearer_token_endpoint_url, "
             "sasl_oauthbearer_client_id and sasl_oauthbearer_client_secret",
             mb__conf_str(login->conf, MB_OPT_sasl_oauthbearer_token_endpoint_url),
             reason + sizeof no_token - 1);
  } else {
    bool old = mb__conf_uses_scram(login->conf) && !mb__able(MB_ABLE_SCRAM);
    char why[MB_WHY_MAX] = "";
    if (old) mb__able_why(MB_ABLE_SCRAM, why, sizeof why);
    mb__text(text, size, "%.1000s; %s%s%s", reason, hint(reason), old ? "; " : "", why);
  }
}

/* Whether the broker ended TLS for what this client is, not for what came damaged over the network:
 * RFC 8446, section 6. */
static bool is_refused_by_alert(const char *reason) {
  static const char before[] = "SSL alert number ";
  const char *at = strstr(reason, before);
  int number = at ? atoi(at + sizeof before - 1) : 0;
  return (number >= 40 && number <= 46) || number == 48 || number == 49 || number == 70 ||
         number == 71 || number == 116;
}

rd_kafka_resp_err_t mb__refusal_code(rd_kafka_resp_err_t code, const char *reason) {
  bool alert = strstr(reason, "SSL alert number") != NULL;
  if (alert && (code == RD_KAFKA_RESP_ERR__TRANSPORT || code == RD_KAFKA_RESP_ERR__SSL))
    return is_refused_by_alert(reason) ? RD_KAFKA_RESP_ERR__SSL : RD_KAFKA_RESP_ERR__TRANSPORT;
  if (code == RD_KAFKA_RESP_ERR__AUTHENTICATION &&
      strstr(reason, "handshake failed: Local: Broker transport failure"))
    return RD_KAFKA_RESP_ERR__TRANSPORT;
  return code;
}

bool mb__refusal_is_login(rd_kafka_resp_err_t code) {
  return code == RD_KAFKA_RESP_ERR__SSL || code == RD_KAFKA_RESP_ERR__AUTHENTICATION ||
         code == RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED;
}

/* ---- permissions ---- */

/* The user that the broker takes this client for, if the configuration names one. */
static const char *user(const mb_config *conf, char *text, size_t size) {
  const char *name = NULL;
  if (mb__conf_uses_oauth(conf))
    name = mb__conf_str(conf, MB_OPT_sasl_oauthbearer_client_id);
  else if (mb__conf_uses_sasl(conf))
    name = mb__conf_str(conf, MB_OPT_sasl_username);
  if (name)
    mb__text(text, size, "user \"%s\"", name);
  else if (mb__conf_uses_ssl(conf) && mb__conf_str(conf, MB_OPT_ssl_certfile))
    mb__text(text, size, "the user of ssl_certfile");
  else
    mb__text(text, size, "a client without a login");
  return text;
}

static const char *or_unknown(const char *name) {
  return name ? name : "?";
}

/* ---- connections ---- */

/* What becomes of a connection whose security_protocol is another than its port's, as librdkafka's
 * reasons have it. A broker closes a connection without a word where it expected a login. */
static const struct mismatch {
  const char *piece;
  enum { WITHOUT_TLS, WITH_TLS, WITHOUT_LOGIN } client;
  const char *todo;
} MISMATCHES[] = {
    {"connecting to a PLAINTEXT broker listener", WITH_TLS, NO_TLS_HERE},
    {"in state SSL_HANDSHAKE", WITH_TLS, NO_TLS_HERE},
    {"connecting to a SSL listener", WITHOUT_TLS,
     "the port may require TLS: set security_protocol to SSL or SASL_SSL"},
    {"Disconnected", WITHOUT_LOGIN, LOGIN_HERE},
    {"Broken pipe", WITHOUT_LOGIN, LOGIN_HERE},
    {"Connection reset by peer", WITHOUT_LOGIN, LOGIN_HERE},
};

static const char *mismatch(const mb_config *conf, const char *reason) {
  for (size_t i = 0; i < sizeof MISMATCHES / sizeof *MISMATCHES; i++) {
    const struct mismatch *m = &MISMATCHES[i];
    bool fits = (m->client == WITH_TLS && mb__conf_uses_ssl(conf)) ||
                (m->client == WITHOUT_TLS && !mb__conf_uses_ssl(conf)) ||
                (m->client == WITHOUT_LOGIN && !mb__conf_uses_sasl(conf));
    if (fits && strstr(reason, m->piece)) return m->todo;
  }
  return NULL;
}

void mb__refusal_text(mb_login *login, rd_kafka_resp_err_t code, const char *reason,
                      const mb_request *request, char *text, size_t size) {
  char who[300];
  user(login->conf, who, sizeof who);
  switch (code) {
  case RD_KAFKA_RESP_ERR__SSL:
  case RD_KAFKA_RESP_ERR__AUTHENTICATION:
  case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED: login_text(login, reason, text, size); break;
  case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
    mb__text(text, size, "topic \"%.249s\" is denied to %s: %s; grant %s on the topic",
             or_unknown(request->topic), who, rd_kafka_err2str(code),
             request->rights ? request->rights : "Describe");
    break;
  case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
    mb__text(text, size,
             "group \"%.249s\" is denied to %s: %s; grant Read on the group, or check "
             "consumer_group",
             or_unknown(request->group), who, rd_kafka_err2str(code));
    break;
  case RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
    mb__text(text, size,
             "transactional id \"%.249s\" is denied to %s: %s; grant Write and Describe on it, or "
             "check transactional_id",
             or_unknown(request->transactional_id), who, rd_kafka_err2str(code));
    break;
  case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
    mb__text(text, size,
             "the cluster is denied to %s: %s; to publish with acks = \"all\", grant Write on a "
             "topic or IdempotentWrite on the cluster; to create topics, Create",
             who, rd_kafka_err2str(code));
    break;
  case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
  case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
    mb__text(text, size, "%.1000s; check that topic \"%.249s\" exists", reason,
             or_unknown(request->topic));
    break;
  default:
    mb__text(text, size, "%s%s", reason,
             strstr(reason, "receive.message.max.bytes") ? "; raise fetch_max_bytes" : "");
  }
}

/* ---- troubles ---- */

/* How much an error says. A lost connection may be anything, unless it was so from the start. */
static int weight(const mb_config *conf, rd_kafka_resp_err_t code, const char *reason) {
  const char *todo = mismatch(conf, reason);
  if (mb__refusal_is_login(code)) return 3;
  if (todo && strcmp(todo, LOGIN_HERE) != 0) return 2;
  return code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN ? 0 : 1;
}

bool mb__trouble_note(mb_trouble *trouble, mb_login *login, rd_kafka_resp_err_t code,
                      const char *reason, const mb_request *request) {
  code = mb__refusal_code(code, reason);
  int known = trouble->code ? weight(login->conf, trouble->code, trouble->text) : -1;
  if (weight(login->conf, code, reason) < known) return false;
  trouble->code = code;
  mb__refusal_text(login, code, reason, request, trouble->text, sizeof trouble->text);
  return true;
}

bool mb__trouble_is_silence(rd_kafka_resp_err_t code) {
  mb_err err = mb__err_of(code);
  return err == MB_ECONNECT || err == MB_ETIMEOUT;
}

/* Without a token, librdkafka tries no connection, and reports nothing while it asks for one again
 * and again, or waits for the answer. */
mb_err mb__trouble_error(const mb_trouble *trouble, const mb_config *conf, rd_kafka_resp_err_t code,
                         char *errstr, size_t errstr_size) {
  const char *servers = mb__conf_str(conf, MB_OPT_bootstrap_servers);
  const char *why = trouble->code ? trouble->text : code ? rd_kafka_err2str(code) : NULL;
  const char *todo = why ? mismatch(conf, why) : NULL;
  if (mb__err_of(trouble->code) == MB_EAUTH)
    return mb__error(MB_EAUTH, errstr, errstr_size, "%s%s: %s",
                     mb__refusal_is_login(trouble->code) ? "no login at " : "refused by ", servers,
                     trouble->text);
  if (!trouble->code && mb__conf_uses_oauth(conf))
    return mb__error(MB_ECONNECT, errstr, errstr_size,
                     "no token came from %s in time, and without one no broker is asked; is the "
                     "token server running, and is sasl_oauthbearer_token_endpoint_url right?",
                     mb__conf_str(conf, MB_OPT_sasl_oauthbearer_token_endpoint_url));
  return mb__error(MB_ECONNECT, errstr, errstr_size,
                   "no broker answers at %s%s%s%s%s; is it running, are bootstrap_servers and "
                   "security_protocol right?",
                   servers, why ? ": " : "", why ? why : "", todo ? "; " : "", todo ? todo : "");
}

const char *mb__refusal_undelivered(rd_kafka_resp_err_t err) {
  if (err == RD_KAFKA_RESP_ERR__MSG_TIMED_OUT)
    return "Local: Message timed out; it may have reached the broker all the same";
  if (err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE)
    return "Message size too large; message_max_bytes (and fetch_max_bytes, which must not be "
           "below "
           "it), and the topic's max.message.bytes, say what may be sent";
  if (err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED)
    return "Broker: Topic authorization failed; grant the user Write on the topic";
  return rd_kafka_err2str(err);
}
