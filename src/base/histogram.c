/* base/histogram.c: the values that histograms hold.
 * Must not read a clock: its caller does.
 * Called through moonbus.h; deliver/deliver.c and kafka/producer.c add to the histograms. */
#include "base/histogram.h"

/* The largest value of a bucket. */
static uint64_t top(unsigned bucket) {
  if (bucket < 8) return bucket;
  unsigned power = bucket / 8 + 2;
  return (((uint64_t)(8 + bucket % 8) + 1) << (power - 3)) - 1;
}

uint64_t mb__histogram_quantile(const mb_histogram *histogram, double share) {
  double target = share * (double)histogram->count;
  uint64_t seen = 0;
  for (unsigned i = 0; i < MB_HISTOGRAM_BUCKETS; i++) {
    seen += histogram->buckets[i];
    if (!seen || (double)seen < target) continue;
    return i + 1 < MB_HISTOGRAM_BUCKETS && top(i) < histogram->max ? top(i) : histogram->max;
  }
  return histogram->max;
}
