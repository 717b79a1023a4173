/* group/watch.h: shared memory in which a worker notes what it has in hand, for the supervisor that
 * outlives it and for the worker that takes its place. Knows partitions and offsets; no Kafka, no
 * Lua.
 *
 * A worker may be killed between any two stores. Every order of stores here leaves a state that at
 * worst makes an event run once more, never one that skips it. */
#ifndef MB_WATCH_H
#define MB_WATCH_H

#include <stdatomic.h>

#include "group/marks.h"
#include "moonbus.h"

typedef struct mb_watch_bus mb_watch_bus;
typedef struct mb_watch_part mb_watch_part;

/* The place of a worker's bus number index; NULL when all are taken. What an earlier worker of that
 * number owned is anybody's from now on. */
mb_watch_bus *mb__watch_bus(mb_watch *watch, int worker, int index, const char *topic,
                            const char *group);
void mb__watch_limits(mb_watch_bus *bus, int64_t handler_timeout_us, int64_t memory_max_bytes,
                      int64_t shutdown_us);

/* Where the id of the handler that is called is noted. */
_Atomic uint32_t *mb__watch_handler(mb_watch_bus *bus);
/* Around every run of handlers. */
void mb__watch_begin(mb_watch_bus *bus, int32_t partition, int64_t offset, int64_t now_us);
void mb__watch_end(mb_watch_bus *bus);

/* The most parked events of a partition that are kept track of. */
#define MB_WATCH_PARKED_MAX 4096

/* A partition is ours: its place, with what the worker that had it last settled in it, whichever of
 * the supervisor's workers that was. committed: the group's offset on the broker, -1 = none; if
 * that went backwards (the topic was created again, the offsets were reset), nothing is taken over.
 * NULL when all places are taken. */
mb_watch_part *mb__watch_take(mb_watch_bus *bus, int32_t partition, int64_t committed);
/* It is ours no more; what it says stays for the next. */
void mb__watch_give(mb_watch_part *part);
/* The broker acknowledged an offset. */
void mb__watch_committed(mb_watch_part *part, int64_t offset);
/* Its offsets are no longer what they were: nothing of it is settled. */
void mb__watch_reset(mb_watch_part *part);
/* true if that offset was settled, by this or an earlier owner of the partition. */
bool mb__watch_settled(const mb_watch_part *part, int64_t offset);

/* Add what was settled from low on. Out of memory, nothing. */
void mb__watch_marks(const mb_watch_part *part, int64_t low, mb_marks *marks);

/* Every event before next is settled or parked. Call after mb__watch_park for those that are. */
void mb__watch_next(mb_watch_part *part, int64_t next);
/* An event is settled that we never parked; an earlier owner may have. */
void mb__watch_pass(mb_watch_part *part, int64_t offset);
/* false: there is no room for it; as it is, it would count as settled once next is past it. */
bool mb__watch_park(mb_watch_part *part, int64_t offset);
void mb__watch_unpark(mb_watch_part *part, int64_t offset);

/* The bus logs JSON. */
void mb__watch_log_json(mb_watch_bus *bus);
/* How the bus is. */
void mb__watch_health(mb_watch_bus *bus, mb_health health);

/* Dead letters in a row: kept so that a flood that also kills workers is seen as one. */
void mb__watch_note_run(mb_watch_part *part, uint32_t run);
uint32_t mb__watch_dead_run(const mb_watch_part *part);
/* The notes of one partition, each of these calls one, held back while *hold: what is noted as
 * settled is never run again, so it must not be undone any more. */
typedef enum mb_note { MB_NOTE_PASS, MB_NOTE_NEXT, MB_NOTE_PARK, MB_NOTE_UNPARK } mb_note;

typedef struct mb_held mb_held;

typedef struct mb_notes {
  mb_watch_part *part; /* NULL without a supervisor */
  const bool *hold;    /* NULL = never */
  mb_held *held;       /* owned */
  size_t count, cap;
} mb_notes;

void mb__note(mb_notes *notes, mb_note kind, int64_t offset);
/* Write what was held back. */
void mb__notes_release(mb_notes *notes);
/* Forget it. */
void mb__notes_drop(mb_notes *notes);

/* Of the workers that died with one event in hand. */
typedef struct mb_deaths {
  int count;        /* 0 = none did */
  char reason[32];  /* of the last */
  uint32_t handler; /* that ran then; 0 = unknown */
  int64_t first_us; /* when the first died, since 1970 */
} mb_deaths;

mb_deaths mb__watch_deaths(mb_watch_bus *bus, int32_t partition, int64_t offset);
/* It is settled at last. */
void mb__watch_forget(mb_watch_bus *bus, int32_t partition, int64_t offset);

#endif
