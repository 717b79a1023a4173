/* log.c: one log line, built in a fixed buffer and handed over whole.
 * Must not know who logs or why, and must not fail: a line too long is cut, never lost.
 * Called by everything that has a bus. */
#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "config.h"

#define CUT      "..." /* ends what did not fit */
#define TAIL_MAX 8     /* room kept for CUT, a closing quote, a brace and the newline */

typedef struct line {
  char data[MB_LOG_LINE_MAX];
  size_t len;
} line;

static const char *const NAMES[] = {"error", "warn", "info", "debug"};
static const char *const LABELS[] = {"ERROR", "WARN ", "INFO ", "DEBUG"};

void mb__log_init(mb_log *log, const mb_config *conf) {
  *log = (mb_log){.level = MB_LOG_INFO, .json = mb__conf_is(conf, MB_OPT_log_format, "json")};
  for (int i = MB_LOG_ERROR; i <= MB_LOG_DEBUG; i++) {
    if (mb__conf_is(conf, MB_OPT_log_level, NAMES[i])) log->level = (mb_level)i;
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
  if (!mb__log_on(log, level)) return;
  char message[MB_LOG_LINE_MAX];
  va_list args;
  va_start(args, fmt);
  int len = vsnprintf(message, sizeof message, fmt, args);
  va_end(args);
  if (len < 0) message[0] = '\0';
  line l;
  begin(&l, log, level, message);
  end(&l, log, level);
}

void mb__logkv(mb_log *log, mb_level level, const char *message, ...) {
  if (!mb__log_on(log, level)) return;
  line l;
  begin(&l, log, level, message);
  va_list args;
  va_start(args, message);
  for (const char *name; (name = va_arg(args, const char *));) {
    const char *value = va_arg(args, const char *);
    if (value) put_pair(&l, log->json, name, value);
  }
  va_end(args);
  end(&l, log, level);
}
