/* test_refetch.c: records that librdkafka delivers a second time, as it does after some rebalances
 * and pauses, do not run again.
 * Must not need a broker: the embedded one. Run by ctest; takes some seconds, as a first join of a
 * group takes three there. */
#include "bus.h"
#include "bus/internal.h"
#include "check.h"
#include "group/consumer_internal.h"

#define EVENTS 40

static int runs;

static mb_outcome handler(const mb_msg *msg, mb_fail *fail, void *opaque) {
  (void)msg, (void)fail, (void)opaque;
  runs++;
  return MB_HANDLED;
}

static bool until(mb_bus *bus, int expected) {
  for (double end = now_s() + 60; now_s() < end;) {
    if (mb_bus_step(bus, 50, err, sizeof err)) return false;
    if (runs >= expected && mb_bus_is_idle(bus)) return true;
  }
  return false;
}

static bool publish(mb_bus *bus, const char *aggregate_id) {
  mb_event events[EVENTS];
  for (int i = 0; i < EVENTS; i++)
    events[i] = (mb_event){.event_type = mb_str("Paid"),
                           .aggregate_type = mb_str("Account"),
                           .aggregate_id = mb_str(aggregate_id),
                           .data = mb_str("{}")};
  return !mb_bus_publish(bus, events, EVENTS, NULL, err, sizeof err);
}

/* Behind the bus's back, as librdkafka does it by mistake. */
static bool seek_back(mb_bus *bus, int64_t offset) {
  bool all = true;
  mb_part *part;
  for (size_t i = 0; (part = mb__consumer_part_at(&bus->group, i)); i++) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, bus->ctx.topic, part->id)->offset = offset;
    rd_kafka_error_t *error = rd_kafka_seek_partitions(bus->group.consumer->rk, list, 30000);
    all &= !error && !list->elems[0].err;
    if (error) rd_kafka_error_destroy(error);
    part->at_end = false; /* so that idle is only what has been read to its end again */
    rd_kafka_topic_partition_list_destroy(list);
  }
  return all;
}

int main(void) {
  static const char *const ID = "00000000-0000-4000-8000-000000000007";
  static const char *const OPTIONS[][2] = {{"bootstrap_servers", "embedded"},
                                           {"topic_prefix", "refetch"},
                                           {"consumer_group", "refetch"},
                                           {"log_level", "error"}};
  mb_bus *bus = bus_of(OPTIONS, 4);
  if (!ok(bus && !mb_bus_subscribe(bus, "Paid", handler, NULL, NULL, NULL) && publish(bus, ID),
          "events are published to the embedded broker")) {
    printf("# %s\n", err);
    mb_bus_free(bus);
    return done();
  }
  ok(!mb_bus_start(bus, true, err, sizeof err) && until(bus, EVENTS) && runs == EVENTS,
     "each is handled");
  mb_stats before, after;
  mb_bus_stats(bus, &before);
  ok(seek_back(bus, 0) && until(bus, EVENTS), "fetching starts over, and comes to the end again");
  mb_bus_stats(bus, &after);
  ok(runs == EVENTS && after.events_consumed == before.events_consumed, "no event ran twice");
  ok(publish(bus, ID) && until(bus, 2 * EVENTS) && runs == 2 * EVENTS,
     "and those that come after them run once");
  ok(!mb_bus_disconnect(bus, err, sizeof err), "the bus disconnects");
  mb_bus_free(bus);
  return done();
}
