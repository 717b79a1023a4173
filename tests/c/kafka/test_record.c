/* test_record.c: what waits for its retry is a copy, which does not keep all that was fetched with
 * the record in memory; and it is the same event.
 * Must not need a broker: the embedded one. Run by ctest; takes some seconds, as a first join of a
 * group takes three there. */
#include "kafka/record.h"

#include <stdlib.h>

#include "bus.h"
#include "bus/internal.h"
#include "check.h"

#define EVENTS 5

static bool failing = true;
static int runs, done_runs;
static char texts[2 * EVENTS][1024];

/* All that can be asked of it. */
static void describe(const mb_msg *msg, char *text, size_t size) {
  mb_bytes key = mb_msg_key(msg), value = mb_msg_value(msg), header;
  const char *name;
  size_t len = (size_t)snprintf(text, size, "%s/%d/%lld %lld %.*s %.*s", mb_msg_topic(msg),
                                (int)mb_msg_partition(msg), (long long)mb_msg_offset(msg),
                                (long long)mb_msg_timestamp_ms(msg), (int)key.len, key.data,
                                (int)value.len, value.data);
  for (size_t i = 0; len < size && mb_msg_header_at(msg, i, &name, &header); i++)
    len += (size_t)snprintf(text + len, size - len, " %s=%.*s", name, (int)header.len, header.data);
}

static mb_outcome handler(const mb_msg *msg, mb_fail *fail, void *opaque) {
  (void)opaque;
  if (runs < 2 * EVENTS) describe(msg, texts[runs], sizeof texts[runs]);
  runs++;
  mb_fail_retry_after(fail, failing ? 3600000 : 0);
  if (failing) return MB_FAILED;
  done_runs++;
  return MB_HANDLED;
}

/* The first two of one key, so that the second waits behind the first. */
static bool publish(mb_bus *bus) {
  mb_event events[EVENTS];
  char ids[EVENTS][40];
  for (int i = 0; i < EVENTS; i++) {
    snprintf(ids[i], sizeof ids[i], "00000000-0000-4000-8000-%012d", i < 2 ? 0 : i);
    events[i] = (mb_event){.event_type = mb_str("Paid"),
                           .aggregate_type = mb_str("Account"),
                           .aggregate_id = mb_str(ids[i]),
                           .data = mb_str("{\"text\":\"some\"}")};
  }
  return !mb_bus_publish(bus, events, EVENTS, NULL, err, sizeof err);
}

static bool until(mb_bus *bus, const int *count, int expected, size_t parked) {
  for (double end = now_s() + 60; now_s() < end;) {
    if (mb_bus_step(bus, 50, err, sizeof err)) return false;
    if (*count >= expected && mb__consumer_parked(&bus->group) == parked) return true;
  }
  return false;
}

/* Every parked record is a copy; each is due now. */
static int copies(mb_bus *bus) {
  int count = 0;
  mb_part *part;
  for (size_t i = 0; (part = mb__consumer_part_at(&bus->group, i)); i++)
    for (mb_parked *parked = part->queue.head; parked; parked = parked->next) {
      count += mb__record_is_own(parked->record);
      if (parked->state == MB_BACKOFF) mb__retry_due(&part->queue, parked, MB_BACKOFF, 0);
    }
  return count;
}

int main(void) {
  static const char *const OPTIONS[][2] = {{"bootstrap_servers", "embedded"},
                                           {"topic_prefix", "record"},
                                           {"consumer_group", "record"},
                                           {"log_level", "error"}};
  mb_bus *bus = bus_of(OPTIONS, 4);
  if (!ok(bus && !mb_bus_subscribe(bus, "Paid", handler, NULL, NULL, NULL) && publish(bus),
          "events are published to the embedded broker: %s", err)) {
    mb_bus_free(bus);
    return done();
  }
  ok(!mb_bus_start(bus, true, err, sizeof err) && until(bus, &runs, EVENTS - 1, EVENTS),
     "they fail, one waits behind another");
  failing = false;
  int count = copies(bus);
  ok(count == EVENTS, "all that wait are copies: %d", count);
  ok(until(bus, &done_runs, EVENTS, 0), "they are handled in the end");
  int found = 0;
  for (int i = 0; i < EVENTS - 1; i++)
    for (int k = EVENTS - 1; k < runs && k < 2 * EVENTS; k++)
      found += strcmp(texts[i], texts[k]) == 0;
  ok(found == EVENTS - 1 && strstr(texts[0], "event_type=Paid") &&
         strstr(texts[0], "record.stream/"),
     "each is what it was: %d", found);
  mb_bus_free(bus);
  return done();
}
