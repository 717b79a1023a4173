/* kafka/context.c: how a bus is woken and stopped. Must not know what it does. */
#include "kafka/context.h"

#include <errno.h>
#include <unistd.h>

void mb__context_wake(mb_context *ctx) {
  static const uint64_t one = 1;
  int saved = errno;
  ssize_t written = write(ctx->wake_fd, &one, sizeof one);
  (void)written;
  errno = saved;
}

bool mb__context_interrupted(const mb_context *ctx) {
  return atomic_load(&ctx->stop) || mb__context_host_ends(ctx);
}

void mb__context_forget_stop(mb_context *ctx) {
  if (!ctx->consuming) atomic_store(&ctx->stop, false);
}
