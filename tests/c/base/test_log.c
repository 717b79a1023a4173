/* test_log.c: the shape of log lines, whatever is in them.
 * Must not know who logs.
 * Run by ctest. */
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "check.h"

static char got[MB_LOG_LINE_MAX * 2];
static int lines;

static void keep(mb_level level, const char *line, void *opaque) {
  *(mb_level *)opaque = level;
  snprintf(got, sizeof got, "%s", line);
  lines++;
}

/* The line is `before` + a time stamp + `after`. */
static bool is(const char *before, const char *after) {
  size_t n = strlen(before);
  char shape[] = "dddd-dd-ddTdd:dd:dd.dddZ";
  bool right = strlen(got) > n + 24 && memcmp(got, before, n) == 0;
  for (int i = 0; right && shape[i]; i++) {
    char c = got[n + (size_t)i];
    right = shape[i] == 'd' ? c >= '0' && c <= '9' : c == shape[i];
  }
  right = right && strcmp(got + n + 24, after) == 0;
  if (!right) printf("# got:  %s\n# want: %s<time>%s\n", got, before, after);
  return right;
}

/* A line with fields: name and text in turn, then NULL; a text that is NULL is absent. */
static void log_pairs(mb_log *log, mb_level level, const char *message, ...) {
  mb_log_field fields[8];
  size_t count = 0;
  va_list args;
  va_start(args, message);
  for (const char *name; count < 8 && (name = va_arg(args, const char *)); count++) {
    const char *text = va_arg(args, const char *);
    fields[count] = (mb_log_field){.name = name, .text = {text, text ? strlen(text) : 0}};
  }
  va_end(args);
  mb__log_fields(log, level, message, fields, count, true);
}

static void test_text(void) {
  mb_level level = MB_LOG_DEBUG;
  mb_log log = {.level = MB_LOG_INFO, .fn = keep, .opaque = &level};
  mb__log(&log, MB_LOG_INFO, "hello %d", 5);
  ok(is("", " INFO  hello 5") && level == MB_LOG_INFO, "a text line is time, level, message");
  mb__log(&log, MB_LOG_ERROR, "100%%");
  ok(is("", " ERROR 100%") && level == MB_LOG_ERROR, "the callback gets the level");
  lines = 0;
  mb__log(&log, MB_LOG_DEBUG, "no");
  log_pairs(&log, MB_LOG_DEBUG, "no", "k", "v", NULL);
  mb__log(NULL, MB_LOG_ERROR, "no");
  ok(lines == 0, "less important lines are not written");
  ok(mb__log_on(&log, MB_LOG_WARN) && !mb__log_on(&log, MB_LOG_DEBUG), "mb__log_on says so");
  log_pairs(&log, MB_LOG_WARN, "message", "key", "value", "k2", "va lue", "k3", "", "k4", NULL,
            "k5", "a=\"b\"\\", NULL);
  ok(is("", " WARN  message key=value k2=\"va lue\" k3=\"\" k5=\"a=\\\"b\\\"\\\\\""),
     "pairs follow, quoted where they must be; a NULL value leaves its pair out");
  log_pairs(&log, MB_LOG_INFO, "two\nlines\r\x1b[1m\x7f\xC2\x9B", "k", "a\tb\x01", NULL);
  ok(is("", " INFO  two\\nlines\\r\\u001b[1m\\u007f\\u009b k=\"a\\tb\\u0001\""),
     "control characters cannot break or colour a line");
  log_pairs(&log, MB_LOG_INFO, "b\xC3\xBC\xFF", "k", "\xE2\x82\xAC", "k2", "\xC3", NULL);
  ok(is("", " INFO  b\xC3\xBC\xEF\xBF\xBD k=\xE2\x82\xAC k2=\"\xEF\xBF\xBD\""),
     "UTF-8 stays, invalid bytes are replaced");
}

static void test_places(void) {
  mb_level level = MB_LOG_DEBUG;
  mb_log log = {.level = MB_LOG_INFO, .json = true, .fn = keep, .opaque = &level};
  mb__log_at(&log, MB_LOG_WARN, 3, 41, "offset %d", 41);
  ok(is("{\"time\":\"", "\",\"level\":\"warn\",\"message\":\"offset 41\",\"partition\":3,"
                        "\"offset\":41}"),
     "a line about an offset has partition and offset as numbers");
  mb__log_at(&log, MB_LOG_WARN, 0, -1, "paused");
  ok(is("{\"time\":\"", "\",\"level\":\"warn\",\"message\":\"paused\",\"partition\":0}"),
     "one about a partition has no offset");
  lines = 0;
  mb__log_at(&log, MB_LOG_DEBUG, 0, 0, "no");
  ok(lines == 0, "less important lines about a partition are not written");
  log.json = false;
  mb__log_at(&log, MB_LOG_WARN, 3, 41, "offset %d", 41);
  ok(is("", " WARN  offset 41"), "as text the message alone says where");
}

static void test_json(void) {
  mb_level level;
  mb_log log = {.level = MB_LOG_DEBUG, .json = true, .fn = keep, .opaque = &level};
  const char *head = "{\"time\":\"";
  mb__log(&log, MB_LOG_DEBUG, "say \"hi\" \\ %s", "x");
  ok(is(head, "\",\"level\":\"debug\",\"message\":\"say \\\"hi\\\" \\\\ x\"}"),
     "a JSON line is one object");
  log_pairs(&log, MB_LOG_INFO, "m", "topic", "a.b", "no", NULL, "text", "1\n2\x02", NULL);
  ok(is(head, "\",\"level\":\"info\",\"message\":\"m\",\"topic\":\"a.b\",\"text\":\"1\\n2\\u0002"
              "\"}"),
     "pairs become members");
  /* overlong, surrogate, beyond U+10FFFF, cut short, a lone continuation */
  static const char *const BAD[] = {"\xC0\x81", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE2\x82",
                                    "\x80",     "\xE0\x80\x80", "\xF0\x80\x80\x80", "\xF8"};
  bool replaced = true;
  for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
    char want[200] = "\",\"level\":\"info\",\"message\":\"m\",\"k\":\"";
    for (size_t j = 0; j < strlen(BAD[i]); j++) strcat(want, "\xEF\xBF\xBD");
    log_pairs(&log, MB_LOG_INFO, "m", "k", BAD[i], NULL);
    replaced = is(head, strcat(want, "\"}")) && replaced;
  }
  ok(replaced, "each invalid byte becomes U+FFFD");
  log_pairs(&log, MB_LOG_INFO, "m", "k", "a\xC0\x80z", NULL);
  ok(strstr(got, "\"k\":\"a\\u0000z\"}") != NULL, "a NUL that was kept is one");
  log_pairs(&log, MB_LOG_INFO, "m", "k", "\xF0\x9F\x8C\x99", NULL);
  ok(strstr(got, "\"k\":\"\xF0\x9F\x8C\x99\"}") != NULL, "four-byte characters stay");
}

static bool ends(const char *tail) {
  size_t len = strlen(got), n = strlen(tail);
  return len >= n && strcmp(got + len - n, tail) == 0;
}

/* Around the ceiling nothing may break, wherever the cut falls. */
static void test_ceiling(void) {
  mb_level level;
  char *text = malloc(20001);
  mb_log log = {.level = MB_LOG_INFO, .fn = keep, .opaque = &level};
  bool text_ok = true, json_ok = true, message_ok = true;
  for (size_t len = 8000; len < 8300; len++) {
    /* what grows when escaped, and what must not be torn */
    for (size_t i = 0; i < len; i++) text[i] = i % 3 == 0 ? '"' : i % 3 == 1 ? '\xC3' : '\xBC';
    text[len - len % 3] = '\0';
    log.json = true;
    log_pairs(&log, MB_LOG_INFO, "m", "k", text + (len % 7) * 3, "k2", "v", "k3", text, NULL);
    json_ok = json_ok && strlen(got) < MB_LOG_LINE_MAX && ends("...\"}") && !strstr(got, "\"k2\"");
    memset(text, 'x', len);
    text[len] = '\0';
    log_pairs(&log, MB_LOG_INFO, text, "key", "value", "k", "", NULL);
    message_ok = message_ok && strlen(got) < MB_LOG_LINE_MAX && ends("\"}");
    log.json = false;
    log_pairs(&log, MB_LOG_INFO, text, "key", "value", "k", "a b", NULL);
    text_ok = text_ok && strlen(got) < MB_LOG_LINE_MAX;
    memset(text + len, 'y', 20000 - len);
    text[20000] = '\0';
    mb__log(&log, MB_LOG_INFO, "%s", text);
    text_ok = text_ok && strlen(got) < MB_LOG_LINE_MAX && ends("...");
  }
  free(text);
  ok(json_ok, "a JSON line too long is cut inside a value and stays JSON");
  ok(message_ok, "a message at the ceiling leaves a whole JSON object");
  ok(text_ok, "a text line too long is cut");
}

static void test_stderr(void) {
  int ends_[2], saved = dup(STDERR_FILENO);
  if (pipe(ends_)) return;
  dup2(ends_[1], STDERR_FILENO);
  mb_log log = {.level = MB_LOG_INFO};
  mb__log(&log, MB_LOG_INFO, "to stderr");
  dup2(saved, STDERR_FILENO);
  close(saved);
  close(ends_[1]);
  ssize_t n = read(ends_[0], got, sizeof got - 1);
  close(ends_[0]);
  got[n > 0 ? n : 0] = '\0';
  ok(is("", " INFO  to stderr\n"), "without a callback lines go to stderr, with a newline");
}

static void test_init(void) {
  static const char *const NAMES[] = {"error", "warn", "info", "debug"};
  mb_log log = {.fn = keep};
  bool levels = true;
  for (int i = MB_LOG_ERROR; i <= MB_LOG_DEBUG; i++) {
    mb__log_init(&log, NAMES[i], false);
    levels = log.level == (mb_level)i && levels;
  }
  ok(levels && !log.json && !log.fn, "log_level sets the level, and lines go to stderr as text");
  mb__log_init(&log, "info", true);
  ok(log.json && log.level == MB_LOG_INFO, "log_format sets the form");
}

int main(void) {
  test_text();
  test_json();
  test_places();
  test_ceiling();
  test_stderr();
  test_init();
  return done();
}
