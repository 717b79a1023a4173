/* test_breaker.c: when dead letters are a flood: the run, the window, and a model to compare with.
 * Must not need a broker.
 * Run by ctest; MB_SEED chooses the random outcomes. */
#include <inttypes.h>
#include <stdlib.h>

#include "check.h"
#include "handlers/breaker.h"

static void note(mb_breaker *breaker, const mb_breaker_rules *rules, bool dead, int times) {
  for (int i = 0; i < times; i++) mb__breaker_note(breaker, rules, dead);
}

static void runs(void) {
  const mb_breaker_rules rules = {.run = 3};
  mb_breaker breaker = {0};
  char why[100];
  ok(!mb__breaker_full(&breaker, &rules), "nothing settled is no flood");
  note(&breaker, &rules, true, 2);
  ok(!mb__breaker_full(&breaker, &rules), "fewer in a row than allowed are none");
  note(&breaker, &rules, false, 1);
  note(&breaker, &rules, true, 2);
  ok(!mb__breaker_full(&breaker, &rules), "a good one ends the run");
  note(&breaker, &rules, true, 1);
  ok(mb__breaker_full(&breaker, &rules), "as many in a row as allowed are a flood");
  mb__breaker_why(&breaker, &rules, why, sizeof why);
  same("the reason names the run", why, strlen(why), "3 dead letters in a row (dlq_breaker_run)");
  note(&breaker, &rules, false, 1);
  ok(!mb__breaker_full(&breaker, &rules), "until a good one comes");
  note(&breaker, &rules, true, 3);
  mb__breaker_clear(&breaker);
  ok(!mb__breaker_full(&breaker, &rules) && !breaker.run, "what is cleared is forgotten");
  ok(!breaker.ring, "without a ratio nothing is kept");
}

static void ratios(void) {
  const mb_breaker_rules rules = {.ratio = 0.5, .window = 10};
  mb_breaker breaker = {0};
  char why[100];
  note(&breaker, &rules, false, 100000);
  ok(!breaker.ring, "good events alone cost no memory");
  note(&breaker, &rules, true, 4);
  ok(!mb__breaker_full(&breaker, &rules), "less than the share is no flood, be it all there was");
  note(&breaker, &rules, false, 1);
  note(&breaker, &rules, true, 1);
  ok(mb__breaker_full(&breaker, &rules), "the share of the window is one");
  mb__breaker_why(&breaker, &rules, why, sizeof why);
  same("the reason names the share", why, strlen(why),
       "5 dead letters among the last 10 events (dlq_breaker_ratio)");
  note(&breaker, &rules, false, 4);
  ok(mb__breaker_full(&breaker, &rules), "as long as they are in the window");
  note(&breaker, &rules, false, 1);
  ok(!mb__breaker_full(&breaker, &rules), "and no longer");
  note(&breaker, &rules, false, 10);
  ok(breaker.dead == 0, "the window forgets them all");
  mb__breaker_clear(&breaker);
}

static void off(void) {
  const mb_breaker_rules rules = {.window = 10};
  mb_breaker breaker = {0};
  note(&breaker, &rules, true, 100000);
  ok(!mb__breaker_full(&breaker, &rules) && !breaker.ring, "0 and 0 hold nothing back");
  const mb_breaker_rules all = {.ratio = 1, .window = 1};
  mb__breaker_clear(&breaker);
  ok(!mb__breaker_full(&breaker, &all), "a window of one begins good");
  note(&breaker, &all, true, 1);
  ok(mb__breaker_full(&breaker, &all), "and is full with one");
  mb__breaker_clear(&breaker);
}

static void copies(void) {
  const mb_breaker_rules rules = {.run = 100, .ratio = 0.5, .window = 100};
  mb_breaker breaker = {0}, kept = {0};
  mb__breaker_copy(&kept, &breaker, &rules);
  note(&breaker, &rules, true, 60);
  ok(!mb__breaker_full(&kept, &rules) && mb__breaker_full(&breaker, &rules),
     "a copy stays as it was");
  mb__breaker_copy(&breaker, &kept, &rules);
  ok(!mb__breaker_full(&breaker, &rules) && !breaker.ring, "and can be gone back to");
  note(&breaker, &rules, true, 49);
  mb__breaker_copy(&kept, &breaker, &rules);
  note(&kept, &rules, true, 1);
  ok(mb__breaker_full(&kept, &rules) && !mb__breaker_full(&breaker, &rules),
     "both go on by themselves");
  mb__breaker_clear(&breaker);
  mb__breaker_clear(&kept);
}

#define EVENTS 20000

/* Against a list of all outcomes. */
static void model(uint64_t seed) {
  static bool outcomes[EVENTS];
  uint64_t state = seed;
  for (int round = 0; round < 20; round++) {
    mb_breaker_rules rules = {.run = (uint32_t)(roll(&state) % 20),
                              .ratio = (double)(roll(&state) % 11) / 10,
                              .window = (uint32_t)(roll(&state) % 200 + 1)};
    mb_breaker breaker = {0};
    uint32_t run = 0, dead = 0;
    for (uint32_t i = 0; i < EVENTS; i++) {
      /* spells of good and of bad weather */
      outcomes[i] = roll(&state) % 100 < (i / 500 % 2 ? 80 : 5);
      mb__breaker_note(&breaker, &rules, outcomes[i]);
      run = outcomes[i] ? run + 1 : 0;
      dead += outcomes[i];
      if (i >= rules.window) dead -= outcomes[i - rules.window];
      bool flood = (rules.run && run >= rules.run) ||
                   (rules.ratio > 0 && dead && (double)dead >= rules.ratio * rules.window);
      if (mb__breaker_full(&breaker, &rules) == flood) continue;
      ok(false, "seed %" PRIu64 ", round %d, event %u: run %u of %u, %u dead of %u", seed, round, i,
         run, rules.run, dead, rules.window);
      mb__breaker_clear(&breaker);
      return;
    }
    mb__breaker_clear(&breaker);
  }
  ok(true, "seed %" PRIu64 ": the window is that of a list of all outcomes", seed);
}

int main(void) {
  const char *seed = getenv("MB_SEED");
  runs();
  ratios();
  off();
  copies();
  model(seed ? strtoull(seed, NULL, 10) : 20240607);
  return done();
}
