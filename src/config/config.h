/* config/config.h: typed reading of the configuration, and the librdkafka configurations made of
 * it. For the engine; the world outside has moonbus.h. */
#ifndef MB_CONFIG_H
#define MB_CONFIG_H

#include "base/error.h"
#include "config/options.h"
#include "moonbus.h"

/* MB_OPT_<key>, in the table's order. */
typedef enum mb_opt {
#define MB__OPT(key, ...) MB_OPT_##key,
  MB__OPTIONS(MB__OPT)
#undef MB__OPT
      MB_OPT_COUNT
} mb_opt;

/* ---- reading one option: id must be of the type the function names ---- */

int64_t mb__conf_int(const mb_config *conf, mb_opt id);
double mb__conf_num(const mb_config *conf, mb_opt id);
bool mb__conf_bool(const mb_config *conf, mb_opt id);
/* Any option's text: choices and strings as set. Borrowed until the next set or free; NULL = unset.
 * consumer_name is NULL until mb__config_copy or mb_config_get made one. */
const char *mb__conf_str(const mb_config *conf, mb_opt id);
/* true if a choice has that value. */
bool mb__conf_is(const mb_config *conf, mb_opt id, const char *choice);
/* Where the value in force comes from. */
mb_source mb__conf_source(const mb_config *conf, mb_opt id);

/* ---- the whole ---- */

/* Owned copy with a consumer_name in it, made up if unset; NULL when out of memory. */
mb_config *mb__config_copy(const mb_config *conf);

/* true if bootstrap_servers is "embedded": the bus uses a broker in memory. */
bool mb__config_is_embedded(const mb_config *conf);
/* Whether Kafka takes the name; governs is what the sentence begins with. MB_ECONFIG. */
mb_err mb__topic_name_check(const char *topic, const char *governs, char *errstr,
                            size_t errstr_size);
/* The address that stands in for "embedded" in the clients; the option itself stays as it is.
 * address copied; MB_ENOMEM. */
mb_err mb__config_resolve(mb_config *conf, const char *address);

/* mb_config_get for logs and dumps: "***" in place of a secret that is set. */
const char *mb__config_shown(mb_config *conf, const char *key);

/* mb_config_check, but for what the librdkafka in use cannot do. */
mb_err mb__config_check(mb_config *conf, char *errstr, size_t errstr_size);
/* What is legal and still not wise: one call of emit per warning. Asked after mb_config_check. */
void mb__config_warnings(const mb_config *conf, void (*emit)(const char *text, void *opaque),
                         void *opaque);

/* ---- librdkafka ---- */

/* librdkafka would not make a client: its words, in which properties become the options that set
 * them, with their values. MB_ECONFIG. */
mb_err mb__config_refused(const mb_config *conf, const char *client, const char *why, char *errstr,
                          size_t errstr_size);

/* ---- between the config*.c files ---- */

/* The flags of a row. */
enum {
  MB_TO_PRODUCER = 1,
  MB_TO_GROUP = 2,
  MB_TO_READER = 4,
  MB_TO_CONSUMERS = MB_TO_GROUP | MB_TO_READER,
  MB_TO_ALL = MB_TO_PRODUCER | MB_TO_CONSUMERS,
  MB_ONLY_SASL = 8,
  MB_ONLY_SSL = 16,
  MB_SECRET = 32,
  MB_ONLY_CLASSIC = 64,
  MB_ONLY_OAUTH = 128,
};

typedef enum mb_opt_type {
  MB_T_string,
  MB_T_integer,
  MB_T_number,
  MB_T_boolean,
  MB_T_choice
} mb_opt_type;

typedef struct mb_row {
  mb_option public;
  mb_opt_type type;
  unsigned flags;
} mb_row;

typedef struct mb_slot {
  char *text; /* owned; NULL = the row's default */
  mb_source source;
  bool by_old_name; /* set under the name that the option had before */
  union {
    int64_t i;
    double d;
    bool b;
  } as;
} mb_slot;

typedef struct mb_property {
  char *name, *value; /* owned */
  unsigned clients;   /* MB_TO_... */
} mb_property;

struct mb_config {
  mb_slot slots[MB_OPT_COUNT];
  mb_property *properties; /* owned */
  size_t property_count, property_cap;
  char *bootstrap;                   /* owned; NULL unless resolved */
  char *topic_name, *dlq_topic_name; /* owned; made when first asked for */
};

const mb_row *mb__conf_row(mb_opt id);
/* The name that the option had before; NULL = it always had this one. */
const char *mb__conf_old_name(mb_opt id);
bool mb__conf_uses_sasl(const mb_config *conf);
bool mb__conf_uses_scram(const mb_config *conf);
bool mb__conf_uses_ssl(const mb_config *conf);
/* The broker shares out the partitions, and has settings of its own for what MB_ONLY_CLASSIC rows
 * and the property say. */
bool mb__conf_broker_assigns(const mb_config *conf);
#define MB__PROTOCOL_TYPE "group.protocol.type"
/* OAUTHBEARER with a token server. */
bool mb__conf_uses_oauth(const mb_config *conf);

/* Check text against the row's type and bounds: fills slot->as and slot->text (owned, in the
 * option's usual spelling; NULL for unset). */
mb_err mb__config_parse(const mb_row *row, const char *text, mb_slot *slot, char *errstr,
                        size_t errstr_size);

/* The nearest of several names to a mistyped one: start with {.word = word}, offer each, read best
 * ("" = none is near). parts: where none is, the shortest with a part (between separators) that
 * the word begins, or that is such a part of the word. */
#define MB_NAME_MAX 64 /* longer words are near to nothing */
typedef struct mb_nearest {
  const char *word;
  bool parts;
  char best[MB_NAME_MAX + 1];
  size_t distance;
} mb_nearest;
void mb__nearest_offer(mb_nearest *nearest, const char *name);

#endif
