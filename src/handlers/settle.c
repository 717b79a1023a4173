/* handlers/settle.c: outcome -> done | retry | dead | held. The only file that decides.
 * Must not do I/O, read a clock or keep state.
 * Called by deliver/deliver.c after every run of an event's handlers. */
#include "handlers/settle.h"

#include "handlers/backoff.h"

void mb__settle_weigh(const mb_rules *rules, mb_result *result, int attempts) {
  size_t kept = 0;
  if (result->failed_count != (int)result->failed.count) return; /* not all of them are known */
  for (size_t i = 0; i < result->failed.count; i++) {
    int limit = result->failed.limit[i];
    if (attempts >= (limit < 0 ? rules->max_retries : limit)) {
      mb__ids_add(&result->final, result->failed.id[i], limit);
      continue;
    }
    result->failed.id[kept] = result->failed.id[i];
    result->failed.limit[kept++] = limit;
  }
  result->exhausted_count += result->failed_count - (int)kept;
  result->failed_count = (int)kept;
  result->failed.count = kept;
  result->weighed = true;
}

mb_verdict mb__settle_dead(const mb_rules *rules, const mb_breaker *breaker, const char *reason) {
  if (mb__breaker_full(breaker, &rules->breaker))
    return (mb_verdict){MB_HOLD, rules->breaker_pause_us, reason};
  return (mb_verdict){rules->dlq ? MB_DEAD : MB_DROP, 0, reason};
}

static const char *reason_of(const mb_result *result, const mb_past *past) {
  bool exhausted = result->failed_count + result->exhausted_count > 0;
  if (result->reason) return result->reason;
  if (past && past->exhausted && past->reason) return past->reason;
  if (result->undecodable) return "deserialization_error";
  if (exhausted || (past && past->exhausted)) return "max_retries_exceeded";
  if (result->rejected_count > 0 || (past && past->rejected)) return "handler_rejected";
  return NULL;
}

mb_verdict mb__settle(const mb_rules *rules, const mb_breaker *breaker, mb_result *result,
                      int attempts, const mb_past *past, double random) {
  mb__settle_weigh(rules, result, attempts);
  if (result->failed_count > 0 && (result->weighed || attempts < rules->max_retries)) {
    int64_t delay = mb__backoff_us(rules->base_s, rules->max_s, rules->jitter, attempts, random);
    if (result->weighed && result->retry_after_us >= 0) delay = result->retry_after_us;
    return (mb_verdict){MB_RETRY, delay, NULL};
  }
  const char *reason = reason_of(result, past);
  if (!reason) return (mb_verdict){MB_DONE, 0, NULL};
  if (result->undecodable && !result->unknown && rules->halt_undecodable)
    return (mb_verdict){MB_HALT, 0, reason};
  return mb__settle_dead(rules, breaker, reason);
}
