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

mb_err mb__pending_init(mb_group *group) {
  group->pending.most = (size_t)mb__conf_int(group->ctx->conf, MB_OPT_concurrency);
  group->pending.slots = calloc(group->pending.most, sizeof *group->pending.slots);
  return group->pending.slots ? MB_OK : MB_ENOMEM;
}

static void pend_destroy(mb_pend *pend) {
  mb__ids_free(&pend->result.failed);
  mb__ids_free(&pend->result.final);
  free(pend);
}

void mb__pending_free(mb_group *group) {
  for (size_t i = 0; group->pending.slots && i < group->pending.most; i++)
    mb__pend_free(group, group->pending.slots[i]);
  for (mb_pend *pend = group->pending.spare, *next; pend; pend = next) {
    next = pend->next;
    pend_destroy(pend);
  }
  free(group->pending.slots);
  group->pending = (mb_pending){0};
}

bool mb__pending_full(const mb_group *group) {
  return group->pending.count >= group->pending.most;
}

size_t mb__pending_live(const mb_group *group) {
  size_t live = 0;
  const mb_part *part;
  for (size_t i = 0; (part = mb__consumer_part_at(group, i)); i++) live += part->queue.running;
  return live;
}

bool mb__pend_is_detached(const mb_pend *pend) {
  return pend->kept && (!pend->parked || !pend->parked->queue);
}

mb_pend *mb__pend_of(const mb_group *group, mb_token token) {
  size_t slot = token % SLOTS_MAX;
  mb_pend *pend = token && slot < group->pending.most ? group->pending.slots[slot] : NULL;
  return pend && pend->token == token && !pend->completed ? pend : NULL;
}

/* ---- tokens ---- */

static mb_pend *pend_new(mb_group *group) {
  mb_pending *pending = &group->pending;
  size_t slot = 0;
  while (slot < pending->most && pending->slots[slot]) slot++;
  if (slot == pending->most) return NULL;
  mb_pend *pend = pending->spare;
  if (pend)
    pending->spare = pend->next;
  else if (!(pend = calloc(1, sizeof *pend)))
    return NULL;
  pend->next = NULL;
  pend->slot = slot;
  pending->slots[slot] = pend;
  if (++pending->count == pending->most) pending->full_us = mb__mono_us();
  return pend;
}

bool mb__pend_token(mb_group *group, mb_msg *msg, uint32_t handler, mb_token *token) {
  mb_pend *pend = msg->pend;
  if (!pend && !(pend = msg->pend = pend_new(group))) return false;
  pend->token = ++group->pending.last * SLOTS_MAX + pend->slot;
  pend->handler = handler;
  pend->completed = false;
  *token = pend->token;
  return true;
}

void mb__pend_complete(mb_group *group, mb_pend *pend, mb_outcome outcome) {
  mb_pending *pending = &group->pending;
  if (mb__pend_is_detached(pend)) {
    mb__log_at(
        &group->ctx->log, MB_LOG_DEBUG, pend->partition, pend->offset,
        "%s[%d] offset %lld: its handler is done, but the partition was given away meanwhile",
        group->ctx->topic, (int)pend->partition, (long long)pend->offset);
    mb__pend_free(group, pend);
    return;
  }
  pend->completed = true;
  pend->outcome = outcome;
  if (!pend->kept) return; /* the handler has not even returned */
  if (!pending->first) mb__context_wake(group->ctx);
  if (pending->tail)
    pending->tail->next = pend;
  else
    pending->first = pend;
  pending->tail = pend;
}

/* ---- what is kept ---- */

static void result_move(mb_result *to, mb_result *from) {
  mb_ids failed = to->failed, final = to->final;
  size_t used = from->failed_count + from->rejected_count ? sizeof *to : offsetof(mb_result, fail);
  memcpy(to, from, used);
  from->failed = failed;
  from->final = final;
}

mb_pend *mb__pend_keep(mb_msg *msg, const mb_iteration *iteration, mb_result *result) {
  mb_pend *pend = msg->pend;
  pend->kept = true;
  pend->msg = *msg;
  pend->tenant = *msg->tenant;
  pend->msg.tenant = &pend->tenant;
  pend->iteration = *iteration;
  pend->iteration.tenant = &pend->tenant;
  pend->partition = msg->record->partition;
  pend->offset = msg->record->offset;
  result_move(&pend->result, result);
  return pend;
}

/* Events behind a detached one that has ended may go on, and others where there is room again. */
static void wake_next(mb_group *group, const mb_pend *pend, bool detached, bool full) {
  if (!group->consumer) return;
  mb_part *part = detached ? mb__consumer_part(group, pend->partition) : NULL;
  if (part) {
    mb_bytes key = {pend->key, pend->key_len};
    if (pend->msg.record) key = mb__part_key(group, pend->msg.record);
    mb__retry_wake(&part->queue, key);
  }
  for (size_t i = 0; full && (part = mb__consumer_part_at(group, i)); i++) part->queue.due_us = 0;
}

static void forget_completion(mb_group *group, mb_pend *pend) {
  mb_pend *before = NULL;
  for (mb_pend *at = group->pending.first; at; before = at, at = at->next) {
    if (at != pend) continue;
    if (before)
      before->next = pend->next;
    else
      group->pending.first = pend->next;
    if (group->pending.tail == pend) group->pending.tail = before;
    return;
  }
}

void mb__pend_free(mb_group *group, mb_pend *pend) {
  if (!pend) return;
  mb_pending *pending = &group->pending;
  bool detached = mb__pend_is_detached(pend), full = mb__pending_full(group);
  if (pend->completed) forget_completion(group, pend);
  pending->slots[pend->slot] = NULL;
  pending->count--;
  pending->detached -= detached && pend->counted;
  if (pend->kept) mb__dispatch_release(&group->dispatch, &pend->iteration);
  wake_next(group, pend, detached, full);
  if (pend->kept) mb__msg_done(&pend->msg);
  if (detached) mb__parked_free(pend->parked);
  free(pend->key);
  free(pend->fail);
  mb_ids failed = pend->result.failed, final = pend->result.final;
  memset(pend, 0, offsetof(mb_pend, result));
  memset((char *)pend + offsetof(mb_pend, again), 0, sizeof *pend - offsetof(mb_pend, again));
  pend->result.failed = failed;
  pend->result.final = final;
  pend->next = pending->spare;
  pending->spare = pend;
}

mb_pend *mb__pending_next(mb_group *group) {
  mb_pend *pend = group->pending.first;
  if (!pend) return NULL;
  group->pending.first = pend->next;
  if (!pend->next) group->pending.tail = NULL;
  pend->next = NULL;
  return pend;
}

/* ---- detached events ---- */

/* Each that is not known as one yet. One whose handler is done already is of no more interest. */
void mb__pending_detach(mb_group *group) {
  for (size_t i = 0; group->pending.count && i < group->pending.most; i++) {
    mb_pend *pend = group->pending.slots[i];
    if (!pend || pend->counted || !mb__pend_is_detached(pend)) continue;
    pend->counted = true;
    group->pending.detached++;
    if (pend->completed) mb__pend_free(group, pend);
  }
}

void mb__pending_undo(mb_group *group) {
  for (size_t i = 0; group->pending.count && i < group->pending.most; i++)
    if (group->pending.slots[i]) group->pending.slots[i]->undone = true;
}

void mb__pending_drop_records(mb_group *group) {
  for (size_t i = 0; group->pending.count && i < group->pending.most; i++) {
    mb_pend *pend = group->pending.slots[i];
    if (!pend || !pend->msg.record || !mb__pend_is_detached(pend)) continue;
    mb_bytes key = mb__part_key(group, pend->msg.record);
    pend->key = malloc(key.len + 1);
    if (pend->key && key.len) memcpy(pend->key, key.data, key.len);
    pend->key_len = key.len;
    mb__msg_done(&pend->msg);
    pend->msg.record = NULL;
    mb__parked_free(pend->parked);
    pend->parked = NULL;
  }
}

mb_pend *mb__pending_before(mb_group *group, int32_t partition, mb_bytes key) {
  if (!group->pending.detached) return NULL;
  for (size_t i = 0; i < group->pending.most; i++) {
    mb_pend *pend = group->pending.slots[i];
    if (!pend || pend->partition != partition || !mb__pend_is_detached(pend)) continue;
    mb_bytes own = {pend->key, pend->key_len};
    if (pend->msg.record) own = mb__part_key(group, pend->msg.record);
    if (!own.data || (own.len == key.len && memcmp(own.data, key.data, key.len) == 0)) return pend;
  }
  return NULL;
}

void mb__pend_take_back(mb_group *group, mb_pend *pend, mb_parked *parked) {
  mb_parked *old = pend->parked;
  parked->attempts = old->attempts;
  parked->exhausted = old->exhausted;
  parked->rejected = old->rejected;
  parked->first_failed_us = old->first_failed_us;
  parked->fail = old->fail;
  parked->failed = old->failed;
  parked->final = old->final;
  old->fail = NULL;
  old->failed = old->final = (mb_ids){0};
  mb__msg_done(&pend->msg);
  pend->msg.record = parked->record;
  pend->msg.event_type = pend->iteration.type = mb__msg_type(parked->record);
  pend->parked = parked;
  pend->counted = false;
  group->pending.detached--;
  mb__parked_free(old);
}

/* ---- the end of consumption ---- */

bool mb__pending_drain(mb_group *group, int64_t now_us) {
  mb_pending *pending = &group->pending;
  if (!mb__pending_live(group)) return false;
  int64_t most_us = (int64_t)(mb__conf_num(group->ctx->conf, MB_OPT_shutdown_timeout) * 1e6);
  if (!pending->drain_by_us) {
    pending->drain_by_us = now_us + most_us;
    mb__log(&group->ctx->log, MB_LOG_INFO, "%zu events are running; waiting for them up to %.3g s",
            mb__pending_live(group), (double)most_us / 1e6);
  }
  return now_us < pending->drain_by_us;
}
