/* test_histogram.c: histograms. Must not need a broker. Run by ctest; MB_SEED chooses the values.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "base/histogram.h"
#include "check.h"

#define VALUES 20000

static int compare(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

/* Every quantile lies at its value or above it, by an eighth at most. */
static void quantiles(void) {
  static uint64_t values[VALUES];
  const char *given = getenv("MB_SEED");
  uint64_t first = given ? strtoull(given, NULL, 10) : 42, seed = first, sum = 0;
  mb_histogram *histogram = calloc(1, sizeof *histogram);
  for (int i = 0; i < VALUES; i++) {
    values[i] = roll(&seed) >> (roll(&seed) % 40 + 24);
    sum += values[i];
    mb__histogram_add(histogram, (int64_t)values[i]);
  }
  qsort(values, VALUES, sizeof *values, compare);
  bool good = true;
  for (int percent = 1; percent <= 100; percent++) {
    uint64_t exact = values[VALUES * percent / 100 - 1];
    uint64_t got = mb__histogram_quantile(histogram, percent / 100.0);
    good &= got >= exact && got <= exact + exact / 8 + 1;
    if (!good) break;
  }
  ok(good, "quantiles are exact to an eighth (MB_SEED %" PRIu64 ")", first);
  ok(histogram->count == VALUES && histogram->sum == sum && histogram->max == values[VALUES - 1],
     "count, sum and maximum are exact");
  ok(mb__histogram_quantile(histogram, 1) == histogram->max, "the last quantile is the maximum");
  free(histogram);
}

static void edges(void) {
  mb_histogram *histogram = calloc(1, sizeof *histogram);
  ok(mb__histogram_quantile(histogram, 0.5) == 0, "without values every quantile is 0");
  mb__histogram_add(histogram, -5);
  ok(histogram->count == 1 && histogram->sum == 0, "a clock that went back counts as 0");
  mb__histogram_add(histogram, INT64_MAX);
  ok(mb__histogram_quantile(histogram, 1) == INT64_MAX, "the largest value has a bucket");
  bool rising = true;
  unsigned before = 0;
  for (uint64_t value = 0; value < 100000; value++) {
    unsigned bucket = mb__histogram_bucket(value);
    rising &= bucket == before || bucket == before + 1;
    before = bucket;
  }
  ok(rising, "no bucket is left out");
  free(histogram);
}

int main(void) {
  quantiles();
  edges();
  return done();
}
