/* lua/turn.c: one round for every bus of a state, and for what its handlers wait for.
 * Must not do what the engine does; it steps buses, and waits.
 * Called by task.lua. */
#include <math.h>
#include <poll.h>
#include <unistd.h>

#include "lua/internal.h"

#define BUSES_MAX 64

#define BUSES_AT 4 /* their place on the stack: a handler may release one that comes later */

enum { READ = 1, WRITE = 2, WRONG = 4 }; /* of a descriptor, as concurrent.lua has them */

typedef struct turn {
  mbl_bus *buses[BUSES_MAX];
  int count;
  mb_err err; /* of the bus at that place of the stack */
  int at;
  char why[MB_ERRSTR_MAX];
} turn;

static bool step_all(lua_State *L, turn *t) {
  for (int i = 0; i < t->count; i++) {
    t->buses[i]->L = L;
    t->err = mb_bus_step(t->buses[i]->bus, 0, t->why, sizeof t->why);
    t->at = BUSES_AT + i;
    if (t->err) return false;
  }
  return true;
}

static int consuming(const turn *t) {
  int n = 0;
  for (int i = 0; i < t->count; i++) n += mb_bus_is_consuming(t->buses[i]->bus);
  return n;
}

static int number_field(lua_State *L, int table, const char *key, int otherwise) {
  lua_getfield(L, table, key);
  int value = lua_isnumber(L, -1) ? (int)lua_tointeger(L, -1) : otherwise;
  lua_pop(L, 1);
  return value;
}

/* Milliseconds until waits.next, or the same if that comes earlier. */
static int until_next(lua_State *L, int wait_ms) {
  lua_getfield(L, 3, "next");
  if (lua_isnumber(L, -1)) {
    double left_ms = ceil(lua_tonumber(L, -1) * 1e3 - (double)mb__mono_us() / 1e3);
    if (left_ms < wait_ms) wait_ms = left_ms > 0 ? (int)left_ms : 0;
  }
  lua_pop(L, 1);
  return wait_ms;
}

static short poll_events(int bits) {
  return (short)((bits & READ ? POLLIN : 0) | (bits & WRITE ? POLLOUT : 0));
}

/* An end or an error is for who waits to find out: what was asked for does not block any more. */
static int came(int bits, short revents) {
  if (revents & POLLNVAL) return WRONG;
  int got = (revents & POLLIN ? READ : 0) | (revents & POLLOUT ? WRITE : 0);
  return revents & (POLLHUP | POLLERR) ? bits : got & bits;
}

/* The descriptors of waits, into fds; what each is asked for is in the list bits, which is pushed.
 */
static void add_waits(lua_State *L, struct pollfd *fds, int count) {
  lua_getfield(L, 3, "fds");
  lua_getfield(L, 3, "bits");
  for (int i = 0; i < count; i++) {
    lua_rawgeti(L, -2, i + 1);
    lua_rawgeti(L, -2, i + 1);
    fds[i] = (struct pollfd){.fd = (int)lua_tointeger(L, -2),
                             .events = poll_events((int)lua_tointeger(L, -1))};
    lua_pop(L, 2);
  }
}

/* Entries whose descriptor has something go into the list waits.fired, each with its events in
   came. */
static void tell_waits(lua_State *L, const struct pollfd *fds, int count) {
  lua_getfield(L, 3, "bits");
  lua_getfield(L, 3, "entries");
  lua_getfield(L, 3, "fired");
  for (int i = 0; i < count; i++) {
    if (!fds[i].revents) continue;
    lua_rawgeti(L, -3, i + 1);
    int got = came((int)lua_tointeger(L, -1), fds[i].revents);
    lua_pop(L, 1);
    if (!got) continue;
    lua_rawgeti(L, -2, i + 1);
    lua_pushinteger(L, got);
    lua_setfield(L, -2, "came");
    lua_rawseti(L, -2, (int)lua_objlen(L, -2) + 1);
  }
  lua_pop(L, 3);
}

static int interrupted(lua_State *L, int fd) {
  while (read(fd, &(uint64_t){0}, sizeof(uint64_t)) > 0) continue;
  lua_pushliteral(L, "interrupted");
  return 1;
}

static int broken(lua_State *L, const turn *t) {
  lua_pushvalue(L, t->at);
  lua_pushfstring(L, "%s: %s", mb_err_name(t->err), t->why);
  lua_pushstring(L, mb_err_name(t->err));
  return 3;
}

static void read_buses(lua_State *L, turn *t) {
  luaL_checktype(L, 1, LUA_TTABLE);
  t->count = (int)lua_objlen(L, 1);
  if (t->count > BUSES_MAX) luaL_error(L, "at most %d buses at once", BUSES_MAX);
  luaL_checkstack(L, t->count + 16, "buses");
  for (int i = 0; i < t->count; i++) {
    lua_rawgeti(L, 1, i + 1);
    t->buses[i] = mb__lua_check_bus(L, -1);
  }
}

/* Wait for the buses, the host's descriptor and what waits has, at most so long. true: the host
 * wants an end. */
static bool wait_for_any(lua_State *L, const turn *t, int fd, int *wait_ms) {
  struct pollfd few[BUSES_MAX + 1], *fds = few;
  bool waits = lua_istable(L, 3);
  int count = waits ? number_field(L, 3, "count", 0) : 0, host = t->count + count;
  if (waits) *wait_ms = until_next(L, *wait_ms);
  if (count) fds = lua_newuserdata(L, ((size_t)host + 1) * sizeof *fds);
  for (int i = 0; i < t->count; i++) {
    int most = mb_bus_wait_ms(t->buses[i]->bus);
    if (most < *wait_ms) *wait_ms = most;
    fds[i] = (struct pollfd){.fd = mb_bus_fd(t->buses[i]->bus), .events = POLLIN};
  }
  if (count) add_waits(L, fds + t->count, count);
  fds[host] = (struct pollfd){.fd = fd, .events = POLLIN};
  bool any = poll(fds, (nfds_t)host + 1, *wait_ms) > 0;
  if (any && count) tell_waits(L, fds + t->count, count);
  return any && fds[host].revents;
}

/* core.turn(buses, seconds, waits | nil) -> "interrupted" | nil | bus, err, code of one that broke
 * Steps every bus; if none has more to do, waits up to that long for any of them, and steps again.
 * An interrupt comes before any step, and a bus that ends is reported without a wait. waits: of
 * concurrent.lua: next, when the wait must end; count, fds, bits, entries: descriptors; fired. */
int mb__l_turn(lua_State *L) {
  turn t = {.at = 0};
  double seconds = luaL_checknumber(L, 2);
  int wait_ms = 1000;
  lua_settop(L, 3);
  if (seconds * 1000 < wait_ms) wait_ms = seconds > 0 ? (int)ceil(seconds * 1000) : 0;
  wait_ms = mb__guard_wait_ms(L, wait_ms);
  read_buses(L, &t);
  int fd = mb__lua_interrupt_fd(L);
  struct pollfd host = {.fd = fd, .events = POLLIN};
  if (poll(&host, 1, 0) > 0) return interrupted(L, fd);
  int before = consuming(&t);
  if (!step_all(L, &t)) return broken(L, &t);
  if (consuming(&t) < before) wait_ms = 0;
  if (wait_for_any(L, &t, fd, &wait_ms)) return interrupted(L, fd);
  return wait_ms <= 0 || step_all(L, &t) ? 0 : broken(L, &t);
}
