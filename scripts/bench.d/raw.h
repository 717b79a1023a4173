/* raw.h: what the files of the hand-written client share. */
#ifndef BENCH_RAW_H
#define BENCH_RAW_H

#include <librdkafka/rdkafka.h>
#include <stdbool.h>
#include <stdint.h>

#define PARTITIONS 4
#define TYPE       "OrderPlaced"

/* Where the program cannot go on: says why and exits with 1. */
#define DIE(...) die(__func__, __VA_ARGS__)
_Noreturn void die(const char *where, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

int64_t now_us(void); /* CLOCK_MONOTONIC, as moonbus.now() */

/* A configuration of "name", "value" pairs ended by NULL, after bootstrap.servers. */
rd_kafka_conf_t *configure(const char *address, const char *const *pairs);

/* Time, processor time and allocations (-1 = not counted: glibc's) between start and stop; peak
 * memory when printed. */
typedef struct clocks {
  int64_t start_us, stop_us;
  double start_cpu, stop_cpu;
  int64_t start_allocs, stop_allocs;
} clocks;
void clocks_start(clocks *clocks);
void clocks_stop(clocks *clocks);
/* One line of JSON on standard output; sum shows that the right events were seen. */
void clocks_print(const clocks *clocks, int64_t events, double sum);

/* What every event of the benchmark holds: about 450 bytes of JSON, 7 headers. */
typedef struct event {
  char value[640];
  int value_len;
  char key[37], id[37], correlation[37];
} event;
void event_make(event *event, int64_t number, int64_t sent_us);
double event_amount(int64_t number); /* its total_amount */
rd_kafka_headers_t *event_headers(const event *event);

int consume(const char *address, const char *topic, int64_t count, const char *how,
            const char *fetch);
int receive(const char *address, const char *topic, int64_t count);
int publish(const char *address, const char *topic, int64_t count, int64_t batch);
int send_at_rate(const char *address, const char *topic, int64_t rate, int64_t count);

#endif
