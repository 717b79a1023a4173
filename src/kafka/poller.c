/* kafka/poller.c: takes records from a consumer's queue.
 * Must not know partitions, groups, or what becomes of the records.
 * Called by group/consumer.c and kafka/reader.c.
 *
 * From 2.1 on librdkafka reads the clock and locks a mutex in every poll, and
 * rd_kafka_consume_batch_queue spreads that over many records. It is not sound before 2.2.0: 2.0
 * loses records when partitions are given away or paused during the call, 2.1 crashes at an error
 * that belongs to no partition. Two things are left in later versions for the callers to know:
 *
 * - A callback may run when records are in the array already. Those of a partition that is taken
 *   away are removed by librdkafka or belong to no partition of ours. Those of a partition that a
 *   callback seeks or pauses may stay in the array.
 * - Before 2.13.2 PARTITION_EOF moves librdkafka's own position one past the end. A pause, also
 *   librdkafka's own at a cooperative rebalance, notes that position to go on from: one record
 * would be skipped. A seek puts it right. */
#include "kafka/poller.h"

#define BATCH_SINCE 0x02020000

void mb__poller_init(mb_poller *poller, rd_kafka_t *rk, rd_kafka_queue_t *queue) {
  *poller = (mb_poller){.rk = rk, .queue = rd_kafka_version() >= BATCH_SINCE ? queue : NULL};
}

/* What a single call brings is bounded by the largest records of the calls before. */
static size_t poll_many(mb_poller *poller, rd_kafka_message_t **records, size_t most,
                        size_t most_bytes) {
  size_t fit = most_bytes / (poller->largest_bytes + 1);
  if (most > MB_POLLER_MOST) most = MB_POLLER_MOST;
  if (most > fit) most = fit ? fit : 1;
  /* With a timeout it would wait until the array is full. */
  ssize_t count = rd_kafka_consume_batch_queue(poller->queue, 0, records, most);
  if (count <= 0) return 0;
  poller->largest_bytes -= poller->largest_bytes / 8;
  for (ssize_t i = 0; i < count; i++) {
    size_t bytes = records[i]->len + records[i]->key_len;
    if (bytes > poller->largest_bytes) poller->largest_bytes = bytes;
  }
  return (size_t)count;
}

size_t mb__poller_take(mb_poller *poller, int timeout_ms, rd_kafka_message_t **records, size_t most,
                       size_t most_bytes) {
  if (poller->queue) {
    size_t count = poll_many(poller, records, most, most_bytes);
    if (count || !timeout_ms) return count;
  }
  records[0] = rd_kafka_consumer_poll(poller->rk, timeout_ms);
  return records[0] != NULL;
}
