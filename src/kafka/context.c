/* kafka/context.c: how a bus is woken and stopped. Must not know what it does. */
#include "kafka/context.h"

#include "base/wake.h"

void mb__context_wake(mb_context *ctx) {
  mb__wake(ctx->wake_fd);
}

bool mb__context_interrupted(const mb_context *ctx) {
  return atomic_load(&ctx->stop) || mb__context_host_ends(ctx);
}

void mb__context_forget_stop(mb_context *ctx) {
  if (!ctx->consuming) atomic_store(&ctx->stop, false);
}
