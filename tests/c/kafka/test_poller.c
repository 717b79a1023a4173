/* test_poller.c: records polled many at a time: how many are asked for, and what callbacks of the
 * same call do to partitions whose records are in the array already.
 * Must not need a broker: the embedded one. rd_kafka_consume_batch_queue is wrapped (--wrap), so
 * that "callbacks" run when the array is full. Run by ctest; takes some seconds, as a first join of
 * a group takes three there. */
#include <poll.h>

#include "bus.h"
#include "bus/internal.h"
#include "check.h"
#include "group/consumer_internal.h"

#define EVENTS 300

ssize_t __real_rd_kafka_consume_batch_queue(rd_kafka_queue_t *queue, int timeout_ms,
                                            rd_kafka_message_t **records, size_t most);
ssize_t __wrap_rd_kafka_consume_batch_queue(rd_kafka_queue_t *queue, int timeout_ms,
                                            rd_kafka_message_t **records, size_t most);

static mb_bus *bus;
static int calls, waited;          /* batch calls, and those that would wait */
static size_t asked;               /* for so many records by the last */
static rd_kafka_message_t *canned; /* returned instead of what the broker has, once */
static void (*callback)(mb_part *part);
static bool called_back;

ssize_t __wrap_rd_kafka_consume_batch_queue(rd_kafka_queue_t *queue, int timeout_ms,
                                            rd_kafka_message_t **records, size_t most) {
  calls++;
  waited += timeout_ms != 0;
  asked = most;
  if (canned) {
    records[0] = canned;
    canned = NULL;
    return 1;
  }
  ssize_t count = __real_rd_kafka_consume_batch_queue(queue, timeout_ms, records, most);
  /* The inbox holds records of the partition, and so does the array. */
  mb_part *part =
      count > 0 && !records[0]->err ? mb__consumer_part(&bus->group, records[0]->partition) : NULL;
  if (callback && part && bus->group.consumer->count) {
    void (*run)(mb_part *) = callback;
    callback = NULL;
    called_back = true;
    run(part);
  }
  return count;
}

/* ---- how many ---- */

static void check_sizes(void) {
  rd_kafka_message_t large = {.len = 1 << 20}, *records[MB_POLLER_MOST];
  mb_poller poller = {.queue = (rd_kafka_queue_t *)&large}; /* the wrapper does not look at it */
  canned = &large;
  size_t count = mb__poller_take(&poller, 0, records, 1000, INBOX_BYTES);
  ok(count == 1 && asked == MB_POLLER_MOST, "nothing is known of the records: %zu are asked for",
     asked);
  canned = &large;
  mb__poller_take(&poller, 0, records, 1000, INBOX_BYTES);
  ok(asked == 15, "they are 1 MiB each: %zu are asked for to fill 16 MiB", asked);
  canned = &large;
  mb__poller_take(&poller, 0, records, 1000, 0);
  ok(asked == 1, "no room is left: %zu is asked for", asked);
  canned = &large;
  mb__poller_take(&poller, 0, records, 7, SIZE_MAX);
  ok(asked == 7, "7 may come: %zu are asked for", asked);
}

/* ---- callbacks ---- */

static int64_t next = -1; /* the offset of the event that must come now */
static int runs;
static bool in_order = true;

static mb_outcome handler(const mb_msg *msg, mb_fail *fail, void *opaque) {
  (void)fail, (void)opaque;
  if (next >= 0 && mb_msg_offset(msg) != next) {
    if (in_order)
      printf("# offset %lld came instead of %lld\n", (long long)mb_msg_offset(msg),
             (long long)next);
    in_order = false;
  }
  next = mb_msg_offset(msg) + 1;
  runs++;
  return MB_HANDLED;
}

static bool publish(void) {
  mb_event events[EVENTS];
  for (int i = 0; i < EVENTS; i++)
    events[i] = (mb_event){.event_type = mb_str("Paid"),
                           .aggregate_type = mb_str("Account"),
                           .aggregate_id = mb_str("00000000-0000-4000-8000-000000000007"),
                           .data = mb_str("{}")};
  return !mb_bus_publish(bus, events, EVENTS, NULL, err, sizeof err);
}

static bool until(int count) {
  for (double end = now_s() + 60; now_s() < end;) {
    if (mb_bus_step(bus, 50, err, sizeof err)) return false;
    if (runs >= count && mb_bus_is_idle(bus)) return true;
  }
  return false;
}

/* Until librdkafka has fetched more than one call takes. */
static bool fetched(void) {
  for (double end = now_s() + 60; now_s() < end; poll(NULL, 0, 1))
    if (rd_kafka_queue_length(bus->group.consumer->queue) > 2 * MB_POLLER_MOST) return true;
  return false;
}

/* As an aborted transaction does. */
static void rewind_part(mb_part *part) {
  mb__consumer_rewind(&bus->group, part, part->next);
}

/* As a breaker does when it opens and closes. */
static void pause_part(mb_part *part) {
  mb__inbox_purge(bus->group.consumer, part->id);
  part->fetched = part->next;
  mb__part_pause(&bus->group, part, true);
}

static void pause_and_resume(mb_part *part) {
  pause_part(part);
  mb__part_pause(&bus->group, part, false);
}

/* As a cooperative rebalance that leaves it with us. */
static void rebalance(mb_part *part) {
  (void)part;
  mb__consumer_seek_all(&bus->group);
}

static void check_callback(const char *what, void (*run)(mb_part *)) {
  mb_part *part;
  int before = runs;
  in_order = true;
  called_back = false;
  bool there = ok(publish() && fetched(), "%s: events are there", what);
  callback = run;
  bool more = there && !mb_bus_step(bus, 0, err, sizeof err);
  if (more && run == pause_part)
    for (size_t i = 0; (part = mb__consumer_part_at(&bus->group, i)); i++)
      if (part->paused) mb__part_pause(&bus->group, part, false);
  ok(more && until(before + EVENTS) && called_back, "%s while they are polled", what);
  ok(in_order && runs == before + EVENTS, "%s: each event is handled once, in order", what);
}

int main(void) {
  static const char *const OPTIONS[][2] = {{"bootstrap_servers", "embedded"},
                                           {"topic_prefix", "poller"},
                                           {"consumer_group", "poller"},
                                           {"log_level", "error"}};
  check_sizes();
  calls = 0;
  bus = bus_of(OPTIONS, 4);
  if (!ok(bus && !mb_bus_subscribe(bus, "Paid", handler, NULL, NULL, NULL) && publish() &&
              !mb_bus_start(bus, true, err, sizeof err) && until(EVENTS),
          "events are handled on the embedded broker")) {
    printf("# %s\n", err);
    mb_bus_free(bus);
    return done();
  }
  if (rd_kafka_version() < 0x02020000) {
    ok(!calls, "librdkafka %s is polled for one record at a time", rd_kafka_version_str());
  } else {
    ok(calls, "librdkafka %s is polled for many records at a time", rd_kafka_version_str());
    check_callback("a rewind", rewind_part);
    check_callback("a pause", pause_part);
    check_callback("a pause that ends", pause_and_resume);
    check_callback("a rebalance", rebalance);
    ok(!waited, "no batch call waits");
  }
  ok(!mb_bus_disconnect(bus, err, sizeof err), "the bus disconnects");
  mb_bus_free(bus);
  return done();
}
