/* Which partitions a broker answers for, by librdkafka's statistics. */
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "kafka/answers.h"

#define BROKER(name, id, source, state, waits, idle)                                               \
  "\"" name "\":{\"name\":\"" name "\",\"nodeid\":" id ",\"source\":\"" source                     \
  "\",\"state\":\"" state "\",\"waitresp_cnt\":" waits ",\"rxidle\":" idle ",\"rtt\":{\"min\":0}}"
#define PARTITION(id, broker, leader, queued)                                                      \
  "\"" id "\":{\"partition\":" id ",\"broker\":" broker ",\"leader\":" leader                      \
  ",\"msgq_cnt\":" queued ",\"xmit_msgq_cnt\":1}"
#define STATISTICS(brokers, partitions)                                                            \
  "{\"name\":\"x\",\"brokers\":{" brokers "},\"topics\":{\"other\":{\"partitions\":{" PARTITION(   \
      "0", "-1", "-1", "0") "}},\"t\":{\"topic\":\"t\",\"partitions\":{" partitions                \
                            "}}},\"cgrp\":{\"state\":\"up\"}}"

static mb_answer answers[8];
static size_t count;

static void note(const mb_answer *answer, void *opaque) {
  (void)opaque;
  if (count < sizeof answers / sizeof *answers) answers[count++] = *answer;
}

static bool read_held(const char *text, int64_t held_us) {
  count = 0;
  return mb__answers_read((mb_bytes){text, strlen(text)}, "t", held_us, note, NULL);
}

static bool read(const char *text) {
  return read_held(text, 0);
}

static void test_reading(void) {
  ok(read(STATISTICS(
         BROKER("a:9092/bootstrap", "-1", "configured", "INIT", "0", "-1") "," BROKER(
             "a:9092/1", "1", "learned", "UP", "1",
             "300") "," BROKER("b:9092/2", "2", "learned", "UP", "3",
                               "6000000") "," BROKER("c:9092/3", "3", "learned", "TRY_CONNECT", "0",
                                                     "-1") "," BROKER("GroupCoordinator", "1",
                                                                      "logical", "UP", "1",
                                                                      "60000000"),
         PARTITION("0", "1", "1", "0") "," PARTITION("1", "2", "2", "7") "," PARTITION(
             "2", "3", "3", "0") "," PARTITION("3", "-1", "-1",
                                               "0") "," PARTITION("4", "1", "2",
                                                                  "0") "," PARTITION("-1", "-1",
                                                                                     "-1", "0"))) &&
         count == 5,
     "one answer for each partition of the topic, none for what has no partition yet");
  ok(answers[0].broker == 1 && answers[0].connected && !answers[0].quiet_us,
     "a broker that answers; what its coordinator waits for does not count");
  ok(answers[1].broker == 2 && answers[1].quiet_us == 6000000 && answers[1].waiting == 8,
     "a broker that is asked and says nothing; events wait for it");
  ok(answers[2].broker == 3 && !answers[2].connected, "a broker without a connection");
  ok(answers[3].broker == -1, "a partition without a leader");
  ok(answers[4].broker == 1, "a replica that is read in the leader's place");
}

/* fetch_wait_max_ms */
static void test_held(void) {
  static const char text[] = STATISTICS(BROKER("a:1/1", "1", "learned", "UP", "1", "21000000"),
                                        PARTITION("0", "1", "1", "0"));
  ok(read_held(text, 20000000) && count == 1 && !answers[0].quiet_us,
     "a broker that holds a fetch back for as long as it may");
  ok(read_held(text, 19000000) && answers[0].quiet_us == 21000000, "and one that holds it longer");
}

static void test_hostile(void) {
  static const char *const TEXTS[] = {
      "",
      "[]",
      "{\"brokers\":[]}",
      "{\"brokers\":{\"a\":1}}",
      "{\"topics\":{\"t\":{\"partitions\":{\"0\":[]}}}}",
      "{\"brokers\":{\"a\":{\"nodeid\":1}",
      "{\"topics\":{\"t\":{\"partitions\":{\"0\":{\"partition\":0",
  };
  for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++)
    ok(!read(TEXTS[i]), "what librdkafka does not write is refused: %s", TEXTS[i]);
  ok(read("{\"brokers\":{\"a\":{\"nodeid\":\"1\",\"state\":7}},\"topics\":{\"t\":{\"partitions\":{"
          "\"0\":{\"partition\":0,\"leader\":1.5},\"1\":{\"partition\":99999999999}}}}}") &&
         count == 1 && answers[0].broker == -1,
     "members of another kind are not there");
}

static void test_since(void) {
  const mb_answer well = {.broker = 1, .connected = true};
  const mb_answer quiet = {.broker = 1, .connected = true, .quiet_us = 4000};
  const mb_answer away = {.broker = 1};
  const mb_answer leaderless = {.broker = -1};
  ok(mb__answers_since(0, &well, false, 10000) == 0, "nothing is missing");
  ok(mb__answers_since(0, &quiet, false, 10000) == 6000, "since the broker said something");
  ok(mb__answers_since(5000, &quiet, false, 10000) == 5000, "since it was noticed first");
  ok(mb__answers_since(5000, &well, false, 10000) == 0, "until it answers");
  ok(mb__answers_since(0, &away, false, 10000) == 10000, "since the connection was missed");
  ok(mb__answers_since(0, &away, true, 10000) == 0, "a connection that may be closed");
  ok(mb__answers_since(0, &leaderless, true, 10000) == 10000, "no leader, whatever is read");
}

int main(void) {
  test_reading();
  test_held();
  test_hostile();
  test_since();
  return done();
}
