/* base/histogram.h: how long things take, and how many at a time: histograms. Pure: no clock, no
 * I/O. */
#ifndef MB_METRICS_H
#define MB_METRICS_H

#include <stdint.h>

#include "moonbus.h"

/* Eight buckets for each power of two: a value is known to an eighth of it. */
#define MB_HISTOGRAM_BUCKETS (8 * 42)

typedef struct mb_histogram {
  uint64_t count, sum, max;
  uint64_t buckets[MB_HISTOGRAM_BUCKETS];
} mb_histogram;

typedef struct mb_metrics {
  mb_histogram of[MB_MEASURES]; /* microseconds, or events */
} mb_metrics;

static inline unsigned mb__histogram_bucket(uint64_t value) {
  if (value < 8) return (unsigned)value;
  unsigned power = 63 - (unsigned)__builtin_clzll(value);
  unsigned bucket = (power - 2) * 8 + (unsigned)((value >> (power - 3)) & 7);
  return bucket < MB_HISTOGRAM_BUCKETS ? bucket : MB_HISTOGRAM_BUCKETS - 1;
}

static inline void mb__histogram_add(mb_histogram *histogram, int64_t value) {
  uint64_t v = value > 0 ? (uint64_t)value : 0;
  histogram->count++;
  histogram->sum += v;
  if (v > histogram->max) histogram->max = v;
  histogram->buckets[mb__histogram_bucket(v)]++;
}

/* The value that a share of all are at or below: the upper end of its bucket, never above the
 * largest. 0 when there is none. */
uint64_t mb__histogram_quantile(const mb_histogram *histogram, double share);

#endif
