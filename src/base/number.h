/* base/number.h: decimal text <-> numbers, the same in every locale. */
#ifndef MB_NUMBER_H
#define MB_NUMBER_H

#include "moonbus.h"

/* 10^k for k = 0..22: all that a double holds exactly. */
#define MB_EXACT_POWERS 22
extern const double mb__power10[MB_EXACT_POWERS + 1];

/* Read the JSON number at *at. On success *at is behind it, *value (may be NULL) its value, and
 * NULL is returned; else a static error text, and *at is where. */
const char *mb__number_read(const char **at, const char *end, mb_value *value);

/* The exponent of a valid number: at is at its 'e', or at its end. Saturates far beyond what
 * matters. */
int64_t mb__number_exponent(const char *at, const char *end);

/* strtod in the "C" locale. */
double mb__strtod(const char *text);

#endif
