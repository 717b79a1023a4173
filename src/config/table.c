/* config/table.c: the option table. Must not know configurations. Called by the rest of config/,
 * and through moonbus.h by what documents the options. */
#include "config/config.h"

static const mb_row TABLE[MB_OPT_COUNT] = {
#define ROW(key, section, type, choices, def, unit, min, max, kafka, flags, help)                  \
  [MB_OPT_##key] = {                                                                               \
      {#key, section, #type, choices, def, unit, min, max, kafka, ((flags)&MB_SECRET) != 0, help}, \
      MB_T_##type,                                                                                 \
      flags},
    MB__OPTIONS(ROW)
#undef ROW
};

static const char *const OLD_NAMES[MB_OPT_COUNT] = {
#define OLD(old, key) [MB_OPT_##key] = #old,
    MB__RENAMED_OPTIONS(OLD)
#undef OLD
};

const mb_row *mb__conf_row(mb_opt id) {
  return &TABLE[id];
}

const char *mb__conf_old_name(mb_opt id) {
  return OLD_NAMES[id];
}

const mb_option *mb_option_at(size_t i) {
  return i < MB_OPT_COUNT ? &TABLE[i].public : NULL;
}
