/* kafka/conf.c: the librdkafka configurations made of a configuration, and the properties a user
 * passes through.
 * Must not know what the bus does with the clients.
 * Called by kafka/producer.c, group/consumer.c and the readers; mb_config_set_kafka by everyone. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "config/config.h"
#include "kafka/conf.h"

#define FAIL(...) mb__error(MB_ECONFIG, errstr, errstr_size, __VA_ARGS__)

#define REQUEST_MS 10000LL /* for the answer to a request; librdkafka's default is a minute */

/* What the engine depends on. Applied last; value NULL = never set by a user, set elsewhere. */
static const struct fixed {
  const char *name, *value;
  unsigned clients;
  const char *why;
} FIXED[] = {
    {"enable.auto.commit", "false", MB_TO_CONSUMERS,
     "offsets are committed once their events are settled, see commit_interval_ms"},
    {"auto.commit.enable", NULL, 0,
     "offsets are committed once their events are settled, see commit_interval_ms"},
    {"enable.auto.offset.store", "false", MB_TO_CONSUMERS,
     "an offset is stored once its event is settled"},
    {"partitioner", "murmur2_random", MB_TO_PRODUCER,
     "a key must go to the same partition whichever client publishes it"},
    {"log.queue", "true", MB_TO_ALL, "the bus takes the client's log lines on its own thread"},
    {"enable.partition.eof", "true", MB_TO_CONSUMERS, "the bus needs to know a partition's end"},
    {"enable.idempotence", NULL, 0, "it follows from acks: on with all, off with 1 and 0"},
    {"transactional.id", NULL, 0, "it follows from the options delivery and transactional_id"},
    {"sasl.oauthbearer.method", NULL, 0, "with sasl_mechanism OAUTHBEARER it is oidc"},
    {"enable.sasl.oauthbearer.unsecure.jwt", NULL, 0,
     "with sasl_mechanism OAUTHBEARER tokens come from sasl_oauthbearer_token_endpoint_url"},
};

/* ---- what librdkafka says of its properties ---------------------------- */

typedef struct property_info {
  char name[80], alias_of[80];
  unsigned clients; /* 0 = librdkafka does not list it */
} property_info;

/* One line of librdkafka's table: `name | C/P | range | default | importance | description`. */
static bool read_line(const char *line, size_t len, property_info *info) {
  char who[4];
  if (sscanf(line, "%79[a-z0-9_.] | %3[CP*] |", info->name, who) != 2) return false;
  info->clients = who[0] == 'P' ? MB_TO_PRODUCER : who[0] == 'C' ? MB_TO_CONSUMERS : MB_TO_ALL;
  info->alias_of[0] = '\0';
  const char *alias = memmem(line, len, "Alias for `", 11);
  if (alias) sscanf(alias, "Alias for `%79[^`]", info->alias_of);
  return true;
}

/* The table as librdkafka prints it; owned, NULL when out of memory. It is the only source
 * that separates consumer from producer properties, and has aliases, for the version in use. */
static char *properties_text(void) {
  char *text = NULL;
  size_t len = 0;
  FILE *out = open_memstream(&text, &len);
  if (!out) return NULL;
  rd_kafka_conf_properties_show(out);
  if (fclose(out) == 0) return text;
  free(text);
  return NULL;
}

/* Call fn for each property until it returns true. */
static void each_property(const char *text, bool (*fn)(const property_info *info, void *opaque),
                          void *opaque) {
  while (text && *text) {
    property_info info;
    size_t len = strcspn(text, "\n");
    if (read_line(text, len, &info) && fn(&info, opaque)) return;
    text += len + (text[len] == '\n');
  }
}

static bool take_if_named(const property_info *info, void *opaque) {
  property_info *target = opaque;
  if (strcmp(info->name, target->name)) return false;
  *target = *info;
  return true;
}

static property_info find_property(const char *text, const char *name) {
  property_info info = {.clients = 0};
  snprintf(info.name, sizeof info.name, "%s", name);
  each_property(text, take_if_named, &info);
  return info;
}

/* Both names of a property lead to one. */
static const char *canonical(const property_info *info) {
  return info->alias_of[0] ? info->alias_of : info->name;
}

/* ---- properties a user passes through ---------------------------------- */

static mb_err check_free(const char *catalog, const property_info *info, char *errstr,
                         size_t errstr_size) {
  for (size_t i = 0; i < sizeof FIXED / sizeof *FIXED; i++) {
    if (strcmp(FIXED[i].name, info->name) && strcmp(FIXED[i].name, canonical(info))) continue;
    return FAIL("kafka property \"%s\" cannot be set%s%s: %s", info->name,
                FIXED[i].value ? ", it is always " : "", FIXED[i].value ? FIXED[i].value : "",
                FIXED[i].why);
  }
  for (int id = 0; id < MB_OPT_COUNT; id++) {
    const mb_option *option = &mb__conf_row((mb_opt)id)->public;
    if (!option->kafka) continue;
    property_info governed = find_property(catalog, option->kafka);
    if (strcmp(canonical(&governed), canonical(info))) continue;
    return FAIL("kafka property \"%s\" is governed by the option %s; set that instead", info->name,
                option->key);
  }
  return MB_OK;
}

static bool offer_name(const property_info *info, void *opaque) {
  mb__nearest_offer(opaque, info->name);
  return false;
}

/* Let librdkafka judge name and value on a configuration made for that. */
static mb_err check_value(const char *catalog, const char *name, const char *value, char *errstr,
                          size_t errstr_size) {
  char reason[512] = "";
  rd_kafka_conf_t *scratch = rd_kafka_conf_new();
  rd_kafka_conf_res_t result = rd_kafka_conf_set(scratch, name, value, reason, sizeof reason);
  rd_kafka_conf_destroy(scratch);
  if (result == RD_KAFKA_CONF_OK) return MB_OK;
  if (result == RD_KAFKA_CONF_INVALID) {
    return FAIL("kafka property \"%.80s\": librdkafka refuses the value: %s", name, reason);
  }
  mb_nearest nearest = {.word = name, .parts = true};
  each_property(catalog, offer_name, &nearest);
  if (nearest.best[0]) {
    return FAIL("unknown kafka property \"%.80s\"; did you mean \"%s\"?", name, nearest.best);
  }
  return FAIL("unknown kafka property \"%.80s\"; librdkafka %s does not have it", name,
              rd_kafka_version_str());
}

static mb_property *slot_for(mb_config *conf, const char *name) {
  for (size_t i = 0; i < conf->property_count; i++) {
    if (strcmp(conf->properties[i].name, name) == 0) return &conf->properties[i];
  }
  if (conf->property_count == conf->property_cap) {
    size_t cap = conf->property_cap ? conf->property_cap * 2 : 8;
    mb_property *grown = realloc(conf->properties, cap * sizeof *grown);
    if (!grown) return NULL;
    conf->properties = grown;
    conf->property_cap = cap;
  }
  char *copy = strdup(name);
  if (!copy) return NULL;
  mb_property *property = &conf->properties[conf->property_count++];
  *property = (mb_property){.name = copy};
  return property;
}

static mb_err remember(mb_config *conf, const property_info *info, const char *value) {
  char *copy = strdup(value);
  mb_property *property = copy ? slot_for(conf, info->name) : NULL;
  if (!property) {
    free(copy);
    return MB_ENOMEM;
  }
  free(property->value);
  property->value = copy;
  /* Properties librdkafka hides from its table are not warned about: they go to every client. */
  property->clients = info->clients ? info->clients : MB_TO_ALL;
  return MB_OK;
}

mb_err mb_config_set_kafka(mb_config *conf, const char *property, const char *value, char *errstr,
                           size_t errstr_size) {
  if (!conf || !property || !value) {
    return mb__error(MB_EINVAL, errstr, errstr_size,
                     "mb_config_set_kafka needs a configuration, a property and a value");
  }
  char *catalog = properties_text();
  if (!catalog) return mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
  /* librdkafka takes "topic.acks" for "acks": no way round what is governed. Some names begin so by
   * themselves. */
  while (strncmp(property, "topic.", 6) == 0 && !find_property(catalog, property).clients)
    property += 6;
  property_info info = find_property(catalog, property);
  mb_err err = strlen(property) < sizeof info.name ? check_free(catalog, &info, errstr, errstr_size)
                                                   : MB_OK; /* too long to be a property: unknown */
  if (!err) err = check_value(catalog, property, value, errstr, errstr_size);
  free(catalog);
  if (err) return err;
  err = remember(conf, &info, value);
  return err ? mb__error(err, errstr, errstr_size, "out of memory") : MB_OK;
}

/* ---- configurations ---------------------------------------------------- */

/* The option's value in librdkafka's words; NULL = leave the property alone. */
static const char *property_value(const mb_config *conf, mb_opt id) {
  switch (id) {
  case MB_OPT_bootstrap_servers:
    if (conf->bootstrap) return conf->bootstrap;
    return mb__config_is_embedded(conf) ? NULL : mb__conf_str(conf, id);
  case MB_OPT_acks: return mb__conf_is(conf, id, "all") ? "-1" : mb__conf_str(conf, id);
  /* It is for groups that have committed nothing: group/rebalance.c. An offset that the log no
   * longer holds is no reason to skip what it holds. */
  case MB_OPT_auto_offset_reset: return "earliest";
  case MB_OPT_group_protocol: /* librdkafka before 2.4 has no such property */
    return mb__conf_broker_assigns(conf) ? mb__conf_str(conf, id) : NULL;
  case MB_OPT_ssl_check_hostname: return mb__conf_bool(conf, id) ? "https" : "none";
  default: return mb__conf_str(conf, id);
  }
}

static bool apply(rd_kafka_conf_t *kafka, const char *name, const char *value, const char *option,
                  char *errstr, size_t errstr_size) {
  char reason[512];
  if (rd_kafka_conf_set(kafka, name, value, reason, sizeof reason) == RD_KAFKA_CONF_OK) return true;
  (void)FAIL("%s%slibrdkafka refuses %s: %s", option ? option : "", option ? ": " : "", name,
             reason);
  return false;
}

static bool apply_options(rd_kafka_conf_t *kafka, const mb_config *conf, unsigned client,
                          char *errstr, size_t errstr_size) {
  for (int id = 0; id < MB_OPT_COUNT; id++) {
    const mb_row *row = mb__conf_row((mb_opt)id);
    if (!row->public.kafka || !(row->flags & client)) continue;
    if (row->flags & MB_ONLY_SASL && !mb__conf_uses_sasl(conf)) continue;
    if (row->flags & MB_ONLY_SSL && !mb__conf_uses_ssl(conf)) continue;
    if (row->flags & MB_ONLY_CLASSIC && mb__conf_broker_assigns(conf)) continue;
    if (row->flags & MB_ONLY_OAUTH && !mb__conf_uses_oauth(conf)) continue;
    const char *value = property_value(conf, (mb_opt)id);
    if (!value) continue;
    if (!apply(kafka, row->public.kafka, value, row->public.key, errstr, errstr_size)) return false;
  }
  return true;
}

static bool apply_fixed(rd_kafka_conf_t *kafka, unsigned client, char *errstr, size_t errstr_size) {
  for (size_t i = 0; i < sizeof FIXED / sizeof *FIXED; i++) {
    if (!(FIXED[i].clients & client)) continue;
    if (!apply(kafka, FIXED[i].name, FIXED[i].value, NULL, errstr, errstr_size)) return false;
  }
  return true;
}

/* A broker that hangs, or a coordinator that another broker has become, is noticed when a request
 * times out. For transactions librdkafka takes their own time limit. */
static bool apply_request_timeout(rd_kafka_conf_t *kafka, const mb_config *conf, unsigned client,
                                  char *errstr, size_t errstr_size) {
  long long fetch_ms = mb__conf_int(conf, MB_OPT_fetch_wait_max_ms) + 1000;
  char text[24];
  if (client & MB_TO_PRODUCER && mb__conf_is(conf, MB_OPT_delivery, "exactly_once")) return true;
  snprintf(text, sizeof text, "%lld", fetch_ms > REQUEST_MS ? fetch_ms : REQUEST_MS);
  return apply(kafka, "socket.timeout.ms", text, NULL, errstr, errstr_size);
}

/* What a user may change through kafka = {...}. Connections are tried again within a second:
 * librdkafka (2.0.2 and 2.8.0 alike) looks for records past message.timeout.ms only when it wakes
 * to reconnect. */
static bool apply_usual(rd_kafka_conf_t *kafka, const mb_config *conf, unsigned client,
                        char *errstr, size_t errstr_size) {
  /* See mb__consumer_heard. */
  if (client & MB_TO_GROUP && mb__conf_broker_assigns(conf) &&
      !apply(kafka, "debug", "cgrp", NULL, errstr, errstr_size))
    return false;
  /* How soon a full queue is looked at again; librdkafka before 2.2 does not know it:
   * kafka/prefetch.c.
   */
  if (client & MB_TO_CONSUMERS) rd_kafka_conf_set(kafka, "fetch.queue.backoff.ms", "10", NULL, 0);
  /* They show which partitions a broker answers for. */
  if (client & (MB_TO_PRODUCER | MB_TO_GROUP) &&
      !apply(kafka, "statistics.interval.ms", "3000", NULL, errstr, errstr_size))
    return false;
  return apply_request_timeout(kafka, conf, client, errstr, errstr_size) &&
         apply(kafka, "reconnect.backoff.ms", "100", NULL, errstr, errstr_size) &&
         apply(kafka, "reconnect.backoff.max.ms", "1000", NULL, errstr, errstr_size);
}

static rd_kafka_conf_t *build(const mb_config *conf, unsigned client, char *errstr,
                              size_t errstr_size) {
  rd_kafka_conf_t *kafka = rd_kafka_conf_new();
  if (!apply_options(kafka, conf, client, errstr, errstr_size)) goto fail;
  if (!apply_usual(kafka, conf, client, errstr, errstr_size)) goto fail;
  if (mb__conf_uses_oauth(conf) &&
      !apply(kafka, "sasl.oauthbearer.method", "oidc", "sasl_mechanism", errstr, errstr_size))
    goto fail;
  for (size_t i = 0; i < conf->property_count; i++) {
    const mb_property *property = &conf->properties[i];
    if (!(property->clients & client)) continue;
    if (mb__conf_broker_assigns(conf) && !strcmp(property->name, MB__PROTOCOL_TYPE)) continue;
    if (!apply(kafka, property->name, property->value, "kafka", errstr, errstr_size)) goto fail;
  }
  if (!apply_fixed(kafka, client, errstr, errstr_size)) goto fail;
  return kafka;
fail:
  rd_kafka_conf_destroy(kafka);
  return NULL;
}

rd_kafka_conf_t *mb__config_producer(const mb_config *conf, char *errstr, size_t errstr_size) {
  rd_kafka_conf_t *kafka = build(conf, MB_TO_PRODUCER, errstr, errstr_size);
  const char *idempotent = mb__conf_is(conf, MB_OPT_acks, "all") ? "true" : "false";
  if (kafka && !apply(kafka, "enable.idempotence", idempotent, "acks", errstr, errstr_size)) {
    rd_kafka_conf_destroy(kafka);
    return NULL;
  }
  return kafka;
}

rd_kafka_conf_t *mb__config_consumer(const mb_config *conf, char *errstr, size_t errstr_size) {
  return build(conf, MB_TO_GROUP, errstr, errstr_size);
}

rd_kafka_conf_t *mb__config_reader(const mb_config *conf, char *errstr, size_t errstr_size) {
  rd_kafka_conf_t *kafka = build(conf, MB_TO_READER, errstr, errstr_size);
  if (!kafka) return NULL;
  unsigned random = 0;
  char group[32];
  /* Only a name: should entropy fail, two readers with the same one do not disturb each other. */
  if (getrandom(&random, sizeof random, 0) < 0) random = 0;
  snprintf(group, sizeof group, "moonbus-reader-%08x", random);
  if (apply(kafka, "group.id", group, NULL, errstr, errstr_size) &&
      apply(kafka, "auto.offset.reset", "earliest", NULL, errstr, errstr_size)) {
    return kafka;
  }
  rd_kafka_conf_destroy(kafka);
  return NULL;
}

mb_err mb__config_refused(const mb_config *conf, const char *client, const char *why, char *errstr,
                          size_t errstr_size) {
  for (int id = 0; id < MB_OPT_COUNT; id++) {
    const mb_option *option = &mb__conf_row((mb_opt)id)->public;
    const char *value = mb__conf_str(conf, (mb_opt)id);
    if (!option->kafka || !value || !strstr(why, option->kafka)) continue;
    return mb__error(MB_ECONFIG, errstr, errstr_size, "%s = \"%s\": the %s cannot start: %s",
                     option->key, option->secret ? "***" : value, client, why);
  }
  return mb__error(MB_ECONFIG, errstr, errstr_size, "the %s cannot start: %s", client, why);
}
