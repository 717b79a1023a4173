/* test_pending.c: handlers that go on after they returned, through moonbus.h alone, on the embedded
 * broker.
 * Must not include anything of the engine but its public header; its clock is ours to put forward.
 * Run by ctest; takes some seconds, as joining a group does there. */
#include "moonbus.h"

#include <poll.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

#define RUNS_MAX 256
#define LIMIT_MS 60000 /* for what takes seconds, but on a machine that is slow and busy */

static char err[512];

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int ahead_s;

int __real_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now) {
  int failed = __real_clock_gettime(clock, now);
  if (clock == CLOCK_MONOTONIC) now->tv_sec += ahead_s;
  return failed;
}

static void silent(mb_level level, const char *line, void *opaque) {
  (void)level, (void)line, (void)opaque;
}

static void set(mb_config *conf, const char *key, const char *value) {
  if (mb_config_set(conf, key, value, MB_FROM_SCRIPT, err, sizeof err))
    ok(false, "%s = %s is taken: %s", key, value, err);
}

static mb_bus *bus_new(const char *prefix, const char *concurrency) {
  mb_config *conf = mb_config_new();
  char name[64];
  snprintf(name, sizeof name, "p-%d-%s", (int)getpid(), prefix);
  set(conf, "bootstrap_servers", "embedded");
  set(conf, "topic_prefix", name);
  set(conf, "consumer_group", name);
  set(conf, "retry_base_delay", "0.02");
  set(conf, "retry_jitter", "0");
  set(conf, "max_retries", "2");
  set(conf, "concurrency", concurrency);
  set(conf, "heartbeat_interval_ms", "1000"); /* a member hears of a rebalance by it */
  set(conf, "shutdown_timeout", "4");
  mb_bus *bus = mb_bus_new(conf, err, sizeof err);
  ok(bus != NULL, "a bus: %s", bus ? "made" : err);
  mb_config_free(conf);
  mb_bus_set_log(bus, silent, NULL);
  ok(!mb_bus_connect(bus, LIMIT_MS, err, sizeof err), "it connects");
  return bus;
}

static void publish(mb_bus *bus, int key, int n) {
  char id[64], data[32];
  snprintf(id, sizeof id, "00000000-0000-4000-8000-%012d", key);
  snprintf(data, sizeof data, "{\"n\":%d}", n);
  mb_event event = {.event_type = mb_str("Asked"),
                    .aggregate_type = mb_str("Question"),
                    .aggregate_id = mb_str(id),
                    .data = mb_str(data)};
  if (mb_bus_publish(bus, &event, 1, NULL, err, sizeof err)) ok(false, "published: %s", err);
}

/* ---- a handler that is completed by hand ---- */

typedef struct ask {
  mb_bus *bus;
  int count;
  int n[RUNS_MAX];
  int attempt[RUNS_MAX];
  mb_token token[RUNS_MAX];
  mb_outcome at_once; /* what the handler tells before it returns; MB_PENDING = nothing */
  mb_outcome returns;
  bool tokenless, frees;
  mb_token other; /* completed from inside the handler */
} ask;

static int n_of(const mb_msg *msg) {
  mb_value value;
  return mb_msg_field(msg, "n", &value) || value.kind != MB_INT ? -1 : (int)value.as.i;
}

static mb_outcome on_ask(const mb_msg *msg, mb_fail *fail, void *opaque) {
  ask *a = opaque;
  int i = a->count++;
  (void)fail;
  if (i >= RUNS_MAX) abort();
  a->n[i] = n_of(msg);
  a->attempt[i] = mb_msg_attempt(msg);
  if (!a->tokenless && mb_bus_pend(a->bus, msg, &a->token[i], err, sizeof err))
    ok(false, "a token: %s", err);
  if (a->at_once != MB_PENDING && mb_bus_complete(a->bus, a->token[i], a->at_once))
    ok(false, "completed at once");
  if (a->other && mb_bus_complete(a->bus, a->other, MB_HANDLED))
    ok(false, "another is completed from inside a handler");
  a->other = 0;
  return a->returns;
}

static void ask_init(ask *a, mb_bus *bus) {
  *a = (ask){.bus = bus, .at_once = MB_PENDING, .returns = MB_PENDING};
}

typedef struct tally {
  int count;
  int n[RUNS_MAX];
} tally;

static mb_outcome on_tally(const mb_msg *msg, mb_fail *fail, void *opaque) {
  tally *t = opaque;
  (void)fail;
  if (t->count >= RUNS_MAX) abort();
  t->n[t->count++] = n_of(msg);
  return MB_HANDLED;
}

/* Step until the count is reached; false after LIMIT_MS. */
static bool reach(mb_bus *bus, const int *count, int expected) {
  int64_t by = now_ms() + LIMIT_MS;
  while (*count < expected && now_ms() < by)
    if (mb_bus_step(bus, 20, err, sizeof err)) return false;
  return *count >= expected;
}

static mb_stats stats_of(mb_bus *bus) {
  mb_stats stats;
  mb_bus_stats(bus, &stats);
  return stats;
}

static bool reach_success(mb_bus *bus, uint64_t expected) {
  int64_t by = now_ms() + LIMIT_MS;
  while (stats_of(bus).events_processed_success < expected && now_ms() < by)
    if (mb_bus_step(bus, 20, err, sizeof err)) return false;
  return stats_of(bus).events_processed_success == expected;
}

/* Nothing more happens, though the bus is stepped for a while. */
static bool stays(mb_bus *bus, const int *count, int expected) {
  int64_t by = now_ms() + 150;
  while (now_ms() < by)
    if (mb_bus_step(bus, 10, err, sizeof err)) return false;
  return *count == expected;
}

static mb_err complete(ask *a, int i, mb_outcome outcome) {
  return mb_bus_complete(a->bus, a->token[i], outcome);
}

static void start(mb_bus *bus) {
  ok(!mb_bus_start(bus, true, err, sizeof err), "it starts");
}

static void subscribe(mb_bus *bus, mb_handler_fn fn, void *opaque) {
  if (mb_bus_subscribe(bus, "Asked", fn, opaque, NULL, NULL)) ok(false, "a handler subscribes");
}

static void on_reason(mb_health how, const char *code, const char *text, int32_t partition,
                      void *opaque) {
  (void)text, (void)partition;
  *(bool *)opaque |= how == MB_YELLOW && strcmp(code, "handlers_waiting") == 0;
}

static bool waits_too_long(mb_bus *bus) {
  bool told = false;
  mb_bus_health(bus, on_reason, &told);
  return told;
}

/* ---- what is promised ---- */

static void keys_and_places(void) {
  mb_bus *bus = bus_new("keys", "3");
  ask a;
  ask_init(&a, bus);
  subscribe(bus, on_ask, &a);
  for (int n = 0; n < 8; n++) publish(bus, n % 4, n); /* 0 1 2 3 0 1 2 3 */
  start(bus);
  ok(reach(bus, &a.count, 3), "three of four keys are given to the handler");
  ok(stays(bus, &a.count, 3), "and no more, as concurrency is 3");
  mb_stats stats = stats_of(bus);
  ok(stats.events_running == 3 && !stats.events_processed_success && !mb_bus_is_idle(bus),
     "they are running, and nothing is handled");
  ok(mb_bus_wait_ms(bus) > 0, "a loop may wait meanwhile");
  ahead_s += 50;
  ok(!waits_too_long(bus), "handlers may take a while");
  ahead_s += 20;
  ok(waits_too_long(bus), "health tells when none ends for a minute");
  const mb_msg *msg = mb_pending_msg(bus, a.token[1]);
  ok(msg && n_of(msg) == a.n[1] && mb_msg_attempt(msg) == 1, "an event is there while it runs");
  ok(!complete(&a, 1, MB_HANDLED), "the second is completed first");
  struct pollfd fd = {.fd = mb_bus_fd(bus), .events = POLLIN};
  ok(poll(&fd, 1, 0) == 1 && !mb_bus_wait_ms(bus), "which a poll loop is told of");
  ok(complete(&a, 1, MB_HANDLED) == MB_ENOENT && !mb_pending_msg(bus, a.token[1]) &&
         !mb_pending_fail(bus, a.token[1]),
     "a second time it is refused");
  ok(reach(bus, &a.count, 4) && stays(bus, &a.count, 4), "one more has its turn");
  ok(!waits_too_long(bus), "and health tells of it no more");
  ok(stats_of(bus).events_processed_success == 1, "and the first one is handled");
  for (int i = 0; i < 8; i++) {
    if (i != 1 && complete(&a, i, MB_HANDLED)) ok(false, "run %d is completed", i);
    if (i < 7 && !reach(bus, &a.count, i + 2)) ok(false, "the next comes after %d", i);
  }
  ok(reach_success(bus, 8), "all of them are handled");
  bool order = true;
  for (int i = 0; i < 8; i++)
    for (int j = i + 1; j < 8; j++) order &= a.n[i] % 4 != a.n[j] % 4 || a.n[i] < a.n[j];
  ok(order && a.count == 8, "each once, and those of a key in their order");
  ok(complete(&a, 0, MB_HANDLED) == MB_ENOENT && mb_bus_complete(bus, 0, MB_HANDLED) == MB_ENOENT &&
         mb_bus_complete(bus, 12345, MB_HANDLED) == MB_ENOENT &&
         mb_bus_complete(bus, UINT64_MAX, MB_HANDLED) == MB_ENOENT,
     "tokens of nobody are refused");
  ok(mb_bus_pend(bus, msg, &a.token[0], err, sizeof err) == MB_ESTATE,
     "so is one out of a handler");
  mb_bus_free(bus);
}

static void several_handlers(void) {
  mb_bus *bus = bus_new("several", "4");
  ask a, b;
  tally before = {0}, between = {0}, after = {0};
  ask_init(&a, bus);
  ask_init(&b, bus);
  subscribe(bus, on_tally, &before);
  subscribe(bus, on_ask, &a);
  subscribe(bus, on_tally, &between);
  if (mb_bus_subscribe(bus, NULL, on_ask, &b, NULL, NULL)) ok(false, "one for all events");
  if (mb_bus_subscribe(bus, NULL, on_tally, &after, NULL, NULL)) ok(false, "and another");
  publish(bus, 1, 1);
  start(bus);
  ok(reach(bus, &a.count, 1) && before.count == 1 && !between.count && !b.count,
     "the handlers after a pending one wait for it");
  ok(mb_bus_complete(bus, a.token[0], MB_PENDING) == MB_EINVAL, "pending is nothing to tell");
  mb_fail_set(mb_pending_fail(bus, a.token[0]), "Slow", "not this time");
  mb_fail_retry_after(mb_pending_fail(bus, a.token[0]), 10);
  ok(!complete(&a, 0, MB_FAILED) && reach(bus, &b.count, 1), "then they have their turn");
  ok(between.count == 1 && !after.count, "in their order");
  ok(!complete(&b, 0, MB_HANDLED) && reach(bus, &a.count, 2), "only who failed runs again");
  ok(a.attempt[1] == 2 && before.count == 1 && between.count == 1 && after.count == 1,
     "as the second attempt");
  ok(!complete(&a, 1, MB_HANDLED) && reach_success(bus, 1), "and the event is handled");
  ok(before.count == 1 && between.count == 1 && after.count == 1 && b.count == 1, "once by each");
  mb_bus_free(bus);
}

static bool on_letter(const mb_msg *letter, void *opaque) {
  mb_bytes value;
  char *text = opaque;
  if (!mb_msg_header(letter, "dlq_error_message", &value))
    snprintf(text + strlen(text), 200 - strlen(text), "%.*s;", (int)value.len, value.data);
  if (!mb_msg_header(letter, "dlq_reason", &value))
    snprintf(text + strlen(text), 200 - strlen(text), "%.*s ", (int)value.len, value.data);
  return true;
}

static void failures(void) {
  mb_bus *bus = bus_new("fail", "2");
  ask a;
  char letters[200] = "";
  ask_init(&a, bus);
  subscribe(bus, on_ask, &a);
  publish(bus, 1, 1);
  publish(bus, 1, 2);
  start(bus);
  for (int i = 0; i < 3; i++) {
    ok(reach(bus, &a.count, i + 1) && a.n[i] == 1 && a.attempt[i] == i + 1, "attempt %d", i + 1);
    mb_fail_set(mb_pending_fail(bus, a.token[i]), "No", "again %d", i);
    ok(!complete(&a, i, MB_FAILED), "fails");
  }
  ok(reach(bus, &a.count, 4) && a.n[3] == 2, "the next of the key waited for its dead letter");
  mb_fail_set(mb_pending_fail(bus, a.token[3]), "Never", "refused");
  ok(!complete(&a, 3, MB_REJECTED), "which is refused at once");
  int64_t by = now_ms() + LIMIT_MS;
  while (stats_of(bus).messages_sent_to_dlq < 2 && now_ms() < by)
    if (mb_bus_step(bus, 20, err, sizeof err)) break;
  ok(!mb_dlq_read(bus, NULL, LIMIT_MS, on_letter, letters, err, sizeof err) &&
         strstr(letters, "again 2;max_retries_exceeded") &&
         strstr(letters, "refused;handler_reject"),
     "the dead letters tell why: %s", letters);
  ok(stats_of(bus).retries == 2 && stats_of(bus).events_parked == 0, "and nothing is left");
  mb_bus_free(bus);
}

static void out_of_step(void) {
  mb_bus *bus = bus_new("odd", "2");
  ask a;
  ask_init(&a, bus);
  subscribe(bus, on_ask, &a);
  start(bus);
  a.at_once = MB_HANDLED;
  publish(bus, 1, 1);
  ok(reach_success(bus, 1), "a handler may be completed before it returns");
  a.returns = MB_HANDLED;
  a.at_once = MB_PENDING;
  publish(bus, 1, 2);
  ok(reach_success(bus, 2) && complete(&a, 1, MB_HANDLED) == MB_ENOENT,
     "who takes a token and is done all the same is done");
  a.returns = MB_PENDING;
  a.tokenless = true;
  publish(bus, 1, 3);
  ok(reach(bus, &a.count, 5), "to be pending without a token is a failure");
  a.tokenless = false;
  int64_t by = now_ms() + LIMIT_MS;
  while (!stats_of(bus).messages_sent_to_dlq && now_ms() < by)
    if (mb_bus_step(bus, 20, err, sizeof err)) break;
  publish(bus, 1, 4);
  ok(reach(bus, &a.count, 6), "another is pending");
  a.other = a.token[5];
  publish(bus, 2, 5);
  ok(reach(bus, &a.count, 7) && reach_success(bus, 3), "and completed from inside a handler");
  mb_bus_free(bus); /* with one pending */
}

static void freed(void *opaque) {
  ++*(int *)opaque;
}

static int pends_of;
static mb_bus *pends_bus;
static mb_token pends_token;

static mb_outcome on_pend(const mb_msg *msg, mb_fail *fail, void *opaque) {
  (void)fail, (void)opaque;
  pends_of++;
  return mb_bus_pend(pends_bus, msg, &pends_token, NULL, 0) ? MB_FAILED : MB_PENDING;
}

static void unsubscribed(void) {
  mb_bus *bus = bus_new("unsub", "2");
  int gone = 0;
  uint32_t id = 0;
  pends_bus = bus;
  ok(!mb_bus_subscribe(bus, "Asked", on_pend, &gone, freed, &id), "a handler subscribes");
  publish(bus, 1, 1);
  start(bus);
  ok(reach(bus, &pends_of, 1), "it is pending");
  ok(!mb_bus_unsubscribe(bus, id) && !gone, "and is kept until it is completed");
  publish(bus, 2, 2);
  int64_t by = now_ms() + LIMIT_MS;
  while (!stats_of(bus).events_skipped && now_ms() < by)
    if (mb_bus_step(bus, 20, err, sizeof err)) break;
  ok(stats_of(bus).events_skipped == 1, "though no event is given to it");
  ok(!mb_bus_complete(bus, pends_token, MB_HANDLED) && reach_success(bus, 1) && gone == 1,
     "then not");
  mb_bus_free(bus);
}

static void stopping(void) {
  mb_bus *bus = bus_new("stop", "4");
  ask a;
  ask_init(&a, bus);
  subscribe(bus, on_ask, &a);
  publish(bus, 1, 1);
  publish(bus, 2, 2);
  start(bus);
  ok(reach(bus, &a.count, 2), "two are pending");
  mb_bus_stop(bus);
  publish(bus, 3, 3);
  ok(!mb_bus_step(bus, 50, err, sizeof err) && mb_bus_is_consuming(bus), "a stop waits for them");
  int wait_ms = mb_bus_wait_ms(bus);
  ok(wait_ms > 0 && wait_ms <= 1000, "as long as shutdown_timeout: %d ms", wait_ms);
  ok(!complete(&a, 0, MB_HANDLED), "one is completed");
  ok(!mb_bus_step(bus, 50, err, sizeof err) && stats_of(bus).events_processed_success == 1,
     "and settled");
  while (mb_bus_is_consuming(bus) && !mb_bus_step(bus, 100, err, sizeof err)) continue;
  ok(a.count == 2, "nothing new is begun");
  ok(!mb_pending_msg(bus, a.token[1]), "the other is abandoned");
  start(bus);
  ok(reach(bus, &a.count, 3) && a.n[2] == 3, "after a new start the one that waited has its turn");
  ok(stays(bus, &a.count, 3), "but not one whose earlier run goes on");
  ok(!complete(&a, 1, MB_FAILED) && reach(bus, &a.count, 4) && a.n[3] == 2 && a.attempt[3] == 1,
     "until that is done, whatever it came to");
  ok(!complete(&a, 2, MB_HANDLED) && !complete(&a, 3, MB_HANDLED) && reach_success(bus, 3), "done");
  ok(complete(&a, 1, MB_HANDLED) == MB_ENOENT, "and an abandoned one is completed once, too");
  publish(bus, 1, 4);
  ok(reach(bus, &a.count, 5) && !mb_bus_disconnect(bus, err, sizeof err),
     "disconnecting waits not");
  ok(!complete(&a, 4, MB_HANDLED), "and a token is good after it");
  mb_bus_free(bus);
}

/* Two members: what goes to the other is abandoned here; what stays is not run again. */
static void rebalanced(void) {
  mb_bus *bus = bus_new("moved", "16"), *other = bus_new("moved", "16");
  ask a, b;
  ask_init(&a, bus);
  ask_init(&b, other);
  subscribe(bus, on_ask, &a);
  subscribe(other, on_ask, &b);
  for (int n = 0; n < 12; n++) publish(bus, n, n);
  start(bus);
  ok(reach(bus, &a.count, 12), "twelve keys are pending with one member");
  start(other);
  int64_t by = now_ms() + LIMIT_MS;
  while ((stats_of(bus).assigned_count != 2 || stats_of(other).assigned_count != 2 ||
          stats_of(bus).events_running + stats_of(other).events_running < 12) &&
         now_ms() < by)
    if (mb_bus_step(bus, 10, err, sizeof err) || mb_bus_step(other, 10, err, sizeof err)) break;
  int kept = (int)stats_of(bus).events_running, went = (int)stats_of(other).events_running;
  ok(kept + went == 12 && went == b.count && b.count > 0, "another gets %d of them", went);
  ok(a.count == 12, "those that stayed, or came back, are not run again");
  int known = 0, detached = 0;
  for (int i = 0; i < 12; i++) known += mb_pending_msg(bus, a.token[i]) != NULL;
  for (int i = 0; i < 12; i++) detached += !complete(&a, i, MB_HANDLED);
  ok(known == kept && detached == 12, "each is completed, those that went to no effect");
  for (int i = 0; i < b.count; i++)
    if (complete(&b, i, MB_HANDLED)) ok(false, "the other's are completed");
  ok(reach_success(bus, (uint64_t)kept) && reach_success(other, (uint64_t)went), "all are handled");
  mb_bus_free(bus);
  mb_bus_free(other);
}

int main(void) {
  keys_and_places();
  several_handlers();
  failures();
  out_of_step();
  unsubscribed();
  stopping();
  rebalanced();
  return done();
}
