/* kafka/count.c: how many records there are, counted by reading them: offsets also go to what is no
 * record, the markers of transactions, and stay with what compaction or an abort took away. Must
 * not know what a record means, handlers or Lua. Called by bus/topics.c and dlq/count.c. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "kafka/context.h"
#include "kafka/count.h"
#include "kafka/reader.h"
#include "kafka/topics.h"

#define STALL_MS 60000

/* ---- counting ---- */

typedef struct tally {
  int64_t *seen;       /* records so far, by partition */
  const int64_t *skip; /* NULL = nothing is looked for; else the record after so many */
  int64_t *found;      /* ... and its offset */
} tally;

static bool on_record(const mb_msg *msg, void *opaque) {
  tally *t = opaque;
  int32_t partition = mb_msg_partition(msg);
  if (t->skip && t->seen[partition] == t->skip[partition]) t->found[partition] = mb_msg_offset(msg);
  t->seen[partition]++;
  return true;
}

/* Read to the present ends; from is spoilt. */
static mb_err count_from(mb_context *ctx, const char *topic, int64_t *from, int count, tally *t,
                         char *errstr, size_t errstr_size) {
  mb_read_options options = {.partition = -1,
                             .offset = -1,
                             .timeout_ms = -1,
                             .stall_ms = STALL_MS,
                             .offsets = from,
                             .offset_count = count};
  memset(t->seen, 0, (size_t)count * sizeof *t->seen);
  mb_err err = mb__reader_read(ctx, topic, &options, on_record, t, errstr, errstr_size);
  if (err || !mb__context_interrupted(ctx)) return err;
  return mb__error(MB_ESTATE, errstr, errstr_size,
                   "interrupted while the records of %s were counted", topic);
}

mb_err mb__topic_count(mb_context *ctx, const char *topic, const int64_t *from, int64_t *counts,
                       int count, char *errstr, size_t errstr_size) {
  int64_t *at = malloc((size_t)count * sizeof *at);
  if (!at) return mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
  for (int i = 0; i < count; i++) at[i] = from ? from[i] : -1;
  tally t = {.seen = counts};
  mb_err err = count_from(ctx, topic, at, count, &t, errstr, errstr_size);
  free(at);
  return err;
}

/* ---- the last records of each partition ---- */

typedef struct ends {
  int count;
  int64_t *low, *high, *from, *skip, *seen, *at; /* by partition; from owns all of them */
} ends;

static bool ends_init(ends *e, int count) {
  size_t n = (size_t)count;
  e->count = count;
  e->from = calloc(n * 6, sizeof *e->from);
  if (!e->from) return false;
  e->low = e->from + n;
  e->high = e->low + n;
  e->skip = e->high + n;
  e->seen = e->skip + n;
  e->at = e->seen + n;
  return true;
}

static mb_err ask_ends(mb_context *ctx, const char *topic, int32_t partition, ends *e, char *errstr,
                       size_t errstr_size) {
  mb_err err = MB_OK;
  for (int32_t i = 0; !err && i < e->count; i++)
    if (partition < 0 || partition == i)
      err = mb__topic_offsets(ctx, topic, i, &e->low[i], &e->high[i], errstr, errstr_size);
  return err;
}

/* Begin so many offsets before the end where fewer than `most` records were seen. false: there are
 * as many everywhere, or the partition holds no more. */
static bool reach_back(ends *e, int64_t span, int64_t most) {
  bool any = false;
  for (int i = 0; i < e->count; i++) {
    bool enough = e->seen[i] >= most || e->from[i] == e->low[i];
    e->at[i] = e->high[i];
    if (enough) continue;
    e->at[i] = e->from[i] = e->high[i] - e->low[i] > span ? e->high[i] - span : e->low[i];
    any = true;
  }
  return any;
}

/* Count what is new in this pass, and keep what others found. */
static mb_err look(mb_context *ctx, const char *topic, ends *e, char *errstr, size_t errstr_size) {
  int64_t *seen = calloc((size_t)e->count, sizeof *seen);
  if (!seen) return mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
  tally t = {.seen = seen};
  mb_err err = count_from(ctx, topic, e->at, e->count, &t, errstr, errstr_size);
  for (int i = 0; !err && i < e->count; i++)
    if (seen[i]) e->seen[i] = seen[i];
  free(seen);
  return err;
}

/* Where more were seen: the offset of the first that counts. */
static mb_err cut(mb_context *ctx, const char *topic, ends *e, int64_t most, char *errstr,
                  size_t errstr_size) {
  bool any = false;
  for (int i = 0; i < e->count; i++) {
    bool more = e->seen[i] > most;
    e->skip[i] = more ? e->seen[i] - most : -1;
    e->at[i] = more ? e->from[i] : e->high[i];
    any |= more;
  }
  if (!any) return MB_OK;
  tally t = {.seen = e->seen, .skip = e->skip, .found = e->from};
  return count_from(ctx, topic, e->at, e->count, &t, errstr, errstr_size);
}

mb_err mb__last_offsets(mb_context *ctx, const char *topic, int64_t most, int32_t partition,
                        int64_t **offsets, int *count, char *errstr, size_t errstr_size) {
  ends e = {0};
  mb_err err = mb__topic_partitions(ctx, topic, count, errstr, errstr_size);
  if (err) return err;
  if (!ends_init(&e, *count)) return mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
  err = ask_ends(ctx, topic, partition, &e, errstr, errstr_size);
  memcpy(e.from, e.high, (size_t)e.count * sizeof *e.from);
  for (int64_t span = most; !err && reach_back(&e, span, most); span *= 4)
    err = look(ctx, topic, &e, errstr, errstr_size);
  if (!err) err = cut(ctx, topic, &e, most, errstr, errstr_size);
  if (!err)
    *offsets = e.from;
  else
    free(e.from);
  return err;
}
