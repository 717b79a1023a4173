/* config/config.c: a configuration: values by option, with their sources.
 * Must not know what the options mean to each other or to librdkafka.
 * Called by bus/bus.c, the program and the Lua side. */
#include "config/config.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define ENV_PREFIX "MOONBUS_"

/* ---- life -------------------------------------------------------------- */

mb_config *mb_config_new(void) {
  mb_config *conf = calloc(1, sizeof *conf);
  if (!conf) return NULL;
  for (int id = 0; id < MB_OPT_COUNT; id++) {
    const char *def = mb__conf_row((mb_opt)id)->public.def;
    if (!def) continue;
    if (mb__config_parse(mb__conf_row((mb_opt)id), def, &conf->slots[id], NULL, 0)) {
      mb_config_free(conf);
      return NULL;
    }
  }
  return conf;
}

static void forget_derived(mb_config *conf) {
  free(conf->topic_name);
  free(conf->dlq_topic_name);
  conf->topic_name = conf->dlq_topic_name = NULL;
}

void mb_config_free(mb_config *conf) {
  if (!conf) return;
  for (int id = 0; id < MB_OPT_COUNT; id++) free(conf->slots[id].text);
  for (size_t i = 0; i < conf->property_count; i++) {
    free(conf->properties[i].name);
    free(conf->properties[i].value);
  }
  free(conf->properties);
  free(conf->bootstrap);
  forget_derived(conf);
  free(conf);
}

/* {hostname}-{8 hex}; false when out of memory or of entropy. */
static bool make_consumer_name(mb_config *conf) {
  mb_slot *slot = &conf->slots[MB_OPT_consumer_name];
  if (slot->text) return true;
  char host[256] = "";
  unsigned random;
  if (gethostname(host, sizeof host - 1) || !host[0]) strcpy(host, "localhost");
  if (getrandom(&random, sizeof random, 0) != sizeof random) return false;
  char *name = NULL;
  if (asprintf(&name, "%s-%08x", host, random) < 0) return false;
  slot->text = name;
  return true;
}

static bool copy_properties(mb_config *to, const mb_config *from) {
  if (!from->property_count) return true;
  to->properties = calloc(from->property_count, sizeof *to->properties);
  if (!to->properties) return false;
  to->property_cap = from->property_count;
  for (size_t i = 0; i < from->property_count; i++) {
    mb_property *property = &to->properties[to->property_count++];
    property->name = strdup(from->properties[i].name);
    property->value = strdup(from->properties[i].value);
    property->clients = from->properties[i].clients;
    if (!property->name || !property->value) return false;
  }
  return true;
}

mb_config *mb__config_copy(const mb_config *conf) {
  mb_config *copy = calloc(1, sizeof *copy);
  if (!copy) return NULL;
  for (int id = 0; id < MB_OPT_COUNT; id++) {
    const mb_slot *slot = &conf->slots[id];
    copy->slots[id] = *slot;
    copy->slots[id].text = NULL;
    if (slot->text && !(copy->slots[id].text = strdup(slot->text))) goto fail;
  }
  if (conf->bootstrap && !(copy->bootstrap = strdup(conf->bootstrap))) goto fail;
  if (!copy_properties(copy, conf) || !make_consumer_name(copy)) goto fail;
  return copy;
fail:
  mb_config_free(copy);
  return NULL;
}

/* ---- reading ----------------------------------------------------------- */

int64_t mb__conf_int(const mb_config *conf, mb_opt id) {
  return conf->slots[id].as.i;
}

double mb__conf_num(const mb_config *conf, mb_opt id) {
  return conf->slots[id].as.d;
}

bool mb__conf_bool(const mb_config *conf, mb_opt id) {
  return conf->slots[id].as.b;
}

const char *mb__conf_str(const mb_config *conf, mb_opt id) {
  const char *text = conf->slots[id].text;
  return text ? text : mb__conf_row((mb_opt)id)->public.def;
}

bool mb__conf_is(const mb_config *conf, mb_opt id, const char *choice) {
  const char *text = mb__conf_str(conf, id);
  return text && strcmp(text, choice) == 0;
}

mb_source mb__conf_source(const mb_config *conf, mb_opt id) {
  return conf->slots[id].source;
}

bool mb__conf_uses_sasl(const mb_config *conf) {
  return mb__conf_is(conf, MB_OPT_security_protocol, "SASL_PLAINTEXT") ||
         mb__conf_is(conf, MB_OPT_security_protocol, "SASL_SSL");
}

bool mb__conf_uses_scram(const mb_config *conf) {
  const char *mechanism = mb__conf_str(conf, MB_OPT_sasl_mechanism);
  return mb__conf_uses_sasl(conf) && mechanism && strncmp(mechanism, "SCRAM-", 6) == 0;
}

bool mb__conf_uses_ssl(const mb_config *conf) {
  return mb__conf_is(conf, MB_OPT_security_protocol, "SSL") ||
         mb__conf_is(conf, MB_OPT_security_protocol, "SASL_SSL");
}

bool mb__conf_broker_assigns(const mb_config *conf) {
  return mb__conf_is(conf, MB_OPT_group_protocol, "consumer");
}

bool mb__conf_uses_oauth(const mb_config *conf) {
  return mb__conf_uses_sasl(conf) && mb__conf_is(conf, MB_OPT_sasl_mechanism, "OAUTHBEARER");
}

bool mb__config_is_embedded(const mb_config *conf) {
  return mb__conf_is(conf, MB_OPT_bootstrap_servers, "embedded");
}

mb_err mb__config_resolve(mb_config *conf, const char *address) {
  char *copy = strdup(address);
  if (!copy) return MB_ENOMEM;
  free(conf->bootstrap);
  conf->bootstrap = copy;
  return MB_OK;
}

static int find_option(const char *key) {
  for (int id = 0; id < MB_OPT_COUNT; id++) {
    if (strcmp(mb__conf_row((mb_opt)id)->public.key, key) == 0) return id;
    if (mb__conf_old_name((mb_opt)id) && strcmp(mb__conf_old_name((mb_opt)id), key) == 0) return id;
  }
  return -1;
}

static const char *derived(mb_config *conf, bool dlq) {
  char **name = dlq ? &conf->dlq_topic_name : &conf->topic_name;
  if (!*name && asprintf(name, "%s.stream%s", mb__conf_str(conf, MB_OPT_topic_prefix),
                         dlq ? mb__conf_str(conf, MB_OPT_dlq_topic_suffix) : "") < 0) {
    *name = NULL;
  }
  return *name;
}

const char *mb_config_get(mb_config *conf, const char *key) {
  if (!conf || !key) return NULL;
  if (strcmp(key, "topic_name") == 0) return derived(conf, false);
  if (strcmp(key, "dlq_topic_name") == 0) return derived(conf, true);
  int id = find_option(key);
  if (id < 0) return NULL;
  if (id == MB_OPT_consumer_name && !make_consumer_name(conf)) return NULL;
  return mb__conf_str(conf, (mb_opt)id);
}

const char *mb__config_shown(mb_config *conf, const char *key) {
  const char *text = mb_config_get(conf, key);
  int id = text ? find_option(key) : -1;
  return id >= 0 && mb__conf_row((mb_opt)id)->public.secret ? "***" : text;
}

/* ---- setting ----------------------------------------------------------- */

static mb_err unknown_key(const char *key, char *errstr, size_t errstr_size) {
  if (strcmp(key, "topic_name") == 0 || strcmp(key, "dlq_topic_name") == 0) {
    return mb__error(MB_ECONFIG, errstr, errstr_size,
                     "option \"%s\" cannot be set, it follows from topic_prefix%s", key,
                     key[0] == 'd' ? " and dlq_topic_suffix" : "");
  }
  mb_nearest nearest = {.word = key, .parts = true};
  const char *meant = NULL;
  for (int id = 0; id < MB_OPT_COUNT && !meant; id++) {
    const mb_option *option = &mb__conf_row((mb_opt)id)->public;
    if (option->kafka && strcmp(option->kafka, key) == 0) meant = option->key;
    mb__nearest_offer(&nearest, option->key);
  }
  if (!meant && nearest.best[0]) meant = nearest.best;
  if (meant) {
    return mb__error(MB_ECONFIG, errstr, errstr_size,
                     "unknown option \"%.100s\"; did you mean \"%s\"?", key, meant);
  }
  if (strchr(key, '.')) {
    return mb__error(MB_ECONFIG, errstr, errstr_size,
                     "unknown option \"%.100s\"; a librdkafka property belongs in kafka = "
                     "{ [\"%.100s\"] = ... }",
                     key, key);
  }
  return mb__error(MB_ECONFIG, errstr, errstr_size,
                   "unknown option \"%.100s\"; the manual lists all options "
                   "(lua/manual/07-options.md)",
                   key);
}

/* heartbeat_interval_ms, while nobody sets it: its default, or a third of a short session. */
static mb_err follow_session(mb_config *conf, char *errstr, size_t errstr_size) {
  mb_slot fresh = {.source = MB_FROM_DEFAULT}, *slot = &conf->slots[MB_OPT_heartbeat_interval_ms];
  if (slot->source != MB_FROM_DEFAULT) return MB_OK;
  const mb_row *row = mb__conf_row(MB_OPT_heartbeat_interval_ms);
  long long third = mb__conf_int(conf, MB_OPT_session_timeout_ms) / 3,
            usual = atoll(row->public.def);
  char text[32];
  snprintf(text, sizeof text, "%lld", third > usual ? usual : third > 1 ? third : 1);
  mb_err err = mb__config_parse(row, text, &fresh, errstr, errstr_size);
  if (err) return err;
  free(slot->text);
  *slot = fresh;
  return MB_OK;
}

mb_err mb_config_set(mb_config *conf, const char *key, const char *value, mb_source source,
                     char *errstr, size_t errstr_size) {
  if (!conf || !key || !value) {
    return mb__error(MB_EINVAL, errstr, errstr_size,
                     "mb_config_set needs a configuration, a key and a value");
  }
  int id = find_option(key);
  if (id < 0) return unknown_key(key, errstr, errstr_size);
  /* The value is checked even where a higher source keeps its own: a mistake is a mistake. */
  mb_slot fresh = {.source = source,
                   .by_old_name = strcmp(key, mb__conf_row((mb_opt)id)->public.key) != 0};
  mb_err err = mb__config_parse(mb__conf_row((mb_opt)id), value, &fresh, errstr, errstr_size);
  if (err) return err;
  mb_slot *slot = &conf->slots[id];
  if (slot->source > source) {
    free(fresh.text);
    return MB_OK;
  }
  free(slot->text);
  *slot = fresh;
  forget_derived(conf);
  if (id == MB_OPT_session_timeout_ms) return follow_session(conf, errstr, errstr_size);
  return MB_OK;
}

static void change_case(char *text, int (*to)(int)) {
  for (; *text; text++) *text = (char)to((unsigned char)*text);
}

/* A variable whose name is almost that of an option is a mistake; other names are not for moonbus.
 * entry is "NAME=value". */
static mb_err check_variable(const char *entry, char *errstr, size_t errstr_size) {
  const char *begin = entry + strlen(ENV_PREFIX), *end = strchr(begin, '=');
  char key[MB_NAME_MAX + 1];
  size_t len = end ? (size_t)(end - begin) : 0;
  if (!len || !end[1] || len > MB_NAME_MAX) return MB_OK;
  memcpy(key, begin, len);
  key[len] = 0;
  change_case(key, tolower);
  if (find_option(key) >= 0) return MB_OK;
  mb_nearest nearest = {.word = key};
  for (int id = 0; id < MB_OPT_COUNT; id++)
    mb__nearest_offer(&nearest, mb__conf_row((mb_opt)id)->public.key);
  if (!nearest.best[0] || !nearest.distance) return MB_OK;
  change_case(nearest.best, toupper);
  return mb__error(MB_ECONFIG, errstr, errstr_size,
                   "environment %.*s: no option has that name; did you mean " ENV_PREFIX "%s?",
                   (int)(end - entry), entry, nearest.best);
}

/* The option's variable under one of its names. */
static mb_err set_variable(mb_config *conf, const char *key, char *errstr, size_t errstr_size) {
  char name[80], reason[512];
  snprintf(name, sizeof name, ENV_PREFIX "%s", key);
  change_case(name, toupper);
  const char *value = getenv(name);
  if (!value || !*value) return MB_OK;
  mb_err err = mb_config_set(conf, key, value, MB_FROM_ENV, reason, sizeof reason);
  return err ? mb__error(err, errstr, errstr_size, "environment %s: %s", name, reason) : MB_OK;
}

/* An empty variable counts as not there, as `VAR=${UNSET}` in a unit or compose file leaves it. */
mb_err mb_config_set_env(mb_config *conf, char *errstr, size_t errstr_size) {
  for (int id = 0; id < MB_OPT_COUNT; id++) {
    mb_err err = MB_OK;
    if (mb__conf_old_name((mb_opt)id))
      err = set_variable(conf, mb__conf_old_name((mb_opt)id), errstr, errstr_size);
    if (!err) err = set_variable(conf, mb__conf_row((mb_opt)id)->public.key, errstr, errstr_size);
    if (err) return err;
  }
  for (char **entry = environ; entry && *entry; entry++) {
    if (strncmp(*entry, ENV_PREFIX, strlen(ENV_PREFIX)) != 0) continue;
    mb_err err = check_variable(*entry, errstr, errstr_size);
    if (err) return err;
  }
  return MB_OK;
}
