/* test_context.c: how a bus is woken and stopped, and why its transaction cannot be committed.
 * Must not need a broker. Run by ctest. */
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "check.h"
#include "kafka/context.h"

static bool is_readable(int fd) {
  struct pollfd one = {.fd = fd, .events = POLLIN};
  return poll(&one, 1, 0) == 1;
}

static void waking(void) {
  mb_context ctx = {.wake_fd = eventfd(0, EFD_NONBLOCK), .interrupt_fd = -1};
  uint64_t count;
  ok(ctx.wake_fd >= 0 && !is_readable(ctx.wake_fd), "a bus that was not woken waits");
  errno = ENOENT;
  mb__context_wake(&ctx);
  mb__context_wake(&ctx);
  ok(is_readable(ctx.wake_fd) && errno == ENOENT, "one that was does not, and errno stays");
  ok(read(ctx.wake_fd, &count, sizeof count) == sizeof count && !is_readable(ctx.wake_fd),
     "once for all that woke it");
  close(ctx.wake_fd);
}

static void stopping(void) {
  int host = eventfd(0, EFD_NONBLOCK);
  uint64_t one = 1;
  mb_context ctx = {.wake_fd = -1, .interrupt_fd = host};
  ok(!mb__context_interrupted(&ctx), "nothing ends it");
  atomic_store(&ctx.stop, true);
  ok(mb__context_interrupted(&ctx), "mb_bus_stop does");
  ctx.consuming = true;
  mb__context_forget_stop(&ctx);
  ok(mb__context_interrupted(&ctx), "which a consuming bus still has to obey");
  ctx.consuming = false;
  mb__context_forget_stop(&ctx);
  ok(!mb__context_interrupted(&ctx), "and which what begins after it does not");
  ok(write(host, &one, sizeof one) == sizeof one && mb__context_host_ends(&ctx) &&
         mb__context_interrupted(&ctx),
     "the host's descriptor ends everything");
  close(host);
  ctx.interrupt_fd = -1;
  ok(!mb__context_host_ends(&ctx), "without one there is no such end");
}

static void refused(mb_transaction *transaction, rd_kafka_resp_err_t err) {
  mb__transaction_refused(transaction, err, "out.stream");
}

static void transactions(void) {
  mb_transaction t = {.on = true};
  refused(&t, RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE);
  mb__transaction_heard(&t, "Current transaction failed in state InTransaction: no");
  ok(!t.refused && !t.refused_text[0], "what comes while none is open is not its reason");
  t.open = true;
  refused(&t, RD_KAFKA_RESP_ERR__PURGE_QUEUE);
  ok(!t.refused, "what only follows from an abort is no reason");
  refused(&t, RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS);
  ok(t.refused == RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS && strstr(t.refused_text, "out.stream: "),
     "a refusal that may pass is one: %s", t.refused_text);
  refused(&t, RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
  ok(t.refused == RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, "the first of those counts");
  refused(&t, RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE);
  ok(t.refused == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE && mb__transaction_is_final(t.refused),
     "but one that stays true says more");
  refused(&t, RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS);
  ok(t.refused == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, "and is not replaced");
  ok(!mb__transaction_is_final(RD_KAFKA_RESP_ERR__MSG_TIMED_OUT) &&
         !mb__transaction_is_final(RD_KAFKA_RESP_ERR_NO_ERROR),
     "what this client gave up is not final");
  mb_transaction other = {.on = true, .open = true};
  mb__transaction_heard(&other, "librdkafka TXNERR: something else: no");
  ok(!other.refused_text[0], "other lines of librdkafka say nothing of it");
  mb__transaction_heard(&other, "Current transaction failed in state Begin: the reason");
  same("a line that names the reason does", other.refused_text, strlen(other.refused_text),
       "the reason");
}

int main(void) {
  waking();
  stopping();
  transactions();
  return done();
}
