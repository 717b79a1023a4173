/* handlers/breaker.c: counts dead letters in a row and among the last events.
 * Must not do I/O, read a clock, or know partitions and events; handlers/settle.c decides by it.
 * Called by group/pause.c for what is settled, by handlers/settle.c, and by group/offsets.c around
 * transactions. */
#include "handlers/breaker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t ring_words(const mb_breaker_rules *rules) {
  return ((size_t)rules->window + 63) / 64;
}

void mb__breaker_count(mb_breaker *breaker, const mb_breaker_rules *rules, bool dead) {
  if (!dead)
    breaker->run = 0;
  else if (breaker->run < UINT32_MAX)
    breaker->run++;
  if (!(rules->ratio > 0) || !rules->window) return;
  if (!breaker->ring && dead) breaker->ring = calloc(ring_words(rules), sizeof *breaker->ring);
  if (!breaker->ring) return;
  uint64_t *word = &breaker->ring[breaker->at / 64], bit = UINT64_C(1) << breaker->at % 64;
  if (*word & bit) breaker->dead--;
  *word = dead ? *word | bit : *word & ~bit;
  if (dead) breaker->dead++;
  breaker->at = (breaker->at + 1) % rules->window;
}

static bool run_full(const mb_breaker *breaker, const mb_breaker_rules *rules) {
  return rules->run && breaker->run >= rules->run;
}

static bool ratio_full(const mb_breaker *breaker, const mb_breaker_rules *rules) {
  return rules->ratio > 0 && breaker->dead > 0 &&
         (double)breaker->dead >= rules->ratio * (double)rules->window;
}

bool mb__breaker_full(const mb_breaker *breaker, const mb_breaker_rules *rules) {
  return run_full(breaker, rules) || ratio_full(breaker, rules);
}

void mb__breaker_why(const mb_breaker *breaker, const mb_breaker_rules *rules, char *text,
                     size_t size) {
  if (run_full(breaker, rules) || !ratio_full(breaker, rules))
    snprintf(text, size, "%u dead letters in a row (dlq_breaker_run)", breaker->run);
  else
    snprintf(text, size, "%u dead letters among the last %u events (dlq_breaker_ratio)",
             breaker->dead, rules->window);
}

void mb__breaker_clear(mb_breaker *breaker) {
  free(breaker->ring);
  *breaker = (mb_breaker){0};
}

void mb__breaker_copy(mb_breaker *breaker, const mb_breaker *from, const mb_breaker_rules *rules) {
  uint64_t *ring = breaker->ring;
  size_t bytes = ring_words(rules) * sizeof *ring;
  if (from->ring && !ring) ring = malloc(bytes);
  if (from->ring && ring) memcpy(ring, from->ring, bytes);
  if (!from->ring) {
    free(ring);
    ring = NULL;
  }
  *breaker = *from;
  breaker->ring = ring;
  if (!ring) breaker->dead = breaker->at = 0;
}
