/* dlq/plan.h: which dead letters are put back, in which order, and what is known of each event's
 * earlier replays. Pure: no I/O, no clock. */
#ifndef MB_REPLAY_PLAN_H
#define MB_REPLAY_PLAN_H

#include "moonbus.h"

typedef struct mb_parcel mb_parcel; /* dlq/replay.c's: the record itself */

/* A dead letter. Names are kept as hashes, 0 = none: a million letters must fit. */
typedef struct mb_letter {
  uint64_t event[2];     /* which event it is of */
  uint64_t key;          /* what its order is kept by */
  uint64_t origin;       /* the topic and partition it failed in */
  uint64_t failed_group; /* whose handlers failed */
  uint64_t sent_to;      /* the only group it was for (replay_group) */
  int64_t offset;        /* of the letter */
  int64_t time_ms;       /* of the letter's record */
  int64_t order;         /* among those of its origin: the original offset, to begin with */
  int32_t partition;     /* of the letter */
  uint32_t seq;          /* among those of one order */
  uint32_t size;         /* bytes the record takes in memory */
  int own;               /* replays when it was written */
  int replays;           /* by all that is known, of the copies its audience got */
  int covered;           /* ... the group that failed got */
  bool now;              /* put back by this very call */
  bool gone;             /* the topic no longer holds it */
  const char *left_out;  /* the filter's member that leaves it out; static; NULL = none */
  mb_parcel *parcel;     /* NULL = not in memory; owned by dlq/replay.c */
} mb_letter;

typedef struct mb_plan {
  mb_letter *letters; /* owned; by event once indexed */
  size_t count, cap;
  mb_letter **line; /* in the order they are put back; owned */
  /* Who gets them: */
  bool to_failed, to_given; /* the group that failed; the one given; neither: as it was before */
  uint64_t group;           /* the one given; 0 = every group */
} mb_plan;

/* A new letter, all zero; NULL when out of memory. Good until the next. */
mb_letter *mb__plan_add(mb_plan *plan);
/* All are in: from here on copies may be noted, and letters stay where they are. */
void mb__plan_index(mb_plan *plan);
/* The only group that gets a letter's event; 0 = every group. */
uint64_t mb__plan_audience(const mb_plan *plan, const mb_letter *letter);
/* There is a copy of the event, its replay number count, sent to one group (0 = to all). covers:
 * it is where the letters go now. now: this call made it. */
void mb__plan_copy(mb_plan *plan, const uint64_t event[2], uint64_t group, int count, bool covers,
                   bool now);
/* Fill line: the events of a key by original offset, the smallest that an event's letters name. A
 * key with letters from several origins: by the time of its letters, in the places they have. false
 * when out of memory. */
bool mb__plan_order(mb_plan *plan);
void mb__plan_free(mb_plan *plan);

#endif
