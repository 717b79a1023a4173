/* txn.h: exactly-once: what handlers publish and how far the group has come are committed together.
 * Knows librdkafka's transactions and when a batch of events is to be committed; does not know
 * handlers or outcomes. Of no effect unless delivery = "exactly_once".
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

#include "moonbus.h"

/* Of a partition at a time: their marks take some 25 bytes each. */
#define MB_TXN_PARKED_MAX 100

typedef struct mb_txn {
  bool on;             /* delivery = "exactly_once" */
  bool open;           /* between begin and commit */
  mb_err failed;       /* this producer can do no more */
  char why[256];       /* what went wrong then */
  bool broken;         /* something published in it was not delivered */
  const char *failing; /* why the last commit failed; static; NULL = it did not */
  int64_t begun_us;
  int64_t by_us;    /* by when its calls must be through; 0 = each has its own time */
  int64_t events;   /* settled in it */
  uint64_t sent;    /* records handed over, ever */
  unsigned rewinds; /* aborts so far: whoever holds a parked event looks whether it changed */
} mb_txn;

/* The name under which an earlier life of this producer is fenced off. Static or borrowed. */
const char *mb__txn_id(mb_bus *bus, char *buf, size_t size);
/* Fence off earlier lives and abort what they left open. */
mb_err mb__txn_init(mb_bus *bus, int timeout_ms, char *errstr, size_t errstr_size);
/* MB_OK also when one is open. */
mb_err mb__txn_begin(mb_bus *bus, char *errstr, size_t errstr_size);
/* Commit what was published and the low-water marks; nothing to do: MB_OK. When it fails it is
 * aborted and its events are read again, which is MB_OK too; MB_EFATAL when this producer can do no
 * more. */
mb_err mb__txn_commit(mb_bus *bus, char *errstr, size_t errstr_size);
/* Undo it, and have its events read again. */
mb_err mb__txn_abort(mb_bus *bus, char *errstr, size_t errstr_size);
/* For what is published outside handlers: no offsets, no rewinding. */
mb_err mb__txn_end_alone(mb_bus *bus, bool commit, char *errstr, size_t errstr_size);
/* Whether the last transaction was open for so long that the broker may have ended it by itself. */
bool mb__txn_overdue(const mb_bus *bus, int64_t now_us);
/* Whether the batch is long or old enough. */
bool mb__txn_due(const mb_bus *bus, int64_t now_us);

#endif
