/* base/clock.h: the monotonic clock. Knows nothing else. */
#ifndef MB_CLOCK_H
#define MB_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t mb__mono_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* What is left until then, at least 1 ms. */
static inline int mb__left_ms(int64_t by_us) {
  int64_t left_ms = (by_us - mb__mono_us()) / 1000;
  return left_ms > 1 ? (int)left_ms : 1;
}

#endif
