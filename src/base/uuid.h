/* base/uuid.h: UUIDs, made and read. */
#ifndef MB_UUID_H
#define MB_UUID_H

#include "moonbus.h"

#define MB_UUID_LEN 36

/* A random (version 4) UUID in lower case; entropy is drawn in blocks, not by a call each time.
 * Writes 36 bytes, no NUL. Thread-safe (per-thread block), and never repeats across fork(). */
void mb__uuid_random(char out[MB_UUID_LEN]);
/* A name-based (version 5) UUID, RFC 9562: the same name in the same name space, a UUID in
 * canonical form, gives the same UUID. space NULL: the RFC's own for URLs. */
void mb__uuid_from_name(char out[MB_UUID_LEN], const char *space, mb_bytes name);
/* Lenient: upper case, braces, urn:uuid:, 32 hex digits. Writes the lower-case hyphenated form.
 * false if the text is not a UUID. canonical, which may be NULL: the text has that form already.
 */
bool mb__uuid_parse(mb_bytes text, char out[MB_UUID_LEN], bool *canonical);

#endif
