/* lua/fiber.c: handlers that wait side by side: each call in a coroutine, pending while it waits.
 * Must not decide outcomes, nor know what a handler waits for: concurrent.lua does.
 * Called by lua/handler.c for a first stretch, and by concurrent.lua for those after it. */
#include "lua/internal.h"

/* Registry: by the thread's address its context; by the bus's address the bus, weakly, and while it
 * has fibers; by the thread's address what to do should it fail. mark is what waiting yields. */
static char fibers_key, buses_key, held_key, on_fail_key, mark;

static _Thread_local mbl_fiber *running __attribute__((tls_model("initial-exec")));

static void new_table(lua_State *L, char *key, const char *mode) {
  lua_pushlightuserdata(L, key);
  lua_newtable(L);
  if (mode) {
    lua_createtable(L, 0, 1);
    lua_pushstring(L, mode);
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
  }
  lua_rawset(L, LUA_REGISTRYINDEX);
}

void mb__lua_fibers_open(lua_State *L) {
  new_table(L, &fibers_key, NULL);
  new_table(L, &buses_key, "v");
  new_table(L, &held_key, NULL);
  new_table(L, &on_fail_key, NULL);
}

/* Pops a value, and sets it as the table's for the address. */
static void put(lua_State *L, char *table, const void *address) {
  lua_pushlightuserdata(L, table);
  lua_rawget(L, LUA_REGISTRYINDEX);
  lua_pushlightuserdata(L, (void *)(uintptr_t)address);
  lua_pushvalue(L, -3);
  lua_rawset(L, -3);
  lua_pop(L, 2);
}

static void get(lua_State *L, char *table, const void *address) {
  lua_pushlightuserdata(L, table);
  lua_rawget(L, LUA_REGISTRYINDEX);
  lua_pushlightuserdata(L, (void *)(uintptr_t)address);
  lua_rawget(L, -2);
  lua_remove(L, -2);
}

void mb__lua_fibers_know(lua_State *L, int index) {
  lua_pushvalue(L, index);
  put(L, &buses_key, lua_touserdata(L, index));
}

mbl_fiber *mb__lua_fiber_new(lua_State *L, mbl_handler *handler) {
  mbl_bus *lb = handler->lb;
  mbl_fiber *fiber = lua_newuserdata(L, sizeof *fiber);
  *fiber = (mbl_fiber){.handler = handler, .context = {.tracing = lb->bus->deliver.tracing}};
  luaL_getmetatable(L, CTX_META);
  lua_setmetatable(L, -2);
  fiber->co = lua_newthread(L);
  return fiber;
}

/* The references by which it is found again, and that keep its bus alive. RAISES (memory) */
static int protected_keep(lua_State *L) {
  mbl_fiber *fiber = lua_touserdata(L, 1);
  mbl_bus *lb = fiber->handler->lb;
  get(L, &buses_key, lb);
  put(L, &held_key, lb);
  lua_settop(L, 1);
  put(L, &fibers_key, fiber->co);
  return 0;
}

static bool keep(lua_State *L, int index) {
  lua_pushcfunction(L, protected_keep);
  lua_pushvalue(L, index);
  bool kept = lua_pcall(L, 1, 0, 0) == 0;
  if (!kept) lua_pop(L, 1);
  return kept;
}

/* It is done: nothing of the state knows it any more. Its handler may be gone with its completion,
 * and its bus goes with the next collection. */
static void forget(lua_State *L, mbl_fiber *fiber, mbl_bus *lb) {
  if (fiber->has_on_fail) {
    lua_pushnil(L);
    put(L, &on_fail_key, fiber->co);
  }
  if (!fiber->token) return;
  lua_pushnil(L);
  put(L, &fibers_key, fiber->co);
  if (--lb->fibers) return;
  lua_pushnil(L);
  put(L, &held_key, lb);
}

static void call_on_fail(lua_State *L, const mbl_fiber *fiber) {
  mbl_run unlimited;
  if (!fiber->has_on_fail) return;
  mb__guard_enter(fiber->handler->lb, &unlimited);
  get(L, &on_fail_key, fiber->co);
  if (lua_pcall(L, 0, 0, 0)) lua_pop(L, 1);
  mb__guard_leave(&unlimited);
}

/* Where it failed: the stack of a coroutine stays after an error. */
static void read_trace(lua_State *L, lua_State *co, mb_fail *fail) {
  if (!lua_isstring(co, -1)) return;
  luaL_traceback(L, co, NULL, 0);
  mb__lua_keep_text(L, -1, fail->trace, sizeof fail->trace);
  lua_pop(L, 1);
}

static const char yielded[] =
    "attempt to yield from a handler: only moonbus.sleep and moonbus.await wait there";

/* Run it to its next wait, MB_PENDING, or its end. context: where that lies on L. */
static mb_outcome go(lua_State *L, mbl_fiber *fiber, int context, int count, mbl_run *guarded,
                     mb_fail *fail) {
  mbl_fiber *outer = running;
  lua_State *co = fiber->co;
  mb_outcome outcome = MB_HANDLED;
  running = fiber;
  int status = lua_resume(co, count);
  running = outer;
  mb__guard_lift(guarded);
  bool waits = status == LUA_YIELD && lua_touserdata(co, -1) == &mark;
  if (waits && guarded->excess == MBL_WITHIN) {
    lua_settop(co, 0);
    return MB_PENDING;
  }
  if (status && status != LUA_YIELD) {
    if (!fail->trace[0]) read_trace(L, co, fail);
    lua_xmove(co, L, 1);
  } else if (status) {
    lua_pushstring(L, yielded);
  } else {
    lua_settop(co, 2);
    outcome = mb__lua_read_results(co, fail);
  }
  outcome = mb__lua_outcome(L, fiber->handler, guarded, status != 0, outcome, fail, context);
  if (outcome != MB_HANDLED) call_on_fail(L, fiber);
  return outcome;
}

mb_outcome mb__lua_fiber_start(lua_State *L, int index, const mb_msg *msg, int count,
                               mbl_run *guarded, mb_fail *fail) {
  mbl_fiber *fiber = lua_touserdata(L, index);
  mbl_bus *lb = fiber->handler->lb;
  char why[128] = "out of memory";
  fiber->context.msg = msg;
  mb_outcome outcome = go(L, fiber, index, count, guarded, fail);
  fiber->context.msg = NULL;
  if (outcome == MB_PENDING) {
    if (keep(L, index) && !mb_bus_pend(lb->bus, msg, &fiber->token, why, sizeof why)) {
      lb->fibers++;
      return MB_PENDING;
    }
    mb_fail_set(fail, "LuaError", "%s", why);
    call_on_fail(L, fiber);
    lua_pushnil(L);
    put(L, &fibers_key, fiber->co);
    outcome = MB_FAILED;
  }
  forget(L, fiber, lb);
  return outcome;
}

/* ---- for concurrent.lua ---- */

/* core.may_wait(): whether the caller is a handler in a coroutine, which may be left here */
int mb__l_may_wait(lua_State *L) {
  lua_pushboolean(L, running && running->co == L && lua_isyieldable(L));
  return 1;
}

/* core.yield() -> what core.resume is given; only where core.may_wait() */
int mb__l_yield(lua_State *L) {
  lua_pushlightuserdata(L, &mark);
  return lua_yield(L, 1);
}

/* core.on_fail(function): it is called should the handler that runs fail; false: it runs in no
 * coroutine */
int mb__l_on_fail(lua_State *L) {
  bool here = running && running->co == L;
  luaL_checktype(L, 1, LUA_TFUNCTION);
  if (here) {
    lua_settop(L, 1);
    put(L, &on_fail_key, L);
    running->has_on_fail = true;
  }
  lua_pushboolean(L, here);
  return 1;
}

/* The run that is over is completed. */
static void complete(mbl_fiber *fiber, mb_outcome outcome, const mb_fail *fail) {
  mb_bus *bus = fiber->handler->lb->bus;
  mb_fail *kept = outcome == MB_HANDLED ? NULL : mb_pending_fail(bus, fiber->token);
  if (kept) *kept = *fail;
  mb_bus_complete(bus, fiber->token, outcome);
}

/* core.resume(thread, ...) -> false: its bus is busy with a handler that waits without leaving it;
 * or nothing: it went on, or there is no such thread waiting */
int mb__l_resume(lua_State *L) {
  lua_State *co = lua_tothread(L, 1);
  luaL_argcheck(L, co, 1, "expected a thread");
  luaL_checkstack(L, 16, "a handler goes on");
  int count = lua_gettop(L) - 1;
  get(L, &fibers_key, co);
  mbl_fiber *fiber = lua_touserdata(L, -1);
  lua_insert(L, 2); /* thread, context, values */
  if (!fiber) return 0;
  mbl_bus *lb = fiber->handler->lb;
  mb_bus *bus = lb->bus;
  if (bus->deliver.in_handler || bus->ctx.in_callback) {
    lua_pushboolean(L, 0);
    return 1;
  }
  const mb_pend *run = mb__pend_of(&bus->group, fiber->token);
  mb_msg gone = {.record = NULL};
  const mb_msg *msg = run ? &run->msg : &gone;
  mb_slice slice;
  mbl_run guarded;
  mb_fail fail;
  mb__fail_clear(&fail);
  fiber->context.msg = msg->record ? msg : NULL;
  fiber->context.abandoned = !run || mb__pend_is_detached(run);
  lua_xmove(L, co, count);
  lb->L = L;
  mb__attempt_enter(&bus->deliver, msg, &slice);
  mb__guard_enter(lb, &guarded);
  mb__guard_limit(lb, &guarded, &fail);
  mb_outcome outcome = go(L, fiber, 2, count, &guarded, &fail);
  mb__guard_leave(&guarded);
  mb__attempt_leave(&bus->deliver, msg, &slice, guarded.excess != MBL_WITHIN);
  fiber->context.msg = NULL;
  if (outcome == MB_PENDING) return 0;
  complete(fiber, outcome, &fail);
  forget(L, fiber, lb);
  return 0;
}
