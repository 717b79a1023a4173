/* test_health.c: each cause of bad health, by its code, partition and words; and the worst of them.
 * Must not need a broker: a bus is put together with each cause in it, and asks nobody. Run by
 * ctest. */
#include <stdlib.h>

#include "bus/internal.h"
#include "check.h"
#include "group/consumer_internal.h"

#define MINUTE_US INT64_C(60000000)

static mb_config *conf;
static char codes[512], texts[8192];
static int32_t place;

static void note(mb_health health, const char *code, const char *text, int32_t partition,
                 void *opaque) {
  (void)opaque;
  size_t len = strlen(codes), at = strlen(texts);
  snprintf(codes + len, sizeof codes - len, "%s%s:%s", len ? " " : "", mb_health_name(health),
           code);
  snprintf(texts + at, sizeof texts - at, "%s\n", text);
  place = partition;
}

static mb_health ask(mb_bus *bus) {
  codes[0] = texts[0] = 0;
  return mb_bus_health(bus, note, NULL);
}

/* A bus that is connected and well, without any client. */
static mb_bus well(void) {
  mb_bus bus = {
      .ctx = {.conf = conf, .topic = "a.stream", .dlq_topic = "a.stream.dlq", .group_name = "g"}};
  bus.ctx.wake_fd = bus.ctx.interrupt_fd = -1;
  bus.ctx.connected = true;
  return bus;
}

/* The bus itself stands where it is declared: its parts point into it. */
static void link_parts(mb_bus *bus, mb_consumer *consumer) {
  bus->group.ctx = bus->deliver.ctx = &bus->ctx;
  bus->deliver.group = &bus->group;
  bus->group.consumer = consumer;
}

static void connections(void) {
  mb_bus bus = well();
  mb_consumer consumer = {.joined = true};
  link_parts(&bus, &consumer);
  ok(ask(&bus) == MB_GREEN && !codes[0], "a bus without causes is green");
  bus.ctx.connected = false;
  ok(ask(&bus) == MB_RED && !strcmp(codes, "red:not_connected"), "%s", codes);
  bus.ctx.connected = true;
  consumer.link_down_us = mb__mono_us();
  ok(ask(&bus) == MB_GREEN, "a connection lost a moment ago is no cause yet");
  consumer.link_down_us = mb__mono_us() - MINUTE_US;
  ok(ask(&bus) == MB_RED && !strcmp(codes, "red:no_broker") && strstr(texts, "for 60 s"),
     "after a while it is: %s", texts);
  consumer.link_down_us = 0;
  consumer.refused = RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
  snprintf(consumer.refused_text, sizeof consumer.refused_text, "grant Read");
  ok(ask(&bus) == MB_RED && !strcmp(codes, "red:refused") && strstr(texts, "grant Read"),
     "a refusal is said in its own words: %s", texts);
}

static void consumption(void) {
  mb_bus bus = well();
  mb_consumer consumer = {0};
  link_parts(&bus, &consumer);
  ok(ask(&bus) == MB_YELLOW && !strcmp(codes, "yellow:joining"), "%s", codes);
  consumer.joined = true;
  bus.group.txn.failing = "it was not committed";
  ok(ask(&bus) == MB_RED && !strcmp(codes, "red:transactions_failing"), "%s", codes);
  bus.group.txn.failing = NULL;
  bus.ctx.consuming = true;
  bus.reopen_us = mb__mono_us() + MINUTE_US;
  snprintf(bus.reopen_why, sizeof bus.reopen_why, "fenced");
  ok(ask(&bus) == MB_RED && !strcmp(codes, "red:consumer_broken") && strstr(texts, "fenced"), "%s",
     codes);
  bus.reopen_us = 0;
  snprintf(bus.ended_why, sizeof bus.ended_why, "no offset");
  ok(ask(&bus) == MB_RED && !strcmp(codes, "red:consumption_ended") && strstr(texts, "no offset"),
     "%s", codes);
}

static void partitions(void) {
  mb_bus bus = well();
  mb_consumer consumer = {.joined = true};
  link_parts(&bus, &consumer);
  mb_part *part = mb__part_add(&bus.group, 2, -1);
  part->silent_us = mb__mono_us() - MINUTE_US;
  part->leader = -1;
  ok(ask(&bus) == MB_RED && !strcmp(codes, "red:no_leader") && place == 2, "%s", codes);
  part->leader = 1;
  ok(ask(&bus) == MB_RED && !strcmp(codes, "red:no_answer") && strstr(texts, "broker 1"), "%s",
     codes);
  consumer.link_down_us = mb__mono_us() - MINUTE_US;
  ok(ask(&bus) == MB_RED && !strcmp(codes, "red:no_broker"),
     "where no broker can be reached, a partition without answers says nothing more");
  consumer.link_down_us = part->silent_us = 0;
  part->held_at = 41;
  ok(ask(&bus) == MB_RED && !strcmp(codes, "red:breaker_open") && strstr(texts, "offset 41"), "%s",
     codes);
  part->held_at = -1;
  mb__part_remove(&consumer, 2);
  free(consumer.parts);
  free(consumer.by_id);
}

static void handlers(void) {
  mb_bus bus = well();
  mb_consumer consumer = {.joined = true};
  link_parts(&bus, &consumer);
  bus.group.pending.most = bus.group.pending.count = 2;
  bus.group.pending.full_us = mb__mono_us();
  ok(ask(&bus) == MB_GREEN, "handlers that wait are no cause");
  bus.group.pending.full_us -= 2 * MINUTE_US;
  ok(ask(&bus) == MB_YELLOW && !strcmp(codes, "yellow:handlers_waiting"), "unless for long: %s",
     codes);
  bus.ctx.connected = false;
  ok(ask(&bus) == MB_RED && !strcmp(codes, "red:not_connected yellow:handlers_waiting"),
     "the worst counts, all are listed: %s", codes);
}

int main(void) {
  conf = mb_config_new();
  connections();
  consumption();
  partitions();
  handlers();
  mb_config_free(conf);
  return done();
}
