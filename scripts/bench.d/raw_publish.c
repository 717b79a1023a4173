/* raw_publish.c: the hand-written producer: librdkafka's default batches, lz4, idempotent, every
 * delivery report looked at. Called by raw.c. */
#include <stdio.h>
#include <time.h>

#include "raw.h"

static int64_t delivered;

static void on_report(rd_kafka_t *rk, const rd_kafka_message_t *record, void *opaque) {
  (void)rk;
  (void)opaque;
  if (record->err) DIE("%s", rd_kafka_err2str(record->err));
  delivered++;
}

typedef struct writer {
  rd_kafka_t *rk;
  rd_kafka_topic_t *topic;
} writer;

static void open_writer(writer *writer, const char *address, const char *topic,
                        const char *linger_ms) {
  const char *const settings[] = {
      "enable.idempotence", "true",      "compression.type", "lz4", "partitioner",
      "murmur2_random",     "linger.ms", linger_ms,          NULL};
  char why[512];
  const struct rd_kafka_metadata *metadata;
  rd_kafka_conf_t *conf = configure(address, settings);
  rd_kafka_conf_set_dr_msg_cb(conf, on_report);
  writer->rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
  if (!writer->rk) DIE("%s", why);
  writer->topic = rd_kafka_topic_new(writer->rk, topic, NULL);
  rd_kafka_resp_err_t err = rd_kafka_metadata(writer->rk, 0, writer->topic, &metadata, 30000);
  if (err) DIE("%s", rd_kafka_err2str(err));
  rd_kafka_metadata_destroy(metadata);
}

static void close_writer(writer *writer) {
  rd_kafka_topic_destroy(writer->topic);
  rd_kafka_destroy(writer->rk);
}

static void produce(writer *writer, int64_t number, int64_t sent_us) {
  event event;
  event_make(&event, number, sent_us);
  rd_kafka_headers_t *headers = event_headers(&event);
  for (;;) {
    rd_kafka_vu_t vu[] = {
        {.vtype = RD_KAFKA_VTYPE_RKT, .u.rkt = writer->topic},
        {.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {event.key, 36}},
        {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {event.value, (size_t)event.value_len}},
        {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY},
        {.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = headers},
    };
    rd_kafka_error_t *error = rd_kafka_produceva(writer->rk, vu, sizeof vu / sizeof *vu);
    if (!error) return;
    if (rd_kafka_error_code(error) != RD_KAFKA_RESP_ERR__QUEUE_FULL)
      DIE("%s", rd_kafka_error_string(error));
    rd_kafka_error_destroy(error);
    rd_kafka_poll(writer->rk, 10);
  }
}

int publish(const char *address, const char *topic, int64_t count, int64_t batch) {
  writer writer;
  clocks clocks;
  double sum = 0;
  open_writer(&writer, address, topic, "5");
  clocks_start(&clocks);
  for (int64_t i = 0; i < count; i++) {
    produce(&writer, i, 1000000000000 + i);
    sum += event_amount(i);
    if (i % 1000 == 999) rd_kafka_poll(writer.rk, 0);
    if (batch && (i + 1) % batch == 0) rd_kafka_flush(writer.rk, 60000);
  }
  rd_kafka_flush(writer.rk, 60000);
  clocks_stop(&clocks);
  if (delivered != count) DIE("%lld of %lld delivered", (long long)delivered, (long long)count);
  close_writer(&writer);
  clocks_print(&clocks, count, sum);
  return 0;
}

/* The schedule is fixed beforehand and each event carries the time it was due, so that a sender or
 * broker that falls behind makes events late, not fewer. */
int send_at_rate(const char *address, const char *topic, int64_t rate, int64_t count) {
  writer writer;
  open_writer(&writer, address, topic, "1");
  int64_t start = now_us() + 100000;
  for (int64_t i = 0; i < count;) {
    int64_t due = start + i * 1000000 / rate, now = now_us();
    if (due <= now) {
      produce(&writer, i++, due);
      continue;
    }
    rd_kafka_poll(writer.rk, 0);
    struct timespec pause = {.tv_nsec = (long)(due - now) * 1000};
    nanosleep(&pause, NULL);
  }
  rd_kafka_flush(writer.rk, 60000);
  if (delivered != count) DIE("%lld of %lld delivered", (long long)delivered, (long long)count);
  close_writer(&writer);
  printf("{\"events\":%lld}\n", (long long)count);
  return 0;
}
