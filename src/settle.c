/* settle.c: outcome -> done | retry | dead. The only file that decides.
 * Must not do I/O, read a clock or keep state.
 * Called by bus.c after every run of an event's handlers. */
#include "settle.h"

#include "retry.h"

mb_verdict mb__settle(const mb_rules *rules, const mb_result *result, int attempts, bool rejected,
                      double random) {
  if (result->failed_count > 0 && attempts < rules->max_retries) {
    int64_t delay = mb__backoff_us(rules->base_s, rules->max_s, rules->jitter, attempts, random);
    return (mb_verdict){MB_RETRY, delay, NULL};
  }
  const char *reason = result->reason;
  if (!reason && result->undecodable) reason = "deserialization_error";
  if (!reason && result->failed_count > 0) reason = "max_retries_exceeded";
  if (!reason && (result->rejected_count > 0 || rejected)) reason = "handler_rejected";
  if (!reason) return (mb_verdict){MB_DONE, 0, NULL};
  return (mb_verdict){rules->dlq ? MB_DEAD : MB_DROP, 0, reason};
}
