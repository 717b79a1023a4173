/* dlq/replay_internal.h: what dlq/replay.c, dlq/read.c and dlq/parcel.c share. */
#ifndef MB_REPLAY_INTERNAL_H
#define MB_REPLAY_INTERNAL_H

#include "dlq/filter.h"
#include "dlq/plan.h"
#include "dlq/replay.h"
#include "kafka/headers.h"
#include "kafka/reader.h"
#include "kafka/topics.h"

#define MB_REPLAY_CHUNK 256

/* A record in memory. */
struct mb_parcel {
  rd_kafka_headers_t *headers; /* owned */
  size_t size;                 /* what it takes */
  size_t key_len, value_len;
  bool has_key, has_value;
  char bytes[]; /* key, value */
};

/* What becomes of one letter of the chunk in hand. */
typedef struct mb_replay_entry {
  mb_delivery delivery;
  mb_replay *job;
  mb_letter *letter;
  mb_replay_outcome outcome;
  mb_err err;
  bool put, sent;
  mb_receipt receipt;
  char why[MB_REFUSAL_MAX];
} mb_replay_entry;

struct mb_replay {
  mb_bus *bus;
  mb_plan plan;
  const mb_dlq_filter *filter; /* while letters are read */
  char *to, *group;            /* owned; group NULL = none given */
  bool dry_run, again, force;
  int most; /* dlq_max_replay_attempts */
  int64_t limit;
  double rate, tokens; /* a token lets one by */
  int64_t tokens_us;   /* when they were counted */
  bool was_consuming, gave_up, no_memory, over;
  bool full; /* no more records are kept while letters are read */
  int64_t oldest_ms;
  bool scan_covers; /* the topic read is where the letters go */
  size_t at;        /* the next in line */
  size_t parcel_bytes, pending;
  mb_replay_result result;
  size_t count; /* entries in use */
  mb_replay_entry entries[MB_REPLAY_CHUNK];
  mb_replay_letter letters[MB_REPLAY_CHUNK];
};

/* ---- dlq/parcel.c ---- */

size_t mb__parcel_size(const rd_kafka_message_t *record);
/* Owned; NULL when out of memory. */
mb_parcel *mb__parcel_new(const rd_kafka_message_t *record);
void mb__parcel_free(mb_parcel *parcel);
mb_bytes mb__parcel_key(const mb_parcel *parcel);
mb_bytes mb__parcel_value(const mb_parcel *parcel);
/* The record that a letter without its value points to: owned, or NULL and why. */
mb_parcel *mb__parcel_follow(mb_bus *bus, const rd_kafka_headers_t *headers, char *why,
                             size_t why_size);

/* ---- dlq/read.c ---- */

/* Read the letters and what was replayed of them already. */
mb_err mb__replay_read(mb_replay *job, bool to_exists, char *errstr, size_t errstr_size);
/* Have the next letter in line in memory, and as many after it as there is room for. */
mb_err mb__replay_fetch(mb_replay *job, char *errstr, size_t errstr_size);
/* Free a letter's record. */
void mb__replay_release(mb_replay *job, mb_letter *letter);
/* Whether the group that a letter's event was for still is its address: not where another one
 * failed with it, which then had it all the same. */
bool mb__letter_addresses(mb_bytes group, mb_bytes failed);
/* A group's name as the plan keeps it. */
uint64_t mb__replay_name(mb_bytes name);

#endif
