/* handlers/skips.h: which event types nothing subscribes to, and how many of their events were
 * skipped. Knows no records and no handlers. */
#ifndef MB_SKIPS_H
#define MB_SKIPS_H

#include <stdint.h>

#include "base/log.h"
#include "event/codec.h"

#define MB_SKIPS_MAX 64 /* types that are counted one by one */

typedef struct mb_skip {
  char *type; /* owned; NULL = all types beyond MB_SKIPS_MAX */
  size_t len;
  uint64_t count, reported; /* events so far, and those that mb__skips_report has named */
} mb_skip;

typedef struct mb_skips {
  mb_skip *list; /* owned; the last of MB_SKIPS_MAX + 1 is that of all other types */
  size_t count;
  size_t last; /* the entry found last: runs of one type are common */
} mb_skips;

/* An event of the type is skipped: count it, and log its type if it is the type's first. */
void mb__skips_note(mb_skips *skips, mb_log *log, mb_bytes type);
/* Log how many events of each type were skipped since the last report, if any were. */
void mb__skips_report(mb_skips *skips, mb_log *log);
void mb__skips_free(mb_skips *skips);

#endif
