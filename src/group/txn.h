/* group/txn.h: exactly-once: what handlers publish and how far the group has come are committed
 * together. Knows librdkafka's transactions and when a batch of events is to be committed; does not
 * know handlers or outcomes. Of no effect unless delivery = "exactly_once".
 *
 * Events are handled in batches, a transaction each. When an event fails after it published
 * something, the transaction is aborted and its events are read again; the one that failed is
 * remembered, held back, and run alone. Nothing that a failed run published is ever seen by readers
 * of committed records.
 *
 * Events past a waiting one are handled and committed, too: the transaction holds, with the offset,
 * the marks of what is settled past it. Marks that did not fit would be results made twice, so no
 * more events wait than find room in them (MB_TXN_PARKED_MAX). */
#ifndef MB_TXN_H
#define MB_TXN_H

#include <librdkafka/rdkafka.h>

#include "kafka/refusal.h"
#include "moonbus.h"

typedef struct mb_group mb_group;

/* Of a partition at a time: their marks take some 25 bytes each. */
#define MB_TXN_PARKED_MAX 100

/* An event whose handlers published. */
typedef struct mb_publisher {
  int32_t partition;
  int64_t offset;
  int attempts; /* that failed before */
} mb_publisher;

typedef struct mb_txn {
  mb_err failed;            /* this producer can do no more */
  char why[MB_REFUSAL_MAX]; /* what went wrong then */
  const char *failing;      /* why the last commit failed; static; NULL = it did not */
  int64_t begun_us;
  bool late;      /* one was open for so long that the broker may have ended it by itself; none was
                     committed since */
  int64_t by_us;  /* by when its calls must be through; 0 = each has its own time */
  int64_t events; /* settled in it */
  unsigned rewinds; /* aborts so far: code that holds a parked event checks whether this changed */

  int publishers;         /* events in it whose handlers published */
  mb_publisher publisher; /* the last of those */
  int64_t most;           /* events in it, while the one is searched whose output is refused; 0 = as
                        configured */
  int fine;               /* commits in a row of so few */
  int aborts;             /* in a row that were no event's fault */
  int64_t resume_us;      /* none begins before then */
} mb_txn;

/* Fence off earlier lives and abort what they left open. */
mb_err mb__txn_init(mb_group *group, int timeout_ms, char *errstr, size_t errstr_size);
/* In place of a producer that is lost, another. */
mb_err mb__txn_renew(mb_group *group, char *errstr, size_t errstr_size);
/* MB_OK also when one is open. */
mb_err mb__txn_begin(mb_group *group, char *errstr, size_t errstr_size);
/* Commit what was published and the low-water marks; nothing to do: MB_OK. When it fails it is
 * aborted and its events are read again, which is MB_OK too; MB_EFATAL when this producer can do no
 * more. */
mb_err mb__txn_commit(mb_group *group, char *errstr, size_t errstr_size);
/* Undo it, and have its events read again. */
mb_err mb__txn_abort(mb_group *group, char *errstr, size_t errstr_size);
/* For what is published outside handlers: no offsets, no rewinding. */
mb_err mb__txn_end_alone(mb_group *group, bool commit, char *errstr, size_t errstr_size);
/* A handler of the event published. */
void mb__txn_published(mb_group *group, const mb_publisher *publisher);
/* After a handler failed: true if the transaction failed before, through other events or nobody's
 * fault, so that the handler's failure may only follow from that. */
bool mb__txn_spoils(mb_group *group);
/* Abort such a transaction; its events are read again. */
mb_err mb__txn_spoiled(mb_group *group, char *errstr, size_t errstr_size);
/* true if the broker may have ended a transaction by itself, as it was open for too long, and says
 * for that reason that the producer is fenced off. */
bool mb__txn_is_late(const mb_group *group);
/* true if no other event is to go into it. */
bool mb__txn_is_full(const mb_group *group);
/* true if none is to begin yet. */
bool mb__txn_waits(const mb_group *group, int64_t now_us);
/* Whether the batch is long or old enough. */
bool mb__txn_due(const mb_group *group, int64_t now_us);

#endif
