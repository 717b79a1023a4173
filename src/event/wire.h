/* event/wire.h: what the codec's files share among themselves. */
#ifndef MB_WIRE_H
#define MB_WIRE_H

#include "base/error.h"
#include "event/codec.h"

/* ---- event/codec.c: sentences ---- */

#define MB_SHOWN_MAX 64
/* Text made fit for a message: cut to some 40 bytes at a character's edge with "...", control
 * characters and bytes that are no UTF-8 as '?'. Ends in NUL. */
const char *mb__shown(char out[MB_SHOWN_MAX], mb_bytes text);

static inline bool mb__same(mb_bytes a, mb_bytes b) {
  return a.len == b.len && (!a.len || !memcmp(a.data, b.data, a.len));
}

/* The base field of that name, or -1. */
int mb__base_field(mb_bytes name);

/* ---- event/decode_plain.c ---- */

/* Read members from field next on, as long as each is the schema's next and stands as we write it.
 * The cursor is at a ',' or '}' or, with *first, behind the '{'; and then behind the last value
 * that was read. Their values and whether they are present go to the decoder. Returns the first
 * field that was not read; of that, decoder->values may be spoilt. */
size_t mb__read_straight(const mb_schema *schema, size_t next, mb_json *json, bool *first,
                         mb_decoder *decoder);

/* ---- event/fit.c ---- */

/* What a value is, for "got ...", from its JSON text. */
#define MB_GOT_MAX 96
const char *mb__got(char out[MB_GOT_MAX], mb_bytes raw);

#endif
