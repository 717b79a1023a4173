/* kafka/refusal.h: what was refused, by whom, and which option to look at: of logins, certificates
 * and permissions. */
#ifndef MB_REFUSAL_H
#define MB_REFUSAL_H

#include <librdkafka/rdkafka.h>

#include "base/error.h"
#include "config/config.h"

#define MB_REFUSAL_MAX 2048 /* bytes that hold every sentence made here */

/* What a bus knows of its logins. */
typedef struct mb_login {
  const mb_config *conf; /* borrowed */
  int certificate;       /* mb__client_certificate of the client that an error came from */
} mb_login;

/* What the broker was asked for when it refused; NULL where that plays no part. */
typedef struct mb_request {
  const char *topic;
  const char *rights; /* on the topic, in Kafka's words: "Read and Describe" */
  const char *group;
  const char *transactional_id;
} mb_request;

/* librdkafka's error as ours. */
mb_err mb__err_of(rd_kafka_resp_err_t err);
/* librdkafka's code for an error, put right: a refused certificate of this client comes as a lost
 * connection, and one that is lost during a login as a refused login. */
rd_kafka_resp_err_t mb__refusal_code(rd_kafka_resp_err_t code, const char *reason);
/* Whether it was the login that was refused, with all connections; otherwise a permission was. */
bool mb__refusal_is_login(rd_kafka_resp_err_t code);
/* Write what was refused, librdkafka's reason, and what to do about it. Of other errors: the
 * reason. */
void mb__refusal_text(mb_login *login, rd_kafka_resp_err_t code, const char *reason,
                      const mb_request *request, char *text, size_t size);

/* Why a record was not delivered, and what is to be known of that. Static. */
const char *mb__refusal_undelivered(rd_kafka_resp_err_t err);

/* ---- troubles: what a client knows of why it gets no answers ---- */

typedef struct mb_trouble {
  rd_kafka_resp_err_t code; /* 0 = none is known */
  char text[MB_REFUSAL_MAX];
} mb_trouble;

/* Note an error of librdkafka, unless the one that is known says more: a refused login more than
 * the lost connections that follow from it, what a broker did with a connection more than that it
 * is lost, and one of those more than that all are.
 * returns false if it was not noted */
bool mb__trouble_note(mb_trouble *trouble, mb_login *login, rd_kafka_resp_err_t code,
                      const char *reason, const mb_request *request);
/* Whether an error says that no answer came, so that the trouble may be its cause. */
bool mb__trouble_is_silence(rd_kafka_resp_err_t code);
/* The one sentence for "no answer came", or for a refusal: MB_EAUTH or MB_ECONNECT.
 * code  of the request; said where no trouble is known; 0 = none */
mb_err mb__trouble_error(const mb_trouble *trouble, const mb_config *conf, rd_kafka_resp_err_t code,
                         char *errstr, size_t errstr_size);

#endif
