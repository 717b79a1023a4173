/* base/error.h: how every file says what went wrong. */
#ifndef MB_ERROR_H
#define MB_ERROR_H

#include "moonbus.h"

/* Write a sentence into errstr (NULL allowed) and return err. */
mb_err mb__error(mb_err err, char *errstr, size_t errstr_size, const char *fmt, ...)
    MB_PRINTF(4, 5);
/* snprintf; what does not fit ends with "...", never in the middle of a character. */
void mb__text(char *text, size_t size, const char *fmt, ...) MB_PRINTF(3, 4);
/* The end of a text that did not fit into its size bytes. */
void mb__text_cut(char *text, size_t size);

/* Users' bytes in a text that ends in NUL: a NUL among them is kept as the bytes C0 80, which no
 * UTF-8 has. What does not fit ends with "...". */
void mb__text_keep(char *text, size_t size, mb_bytes bytes);
/* Whether a kept NUL is at *at, which then goes behind it. */
bool mb__text_skip_nul(const char **at);
/* The same text with its NUL bytes, in place; its length. */
size_t mb__text_bytes(char *text);

#endif
