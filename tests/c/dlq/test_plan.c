/* test_plan.c: the order of dead letters, and what is known of their events' replays.
 * Must not need a broker.
 * Run by ctest. */
#include "base/buf.h"
#include "check.h"
#include "dlq/plan.h"

/* A letter of an event, with the key of its initial: "a1", "a2", "b1". */
static void add(mb_plan *plan, const char *event, const char *origin, int64_t order,
                int64_t time_ms) {
  mb_letter *letter = mb__plan_add(plan);
  if (!ok(letter, "a letter is added")) return;
  letter->event[0] = mb__hash(2, mb_str(event));
  letter->event[1] = mb__hash(3, mb_str(event));
  letter->key = mb__hash(0, (mb_bytes){event, 1});
  letter->origin = mb__hash(4, mb_str(origin));
  letter->order = order;
  letter->time_ms = letter->offset = time_ms;
}

static void expect_line(const char *name, mb_plan *plan, const char *want) {
  char have[256] = "";
  mb__plan_index(plan);
  if (!ok(mb__plan_order(plan), "they are put in order")) return;
  for (size_t i = 0; i < plan->count; i++)
    snprintf(have + strlen(have), sizeof have - strlen(have), "%s%lld", i ? " " : "",
             (long long)plan->line[i]->time_ms);
  same(name, have, strlen(have), want);
  mb__plan_free(plan);
}

static void test_order(void) {
  mb_plan plan = {0};
  expect_line("no letters are no line", &plan, "");
  /* Times of the letters stand for the letters. */
  add(&plan, "a2", "p0", 20, 101);
  add(&plan, "a1", "p0", 10, 102);
  add(&plan, "b1", "p0", 15, 103);
  expect_line("original offsets decide, not the letters' own", &plan, "102 103 101");
  add(&plan, "a1", "p0", 10, 101);
  add(&plan, "a2", "p0", 20, 102);
  add(&plan, "a1", "p0", 30, 103);
  expect_line("an event that died again comes where it failed first", &plan, "101 103 102");
  add(&plan, "a1", "p0", 1000, 101);
  add(&plan, "a2", "p5", 3, 102);
  add(&plan, "b1", "p0", 500, 103);
  expect_line("a key whose partition changed goes by time, in its places", &plan, "101 103 102");
}

static mb_letter *letter_of(mb_plan *plan, uint64_t failed_group) {
  for (size_t i = 0; i < plan->count; i++)
    if (plan->letters[i].failed_group == failed_group) return &plan->letters[i];
  return NULL;
}

/* Event e died in groups 7 and 8. */
static void two_deaths(mb_plan *plan) {
  add(plan, "e1", "p0", 1, 101);
  plan->letters[0].failed_group = 7;
  add(plan, "e1", "p0", 1, 102);
  plan->letters[1].failed_group = 8;
  add(plan, "x1", "p0", 2, 103);
  mb__plan_index(plan);
}

static void note(mb_plan *plan, uint64_t group, int count, bool covers, bool now) {
  uint64_t event[2] = {mb__hash(2, mb_str("e1")), mb__hash(3, mb_str("e1"))};
  mb__plan_copy(plan, event, group, count, covers, now);
}

static void expect(const char *name, mb_plan *plan, uint64_t group, int replays, int covered,
                   bool now) {
  mb_letter *letter = letter_of(plan, group);
  ok(letter->replays == replays && letter->covered == covered && letter->now == now,
     "%s: %d replays, %d covered, now %d", name, letter->replays, letter->covered, letter->now);
}

static void test_copies(void) {
  mb_plan plan = {0};
  two_deaths(&plan);
  note(&plan, 0, 2, true, false);
  expect("a copy for all counts for the one", &plan, 7, 2, 2, false);
  expect("... and for the other", &plan, 8, 2, 2, false);
  expect("... and for no other event", &plan, 0, 0, 0, false);
  note(&plan, 7, 3, true, false);
  expect("a copy for one group covers it", &plan, 7, 3, 3, false);
  expect("... and counts for letters that go to all, without covering", &plan, 8, 3, 2, false);
  mb__plan_free(&plan);

  two_deaths(&plan);
  plan.to_failed = true;
  ok(mb__plan_audience(&plan, letter_of(&plan, 7)) == 7, "the group that failed is the audience");
  note(&plan, 7, 1, true, true);
  expect("its copy counts", &plan, 7, 1, 1, true);
  expect("each group has its own count", &plan, 8, 0, 0, false);
  note(&plan, 8, 4, false, false);
  expect("a copy on another topic counts, without covering", &plan, 8, 4, 0, false);
  mb__plan_free(&plan);

  two_deaths(&plan);
  plan.to_failed = false;
  plan.to_given = true;
  plan.group = 9;
  note(&plan, 7, 5, true, false);
  expect("the group given is none of those that failed", &plan, 7, 0, 0, false);
  note(&plan, 9, 1, true, false);
  expect("its copy covers the one", &plan, 7, 1, 1, false);
  expect("... and the other", &plan, 8, 1, 1, false);
  mb__plan_free(&plan);
}

int main(void) {
  test_order();
  test_copies();
  return done();
}
