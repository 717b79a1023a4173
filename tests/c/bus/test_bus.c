/* test_bus.c: the C interface end to end on the embedded broker, through moonbus.h alone.
 * Must not include anything of the engine but its public header.
 * Run by ctest; takes some seconds, as a first join of a group takes three there. */
#include "moonbus.h"

#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

#define LIMIT_MS 60000 /* for what takes a moment, but on a machine that is slow and busy */

#define ORDER_A "00000000-0000-4000-8000-00000000000a"
#define ORDER_B "00000000-0000-4000-8000-00000000000b"

static char err[512];
static char log_text[65536]; /* every line there was */

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static bool is(mb_bytes got, const char *expected) {
  return got.data && got.len == strlen(expected) && !memcmp(got.data, expected, got.len);
}

static void on_log(mb_level level, const char *line, void *opaque) {
  (void)level, (void)opaque;
  size_t len = strlen(log_text);
  snprintf(log_text + len, sizeof log_text - len, "%s\n", line);
}

static void set(mb_config *conf, const char *key, const char *value) {
  if (mb_config_set(conf, key, value, MB_FROM_SCRIPT, err, sizeof err))
    ok(false, "%s = %s is taken: %s", key, value, err);
}

/* A bus of its own topic; options are pairs of key and value that end in NULL. */
static mb_bus *bus_new(const char *prefix, const char *const *options) {
  mb_config *conf = mb_config_new();
  char name[64];
  snprintf(name, sizeof name, "c-%d-%s", (int)getpid(), prefix);
  set(conf, "bootstrap_servers", "embedded");
  set(conf, "topic_prefix", name);
  set(conf, "consumer_group", name);
  set(conf, "session_timeout_ms", "6000");
  set(conf, "heartbeat_interval_ms", "1000");
  set(conf, "retry_base_delay", "0.05");
  set(conf, "retry_jitter", "0");
  set(conf, "max_retries", "2");
  for (; options && *options; options += 2) set(conf, options[0], options[1]);
  mb_bus *bus = mb_bus_new(conf, err, sizeof err);
  ok(bus != NULL, "a bus is made: %s", prefix);
  mb_config_free(conf);
  if (bus) mb_bus_set_log(bus, on_log, NULL);
  return bus;
}

static mb_event event_of(const char *type, const char *aggregate, const char *data) {
  return (mb_event){.event_type = mb_str(type),
                    .aggregate_id = mb_str(aggregate),
                    .aggregate_type = mb_str("Order"),
                    .data = mb_str(data)};
}

/* ---- handlers ---- */

typedef struct seen {
  int count, last_attempt;
  int fail_times; /* so many runs fail, then one does well */
  mb_outcome outcome;
  mb_bus *stop; /* stopped by the handler's run */
  int64_t offsets[64];
  char header[64]; /* of name "dlq_replay_count" */
  int checked;     /* messages whose parts were checked */
  bool opaque_freed;
} seen;

static sem_t handled;    /* posted by every run of a handler, for other threads to wait on */
static mb_receipt first; /* of the first event published: which partition is read first is chance */

static void check_message(const mb_msg *msg) {
  mb_value value;
  mb_bytes header;
  const char *name;
  static const char *const order[] = {"event_id",       "event_type",        "aggregate_id",
                                      "aggregate_type", "aggregate_version", "occurred_at",
                                      "correlation_id"};
  bool right = true;
  for (size_t i = 0; i < sizeof order / sizeof *order; i++)
    right &= mb_msg_header_at(msg, i, &name, &header) && strcmp(name, order[i]) == 0;
  ok(right && !mb_msg_header_at(msg, 7, &name, &header), "headers are walked in wire order");
  ok(!mb_msg_header(msg, "aggregate_id", &header) && is(header, ORDER_A), "a header has its value");
  ok(mb_msg_header(msg, "nothing", &header) == MB_ENOENT, "a header that is not there is ENOENT");
  ok(is(mb_msg_key(msg), ORDER_A), "the key is the aggregate's id");
  ok(mb_msg_value(msg).len > 100 && mb_msg_value(msg).data[0] == '{', "the value is there");
  ok(mb_msg_timestamp_ms(msg) > 1600000000000, "the timestamp is");
  ok(strstr(mb_msg_topic(msg), ".stream") && mb_msg_partition(msg) >= 0, "so is its place");
  ok(!mb_msg_field(msg, "total", &value) && value.kind == MB_DOUBLE && value.as.d == 1.5,
     "a number is read");
  ok(!mb_msg_field(msg, "count", &value) && value.kind == MB_INT && value.as.i == INT64_MAX,
     "an integer is read exactly");
  ok(!mb_msg_field(msg, "big", &value) && value.kind == MB_UINT && value.as.u == UINT64_MAX,
     "a bigger one as well");
  ok(!mb_msg_field(msg, "name", &value) && value.kind == MB_STRING && is(value.as.s, "a\"b\n"),
     "text is unescaped");
  ok(!mb_msg_field(msg, "list", &value) && value.kind == MB_JSON && is(value.as.s, "[1,{}]"),
     "a list comes as its text");
  ok(!mb_msg_field(msg, "yes", &value) && value.kind == MB_BOOL && value.as.b, "so does a boolean");
  ok(!mb_msg_field(msg, "none", &value) && value.kind == MB_NULL, "and null");
  ok(!mb_msg_field(msg, "tenant_id", &value) && value.kind == MB_NULL, "base fields, too");
  ok(mb_msg_field(msg, "nothing", &value) == MB_ENOENT, "a field that is not there is ENOENT");
}

static mb_outcome on_event(const mb_msg *msg, mb_fail *fail, void *opaque) {
  seen *s = opaque;
  mb_bytes header;
  if (s->count < 64) s->offsets[s->count] = mb_msg_offset(msg);
  s->count++;
  s->last_attempt = mb_msg_attempt(msg);
  if (!mb_msg_header(msg, "dlq_replay_count", &header))
    snprintf(s->header, sizeof s->header, "%.*s", (int)header.len, header.data);
  if (s->stop) mb_bus_stop(s->stop);
  sem_post(&handled);
  if (s->fail_times > 0) {
    s->fail_times--;
    mb_fail_set(fail, "Timeout", "attempt %d", mb_msg_attempt(msg));
    return MB_FAILED;
  }
  if (s->outcome != MB_HANDLED) mb_fail_set(fail, "Refused", "%s", "never");
  return s->outcome;
}

static mb_outcome on_checked(const mb_msg *msg, mb_fail *fail, void *opaque) {
  if (mb_msg_partition(msg) == first.partition && mb_msg_offset(msg) == first.offset) {
    check_message(msg);
    ((seen *)opaque)->checked++;
  }
  return on_event(msg, fail, opaque);
}

static void on_free(void *opaque) {
  ((seen *)opaque)->opaque_freed = true;
}

/* ---- waiting, as a program with a poll loop of its own does ---- */

/* Step whenever the descriptor is readable or its time has come, until the count is reached. */
static bool turn_until(mb_bus *bus, const int *count, int expected, int timeout_ms) {
  int64_t end = now_ms() + timeout_ms;
  while (*count < expected) {
    struct pollfd fd = {.fd = mb_bus_fd(bus), .events = POLLIN};
    if (now_ms() > end) return false;
    poll(&fd, 1, mb_bus_wait_ms(bus));
    if (mb_bus_step(bus, 0, err, sizeof err)) {
      ok(false, "a step goes well: %s", err);
      return false;
    }
  }
  return true;
}

/* The same by the descriptor alone: no time that the bus gives runs out, unless it is now. */
static bool woken_until(mb_bus *bus, const int *count, int expected) {
  while (*count < expected) {
    struct pollfd fd = {.fd = mb_bus_fd(bus), .events = POLLIN};
    bool now = mb_bus_wait_ms(bus) == 0;
    if (poll(&fd, 1, now ? 0 : LIMIT_MS) == 0 && !now) return false;
    if (mb_bus_step(bus, 0, err, sizeof err)) return false;
  }
  return true;
}

static bool settled(mb_bus *bus, uint64_t consumed) {
  mb_stats stats;
  mb_bus_stats(bus, &stats);
  return stats.events_consumed >= consumed && !stats.events_parked && !stats.publish_queued;
}

static bool turn_until_settled(mb_bus *bus, uint64_t consumed) {
  int64_t end = now_ms() + LIMIT_MS;
  while (!settled(bus, consumed)) {
    if (now_ms() > end || mb_bus_step(bus, 50, err, sizeof err)) return false;
  }
  return true;
}

/* ---- before anything is connected ---- */

static void not_connected(void) {
  mb_bus *bus = bus_new("idle", NULL);
  mb_event event = event_of("OrderPlaced", ORDER_A, "{}");
  mb_receipt receipt;
  mb_stats stats;
  size_t queued = 7;
  int64_t count;
  ok(!mb_bus_is_connected(bus) && !mb_bus_is_consuming(bus), "a new bus is neither connected nor "
                                                             "consuming");
  ok(mb_bus_publish(bus, &event, 1, &receipt, err, sizeof err) == MB_ESTATE &&
         strstr(err, "connect"),
     "publishing wants a connection, and says so");
  ok(mb_bus_publish(bus, NULL, 0, NULL, NULL, 0) == MB_ESTATE, "so does publishing nothing");
  ok(mb_bus_publish_background(bus, &event, 1, &queued, NULL, 0) == MB_ESTATE && queued == 0,
     "so does publishing in the background");
  ok(mb_bus_start(bus, true, NULL, 0) == MB_ESTATE, "so does consuming");
  ok(mb_bus_run(bus, NULL, 0) == MB_ESTATE, "so does running");
  ok(mb_dlq_replay(bus, 0, 0, false, NULL, NULL, 0) == MB_ESTATE, "so does replaying");
  ok(mb_bus_step(bus, 0, NULL, 0) == MB_OK, "a step does nothing, well");
  ok(mb_bus_flush(bus, 0, NULL, 0) == MB_OK, "nothing is flushed at once");
  ok(mb_bus_fd(bus) >= 0, "there is a descriptor");
  ok(mb_bus_wait_ms(bus) > 0 && mb_bus_wait_ms(bus) <= 1000, "nothing is urgent");
  ok(mb_bus_unsubscribe(bus, 1) == MB_ENOENT, "there is nothing to unsubscribe");
  mb_bus_stats(bus, &stats);
  ok(!stats.events_published && !stats.connected_at_us && stats.lag == -1 && !stats.assigned_count,
     "its counters are at 0, its lag unknown");
  ok(!mb_bus_is_idle(bus), "it is not idle: it never read anything");
  ok(mb_dlq_count(bus, &count, NULL, 0) == MB_OK && count == 0, "there are no dead letters");
  mb_bus_stop(bus);
  ok(mb_bus_wait_ms(bus) > 0, "a stop of what does not run leaves nothing urgent");
  ok(mb_bus_disconnect(bus, NULL, 0) == MB_OK && mb_bus_disconnect(bus, NULL, 0) == MB_OK,
     "it may be disconnected, twice");
  mb_bus_free(bus);
  mb_bus_free(NULL);
}

static bool on_nothing(const mb_msg *msg, void *opaque) {
  (void)msg, (void)opaque;
  return false;
}

static void bad_arguments(void) {
  mb_config *conf = mb_config_new();
  ok(mb_config_set(conf, "no_such", "1", MB_FROM_SCRIPT, NULL, 0) == MB_ECONFIG,
     "an unknown option is refused without errstr");
  ok(mb_config_set_kafka(conf, "no.such", "1", NULL, 0) == MB_ECONFIG, "a property is as well");
  set(conf, "topic_prefix", "a b");
  ok(!mb_bus_new(conf, NULL, 0), "an impossible topic makes no bus, without errstr");
  ok(!mb_bus_new(conf, err, sizeof err) && strstr(err, "topic_prefix"), "and with it is named");
  char tiny[4];
  ok(!mb_bus_new(conf, tiny, sizeof tiny) && strlen(tiny) == 3, "a small errstr is cut");
  mb_config_free(conf);
  mb_bus *bus = bus_new("bad", NULL);
  seen s = {0};
  ok(mb_bus_subscribe(bus, "A", NULL, &s, on_free, NULL) == MB_EINVAL && s.opaque_freed,
     "a subscription without a handler is refused, its opaque freed");
  s.opaque_freed = false;
  ok(mb_bus_subscribe(bus, "", on_event, &s, on_free, NULL) == MB_EINVAL && s.opaque_freed,
     "one to no type is, too");
  s.opaque_freed = false;
  ok(mb_bus_subscribe(bus, "A", on_event, &s, on_free, NULL) == MB_OK, "a right one is taken");
  mb_read_options all = {.partition = -1, .offset = -1};
  mb_err wrong[] = {mb_bus_new(NULL, err, sizeof err) ? MB_OK : MB_EINVAL,
                    mb_bus_read(bus, "t", NULL, on_nothing, NULL, err, sizeof err),
                    mb_bus_read(bus, NULL, &all, on_nothing, NULL, err, sizeof err),
                    mb_bus_read(bus, "t", &all, NULL, NULL, err, sizeof err),
                    mb_dlq_read(bus, NULL, -1, NULL, NULL, err, sizeof err),
                    mb_bus_replay_dlq(bus, NULL, NULL, err, sizeof err),
                    mb_topic_create(bus, NULL, 1, 1, NULL, 0)};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
    ok(wrong[i] == MB_EINVAL, "what must not be NULL is refused: %zu", i);
  static const char *const names[] = {"", ".", "..", "a b", "a/b", "\xC3\xA9"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    ok(mb_topic_create(bus, names[i], 1, 1, err, sizeof err) == MB_ETOPIC && strstr(err, "topic"),
       "no topic is named so: %s", names[i]);
  int64_t count = 7;
  strcpy(err, "x");
  ok(!mb_dlq_count(bus, &count, err, sizeof err) && count == 0 && !*err,
     "no topic of dead letters is none of them, and no error");
  mb_bus_free(bus);
  ok(s.opaque_freed, "its opaque is freed with the bus");
}

/* ---- publishing ---- */

static void publishing(mb_bus *bus) {
  mb_stats stats;
  mb_receipt receipts[3];
  const char *data = "{\"total\":1.5,\"count\":9223372036854775807,\"big\":18446744073709551615,"
                     "\"name\":\"a\\\"b\\n\",\"list\":[1,{}],\"yes\":true,\"none\":null}";
  mb_event events[3] = {event_of("OrderPlaced", ORDER_A, data),
                        event_of("OrderPlaced", ORDER_A, data),
                        event_of("OrderPlaced", ORDER_B, data)};
  ok(mb_bus_publish(bus, events, 3, receipts, err, sizeof err) == MB_OK, "three are published");
  first = receipts[0];
  ok(!receipts[0].err && !receipts[1].err && !receipts[2].err, "each has a receipt");
  ok(receipts[0].partition >= 0 && receipts[0].partition == receipts[1].partition,
     "one aggregate's events share a partition");
  ok(receipts[1].offset == receipts[0].offset + 1, "and keep their order");
  mb_bus_stats(bus, &stats);
  ok(stats.events_published == 3 && stats.last_publish_at_us > 0, "they are counted");
  ok(mb_bus_publish(bus, events, 0, NULL, NULL, 0) == MB_OK, "none is published at once");
  ok(mb_bus_publish(bus, NULL, 1, NULL, err, sizeof err) == MB_EINVAL, "nor one that is not there");
  events[1].aggregate_id = mb_str("7");
  ok(mb_bus_publish(bus, events, 3, receipts, err, sizeof err) == MB_EEVENT &&
         strstr(err, "OrderPlaced.aggregate_id"),
     "a wrong event is named with its field: %s", err);
  ok(mb_bus_publish(bus, events, 3, NULL, NULL, 0) == MB_EEVENT, "without errstr as well");
  size_t queued = 7;
  ok(mb_bus_publish_background(bus, events, 3, &queued, NULL, 0) == MB_EEVENT && !queued,
     "none of its list is queued");
  mb_bus_stats(bus, &stats);
  ok(stats.events_published == 3 && !stats.publish_queued, "and none sent");
}

/* ---- consuming ---- */

static void consuming(mb_bus *bus, seen *placed) {
  mb_stats stats;
  uint32_t id = 0;
  ok(!mb_bus_subscribe(bus, "OrderPlaced", on_checked, placed, on_free, &id) && id,
     "a handler is subscribed");
  ok(mb_bus_start(bus, true, err, sizeof err) == MB_OK && mb_bus_is_consuming(bus), "the bus "
                                                                                    "consumes");
  ok(mb_bus_start(bus, true, NULL, 0) == MB_ESTATE, "it does so once");
  ok(turn_until(bus, &placed->count, 3, LIMIT_MS), "a poll loop of one's own gets the events");
  ok(placed->checked == 1, "the first published was looked at, once");
  ok(turn_until_settled(bus, 3), "which are settled");
  mb_bus_stats(bus, &stats);
  ok(stats.events_consumed == 3 && stats.events_processed_success == 3 && stats.assigned_count == 4,
     "and counted");
}

/* Quiet now: the descriptor must wake up whoever waits for the bus, however long that is. */
static void descriptor(mb_bus *bus, mb_bus *other, seen *placed) {
  mb_event event = event_of("OrderPlaced", ORDER_A, "{}");
  int before = placed->count;
  for (int i = 0; i < 5; i++) {
    int64_t end = now_ms() + LIMIT_MS;
    while (!mb_bus_is_idle(bus) && now_ms() < end)
      if (mb_bus_step(bus, 50, NULL, 0)) break;
    while (mb_bus_step(bus, 0, NULL, 0) == MB_OK && mb_bus_wait_ms(bus) == 0) continue;
    ok(mb_bus_publish(other, &event, 1, NULL, NULL, 0) == MB_OK, "another bus publishes");
    if (!ok(woken_until(bus, &placed->count, before + i + 1), "the descriptor wakes the loop"))
      break;
  }
  ok(placed->count == before + 5, "every event came");
}

static void retrying(mb_bus *bus) {
  mb_stats before, after;
  seen flaky = {.fail_times = 2};
  uint32_t id;
  mb_event event = event_of("Flaky", ORDER_A, "{}");
  mb_bus_stats(bus, &before);
  ok(!mb_bus_subscribe(bus, "Flaky", on_event, &flaky, NULL, &id), "a handler that fails twice");
  ok(!mb_bus_publish(bus, &event, 1, NULL, NULL, 0), "gets an event");
  ok(turn_until(bus, &flaky.count, 3, LIMIT_MS), "runs three times");
  ok(flaky.last_attempt == 3, "the last is attempt 3");
  ok(flaky.offsets[0] == flaky.offsets[2], "of the same record");
  ok(turn_until_settled(bus, before.events_consumed + 1), "and is settled");
  mb_bus_stats(bus, &after);
  ok(after.retries - before.retries == 2 && after.handler_errors - before.handler_errors == 2 &&
         after.events_processed_success - before.events_processed_success == 1,
     "its retries are counted");
  ok(!mb_bus_unsubscribe(bus, id), "it goes");
}

typedef struct letters {
  int count;
  int32_t partition;
  int64_t offset;
  char reason[64], type[64], message[64], names[1024];
  int most; /* stop after so many; 0 = none */
} letters;

static void keep(const mb_msg *msg, const char *name, char *to, size_t size) {
  mb_bytes value = {"", 0};
  if (mb_msg_header(msg, name, &value)) value = mb_str("-");
  snprintf(to, size, "%.*s", (int)value.len, value.data);
}

static bool on_letter(const mb_msg *msg, void *opaque) {
  letters *l = opaque;
  mb_bytes value;
  const char *name;
  l->count++;
  l->partition = mb_msg_partition(msg);
  l->offset = mb_msg_offset(msg);
  keep(msg, "dlq_reason", l->reason, sizeof l->reason);
  keep(msg, "dlq_error_type", l->type, sizeof l->type);
  keep(msg, "dlq_error_message", l->message, sizeof l->message);
  l->names[0] = 0;
  for (size_t i = 0; mb_msg_header_at(msg, i, &name, &value); i++) {
    strncat(l->names, name, sizeof l->names - strlen(l->names) - 1);
    strncat(l->names, " ", sizeof l->names - strlen(l->names) - 1);
  }
  return l->count != l->most;
}

static mb_err read_all(mb_bus *bus, const char *topic, int64_t offset, letters *l) {
  mb_read_options options = {.partition = -1, .offset = offset, .timeout_ms = LIMIT_MS};
  l->count = 0;
  return mb_bus_read(bus, topic, &options, on_letter, l, err, sizeof err);
}

typedef struct told {
  int count;
  mb_replay_letter last;
  char why[256];
  bool end;
} told;

static bool on_told(const mb_replay_letter *letter, void *opaque) {
  told *t = opaque;
  t->count++;
  t->last = *letter;
  snprintf(t->why, sizeof t->why, "%s", letter->why);
  return !t->end;
}

static bool count_one(const mb_msg *msg, void *opaque) {
  (void)msg;
  ++*(int *)opaque;
  return true;
}

static int give_up(const mb_msg *msg, void *opaque) {
  (void)msg, (void)opaque;
  return -1;
}

/* There is one dead letter; its event was replayed once. */
static void replay_many(mb_bus *bus, int *handled_count) {
  mb_replay_options options;
  mb_replay_result result;
  told t = {0};
  int count = 0;
  mb_replay_options_init(&options);
  options.on_letter = on_told;
  options.opaque = &t;
  ok(!mb_bus_replay_dlq(bus, &options, &result, err, sizeof err), "all are looked at");
  ok(result.skipped == 1 && result.replayed == 0 && t.count == 1, "but not what was already");
  ok(t.last.outcome == MB_REPLAY_SKIPPED && strstr(t.why, "already"), "and is told so: %s", t.why);
  options.again = options.dry_run = options.failed_group = true;
  ok(!mb_bus_replay_dlq(bus, &options, &result, err, sizeof err) && result.replayed == 1,
     "a dry run tells what would be");
  ok(t.last.outcome == MB_REPLAYED && t.last.receipt.offset == -1, "without doing it");
  options.dry_run = false;
  options.rate = 1000;
  t.end = true;
  int before = *handled_count;
  ok(!mb_bus_replay_dlq(bus, &options, &result, err, sizeof err) && result.replayed == 1,
     "it is put back");
  ok(result.stopped, "and the callback may end the call");
  ok(t.last.receipt.offset >= 0 && t.last.replays == 2, "with a receipt, as the second replay");
  ok(turn_until(bus, handled_count, before + 1, LIMIT_MS), "and its own group handles it");
  options.filter.where = give_up;
  ok(mb_bus_replay_dlq(bus, &options, &result, err, sizeof err) == MB_EINVAL,
     "a filter that gives up ends it");
  options.filter.where = NULL;
  options.to = mb_config_get(mb_bus_config(bus), "dlq_topic_name");
  ok(mb_bus_replay_dlq(bus, &options, NULL, err, sizeof err) == MB_EINVAL,
     "dead letters do not go to their own topic");
  ok(!mb_dlq_read(bus, NULL, LIMIT_MS, count_one, &count, err, sizeof err) && count == 1,
     "all letters are read");
  options.filter.event_type = "Unheard";
  ok(!mb_dlq_read(bus, &options.filter, LIMIT_MS, count_one, &count, err, sizeof err) && count == 1,
     "a filter leaves out what it does not name");
}

static void dead_letters(mb_bus *bus) {
  seen refuse = {.outcome = MB_REJECTED};
  uint32_t id;
  int64_t count = -1;
  letters l = {0};
  mb_stats stats, before;
  mb_receipt receipt = {.offset = -1};
  mb_event event = event_of("Refused", ORDER_B, "{\"n\":1}");
  mb_bus_stats(bus, &before);
  ok(!mb_bus_subscribe(bus, "Refused", on_event, &refuse, NULL, &id), "a handler that refuses");
  ok(!mb_bus_publish(bus, &event, 1, NULL, NULL, 0), "gets an event");
  ok(turn_until(bus, &refuse.count, 1, LIMIT_MS), "runs");
  ok(turn_until_settled(bus, before.events_consumed + 1) && refuse.count == 1, "and runs once");
  ok(!mb_dlq_count(bus, &count, err, sizeof err) && count == 1, "there is one dead letter");
  ok(!read_all(bus, mb_config_get(mb_bus_config(bus), "dlq_topic_name"), -1, &l) && l.count == 1,
     "which can be read");
  same("its reason is the refusal", l.reason, strlen(l.reason), "handler_rejected");
  same("its type the handler's", l.type, strlen(l.type), "Refused");
  same("its message, too", l.message, strlen(l.message), "never");
  same("its headers are the original's and its own, in order", l.names, strlen(l.names),
       "event_id event_type aggregate_id aggregate_type aggregate_version occurred_at "
       "correlation_id dlq_reason dlq_error_type dlq_error_message dlq_retry_count dlq_timestamp "
       "dlq_original_topic dlq_original_partition dlq_original_offset dlq_consumer_group "
       "dlq_attempts "
       "dlq_first_failed_at ");
  mb_bus_stats(bus, &stats);
  ok(stats.messages_sent_to_dlq == 1, "it is counted");
  refuse.outcome = MB_HANDLED;
  ok(!mb_dlq_replay(bus, l.partition, l.offset, false, &receipt, err, sizeof err),
     "it is replayed");
  ok(receipt.offset >= 0 && receipt.partition >= 0, "with a receipt");
  ok(turn_until(bus, &refuse.count, 2, LIMIT_MS), "and handled");
  same("and knows that it is a replay", refuse.header, strlen(refuse.header), "1");
  ok(mb_dlq_replay(bus, l.partition, l.offset + 5, false, NULL, NULL, 0) == MB_ENOENT,
     "what is not there is not replayed");
  ok(mb_dlq_replay(bus, -1, 0, false, NULL, NULL, 0) == MB_EINVAL, "a place below 0 is refused");
  replay_many(bus, &refuse.count);
  ok(turn_until_settled(bus, before.events_consumed + 3), "all is settled");
  ok(!mb_bus_unsubscribe(bus, id), "it goes");
}

#define PARENT "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

static mb_bus *handler_bus;
static mb_err in_handler[4];
static int in_handler_count;

static mb_outcome on_nested(const mb_msg *msg, mb_fail *fail, void *opaque) {
  mb_event event = event_of("Nested", ORDER_A, "{}");
  (void)msg, (void)fail, (void)opaque;
  in_handler[0] = mb_bus_publish(handler_bus, &event, 1, NULL, NULL, 0);
  in_handler[1] = mb_bus_disconnect(handler_bus, NULL, 0);
  in_handler[2] = mb_bus_step(handler_bus, 0, NULL, 0);
  in_handler[3] = mb_bus_start(handler_bus, true, NULL, 0);
  in_handler_count++;
  return MB_HANDLED;
}

/* The trace context that each run is given, "-" where there is none. */
static mb_outcome on_traced(const mb_msg *msg, mb_fail *fail, void *opaque) {
  mb_bytes parent = mb_str("-"), baggage = mb_str("-");
  char *text = opaque;
  size_t len = strlen(text);
  (void)fail;
  (void)mb_msg_header(msg, "traceparent", &parent);
  (void)mb_msg_header(msg, "baggage", &baggage);
  snprintf(text + len, 512 - len, "%.*s %.*s;", (int)parent.len, parent.data, (int)baggage.len,
           baggage.data);
  return MB_HANDLED;
}

static mb_outcome on_question(const mb_msg *msg, mb_fail *fail, void *opaque) {
  mb_event events[3];
  (void)fail, (void)opaque;
  for (int i = 0; i < 3; i++) events[i] = event_of("Answer", ORDER_A, "{}");
  events[1].baggage = mb_str("c=3");
  events[2].traceparent = events[2].baggage = mb_str("");
  (void)msg;
  return mb_bus_publish(handler_bus, events, 3, NULL, NULL, 0) ? MB_FAILED : MB_HANDLED;
}

static void traced(mb_bus *bus) {
  char got[512] = "";
  seen last = {0};
  uint32_t ids[3];
  mb_event event = event_of("Question", ORDER_A, "{}");
  handler_bus = bus;
  ok(!mb_bus_subscribe(bus, "Question", on_question, NULL, NULL, &ids[0]) &&
         !mb_bus_subscribe(bus, "Answer", on_traced, got, NULL, &ids[1]) &&
         !mb_bus_subscribe(bus, "Answer", on_event, &last, NULL, &ids[2]),
     "a handler that publishes");
  event.traceparent = mb_str("nonsense");
  ok(mb_bus_publish(bus, &event, 1, NULL, err, sizeof err) == MB_EEVENT &&
         strstr(err, "traceparent: expected"),
     "is given no malformed trace context");
  event.traceparent = mb_str(PARENT);
  event.tracestate = mb_str("a=1");
  event.baggage = mb_str("b=2");
  ok(!mb_bus_publish(bus, &event, 1, NULL, NULL, 0), "gets an event with one");
  ok(turn_until(bus, &last.count, 3, LIMIT_MS), "what it publishes comes");
  same("with the same context, or what it is given", got, strlen(got),
       PARENT " b=2;" PARENT " c=3;- -;");
  for (int i = 0; i < 3; i++) ok(!mb_bus_unsubscribe(bus, ids[i]), "they go");
}

static void from_a_handler(mb_bus *bus) {
  seen nested = {0};
  uint32_t ids[2];
  mb_event event = event_of("Outer", ORDER_A, "{}");
  handler_bus = bus;
  ok(!mb_bus_subscribe(bus, "Outer", on_nested, NULL, NULL, &ids[0]) &&
         !mb_bus_subscribe(bus, "Nested", on_event, &nested, NULL, &ids[1]),
     "a handler that uses its bus");
  ok(!mb_bus_publish(bus, &event, 1, NULL, NULL, 0), "gets an event");
  ok(turn_until(bus, &nested.count, 1, LIMIT_MS), "what it publishes comes");
  ok(in_handler[0] == MB_OK && in_handler[2] == MB_OK, "it may publish and step");
  ok(in_handler[1] == MB_ESTATE && in_handler[3] == MB_ESTATE, "not disconnect, nor start");
  ok(in_handler_count == 1 && mb_bus_is_connected(bus), "and runs once");
  ok(!mb_bus_unsubscribe(bus, ids[0]) && !mb_bus_unsubscribe(bus, ids[1]), "both go");
}

/* ---- reading ---- */

static void reading(mb_bus *bus) {
  letters l = {0};
  const char *topic = mb_config_get(mb_bus_config(bus), "topic_name");
  int64_t low, high, total = 0;
  int partitions = 0;
  ok(!mb_bus_topic_partitions(bus, NULL, &partitions, err, sizeof err) && partitions == 4,
     "the topic has four partitions");
  for (int i = 0; i < partitions; i++)
    if (!mb_topic_offsets(bus, NULL, i, &low, &high, err, sizeof err)) total += high - low;
  ok(!read_all(bus, topic, -1, &l) && l.count == total && total > 8, "a read gets all there is");
  ok(!read_all(bus, topic, -2, &l) && l.count == 0, "from the end it gets nothing");
  ok(!read_all(bus, topic, -3 - 1, &l) && l.count >= 1 && l.count <= 4,
     "it gets the last of each partition");
  l.most = 2;
  ok(!read_all(bus, topic, -1, &l) && l.count == 2, "it ends when it is told to");
  l.most = 0;
  mb_read_options one = {.partition = 99, .offset = -1, .timeout_ms = LIMIT_MS};
  ok(mb_bus_read(bus, topic, &one, on_letter, &l, NULL, 0) == MB_ENOENT,
     "a partition there is not is ENOENT");
  mb_read_options follow = {.partition = -1, .offset = -2, .follow = true, .timeout_ms = 300};
  int64_t begin = now_ms();
  l.count = 0;
  ok(!mb_bus_read(bus, topic, &follow, on_letter, &l, NULL, 0) && !l.count &&
         now_ms() - begin >= 300,
     "following goes on until its time is over");
  int64_t offsets[] = {-1, -1, -1, -1}, sum = 0;
  mb_read_options on = {
      .partition = -1, .timeout_ms = LIMIT_MS, .offsets = offsets, .offset_count = partitions};
  l = (letters){.most = 3};
  ok(!mb_bus_read(bus, topic, &on, on_letter, &l, err, sizeof err) && l.count == 3,
     "three records are read");
  l = (letters){0};
  ok(!mb_bus_read(bus, topic, &on, on_letter, &l, err, sizeof err) && l.count == total - 3,
     "it goes on where it was, in each partition");
  for (int i = 0; i < partitions; i++) sum += offsets[i];
  ok(sum == total, "and tells where it ended");
  l = (letters){0};
  ok(!mb_bus_read(bus, topic, &on, on_letter, &l, err, sizeof err) && !l.count,
     "once more there is nothing");
  on.offset_count = 1;
  offsets[0] = -1;
  ok(!mb_bus_read(bus, topic, &on, on_letter, &l, err, sizeof err) && l.count < total,
     "partitions that are not asked for are left alone");
  sum = 0;
  ok(!mb_bus_committed(bus, offsets, partitions, err, sizeof err), "the group's offsets are told");
  for (int i = 0; i < partitions; i++) sum += offsets[i] > 0 ? offsets[i] : 0;
  ok(sum > 0 && sum <= total, "what it committed is among them");
  char name[600];
  memset(name, 'x', sizeof name - 1);
  name[sizeof name - 1] = 0;
  ok(mb_bus_read(bus, name, &one, on_letter, &l, NULL, 0) == MB_ETOPIC,
     "a topic that cannot be is ETOPIC");
}

/* ---- stopping ---- */

#define STOP_MS 2000
#define TRIES   3 /* a busy machine is slow at times, a fault each time */

/* Milliseconds from the stop to its end. */
static int64_t stop_once(mb_bus *bus) {
  if (!mb_bus_is_consuming(bus)) ok(!mb_bus_start(bus, true, err, sizeof err), "it starts again");
  mb_bus_stop(bus);
  int64_t begin = now_ms();
  while (mb_bus_is_consuming(bus) && now_ms() - begin < LIMIT_MS)
    if (mb_bus_step(bus, 100, NULL, 0)) break;
  ok(!mb_bus_is_consuming(bus) && mb_bus_is_connected(bus), "stopped, it stays connected"); /* 48 */
  return now_ms() - begin;
}

static void stop_and_step(mb_bus *bus) {
  int64_t took_ms = STOP_MS;
  for (int i = 0; i < TRIES && took_ms >= STOP_MS; i++) took_ms = stop_once(bus);
  ok(took_ms < STOP_MS, "within two seconds");
}

typedef struct stopper {
  mb_bus *bus;
  bool by_signal;
  int64_t asked_ms;
} stopper;

static mb_bus *signalled;

static void on_signal(int number) {
  (void)number;
  mb_bus_stop(signalled);
}

static void *stop_later(void *opaque) {
  stopper *s = opaque;
  struct timespec end;
  clock_gettime(CLOCK_REALTIME, &end);
  end.tv_sec += LIMIT_MS / 1000;
  sem_timedwait(&handled, &end);
  s->asked_ms = now_ms();
  if (s->by_signal)
    kill(getpid(), SIGUSR1);
  else
    mb_bus_stop(s->bus);
  return NULL;
}

/* Milliseconds from the stop to its end. */
static int64_t run_once(mb_bus *bus, seen *placed, bool by_signal) {
  const char *by = by_signal ? "a signal handler" : "another thread";
  stopper s = {.bus = bus, .by_signal = by_signal};
  pthread_t thread;
  mb_event event = event_of("OrderPlaced", ORDER_A, "{}");
  int before = placed->count;
  signalled = bus;
  while (!sem_trywait(&handled)) continue;
  ok(!mb_bus_publish(bus, &event, 1, NULL, NULL, 0), "an event waits");
  pthread_create(&thread, NULL, stop_later, &s);
  mb_err rc = mb_bus_run(bus, err, sizeof err);
  int64_t ended_ms = now_ms();
  pthread_join(thread, NULL);
  ok(rc == MB_OK, "a run is ended by %s", by);
  ok(!mb_bus_is_consuming(bus) && mb_bus_is_connected(bus), "and the bus stays connected");
  ok(placed->count == before + 1, "it handled what was new and nothing twice: %d",
     placed->count - before);
  return ended_ms - s.asked_ms;
}

static void run_until_stopped(mb_bus *bus, seen *placed, bool by_signal) {
  int64_t took_ms = STOP_MS;
  for (int i = 0; i < TRIES && took_ms >= STOP_MS; i++) took_ms = run_once(bus, placed, by_signal);
  ok(took_ms < STOP_MS, "within two seconds of the stop%s", by_signal ? " by a signal" : "");
}

/* ---- rebalances ---- */

static int rebalances, unkept;
static bool is_kept_from(mb_bus *bus);

static void on_rebalance(mb_rebalance what, const int32_t *partitions, size_t count, void *opaque) {
  (void)what, (void)partitions, (void)count;
  rebalances++;
  unkept += !is_kept_from(opaque);
}

static void callbacks(void) {
  mb_bus *bus = bus_new("callbacks", NULL);
  mb_bus_on_rebalance(bus, on_rebalance, bus);
  ok(!mb_bus_connect(bus, LIMIT_MS, err, sizeof err) && !mb_bus_start(bus, true, err, sizeof err) &&
         turn_until(bus, &rebalances, 1, LIMIT_MS),
     "a callback hears of an assignment");
  stop_once(bus);
  ok(rebalances == 2, "and of the revocation at the stop");
  ok(!unkept, "and may not disconnect, run, step, publish or free its bus in either");
  mb_bus_free(bus);
}

/* ---- what is not delivered ---- */

/* What a callback may not do with its own bus; true = it is kept from it, and the bus goes on. */
static bool is_kept_from(mb_bus *bus) {
  mb_event event = event_of("Nested", ORDER_A, "{}");
  bool kept = mb_bus_disconnect(bus, NULL, 0) == MB_ESTATE &&
              mb_bus_run(bus, NULL, 0) == MB_ESTATE &&
              mb_bus_publish(bus, &event, 1, NULL, NULL, 0) == MB_ESTATE;
  mb_bus_free(bus);
  return kept && mb_bus_step(bus, 0, NULL, 0) == MB_OK && mb_bus_is_connected(bus);
}

typedef struct undelivered {
  mb_bus *bus;
  int kept, unkept; /* calls that were kept from what they may not do, and that were not */
  int count;
  mb_err err;
  char type[32], id[40], reason[128];
} undelivered;

static void on_undelivered(mb_err why, const char *reason, mb_bytes type, mb_bytes id,
                           void *opaque) {
  undelivered *u = opaque;
  bool first = !u->count++;
  is_kept_from(u->bus) ? u->kept++ : u->unkept++;
  u->err = why;
  snprintf(u->type, sizeof u->type, "%.*s", (int)type.len, type.data);
  snprintf(u->id, sizeof u->id, "%.*s", (int)id.len, id.data);
  snprintf(u->reason, sizeof u->reason, "%s", reason);
  /* In here the other one's failure is told, too; after that the same holds. */
  if (first && mb_bus_flush(u->bus, 4000, NULL, 0) == MB_ETIMEOUT && !is_kept_from(u->bus))
    u->unkept++;
}

static void background(void) {
  mb_broker *broker = mb_broker_new(err, sizeof err);
  ok(broker != NULL, "a broker of one's own starts");
  const char *options[] = {"bootstrap_servers", mb_broker_address(broker), "delivery_timeout_ms",
                           "3000", NULL};
  mb_bus *bus = bus_new("background", options);
  undelivered u = {.bus = bus};
  mb_stats stats;
  size_t queued = 0;
  mb_event events[2] = {event_of("OrderPlaced", ORDER_A, "{}"),
                        event_of("OrderPlaced", ORDER_A, "{}")};
  events[1].event_id = mb_str(ORDER_B);
  mb_bus_on_publish_error(bus, on_undelivered, &u);
  ok(mb_broker_topic_create(broker, "made", 2, err, sizeof err) == MB_OK, "it makes a topic");
  ok(mb_broker_topic_create(broker, "made", 2, NULL, 0) == MB_EINVAL, "once");
  ok(mb_bus_connect(bus, LIMIT_MS, err, sizeof err) == MB_OK, "a bus connects to it");
  ok(mb_bus_connect(bus, LIMIT_MS, NULL, 0) == MB_OK, "twice is as well as once"); /* 23 */
  ok(!mb_bus_publish_background(bus, events, 2, &queued, err, sizeof err) && queued == 2,
     "two events go in the background");
  ok(!mb_bus_flush(bus, LIMIT_MS, err, sizeof err), "and arrive");
  mb_bus_stats(bus, &stats);
  ok(stats.events_published == 2 && !stats.publish_errors && !u.count, "which is counted");
  mb_broker_free(broker);
  ok(!mb_bus_publish_background(bus, events, 1, NULL, err, sizeof err), "one more is queued");
  ok(mb_bus_flush(bus, 1500, NULL, 0) == MB_ETIMEOUT, "and not delivered at once"); /* 16 */
  ok(!mb_bus_publish_background(bus, events + 1, 1, NULL, err, sizeof err), "another later");
  ok(turn_until(bus, &u.count, 2, LIMIT_MS), "without a broker, the callback hears of both");
  ok(u.err == MB_ETIMEOUT && u.reason[0], "why it was: %s", u.reason);
  ok(u.kept == 2 && !u.unkept, "which may not disconnect, run, publish or free it meanwhile");
  same("which type it was", u.type, strlen(u.type), "OrderPlaced");
  same("and which event", u.id, strlen(u.id), ORDER_B);
  mb_bus_stats(bus, &stats);
  ok(stats.events_published == 2 && stats.publish_errors == 2 && stats.last_error_at_us,
     "failures are counted");
  /* a second line within a second is counted, not written */
  ok(strstr(log_text, "was not delivered to"), "and logged");
  mb_receipt receipts[2] = {{.err = 0}, {.err = 0}};
  ok(mb_bus_publish(bus, events, 2, receipts, err, sizeof err) == MB_EDELIVERY &&
         strstr(err, "2 of 2"),
     "in the foreground it is the call that fails: %s", err); /* 21 */
  ok(receipts[0].err && receipts[1].err && receipts[1].offset == -1, "and every receipt tells");
  mb_bus_free(bus);
}

static void full_queue(void) {
  const char *options[] = {
      "producer_queue_max_events", "3", "queue_full_timeout_ms", "0", "linger_ms", "2000", NULL};
  mb_bus *bus = bus_new("full", options);
  mb_event events[5];
  mb_stats stats;
  size_t queued = 0;
  for (int i = 0; i < 5; i++) events[i] = event_of("OrderPlaced", ORDER_A, "{}");
  ok(!mb_bus_connect(bus, LIMIT_MS, err, sizeof err), "a bus with a small queue connects");
  ok(mb_bus_publish_background(bus, events, 5, &queued, err, sizeof err) == MB_EFULL &&
         queued == 3 && strstr(err, "full"),
     "when it is full, EFULL tells how many went in: %zu", queued);
  ok(!mb_bus_flush(bus, LIMIT_MS, NULL, 0), "those arrive");
  mb_bus_stats(bus, &stats);
  ok(stats.events_published == 3 && stats.publish_errors == 2, "the others are counted");
  mb_bus_free(bus);
}

static void nobody_there(void) {
  const char *options[] = {"bootstrap_servers", "127.0.0.1:1", NULL};
  mb_bus *bus = bus_new("nobody", options);
  ok(mb_bus_connect(bus, 300, err, sizeof err) == MB_ECONNECT && strstr(err, "127.0.0.1:1"),
     "without a broker connecting fails, naming the address");
  ok(mb_bus_connect(bus, 100, NULL, 0) == MB_ECONNECT && !mb_bus_is_connected(bus),
     "without errstr as well");
  mb_bus_free(bus);
}

int main(void) {
  seen placed = {0};
  signal(SIGUSR1, on_signal);
  sem_init(&handled, 0, 0);
  not_connected();
  bad_arguments();
  mb_bus *bus = bus_new("main", NULL), *other = bus_new("main", NULL);
  ok(!mb_bus_connect(bus, LIMIT_MS, err, sizeof err) &&
         !mb_bus_connect(other, LIMIT_MS, err, sizeof err),
     "two buses of one topic connect");
  publishing(bus);
  consuming(bus, &placed);
  descriptor(bus, other, &placed);
  retrying(bus);
  dead_letters(bus);
  from_a_handler(bus);
  traced(bus);
  reading(bus);
  stop_and_step(bus);
  reading(bus);
  run_until_stopped(bus, &placed, false);
  run_until_stopped(bus, &placed, true);
  ok(!mb_bus_disconnect(bus, err, sizeof err) && !mb_bus_is_connected(bus), "it disconnects");
  mb_bus_free(bus);
  mb_bus_free(other);
  ok(placed.opaque_freed, "its handlers' opaques are freed");
  callbacks();
  background();
  full_queue();
  nobody_there();
  return done();
}
