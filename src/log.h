/* log.h: leveled log lines, as text for people or as JSON for machines. */
#ifndef MB_LOG_H
#define MB_LOG_H

#include "moonbus.h"

#define MB_LOG_LINE_MAX 8192 /* bytes of a line, its newline included; what is longer is cut */

typedef struct mb_log {
  mb_level level; /* the least important lines written */
  bool json;
  mb_log_fn fn; /* NULL = stderr */
  void *opaque;
} mb_log;

/* Level and form as the configuration has them, lines to stderr. */
void mb__log_init(mb_log *log, const mb_config *conf);

/* For arguments that are dear to compute. log NULL = nothing is on. */
static inline bool mb__log_on(const mb_log *log, mb_level level) {
  return log && level <= log->level;
}

void mb__log(mb_log *log, mb_level level, const char *fmt, ...) MB_PRINTF(3, 4);

/* With details: name and value in turn, then NULL. A value of NULL leaves its pair out. */
void mb__logkv(mb_log *log, mb_level level, const char *message, ...)
#if defined(__GNUC__)
    __attribute__((sentinel))
#endif
    ;

#endif
