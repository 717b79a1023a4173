/* handlers/brake.h: when the dead letters of a partition are a flood: too many in a row, or too
 * large a share of the events settled last. Pure: no I/O, no clock. */
#ifndef MB_BRAKE_H
#define MB_BRAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct mb_brake_rules {
  uint32_t run;    /* dead letters in a row; 0 = any number */
  double ratio;    /* share of dead letters in the window; 0 = any */
  uint32_t window; /* events */
} mb_brake_rules;

/* What became of a partition's last events; all zeros = none yet. */
typedef struct mb_brake {
  uint32_t run;   /* dead ones since the last good one */
  uint32_t dead;  /* of those in the ring */
  uint32_t at;    /* where the next one goes */
  uint64_t *ring; /* a bit for each of the last `window` events, set for dead ones; owned; NULL
                     until the first dead one: events that were not seen count as good */
} mb_brake;

void mb__brake_count(mb_brake *brake, const mb_brake_rules *rules, bool dead);

/* One more event is settled. Without memory for the ring, only the run counts. */
static inline void mb__brake_note(mb_brake *brake, const mb_brake_rules *rules, bool dead) {
  if (dead || brake->run || brake->dead) mb__brake_count(brake, rules, dead);
}

/* Whether the next dead letter would be one too many. */
bool mb__brake_full(const mb_brake *brake, const mb_brake_rules *rules);
/* Which rule says so, in words. */
void mb__brake_why(const mb_brake *brake, const mb_brake_rules *rules, char *text, size_t size);
/* Forget everything. */
void mb__brake_clear(mb_brake *brake);
/* Make a brake the same as another. */
void mb__brake_copy(mb_brake *brake, const mb_brake *from, const mb_brake_rules *rules);

#endif
