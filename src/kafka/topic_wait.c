/* kafka/topic_wait.c: waiting for a topic that the broker creates because it is asked for it: how
 * long to ask, how long to pause, and when it will not be created. Must not ask for the topic.
 * Called by kafka/producer.c and kafka/topics.c. */
#include "kafka/topic_wait.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"

#define FIRST_ASK_MS   500
#define FIRST_PAUSE_MS 50
#define MOST_PAUSE_MS  1000
#define SOON_US        500000  /* an answer that takes longer is that of a busy broker */
#define CONFIGURED_US  1000000 /* so long it is denied before the broker's configuration is read */
#define DESCRIBE_MS    2000

void mb__topic_wait_begin(mb_topic_wait *wait, mb_client *client, int64_t wait_us) {
  *wait = (mb_topic_wait){.client = client,
                          .end_us = mb__mono_us() + wait_us,
                          .ask_ms = FIRST_ASK_MS,
                          .pause_ms = FIRST_PAUSE_MS,
                          .broker = -1};
}

int mb__topic_wait_ask_ms(mb_topic_wait *wait) {
  int left_ms = mb__left_ms(wait->end_us);
  wait->asked_us = mb__mono_us();
  wait->cut = left_ms < wait->ask_ms;
  return wait->cut ? left_ms : wait->ask_ms;
}

void mb__topic_wait_note(mb_topic_wait *wait, rd_kafka_resp_err_t code,
                         const struct rd_kafka_metadata *metadata) {
  if (code == RD_KAFKA_RESP_ERR__TIMED_OUT && wait->cut) return; /* the look before counts */
  if (code) {
    if (code == RD_KAFKA_RESP_ERR__TIMED_OUT && wait->ask_ms < MB_TOPIC_ASK_MS) wait->ask_ms *= 2;
    wait->missing_us = 0;
    return;
  }
  if (metadata->topic_cnt && metadata->topics[0].err == RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE)
    wait->coming = true;
  wait->broker = metadata->orig_broker_id;
  int64_t now_us = mb__mono_us();
  if (now_us - wait->asked_us > SOON_US)
    wait->missing_us = now_us;
  else if (!wait->missing_us)
    wait->missing_us = wait->asked_us;
}

/* What the broker's configuration says; it may be kept from this user. */
static int creates_topics(const mb_topic_wait *wait) {
  char number[16];
  int creates = MB_CREATES_UNKNOWN, left_ms = mb__left_ms(wait->end_us);
  rd_kafka_t *rk = mb__client_handle(wait->client);
  int timeout_ms = left_ms < DESCRIBE_MS ? left_ms : DESCRIBE_MS;
  snprintf(number, sizeof number, "%d", (int)wait->broker);
  rd_kafka_ConfigResource_t *broker = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_BROKER, number);
  rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
  rd_kafka_AdminOptions_t *options =
      rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
  rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, NULL, 0);
  rd_kafka_DescribeConfigs(rk, &broker, 1, options, queue);
  rd_kafka_event_t *event = rd_kafka_queue_poll(queue, timeout_ms);
  const rd_kafka_DescribeConfigs_result_t *result =
      event ? rd_kafka_event_DescribeConfigs_result(event) : NULL;
  size_t resources = 0, count = 0;
  const rd_kafka_ConfigResource_t **found =
      result ? rd_kafka_DescribeConfigs_result_resources(result, &resources) : NULL;
  const rd_kafka_ConfigEntry_t **entries = resources && !rd_kafka_ConfigResource_error(found[0])
                                               ? rd_kafka_ConfigResource_configs(found[0], &count)
                                               : NULL;
  for (size_t i = 0; i < count; i++) {
    const char *value = rd_kafka_ConfigEntry_value(entries[i]);
    if (strcmp(rd_kafka_ConfigEntry_name(entries[i]), "auto.create.topics.enable") || !value)
      continue;
    creates = strcmp(value, "false") ? MB_CREATES : MB_CREATES_NONE;
  }
  if (event) rd_kafka_event_destroy(event);
  rd_kafka_AdminOptions_destroy(options);
  rd_kafka_queue_destroy(queue);
  rd_kafka_ConfigResource_destroy(broker);
  return creates;
}

bool mb__topic_wait_on(mb_topic_wait *wait) {
  int64_t now_us = mb__mono_us();
  int64_t missing_us = wait->missing_us && !wait->coming ? now_us - wait->missing_us : 0;
  if (now_us >= wait->end_us) return false;
  if (missing_us >= CONFIGURED_US && !wait->configured && wait->broker >= 0) {
    wait->configured = true;
    wait->creates = creates_topics(wait);
  }
  if (missing_us && wait->creates == MB_CREATES_NONE) return false;
  if (missing_us >= MB_TOPIC_WAIT_US && wait->creates == MB_CREATES_UNKNOWN) return false;
  int left_ms = mb__left_ms(wait->end_us);
  rd_kafka_poll(mb__client_handle(wait->client),
                wait->pause_ms < left_ms ? wait->pause_ms : left_ms);
  if (wait->missing_us && wait->pause_ms < MOST_PAUSE_MS) wait->pause_ms *= 2;
  return true;
}

bool mb__topic_wait_denied(const mb_topic_wait *wait) {
  return wait->missing_us != 0;
}

bool mb__topic_wait_refused(const mb_topic_wait *wait) {
  return wait->creates == MB_CREATES_NONE;
}
