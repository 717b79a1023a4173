/* handlers/backoff.c: delays that double.
 * Must not wait, or read a clock.
 * Called by handlers/settle.c, deliver/dead_letter.c and group/txn.c. */
#include "handlers/backoff.h"

#include <math.h>

int64_t mb__backoff_us(double base_s, double max_s, double jitter, int attempts, double random) {
  double delay = ldexp(base_s, attempts > 60 ? 60 : attempts);
  if (delay > max_s) delay = max_s;
  delay *= 1 + jitter * (2 * random - 1);
  if (delay > max_s) delay = max_s;
  if (!(delay > 0)) delay = 0;
  return (int64_t)(delay * 1e6);
}
