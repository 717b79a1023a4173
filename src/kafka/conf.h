/* kafka/conf.h: the configurations of librdkafka's clients, made from ours. */
#ifndef MB_CONF_H
#define MB_CONF_H

#include <librdkafka/rdkafka.h>

#include "config/config.h"

/* Configurations with everything in them but callbacks and event masks. Owned: pass to rd_kafka_new
 * or rd_kafka_conf_destroy; NULL with errstr when librdkafka refuses something. "embedded" that was
 * not resolved leaves bootstrap.servers unset. */
rd_kafka_conf_t *mb__config_producer(const mb_config *conf, char *errstr, size_t errstr_size);
/* A member of consumer_group. */
rd_kafka_conf_t *mb__config_consumer(const mb_config *conf, char *errstr, size_t errstr_size);
/* Assigns partitions itself: its group.id is a throwaway that must never be subscribed or committed
 * with; an offset out of range means the oldest record. */
rd_kafka_conf_t *mb__config_reader(const mb_config *conf, char *errstr, size_t errstr_size);

#endif
