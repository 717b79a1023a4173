/* base/log.c: one log line, built in a fixed buffer and handed over whole.
 * Must not know who logs or why, and must not fail: a line too long is cut, never lost.
 * Called by everything that has a bus. */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"

#define CUT      "..." /* ends what did not fit */
#define TAIL_MAX 8     /* room kept for CUT, a closing quote, a brace and the newline */

typedef struct line {
  char data[MB_LOG_LINE_MAX];
  size_t len;
} line;

#define FOLD_US 1000000

static atomic_bool program_json; /* the form of the program's own lines */

static const char *const NAMES[] = {"error", "warn", "info", "debug"};
static const char *const LABELS[] = {"ERROR", "WARN ", "INFO ", "DEBUG"};

void mb__log_init(mb_log *log, const char *level, bool json) {
  *log = (mb_log){.level = MB_LOG_INFO, .json = json};
  if (json) mb_log_program_json();
  for (int i = MB_LOG_ERROR; i <= MB_LOG_DEBUG; i++) {
    if (strcmp(level, NAMES[i]) == 0) log->level = (mb_level)i;
  }
}

/* All or nothing, keeping the tail free. */
static bool put(line *l, const char *text, size_t len) {
  if (l->len + len > sizeof l->data - TAIL_MAX) return false;
  memcpy(l->data + l->len, text, len);
  l->len += len;
  return true;
}

/* Into the tail: the few bytes that close what was opened. */
static void close_with(line *l, const char *text) {
  size_t len = strlen(text);
  memcpy(l->data + l->len, text, len);
  l->len += len;
}

/* Length of the valid UTF-8 sequence at text, which ends in NUL; 0 if there is none. */
static size_t sequence(const unsigned char *text) {
  unsigned char c = text[0];
  if (c < 0x80) return 1;
  size_t len = c >= 0xC2 && c <= 0xDF ? 2 : (c & 0xF0) == 0xE0 ? 3 : c >= 0xF0 && c <= 0xF4 ? 4 : 0;
  for (size_t i = 1; i < len; i++) {
    if ((text[i] & 0xC0) != 0x80) return 0;
  }
  bool overlong = (c == 0xE0 && text[1] < 0xA0) || (c == 0xF0 && text[1] < 0x90);
  bool surrogate = c == 0xED && text[1] > 0x9F;
  bool beyond = c == 0xF4 && text[1] > 0x8F;
  return overlong || surrogate || beyond ? 0 : len;
}

/* One character as it stands inside a JSON string: the piece to write, how much of text it is. */
static const char *escape(const unsigned char *text, bool quoted, char piece[8], size_t *taken) {
  static const char SHORT[] = "\b\f\n\r\t", LETTER[] = "bfnrt";
  size_t len = sequence(text);
  *taken = len ? len : 1;
  if (text[0] == 0xC0 && text[1] == 0x80) { /* a NUL byte: mb__text_keep */
    *taken = 2;
    return strcpy(piece, "\\u0000");
  }
  if (!len) return strcpy(piece, "\xEF\xBF\xBD");
  if (quoted && (*text == '"' || *text == '\\')) {
    snprintf(piece, 8, "\\%c", *text);
  } else if (*text < 0x20 || *text == 0x7F) {
    const char *known = strchr(SHORT, *text);
    if (known)
      snprintf(piece, 8, "\\%c", LETTER[known - SHORT]);
    else
      snprintf(piece, 8, "\\u%04x", *text);
  } else if (*text == 0xC2 && text[1] < 0xA0) { /* U+0080 to U+009F: terminals obey some */
    snprintf(piece, 8, "\\u%04x", text[1]);
  } else {
    memcpy(piece, text, len);
    piece[len] = '\0';
  }
  return piece;
}

/* text with its control characters escaped and its invalid bytes replaced, so that a line stays one
 * line whatever is in it. quoted: also what would end a quoted string. */
static void put_escaped(line *l, const char *text, bool quoted) {
  const unsigned char *at = (const unsigned char *)text;
  while (*at) {
    char piece[8];
    size_t taken;
    escape(at, quoted, piece, &taken);
    if (!put(l, piece, strlen(piece))) {
      close_with(l, CUT);
      return;
    }
    at += taken;
  }
}

static bool is_plain(const char *text) {
  if (!*text) return false;
  for (const unsigned char *at = (const unsigned char *)text; *at;) {
    size_t len = sequence(at);
    if (!len || *at <= ' ' || *at == 0x7F || strchr("\"\\=", *at)) return false;
    at += len;
  }
  return true;
}

static void put_value(line *l, const char *text, bool quoted) {
  if (quoted) close_with(l, "\"");
  put_escaped(l, text, quoted);
  if (quoted) close_with(l, "\"");
}

static void put_string(line *l, const char *text) {
  put_value(l, text, true);
}

/* 2026-01-02T03:04:05.678Z */
static void put_time(line *l) {
  struct timespec now;
  struct tm tm;
  char text[64];
  clock_gettime(CLOCK_REALTIME, &now);
  gmtime_r(&now.tv_sec, &tm);
  size_t len = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
  len += (size_t)snprintf(text + len, sizeof text - len, ".%03ldZ", now.tv_nsec / 1000000);
  put(l, text, len);
}

static void begin(line *l, const mb_log *log, mb_level level, const char *message) {
  l->len = 0;
  if (!log->json) {
    put_time(l);
    put(l, " ", 1);
    put(l, LABELS[level], 5);
    put(l, " ", 1);
    put_escaped(l, message, false);
    return;
  }
  put(l, "{\"time\":\"", 9);
  put_time(l);
  put(l, "\",\"level\":\"", 11);
  put(l, NAMES[level], strlen(NAMES[level]));
  put(l, "\",\"message\":", 12);
  put_string(l, message);
}

/* A pair whose name no longer fits is left out; a value is cut. */
static void put_pair(line *l, bool json, const char *name, const char *value) {
  size_t start = l->len;
  const char *open = json ? ",\"" : " ", *middle = json ? "\":" : "=";
  bool fits = put(l, open, strlen(open));
  for (const unsigned char *at = (const unsigned char *)name; fits && *at;) {
    char piece[8];
    size_t taken;
    escape(at, json, piece, &taken);
    fits = put(l, piece, strlen(piece));
    at += taken;
  }
  /* The quote that put_value opens must leave the tail whole. */
  if (!fits || !put(l, middle, strlen(middle)) || !put(l, "\"", 1)) {
    l->len = start;
    return;
  }
  l->len--;
  put_value(l, value, json || !is_plain(value));
}

/* A pair whose value stands as it is, in JSON. */
static void put_token(line *l, const char *name, const char *token) {
  size_t start = l->len;
  put_pair(l, true, name, "");
  if (l->len == start) return;
  l->len -= 2; /* its quotes */
  if (!put(l, token, strlen(token))) l->len = start;
}

static void put_number(line *l, const char *name, int64_t number) {
  char text[32];
  snprintf(text, sizeof text, "%lld", (long long)number);
  put_token(l, name, text);
}

static void put_field(line *l, bool json, const mb_log_field *field) {
  char text[MB_LOG_LINE_MAX]; /* what is longer is cut by the line anyway */
  if (field->is_number && json) {
    put_number(l, field->name, field->number);
    return;
  }
  if (field->is_number)
    snprintf(text, sizeof text, "%lld", (long long)field->number);
  else if (field->text.data)
    snprintf(text, sizeof text, "%.*s", (int)field->text.len, field->text.data);
  else
    return;
  if (json && field->is_json)
    put_token(l, field->name, text);
  else
    put_pair(l, json, field->name, text);
}

/* Which process it is, for lines of several in one stream. */
static void put_process(line *l) {
  const char *worker = getenv("MOONBUS_WORKER");
  put_number(l, "pid", getpid());
  if (worker && *worker) put_number(l, "worker", atoi(worker));
}

static void put_bus(line *l, const mb_log *log) {
  if (!log->json || !log->process) return;
  put_process(l);
  if (!log->group) return;
  put_pair(l, true, "group", log->group);
  put_pair(l, true, "topic", log->topic);
}

static void end(line *l, const mb_log *log, mb_level level) {
  if (log->json) close_with(l, "}");
  l->data[l->len] = '\0';
  if (log->fn) {
    log->fn(level, l->data, log->opaque);
    return;
  }
  int saved = errno;
  l->data[l->len] = '\n';
  while (write(STDERR_FILENO, l->data, l->len + 1) < 0 && errno == EINTR) {
  }
  errno = saved;
}

void mb__log(mb_log *log, mb_level level, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  mb__log_args(log, level, NULL, 0, fmt, args);
  va_end(args);
}

void mb__log_fields(mb_log *log, mb_level level, const char *message, const mb_log_field *fields,
                    size_t count, bool shown) {
  if (!mb__log_on(log, level)) return;
  line l;
  begin(&l, log, level, message);
  put_bus(&l, log);
  for (size_t i = 0; (log->json || shown) && i < count; i++) put_field(&l, log->json, &fields[i]);
  end(&l, log, level);
}

void mb__log_args(mb_log *log, mb_level level, const mb_log_field *fields, size_t count,
                  const char *fmt, va_list args) {
  if (!mb__log_on(log, level)) return;
  char message[MB_LOG_LINE_MAX];
  if (vsnprintf(message, sizeof message, fmt, args) < 0) message[0] = '\0';
  mb__log_fields(log, level, message, fields, count, false);
}

void mb__log_at(mb_log *log, mb_level level, int32_t partition, int64_t offset, const char *fmt,
                ...) {
  mb_log_field fields[] = {{.name = "partition", .number = partition, .is_number = true},
                           {.name = "offset", .number = offset, .is_number = offset >= 0}};
  va_list args;
  va_start(args, fmt);
  mb__log_args(log, level, fields, 2, fmt, args);
  va_end(args);
}

/* ---- folding ---- */

static int64_t mono_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void unfold(mb_log *log, mb_log_fold *fold, int64_t now_us) {
  mb_log_field held = {.name = "count", .number = fold->held, .is_number = true};
  char message[sizeof fold->message + 64];
  fold->key = 0;
  log->folding--;
  if (!fold->held) return;
  snprintf(message, sizeof message, "%u more within %.1f s: %s", fold->held,
           (double)(now_us - fold->since_us) / 1e6, fold->message);
  mb__log_fields(log, fold->level, message, &held, 1, false);
}

void mb__log_unfold(mb_log *log, bool all) {
  if (!log->folding) return;
  int64_t now_us = mono_us();
  for (int i = 0; i < MB_LOG_FOLDS; i++)
    if (log->folds[i].key && (all || now_us - log->folds[i].since_us >= FOLD_US))
      unfold(log, &log->folds[i], now_us);
}

void mb__log_folded(mb_log *log, mb_level level, const char *message, const mb_log_field *fields,
                    size_t count, const char *same) {
  if (!mb__log_on(log, level)) return;
  uint64_t key = mb__hash(0, (mb_bytes){same, strlen(same)});
  mb__log_unfold(log, false);
  mb_log_fold *place = &log->folds[0];
  for (int i = 0; i < MB_LOG_FOLDS; i++) {
    mb_log_fold *fold = &log->folds[i];
    if (fold->key == key) {
      fold->held++;
      return;
    }
    if (place->key && (!fold->key || fold->since_us < place->since_us)) place = fold;
  }
  if (place->key) unfold(log, place, mono_us());
  *place = (mb_log_fold){.key = key, .since_us = mono_us(), .level = level};
  snprintf(place->message, sizeof place->message, "%s", same);
  log->folding++;
  mb__log_fields(log, level, message, fields, count, false);
}

/* ---- the program's own lines ---- */

void mb_log_program_json(void) {
  atomic_store(&program_json, true);
}

bool mb_log_program_is_json(void) {
  return atomic_load(&program_json);
}

void mb_log_program(mb_level level, const char *prefix, const char *text) {
  mb_log log = {.level = MB_LOG_DEBUG, .json = true, .process = true};
  if (!mb_log_program_is_json()) {
    fflush(stdout);
    fprintf(stderr, "%s%s\n", prefix, text); /* in one write, as workers share it */
    return;
  }
  line l;
  begin(&l, &log, level, text);
  put_bus(&l, &log);
  end(&l, &log, level);
}
