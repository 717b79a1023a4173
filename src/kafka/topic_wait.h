/* kafka/topic_wait.h: waiting for a topic that the broker creates because it is asked for it. Does
 * not ask for topics itself. */
#ifndef MB_TOPIC_WAIT_H
#define MB_TOPIC_WAIT_H

#include "kafka/client.h"

/* How long a broker may deny a topic that it may have been asked to create, unless it says that it
 * creates topics. */
#define MB_TOPIC_WAIT_US 5000000
/* How long one request for metadata may take. */
#define MB_TOPIC_ASK_MS 5000

/* Waiting for a topic that the broker creates because it is asked for it. A busy broker may take
 * long; one that creates none is not waited for: it says so when asked for its configuration, or
 * denies the topic without delay for MB_TOPIC_WAIT_US. */
typedef struct mb_topic_wait {
  mb_client *client;
  int64_t end_us;
  int64_t asked_us;   /* when the last look began */
  int64_t missing_us; /* since when each look is answered soon, with no; 0 = the last was not */
  int ask_ms, pause_ms;
  int32_t broker;  /* which of them answered */
  bool cut;        /* the last look had less time than one needs: the end was near */
  bool coming;     /* it is being created */
  bool configured; /* the broker was asked whether it creates topics */
  enum { MB_CREATES_UNKNOWN, MB_CREATES_NONE, MB_CREATES } creates;
} mb_topic_wait;

void mb__topic_wait_begin(mb_topic_wait *wait, mb_client *client, int64_t wait_us);
/* A look begins: how long to wait for its answer. */
int mb__topic_wait_ask_ms(mb_topic_wait *wait);
/* It has ended. metadata: unless code is an error. */
void mb__topic_wait_note(mb_topic_wait *wait, rd_kafka_resp_err_t code,
                         const struct rd_kafka_metadata *metadata);
/* After a look that did not find it: pause, and true if another is worth it. */
bool mb__topic_wait_on(mb_topic_wait *wait);
/* true if the last look that had its time was answered: there is no such topic. */
bool mb__topic_wait_denied(const mb_topic_wait *wait);
/* true if the broker said that it creates no topics. */
bool mb__topic_wait_refused(const mb_topic_wait *wait);

#endif
