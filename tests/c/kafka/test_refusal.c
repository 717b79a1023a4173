/* What is said of refused logins, certificates and permissions. */
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "kafka/refusal.h"

static char text[MB_REFUSAL_MAX];

static bool says(const char *piece) {
  if (strstr(text, piece)) return true;
  printf("# \"%s\" is missing in: %s\n", piece, text);
  return false;
}

static mb_config *with(const char *protocol, const char *mechanism) {
  char err[256];
  mb_config *conf = mb_config_new();
  (void)!mb_config_set(conf, "security_protocol", protocol, MB_FROM_SCRIPT, err, sizeof err);
  (void)!mb_config_set(conf, "sasl_mechanism", mechanism, MB_FROM_SCRIPT, err, sizeof err);
  (void)!mb_config_set(conf, "sasl_username", "app", MB_FROM_SCRIPT, err, sizeof err);
  (void)!mb_config_set(conf, "sasl_oauthbearer_client_id", "job", MB_FROM_SCRIPT, err, sizeof err);
  (void)!mb_config_set(conf, "sasl_oauthbearer_token_endpoint_url", "https://login/token",
                       MB_FROM_SCRIPT, err, sizeof err);
  return conf;
}

static void test_permissions(void) {
  static const mb_request request = {"t.stream", "Write", "g", "x"};
  static const struct {
    rd_kafka_resp_err_t code;
    const char *what, *todo;
  } CASES[] = {
      {RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, "topic \"t.stream\" is denied to user \"app\"",
       "grant Write on the topic"},
      {RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED, "group \"g\" is denied to user \"app\"",
       "consumer_group"},
      {RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
       "transactional id \"x\" is denied to user \"app\"", "transactional_id"},
      {RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED, "denied to user \"app\"", "IdempotentWrite"},
  };
  mb_config *conf = with("SASL_SSL", "PLAIN");
  mb_login login = {.conf = conf};
  for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
    mb__refusal_text(&login, CASES[i].code, "reason", &request, text, sizeof text);
    ok(says(CASES[i].what) && says(CASES[i].todo) && says("uthorization failed") &&
           !mb__refusal_is_login(CASES[i].code),
       "%s names what is denied, to whom, and what to do", rd_kafka_err2name(CASES[i].code));
  }
  mb_config_free(conf);
  static const char *const USERS[][3] = {{"SASL_SSL", "OAUTHBEARER", "user \"job\""},
                                         {"PLAINTEXT", "PLAIN", "a client without a login"}};
  for (size_t i = 0; i < sizeof USERS / sizeof *USERS; i++) {
    login.conf = conf = with(USERS[i][0], USERS[i][1]);
    mb__refusal_text(&login, CASES[0].code, "reason", &request, text, sizeof text);
    ok(says(USERS[i][2]), "the user of %s with %s", USERS[i][0], USERS[i][1]);
    mb_config_free(conf);
  }
}

static void test_certificates(void) {
  static const char reason[] = "ssl://b:1/bootstrap: SSL handshake failed: error:0A000086:SSL "
                               "routines::certificate verify failed: broker certificate could not";
  static const struct {
    int number;
    const char *what, *todo;
  } CASES[] = {{10, "has expired", "renew"},
               {62, "is for another host name", "ssl_check_hostname"},
               {19, "authority that is not trusted", "ssl_cafile"},
               {20, "authority that is not trusted", "ssl_cafile"},
               {99, "X.509 error 99", "ssl_cafile"}};
  mb_config *conf = with("SSL", "PLAIN");
  for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
    mb_login login = {.conf = conf, .certificate = CASES[i].number};
    mb__refusal_text(&login, RD_KAFKA_RESP_ERR__SSL, reason, &(mb_request){0}, text, sizeof text);
    ok(says("ssl://b:1/bootstrap: the broker's certificate ") && says(CASES[i].what) &&
           says(CASES[i].todo),
       "error %d is named", CASES[i].number);
  }
  mb_config_free(conf);
}

static void test_logins(void) {
  static const struct {
    rd_kafka_resp_err_t code, becomes;
    const char *reason, *todo;
  } CASES[] = {
      {RD_KAFKA_RESP_ERR__TRANSPORT, RD_KAFKA_RESP_ERR__SSL,
       "ssl://b:1: Receive failed: sslv3 alert bad certificate: SSL alert number 42",
       "ssl_certfile"},
      {RD_KAFKA_RESP_ERR__TRANSPORT, RD_KAFKA_RESP_ERR__TRANSPORT,
       "ssl://b:1: Receive failed: SSL alert bad record mac: SSL alert number 20",
       "SSL alert number 20"},
      {RD_KAFKA_RESP_ERR__SSL, RD_KAFKA_RESP_ERR__TRANSPORT,
       "ssl://b:1: SSL handshake failed: tlsv1 alert internal error: SSL alert number 80",
       "SSL alert number 80"},
      {RD_KAFKA_RESP_ERR__SSL, RD_KAFKA_RESP_ERR__SSL,
       "ssl://b:1: SSL handshake failed: tlsv13 alert certificate required: SSL alert number 116",
       "ssl_keyfile"},
      {RD_KAFKA_RESP_ERR__TRANSPORT, RD_KAFKA_RESP_ERR__TRANSPORT,
       "b:1: Receive failed: Invalid response size 9 (0..8): increase receive.message.max.bytes",
       "raise fetch_max_bytes"},
      {RD_KAFKA_RESP_ERR__TRANSPORT, RD_KAFKA_RESP_ERR__TRANSPORT, "b:1: Disconnected",
       "b:1: Disconnected"},
      {RD_KAFKA_RESP_ERR__AUTHENTICATION, RD_KAFKA_RESP_ERR__TRANSPORT,
       "b:1: SASL PLAIN mechanism handshake failed: Local: Broker transport failure: x",
       "handshake failed"},
      {RD_KAFKA_RESP_ERR__AUTHENTICATION, RD_KAFKA_RESP_ERR__AUTHENTICATION,
       "b:1: SASL authentication error: Authentication failed: Invalid username or password",
       "sasl_password"},
      {RD_KAFKA_RESP_ERR__AUTHENTICATION, RD_KAFKA_RESP_ERR__AUTHENTICATION,
       "b:1: SASL PLAIN mechanism handshake failed: Broker: Unsupported SASL mechanism",
       "sasl_mechanism"},
      {RD_KAFKA_RESP_ERR__AUTHENTICATION, RD_KAFKA_RESP_ERR__AUTHENTICATION,
       "b:1: SASL authentication error: {\"status\":\"invalid_token\"}", "sasl_oauthbearer_scope"},
      {RD_KAFKA_RESP_ERR__AUTHENTICATION, RD_KAFKA_RESP_ERR__AUTHENTICATION,
       "Failed to acquire SASL OAUTHBEARER token: no route",
       "no token from https://login/token: no route"},
  };
  mb_config *conf = with("SASL_SSL", "OAUTHBEARER");
  mb_login login = {.conf = conf};
  for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
    rd_kafka_resp_err_t code = mb__refusal_code(CASES[i].code, CASES[i].reason);
    mb__refusal_text(&login, code, CASES[i].reason, &(mb_request){0}, text, sizeof text);
    ok(code == CASES[i].becomes && says(CASES[i].todo) &&
           mb__refusal_is_login(code) == (code != RD_KAFKA_RESP_ERR__TRANSPORT),
       "%s", CASES[i].reason);
  }
  char longest[1000];
  memset(longest, 'x', sizeof longest);
  longest[sizeof longest - 1] = 0;
  mb__refusal_text(&login, RD_KAFKA_RESP_ERR__AUTHENTICATION, longest, &(mb_request){0}, text,
                   sizeof text);
  ok(says("; check "), "a long reason leaves room for what to do");
  mb_config_free(conf);
}

/* What comes of errors in that order, when nothing was answered. */
static mb_err after(const char *protocol, const char *const *reasons, size_t count) {
  mb_config *conf = with(protocol, "PLAIN");
  mb_login login = {.conf = conf};
  static mb_trouble trouble;
  trouble.code = RD_KAFKA_RESP_ERR_NO_ERROR;
  for (size_t i = 0; i < count; i++) {
    rd_kafka_resp_err_t code =
        strstr(reasons[i], "uthentication failed") ? RD_KAFKA_RESP_ERR__AUTHENTICATION
        : strstr(reasons[i], "are down")           ? RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN
                                                   : RD_KAFKA_RESP_ERR__TRANSPORT;
    mb__trouble_note(&trouble, &login, code, reasons[i], &(mb_request){0});
  }
  mb_err err = mb__trouble_error(&trouble, conf, RD_KAFKA_RESP_ERR__TIMED_OUT, text, sizeof text);
  mb_config_free(conf);
  return err;
}

static void test_troubles(void) {
  static const char tls[] = "b:1: Disconnected while requesting ApiVersion: might be caused by "
                            "incorrect security.protocol configuration (connecting to a SSL "
                            "listener?) (after 2ms in state APIVERSION_QUERY)";
  static const char closed[] = "b:1: Disconnected (after 0ms in state UP)";
  static const char plain[] = "ssl://b:1: Disconnected (after 1ms in state SSL_HANDSHAKE)";
  static const char refused[] = "b:1: Connect to ipv4#127.0.0.1:1 failed: Connection refused";
  static const char login[] = "b:1: SASL authentication error: Authentication failed: Invalid";
  static const char down[] = "1/1 brokers are down";
  static const struct {
    const char *protocol, *reasons[3];
    mb_err err;
    const char *says, *not ;
  } CASES[] = {
      {"PLAINTEXT", {tls, closed, down}, MB_ECONNECT, "set security_protocol to SSL or", "login"},
      {"PLAINTEXT", {refused, closed, down}, MB_ECONNECT, "may require a login", "refused"},
      {"SSL", {refused, down, closed}, MB_ECONNECT, "may require a login", "without TLS"},
      {"PLAINTEXT", {closed, refused, down}, MB_ECONNECT, "Connection refused", "login"},
      {"SSL",
       {plain, refused, down},
       MB_ECONNECT,
       "set security_protocol to PLAINTEXT or",
       "login"},
      {"SASL_PLAINTEXT", {closed, down, down}, MB_ECONNECT, "Disconnected", "require a login"},
      {"SASL_PLAINTEXT", {login, closed, tls}, MB_EAUTH, "no login at ", "Disconnected"},
      {"SASL_SSL", {down, plain, login}, MB_EAUTH, "check sasl_username", "without TLS"},
  };
  for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
    mb_err err = after(CASES[i].protocol, CASES[i].reasons, 3);
    ok(err == CASES[i].err && says(CASES[i].says) && !strstr(text, CASES[i].not ),
       "%s, after %s: %s", CASES[i].protocol, CASES[i].reasons[0], CASES[i].says);
  }
  ok(after("PLAINTEXT", NULL, 0) == MB_ECONNECT && says("Timed out; is it running"),
     "where no error is known, that of the request is");
}

/* A sentence that has too little room says so, and ends with a whole character. */
static void test_room(void) {
  char small[16];
  mb__error(MB_EIO, small, sizeof small, "%s", "short enough");
  ok(strcmp(small, "short enough") == 0, "what fits is whole");
  mb__error(MB_EIO, small, sizeof small, "0123456789a\xc3\xa9\xc3\xa9\xc3\xa9");
  ok(strcmp(small, "0123456789a...") == 0, "what does not ends in ...: %s", small);
  mb__text(small, sizeof small, "%015d", 1);
  ok(strlen(small) == 15 && !strstr(small, "..."), "the last byte is used");
  memset(small, 'x', sizeof small);
  mb__error(MB_EIO, small, 3, "longer");
  ok(strcmp(small, "lo") == 0 && small[3] == 'x', "so little room that it has no mark");
}

int main(void) {
  test_permissions();
  test_certificates();
  test_logins();
  test_troubles();
  test_room();
  return done();
}
