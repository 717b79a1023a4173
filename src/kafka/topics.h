/* kafka/topics.h: what there is on the broker: topics, partitions, offsets. Does not read or
 * write records. */
#ifndef MB_TOPICS_H
#define MB_TOPICS_H

#include <librdkafka/rdkafka.h>

#include "kafka/client.h"
#include "kafka/context.h"
#include "kafka/topic_wait.h"

/* How long a broker may not know a topic that was created a moment ago. */
#define MB_TOPIC_NEWS_US 500000

/* The number of partitions, from this client's metadata; MB_ETOPIC if the topic is still missing
 * after wait_us. A request of a producer makes a broker create it, that of a consumer does not. */
mb_err mb__topic_look(mb_context *ctx, mb_client *client, const char *topic, int64_t wait_us,
                      int *count, char *errstr, size_t errstr_size);
/* The same for a topic that the broker may create at this request; waits as long as connect may. */
mb_err mb__topic_want(mb_context *ctx, const char *topic, int *count, char *errstr,
                      size_t errstr_size);
/* The number of partitions; MB_ETOPIC if there is no such topic. Does not create it. */
mb_err mb__topic_partitions(mb_context *ctx, const char *topic, int *count, char *errstr,
                            size_t errstr_size);
/* As mb_topic_offsets, mb_topic_create. */
mb_err mb__topic_offsets(mb_context *ctx, const char *topic, int32_t partition, int64_t *low,
                         int64_t *high, char *errstr, size_t errstr_size);
mb_err mb__topic_create(mb_context *ctx, const char *topic, int partitions, int replication,
                        char *errstr, size_t errstr_size);
/* First and next offset of a partition; waits for the leader of one that was made a moment ago. */
mb_err mb__topic_ends(mb_context *ctx, mb_client *client, const char *topic, int32_t partition,
                      int timeout_ms, int64_t *low, int64_t *high, char *errstr,
                      size_t errstr_size);
/* A request failed: the one sentence that says why, MB_EAUTH or MB_ECONNECT where no answer came.
 * what  was asked for, said where no cause is known; NULL = that no answer came */
mb_err mb__client_silent(mb_client *client, const mb_config *conf, rd_kafka_resp_err_t code,
                         const char *what, char *errstr, size_t errstr_size);
/* Whether there is such a topic; asking does not create it. */
mb_err mb__topic_exists(mb_context *ctx, const char *topic, bool *exists, char *errstr,
                        size_t errstr_size);

#endif
