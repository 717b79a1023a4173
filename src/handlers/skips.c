/* handlers/skips.c: counts skipped events by type, in a short list.
 * Must not decide what is skipped: deliver/deliver.c does.
 * Called by deliver/deliver.c for each such event, and by bus/close.c when a bus disconnects. */
#include "handlers/skips.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REPORT_MAX 4096

static bool is_type(const mb_skip *skip, mb_bytes type) {
  return skip->type && skip->len == type.len && memcmp(skip->type, type.data, type.len) == 0;
}

/* The type's entry: a new one, that of all other types, or NULL without memory for one. */
static mb_skip *entry_of(mb_skips *skips, mb_bytes type) {
  if (skips->last < skips->count && is_type(&skips->list[skips->last], type))
    return &skips->list[skips->last];
  for (skips->last = 0; skips->last < skips->count; skips->last++)
    if (is_type(&skips->list[skips->last], type)) return &skips->list[skips->last];
  if (!skips->list) skips->list = calloc(MB_SKIPS_MAX + 1, sizeof *skips->list);
  if (!skips->list) return NULL;
  mb_skip *skip = &skips->list[skips->count];
  if (skips->count == MB_SKIPS_MAX) return skip;
  skip->type = malloc(type.len + 1);
  if (!skip->type) return NULL;
  memcpy(skip->type, type.data, type.len);
  skip->type[type.len] = '\0';
  skip->len = type.len;
  skips->count++;
  return skip;
}

void mb__skips_note(mb_skips *skips, mb_log *log, mb_bytes type) {
  mb_skip *skip = entry_of(skips, type);
  if (!skip || skip->count++) return;
  if (skip->type)
    mb__log(log, MB_LOG_INFO,
            "nothing subscribes to events of type \"%s\": they are skipped, and counted in "
            "events_skipped",
            skip->type);
  else
    mb__log(log, MB_LOG_INFO, "events of more than %d types are skipped: others are not named",
            MB_SKIPS_MAX);
}

/* Append ", 3 of "Type""; false when there is no room. */
static bool put(char *text, size_t size, size_t *len, const mb_skip *skip) {
  uint64_t count = skip->count - skip->reported;
  int n =
      snprintf(text + *len, size - *len, skip->type ? "%s%" PRIu64 " \"%s\"" : "%s%" PRIu64 "%s",
               *len ? ", " : "", count, skip->type ? skip->type : " of other types");
  if (n < 0 || (size_t)n >= size - *len) return false;
  *len += (size_t)n;
  return true;
}

void mb__skips_report(mb_skips *skips, mb_log *log) {
  char text[REPORT_MAX];
  size_t len = 0, left_out = 0;
  for (size_t i = 0; skips->list && i <= skips->count && i <= MB_SKIPS_MAX; i++) {
    mb_skip *skip = &skips->list[i];
    if (skip->count == skip->reported) continue;
    if (!put(text, sizeof text, &len, skip)) {
      text[len] = '\0';
      left_out++;
    }
    skip->reported = skip->count;
  }
  if (!len) return;
  if (left_out)
    mb__log(log, MB_LOG_INFO,
            "events skipped, as nothing subscribes to them: %s, and %zu types more", text,
            left_out);
  else
    mb__log(log, MB_LOG_INFO, "events skipped, as nothing subscribes to them: %s", text);
}

void mb__skips_free(mb_skips *skips) {
  for (size_t i = 0; i < skips->count; i++) free(skips->list[i].type);
  free(skips->list);
  *skips = (mb_skips){0};
}
