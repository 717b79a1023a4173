/* kafka/ability.h: what a configuration may ask for that only some versions and builds of
 * librdkafka can do, as one table: `moonbus version`, the checks at the start and the manual's
 * table come from it.
 */
#ifndef MB_ABILITY_H
#define MB_ABILITY_H

#include <stdbool.h>
#include <stddef.h>

#include "moonbus.h"

/* The version that scripts/setup --librdkafka builds: a newer one is the user's to install. */
#define MB__SETUP_RDKAFKA 0x020800ff

/* cooperative-sticky: before 2.4.0 a rebalance rewinds the partitions that stay, before 2.3.0
 * closing ahead of the first assignment crashes. SCRAM: Kafka 4 refuses the nonce that is sent
 * before 2.6.1, older brokers take it.
 *
 * X(id, first version as librdkafka's hexadecimal number, the same as text, the entry of
 * builtin.features that it needs or NULL, true if an older version will do for some brokers,
 * what it is) */
#define MB__ABILITIES(X)                                                                           \
  X(COOPERATIVE, 0x020400ff, "2.4.0", NULL, false,                                                 \
    "partition_assignment_strategy = \"cooperative-sticky\"")                                      \
  X(SCRAM, 0x020601ff, "2.6.1", "sasl_scram", true, "a SCRAM login to Kafka 4")                    \
  X(OIDC, 0x010900ff, "1.9.0", "oidc", false,                                                      \
    "sasl_mechanism = \"OAUTHBEARER\" with a token server")                                        \
  X(CONSUMER_PROTOCOL, 0x020c00ff, "2.12.0", NULL, false, "group_protocol = \"consumer\"")

typedef enum mb_ability {
#define MB__ABILITY(id, ...) MB_ABLE_##id,
  MB__ABILITIES(MB__ABILITY)
#undef MB__ABILITY
      MB_ABLE_COUNT
} mb_ability;

/* True if the librdkafka in use can do it. */
bool mb__able(mb_ability ability);
/* Write a sentence that says which librdkafka is in use, which one the ability needs, and how to
 * install it. Returns its length without the NUL. */
size_t mb__able_why(mb_ability ability, char *text, size_t size);
/* MB_OK, or MB_ECONFIG with that sentence. MB_OK, too, where the broker's version decides: its
 * refusal gets the sentence then (kafka/refusal.c). */
mb_err mb__able_check(mb_ability ability, char *errstr, size_t errstr_size);

#endif
