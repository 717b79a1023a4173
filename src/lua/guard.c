/* lua/guard.c: limits on the time (guard = "strict") and the memory (lua_memory_max_bytes) that a
 * handler takes. Must not decide what becomes of an event: it ends the run, and says why.
 * Called by lua/bus.c when a bus connects and disconnects, and around all that the engine calls.
 *
 * A run is ended by refusing it memory. "not enough memory" is the one error that LuaJIT throws
 * without calling an error handler first; an ordinary one runs the handler of an xpcall, with hooks
 * off, where it may loop for ever. What catches the error is thrown at again at its next
 * instruction, as the count hook stays set with a count of one, until the engine's own protected
 * call has control.
 * LuaJIT's compiler is off as long as a bus with limits is connected: compiled code looks at no
 * hook, and crashes when it is refused memory (2.1.0-beta3 of 2022 does). */
#include <luajit.h>
#include <stdlib.h>

#include "lua/internal.h"

#define COUNT 100                 /* instructions between two looks at the clock */
#define DEEP  (LUAI_MAXSTACK / 2) /* slots of a stack; from there on every instruction counts */

typedef struct saved_hook {
  lua_Hook fn;
  int mask, count;
} saved_hook;

/* One per state, once a bus with limits has connected; it lives until the state is closed. */
struct mbl_guard {
  int holders;    /* the state, and the buses that are connected */
  int open_count; /* those buses */
  mbl_run *top;
  /* the allocator */
  lua_Alloc alloc; /* the state's own; NULL = ours is not in place */
  void *alloc_ud;
  size_t used;  /* bytes the state has */
  size_t floor; /* what it had after the last full collection of ours */
  size_t most;  /* of the run that is on top; 0 = any */
  bool refuse;  /* the next allocation */
  bool seen;    /* an allocation came by */
  /* the hook, the compiler */
  lua_State *L;    /* a thread of the state's that lives as long: for what concerns all of it */
  saved_hook user; /* what was set before ours */
  bool deep;       /* the hook comes at every instruction */
  bool jit_on;     /* what it will be again */
};

static char guard_key, thread_key, excess_key; /* registry */

static void on_hook(lua_State *L, lua_Debug *ar);

/* ---- memory ---- */

static void *guarded_alloc(void *ud, void *block, size_t old_size, size_t new_size) {
  mbl_guard *guard = ud;
  if (new_size > old_size) {
    guard->seen = true;
    if (guard->refuse) {
      guard->refuse = false;
      return NULL;
    }
    if (guard->most && guard->used + (new_size - old_size) > guard->most) {
      mbl_run *run = guard->top;
      if (run->excess == MBL_WITHIN) run->excess = MBL_TOO_MUCH;
      if (run->deadline_us) lua_sethook(guard->L, on_hook, LUA_MASKCOUNT, 1);
      return NULL;
    }
  }
  void *got = guard->alloc(guard->alloc_ud, block, old_size, new_size);
  if (got || !new_size) guard->used += new_size - old_size;
  return got;
}

static bool wraps(lua_State *L, const mbl_guard *guard) {
  void *ud = NULL;
  return lua_getallocf(L, &ud) == guarded_alloc && ud == guard;
}

/* false: this LuaJIT does not ask it for memory. RAISES (memory) */
static bool wrap(lua_State *L, mbl_guard *guard) {
  if (guard->alloc) return true;
  guard->alloc = lua_getallocf(L, &guard->alloc_ud);
  guard->used = (size_t)lua_gc(L, LUA_GCCOUNT, 0) * 1024 + (size_t)lua_gc(L, LUA_GCCOUNTB, 0);
  guard->floor = 0;
  guard->seen = false;
  lua_setallocf(L, guarded_alloc, guard);
  lua_newuserdata(L, 1);
  lua_pop(L, 1);
  return guard->seen && wraps(L, guard);
}

/* Under an allocator that was put over it, it must stay. */
static void unwrap(lua_State *L, mbl_guard *guard) {
  if (!guard->alloc || !wraps(L, guard)) return;
  lua_setallocf(L, guard->alloc, guard->alloc_ud);
  guard->alloc = NULL;
}

static int collect(lua_State *L) {
  lua_gc(L, LUA_GCCOLLECT, 0);
  return 0;
}

/* A full collection; finalizers may raise. */
static void clean_up(lua_State *L, mbl_guard *guard) {
  int top = lua_gettop(L);
  lua_pushcfunction(L, collect);
  lua_pcall(L, 0, 0, 0);
  lua_settop(L, top);
  guard->floor = guard->used;
}

/* ---- time ---- */

/* What is set in the registry, whatever allocator is in place. */
static mbl_guard *registered(lua_State *L) {
  lua_pushlightuserdata(L, &guard_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
  mbl_guard **held = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return held ? *held : NULL;
}

static mbl_guard *guard_of(lua_State *L) {
  void *ud = NULL;
  return lua_getallocf(L, &ud) == guarded_alloc ? ud : NULL;
}

static int64_t coarse_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static int fail(lua_State *L) {
  return lua_error(L);
}

/* LuaJIT's load leaves hooks off when one of them throws in its reader. A coroutine that fails puts
 * them on, from inside a hook too. */
static void hooks_on(lua_State *L) {
  lua_State *thread = lua_newthread(L);
  lua_pushcfunction(thread, fail);
  lua_pushnil(thread);
  lua_resume(thread, 1);
  lua_pop(L, 1);
}

static void end_run(lua_State *L, mbl_guard *guard) {
  guard->most = 0; /* the run has failed already */
  hooks_on(L);
  /* More than once, as a finalizer that the collector runs just now may be what is refused. */
  for (int i = 0; i < 3; i++) {
    guard->refuse = true;
    lua_newuserdata(L, 1);
    lua_pop(L, 1);
  }
  guard->refuse = false;
  luaL_error(L, "the handler has run too long"); /* without our allocator: better than nothing */
}

static void keep_place(lua_State *L, mbl_guard *guard, mb_fail *fail) {
  guard->most = 0;
  luaL_traceback(L, L, NULL, 0);
  mb__lua_keep_text(L, -1, fail->trace, sizeof fail->trace);
  lua_pop(L, 1);
}

/* At the very end of the stack there is no room to call a hook, and a recursion through pcall may
 * stay there for ever. Wherever it comes from, it passes the deep part first; there, a hook at
 * every instruction either runs or makes the stack overflow, and so ends one pcall after the other.
 * i_ci: in LuaJIT the slot at which the function that runs has its frame. */
static void look_deep(lua_State *L, mbl_guard *guard, const lua_Debug *ar) {
  bool deep = ar->i_ci > DEEP;
  if (deep == guard->deep) return;
  guard->deep = deep;
  lua_sethook(L, on_hook, lua_gethookmask(L), deep ? 1 : COUNT);
}

static void on_hook(lua_State *L, lua_Debug *ar) {
  mbl_guard *guard = guard_of(L);
  if (!guard) guard = registered(L);
  mbl_run *run = guard->top;
  if (ar->event != LUA_HOOKCOUNT) {
    if (guard->user.fn) guard->user.fn(L, ar);
    return;
  }
  if (run->excess == MBL_WITHIN) {
    look_deep(L, guard, ar);
    if (coarse_us() < run->deadline_us) return;
    run->excess = MBL_TOO_LONG;
    lua_sethook(L, on_hook, LUA_MASKCOUNT, 1);
    keep_place(L, guard, run->fail);
  }
  end_run(L, guard);
}

/* The hook as the run on top wants it. A script's own stays, but for its counts. */
static void set_hook(mbl_guard *guard) {
  lua_State *L = guard->L;
  const mbl_run *run = guard->top;
  bool ours = lua_gethook(L) == on_hook;
  if (run && run->deadline_us) {
    if (!ours) guard->user = (saved_hook){lua_gethook(L), lua_gethookmask(L), lua_gethookcount(L)};
    guard->deep = false;
    if (run->excess == MBL_WITHIN)
      lua_sethook(L, on_hook, LUA_MASKCOUNT | (guard->user.mask & ~LUA_MASKCOUNT), COUNT);
    else
      lua_sethook(L, on_hook, LUA_MASKCOUNT, 1);
  } else if (ours) {
    lua_sethook(L, guard->user.fn, guard->user.mask, guard->user.count);
    guard->user = (saved_hook){0};
  }
}

int mb__guard_wait_ms(lua_State *L, int wait_ms) {
  mbl_guard *guard = guard_of(L);
  if (!guard || !guard->top || !guard->top->deadline_us) return wait_ms;
  int64_t left_ms = (guard->top->deadline_us - mb__mono_us()) / 1000 + 1;
  if (left_ms < 0) left_ms = 0;
  return left_ms < wait_ms ? (int)left_ms : wait_ms;
}

/* ---- what a script could take the limits off with ---- */

/* debug.sethook: no effect while a run has a deadline. Upvalue 1: the library's own. */
static int l_sethook(lua_State *L) {
  if (lua_gethook(L) == on_hook) return 0;
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
  return lua_gettop(L);
}

/* jit.on, jit.off: of the whole compiler, it takes effect once no bus with limits is connected.
 * Upvalues: the library's own, and whether it is jit.on. */
static int l_jit_switch(lua_State *L) {
  mbl_guard *guard = registered(L);
  if (guard && guard->open_count && lua_isnoneornil(L, 1)) {
    guard->jit_on = lua_toboolean(L, lua_upvalueindex(2));
    return 0;
  }
  lua_Debug caller;
  if (lua_type(L, 1) == LUA_TBOOLEAN && lua_toboolean(L, 1) && lua_getstack(L, 1, &caller)) {
    lua_getinfo(L, "f", &caller); /* true: the function that calls */
    lua_replace(L, 1);
  }
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
  return lua_gettop(L);
}

static const struct replaced {
  const char *library, *name;
  lua_CFunction fn;
  bool flag;
} replaced[] = {
    {"debug", "sethook", l_sethook, false},
    {"jit", "on", l_jit_switch, true},
    {"jit", "off", l_jit_switch, false},
};

/* Push the library's table; false, and nothing pushed, where it was never opened. */
static bool push_library(lua_State *L, const char *name) {
  lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
  lua_getfield(L, -1, name);
  lua_remove(L, -2);
  if (lua_istable(L, -1)) return true;
  lua_pop(L, 1);
  return false;
}

/* The functions get ours in their place, or their own back. RAISES (memory) */
static void replace(lua_State *L, bool on) {
  for (size_t i = 0; i < sizeof replaced / sizeof *replaced; i++) {
    const struct replaced *each = &replaced[i];
    if (!push_library(L, each->library)) continue;
    lua_pushstring(L, each->name);
    lua_rawget(L, -2);
    bool ours = lua_tocfunction(L, -1) == each->fn;
    if (on && !ours && lua_isfunction(L, -1)) {
      lua_pushboolean(L, each->flag);
      lua_pushcclosure(L, each->fn, 2);
      lua_setfield(L, -2, each->name);
    } else if (!on && ours && lua_getupvalue(L, -1, 1)) {
      lua_setfield(L, -3, each->name);
      lua_pop(L, 1);
    } else {
      lua_pop(L, 1);
    }
    lua_pop(L, 1);
  }
}

static bool jit_is_on(lua_State *L) {
  bool on = true; /* as LuaJIT starts */
  int top = lua_gettop(L);
  if (push_library(L, "jit")) {
    lua_getfield(L, -1, "status");
    if (!lua_pcall(L, 0, 1, 0)) on = lua_toboolean(L, -1);
  }
  lua_settop(L, top);
  return on;
}

/* ---- the life of a guard ---- */

static void drop(mbl_guard *guard) {
  if (--guard->holders == 0 && !guard->alloc) free(guard);
}

static int guard_gc(lua_State *L) {
  mbl_guard **held = lua_touserdata(L, 1);
  mbl_guard *guard = *held;
  *held = NULL;
  if (!guard) return 0;
  unwrap(L, guard);
  drop(guard);
  return 0;
}

/* RAISES (memory) */
static mbl_guard *guard_for(lua_State *L) {
  mbl_guard *guard = registered(L);
  if (guard) return guard;
  lua_pushlightuserdata(L, &guard_key);
  mbl_guard **held = lua_newuserdata(L, sizeof(mbl_guard *));
  *held = NULL;
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, guard_gc);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  guard = calloc(1, sizeof *guard);
  if (!guard) luaL_error(L, "out of memory");
  guard->holders = 1;
  *held = guard;
  lua_pushlightuserdata(L, &thread_key);
  guard->L = lua_newthread(L);
  lua_rawset(L, LUA_REGISTRYINDEX);
  lua_rawset(L, LUA_REGISTRYINDEX);
  return guard;
}

/* RAISES (memory) */
static void compiler_off(lua_State *L, mbl_guard *guard) {
  guard->jit_on = jit_is_on(L);
  replace(L, true);
  luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
  luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_FLUSH);
}

static mb_err refuse(lua_State *L, mbl_guard *guard, size_t most, char *why, size_t why_size) {
  size_t used = guard->used;
  bool wrapped = wraps(L, guard);
  if (!guard->open_count) unwrap(L, guard);
  if (!wrapped)
    return mb__error(MB_EUNSUPPORTED, why, why_size,
                     "this LuaJIT does not let its allocator be wrapped; leave guard at fast and "
                     "lua_memory_max_bytes at 0");
  return mb__error(MB_ECONFIG, why, why_size,
                   "lua_memory_max_bytes %zu: the Lua state has %zu bytes already; set it to "
                   "several times that",
                   most, used);
}

mb_err mb__guard_open(lua_State *L, mbl_bus *lb, char *why, size_t why_size) {
  const mb_config *conf = lb->bus->ctx.conf;
  bool strict = mb__conf_is(conf, MB_OPT_guard, "strict");
  int64_t time_us = strict ? lb->bus->deliver.handler_timeout_us : 0;
  size_t most = (size_t)mb__conf_int(conf, MB_OPT_lua_memory_max_bytes);
  if (lb->guard || (!time_us && !most)) return MB_OK;
  mbl_guard *guard = guard_for(L);
  if (!wrap(L, guard) || (most && guard->used >= most))
    return refuse(L, guard, most, why, why_size);
  if (!guard->open_count) compiler_off(L, guard);
  guard->holders++;
  guard->open_count++;
  lb->guard = guard;
  lb->time_us = time_us;
  lb->memory_most = most;
  return MB_OK;
}

void mb__guard_forget(lua_State *L, mbl_bus *lb) {
  mbl_guard *guard = lb->guard;
  if (!guard) return;
  lb->guard = NULL;
  if (--guard->open_count == 0) unwrap(L, guard);
  drop(guard);
}

void mb__guard_close(lua_State *L, mbl_bus *lb) {
  mbl_guard *guard = lb->guard;
  if (!guard) return;
  mb__guard_forget(L, lb); /* the state holds it still */
  if (guard->open_count) return;
  replace(L, false);
  if (guard->jit_on) luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_ON);
}

/* ---- runs ---- */

static void apply(mbl_guard *guard) {
  guard->most = guard->top ? guard->top->memory_most : 0;
  set_hook(guard);
}

void mb__guard_enter(mbl_bus *lb, mbl_run *run) {
  *run = (mbl_run){.lb = lb, .L = lb->L, .guard = lb->guard ? lb->guard : guard_of(lb->L)};
  if (!run->guard) return;
  run->outer = run->guard->top;
  run->guard->top = run;
  apply(run->guard);
}

void mb__guard_leave(mbl_run *run) {
  run->lb->L = run->L;
  if (!run->guard) return;
  run->guard->top = run->outer;
  apply(run->guard);
}

void mb__guard_limit(mbl_bus *lb, mbl_run *run, mb_fail *fail) {
  mbl_guard *guard = lb->guard;
  if (!guard) return;
  /* LuaJIT collects when the state has doubled, wherever the limit is. */
  if (lb->memory_most && guard->used > guard->floor &&
      guard->used - guard->floor > (lb->memory_most - guard->floor) / 2)
    clean_up(lb->L, guard);
  run->fail = fail;
  run->deadline_us = lb->time_us ? mb__mono_us() + lb->time_us : 0;
  run->memory_most = lb->memory_most;
  apply(guard);
}

static int level_of(const mbl_run *run) {
  int level = 0;
  for (; run; run = run->outer) level++;
  return level;
}

/* Who has something under way in the run, which could not be ended there as it should be. */
static void tell_excess(const mbl_run *run) {
  lua_State *L = run->L;
  int top = lua_gettop(L);
  if (!lua_checkstack(L, 4)) return;
  lua_pushlightuserdata(L, &excess_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
  lua_pushinteger(L, level_of(run));
  if (lua_isfunction(L, -2) && lua_pcall(L, 1, 0, 0))
    mb__log(&run->lb->bus->ctx.log, MB_LOG_ERROR, "after a limit: %s",
            lua_isstring(L, -1) ? lua_tostring(L, -1) : luaL_typename(L, -1));
  lua_settop(L, top);
}

void mb__guard_lift(mbl_run *run) {
  run->lb->L = run->L;
  if (!run->guard) return;
  run->deadline_us = 0;
  run->memory_most = 0;
  apply(run->guard);
  if (run->excess == MBL_TOO_MUCH) clean_up(run->guard->L, run->guard);
  if (run->excess != MBL_WITHIN) tell_excess(run);
}

/* core.on_excess(function(level)): it is called, without limits, after a run was ended by its own.
 * level: what core.run_level() was within it */
int mb__l_on_excess(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  lua_pushlightuserdata(L, &excess_key);
  lua_insert(L, 1);
  lua_rawset(L, LUA_REGISTRYINDEX);
  return 0;
}

/* core.run_level() -> how many of the engine's calls into Lua are under way, where there are
 * limits; else 0 */
int mb__l_run_level(lua_State *L) {
  const mbl_guard *guard = registered(L);
  lua_pushinteger(L, guard ? level_of(guard->top) : 0);
  return 1;
}
