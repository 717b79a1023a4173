/* topics.c: what there is on the broker: partitions, offsets; and making topics.
 * Must not read or write records.
 * Called by dlq.c, replay.c and reader.c, and through moonbus.h by users. */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define ASK_MS 5000

static mb_err silent(mb_bus *bus, rd_kafka_resp_err_t code, char *errstr, size_t errstr_size) {
  return mb__error(mb__err_of(code) == MB_ETIMEOUT ? MB_ECONNECT : mb__err_of(code), errstr,
                   errstr_size, "no broker answers at %s: %s",
                   mb_config_get(bus->conf, "bootstrap_servers"), rd_kafka_err2str(code));
}

mb_err mb__topic_look(mb_bus *bus, rd_kafka_t *rk, const char *topic, int64_t wait_us, int *count,
                      char *errstr, size_t errstr_size) {
  const struct rd_kafka_metadata *metadata = NULL;
  int64_t end = mb__mono_us() + wait_us;
  for (;;) {
    rd_kafka_topic_t *handle = rd_kafka_topic_new(rk, topic, NULL);
    if (!handle)
      return mb__error(MB_ETOPIC, errstr, errstr_size, "\"%s\" is not a legal topic name", topic);
    rd_kafka_resp_err_t code = rd_kafka_metadata(rk, 0, handle, &metadata, ASK_MS);
    rd_kafka_topic_destroy(handle);
    if (code) return silent(bus, code, errstr, errstr_size);
    rd_kafka_resp_err_t why =
        metadata->topic_cnt ? metadata->topics[0].err : RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
    int partitions = metadata->topic_cnt ? metadata->topics[0].partition_cnt : 0;
    rd_kafka_metadata_destroy(metadata);
    if (partitions > 0 && !why) {
      *count = partitions;
      return MB_OK;
    }
    if (mb__mono_us() > end || (why && why != RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE &&
                                why != RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART))
      return mb__error(mb__err_of(why) == MB_EAUTH ? MB_EAUTH : MB_ETOPIC, errstr, errstr_size,
                       "topic \"%s\": %s", topic, rd_kafka_err2str(why));
    rd_kafka_poll(rk, 50);
  }
}

mb_err mb__topic_want(mb_bus *bus, const char *topic, int *count, char *errstr,
                      size_t errstr_size) {
  rd_kafka_t *rk = NULL;
  mb_err err = mb__bus_client(bus, &rk, errstr, errstr_size);
  if (err) return err;
  return mb__topic_look(bus, rk, topic, MB_TOPIC_WAIT_US, count, errstr, errstr_size);
}

mb_err mb_bus_topic_partitions(mb_bus *bus, const char *topic, int *count, char *errstr,
                               size_t errstr_size) {
  int64_t end = mb__mono_us() + MB_TOPIC_NEWS_US;
  bool exists = false;
  if (!topic) topic = bus->topic;
  for (;;) {
    mb_err err = mb__topic_exists(bus, topic, &exists, errstr, errstr_size);
    if (err) return err;
    if (exists) return mb__topic_want(bus, topic, count, errstr, errstr_size);
    if (mb__mono_us() > end)
      return mb__error(MB_ETOPIC, errstr, errstr_size,
                       "topic \"%s\" does not exist, or this user may not see it", topic);
    rd_kafka_poll(mb__producer_handle(bus), 50);
  }
}

mb_err mb__topic_exists(mb_bus *bus, const char *topic, bool *exists, char *errstr,
                        size_t errstr_size) {
  rd_kafka_t *rk = NULL;
  const struct rd_kafka_metadata *metadata = NULL;
  mb_err err = mb__bus_client(bus, &rk, errstr, errstr_size);
  if (err) return err;
  /* A broker may create the topic that it is asked about by name; so it is asked for all. */
  rd_kafka_resp_err_t code = rd_kafka_metadata(rk, 1, NULL, &metadata, ASK_MS);
  if (code) return silent(bus, code, errstr, errstr_size);
  *exists = false;
  for (int i = 0; i < metadata->topic_cnt; i++)
    if (strcmp(metadata->topics[i].topic, topic) == 0) *exists = true;
  rd_kafka_metadata_destroy(metadata);
  return MB_OK;
}

mb_err mb__topic_ends(mb_bus *bus, rd_kafka_t *rk, const char *topic, int32_t partition,
                      int timeout_ms, int64_t *low, int64_t *high, char *errstr,
                      size_t errstr_size) {
  int64_t end = mb__mono_us() + MB_TOPIC_WAIT_US;
  for (;;) {
    int partitions;
    rd_kafka_resp_err_t code =
        rd_kafka_query_watermark_offsets(rk, topic, partition, low, high, timeout_ms);
    if (!code) return MB_OK;
    /* A partition made a moment ago may have no leader yet, or one that does not know it. */
    bool young = code == RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION ||
                 code == RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
    if (!young || mb__mono_us() > end ||
        mb__topic_look(bus, rk, topic, MB_TOPIC_NEWS_US, &partitions, NULL, 0))
      return mb__error(mb__err_of(code), errstr, errstr_size, "offsets of %s[%d]: %s", topic,
                       (int)partition, rd_kafka_err2str(code));
    rd_kafka_poll(rk, 50);
  }
}

mb_err mb_topic_offsets(mb_bus *bus, const char *topic, int32_t partition, int64_t *low,
                        int64_t *high, char *errstr, size_t errstr_size) {
  rd_kafka_t *rk = NULL;
  mb_err err = mb__bus_client(bus, &rk, errstr, errstr_size);
  if (err) return err;
  return mb__topic_ends(bus, rk, topic ? topic : bus->topic, partition, ASK_MS, low, high, errstr,
                        errstr_size);
}

static mb_err created(rd_kafka_event_t *event, const char *topic, char *errstr,
                      size_t errstr_size) {
  if (!event || rd_kafka_event_error(event)) {
    rd_kafka_resp_err_t code = event ? rd_kafka_event_error(event) : RD_KAFKA_RESP_ERR__TIMED_OUT;
    return mb__error(code == RD_KAFKA_RESP_ERR__TIMED_OUT ? MB_ECONNECT : mb__err_of(code), errstr,
                     errstr_size, "topic \"%s\" not created: %s", topic,
                     event ? rd_kafka_event_error_string(event) : rd_kafka_err2str(code));
  }
  size_t count;
  const rd_kafka_topic_result_t **results =
      rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &count);
  rd_kafka_resp_err_t code =
      count ? rd_kafka_topic_result_error(results[0]) : RD_KAFKA_RESP_ERR_UNKNOWN;
  if (!code) return MB_OK;
  const char *why = count ? rd_kafka_topic_result_error_string(results[0]) : NULL;
  mb_err err = code == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS ? MB_EINVAL : mb__err_of(code);
  return mb__error(err, errstr, errstr_size, "topic \"%s\" not created: %s", topic,
                   why ? why : rd_kafka_err2str(code));
}

mb_err mb_topic_create(mb_bus *bus, const char *topic, int partitions, int replication,
                       char *errstr, size_t errstr_size) {
  rd_kafka_t *rk = NULL;
  char text[256];
  if (!topic) return mb__error(MB_EINVAL, errstr, errstr_size, "a topic's name is wanted");
  if (mb__topic_name_check(topic, "topic", errstr, errstr_size)) return MB_ETOPIC;
  if (partitions < 1 || partitions > 10000)
    return mb__error(MB_EINVAL, errstr, errstr_size, "partitions: 1 to 10000, not %d", partitions);
  if (bus->embedded)
    return mb_broker_topic_create(bus->embedded, topic, partitions, errstr, errstr_size);
  mb_err err = mb__bus_client(bus, &rk, errstr, errstr_size);
  if (err) return err;
  rd_kafka_NewTopic_t *topics[1] = {rd_kafka_NewTopic_new(
      topic, partitions, replication > 0 ? replication : -1, text, sizeof text)};
  if (!topics[0]) return mb__error(MB_EINVAL, errstr, errstr_size, "topic \"%s\": %s", topic, text);
  rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
  rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_CREATETOPICS);
  rd_kafka_AdminOptions_set_request_timeout(options, ASK_MS, NULL, 0);
  rd_kafka_CreateTopics(rk, topics, 1, options, queue);
  rd_kafka_event_t *event = rd_kafka_queue_poll(queue, ASK_MS + 1000);
  err = created(event, topic, errstr, errstr_size);
  if (event) rd_kafka_event_destroy(event);
  rd_kafka_AdminOptions_destroy(options);
  rd_kafka_queue_destroy(queue);
  rd_kafka_NewTopic_destroy(topics[0]);
  return err;
}
