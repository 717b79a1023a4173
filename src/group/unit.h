/* group/unit.h: what the handlers of one step do together outside Kafka, a database's transaction
 * say. It ends with the step, and before any offset of its events is committed; if it cannot be
 * kept, its events are read again. Knows when a unit ends; does not know databases or Lua. */
#ifndef MB_UNIT_H
#define MB_UNIT_H

#include "moonbus.h"

typedef struct mb_group mb_group;

typedef enum mb_unit_call {
  MB_UNIT_KEEP, /* the step is over: commit what was done */
  MB_UNIT_UNDO, /* the unit's events are read again: undo it */
  MB_UNIT_FAIL, /* a handler failed: undo what it did since it was called */
} mb_unit_call;

/* false: what was done in the unit is lost; why says so. */
typedef bool (*mb_unit_fn)(mb_unit_call call, char *why, size_t why_size, void *opaque);

typedef struct mb_unit {
  mb_unit_fn fn;
  void *opaque;
  bool open;
  bool lost; /* known before its end: no further event need run in it */
} mb_unit;

/* A handler does something that is to end with the step. */
void mb__unit_begin(mb_group *group);
/* A handler failed. */
void mb__unit_fail(mb_group *group);
/* The end. false: it was lost, and its events are read again: no part is as it was. With
 * transactions the caller aborts, which does the same. */
bool mb__unit_end(mb_group *group, bool keep);

#endif
