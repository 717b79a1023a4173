/* error.h: how every file says what went wrong. */
#ifndef MB_ERROR_H
#define MB_ERROR_H

#include "moonbus.h"

/* Write a sentence into errstr (NULL allowed) and return err. */
mb_err mb__error(mb_err err, char *errstr, size_t errstr_size, const char *fmt, ...)
    MB_PRINTF(4, 5);

#endif
