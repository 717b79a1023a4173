/* handlers/breaker.h: when the dead letters of a partition are a flood: too many in a row, or too
 * large a share of the events settled last. Pure: no I/O, no clock. */
#ifndef MB_BREAKER_H
#define MB_BREAKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct mb_breaker_rules {
  uint32_t run;    /* dead letters in a row; 0 = any number */
  double ratio;    /* share of dead letters in the window; 0 = any */
  uint32_t window; /* events */
} mb_breaker_rules;

/* What became of a partition's last events; all zeros = none yet. */
typedef struct mb_breaker {
  uint32_t run;   /* dead ones since the last good one */
  uint32_t dead;  /* of those in the ring */
  uint32_t at;    /* where the next one goes */
  uint64_t *ring; /* a bit for each of the last `window` events, set for dead ones; owned; NULL
                     until the first dead one: events that were not seen count as good */
} mb_breaker;

void mb__breaker_count(mb_breaker *breaker, const mb_breaker_rules *rules, bool dead);

/* One more event is settled. Without memory for the ring, only the run counts. */
static inline void mb__breaker_note(mb_breaker *breaker, const mb_breaker_rules *rules, bool dead) {
  if (dead || breaker->run || breaker->dead) mb__breaker_count(breaker, rules, dead);
}

/* Whether the next dead letter would be one too many. */
bool mb__breaker_full(const mb_breaker *breaker, const mb_breaker_rules *rules);
/* Which rule says so, in words. */
void mb__breaker_why(const mb_breaker *breaker, const mb_breaker_rules *rules, char *text,
                     size_t size);
/* Forget everything. */
void mb__breaker_clear(mb_breaker *breaker);
/* Make a breaker the same as another. */
void mb__breaker_copy(mb_breaker *breaker, const mb_breaker *from, const mb_breaker_rules *rules);

#endif
