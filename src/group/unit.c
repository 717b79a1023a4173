/* group/unit.c: what the handlers of one step do together: kept before offsets are committed, or
 * undone. Must not know databases, Lua or what handlers do. Called by bus/step.c and
 * deliver/deliver.c around steps, by group/txn.c around transactions, by the Lua side. */
#include "group/unit.h"

#include "group/group.h"

void mb__unit_begin(mb_group *group) {
  if (!group->unit.open && !group->ctx->transaction.on) mb__consumer_keep_breakers(group);
  group->unit.open = true;
}

void mb__unit_fail(mb_group *group) {
  mb_unit *unit = &group->unit;
  if (unit->open && !unit->fn(MB_UNIT_FAIL, NULL, 0, unit->opaque)) unit->lost = true;
}

bool mb__unit_end(mb_group *group, bool keep) {
  mb_unit *unit = &group->unit;
  char why[MB_ERRSTR_MAX] = "";
  if (!unit->open) return true;
  bool kept = unit->fn(keep ? MB_UNIT_KEEP : MB_UNIT_UNDO, why, sizeof why, unit->opaque);
  unit->open = unit->lost = false;
  mb_part *part;
  for (size_t i = 0; keep && kept && (part = mb__consumer_part_at(group, i)); i++)
    mb__notes_release(&part->queue.notes);
  if (kept) return true;
  mb__log(&group->ctx->log, MB_LOG_WARN,
          "what handlers did is lost, their events are read again: %s", why);
  group->ctx->stats.last_error_at_us = mb__now_us();
  /* Retries start over: which runs of a parked event were among those lost, nobody knows. */
  if (!group->ctx->transaction.on) mb__consumer_rewind_all(group);
  return false;
}
