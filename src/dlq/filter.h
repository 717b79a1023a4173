/* dlq/filter.h: which dead letters a filter selects. */
#ifndef MB_FILTER_H
#define MB_FILTER_H

#include "bus/internal.h"

/* The member of the filter that leaves the letter out; NULL = none does. */
const char *mb__letter_left_out(const mb_dlq_filter *filter, const mb_msg *letter, bool *give_up);
/* Read the letters of the filter's place and time, whatever else it says. timeout_ms: as that of
 * mb_dlq_read. */
mb_err mb__letters_read(mb_bus *bus, const mb_dlq_filter *filter, int timeout_ms, mb_read_fn fn,
                        void *opaque, char *errstr, size_t errstr_size);
/* The number a header holds; -1 when it is absent or not one. */
int64_t mb__letter_number(const mb_msg *letter, const char *name);

#endif
