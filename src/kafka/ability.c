/* kafka/ability.c: compares what a configuration asks for with what the librdkafka in use can do.
 * Must not know buses. Called by mb_config_check, `moonbus version` and kafka/refusal.c. */
#include "kafka/ability.h"

#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "config/config.h"

static const struct row {
  int since;
  const char *since_text, *feature;
  bool broker_decides;
  const char *what;
} ROWS[] = {
#define MB__ROW(id, since, since_text, feature, broker_decides, what)                              \
  {since, since_text, feature, broker_decides, what},
    MB__ABILITIES(MB__ROW)
#undef MB__ROW
};

/* True if the row needs no feature, or one that is in librdkafka's list of those compiled in. */
static bool is_built_in(const struct row *row) {
  const char *at = mb_rdkafka_features();
  while (row->feature && *at) {
    size_t len = strcspn(at, ",");
    if (len == strlen(row->feature) && memcmp(at, row->feature, len) == 0) return true;
    at += len + (at[len] == ',');
  }
  return !row->feature;
}

bool mb__able(mb_ability ability) {
  const struct row *row = &ROWS[ability];
  return rd_kafka_version() >= row->since && is_built_in(row);
}

size_t mb__able_why(mb_ability ability, char *text, size_t size) {
  const struct row *row = &ROWS[ability];
  bool old = rd_kafka_version() < row->since;
  int len = snprintf(text, size, "%s needs librdkafka %s or newer%s%s, and this is %s%s; %s",
                     row->what, row->since_text, old ? "" : " built with ", old ? "" : row->feature,
                     rd_kafka_version_str(), old ? "" : " built without it",
                     row->since <= MB__SETUP_RDKAFKA
                         ? "install one with scripts/setup --librdkafka, then build again"
                         : "install one, and build with -DMB_SYSTEM_LIBRDKAFKA=ON and its "
                           "rdkafka.pc in PKG_CONFIG_PATH");
  return len < 0 ? 0 : (size_t)len;
}

mb_err mb__able_check(mb_ability ability, char *errstr, size_t errstr_size) {
  const struct row *row = &ROWS[ability];
  char why[MB_WHY_MAX];
  if (mb__able(ability) || (row->broker_decides && is_built_in(row))) return MB_OK;
  mb__able_why(ability, why, sizeof why);
  return mb__error(MB_ECONFIG, errstr, errstr_size, "%s", why);
}

/* Abilities that the configuration asks for, one after the other; MB_ABLE_COUNT = no more. */
static mb_ability next_asked(const mb_config *conf, mb_ability from) {
  const char *strategy = mb__conf_str(conf, MB_OPT_partition_assignment_strategy);
  bool asked[MB_ABLE_COUNT] = {[MB_ABLE_COOPERATIVE] =
                                   strategy && strstr(strategy, "cooperative-sticky"),
                               [MB_ABLE_SCRAM] = mb__conf_uses_scram(conf),
                               [MB_ABLE_OIDC] = mb__conf_uses_oauth(conf),
                               [MB_ABLE_CONSUMER_PROTOCOL] = mb__conf_broker_assigns(conf)};
  while (from < MB_ABLE_COUNT && !asked[from]) from++;
  return from;
}

mb_err mb_config_check(mb_config *conf, char *errstr, size_t errstr_size) {
  mb_err err = mb__config_check(conf, errstr, errstr_size);
  for (mb_ability i = 0; !err && (i = next_asked(conf, i)) < MB_ABLE_COUNT; i++)
    err = mb__able_check(i, errstr, errstr_size);
  return err;
}

bool mb_requirement_at(size_t i, mb_requirement *requirement) {
  if (i >= MB_ABLE_COUNT) return false;
  *requirement = (mb_requirement){.what = ROWS[i].what,
                                  .since = ROWS[i].since_text,
                                  .feature = ROWS[i].feature,
                                  .met = mb__able((mb_ability)i)};
  if (!requirement->met) mb__able_why((mb_ability)i, requirement->why, sizeof requirement->why);
  return true;
}
