/* handlers/dispatch.c: finds the handlers of an event, runs each, gathers one result.
 * Must not know Kafka, retries or Lua.
 * Called by deliver/attempt.c for every event with a subscription, by bus/bus.c for
 * subscriptions. */
#include "handlers/dispatch.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* Out of memory an addition leaves hh.tbl NULL; by default uthash would end the process. */
#define HASH_NONFATAL_OOM 1
#include <uthash.h>
#include <utlist.h>

#include "base/error.h"

struct mb_subscription {
  uint32_t id;
  bool removed;
  int pending;                  /* handlers that go on after they returned */
  int max_retries;              /* -1 = the bus's */
  char *name;                   /* owned; NULL = none */
  bool filtered;                /* takes only events of tenants */
  bool tenantless;              /* ... and those that are nobody's */
  char (*tenants)[MB_UUID_LEN]; /* sorted; owned */
  size_t tenant_count;
  mb_handler_fn fn;
  void *opaque;
  void (*free_opaque)(void *);
  mb_subscription *next;
};

struct mb_route {
  char *type;
  size_t type_len;
  mb_subscription *subscriptions;
  UT_hash_handle hh;
};

static void lose(mb_ids *ids) {
  ids->count = 0;
  ids->lost = true;
}

void mb__ids_add(mb_ids *ids, uint32_t id, int limit) {
  if (ids->lost) return;
  if (ids->count == ids->cap) {
    size_t cap = ids->cap ? ids->cap * 2 : 8;
    uint32_t *grown = realloc(ids->id, cap * sizeof *grown);
    if (grown) ids->id = grown;
    int *limits = realloc(ids->limit, cap * sizeof *limits);
    if (limits) ids->limit = limits;
    if (!grown || !limits) {
      lose(ids);
      return;
    }
    ids->cap = cap;
  }
  ids->id[ids->count] = id;
  ids->limit[ids->count++] = limit;
}

void mb__ids_join(mb_ids *ids, const mb_ids *more) {
  for (size_t i = 0; i < more->count; i++) mb__ids_add(ids, more->id[i], more->limit[i]);
  if (more->lost) lose(ids);
}

bool mb__ids_has(const mb_ids *ids, uint32_t id) {
  for (size_t i = 0; i < ids->count; i++)
    if (ids->id[i] == id) return true;
  return false;
}

void mb__ids_free(mb_ids *ids) {
  free(ids->id);
  free(ids->limit);
  *ids = (mb_ids){0};
}

void mb__fail_clear(mb_fail *fail) {
  fail->type[0] = fail->message[0] = fail->handler[0] = fail->trace[0] = 0;
  fail->retry_after_us = -1;
  fail->reason = NULL;
}

void mb_fail_retry_after(mb_fail *fail, int64_t ms) {
  const int64_t most = INT64_C(1000) * 86400 * 365 * 10; /* so that times do not overflow */
  if (fail) fail->retry_after_us = ms < 0 ? -1 : (ms < most ? ms : most) * 1000;
}

void mb_fail_set(mb_fail *fail, const char *type, const char *fmt, ...) {
  if (!fail) return;
  mb__text(fail->type, sizeof fail->type, "%s", type ? type : "Error");
  va_list args;
  va_start(args, fmt);
  int len = vsnprintf(fail->message, sizeof fail->message, fmt, args);
  va_end(args);
  if (len >= (int)sizeof fail->message) mb__text_cut(fail->message, sizeof fail->message);
}

void mb__fail_put(mb_fail *fail, mb_bytes type, mb_bytes message) {
  mb__text_keep(fail->type, sizeof fail->type, type);
  mb__text_keep(fail->message, sizeof fail->message, message);
}

static void subscription_free(mb_subscription *sub) {
  free(sub->name);
  free(sub->tenants);
  if (sub->free_opaque) sub->free_opaque(sub->opaque);
  free(sub);
}

static void route_free(mb_route *route) {
  mb_subscription *sub, *tmp;
  if (!route) return;
  LL_FOREACH_SAFE(route->subscriptions, sub, tmp) subscription_free(sub);
  free(route->type);
  free(route);
}

void mb__dispatch_free(mb_dispatch *dispatch) {
  mb_route *route, *tmp;
  HASH_ITER(hh, dispatch->routes, route, tmp) {
    HASH_DEL(dispatch->routes, route);
    route_free(route);
  }
  route_free(dispatch->all);
  *dispatch = (mb_dispatch){0};
}

static mb_route *find(mb_dispatch *dispatch, mb_bytes type) {
  mb_route *route = dispatch->last;
  if (route && route->type_len == type.len && memcmp(route->type, type.data, type.len) == 0)
    return route;
  HASH_FIND(hh, dispatch->routes, type.data, type.len, route);
  if (route) dispatch->last = route;
  return route;
}

static mb_route *route_for(mb_dispatch *dispatch, const char *event_type) {
  if (!event_type) {
    if (!dispatch->all) dispatch->all = calloc(1, sizeof *dispatch->all);
    return dispatch->all;
  }
  mb_route *route = find(dispatch, mb_str(event_type));
  if (route) return route;
  route = calloc(1, sizeof *route);
  if (!route || !(route->type = strdup(event_type))) {
    free(route);
    return NULL;
  }
  route->type_len = strlen(event_type);
  HASH_ADD_KEYPTR(hh, dispatch->routes, route->type, route->type_len, route);
  if (route->hh.tbl) return route;
  route_free(route);
  return NULL;
}

static int compare_tenants(const void *a, const void *b) {
  return memcmp(a, b, MB_UUID_LEN);
}

static mb_err set_options(mb_subscription *sub, const mb_subscription_options *options) {
  if (!options) return MB_OK;
  sub->max_retries = options->max_retries;
  if (options->name && !(sub->name = strdup(options->name))) return MB_ENOMEM;
  if (!options->tenants) return MB_OK;
  if (!options->tenant_count) return MB_EINVAL;
  sub->filtered = true;
  sub->tenants = malloc(options->tenant_count * sizeof *sub->tenants);
  if (!sub->tenants) return MB_ENOMEM;
  for (size_t i = 0; i < options->tenant_count; i++) {
    mb_bytes text = mb_str(options->tenants[i]);
    if (!text.data) return MB_EINVAL;
    if (!text.len)
      sub->tenantless = true;
    else if (!mb__uuid_parse(text, sub->tenants[sub->tenant_count++], NULL))
      return MB_EINVAL;
  }
  qsort(sub->tenants, sub->tenant_count, sizeof *sub->tenants, compare_tenants);
  return MB_OK;
}

mb_err mb__dispatch_add(mb_dispatch *dispatch, const char *event_type, mb_handler_fn fn,
                        void *opaque, void (*free_opaque)(void *),
                        const mb_subscription_options *options, uint32_t *id) {
  mb_subscription *sub = calloc(1, sizeof *sub);
  if (!sub) {
    if (free_opaque) free_opaque(opaque);
    return MB_ENOMEM;
  }
  *sub =
      (mb_subscription){.max_retries = -1, .fn = fn, .opaque = opaque, .free_opaque = free_opaque};
  mb_err err = set_options(sub, options);
  mb_route *route = err ? NULL : route_for(dispatch, event_type);
  if (!route) {
    subscription_free(sub);
    return err ? err : MB_ENOMEM;
  }
  sub->id = ++dispatch->last_id;
  dispatch->filters += sub->filtered;
  LL_APPEND(route->subscriptions, sub);
  if (id) *id = sub->id;
  return MB_OK;
}

/* Removed subscriptions are freed only when no handler runs: the one removed may be running.
 * Whether some must stay because theirs is pending. */
static bool route_sweep(mb_route *route) {
  mb_subscription *sub, *tmp;
  bool stay = false;
  if (!route) return false;
  LL_FOREACH_SAFE(route->subscriptions, sub, tmp) {
    if (!sub->removed) continue;
    if (sub->pending) {
      stay = true;
      continue;
    }
    LL_DELETE(route->subscriptions, sub);
    subscription_free(sub);
  }
  return stay;
}

static void sweep(mb_dispatch *dispatch) {
  mb_route *route, *tmp;
  if (dispatch->running || !dispatch->sweep) return;
  dispatch->last = NULL;
  dispatch->sweep = route_sweep(dispatch->all);
  HASH_ITER(hh, dispatch->routes, route, tmp) {
    dispatch->sweep |= route_sweep(route);
    if (route->subscriptions) continue;
    HASH_DEL(dispatch->routes, route);
    route_free(route);
  }
}

static mb_subscription *route_find(mb_route *route, uint32_t id) {
  mb_subscription *sub;
  if (!route) return NULL;
  LL_FOREACH(route->subscriptions, sub) if (sub->id == id && !sub->removed) return sub;
  return NULL;
}

mb_err mb__dispatch_remove(mb_dispatch *dispatch, uint32_t id) {
  mb_subscription *sub = route_find(dispatch->all, id);
  mb_route *route, *tmp;
  if (!sub) {
    HASH_ITER(hh, dispatch->routes, route, tmp) {
      sub = route_find(route, id);
      if (sub) break;
    }
  }
  if (!sub) return MB_ENOENT;
  sub->removed = true;
  dispatch->filters -= sub->filtered;
  dispatch->sweep = true;
  sweep(dispatch);
  return MB_OK;
}

static bool has_any(const mb_route *route) {
  const mb_subscription *sub;
  if (!route) return false;
  LL_FOREACH(route->subscriptions, sub) if (!sub->removed) return true;
  return false;
}

bool mb__dispatch_wants(mb_dispatch *dispatch, mb_bytes event_type) {
  return has_any(find(dispatch, event_type)) || has_any(dispatch->all);
}

/* A handler with a filter receives an event of unknown tenant, so that the event is not lost. */
static bool takes(const mb_subscription *sub, const mb_tenant *tenant) {
  if (!sub->filtered) return true;
  if (tenant->kind == MB_TENANT_NONE) return sub->tenantless;
  if (tenant->kind != MB_TENANT_ID) return true;
  return bsearch(tenant->id, sub->tenants, sub->tenant_count, sizeof *sub->tenants,
                 compare_tenants) != NULL;
}

static bool route_takes(const mb_route *route, const mb_tenant *tenant) {
  const mb_subscription *sub;
  if (!route) return false;
  LL_FOREACH(route->subscriptions, sub) if (!sub->removed && takes(sub, tenant)) return true;
  return false;
}

bool mb__dispatch_takes(mb_dispatch *dispatch, mb_bytes event_type, const mb_tenant *tenant) {
  return route_takes(find(dispatch, event_type), tenant) || route_takes(dispatch->all, tenant);
}

static mb_outcome call(const mb_subscription *sub, const mb_msg *msg, const mb_tenant *tenant,
                       mb_fail *fail) {
  if (!sub->filtered || tenant->kind == MB_TENANT_NONE || tenant->kind == MB_TENANT_ID)
    return sub->fn(msg, fail, sub->opaque);
  mb_fail_set(fail, "DeserializationError",
              "no tenant_id can be read from the value: expected a JSON object in which it is a "
              "UUID, null or absent");
  return MB_UNDECODABLE;
}

/* Several failures become one: the first message is kept, and the count added. */
static void merge_fail(mb_result *result, const mb_fail *fail, int failures) {
  if (failures == 1) {
    result->fail = *fail;
    return;
  }
  if (failures == 2) snprintf(result->fail.type, sizeof result->fail.type, "HandlerDispatchError");
  size_t used = strlen(result->fail.message);
  mb__text(result->fail.message + used, sizeof result->fail.message - used, "; %s: %s", fail->type,
           fail->message);
}

/* Count the outcome of one more handler. */
static void note(const mb_subscription *sub, mb_outcome outcome, mb_fail *fail, mb_result *result) {
  result->run_count++;
  if (outcome == MB_HANDLED) return;
  if (sub->name) mb__text(fail->handler, sizeof fail->handler, "%s", sub->name);
  if (!fail->type[0]) mb_fail_set(fail, "Error", "the handler gave no reason");
  if (!result->reason) result->reason = fail->reason;
  if (outcome == MB_FAILED && ++result->failed_count) {
    mb__ids_add(&result->failed, sub->id, sub->max_retries);
    if (fail->retry_after_us > result->retry_after_us)
      result->retry_after_us = fail->retry_after_us;
  }
  if (outcome != MB_FAILED) mb__ids_add(&result->final, sub->id, sub->max_retries);
  if (outcome == MB_REJECTED || (outcome == MB_UNDECODABLE && !result->undecodable))
    result->rejected_count++;
  /* Several that cannot read it all say the same. */
  if (outcome == MB_UNDECODABLE && result->undecodable) return;
  if (outcome == MB_UNDECODABLE) result->undecodable = true;
  merge_fail(result, fail, result->failed_count + result->rejected_count);
}

/* Those of a route that did not have their turn. true: one is pending. */
static bool run_route(mb_route *route, const mb_msg *msg, const mb_ids *only,
                      mb_iteration *iteration, _Atomic uint32_t *noted, mb_result *result) {
  mb_subscription *sub;
  mb_fail fail;
  uint32_t after = iteration->at;
  if (!route) return false;
  LL_FOREACH(route->subscriptions, sub) {
    if (sub->removed || sub->id > iteration->last || sub->id <= after) continue;
    if ((only && !mb__ids_has(only, sub->id)) || !takes(sub, iteration->tenant)) continue;
    mb__fail_clear(&fail);
    iteration->at = sub->id;
    if (noted) atomic_store_explicit(noted, sub->id, memory_order_relaxed);
    mb_outcome outcome = call(sub, msg, iteration->tenant, &fail);
    if (outcome == MB_PENDING) {
      iteration->kept = sub;
      sub->pending++;
      return true;
    }
    note(sub, outcome, &fail, result);
  }
  return false;
}

static bool run_rest(mb_dispatch *dispatch, const mb_msg *msg, const mb_ids *only,
                     mb_iteration *iteration, mb_result *result) {
  bool pending = false;
  dispatch->running++;
  if (!iteration->all) {
    pending =
        run_route(find(dispatch, iteration->type), msg, only, iteration, dispatch->noted, result);
    if (!pending) iteration->at = 0;
    iteration->all = !pending;
  }
  if (!pending) pending = run_route(dispatch->all, msg, only, iteration, dispatch->noted, result);
  dispatch->running--;
  if (dispatch->sweep) sweep(dispatch);
  return pending;
}

bool mb__dispatch_run(mb_dispatch *dispatch, const mb_msg *msg, mb_bytes event_type,
                      const mb_tenant *tenant, const mb_ids *only, mb_iteration *iteration,
                      mb_result *result) {
  result->run_count = result->failed_count = result->rejected_count = 0;
  result->exhausted_count = 0;
  result->weighed = false;
  result->retry_after_us = -1;
  result->undecodable = result->unknown = result->died = false;
  result->first_failed_us = 0;
  result->reason = NULL;
  mb__ids_clear(&result->failed);
  mb__ids_clear(&result->final);
  *iteration = (mb_iteration){.type = event_type, .tenant = tenant, .last = dispatch->last_id};
  return run_rest(dispatch, msg, only, iteration, result);
}

bool mb__dispatch_go_on(mb_dispatch *dispatch, const mb_msg *msg, const mb_ids *only,
                        mb_iteration *iteration, mb_outcome outcome, mb_fail *fail,
                        mb_result *result) {
  note(iteration->kept, outcome, fail, result);
  iteration->kept->pending--;
  iteration->kept = NULL;
  return run_rest(dispatch, msg, only, iteration, result);
}

static const mb_subscription *find_id(const mb_route *route, uint32_t id) {
  const mb_subscription *sub = NULL;
  if (route) LL_SEARCH_SCALAR(route->subscriptions, sub, id, id);
  return sub;
}

const char *mb__dispatch_name(const mb_dispatch *dispatch, uint32_t id) {
  const mb_subscription *sub = find_id(dispatch->all, id);
  for (const mb_route *route = dispatch->routes; !sub && route; route = route->hh.next)
    sub = find_id(route, id);
  return sub ? sub->name : NULL;
}

void mb__dispatch_release(mb_dispatch *dispatch, mb_iteration *iteration) {
  if (!iteration->kept) return;
  iteration->kept->pending--;
  iteration->kept = NULL;
  if (dispatch->sweep) sweep(dispatch);
}
