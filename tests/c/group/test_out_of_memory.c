/* test_out_of_memory.c: memory that runs out, at every allocation in turn: an error comes back,
 * nothing leaks, nothing is freed twice. Must not need a broker. The engine's calls of malloc and
 * its kin come here first (the linker's
 * --wrap); those of librdkafka and of the C library do not. Run by ctest. */
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "check.h"
#include "config/config.h"
#include "event/codec.h"
#include "group/retry.h"
#include "handlers/dispatch.h"
#include "handlers/settle.h"

#define LIVE_MAX 65536 /* a power of two */

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
char *__real_strdup(const char *text);
void __real_free(void *memory);

/* The engine closes librdkafka on threads of its own. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void *live[LIVE_MAX]; /* what was allocated and not yet freed */
static int live_count;
static int countdown; /* the allocation that fails; 0 = none does */
static bool failed;

/* What is in the list as one goes to the other. */
static void replace(void *one, void *other, int count) {
  pthread_mutex_lock(&lock);
  for (int i = 0; i < LIVE_MAX; i++) {
    if (live[i] != one) continue;
    live[i] = other;
    live_count += count;
    break;
  }
  pthread_mutex_unlock(&lock);
}

static void note(void *memory) {
  if (memory) replace(NULL, memory, 1);
}

static void forget(void *memory) {
  if (memory) replace(memory, NULL, -1);
}

/* true if so many are left, at once or when a thread that closes librdkafka has ended. */
static bool are_left(int count) {
  const struct timespec a_moment = {.tv_nsec = 10000000};
  for (int i = 0;; i++) {
    pthread_mutex_lock(&lock);
    bool same = live_count == count;
    pthread_mutex_unlock(&lock);
    if (same || i == 3000) return same;
    nanosleep(&a_moment, NULL);
  }
}

static bool fails(void) {
  if (!countdown || --countdown) return false;
  failed = true;
  return true;
}

void *__wrap_malloc(size_t size) {
  void *memory = fails() ? NULL : __real_malloc(size);
  note(memory);
  return memory;
}

void *__wrap_calloc(size_t count, size_t size) {
  void *memory = fails() ? NULL : __real_calloc(count, size);
  note(memory);
  return memory;
}

void *__wrap_realloc(void *old, size_t size) {
  if (fails()) return NULL;
  forget(old);
  void *memory = __real_realloc(old, size);
  note(memory);
  return memory;
}

char *__wrap_strdup(const char *text) {
  char *memory = fails() ? NULL : __real_strdup(text);
  note(memory);
  return memory;
}

void __wrap_free(void *memory) {
  forget(memory);
  __real_free(memory);
}

/* Records are made here, so that those that are lost are seen. */
void rd_kafka_message_destroy(rd_kafka_message_t *record) {
  free(record);
}

/* ---- what is done without memory; true = it was all done ---- */

static char err[512];
static int opaques; /* taken and not yet freed */

static bool all_set(mb_config *conf) {
  static const char *const SET[][2] = {{"bootstrap_servers", "localhost:1"},
                                       {"topic_prefix", "memory"},
                                       {"consumer_group", "memory"},
                                       {"max_retries", "7"},
                                       {"client_id_that_is_unknown", "x"}};
  bool all = true;
  for (int i = 0; i < 4; i++)
    all &= mb_config_set(conf, SET[i][0], SET[i][1], MB_FROM_SCRIPT, err, sizeof err) == MB_OK;
  return all &&
         mb_config_set(conf, SET[4][0], SET[4][1], MB_FROM_SCRIPT, err, sizeof err) == MB_ECONFIG;
}

static bool config(void) {
  mb_config *conf = mb_config_new(), *copy = NULL;
  bool good = conf && all_set(conf) &&
              mb_config_set_kafka(conf, "client.rack", "a", err, sizeof err) == MB_OK &&
              mb_config_get(conf, "topic_name") && (copy = mb__config_copy(conf)) &&
              mb_config_get(copy, "dlq_topic_name");
  mb_config_free(copy);
  mb_config_free(conf);
  return good;
}

static mb_outcome handler(const mb_msg *msg, mb_fail *fail, void *opaque) {
  (void)msg, (void)fail, (void)opaque;
  return MB_HANDLED;
}

static void free_opaque(void *opaque) {
  (void)opaque;
  opaques--;
}

static bool subscribed(mb_bus *to) {
  const mb_subscription_options options = {.max_retries = 2, .name = "named"};
  uint32_t id = 0;
  bool all = true;
  for (int i = 0; i < 40; i++) {
    char type[16];
    snprintf(type, sizeof type, "Type%d", i);
    opaques++;
    all &= !mb_bus_subscribe_with(to, i % 8 ? type : NULL, handler, &opaques, free_opaque,
                                  i % 2 ? &options : NULL, &id);
  }
  return all && mb_bus_unsubscribe(to, id) == MB_OK;
}

static bool bus(void) {
  mb_config *conf = mb_config_new();
  mb_bus *made = NULL;
  bool good = conf && all_set(conf) && (made = mb_bus_new(conf, err, sizeof err));
  mb_config_free(conf);
  good = good && subscribed(made) &&
         mb_bus_connect(made, 0, err, sizeof err) == MB_ECONNECT; /* nobody is there */
  mb_bus_free(made);
  if (opaques) ok(false, "every handler's opaque is freed once: %d", opaques);
  opaques = 0;
  return good;
}

static bool encode(void) {
  mb_encoder encoder = {0};
  mb_event event = {.event_type = mb_str("Paid"),
                    .aggregate_id = mb_str("11111111-2222-4333-8444-555555555555"),
                    .aggregate_type = mb_str("Bill"),
                    .data = mb_str("{\"list\":[1,{\"a\":\"b\"}],\"text\":\"\\u00e9\"}")};
  mb_err result = mb__encode(&event, &encoder, err, sizeof err);
  mb__encoder_free(&encoder);
  return result == MB_OK;
}

static bool schema(void) {
  mb_schema *made = mb__schema_new(mb_str("Paid"));
  static const char *const FIELDS[][2] = {
      {"number", "integer"}, {"text", "string?"}, {"list", "string[]"}, {"any", "any"}};
  bool good = made;
  for (int i = 0; good && i < 4; i++)
    good = !mb__schema_add(made, mb_str(FIELDS[i][0]), mb_str(FIELDS[i][1]), err, sizeof err);
  mb__schema_free(made);
  return good;
}

static mb_outcome failing(const mb_msg *msg, mb_fail *fail, void *opaque) {
  (void)msg, (void)fail, (void)opaque;
  return MB_FAILED;
}

/* Twenty handlers of an event fail: those that are to run again are all of them, or, as far as is
 * known, any (an empty set); never some. */
static bool retrying(void) {
  static mb_tenant tenant;
  mb_dispatch dispatch = {.last_id = 0};
  mb_result result = {.failed_count = 0};
  mb_rules rules = {.max_retries = 3};
  mb_ids again = {.count = 0};
  mb_iteration iteration;
  bool added = true;
  for (int i = 0; i < 20; i++)
    added &= !mb__dispatch_add(&dispatch, "Paid", failing, NULL, NULL, NULL, NULL);
  if (added) {
    mb__dispatch_run(&dispatch, NULL, mb_str("Paid"), &tenant, NULL, &iteration, &result);
    mb__settle_weigh(&rules, &result, 0);
    mb__ids_join(&again, &result.failed);
    if (result.failed_count != 20 || (again.count && again.count != 20))
      ok(false, "retrying: %zu of 20 handlers that failed run again", again.count);
  }
  bool whole = again.count == 20;
  mb__ids_free(&again);
  mb__ids_free(&result.failed);
  mb__ids_free(&result.final);
  mb__dispatch_free(&dispatch);
  return added && whole;
}

static bool parking(void) {
  mb_retry_queue queue;
  bool all = true;
  mb__retry_init(&queue);
  for (int i = 0; i < 60; i++) {
    char key[16];
    snprintf(key, sizeof key, "key%d", i % 20);
    rd_kafka_message_t *record = __real_calloc(1, sizeof *record);
    record->offset = i;
    mb_parked *parked = mb__retry_park(&queue, record, mb_str(key));
    all &= parked != NULL;
    if (!parked) rd_kafka_message_destroy(record);
  }
  while (queue.head && queue.count > 30) mb__retry_settle(&queue, queue.head);
  mb__retry_clear(&queue);
  return all && !queue.count;
}

/* Every allocation of a piece of work fails once; then, with all of them, it is done. */
static void starve(const char *name, bool (*work)(void)) {
  bool refused = true, clean = true;
  int n = 0, before = live_count;
  do {
    failed = false;
    countdown = ++n;
    bool good = work();
    countdown = 0;
    if (failed) refused &= !good;
    if (!failed) ok(good, "%s: with memory it is done", name);
    if (!are_left(before)) {
      if (clean) ok(false, "%s: without allocation %d nothing leaks", name, n);
      clean = false;
      before = live_count;
    }
  } while (failed && n < 10000);
  ok(n > 1 && n < 10000, "%s: %d allocations", name, n - 1);
  ok(refused, "%s: without one of them it is refused", name);
  ok(clean, "%s: nothing is left", name);
}

int main(void) {
  (void)mb__schema_base(); /* made once for all */
  starve("configuration", config);
  starve("bus", bus);
  starve("encoder", encode);
  starve("schema", schema);
  starve("retrying", retrying);
  starve("parking lot", parking);
  return done();
}
