/* test_unit.c: when what handlers did together is lost, a flood of dead letters is still seen as
 * one. Must not need a broker: the embedded one. Run by ctest; takes some seconds, as a first join
 * of a group takes three there. */
#include "bus.h"
#include "bus/internal.h"
#include "check.h"

#define EVENTS 5

static int runs, losses;
static bool lose;

static mb_outcome handler(const mb_msg *msg, mb_fail *fail, void *opaque) {
  (void)msg, (void)fail;
  mb__unit_begin(opaque);
  runs++;
  return MB_REJECTED;
}

static bool unit(mb_unit_call call, char *why, size_t why_size, void *opaque) {
  (void)opaque;
  bool lost = call == MB_UNIT_KEEP && lose;
  if (!lost) return true;
  lose = false;
  losses++;
  snprintf(why, why_size, "lost");
  return false;
}

static bool publish(mb_bus *bus, int count) {
  mb_event events[EVENTS];
  for (int i = 0; i < count; i++)
    events[i] = (mb_event){.event_type = mb_str("Paid"),
                           .aggregate_type = mb_str("Account"),
                           .aggregate_id = mb_str("00000000-0000-4000-8000-000000000007"),
                           .data = mb_str("{}")};
  return !mb_bus_publish(bus, events, (size_t)count, NULL, err, sizeof err);
}

static mb_part *part_of(mb_bus *bus) {
  mb_part *part;
  for (size_t i = 0; (part = mb__consumer_part_at(&bus->group, i)); i++)
    if (part->next > 0) return part;
  return NULL;
}

/* All are settled, and committed so far. */
static bool until(mb_bus *bus, int64_t offset) {
  for (double end = now_s() + 60; now_s() < end;) {
    if (mb_bus_step(bus, 50, err, sizeof err)) return false;
    const mb_part *part = part_of(bus);
    if (part && part->committed == offset && mb_bus_is_idle(bus)) return true;
  }
  return false;
}

int main(void) {
  static const char *const OPTIONS[][2] = {{"bootstrap_servers", "embedded"},
                                           {"topic_prefix", "unit"},
                                           {"consumer_group", "unit"},
                                           {"commit_interval_ms", "50"},
                                           {"log_level", "error"}};
  mb_bus *bus = bus_of(OPTIONS, 5);
  if (!ok(bus && !mb_bus_subscribe(bus, "Paid", handler, &bus->group, NULL, NULL) &&
              publish(bus, EVENTS),
          "events are published to the embedded broker: %s", err)) {
    mb_bus_free(bus);
    return done();
  }
  bus->group.unit.fn = unit;
  ok(!mb_bus_start(bus, true, err, sizeof err) && until(bus, EVENTS), "they become dead letters");
  ok(part_of(bus)->breaker.run == EVENTS, "as many in a row: %u", part_of(bus)->breaker.run);
  lose = true;
  ok(publish(bus, 1) && until(bus, EVENTS + 1) && losses == 1 && runs > EVENTS,
     "what is done with one more is lost, and done again");
  ok(part_of(bus)->breaker.run == EVENTS + 1, "it is one more in that row: %u",
     part_of(bus)->breaker.run);
  mb_bus_free(bus);
  return done();
}
