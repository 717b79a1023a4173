/* kafka/topics.c: what there is on the broker: partitions, offsets; and making topics.
 * Must not read or write records.
 * Called by bus/topics.c, deliver/dead_letter.c, dlq/replay.c, kafka/count.c and kafka/reader.c. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "kafka/broker.h"
#include "kafka/context.h"
#include "kafka/producer.h"
#include "kafka/topics.h"

#define ASK_MS         MB_TOPIC_ASK_MS
#define FIRST_PAUSE_MS 50 /* between looks at a partition that has no leader yet */
#define MOST_PAUSE_MS  1000

/* Let librdkafka call the error callbacks for what happened meanwhile. A reader has no assignment
   yet. */
static const mb_trouble *trouble_of(mb_client *client) {
  rd_kafka_t *rk = mb__client_handle(client);
  rd_kafka_message_t *record;
  if (rd_kafka_type(rk) == RD_KAFKA_PRODUCER)
    rd_kafka_poll(rk, 0);
  else
    while ((record = rd_kafka_consumer_poll(rk, 0))) rd_kafka_message_destroy(record);
  return mb__client_trouble(client);
}

mb_err mb__client_silent(mb_client *client, const mb_config *conf, rd_kafka_resp_err_t code,
                         const char *what, char *errstr, size_t errstr_size) {
  const mb_trouble *trouble = trouble_of(client);
  if (mb__trouble_is_silence(code) && (trouble->code || !what))
    return mb__trouble_error(trouble, conf, code, errstr, errstr_size);
  return mb__error(mb__err_of(code), errstr, errstr_size, "%s: %s", what, rd_kafka_err2str(code));
}

/* Nothing but the topic's name was asked for: that no answer came says it all. */
static const char *silent(rd_kafka_resp_err_t code, const char *topic) {
  return mb__trouble_is_silence(code) ? NULL : topic;
}

static mb_err denied(mb_context *ctx, rd_kafka_resp_err_t code, const char *topic,
                     const char *rights, char *errstr, size_t errstr_size) {
  char text[MB_REFUSAL_MAX];
  mb__producer_refusal_text(ctx, code, rd_kafka_err2str(code), topic, rights, text, sizeof text);
  return mb__error(MB_EAUTH, errstr, errstr_size, "%s", text);
}

static int64_t wait_us(const mb_context *ctx) {
  int64_t connect_us = (int64_t)ctx->connect_ms * 1000;
  return connect_us > MB_TOPIC_WAIT_US ? connect_us : MB_TOPIC_WAIT_US;
}

/* ---- looking ---- */

/* The topic is not there, or the broker does not say. */
static mb_err not_found(mb_context *ctx, mb_client *client, const char *topic,
                        rd_kafka_resp_err_t code, rd_kafka_resp_err_t why, char *errstr,
                        size_t errstr_size) {
  if (code == RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION)
    return mb__error(MB_ETOPIC, errstr, errstr_size, "\"%s\" is not a legal topic name", topic);
  if (code)
    return mb__client_silent(client, ctx->conf, code, silent(code, topic), errstr, errstr_size);
  if (mb__err_of(why) == MB_EAUTH)
    return denied(ctx, why, topic, "Describe, and Create where it does not exist yet,", errstr,
                  errstr_size);
  return mb__error(MB_ETOPIC, errstr, errstr_size, "topic \"%s\": %s", topic,
                   rd_kafka_err2str(why));
}

mb_err mb__topic_look(mb_context *ctx, mb_client *client, const char *topic, int64_t wait_us,
                      int *count, char *errstr, size_t errstr_size) {
  mb_topic_wait wait;
  mb__topic_wait_begin(&wait, client, wait_us);
  for (;;) {
    const struct rd_kafka_metadata *metadata = NULL;
    int ask_ms = mb__topic_wait_ask_ms(&wait);
    if (wait_us < ASK_MS * 1000) ask_ms = ASK_MS; /* the first answer may take longer than news */
    rd_kafka_resp_err_t why = RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
    rd_kafka_resp_err_t code = mb__client_metadata(client, topic, &metadata, ask_ms);
    int partitions = 0;
    mb__topic_wait_note(&wait, code, metadata);
    if (!code && metadata->topic_cnt) {
      why = metadata->topics[0].err;
      partitions = metadata->topics[0].partition_cnt;
    }
    if (!code) rd_kafka_metadata_destroy(metadata);
    if (partitions > 0 && !why) {
      *count = partitions;
      return MB_OK;
    }
    bool final = code == RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION ||
                 (why && why != RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE &&
                  why != RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    if (!final && !mb__context_host_ends(ctx) && mb__topic_wait_on(&wait)) continue;
    if (!final && mb__topic_wait_denied(&wait)) code = RD_KAFKA_RESP_ERR_NO_ERROR;
    return not_found(ctx, client, topic, code, why, errstr, errstr_size);
  }
}

mb_err mb__topic_want(mb_context *ctx, const char *topic, int *count, char *errstr,
                      size_t errstr_size) {
  mb_client *client = NULL;
  mb_err err = mb__producer_client_open(ctx, &client, errstr, errstr_size);
  if (err) return err;
  return mb__topic_look(ctx, client, topic, wait_us(ctx), count, errstr, errstr_size);
}

mb_err mb__topic_partitions(mb_context *ctx, const char *topic, int *count, char *errstr,
                            size_t errstr_size) {
  int64_t end = mb__mono_us() + MB_TOPIC_NEWS_US;
  bool exists = false;
  for (;;) {
    mb_err err = mb__topic_exists(ctx, topic, &exists, errstr, errstr_size);
    if (err) return err;
    if (exists) return mb__topic_want(ctx, topic, count, errstr, errstr_size);
    if (mb__mono_us() > end)
      return mb__error(MB_ETOPIC, errstr, errstr_size,
                       "topic \"%s\" does not exist, or this user may not see it", topic);
    rd_kafka_poll(mb__producer_handle(ctx), 50);
  }
}

mb_err mb__topic_exists(mb_context *ctx, const char *topic, bool *exists, char *errstr,
                        size_t errstr_size) {
  mb_client *client = NULL;
  const struct rd_kafka_metadata *metadata = NULL;
  mb_err err = mb__producer_client_open(ctx, &client, errstr, errstr_size);
  if (err) return err;
  /* A broker may create the topic that it is asked about by name; so it is asked for all. */
  rd_kafka_resp_err_t code = mb__client_metadata(client, NULL, &metadata, ASK_MS);
  if (code)
    return mb__client_silent(client, ctx->conf, code, silent(code, topic), errstr, errstr_size);
  *exists = false;
  for (int i = 0; i < metadata->topic_cnt; i++)
    if (strcmp(metadata->topics[i].topic, topic) == 0) *exists = true;
  rd_kafka_metadata_destroy(metadata);
  return MB_OK;
}

static mb_err no_offsets(mb_context *ctx, mb_client *client, rd_kafka_resp_err_t code,
                         const char *topic, int32_t partition, char *errstr, size_t errstr_size) {
  char what[300];
  snprintf(what, sizeof what, "offsets of %s[%d]", topic, (int)partition);
  return mb__client_silent(client, ctx->conf, code, what, errstr, errstr_size);
}

mb_err mb__topic_ends(mb_context *ctx, mb_client *client, const char *topic, int32_t partition,
                      int timeout_ms, int64_t *low, int64_t *high, char *errstr,
                      size_t errstr_size) {
  int64_t end = mb__mono_us() + wait_us(ctx);
  int pause_ms = FIRST_PAUSE_MS;
  for (;;) {
    int partitions;
    rd_kafka_resp_err_t code =
        mb__client_watermarks(client, topic, partition, low, high, timeout_ms);
    if (!code) return MB_OK;
    if (mb__err_of(code) == MB_EAUTH)
      return denied(ctx, code, topic, "Describe", errstr, errstr_size);
    /* A partition made a moment ago may have no leader yet, or one that does not know it. */
    bool young = code == RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION ||
                 code == RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
    if (!young || mb__mono_us() > end || mb__context_host_ends(ctx) ||
        mb__topic_look(ctx, client, topic, MB_TOPIC_NEWS_US, &partitions, NULL, 0))
      return no_offsets(ctx, client, code, topic, partition, errstr, errstr_size);
    rd_kafka_poll(mb__client_handle(client), pause_ms);
    if (pause_ms < MOST_PAUSE_MS) pause_ms *= 2;
  }
}

mb_err mb__topic_offsets(mb_context *ctx, const char *topic, int32_t partition, int64_t *low,
                         int64_t *high, char *errstr, size_t errstr_size) {
  mb_client *client = NULL;
  mb_err err = mb__producer_client_open(ctx, &client, errstr, errstr_size);
  if (err) return err;
  return mb__topic_ends(ctx, client, topic, partition, ASK_MS, low, high, errstr, errstr_size);
}

static mb_err created(mb_context *ctx, mb_client *client, rd_kafka_event_t *event,
                      const char *topic, char *errstr, size_t errstr_size) {
  if (!event || rd_kafka_event_error(event)) {
    rd_kafka_resp_err_t code = event ? rd_kafka_event_error(event) : RD_KAFKA_RESP_ERR__TIMED_OUT;
    if (trouble_of(client)->code && mb__trouble_is_silence(code))
      return mb__trouble_error(mb__client_trouble(client), ctx->conf, code, errstr, errstr_size);
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
  if (err == MB_EAUTH) return denied(ctx, code, topic, "Create", errstr, errstr_size);
  return mb__error(err, errstr, errstr_size, "topic \"%s\" not created: %s", topic,
                   why ? why : rd_kafka_err2str(code));
}

mb_err mb__topic_create(mb_context *ctx, const char *topic, int partitions, int replication,
                        char *errstr, size_t errstr_size) {
  mb_client *client = NULL;
  char text[512];
  if (!topic)
    return mb__error(MB_EINVAL, errstr, errstr_size, "expected the name of a topic, got NULL");
  if (mb__topic_name_check(topic, "topic", errstr, errstr_size)) return MB_ETOPIC;
  if (partitions < 1 || partitions > 10000)
    return mb__error(MB_EINVAL, errstr, errstr_size, "partitions: 1 to 10000, not %d", partitions);
  if (ctx->embedded)
    return mb_broker_topic_create(ctx->embedded, topic, partitions, errstr, errstr_size);
  mb_err err = mb__producer_client_open(ctx, &client, errstr, errstr_size);
  if (err) return err;
  rd_kafka_t *rk = mb__client_handle(client);
  rd_kafka_NewTopic_t *topics[1] = {rd_kafka_NewTopic_new(
      topic, partitions, replication > 0 ? replication : -1, text, sizeof text)};
  if (!topics[0]) return mb__error(MB_EINVAL, errstr, errstr_size, "topic \"%s\": %s", topic, text);
  rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
  rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_CREATETOPICS);
  rd_kafka_AdminOptions_set_request_timeout(options, ASK_MS, NULL, 0);
  rd_kafka_CreateTopics(rk, topics, 1, options, queue);
  rd_kafka_event_t *event = rd_kafka_queue_poll(queue, ASK_MS + 1000);
  err = created(ctx, client, event, topic, errstr, errstr_size);
  if (event) rd_kafka_event_destroy(event);
  rd_kafka_AdminOptions_destroy(options);
  rd_kafka_queue_destroy(queue);
  rd_kafka_NewTopic_destroy(topics[0]);
  return err;
}
