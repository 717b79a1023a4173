/* bus.h: a connected bus, of options given as pairs of key and value. */
#ifndef MB_TEST_BUS_H
#define MB_TEST_BUS_H

#include <time.h>

#include "moonbus.h"

static char err[512];

static inline double now_s(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* NULL: err says why. */
static inline mb_bus *bus_of(const char *const (*options)[2], size_t count) {
  mb_config *conf = mb_config_new();
  bool taken = true;
  for (size_t i = 0; i < count; i++)
    taken = taken && !mb_config_set(conf, options[i][0], options[i][1], MB_FROM_SCRIPT, err, 512);
  mb_bus *bus = taken ? mb_bus_new(conf, err, sizeof err) : NULL;
  mb_config_free(conf);
  if (bus && !mb_bus_connect(bus, 30000, err, sizeof err)) return bus;
  mb_bus_free(bus);
  return NULL;
}

#endif
