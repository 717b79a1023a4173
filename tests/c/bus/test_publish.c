/* test_publish.c: a batch keeps its events as they were encoded, whatever becomes of the encoder.
 * Must not need a broker: nothing is sent. Run by ctest. */
#include <stdlib.h>

#include "bus/internal.h"
#include "bus/publish.h"
#include "check.h"

#define ID "00000000-0000-4000-8000-00000000000%d"

static char err[512];

static mb_err encode(mb_encoder *encoder, int n) {
  char id[40], data[64];
  snprintf(id, sizeof id, ID, n);
  snprintf(data, sizeof data, "{\"n\":%d}", n);
  const mb_event event = {.event_id = mb_str(id),
                          .event_type = mb_str("Paid"),
                          .aggregate_type = mb_str("Account"),
                          .aggregate_id = mb_str("00000000-0000-4000-8000-000000000099"),
                          .data = mb_str(data)};
  return mb__encode(&event, encoder, err, sizeof err);
}

static bool has_id(const mb_batch *batch, size_t i) {
  char id[40];
  snprintf(id, sizeof id, ID, (int)i);
  mb_bytes got = mb__batch_event_id(batch, i);
  return got.len == strlen(id) && !memcmp(got.data, id, got.len);
}

/* expected: what the batch is made for; it takes more as well. */
static void keeps(mb_bus *bus, size_t expected) {
  mb_encoder encoder = {0};
  mb_batch *batch = mb__batch_new(bus, expected);
  bool added = batch != NULL, kept = true;
  for (int n = 0; added && n < 8; n++)
    added = !encode(&encoder, n) && !mb__batch_add(batch, &encoder);
  mb__encoder_free(&encoder);
  for (size_t i = 0; added && i < 8; i++) kept &= has_id(batch, i) && !mb__batch_reason(batch, i);
  ok(added && kept, "8 events in a batch for %zu keep their ids: %s", expected, err);
  mb__batch_free(batch);
}

static void not_connected(mb_bus *bus) {
  mb_event event = {.event_type = mb_str("Paid")};
  size_t queued = 7;
  ok(mb_bus_publish(bus, &event, 1, NULL, err, sizeof err) == MB_ESTATE && strstr(err, "connect"),
     "a bus that is not connected does not publish: %s", err);
  ok(mb_bus_publish_background(bus, &event, 1, &queued, err, sizeof err) == MB_ESTATE && !queued,
     "nor in the background, and nothing was queued");
  bus->ctx.connected = bus->ctx.in_callback = true;
  ok(mb_bus_publish(bus, &event, 1, NULL, err, sizeof err) == MB_ESTATE && strstr(err, "callback"),
     "nor does a callback: %s", err);
  bus->ctx.in_callback = false;
  ok(!mb_bus_publish(bus, NULL, 0, NULL, err, sizeof err), "no events are published at once");
  ok(mb_bus_publish(bus, NULL, 2, NULL, err, sizeof err) == MB_EINVAL && strstr(err, "got NULL"),
     "events that are missing are an error: %s", err);
  ok(mb_bus_publish(bus, &event, 1, NULL, err, sizeof err) == MB_EEVENT,
     "an event that cannot be encoded is refused before anything is sent: %s", err);
  bus->ctx.connected = false;
}

int main(void) {
  mb_config *conf = mb_config_new();
  mb_bus *bus = mb_bus_new(conf, err, sizeof err);
  mb_config_free(conf);
  if (!ok(bus != NULL, "a bus is made: %s", err)) return done();
  keeps(bus, 8);
  keeps(bus, 1);
  keeps(bus, 0);
  not_connected(bus);
  mb_bus_free(bus);
  return done();
}
