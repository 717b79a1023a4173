/* dlq/replay.c: puts dead letters back: in order, counted per event, paced, to all groups or to
 * one. Must not know handlers or Lua; what it may put back, and when, dlq/plan.c says. Called
 * through moonbus.h by users, and step by step by the Lua side.
 *
 * Letters go out in chunks in which no key comes twice, and a chunk is acknowledged before the
 * next: whatever fails or is tried again, a key's events cannot change places. */
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "dlq/replay_internal.h"

#define QUEUE_MS 10000
#define NAP_MS   100

/* ---- opening ---- */

static bool legal_topic(const char *name) {
  size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
  return len && len <= 249 && !name[len] && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static mb_err check(mb_bus *bus, const mb_replay_options *options, char *errstr,
                    size_t errstr_size) {
  if (!bus->ctx.connected)
    return mb__error(MB_ESTATE, errstr, errstr_size,
                     "the bus is not connected; call connect first");
  if (bus->ctx.in_callback)
    return mb__error(MB_ESTATE, errstr, errstr_size, "a callback cannot replay");
  if (bus->ctx.transaction.on && bus->deliver.in_handler)
    return mb__error(MB_ESTATE, errstr, errstr_size,
                     "a handler of an exactly-once bus cannot replay through it");
  if (options->limit < 0 || !(options->rate >= 0))
    return mb__error(MB_EINVAL, errstr, errstr_size, "limit and rate are 0 or more");
  if (!options->to) return MB_OK;
  if (!legal_topic(options->to))
    return mb__error(MB_ETOPIC, errstr, errstr_size, "\"%s\" is not a legal topic name",
                     options->to);
  if (strcmp(options->to, bus->ctx.dlq_topic) == 0)
    return mb__error(MB_EINVAL, errstr, errstr_size,
                     "dead letters cannot be replayed to their own topic %s", bus->ctx.dlq_topic);
  return MB_OK;
}

/* A dry run creates nothing, so it only looks. */
static mb_err check_target(mb_replay *job, bool *exists, char *errstr, size_t errstr_size) {
  int count;
  *exists = true;
  if (strcmp(job->to, job->bus->ctx.topic) == 0) return MB_OK;
  mb_err err = mb__topic_exists(&job->bus->ctx, job->to, exists, errstr, errstr_size);
  if (err || *exists || job->dry_run) return err;
  err = mb__topic_want(&job->bus->ctx, job->to, &count, errstr, errstr_size);
  if (err != MB_ETOPIC) return err;
  return mb__error(MB_ETOPIC, errstr, errstr_size,
                   "topic \"%s\" does not exist and the broker does not create topics; create it "
                   "with: moonbus topics create %s",
                   job->to, job->to);
}

static mb_replay *job_new(mb_bus *bus, const mb_replay_options *options) {
  mb_replay *job = calloc(1, sizeof *job);
  if (!job) return NULL;
  job->bus = bus;
  job->filter = &options->filter;
  job->to = strdup(options->to ? options->to : bus->ctx.topic);
  if (options->group) job->group = strdup(options->group);
  job->plan.to_failed = options->failed_group;
  job->plan.to_given = options->group != NULL;
  job->plan.group = options->group ? mb__replay_name(mb_str(options->group)) : 0;
  job->dry_run = options->dry_run;
  job->again = options->again;
  job->force = options->force;
  job->limit = options->limit;
  job->most = (int)mb__conf_int(bus->ctx.conf, MB_OPT_dlq_max_replay_attempts);
  job->rate = options->dry_run ? 0 : options->rate;
  job->tokens = 1;
  job->was_consuming = bus->ctx.consuming;
  job->oldest_ms = INT64_MAX;
  if (job->to && (job->group || !options->group)) return job;
  mb__replay_close(job);
  return NULL;
}

/* stop_consuming, mb_bus_stop or the host's interrupt. */
static bool stopped(mb_replay *job) {
  if (mb__context_interrupted(&job->bus->ctx) || (job->was_consuming && !job->bus->ctx.consuming))
    job->result.stopped = job->over = true;
  return job->result.stopped;
}

mb_err mb__replay_open(mb_bus *bus, const mb_replay_options *options, mb_replay **opened,
                       char *errstr, size_t errstr_size) {
  mb_err err = check(bus, options, errstr, errstr_size);
  if (err) return err;
  bool to_exists = true;
  mb__context_forget_stop(&bus->ctx);
  mb_replay *job = job_new(bus, options);
  if (!job) return mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
  err = check_target(job, &to_exists, errstr, errstr_size);
  if (!err) err = mb__replay_read(job, to_exists, errstr, errstr_size);
  if (!err) stopped(job);
  job->filter = NULL;
  job->tokens_us = mb__mono_us();
  if (err)
    mb__replay_close(job);
  else
    *opened = job;
  return err;
}

void mb__replay_close(mb_replay *job) {
  if (!job) return;
  for (size_t i = 0; i < job->plan.count; i++) mb__parcel_free(job->plan.letters[i].parcel);
  mb__plan_free(&job->plan);
  free(job->to);
  free(job->group);
  free(job);
}

/* ---- writing ---- */

/* failed: the only group that an address it has may name; NULL = it is addressed again. */
static bool drop_dead(const char *name, mb_bytes value, const void *failed) {
  if (strcmp(name, "replay_group") == 0)
    return !failed || !mb__letter_addresses(value, *(const mb_bytes *)failed);
  return mb__header_of_death(name) || strcmp(name, "retry_count") == 0 ||
         strcmp(name, "retry_after") == 0;
}

static void on_report(mb_delivery *delivery, const rd_kafka_message_t *report) {
  mb_replay_entry *e = (mb_replay_entry *)delivery;
  mb_replay *job = delivery->opaque;
  job->pending--;
  if (!report->err) {
    e->receipt = (mb_receipt){MB_OK, report->partition, report->offset};
    return;
  }
  mb_err err = mb__err_of(report->err);
  e->err = err == MB_EKAFKA || err == MB_EINVAL ? MB_EDELIVERY : err;
  snprintf(e->why, sizeof e->why, "the replay was not delivered: %s",
           mb__refusal_undelivered(report->err));
}

/* Name the only group that handles it: the one in the letter, or the caller's. */
static bool address(mb_replay *job, mb_replay_entry *e, rd_kafka_headers_t *headers) {
  const mb_parcel *letter = e->letter->parcel;
  mb_bytes group = mb_str(job->group);
  if (job->plan.to_failed) group = mb__headers_get(letter->headers, "dlq_consumer_group");
  if (job->plan.to_failed && !group.len) {
    e->err = MB_EINVAL;
    snprintf(e->why, sizeof e->why, "the dead letter does not say which group failed; name one");
    return false;
  }
  return !group.len || mb__headers_add(headers, "replay_group", group.data, group.len);
}

static void put(mb_replay *job, mb_replay_entry *e) {
  mb_parcel *letter = e->letter->parcel, *original = NULL;
  bool readdress = job->plan.to_failed || job->plan.to_given;
  e->err = MB_OK;
  e->why[0] = 0;
  e->sent = false;
  if (mb__headers_get(letter->headers, "dlq_value_omitted_bytes").data) {
    e->err = MB_ENOENT;
    original = mb__parcel_follow(job->bus, letter->headers, e->why, sizeof e->why);
    if (!original) return;
    e->err = MB_OK;
  }
  const mb_parcel *from = original ? original : letter;
  mb_bytes failed = mb__headers_get(letter->headers, "dlq_consumer_group");
  rd_kafka_headers_t *headers =
      mb__headers_copy(from->headers, drop_dead, readdress ? NULL : &failed);
  bool ok = headers && mb__headers_add_int(headers, "retry_count", 0) &&
            mb__headers_add_int(headers, "dlq_replay_count", e->letter->replays + 1) &&
            (!readdress || address(job, e, headers));
  if (!ok && !e->err) {
    e->err = MB_ENOMEM;
    snprintf(e->why, sizeof e->why, "out of memory");
  }
  if (ok) {
    int64_t at_ms = 0;
    if (mb__headers_get(headers, "replay_group").len) at_ms = mb__addressed_ms(mb__now_us() / 1000);
    e->delivery.done = on_report;
    e->delivery.opaque = job;
    e->err =
        mb__producer_send_at(&job->bus->ctx, job->to, mb__parcel_key(from), mb__parcel_value(from),
                             headers, &e->delivery, at_ms, QUEUE_MS, e->why, sizeof e->why);
    e->sent = !e->err;
    if (e->sent) job->pending++;
  }
  if (headers && !e->sent) rd_kafka_headers_destroy(headers);
  mb__parcel_free(original);
}

/* Troubles that meet every letter. */
static bool lasting(mb_err err) {
  return err && err != MB_EDELIVERY && err != MB_ENOENT && err != MB_EINVAL;
}

static void fail_all(mb_replay *job, size_t first, size_t end, mb_err err, const char *why) {
  for (size_t i = first; i < end; i++) {
    mb_replay_entry *e = &job->entries[i];
    if (!e->put || e->err) continue;
    e->err = err;
    snprintf(e->why, sizeof e->why, "%s", why);
  }
}

/* On an exactly-once bus a chunk is a transaction of its own. */
static mb_err begin_alone(mb_bus *bus, char *why, size_t why_size) {
  mb_err err = mb__txn_commit(&bus->group, why, why_size);
  return err ? err : mb__txn_begin(&bus->group, why, why_size);
}

static void deliver(mb_replay *job, size_t first, size_t end) {
  mb_bus *bus = job->bus;
  char why[MB_ERRSTR_MAX] = "";
  bool good = true;
  mb_err err = bus->ctx.transaction.on ? begin_alone(bus, why, sizeof why) : MB_OK;
  if (err) {
    fail_all(job, first, end, err, why);
    return;
  }
  for (size_t i = first; i < end; i++)
    if (job->entries[i].put) put(job, &job->entries[i]);
  while (job->pending) mb__producer_flush(&bus->ctx, 1000);
  for (size_t i = first; i < end; i++)
    if (job->entries[i].sent && job->entries[i].err) good = false;
  if (!bus->ctx.transaction.on) return;
  err = mb__txn_end_alone(&bus->group, good, why, sizeof why);
  if (err || !good)
    fail_all(job, first, end, err ? err : MB_EDELIVERY,
             err ? why : "the replay was undone with another's");
}

/* One that fails may take its neighbours in the producer's batch with it: each has a try alone. */
static void deliver_chunk(mb_replay *job) {
  size_t puts = 0;
  for (size_t i = 0; i < job->count; i++) puts += job->entries[i].put;
  if (!puts) return;
  deliver(job, 0, job->count);
  for (size_t i = 0; puts > 1 && i < job->count; i++)
    if (job->entries[i].err == MB_EDELIVERY) deliver(job, i, i + 1);
}

/* ---- steps ---- */

static void count_tokens(mb_replay *job, int64_t now_us) {
  double most = job->rate / 10 > 1 ? job->rate / 10 : 1;
  job->tokens += (double)(now_us - job->tokens_us) / 1e6 * job->rate;
  if (job->tokens > most) job->tokens = most;
  job->tokens_us = now_us;
}

int64_t mb__replay_wait_us(const mb_replay *job) {
  if (!job->rate || job->over) return 0;
  double passed = (double)(mb__mono_us() - job->tokens_us) / 1e6 * job->rate;
  double lacking = 1 - job->tokens - passed;
  return lacking > 0 ? (int64_t)(lacking / job->rate * 1e6) + 1 : 0;
}

/* Whether the letter may be put back; else the entry says why not. */
static bool decide(const mb_replay *job, const mb_letter *letter, mb_replay_entry *e) {
  if (letter->left_out) {
    e->outcome = MB_REPLAY_SKIPPED;
    snprintf(e->why, sizeof e->why, "left out by %s", letter->left_out);
  } else if (letter->now || (!job->again && letter->covered > letter->own)) {
    e->outcome = MB_REPLAY_SKIPPED;
    snprintf(e->why, sizeof e->why, "replayed already%s",
             letter->now ? "" : "; again puts it back once more");
  } else if (!job->force && letter->replays >= job->most) {
    e->outcome = MB_REPLAY_REFUSED;
    e->err = MB_EREPLAY;
    snprintf(e->why, sizeof e->why,
             "replayed %d times already (dlq_max_replay_attempts %d); fix the cause, and force it",
             letter->replays, job->most);
  } else {
    e->outcome = MB_REPLAYED;
    return true;
  }
  return false;
}

static bool key_in_hand(const mb_replay *job, const mb_letter *letter) {
  for (size_t i = 0; i < job->count; i++)
    if (job->entries[i].put && job->entries[i].letter->key == letter->key) return true;
  return false;
}

/* The limit is reached: is anything left that it holds back? */
static void end_at_limit(mb_replay *job) {
  mb_replay_entry scratch;
  job->over = true;
  for (size_t i = job->at; i < job->plan.count && !job->result.more; i++)
    job->result.more = decide(job, job->plan.line[i], &scratch);
}

/* Take the next letters in line into the chunk. */
static mb_err gather(mb_replay *job, char *errstr, size_t errstr_size) {
  int64_t puts = 0;
  job->count = 0;
  while (job->count < MB_REPLAY_CHUNK) {
    if (job->at == job->plan.count) {
      job->over = true;
      return MB_OK;
    }
    mb_letter *letter = job->plan.line[job->at];
    mb_replay_entry *e = &job->entries[job->count];
    *e = (mb_replay_entry){.letter = letter, .receipt = {MB_OK, -1, -1}};
    e->put = decide(job, letter, e);
    if (e->put && key_in_hand(job, letter)) return MB_OK;
    if (e->put && job->limit && job->result.replayed + puts == job->limit) {
      if (!puts) end_at_limit(job);
      return MB_OK;
    }
    if (e->put && job->rate && job->tokens < 1) return MB_OK;
    bool missing = !letter->parcel && !letter->gone;
    if (missing && job->count) return MB_OK;
    if (missing) {
      mb_err err = mb__replay_fetch(job, errstr, errstr_size);
      if (err || stopped(job)) return err;
    }
    if (!letter->parcel && e->put) {
      e->put = false;
      e->err = MB_ENOENT;
      snprintf(e->why, sizeof e->why, "the dead letter is gone");
    }
    if (e->put) {
      puts++;
      if (job->rate) job->tokens -= 1;
    }
    job->count++;
    job->at++;
  }
  return MB_OK;
}

static mb_bytes type_of(const mb_parcel *parcel) {
  mb_bytes type = mb__headers_get(parcel->headers, "event_type");
  if (!type.len && parcel->has_value &&
      mb__json_peek_member(mb__parcel_value(parcel), mb_str("event_type"), &type))
    type = (mb_bytes){NULL, 0};
  return type;
}

/* Count what became of a letter, and put it into words. */
static void conclude(mb_replay *job, size_t i) {
  mb_replay_entry *e = &job->entries[i];
  mb_letter *letter = e->letter;
  if (e->outcome == MB_REPLAYED && e->err) e->outcome = MB_REPLAY_FAILED;
  if (e->outcome == MB_REPLAYED)
    mb__plan_copy(&job->plan, letter->event, mb__plan_audience(&job->plan, letter),
                  letter->replays + 1, true, true);
  int64_t *counts[] = {&job->result.replayed, &job->result.refused, &job->result.failed,
                       &job->result.skipped};
  ++*counts[e->outcome];
  mb_replay_letter *reported = &job->letters[i];
  *reported = (mb_replay_letter){.outcome = e->outcome,
                                 .err = e->err,
                                 .why = e->why,
                                 .partition = letter->partition,
                                 .offset = letter->offset,
                                 .replays = letter->replays,
                                 .receipt = e->receipt};
  if (!letter->parcel) return;
  reported->event_type = type_of(letter->parcel);
  reported->event_id = mb__headers_get(letter->parcel->headers, "event_id");
  reported->key = mb__parcel_key(letter->parcel);
}

mb_err mb__replay_step(mb_replay *job, const mb_replay_letter **letters, size_t *count,
                       char *errstr, size_t errstr_size) {
  for (size_t i = 0; i < job->count; i++) mb__replay_release(job, job->entries[i].letter);
  job->count = 0;
  *letters = job->letters;
  *count = 0;
  if (job->over || stopped(job)) return MB_OK;
  mb_err err = check(job->bus, &(mb_replay_options){0}, errstr, errstr_size);
  if (job->rate) count_tokens(job, mb__mono_us());
  if (!err) err = gather(job, errstr, errstr_size);
  if (err || job->result.stopped) job->count = 0;
  if (!job->dry_run) deliver_chunk(job);
  for (size_t i = 0; i < job->count; i++) {
    conclude(job, i);
    if (!err && job->letters[i].outcome == MB_REPLAY_FAILED && lasting(job->entries[i].err))
      err = mb__error(job->entries[i].err, errstr, errstr_size, "%s", job->entries[i].why);
  }
  *count = job->count;
  if (err) job->over = true;
  return err;
}

bool mb__replay_over(const mb_replay *job) {
  return job->over;
}

size_t mb__replay_done(const mb_replay *job) {
  return job->at;
}

size_t mb__replay_total(const mb_replay *job) {
  return job->plan.count;
}

void mb__replay_result(const mb_replay *job, mb_replay_result *result) {
  *result = job->result;
}

/* ---- the whole of it ---- */

void mb_replay_options_init(mb_replay_options *options) {
  *options = (mb_replay_options){0};
  mb_dlq_filter_init(&options->filter);
}

static bool call_back(mb_replay *job, const mb_replay_options *options,
                      const mb_replay_letter *letters, size_t count) {
  for (size_t i = 0; options->on_letter && i < count; i++)
    if (!options->on_letter(&letters[i], options->opaque)) {
      job->result.stopped = job->over = true;
      return false;
    }
  return true;
}

/* Let time pass while the bus goes on. */
static mb_err pass_time(mb_replay *job, char *errstr, size_t errstr_size) {
  int64_t wait_us;
  mb_err err = MB_OK;
  do {
    wait_us = mb__replay_wait_us(job);
    int ms = (int)((wait_us + 999) / 1000 < NAP_MS ? (wait_us + 999) / 1000 : NAP_MS);
    err = mb_bus_step(job->bus, job->bus->deliver.in_handler ? 0 : ms, errstr, errstr_size);
    if (job->bus->deliver.in_handler && ms) poll(NULL, 0, ms);
  } while (!err && wait_us > 0 && !stopped(job));
  return err;
}

mb_err mb_bus_replay_dlq(mb_bus *bus, const mb_replay_options *options, mb_replay_result *result,
                         char *errstr, size_t errstr_size) {
  mb_replay *job = NULL;
  const mb_replay_letter *letters;
  size_t count;
  if (result) *result = (mb_replay_result){0};
  if (!options) return mb__error(MB_EINVAL, errstr, errstr_size, "mb_bus_replay_dlq needs options");
  mb_err err = mb__replay_open(bus, options, &job, errstr, errstr_size);
  if (err) return err;
  while (!err && !mb__replay_over(job)) {
    err = mb__replay_step(job, &letters, &count, errstr, errstr_size);
    if (call_back(job, options, letters, count) && !err && !mb__replay_over(job))
      err = pass_time(job, errstr, errstr_size);
  }
  if (result) mb__replay_result(job, result);
  mb__replay_close(job);
  return err;
}

mb_err mb_dlq_replay(mb_bus *bus, int32_t partition, int64_t offset, bool force,
                     mb_receipt *receipt, char *errstr, size_t errstr_size) {
  mb_replay *job = NULL;
  mb_replay_options options;
  const mb_replay_letter *letters;
  size_t count = 0;
  if (bus->ctx.connected && (partition < 0 || offset < 0))
    return mb__error(MB_EINVAL, errstr, errstr_size, "partition and offset are 0 or more");
  mb_replay_options_init(&options);
  options.filter.partition = partition;
  options.filter.first_offset = options.filter.last_offset = offset;
  options.again = true;
  options.force = force;
  mb_err err = mb__replay_open(bus, &options, &job, errstr, errstr_size);
  if (err) return err;
  err = mb__replay_step(job, &letters, &count, errstr, errstr_size);
  if (err && count && job->entries[0].sent)
    err = MB_EDELIVERY;
  else if (!err && count && letters->err)
    err = mb__error(letters->err, errstr, errstr_size, "%s", letters->why);
  else if (!err && !count && job->result.stopped)
    err = mb__error(MB_ESTATE, errstr, errstr_size, "interrupted before anything was replayed");
  else if (!err && !count)
    err = mb__error(MB_ENOENT, errstr, errstr_size, "no dead letter at %s[%d] offset %lld",
                    bus->ctx.dlq_topic, (int)partition, (long long)offset);
  if (!err && receipt) *receipt = letters->receipt;
  mb__replay_close(job);
  return err;
}
