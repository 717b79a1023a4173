/* test_fenced.c: a static member that is fenced tells its own return after a lost session from
 * another process under its name, also when it has nothing assigned.
 * Must not need a broker: the embedded one. Run by ctest; takes some seconds, as a first join of a
 * group takes three there. */
#include "bus.h"
#include "bus/internal.h"
#include "check.h"
#include "group/consumer_internal.h"

static mb_outcome handler(const mb_msg *msg, mb_fail *fail, void *opaque) {
  (void)msg, (void)fail, (void)opaque;
  return MB_HANDLED;
}

static bool joined(mb_bus *bus) {
  for (double end = now_s() + 60; now_s() < end;) {
    if (mb_bus_step(bus, 50, err, sizeof err)) return false;
    if (bus->group.consumer && bus->group.consumer->joined) return true;
  }
  return false;
}

static mb_err refused(mb_bus *bus, char *text, size_t size) {
  return mb__group_refused(&bus->group, RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID, text, size);
}

int main(void) {
  static const char *const OPTIONS[][2] = {{"bootstrap_servers", "embedded"},
                                           {"topic_prefix", "fenced"},
                                           {"consumer_group", "fenced"},
                                           {"group_instance_id", "one"},
                                           {"log_level", "error"}};
  char text[MB_REFUSAL_MAX] = "", own[MB_MEMBER_ID_MAX];
  mb_bus *bus = bus_of(OPTIONS, 5);
  if (!ok(bus && !mb_bus_subscribe(bus, "Paid", handler, NULL, NULL, NULL) &&
              !mb_bus_connect(bus, 10000, err, sizeof err) &&
              !mb_bus_start(bus, true, err, sizeof err) && joined(bus),
          "a static member joins: %s", err)) {
    mb_bus_free(bus);
    return done();
  }
  mb_consumer *consumer = bus->group.consumer;
  snprintf(own, sizeof own, "%s", consumer->member_id);
  ok(own[0] && !consumer->rejoined_us, "its member id is noted with its assignment");

  ok(refused(bus, text, sizeof text) == MB_EFENCED && strstr(text, "group_instance_id \"one\""),
     "a fence while it has that id is another process: %s", text);

  snprintf(consumer->member_id, sizeof consumer->member_id, "%s", "the one before");
  ok(refused(bus, text, sizeof text) == MB_EFATAL && strstr(text, "ran out"),
     "one after it was given another id is its own: %s", text);
  size_t parts = consumer->part_count;
  consumer->part_count = 0;
  ok(refused(bus, text, sizeof text) == MB_EFATAL, "also with nothing assigned");
  consumer->part_count = parts;

  snprintf(consumer->member_id, sizeof consumer->member_id, "%s", own);
  consumer->rejoined_us = mb__mono_us();
  ok(refused(bus, text, sizeof text) == MB_EFATAL, "so is one shortly after it came back");
  consumer->rejoined_us = mb__mono_us() - INT64_C(3600000000);
  ok(refused(bus, text, sizeof text) == MB_EFENCED, "but not one long after that");

  mb_bus_free(bus);
  return done();
}
