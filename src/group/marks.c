/* group/marks.c: settled offsets past the committed one, as ranges and as text.
 * Must not do I/O nor trust a text: it comes from the broker, and may be anybody's.
 * Called by group/offsets.c to write and read them, by group/watch.c to add to them, by
 * deliver/deliver.c for each event.
 */
#include "group/marks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void mb__marks_free(mb_marks *marks) {
  free(marks->ranges);
  *marks = (mb_marks){0};
}

void mb__marks_add(mb_marks *marks, int64_t from, int64_t to) {
  if (from >= to) return;
  if (marks->count == marks->cap) {
    size_t cap = marks->cap ? marks->cap * 2 : 16;
    mb_range *ranges = realloc(marks->ranges, cap * sizeof *ranges);
    if (!ranges) return;
    marks->ranges = ranges;
    marks->cap = cap;
  }
  marks->ranges[marks->count++] = (mb_range){from, to};
}

static int compare_ranges(const void *a, const void *b) {
  const mb_range *x = a, *y = b;
  return x->from < y->from ? -1 : x->from > y->from;
}

void mb__marks_tidy(mb_marks *marks) {
  size_t kept = 0;
  if (!marks->count) return;
  qsort(marks->ranges, marks->count, sizeof *marks->ranges, compare_ranges);
  for (size_t i = 1; i < marks->count; i++) {
    mb_range *last = &marks->ranges[kept], range = marks->ranges[i];
    if (range.from > last->to)
      marks->ranges[++kept] = range;
    else if (range.to > last->to)
      last->to = range.to;
  }
  marks->count = kept + 1;
}

void mb__marks_drop(mb_marks *marks, int64_t offset) {
  size_t kept = 0;
  for (size_t i = 0; i < marks->count; i++)
    if (marks->ranges[i].to > offset) marks->ranges[kept++] = marks->ranges[i];
  marks->count = kept;
}

bool mb__marks_has(const mb_marks *marks, int64_t offset) {
  size_t low = 0, high = marks->count;
  if (!high || offset >= marks->ranges[high - 1].to) return false;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (marks->ranges[middle].to <= offset)
      low = middle + 1;
    else
      high = middle;
  }
  return marks->ranges[low].from <= offset;
}

/* ---- the text ---- */

static int head(char *buf, size_t size, const char *cluster, int64_t low) {
  return snprintf(buf, size, "mb1 %s %lld", cluster, (long long)low);
}

void mb__marks_begin(mb_marks_text *text, const char *cluster, int64_t low) {
  int len = head(text->text, sizeof text->text, cluster, low);
  text->full = len >= MB_MARKS_MAX;
  text->len = text->full ? 0 : (size_t)len;
  text->at = low;
  text->any = false;
}

void mb__marks_put(mb_marks_text *text, int64_t from, int64_t to) {
  char pair[48];
  if (from < text->at) from = text->at;
  if (from >= to || text->full) return;
  int len = snprintf(pair, sizeof pair, " %lld %lld", (long long)(from - text->at),
                     (long long)(to - from));
  if (text->len + (size_t)len > MB_MARKS_MAX) {
    text->full = true;
    return;
  }
  memcpy(text->text + text->len, pair, (size_t)len + 1);
  text->len += (size_t)len;
  text->at = to;
  text->any = true;
}

/* The number after a space; -1 when there is none, or one that leads past all offsets. */
static int64_t number(const char **at, const char *end, int64_t most) {
  const char *from = *at;
  int64_t value = 0;
  if (from == end || *from++ != ' ' || from == end) return -1;
  for (; from < end && *from != ' '; from++) {
    if (*from < '0' || *from > '9') return -1;
    int digit = *from - '0';
    if (value > (most - digit) / 10) return -1;
    value = value * 10 + digit;
  }
  if (from[-1] == ' ') return -1;
  *at = from;
  return value;
}

void mb__marks_parse(mb_marks *marks, const char *text, size_t len, const char *cluster,
                     int64_t low) {
  char want[256];
  int head_len = head(want, sizeof want, cluster, low);
  size_t count = marks->count;
  if (!text || low < 0 || head_len >= (int)sizeof want || len > MB_MARKS_MAX) return;
  if (len < (size_t)head_len || memcmp(text, want, (size_t)head_len) != 0) return;
  const char *at = text + head_len, *end = text + len;
  int64_t offset = low;
  while (at < end) {
    int64_t wait = number(&at, end, INT64_MAX - offset);
    int64_t settled = wait < 0 ? -1 : number(&at, end, INT64_MAX - offset - wait);
    if (settled < 0) {
      marks->count = count; /* garbage further on: nothing of it is believed */
      return;
    }
    mb__marks_add(marks, offset + wait, offset + wait + settled);
    offset += wait + settled;
  }
}
