/* dlq/read.c: reads dead letters and their earlier replays into a plan, and records back into
 * memory when their turn comes.
 * Must not write anything, nor know handlers or Lua.
 * Called by dlq/replay.c. */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "dlq/replay_internal.h"
#include "event/wire.h"

#define LETTERS_MAX   1000000
#define PARCELS_BYTES (32u << 20)
#define STALL_MS      60000
#define MARGIN_MS     60000 /* clocks of several machines */

/* ---- records in memory ---- */

static void keep(mb_replay *job, mb_letter *letter, const rd_kafka_message_t *record) {
  letter->parcel = mb__parcel_new(record);
  if (letter->parcel) job->parcel_bytes += letter->parcel->size;
}

void mb__replay_release(mb_replay *job, mb_letter *letter) {
  if (!letter->parcel) return;
  job->parcel_bytes -= letter->parcel->size;
  mb__parcel_free(letter->parcel);
  letter->parcel = NULL;
}

/* ---- reading the letters ---- */

static int count_of(mb_bytes text) {
  char digits[10] = "";
  if (text.len < sizeof digits) memcpy(digits, text.len ? text.data : "", text.len);
  return atoi(digits);
}

bool mb__letter_addresses(mb_bytes group, mb_bytes failed) {
  return group.len && (!failed.len || mb__same(group, failed));
}

uint64_t mb__replay_name(mb_bytes name) {
  return name.len ? mb__hash(1, name) : 0;
}

static bool identify(mb_letter *letter, mb_bytes event_id) {
  if (!event_id.len) return false;
  letter->event[0] = mb__hash(2, event_id);
  letter->event[1] = mb__hash(3, event_id);
  return true;
}

/* Take the original place from the headers; where they have none, the letter's own place. */
static void describe(mb_letter *letter, const mb_msg *msg) {
  mb_bytes text = {NULL, 0};
  int64_t partition = mb__letter_number(msg, "dlq_original_partition");
  letter->partition = mb_msg_partition(msg);
  letter->offset = letter->order = mb_msg_offset(msg);
  letter->time_ms = mb_msg_timestamp_ms(msg);
  letter->own = mb__record_count(msg->record, "dlq_replay_count", 0);
  int64_t offset = mb__letter_number(msg, "dlq_original_offset");
  bool known = !mb_msg_header(msg, "dlq_original_topic", &text) && partition >= 0 && offset >= 0;
  uint64_t seed = 4 + (known ? 2 * (uint64_t)partition : 2 * (uint64_t)letter->partition + 1);
  letter->origin = mb__hash(seed, known ? text : mb_str("a dead letter topic"));
  if (known) letter->order = offset;
  mb_bytes key = mb_msg_key(msg);
  letter->key = key.data ? mb__hash(0, key) : letter->origin;
  mb_bytes failed = {NULL, 0};
  if (!mb_msg_header(msg, "dlq_consumer_group", &failed))
    letter->failed_group = mb__replay_name(failed);
  if (!mb_msg_header(msg, "replay_group", &text) && mb__letter_addresses(text, failed))
    letter->sent_to = mb__replay_name(text);
  if (mb_msg_header(msg, "event_id", &text) || !identify(letter, text)) {
    letter->event[0] = letter->origin;
    letter->event[1] = (uint64_t)letter->order;
  }
}

/* So large that not even the event's own headers found room: only the original knows its id. */
static void resolve(mb_replay *job, mb_letter *letter, const mb_msg *msg) {
  mb_bytes text;
  char why[MB_ERRSTR_MAX];
  rd_kafka_headers_t *headers;
  if (!mb_msg_header(msg, "event_id", &text) ||
      mb_msg_header(msg, "dlq_value_omitted_bytes", &text) ||
      rd_kafka_message_headers(msg->record, &headers))
    return;
  mb_parcel *original = mb__parcel_follow(job->bus, headers, why, sizeof why);
  if (!original) return;
  identify(letter, mb__headers_get(original->headers, "event_id"));
  letter->own = count_of(mb__headers_get(original->headers, "dlq_replay_count"));
  mb_bytes to = mb__headers_get(original->headers, "replay_group");
  if (mb__letter_addresses(to, mb__headers_get(headers, "dlq_consumer_group")))
    letter->sent_to = mb__replay_name(to);
  mb__parcel_free(original);
}

static bool on_letter(const mb_msg *msg, void *opaque) {
  mb_replay *job = opaque;
  bool give_up;
  const char *left_out = mb__letter_left_out(job->filter, msg, &give_up);
  if (give_up) {
    job->gave_up = true;
    return false;
  }
  if (left_out && !job->dry_run) {
    job->result.skipped++;
    return true;
  }
  if (job->plan.count == LETTERS_MAX) {
    job->result.more = true;
    return false;
  }
  mb_letter *letter = mb__plan_add(&job->plan);
  if (!letter) {
    job->no_memory = true;
    return false;
  }
  describe(letter, msg);
  letter->left_out = left_out;
  if (!left_out && letter->time_ms < job->oldest_ms) job->oldest_ms = letter->time_ms;
  letter->size = (uint32_t)mb__parcel_size(msg->record);
  if (job->parcel_bytes + letter->size > PARCELS_BYTES) job->full = true;
  if (!job->full) keep(job, letter, msg->record);
  resolve(job, letter, msg);
  return true;
}

/* ---- what was replayed already ---- */

static bool on_copy(const mb_msg *msg, void *opaque) {
  mb_replay *job = opaque;
  mb_letter copy = {0};
  mb_bytes text;
  int count = mb__record_count(msg->record, "dlq_replay_count", 0);
  if (count <= 0 || mb_msg_header(msg, "event_id", &text) || !identify(&copy, text)) return true;
  uint64_t group = mb_msg_header(msg, "replay_group", &text) ? 0 : mb__replay_name(text);
  mb__plan_copy(&job->plan, copy.event, group, count, job->scan_covers, false);
  return true;
}

static mb_err scan(mb_replay *job, const char *topic, bool covers, char *errstr,
                   size_t errstr_size) {
  mb_read_options options = {.partition = -1, .offset = -1, .timeout_ms = -1, .stall_ms = STALL_MS};
  if (job->oldest_ms > MARGIN_MS) options.since_ms = job->oldest_ms - MARGIN_MS;
  job->scan_covers = covers;
  return mb__reader_read(&job->bus->ctx, topic, &options, on_copy, job, errstr, errstr_size);
}

/* One pass over the topics, however many letters there are. A letter itself describes the copy that
 * failed, which the topic may no longer hold. */
static mb_err look_back(mb_replay *job, bool to_exists, char *errstr, size_t errstr_size) {
  bool same = strcmp(job->to, job->bus->ctx.topic) == 0;
  for (size_t i = 0; i < job->plan.count; i++) {
    mb_letter *letter = &job->plan.letters[i];
    mb__plan_copy(&job->plan, letter->event, letter->sent_to, letter->own, same, false);
  }
  mb_err err = scan(job, job->bus->ctx.topic, same, errstr, errstr_size);
  if (!err && !same && to_exists && !mb__context_interrupted(&job->bus->ctx))
    err = scan(job, job->to, true, errstr, errstr_size);
  return err;
}

mb_err mb__replay_read(mb_replay *job, bool to_exists, char *errstr, size_t errstr_size) {
  mb_err err = mb__letters_read(job->bus, job->filter, -1, on_letter, job, errstr, errstr_size);
  if (!err && job->gave_up)
    err = mb__error(MB_EINVAL, errstr, errstr_size, "the where function gave up");
  if (!err && job->no_memory) err = mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
  if (err) return err;
  mb__plan_index(&job->plan);
  if (job->oldest_ms < INT64_MAX && !mb__context_interrupted(&job->bus->ctx))
    err = look_back(job, to_exists, errstr, errstr_size);
  if (!err && !mb__plan_order(&job->plan))
    err = mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
  return err;
}

/* ---- fetching letters that found no room ---- */

typedef struct window {
  mb_replay *job;
  mb_letter **letters; /* by place */
  size_t count, left;
} window;

static int by_place(const void *left, const void *right) {
  const mb_letter *a = *(mb_letter *const *)left, *b = *(mb_letter *const *)right;
  if (a->partition != b->partition) return a->partition < b->partition ? -1 : 1;
  return (a->offset > b->offset) - (a->offset < b->offset);
}

static bool on_window(const mb_msg *msg, void *opaque) {
  window *w = opaque;
  mb_letter place = {.partition = mb_msg_partition(msg), .offset = mb_msg_offset(msg)};
  const mb_letter *key = &place;
  mb_letter **found = bsearch(&key, w->letters, w->count, sizeof *w->letters, by_place);
  if (!found) return true;
  keep(w->job, *found, msg->record);
  return --w->left > 0;
}

/* The next letters in line, as many as there is room for, in one pass over their topic. */
mb_err mb__replay_fetch(mb_replay *job, char *errstr, size_t errstr_size) {
  int64_t oldest_ms = INT64_MAX;
  size_t bytes = 0, count = 0;
  for (size_t i = job->at; i < job->plan.count; i++) mb__replay_release(job, job->plan.line[i]);
  for (size_t i = job->at; i < job->plan.count; i++, count++) {
    mb_letter *letter = job->plan.line[i];
    if (count && bytes + letter->size > PARCELS_BYTES) break;
    bytes += letter->size;
    if (letter->time_ms < oldest_ms) oldest_ms = letter->time_ms;
  }
  window w = {
      .job = job, .letters = malloc(count * sizeof *w.letters), .count = count, .left = count};
  if (!w.letters) return mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
  memcpy(w.letters, job->plan.line + job->at, count * sizeof *w.letters);
  qsort(w.letters, count, sizeof *w.letters, by_place);
  mb_read_options options = {.partition = -1,
                             .offset = -1,
                             .since_ms = oldest_ms > 0 ? oldest_ms : 0,
                             .timeout_ms = -1,
                             .stall_ms = STALL_MS};
  mb_err err = mb__reader_read(&job->bus->ctx, job->bus->ctx.dlq_topic, &options, on_window, &w,
                               errstr, errstr_size);
  for (size_t i = 0; !err && !mb__context_interrupted(&job->bus->ctx) && i < count; i++)
    if (!w.letters[i]->parcel) w.letters[i]->gone = true;
  free(w.letters);
  return err;
}
