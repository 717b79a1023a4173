/* wire.h: what the codec's files share among themselves. */
#ifndef MB_WIRE_H
#define MB_WIRE_H

#include "codec.h"
#include "error.h"

/* ---- codec.c: sentences ---- */

#define MB_SHOWN_MAX 64
/* Text made fit for a message: cut to some 40 bytes at a character's edge with "...", control
 * characters and bytes that are no UTF-8 as '?'. Ends in NUL. */
const char *mb__shown(char out[MB_SHOWN_MAX], mb_bytes text);

static inline bool mb__same(mb_bytes a, mb_bytes b) {
  return a.len == b.len && (!a.len || !memcmp(a.data, b.data, a.len));
}

/* The base field of that name, or -1. */
int mb__base_field(mb_bytes name);

/* ---- uuid.c, timestamp.c ---- */

/* at has 36 bytes: are they a lower-case UUID with hyphens? */
bool mb__uuid_canonical(const char *at);
bool mb__time_read(mb_bytes text, int64_t *us, bool *canonical);
/* Epoch seconds or, beyond 2e10, milliseconds. */
bool mb__time_of_number(const mb_value *number, int64_t *us);

/* ---- fit.c ---- */

/* What a value is, for "got ...", from its JSON text. */
#define MB_GOT_MAX 96
const char *mb__got(char out[MB_GOT_MAX], mb_bytes raw);

#endif
