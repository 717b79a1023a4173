/* config/value.c: text -> one option's value.
 * Must not know configurations or sources.
 * Called by config/config.c for every set. */
#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config/config.h"

static mb_err keep(mb_slot *slot, const char *text, size_t len, char *errstr, size_t errstr_size) {
  slot->text = strndup(text, len);
  if (slot->text) return MB_OK;
  return mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
}

/* "0 to 900000 ms" */
static const char *bounds(const mb_option *option, char *to, size_t size) {
  snprintf(to, size, "%.10g to %.10g%s%s", option->min, option->max, option->unit ? " " : "",
           option->unit ? option->unit : "");
  return to;
}

static mb_err out_of_bounds(const mb_option *option, const char *text, char *errstr,
                            size_t errstr_size) {
  char range[80];
  return mb__error(MB_ECONFIG, errstr, errstr_size, "%s: %.40s is out of bounds; %s is allowed",
                   option->key, text, bounds(option, range, sizeof range));
}

static mb_err parse_integer(const mb_option *option, const char *text, mb_slot *slot, char *errstr,
                            size_t errstr_size) {
  char range[80], plain[32];
  const char *digits = text + (*text == '-');
  if (!*digits || digits[strspn(digits, "0123456789")]) {
    return mb__error(MB_ECONFIG, errstr, errstr_size,
                     "%s: \"%.40s\" is not an integer; write a whole number, %s", option->key, text,
                     bounds(option, range, sizeof range));
  }
  errno = 0;
  long long i = strtoll(text, NULL, 10);
  if (errno || (double)i < option->min || (double)i > option->max) {
    return out_of_bounds(option, text, errstr, errstr_size);
  }
  slot->as.i = i;
  snprintf(plain, sizeof plain, "%lld", i);
  return keep(slot, plain, strlen(plain), errstr, errstr_size);
}

static mb_err parse_number(const mb_option *option, const char *text, mb_slot *slot, char *errstr,
                           size_t errstr_size) {
  char range[80], *end = NULL;
  double d = 0;
  /* The host program's locale must not decide whether 0.1 is a number. */
  locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
  if (!plain) return mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
  if (*text && !text[strspn(text, "0123456789.eE+-")]) d = strtod_l(text, &end, plain);
  freelocale(plain);
  if (!end || end == text || *end) {
    return mb__error(MB_ECONFIG, errstr, errstr_size,
                     "%s: \"%.40s\" is not a number; write a decimal number, %s", option->key, text,
                     bounds(option, range, sizeof range));
  }
  if (!(d >= option->min && d <= option->max)) {
    return out_of_bounds(option, text, errstr, errstr_size);
  }
  slot->as.d = d;
  return keep(slot, text, strlen(text), errstr, errstr_size);
}

static mb_err parse_boolean(const mb_option *option, const char *text, mb_slot *slot, char *errstr,
                            size_t errstr_size) {
  static const char *const NAMES[][2] = {
      {"false", "true"}, {"0", "1"}, {"no", "yes"}, {"off", "on"}};
  for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
    for (int b = 0; b < 2; b++) {
      if (strcasecmp(text, NAMES[i][b])) continue;
      slot->as.b = b;
      return keep(slot, NAMES[0][b], strlen(NAMES[0][b]), errstr, errstr_size);
    }
  }
  return mb__error(MB_ECONFIG, errstr, errstr_size,
                   "%s: \"%.40s\" is not a boolean; write true or false", option->key, text);
}

/* "a|b|c" -> "a, b or c" */
static void spell_choices(const char *choices, char *to, size_t size) {
  size_t len = 0;
  while (*choices && len + 1 < size) {
    size_t n = strcspn(choices, "|");
    const char *rest = choices + n + (choices[n] == '|');
    const char *glue = !*rest ? "" : strchr(rest, '|') ? ", " : " or ";
    int wrote = snprintf(to + len, size - len, "%.*s%s", (int)n, choices, glue);
    len += wrote > 0 ? (size_t)wrote : 0;
    choices = rest;
  }
}

static mb_err parse_choice(const mb_row *row, const char *text, mb_slot *slot, char *errstr,
                           size_t errstr_size) {
  const mb_option *option = &row->public;
  size_t len = strlen(text);
  if (row == mb__conf_row(MB_OPT_acks) && strcmp(text, "-1") == 0) {
    return keep(slot, "all", 3, errstr, errstr_size);
  }
  for (const char *at = option->choices; *at;) {
    size_t n = strcspn(at, "|");
    if (n == len && memcmp(at, text, n) == 0) return keep(slot, text, len, errstr, errstr_size);
    at += n + (at[n] == '|');
  }
  char choices[160];
  spell_choices(option->choices, choices, sizeof choices);
  return mb__error(MB_ECONFIG, errstr, errstr_size, "%s: \"%.40s\" is not possible; choose %s",
                   option->key, text, choices);
}

static int assignor(const char *name, size_t len) {
  static const char *const NAMES[] = {"range", "roundrobin", "cooperative-sticky"};
  for (int i = 0; i < 3; i++) {
    if (strlen(NAMES[i]) == len && memcmp(NAMES[i], name, len) == 0) return i;
  }
  return -1;
}

/* A list of assignors, white space around the names allowed; kept without it. */
static mb_err parse_assignors(const char *key, const char *text, mb_slot *slot, char *errstr,
                              size_t errstr_size) {
  char list[64];
  size_t len = 0;
  int seen = 0;
  for (const char *at = text;;) {
    at += strspn(at, " \t");
    size_t n = strcspn(at, ", \t");
    int which = assignor(at, n);
    const char *next = at + n + strspn(at + n, " \t");
    if (which < 0 || seen & 1 << which || (*next && *next != ',')) {
      return mb__error(MB_ECONFIG, errstr, errstr_size,
                       "%s: \"%.80s\" is not possible; list roundrobin and range, each at "
                       "most once, or cooperative-sticky alone",
                       key, text);
    }
    seen |= 1 << which;
    len += (size_t)snprintf(list + len, sizeof list - len, "%s%.*s", len ? "," : "", (int)n, at);
    if (!*next) break;
    at = next + 1;
  }
  if (seen & 4 && seen != 4) {
    return mb__error(MB_ECONFIG, errstr, errstr_size,
                     "%s: cooperative-sticky must be the only one in the list: a group cannot "
                     "mix it with range or roundrobin",
                     key);
  }
  return keep(slot, list, len, errstr, errstr_size);
}

mb_err mb__config_parse(const mb_row *row, const char *text, mb_slot *slot, char *errstr,
                        size_t errstr_size) {
  const mb_option *option = &row->public;
  if (!*text && !option->def) {
    slot->text = NULL;
    return MB_OK;
  }
  switch (row->type) {
  case MB_T_integer: return parse_integer(option, text, slot, errstr, errstr_size);
  case MB_T_number: return parse_number(option, text, slot, errstr, errstr_size);
  case MB_T_boolean: return parse_boolean(option, text, slot, errstr, errstr_size);
  case MB_T_choice: return parse_choice(row, text, slot, errstr, errstr_size);
  case MB_T_string: break;
  }
  if (row == mb__conf_row(MB_OPT_partition_assignment_strategy)) {
    return parse_assignors(option->key, text, slot, errstr, errstr_size);
  }
  return keep(slot, text, strlen(text), errstr, errstr_size);
}
