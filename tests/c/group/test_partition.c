/* test_partition.c: assigned partitions: found, added, removed; and events that are settled there.
 * Must not need a broker: no consumer of librdkafka is asked. Run by ctest. */
#include <stdlib.h>

#include "check.h"
#include "group/consumer_internal.h"

static mb_context ctx;
static mb_consumer consumer;
static mb_group group = {.ctx = &ctx, .consumer = &consumer};

/* In place of librdkafka's: these records are not its own. */
void rd_kafka_message_destroy(rd_kafka_message_t *record) {
  free(record);
}

/* key: borrowed */
static rd_kafka_message_t *record_at(int64_t offset, const char *key) {
  rd_kafka_message_t *record = calloc(1, sizeof *record);
  if (!record) exit(2);
  record->offset = offset;
  record->key = (void *)(uintptr_t)key;
  record->key_len = key ? strlen(key) : 0;
  return record;
}

static void membership(void) {
  mb_group without = {.ctx = &ctx};
  ok(!mb__consumer_part_at(&without, 0) && !mb__consumer_part_count(&without) &&
         !mb__consumer_parked(&without),
     "without a consumer there are no partitions");
  ok(!mb__consumer_part(&group, 0) && !mb__consumer_part(&group, -1), "none is assigned yet");
  mb_part *three = mb__part_add(&group, 3, 7), *forty = mb__part_add(&group, 40, -1);
  ok(three && forty && mb__part_add(&group, 3, 9) == three, "one that is ours is not added twice");
  ok(mb__consumer_part_count(&group) == 2 && mb__consumer_part(&group, 3) == three &&
         mb__consumer_part(&group, 40) == forty && !mb__consumer_part(&group, 4),
     "each is found by its number");
  ok(mb__consumer_part_at(&group, 0) == three && mb__consumer_part_at(&group, 1) == forty &&
         !mb__consumer_part_at(&group, 2),
     "and in the order of assignment");
  ok(three->next == -1 && three->fetched == -1 && three->committed == -1 && three->held_at == -1,
     "nothing is known of a new one");
  ok(mb__part_of(&three->queue) == three, "a retry queue knows its partition");
  mb__part_remove(&consumer, 3);
  mb__part_remove(&consumer, 3);
  mb__part_remove(&consumer, 99);
  ok(!mb__consumer_part(&group, 3) && mb__consumer_part_at(&group, 0) == forty,
     "one that is removed is no longer found, the others stay");
  ok(mb__part_add(&group, 3, 7) && mb__consumer_part_count(&group) == 2, "it may come back");
}

static void settled(void) {
  mb_part *part = mb__consumer_part(&group, 40);
  int64_t before = consumer.settled;
  part->fetched = 12;
  mb__progress_pass(&group, part, record_at(10, NULL));
  ok(part->next == 11 && consumer.settled == before + 1 && group.txn.events == 1,
     "an event that passes moves the position, and counts for the commit");
  mb_parked *parked = mb__retry_park(&part->queue, record_at(11, "k"), mb_str("k"));
  part->next = 12;
  ok(parked && mb__consumer_parked(&group) == 1 && mb__retry_low(&part->queue, part->next) == 11,
     "one that is parked holds the low-water mark");
  part->at_end = true;
  ok(mb__retry_holds(&part->queue, mb_str("k")) && !mb__retry_holds(&part->queue, mb_str("l")),
     "and its key alone");
  mb__progress_settled(&group, parked);
  ok(!mb__consumer_parked(&group) && consumer.settled == before + 2 &&
         mb__retry_low(&part->queue, part->next) == 12,
     "once settled it holds nothing");
  ok(mb__part_lag(&group, part) == 0, "at its end the lag is 0 without asking librdkafka");
}

static void silence(void) {
  mb_part *part = mb__consumer_part(&group, 40);
  ok(!mb__part_silent_us(part), "a broker that answers is not silent");
  part->silent_us = mb__mono_us();
  ok(!mb__part_silent_us(part), "one that does not since a moment ago is not yet");
  part->silent_us = mb__mono_us() - INT64_C(60000000);
  ok(mb__part_silent_us(part) == part->silent_us && mb__part_lag(&group, part) == -1,
     "after a while it is, and the lag is not known");
  part->silent_us = 0;
}

static void keys(void) {
  char err[MB_ERRSTR_MAX];
  rd_kafka_message_t *keyed = record_at(1, "a"), *keyless = record_at(2, NULL);
  mb_bytes key = mb__part_key(&group, keyed), none = mb__part_key(&group, keyless);
  ok(key.len == 1 && *key.data == 'a' && !none.len, "an event waits behind those of its key");
  ok(!mb_config_set(ctx.conf, "retry_scope", "partition", MB_FROM_SCRIPT, err, sizeof err) &&
         !mb__part_key(&group, keyed).len,
     "with retry_scope = partition behind all of its partition");
  ok(!mb_config_set(ctx.conf, "retry_scope", "key", MB_FROM_SCRIPT, err, sizeof err) &&
         mb__part_key(&group, keyed).len == 1,
     "with key behind its key again");
  ctx.transaction.on = consumer.unmarked = true;
  ok(!mb__part_key(&group, keyed).len,
     "in transactions without marks nothing is settled past a waiting event");
  ctx.transaction.on = consumer.unmarked = false;
  free(keyed);
  free(keyless);
}

int main(void) {
  ctx.conf = mb_config_new();
  ctx.topic = "orders.stream";
  ctx.wake_fd = ctx.interrupt_fd = -1;
  membership();
  settled();
  silence();
  keys();
  while (consumer.part_count) mb__part_remove(&consumer, consumer.parts[0]->id);
  free(consumer.parts);
  free(consumer.by_id);
  mb_config_free(ctx.conf);
  return done();
}
