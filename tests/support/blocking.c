/* blocking.c: calls into librdkafka that do not return for as long as a file is there. Preloaded:
 * MB_BLOCK_FILE holds the name of the call; the first that is made takes the file's place with
 * MB_BLOCK_FILE.now, and returns once that is removed. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void may_block(const char *name) {
  const char *path = getenv("MB_BLOCK_FILE");
  char armed[64] = "", now[512];
  FILE *file = path ? fopen(path, "r") : NULL;
  if (!file) return;
  if (!fgets(armed, sizeof armed, file)) armed[0] = 0;
  fclose(file);
  if (strcmp(armed, name)) return;
  snprintf(now, sizeof now, "%s.now", path);
  if (rename(path, now)) return;
  while (!access(now, F_OK)) usleep(1000);
}

#define BLOCK(type, name, parameters, arguments)                                                   \
  type name parameters;                                                                            \
  type name parameters {                                                                           \
    type(*real) parameters;                                                                        \
    *(void **)&real = dlsym(RTLD_NEXT, #name);                                                     \
    may_block(#name);                                                                              \
    return real arguments;                                                                         \
  }

BLOCK(void *, rd_kafka_init_transactions, (void *rk, int ms), (rk, ms))
BLOCK(void *, rd_kafka_begin_transaction, (void *rk), (rk))
BLOCK(void *, rd_kafka_send_offsets_to_transaction, (void *rk, void *list, void *member, int ms),
      (rk, list, member, ms))
BLOCK(void *, rd_kafka_commit_transaction, (void *rk, int ms), (rk, ms))
BLOCK(void *, rd_kafka_abort_transaction, (void *rk, int ms), (rk, ms))
BLOCK(int, rd_kafka_metadata, (void *rk, int all, void *topic, void *found, int ms),
      (rk, all, topic, found, ms))
BLOCK(void, rd_kafka_destroy_flags, (void *rk, int flags), (rk, flags))
