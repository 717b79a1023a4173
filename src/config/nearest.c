/* config/nearest.c: the known name that is nearest to a mistyped one. Must not know what is named.
 * Called by config/config.c, kafka/conf.c and the Lua side for suggestions. */
#include <stdio.h>
#include <string.h>

#include "config/config.h"

static size_t least(size_t a, size_t b) {
  return a < b ? a : b;
}

/* Insertions, deletions, substitutions and swaps of neighbours between two words. */
static size_t edit_distance(const char *a, size_t a_len, const char *b, size_t b_len) {
  size_t rows[3][MB_NAME_MAX + 1];
  size_t *before = rows[0], *above = rows[1], *row = rows[2];
  for (size_t j = 0; j <= b_len; j++) above[j] = j;
  for (size_t i = 1; i <= a_len; i++) {
    row[0] = i;
    for (size_t j = 1; j <= b_len; j++) {
      bool same = a[i - 1] == b[j - 1];
      row[j] = least(above[j - 1] + !same, least(above[j], row[j - 1]) + 1);
      bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) row[j] = least(row[j], before[j - 2] + 1);
    }
    size_t *oldest = before;
    before = above;
    above = row;
    row = oldest;
  }
  return above[b_len];
}

/* "compression" and "comp" begin a part of "compression_type", "press" does not; whole: it ends
 * there, too. */
static bool is_part(const char *part, size_t part_len, const char *of, bool whole) {
  static const char separators[] = "._-";
  if (part_len < 3) return false;
  for (const char *at = strstr(of, part); at; at = strstr(at + 1, part))
    if ((at == of || strchr(separators, at[-1])) && (!whole || strchr(separators, at[part_len])))
      return true;
  return false;
}

/* SIZE_MAX: it is not near. */
static size_t distance_of(const mb_nearest *nearest, const char *name) {
  size_t word_len = strlen(nearest->word), name_len = strlen(name);
  if (word_len > MB_NAME_MAX || name_len > MB_NAME_MAX) return SIZE_MAX;
  size_t limit = word_len < 4 ? 1 : word_len < 9 ? 2 : 3;
  size_t distance = edit_distance(nearest->word, word_len, name, name_len);
  if (distance <= limit) return distance;
  bool part = nearest->parts && (is_part(nearest->word, word_len, name, false) ||
                                 is_part(name, name_len, nearest->word, true));
  return part ? MB_NAME_MAX + name_len : SIZE_MAX;
}

void mb__nearest_offer(mb_nearest *nearest, const char *name) {
  size_t distance = distance_of(nearest, name), name_len = strlen(name);
  if (distance == SIZE_MAX || (nearest->best[0] && distance >= nearest->distance)) return;
  memcpy(nearest->best, name, name_len + 1);
  nearest->distance = distance;
}
