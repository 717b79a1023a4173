/* handlers/brake.c: counts dead letters in a row and among the last events.
 * Must not do I/O, read a clock, or know partitions and events; handlers/settle.c decides by it.
 * Called by group/pause.c for what is settled, by handlers/settle.c, and by group/offsets.c around
 * transactions. */
#include "handlers/brake.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t ring_words(const mb_brake_rules *rules) {
  return ((size_t)rules->window + 63) / 64;
}

void mb__brake_count(mb_brake *brake, const mb_brake_rules *rules, bool dead) {
  if (!dead)
    brake->run = 0;
  else if (brake->run < UINT32_MAX)
    brake->run++;
  if (!(rules->ratio > 0) || !rules->window) return;
  if (!brake->ring && dead) brake->ring = calloc(ring_words(rules), sizeof *brake->ring);
  if (!brake->ring) return;
  uint64_t *word = &brake->ring[brake->at / 64], bit = UINT64_C(1) << brake->at % 64;
  if (*word & bit) brake->dead--;
  *word = dead ? *word | bit : *word & ~bit;
  if (dead) brake->dead++;
  brake->at = (brake->at + 1) % rules->window;
}

static bool run_full(const mb_brake *brake, const mb_brake_rules *rules) {
  return rules->run && brake->run >= rules->run;
}

static bool ratio_full(const mb_brake *brake, const mb_brake_rules *rules) {
  return rules->ratio > 0 && brake->dead > 0 &&
         (double)brake->dead >= rules->ratio * (double)rules->window;
}

bool mb__brake_full(const mb_brake *brake, const mb_brake_rules *rules) {
  return run_full(brake, rules) || ratio_full(brake, rules);
}

void mb__brake_why(const mb_brake *brake, const mb_brake_rules *rules, char *text, size_t size) {
  if (run_full(brake, rules) || !ratio_full(brake, rules))
    snprintf(text, size, "%u dead letters in a row (dlq_brake_run)", brake->run);
  else
    snprintf(text, size, "%u dead letters among the last %u events (dlq_brake_ratio)", brake->dead,
             rules->window);
}

void mb__brake_clear(mb_brake *brake) {
  free(brake->ring);
  *brake = (mb_brake){0};
}

void mb__brake_copy(mb_brake *brake, const mb_brake *from, const mb_brake_rules *rules) {
  uint64_t *ring = brake->ring;
  size_t bytes = ring_words(rules) * sizeof *ring;
  if (from->ring && !ring) ring = malloc(bytes);
  if (from->ring && ring) memcpy(ring, from->ring, bytes);
  if (!from->ring) {
    free(ring);
    ring = NULL;
  }
  *brake = *from;
  brake->ring = ring;
  if (!ring) brake->dead = brake->at = 0;
}
