/* lua/metrics.c: histograms and lags, as tables.
 * Must not name metrics: lua/moonbus/metrics.lua does.
 * Called by lua/module.c. */
#include "lua/internal.h"

static void put(lua_State *L, const char *name, double value) {
  lua_pushnumber(L, value);
  lua_setfield(L, -2, name);
}

/* bus:measures() -> { [name] = { count, sum, max, p50, p95, p99 } } | nil, with enable_metrics off
 */
int mb__l_bus_measures(lua_State *L) {
  static const char *const NAMES[MB_MEASURES] = {"publish_duration", "consume_duration",
                                                 "handler_duration", "batch_size"};
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  lua_createtable(L, 0, MB_MEASURES);
  for (int i = 0; i < MB_MEASURES; i++) {
    mb_summary summary;
    if (mb_bus_measure(lb->bus, (mb_measure)i, &summary)) return 0;
    lua_createtable(L, 0, 8);
    put(L, "count", (double)summary.count);
    put(L, "sum", summary.sum);
    put(L, "max", summary.max);
    put(L, "p50", summary.p50);
    put(L, "p95", summary.p95);
    put(L, "p99", summary.p99);
    lua_setfield(L, -2, NAMES[i]);
  }
  return 1;
}

/* The table is on top of the stack. RAISES (memory) */
static void on_lag(int32_t partition, int64_t lag, void *opaque) {
  lua_State *L = opaque;
  if (lag < 0) return;
  lua_pushnumber(L, (lua_Number)lag);
  lua_rawseti(L, -2, partition);
}

/* bus:lags() -> { [partition] = lag }, of those that are known */
int mb__l_bus_lags(lua_State *L) {
  mbl_bus *lb = mb__lua_check_bus(L, 1);
  mb__lua_new_numbered(L);
  mb_bus_lags(lb->bus, on_lag, L);
  return 1;
}
