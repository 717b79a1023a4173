/* group/marks.h: which events past a group's committed offset are settled all the same, as text
 * that goes with the commit, so that the next owner of the partition runs only what is left. Knows
 * offsets; no Kafka, no handlers.
 *
 * The text: "mb1 CLUSTER OFFSET W S W S ...": from OFFSET on, W offsets wait, the next S are
 * settled, and so on. It may end early: what it does not contain is not settled. One that was
 * carried to another cluster or another offset means nothing there. */
#ifndef MB_MARKS_H
#define MB_MARKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Brokers take 4,096 bytes of metadata, unless they are configured otherwise. */
#define MB_MARKS_MAX 4000

typedef struct mb_range {
  int64_t from, to; /* settled, to not included */
} mb_range;

typedef struct mb_marks {
  mb_range *ranges; /* owned; by offset, none touching another once tidied */
  size_t count, cap;
} mb_marks;

void mb__marks_free(mb_marks *marks);
/* Add a range. Without memory it is left out: its events run once more. */
void mb__marks_add(mb_marks *marks, int64_t from, int64_t to);
/* Sort and join the ranges, after additions and before anything else. */
void mb__marks_tidy(mb_marks *marks);
/* Forget what is before an offset. */
void mb__marks_drop(mb_marks *marks, int64_t offset);
bool mb__marks_has(const mb_marks *marks, int64_t offset);

/* Add what a text says of a partition whose committed offset is low; nothing when it is not ours,
 * of another place, or garbage. */
void mb__marks_parse(mb_marks *marks, const char *text, size_t len, const char *cluster,
                     int64_t low);

typedef struct mb_marks_text {
  char text[MB_MARKS_MAX + 1];
  size_t len;
  int64_t at; /* the offset after what the text contains so far */
  bool full, any;
} mb_marks_text;

/* Begin a text, and add settled ranges in their order, each at or after the end of the last. */
void mb__marks_begin(mb_marks_text *text, const char *cluster, int64_t low);
void mb__marks_put(mb_marks_text *text, int64_t from, int64_t to);

#endif
