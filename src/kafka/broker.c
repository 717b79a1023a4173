/* kafka/broker.c: the embedded broker: librdkafka's mock cluster, in memory, on loopback.
 * Must not know buses.
 * Called by bus/bus.c for bootstrap_servers = "embedded", and through moonbus.h. */
#include <librdkafka/rdkafka.h>

#include <librdkafka/rdkafka_mock.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "kafka/broker.h"
#include "kafka/client.h"
#include "kafka/context.h"

/* The request by which the broker shares out partitions. Newer versions of the mock cluster take
 * it, and leave the sharing out to the program: without it, a member that asks is refused, as by
 * Kafka 3.
 */
#define CONSUMER_HEARTBEAT 68

struct mb_broker {
  mb_client *client; /* hosts the cluster */
  rd_kafka_mock_cluster_t *cluster;
  size_t references; /* of the shared one */
};

static pthread_mutex_t shared_lock = PTHREAD_MUTEX_INITIALIZER;
static mb_broker *shared;

static void ignore_log(const rd_kafka_t *rk, int level, const char *fac, const char *text) {
  (void)rk, (void)level, (void)fac, (void)text;
}

mb_broker *mb_broker_new(char *errstr, size_t errstr_size) {
  char text[MB_ERRSTR_MAX] = "out of memory";
  mb_broker *broker = calloc(1, sizeof *broker);
  rd_kafka_conf_t *conf = broker ? rd_kafka_conf_new() : NULL;
  if (!conf) goto failed;
  rd_kafka_conf_set_log_cb(conf, ignore_log);
  if (mb__client_open(NULL, RD_KAFKA_PRODUCER, "broker", conf, broker, &broker->client, text,
                      sizeof text))
    goto failed;
  broker->cluster = rd_kafka_mock_cluster_new(mb__client_handle(broker->client), 1);
  if (broker->cluster) {
    rd_kafka_mock_set_apiversion(broker->cluster, CONSUMER_HEARTBEAT, -1, -1);
    return broker;
  }
  snprintf(text, sizeof text, "its loopback port cannot be opened");
failed:
  mb__error(MB_EIO, errstr, errstr_size, "the embedded broker cannot start: %s", text);
  mb_broker_free(broker);
  return NULL;
}

const char *mb_broker_address(const mb_broker *broker) {
  return rd_kafka_mock_cluster_bootstraps(broker->cluster);
}

mb_err mb_broker_topic_create(mb_broker *broker, const char *topic, int partitions, char *errstr,
                              size_t errstr_size) {
  if (!topic || partitions < 1)
    return mb__error(MB_EINVAL, errstr, errstr_size,
                     "expected a topic and its number of partitions");
  if (mb__topic_name_check(topic, "topic", errstr, errstr_size)) return MB_ETOPIC;
  rd_kafka_resp_err_t code = rd_kafka_mock_topic_create(broker->cluster, topic, partitions, 1);
  if (!code) return MB_OK;
  return mb__error(code == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS ? MB_EINVAL : MB_EKAFKA, errstr,
                   errstr_size, "topic \"%s\" not created: %s", topic, rd_kafka_err2str(code));
}

void mb_broker_free(mb_broker *broker) {
  if (!broker) return;
  mb__client_close_mock(broker->client, broker->cluster, mb__mono_us());
  free(broker);
}

mb_broker *mb__broker_shared(char *errstr, size_t errstr_size) {
  pthread_mutex_lock(&shared_lock);
  if (!shared) shared = mb_broker_new(errstr, errstr_size);
  mb_broker *broker = shared;
  if (broker) broker->references++;
  pthread_mutex_unlock(&shared_lock);
  return broker;
}

void mb__broker_release(mb_broker *broker) {
  if (!broker) return;
  pthread_mutex_lock(&shared_lock);
  bool last = --broker->references == 0;
  if (last && broker == shared) shared = NULL;
  pthread_mutex_unlock(&shared_lock);
  if (last) mb_broker_free(broker);
}
