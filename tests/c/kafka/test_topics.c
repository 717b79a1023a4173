/* test_topics.c: what a broker may answer to the making of a topic.
 * Must not need a broker: the answers are made here, in place of librdkafka's. Run by ctest. */
#include <librdkafka/rdkafka.h>

#include "check.h"
#include "moonbus.h"

static char err[512];
static rd_kafka_event_t *const EVENT = (rd_kafka_event_t *)&err;
static const rd_kafka_topic_result_t *results[1];
static size_t result_count;
static rd_kafka_resp_err_t code;

void rd_kafka_CreateTopics(rd_kafka_t *rk, rd_kafka_NewTopic_t **topics, size_t count,
                           const rd_kafka_AdminOptions_t *options, rd_kafka_queue_t *queue) {
  (void)rk, (void)topics, (void)count, (void)options, (void)queue;
}

rd_kafka_event_t *rd_kafka_queue_poll(rd_kafka_queue_t *queue, int timeout_ms) {
  (void)queue, (void)timeout_ms;
  return EVENT;
}

rd_kafka_resp_err_t rd_kafka_event_error(rd_kafka_event_t *event) {
  (void)event;
  return RD_KAFKA_RESP_ERR_NO_ERROR;
}

const rd_kafka_CreateTopics_result_t *rd_kafka_event_CreateTopics_result(rd_kafka_event_t *event) {
  return (const rd_kafka_CreateTopics_result_t *)event;
}

const rd_kafka_topic_result_t **
rd_kafka_CreateTopics_result_topics(const rd_kafka_CreateTopics_result_t *result, size_t *count) {
  (void)result;
  *count = result_count;
  return result_count ? results : NULL;
}

rd_kafka_resp_err_t rd_kafka_topic_result_error(const rd_kafka_topic_result_t *result) {
  return result ? code : RD_KAFKA_RESP_ERR_UNKNOWN;
}

const char *rd_kafka_topic_result_error_string(const rd_kafka_topic_result_t *result) {
  return result == results[0] ? "as the broker says" : NULL;
}

void rd_kafka_event_destroy(rd_kafka_event_t *event) {
  (void)event;
}

static mb_err make(mb_bus *bus, size_t count, rd_kafka_resp_err_t answer) {
  results[0] = (const rd_kafka_topic_result_t *)&results;
  result_count = count;
  code = answer;
  return mb_topic_create(bus, "made", 1, 0, err, sizeof err);
}

int main(void) {
  mb_config *conf = mb_config_new();
  bool taken = !mb_config_set(conf, "bootstrap_servers", "localhost:1", MB_FROM_SCRIPT, err, 512) &&
               !mb_config_set(conf, "log_level", "error", MB_FROM_SCRIPT, err, 512);
  mb_bus *bus = taken ? mb_bus_new(conf, err, sizeof err) : NULL;
  mb_config_free(conf);
  if (!ok(bus, "a bus that is not connected")) return done();
  ok(make(bus, 1, RD_KAFKA_RESP_ERR_NO_ERROR) == MB_OK, "a topic is made");
  ok(make(bus, 1, RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS) == MB_EINVAL &&
         strstr(err, "as the broker says"),
     "one that is there already is not");
  ok(make(bus, 0, RD_KAFKA_RESP_ERR_NO_ERROR) == MB_EKAFKA && strstr(err, "not created"),
     "nor one that the answer does not speak of");
  mb_bus_free(bus);
  return done();
}
