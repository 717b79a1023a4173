/* dlq/filter.c: which dead letters: what their headers say, the filter, reading them.
 * Must not write anything, nor know handlers or Lua.
 * Called by dlq/read.c, and through moonbus.h by users (lists of dead letters). */
#include <stdlib.h>
#include <string.h>

#include "bus/internal.h"
#include "dlq/filter.h"
#include "kafka/reader.h"

#define STALL_MS  60000 /* where the caller names no time */
#define MARGIN_MS 60000 /* clocks of several machines */

void mb_dlq_filter_init(mb_dlq_filter *filter) {
  *filter = (mb_dlq_filter){.partition = -1,
                            .first_offset = -1,
                            .last_offset = -1,
                            .original_partition = -1,
                            .original_first = -1,
                            .original_last = -1};
}

int64_t mb__letter_number(const mb_msg *letter, const char *name) {
  mb_bytes text;
  int64_t number = 0;
  if (mb_msg_header(letter, name, &text) || !text.len || text.len > 18) return -1;
  for (size_t i = 0; i < text.len; i++) {
    if (text.data[i] < '0' || text.data[i] > '9') return -1;
    number = number * 10 + (text.data[i] - '0');
  }
  return number;
}

/* ---- the filter ---- */

/* want may keep NUL bytes: see mb__text_keep. */
static bool is(mb_bytes have, const char *want) {
  if (!have.data) return false;
  for (size_t i = 0; i < have.len; i++) {
    if (!have.data[i] ? !mb__text_skip_nul(&want) : have.data[i] != *want++) return false;
  }
  return !*want;
}

static bool header_is(const mb_msg *letter, const char *name, const char *want) {
  mb_bytes have;
  return !want || (!mb_msg_header(letter, name, &have) && is(have, want));
}

static int64_t died_ms(const mb_msg *letter) {
  mb_bytes text;
  int64_t us;
  if (mb_msg_header(letter, "dlq_timestamp", &text) || !mb__time_parse(text, &us))
    return mb_msg_timestamp_ms(letter);
  return us / 1000;
}

static bool between(int64_t value, int64_t first, int64_t last) {
  return (first < 0 || value >= first) && (last < 0 || (value >= 0 && value <= last));
}

const char *mb__letter_left_out(const mb_dlq_filter *filter, const mb_msg *letter, bool *give_up) {
  *give_up = false;
  if (filter->partition >= 0 && mb_msg_partition(letter) != filter->partition) return "partition";
  if (!between(mb_msg_offset(letter), filter->first_offset, filter->last_offset)) return "offset";
  if (filter->event_type && !is(mb_msg_event_type(letter), filter->event_type)) return "event_type";
  if (filter->key && !is(mb_msg_key(letter), filter->key) &&
      !header_is(letter, "aggregate_id", filter->key))
    return "key";
  if (!header_is(letter, "dlq_reason", filter->reason)) return "reason";
  if (!header_is(letter, "dlq_error_type", filter->error_type)) return "error_type";
  if (!header_is(letter, "dlq_consumer_group", filter->failed_group)) return "failed_group";
  if (filter->original_partition >= 0 &&
      mb__letter_number(letter, "dlq_original_partition") != filter->original_partition)
    return "original_partition";
  if ((filter->original_first >= 0 || filter->original_last >= 0) &&
      !between(mb__letter_number(letter, "dlq_original_offset"), filter->original_first,
               filter->original_last))
    return "original_offset";
  if (filter->since_ms || filter->until_ms) {
    int64_t ms = died_ms(letter);
    if (filter->since_ms && ms < filter->since_ms) return "since";
    if (filter->until_ms && ms >= filter->until_ms) return "until";
  }
  if (!filter->where) return NULL;
  int take = filter->where(letter, filter->where_opaque);
  *give_up = take < 0;
  return take > 0 ? NULL : "where";
}

/* ---- reading ---- */

typedef struct reading {
  const mb_dlq_filter *filter;
  mb_read_fn fn;
  void *opaque;
  bool gave_up;
} reading;

static bool on_letter(const mb_msg *letter, void *opaque) {
  reading *r = opaque;
  const mb_dlq_filter *filter = r->filter;
  /* Nothing after it in the only partition there is to read. */
  bool past = filter->last_offset >= 0 && mb_msg_offset(letter) > filter->last_offset;
  if (past && filter->partition >= 0) return false;
  return past || r->fn(letter, r->opaque);
}

mb_err mb__letters_read(mb_bus *bus, const mb_dlq_filter *filter, int timeout_ms, mb_read_fn fn,
                        void *opaque, char *errstr, size_t errstr_size) {
  reading r = {.filter = filter, .fn = fn, .opaque = opaque};
  mb_read_options options = {.partition = filter->partition,
                             .offset = filter->partition >= 0 ? filter->first_offset : -1,
                             .timeout_ms = -1,
                             .stall_ms = timeout_ms < 0   ? STALL_MS
                                         : timeout_ms > 0 ? timeout_ms
                                                          : 1};
  if (filter->since_ms > MARGIN_MS) options.since_ms = filter->since_ms - MARGIN_MS;
  mb_err err =
      mb__reader_read(&bus->ctx, bus->ctx.dlq_topic, &options, on_letter, &r, errstr, errstr_size);
  return err == MB_ETOPIC ? MB_OK : err;
}

static bool on_filtered(const mb_msg *letter, void *opaque) {
  reading *r = opaque;
  if (mb__letter_left_out(r->filter, letter, &r->gave_up)) return !r->gave_up;
  return r->fn(letter, r->opaque);
}

mb_err mb_dlq_read(mb_bus *bus, const mb_dlq_filter *filter, int timeout_ms, mb_read_fn fn,
                   void *opaque, char *errstr, size_t errstr_size) {
  mb_dlq_filter all;
  if (!fn) return mb__error(MB_EINVAL, errstr, errstr_size, "mb_dlq_read needs a function");
  mb_dlq_filter_init(&all);
  mb__context_forget_stop(&bus->ctx);
  reading r = {.filter = filter ? filter : &all, .fn = fn, .opaque = opaque};
  mb_err err = mb__letters_read(bus, r.filter, timeout_ms, on_filtered, &r, errstr, errstr_size);
  if (!err && r.gave_up)
    err = mb__error(MB_EINVAL, errstr, errstr_size, "the where function gave up");
  return err;
}
