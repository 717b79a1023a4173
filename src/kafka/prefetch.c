/* kafka/prefetch.c: keeps librdkafka fetching while its queue is emptied.
 * Must not know what becomes of the records.
 * Called by group/consumer.c and kafka/reader.c.
 *
 * librdkafka stops fetching while its queue is full. Before 2.2 it looks again only at its next
 * tick, up to a second later, or when something else happens on the connection to the partitions'
 * leader. A request does: so the leaders are asked for something small, whose answer nobody waits
 * for, when a queue that was nearly full is half empty. Without that, a queue must hold a second's
 * worth of records: some 400 MB at full speed. (Partitions that are fetched from a replica near by
 * are woken by their tick alone.) From 2.2 on there is fetch.queue.backoff.ms: kafka/conf.c. */
#include "kafka/prefetch.h"

#define OWN_BACKOFF 0x02020000 /* since when librdkafka has fetch.queue.backoff.ms */

void mb__prefetch_init(mb_prefetch *prefetch, const mb_config *conf, rd_kafka_queue_t *queue) {
  *prefetch = (mb_prefetch){
      .queue = rd_kafka_version() < OWN_BACKOFF ? queue : NULL,
      .events_most = (size_t)mb__conf_int(conf, MB_OPT_prefetch_max_events),
      .bytes_most = (size_t)mb__conf_int(conf, MB_OPT_prefetch_max_kbytes) * 1024,
  };
}

bool mb__prefetch_is_low(mb_prefetch *prefetch) {
  if (!prefetch->queue) return false;
  size_t queued = rd_kafka_queue_length(prefetch->queue), most = prefetch->events_most;
  size_t fit = prefetch->bytes_most / (prefetch->record_bytes + 1);
  if (fit < most) most = fit;
  if (queued + prefetch->taken > most * 3 / 4) prefetch->was_full = true;
  prefetch->taken = 0;
  if (!prefetch->was_full || queued > most / 2) return false;
  prefetch->was_full = false;
  return true;
}

void mb__prefetch_go_on(rd_kafka_t *rk, rd_kafka_topic_partition_list_t *partitions) {
  for (int i = 0; i < partitions->cnt; i++) partitions->elems[i].offset = RD_KAFKA_OFFSET_END;
  if (partitions->cnt) rd_kafka_offsets_for_times(rk, partitions, 0);
}
