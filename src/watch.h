/* watch.h: shared memory in which a worker notes what it has in hand, for the supervisor that
 * outlives it and for the worker that takes its place. Knows partitions and offsets; no Kafka, no
 * Lua.
 *
 * A worker may be killed between any two stores. Every order of stores here leaves a state that at
 * worst makes an event run once more, never one that skips it. */
#ifndef MB_WATCH_H
#define MB_WATCH_H

#include "moonbus.h"

typedef struct mb_watch_bus mb_watch_bus;
typedef struct mb_watch_part mb_watch_part;

/* The place of a worker's next bus; NULL when all are taken. What a dead worker left there stays if
 * topic and group are the same, and is forgotten otherwise. */
mb_watch_bus *mb__watch_bus(mb_watch *watch, int worker, int index, const char *topic,
                            const char *group);
void mb__watch_limits(mb_watch_bus *bus, int64_t handler_timeout_us, int64_t memory_max_bytes,
                      int64_t shutdown_us);

/* Around every run of handlers; attempt counts from 1. */
void mb__watch_begin(mb_watch_bus *bus, int32_t partition, int64_t offset, int64_t now_us);
void mb__watch_end(mb_watch_bus *bus);

/* A partition is ours: its place, with what a dead worker had settled in it. NULL when all are
 * taken. */
mb_watch_part *mb__watch_take(mb_watch_bus *bus, int32_t partition);
/* It is ours no more. */
void mb__watch_give(mb_watch_part *part);
/* Forget the partitions a dead worker had that are not ours: called once, after the first
 * assignment. */
void mb__watch_forget_others(mb_watch_bus *bus);
/* Whether that offset was settled, by us or by a worker that died. */
bool mb__watch_settled(const mb_watch_part *part, int64_t offset);

/* Every event before next is settled or parked. Call after mb__watch_park for those that are. */
void mb__watch_next(mb_watch_part *part, int64_t next);
void mb__watch_park(mb_watch_part *part, int64_t offset);
void mb__watch_unpark(mb_watch_part *part, int64_t offset);

/* How often workers died with the event in hand; why (borrowed) the last time. 0 = never. */
int mb__watch_deaths(mb_watch_bus *bus, int32_t partition, int64_t offset, const char **reason);
/* It is settled at last. */
void mb__watch_bury(mb_watch_bus *bus, int32_t partition, int64_t offset);

#endif
