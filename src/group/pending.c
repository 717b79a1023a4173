/* group/pending.c: the tokens of handlers that go on after they returned, and what is kept of their
 * events.
 * Must not run handlers or decide outcomes: a completion is noted here, and settled by
 * deliver/deliver.c. Called by bus/pending.c for handlers, by deliver/deliver.c, and by
 * group/rebalance.c, group/offsets.c and group/consumer.c when partitions go or are read again. */
#include "group/pending.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "group/group.h"

#define SLOTS_MAX 1024 /* a token is its number times this, plus its slot */

mb_err mb__runs_init(mb_group *group) {
  group->runs.most = (size_t)mb__conf_int(group->ctx->conf, MB_OPT_concurrency);
  group->runs.slots = calloc(group->runs.most, sizeof *group->runs.slots);
  return group->runs.slots ? MB_OK : MB_ENOMEM;
}

static void run_destroy(mb_pend *run) {
  mb__ids_free(&run->result.failed);
  mb__ids_free(&run->result.final);
  free(run);
}

void mb__runs_free(mb_group *group) {
  for (size_t i = 0; group->runs.slots && i < group->runs.most; i++)
    mb__run_free(group, group->runs.slots[i]);
  for (mb_pend *run = group->runs.spare, *next; run; run = next) {
    next = run->next;
    run_destroy(run);
  }
  free(group->runs.slots);
  group->runs = (mb_runs){0};
}

bool mb__runs_full(const mb_group *group) {
  return group->runs.count >= group->runs.most;
}

size_t mb__runs_live(const mb_group *group) {
  size_t live = 0;
  const mb_part *part;
  for (size_t i = 0; (part = mb__consumer_part_at(group, i)); i++) live += part->lot.running;
  return live;
}

bool mb__run_is_orphan(const mb_pend *run) {
  return run->kept && (!run->parked || !run->parked->lot);
}

mb_pend *mb__run_of(const mb_group *group, mb_token token) {
  size_t slot = token % SLOTS_MAX;
  mb_pend *run = token && slot < group->runs.most ? group->runs.slots[slot] : NULL;
  return run && run->token == token && !run->completed ? run : NULL;
}

/* ---- tokens ---- */

static mb_pend *run_new(mb_group *group) {
  mb_runs *runs = &group->runs;
  size_t slot = 0;
  while (slot < runs->most && runs->slots[slot]) slot++;
  if (slot == runs->most) return NULL;
  mb_pend *run = runs->spare;
  if (run)
    runs->spare = run->next;
  else if (!(run = calloc(1, sizeof *run)))
    return NULL;
  run->next = NULL;
  run->slot = slot;
  runs->slots[slot] = run;
  if (++runs->count == runs->most) runs->full_us = mb__mono_us();
  return run;
}

bool mb__run_token(mb_group *group, mb_msg *msg, uint32_t handler, mb_token *token) {
  mb_pend *run = msg->run;
  if (!run && !(run = msg->run = run_new(group))) return false;
  run->token = ++group->runs.last * SLOTS_MAX + run->slot;
  run->handler = handler;
  run->completed = false;
  *token = run->token;
  return true;
}

void mb__run_complete(mb_group *group, mb_pend *run, mb_outcome outcome) {
  mb_runs *runs = &group->runs;
  if (mb__run_is_orphan(run)) {
    mb__log_at(
        &group->ctx->log, MB_LOG_DEBUG, run->partition, run->offset,
        "%s[%d] offset %lld: its handler is done, but the partition was given away meanwhile",
        group->ctx->topic, (int)run->partition, (long long)run->offset);
    mb__run_free(group, run);
    return;
  }
  run->completed = true;
  run->outcome = outcome;
  if (!run->kept) return; /* the handler has not even returned */
  if (!runs->first) mb__context_wake(group->ctx);
  if (runs->tail)
    runs->tail->next = run;
  else
    runs->first = run;
  runs->tail = run;
}

/* ---- what is kept ---- */

static void result_move(mb_result *to, mb_result *from) {
  mb_ids failed = to->failed, final = to->final;
  size_t told = from->failed_count + from->rejected_count ? sizeof *to : offsetof(mb_result, fail);
  memcpy(to, from, told);
  from->failed = failed;
  from->final = final;
}

mb_pend *mb__run_keep(mb_msg *msg, const mb_walk *walk, mb_result *result) {
  mb_pend *run = msg->run;
  run->kept = true;
  run->msg = *msg;
  run->tenant = *msg->tenant;
  run->msg.tenant = &run->tenant;
  run->walk = *walk;
  run->walk.tenant = &run->tenant;
  run->partition = msg->record->partition;
  run->offset = msg->record->offset;
  result_move(&run->result, result);
  return run;
}

/* Behind an orphan that is no more, and where there is room again, others may go on. */
static void let_on(mb_group *group, const mb_pend *run, bool orphan, bool full) {
  if (!group->consumer) return;
  mb_part *part = orphan ? mb__consumer_part(group, run->partition) : NULL;
  if (part) {
    mb_bytes key = {run->key, run->key_len};
    if (run->msg.record) key = mb__lane_key(group, run->msg.record);
    mb__lot_wake(&part->lot, key);
  }
  for (size_t i = 0; full && (part = mb__consumer_part_at(group, i)); i++) part->lot.due_us = 0;
}

static void forget_completion(mb_group *group, mb_pend *run) {
  mb_pend *before = NULL;
  for (mb_pend *at = group->runs.first; at; before = at, at = at->next) {
    if (at != run) continue;
    if (before)
      before->next = run->next;
    else
      group->runs.first = run->next;
    if (group->runs.tail == run) group->runs.tail = before;
    return;
  }
}

void mb__run_free(mb_group *group, mb_pend *run) {
  if (!run) return;
  mb_runs *runs = &group->runs;
  bool orphan = mb__run_is_orphan(run), full = mb__runs_full(group);
  if (run->completed) forget_completion(group, run);
  runs->slots[run->slot] = NULL;
  runs->count--;
  runs->orphans -= orphan && run->counted;
  if (run->kept) mb__dispatch_let_go(&group->dispatch, &run->walk);
  let_on(group, run, orphan, full);
  if (run->kept) mb__msg_done(&run->msg);
  if (orphan) mb__parked_free(run->parked);
  free(run->key);
  free(run->fail);
  mb_ids failed = run->result.failed, final = run->result.final;
  memset(run, 0, offsetof(mb_pend, result));
  memset((char *)run + offsetof(mb_pend, again), 0, sizeof *run - offsetof(mb_pend, again));
  run->result.failed = failed;
  run->result.final = final;
  run->next = runs->spare;
  runs->spare = run;
}

mb_pend *mb__runs_next(mb_group *group) {
  mb_pend *run = group->runs.first;
  if (!run) return NULL;
  group->runs.first = run->next;
  if (!run->next) group->runs.tail = NULL;
  run->next = NULL;
  return run;
}

/* ---- orphans ---- */

/* Each that is not known as one yet. One whose handler is done already is of no more interest. */
void mb__runs_orphan(mb_group *group) {
  for (size_t i = 0; group->runs.count && i < group->runs.most; i++) {
    mb_pend *run = group->runs.slots[i];
    if (!run || run->counted || !mb__run_is_orphan(run)) continue;
    run->counted = true;
    group->runs.orphans++;
    if (run->completed) mb__run_free(group, run);
  }
}

void mb__runs_undo(mb_group *group) {
  for (size_t i = 0; group->runs.count && i < group->runs.most; i++)
    if (group->runs.slots[i]) group->runs.slots[i]->undone = true;
}

void mb__runs_let_go(mb_group *group) {
  for (size_t i = 0; group->runs.count && i < group->runs.most; i++) {
    mb_pend *run = group->runs.slots[i];
    if (!run || !run->msg.record || !mb__run_is_orphan(run)) continue;
    mb_bytes key = mb__lane_key(group, run->msg.record);
    run->key = malloc(key.len + 1);
    if (run->key && key.len) memcpy(run->key, key.data, key.len);
    run->key_len = key.len;
    mb__msg_done(&run->msg);
    run->msg.record = NULL;
    mb__parked_free(run->parked);
    run->parked = NULL;
  }
}

mb_pend *mb__runs_before(mb_group *group, int32_t partition, mb_bytes key) {
  if (!group->runs.orphans) return NULL;
  for (size_t i = 0; i < group->runs.most; i++) {
    mb_pend *run = group->runs.slots[i];
    if (!run || run->partition != partition || !mb__run_is_orphan(run)) continue;
    mb_bytes own = {run->key, run->key_len};
    if (run->msg.record) own = mb__lane_key(group, run->msg.record);
    if (!own.data || (own.len == key.len && memcmp(own.data, key.data, key.len) == 0)) return run;
  }
  return NULL;
}

void mb__run_take_back(mb_group *group, mb_pend *run, mb_parked *parked) {
  mb_parked *old = run->parked;
  parked->attempts = old->attempts;
  parked->exhausted = old->exhausted;
  parked->rejected = old->rejected;
  parked->first_failed_us = old->first_failed_us;
  parked->fail = old->fail;
  parked->failed = old->failed;
  parked->final = old->final;
  old->fail = NULL;
  old->failed = old->final = (mb_ids){0};
  mb__msg_done(&run->msg);
  run->msg.record = parked->record;
  run->msg.event_type = run->walk.type = mb__msg_type(parked->record);
  run->parked = parked;
  run->counted = false;
  group->runs.orphans--;
  mb__parked_free(old);
}

/* ---- the end of consumption ---- */

bool mb__runs_drain(mb_group *group, int64_t now_us) {
  mb_runs *runs = &group->runs;
  if (!mb__runs_live(group)) return false;
  int64_t most_us = (int64_t)(mb__conf_num(group->ctx->conf, MB_OPT_shutdown_timeout) * 1e6);
  if (!runs->drain_by_us) {
    runs->drain_by_us = now_us + most_us;
    mb__log(&group->ctx->log, MB_LOG_INFO, "%zu events are running; waiting for them up to %.3g s",
            mb__runs_live(group), (double)most_us / 1e6);
  }
  return now_us < runs->drain_by_us;
}
