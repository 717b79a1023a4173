/* base/log.h: leveled log lines, as text for people or as JSON for machines. */
#ifndef MB_LOG_H
#define MB_LOG_H

#include <stdarg.h>

#include "moonbus.h"

#define MB_LOG_LINE_MAX 8192 /* bytes of a line, its newline included; what is longer is cut */

#define MB_LOG_FOLDS 8

/* A detail of a line; neither text nor number = it is left out. */
typedef struct mb_log_field {
  const char *name;
  mb_bytes text; /* borrowed */
  int64_t number;
  bool is_number;
  bool is_json; /* text is a value of JSON: true, 1.5 */
} mb_log_field;

/* Lines that were held back as they equal one just written. */
typedef struct mb_log_fold {
  uint64_t key; /* 0 = not in use */
  int64_t since_us;
  unsigned held;
  mb_level level;
  char message[256];
} mb_log_fold;

typedef struct mb_log {
  mb_level level; /* the least important lines written */
  bool json;
  mb_log_fn fn; /* NULL = stderr */
  void *opaque;
  bool process;              /* lines of JSON name the process */
  const char *group, *topic; /* of the bus, borrowed: in every line of JSON; NULL = it has none */
  unsigned folding;          /* folds in use */
  mb_log_fold folds[MB_LOG_FOLDS];
} mb_log;

/* Lines to stderr. level: "error", "warn", "info" or "debug". */
void mb__log_init(mb_log *log, const char *level, bool json);

/* For arguments that are dear to compute. log NULL = nothing is on. */
static inline bool mb__log_on(const mb_log *log, mb_level level) {
  return log && level <= log->level;
}

void mb__log(mb_log *log, mb_level level, const char *fmt, ...) MB_PRINTF(3, 4);
/* With a partition and, unless it is negative, an offset as fields. */
void mb__log_at(mb_log *log, mb_level level, int32_t partition, int64_t offset, const char *fmt,
                ...) MB_PRINTF(5, 6);

/* With fields; as text they follow the message only if shown. */
void mb__log_fields(mb_log *log, mb_level level, const char *message, const mb_log_field *fields,
                    size_t count, bool shown);
/* The same, the message still to be formatted. */
void mb__log_args(mb_log *log, mb_level level, const mb_log_field *fields, size_t count,
                  const char *fmt, va_list args)
#if defined(__GNUC__)
    __attribute__((format(printf, 5, 0)))
#endif
    ;
/* The same as mb__log_fields for what may come thousands of times: of lines that are equal in
 * `same`, the first within a second is written, and how many more there were by mb__log_unfold. */
void mb__log_folded(mb_log *log, mb_level level, const char *message, const mb_log_field *fields,
                    size_t count, const char *same);
/* Write the counts that are due: of folds older than a second, or of all. Cheap without folds. */
void mb__log_unfold(mb_log *log, bool all);

#endif
