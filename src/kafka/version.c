/* kafka/version.c: which moonbus and which librdkafka this is, and what the latter can do.
 * Must not know buses.
 * Called by the Lua side and by users through moonbus.h. */
#include <librdkafka/rdkafka.h>

#include "moonbus.h"

const char *mb_version(void) {
  return MOONBUS_VERSION;
}

int mb_version_num(void) {
  return MOONBUS_VERSION_NUM;
}

const char *mb_rdkafka_version(void) {
  return rd_kafka_version_str();
}

const char *mb_rdkafka_features(void) {
  static _Thread_local char text[512];
  size_t size = sizeof text;
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  if (rd_kafka_conf_get(conf, "builtin.features", text, &size) != RD_KAFKA_CONF_OK) text[0] = 0;
  rd_kafka_conf_destroy(conf);
  return text;
}
