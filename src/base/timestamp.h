/* base/timestamp.h: ISO 8601 text <-> microseconds since 1970. */
#ifndef MB_TIMESTAMP_H
#define MB_TIMESTAMP_H

#include "moonbus.h"

#define MB_TIME_MAX 40

/* Microseconds since 1970, now. */
int64_t mb__now_us(void);
/* "2026-01-02T03:04:05.678901Z"; the fraction is left out when 0 and has 6 digits otherwise.
 * suffix is "Z" (JSON) or "+00:00" (headers). Returns the length; the text ends in NUL. us outside
 * years 1..9999 is taken as the nearest moment inside. */
size_t mb__time_format(char out[MB_TIME_MAX], int64_t us, const char *suffix);
/* Lenient: 'T' or space, 'Z', an offset with or without colon, or none (taken as UTC); a date
 * alone; more than 6 fraction digits are cut. Rejects :60, impossible dates, years outside 1..9999.
 */
bool mb__time_parse(mb_bytes text, int64_t *us);
/* The wire's form of a timestamp: as it stands when it is canonical already ('T', no fraction or 6
 * digits that are not all 0, Z or an offset with a colon that is not 0), else in UTC with Z. *wire
 * borrows from text or from out. false when it is no timestamp. */
bool mb__time_normalise(mb_bytes text, char out[MB_TIME_MAX], mb_bytes *wire);

/* The length of the commonest timestamp that text begins with, in the wire's form and with Z; 0 =
 * it does not, which says nothing of others. */
size_t mb__time_plain(mb_bytes text);
/* As mb__time_parse; *canonical: the text is in the wire's form already. */
bool mb__time_read(mb_bytes text, int64_t *us, bool *canonical);
/* false for a moment outside the years 1..9999. */
bool mb__time_in_range(int64_t us);

#endif
