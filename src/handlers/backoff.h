/* handlers/backoff.h: how long to wait before the next attempt. */
#ifndef MB_BACKOFF_H
#define MB_BACKOFF_H

#include <stdint.h>

/* Delay before retry number attempts + 1: min(base * 2^attempts, max), spread by +-jitter (a share
 * of it) with random in 0..1, never below 0 nor above max. Seconds in, microseconds out. */
int64_t mb__backoff_us(double base_s, double max_s, double jitter, int attempts, double random);

#endif
