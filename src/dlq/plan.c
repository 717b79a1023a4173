/* dlq/plan.c: the order of dead letters, and what is known of earlier replays.
 * Must not do I/O, read a clock or know handlers.
 * Called by dlq/replay.c and dlq/read.c. */
#include "dlq/plan.h"

#include <stdlib.h>
#include <string.h>

mb_letter *mb__plan_add(mb_plan *plan) {
  if (plan->count == plan->cap) {
    size_t cap = plan->cap ? plan->cap * 2 : 64;
    mb_letter *grown = realloc(plan->letters, cap * sizeof *grown);
    if (!grown) return NULL;
    plan->letters = grown;
    plan->cap = cap;
  }
  mb_letter *letter = &plan->letters[plan->count++];
  memset(letter, 0, sizeof *letter);
  return letter;
}

/* ---- events ---- */

#define COMPARE(a, b)                                                                              \
  if ((a) != (b)) return (a) < (b) ? -1 : 1

static int by_event(const void *left, const void *right) {
  const mb_letter *a = left, *b = right;
  COMPARE(a->event[0], b->event[0]);
  COMPARE(a->event[1], b->event[1]);
  COMPARE(a->partition, b->partition);
  COMPARE(a->offset, b->offset);
  return 0;
}

static bool same_event(const uint64_t a[2], const uint64_t b[2]) {
  return a[0] == b[0] && a[1] == b[1];
}

void mb__plan_index(mb_plan *plan) {
  if (plan->count) qsort(plan->letters, plan->count, sizeof *plan->letters, by_event);
}

/* The first letter of the event; those of it stand together. */
static size_t find(const mb_plan *plan, const uint64_t event[2]) {
  size_t low = 0, high = plan->count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    const uint64_t *have = plan->letters[middle].event;
    if (have[0] < event[0] || (have[0] == event[0] && have[1] < event[1]))
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

uint64_t mb__plan_audience(const mb_plan *plan, const mb_letter *letter) {
  return plan->to_failed ? letter->failed_group : plan->to_given ? plan->group : letter->sent_to;
}

void mb__plan_copy(mb_plan *plan, const uint64_t event[2], uint64_t group, int count, bool covers,
                   bool now) {
  for (size_t i = find(plan, event); i < plan->count; i++) {
    mb_letter *letter = &plan->letters[i];
    if (!same_event(letter->event, event)) return;
    uint64_t audience = mb__plan_audience(plan, letter);
    uint64_t failed = plan->to_given && plan->group ? plan->group : letter->failed_group;
    if ((!group || !audience || group == audience) && count > letter->replays)
      letter->replays = count;
    if (!covers || (group && failed && group != failed)) continue;
    if (count > letter->covered) letter->covered = count;
    if (now) letter->now = true;
  }
}

/* ---- order ---- */

static int by_key(const void *left, const void *right) {
  const mb_letter *a = *(mb_letter *const *)left, *b = *(mb_letter *const *)right;
  COMPARE(a->key, b->key);
  COMPARE(a->time_ms, b->time_ms);
  COMPARE(a->partition, b->partition);
  COMPARE(a->offset, b->offset);
  return 0;
}

static int by_order(const void *left, const void *right) {
  const mb_letter *a = *(mb_letter *const *)left, *b = *(mb_letter *const *)right;
  COMPARE(a->order, b->order);
  COMPARE(a->seq, b->seq);
  return 0;
}

static int by_number(const void *left, const void *right) {
  int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
  return (a > b) - (a < b);
}

/* An event that died more than once failed first where the smallest offset is. */
static void first_failures(mb_plan *plan) {
  for (size_t i = 0, end; i < plan->count; i = end) {
    mb_letter *first = &plan->letters[i];
    int64_t least = first->order;
    bool one_origin = true;
    for (end = i; end < plan->count && same_event(plan->letters[end].event, first->event); end++) {
      if (plan->letters[end].order < least) least = plan->letters[end].order;
      if (plan->letters[end].origin != first->origin) one_origin = false;
    }
    for (size_t k = i; one_origin && k < end; k++) plan->letters[k].order = least;
  }
}

/* Offsets of several partitions do not compare: those of one key share out the places they have by
 * the time they died. */
static bool share_places(mb_letter **run, size_t count) {
  bool one_origin = true;
  for (size_t i = 1; i < count; i++)
    if (run[i]->origin != run[0]->origin) one_origin = false;
  if (one_origin) return true;
  int64_t *places = malloc(count * sizeof *places);
  if (!places) return false;
  for (size_t i = 0; i < count; i++) places[i] = run[i]->order;
  qsort(places, count, sizeof *places, by_number);
  for (size_t i = 0; i < count; i++) run[i]->order = places[i];
  free(places);
  return true;
}

bool mb__plan_order(mb_plan *plan) {
  size_t count = plan->count;
  plan->line = malloc((count ? count : 1) * sizeof *plan->line);
  if (!plan->line) return false;
  first_failures(plan);
  for (size_t i = 0; i < count; i++) plan->line[i] = &plan->letters[i];
  if (!count) return true;
  qsort(plan->line, count, sizeof *plan->line, by_key);
  for (size_t i = 0, end; i < count; i = end) {
    for (end = i; end < count && plan->line[end]->key == plan->line[i]->key; end++)
      plan->line[end]->seq = (uint32_t)end;
    if (!share_places(plan->line + i, end - i)) return false;
  }
  qsort(plan->line, count, sizeof *plan->line, by_order);
  return true;
}

void mb__plan_free(mb_plan *plan) {
  free(plan->letters);
  free(plan->line);
  *plan = (mb_plan){0};
}
