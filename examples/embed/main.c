/* An event bus inside a C program: a handler in C, and two ways to let the bus work.
 *
 * shows   mb_config_set, mb_bus_subscribe, mb_bus_publish, mb_bus_run; and a poll loop of one's
 *         own, with mb_bus_fd, mb_bus_wait_ms, mb_bus_step
 * build   cc main.c $(pkg-config --cflags --libs moonbus) -o embed
 *         or with the CMakeLists.txt beside it
 * run     ./embed [HOST:PORT]
 *         without an address: the embedded broker, or MOONBUS_BOOTSTRAP_SERVERS
 * prints  run: order 1 for 10.50, attempt 1
 *         ... the second order again, attempt 2
 *         run: 3 handled, 3 published, 1 retries
 *         and the same for poll
 */
#include <inttypes.h>
#include <moonbus.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define ORDERS 3

typedef struct shop {
  mb_bus *bus;
  const char *way; /* "run" or "poll" */
  int handled;
} shop;

/* A handler. What it reads from msg is valid until it returns. The second order fails once: the bus
 * runs it again after retry_base_delay, while the other orders go on. */
static mb_outcome on_order(const mb_msg *msg, mb_fail *fail, void *opaque) {
  shop *shop = opaque;
  mb_value number, total;
  if (mb_msg_field(msg, "number", &number) || number.kind != MB_INT ||
      mb_msg_field(msg, "total", &total) || total.kind != MB_DOUBLE)
    return MB_UNDECODABLE;
  printf("%s: order %" PRId64 " for %.2f, attempt %d\n", shop->way, number.as.i, total.as.d,
         mb_msg_attempt(msg));
  if (number.as.i == 2 && mb_msg_attempt(msg) == 1) {
    mb_fail_set(fail, "OutOfStock", "order %" PRId64 " waits for stock", number.as.i);
    return MB_FAILED;
  }
  if (++shop->handled == ORDERS) mb_bus_stop(shop->bus);
  return MB_HANDLED;
}

static void on_log(mb_level level, const char *line, void *opaque) {
  (void)opaque;
  if (level == MB_LOG_ERROR) fprintf(stderr, "%s\n", line);
}

static mb_err publish_orders(mb_bus *bus, char *why, size_t why_size) {
  mb_event events[ORDERS];
  mb_receipt receipts[ORDERS];
  char ids[ORDERS][40], data[ORDERS][64];
  memset(events, 0, sizeof events);
  for (int i = 0; i < ORDERS; i++) {
    snprintf(ids[i], sizeof ids[i], "00000000-0000-4000-8000-%012d", i + 1);
    snprintf(data[i], sizeof data[i], "{\"number\":%d,\"total\":%d.5}", i + 1, (i + 1) * 10);
    events[i].event_type = mb_str("OrderPlaced");
    events[i].aggregate_type = mb_str("Order");
    events[i].aggregate_id = mb_str(ids[i]);
    events[i].data = mb_str(data[i]);
  }
  return mb_bus_publish(bus, events, ORDERS, receipts, why, why_size);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* A loop of one's own: other descriptors would stand in the same poll. */
static mb_err poll_loop(mb_bus *bus, char *why, size_t why_size) {
  double deadline = now() + 60;
  mb_err err = mb_bus_start(bus, true, why, why_size);
  while (!err && mb_bus_is_consuming(bus)) {
    struct pollfd fd = {.fd = mb_bus_fd(bus), .events = POLLIN};
    poll(&fd, 1, mb_bus_wait_ms(bus));
    err = mb_bus_step(bus, 0, why, why_size);
    if (now() > deadline) mb_bus_stop(bus);
  }
  return err;
}

/* address is NULL or wins over the environment, which wins over "embedded". */
static mb_err set_servers(mb_config *conf, const char *address, char *why, size_t why_size) {
  const char *servers = address ? address : "embedded";
  mb_source source = address ? MB_FROM_FLAG : MB_FROM_SCRIPT;
  return mb_config_set(conf, "bootstrap_servers", servers, source, why, why_size);
}

static mb_err consume(const char *address, const char *way, char *why, size_t why_size) {
  shop shop = {.way = way};
  char prefix[32], group[32];
  snprintf(prefix, sizeof prefix, "embed.%s", way);
  snprintf(group, sizeof group, "embed-%s", way);
  mb_err err = MB_ENOMEM;
  mb_config *conf = mb_config_new();
  if (!conf) goto done;
  if ((err = set_servers(conf, address, why, why_size)) ||
      (err = mb_config_set(conf, "topic_prefix", prefix, MB_FROM_SCRIPT, why, why_size)) ||
      (err = mb_config_set(conf, "consumer_group", group, MB_FROM_SCRIPT, why, why_size)) ||
      (err = mb_config_set(conf, "retry_base_delay", "0.05", MB_FROM_SCRIPT, why, why_size)) ||
      (err = mb_config_set_env(conf, why, why_size)))
    goto done;
  err = MB_ECONFIG;
  shop.bus = mb_bus_new(conf, why, why_size);
  if (!shop.bus) goto done;
  mb_bus_set_log(shop.bus, on_log, NULL);
  if ((err = mb_bus_subscribe(shop.bus, "OrderPlaced", on_order, &shop, NULL, NULL))) goto done;
  if ((err = mb_bus_connect(shop.bus, 10000, why, why_size))) goto done;
  if ((err = publish_orders(shop.bus, why, why_size))) goto done;
  err = strcmp(way, "run") == 0 ? mb_bus_run(shop.bus, why, why_size)
                                : poll_loop(shop.bus, why, why_size);
  if (err) goto done;
  mb_stats stats;
  mb_bus_stats(shop.bus, &stats);
  printf("%s: %d handled, %" PRIu64 " published, %" PRIu64 " retries\n", way, shop.handled,
         stats.events_published, stats.retries);
  err = mb_bus_disconnect(shop.bus, why, why_size);
done:
  mb_bus_free(shop.bus);
  mb_config_free(conf);
  return err;
}

int main(int argc, char **argv) {
  const char *address = argc > 1 ? argv[1] : NULL;
  char why[512] = "";
  mb_err err = consume(address, "run", why, sizeof why);
  if (!err) err = consume(address, "poll", why, sizeof why);
  if (!err) return 0;
  fprintf(stderr, "%s: %s\n", mb_err_name(err), why[0] ? why : mb_err_text(err));
  return 1;
}
