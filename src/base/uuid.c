/* base/uuid.c: makes and reads UUIDs.
 * Must not know what they name.
 * Called by the codec, and by everything that needs a new identity. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/random.h>
#include <uuid/uuid.h>

#include "base/scan.h"
#include "base/uuid.h"

#define URL_SPACE "6ba7b811-9dad-11d1-80b4-00c04fd430c8" /* of RFC 9562 */
#define BLOCK     1024 /* bytes of entropy drawn at once: 64 UUIDs */

/* Counts forks on the child's side: a block drawn before a fork must not be used after it, or both
 * processes would give the same UUIDs. */
static atomic_uint generation = 1;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void forked(void) {
  atomic_fetch_add_explicit(&generation, 1, memory_order_relaxed);
}

static void watch_forks(void) {
  pthread_atfork(NULL, NULL, forked);
}

typedef struct entropy {
  unsigned char bytes[BLOCK];
  size_t used;
  unsigned generation; /* 0 = nothing drawn yet */
} entropy;

static _Thread_local entropy pool;

static bool draw(unsigned now) {
  pthread_once(&fork_once, watch_forks);
  for (size_t at = 0; at < BLOCK;) {
    ssize_t n = getrandom(pool.bytes + at, BLOCK - at, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += (size_t)n;
  }
  pool.used = 0;
  pool.generation = now;
  return true;
}

/* 32 lower-case hex digits. */
static void write_hex(char out[32], const uuid_t id) {
#ifdef __SSE2__
  __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)id);
  __m128i low = _mm_and_si128(bytes, _mm_set1_epi8(15));
  __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
  __m128i halves[] = {_mm_unpacklo_epi8(high, low), _mm_unpackhi_epi8(high, low)};
  for (size_t i = 0; i < 2; i++) {
    __m128i letter = _mm_cmpgt_epi8(halves[i], _mm_set1_epi8(9));
    __m128i zero =
        _mm_add_epi8(_mm_set1_epi8('0'), _mm_and_si128(letter, _mm_set1_epi8('a' - '0' - 10)));
    _mm_storeu_si128((__m128i *)(void *)(out + 16 * i), _mm_add_epi8(halves[i], zero));
  }
#else
  static const char digits[] = "0123456789abcdef";
  for (size_t i = 0; i < sizeof(uuid_t); i++) {
    out[2 * i] = digits[id[i] >> 4];
    out[2 * i + 1] = digits[id[i] & 15];
  }
#endif
}

static void unparse(char out[MB_UUID_LEN], const uuid_t id) {
  char hex[32];
  write_hex(hex, id);
  memcpy(out, hex, 8);
  memcpy(out + 9, hex + 8, 4);
  memcpy(out + 14, hex + 12, 4);
  memcpy(out + 19, hex + 16, 4);
  memcpy(out + 24, hex + 20, 12);
  out[8] = out[13] = out[18] = out[23] = '-';
}

void mb__uuid_random(char out[MB_UUID_LEN]) {
  uuid_t id;
  unsigned now = atomic_load_explicit(&generation, memory_order_relaxed);
  bool ready = pool.generation == now && pool.used + sizeof id <= BLOCK;
  if (ready || draw(now)) {
    memcpy(id, pool.bytes + pool.used, sizeof id);
    pool.used += sizeof id;
    id[6] = (unsigned char)((id[6] & 0x0f) | 0x40);
    id[8] = (unsigned char)((id[8] & 0x3f) | 0x80);
  } else {
    uuid_generate_random(id); /* a kernel without getrandom: libuuid knows other ways */
  }
  unparse(out, id);
}

void mb__uuid_from_name(char out[MB_UUID_LEN], const char *space, mb_bytes name) {
  char text[MB_UUID_LEN + 1];
  uuid_t id, within;
  snprintf(text, sizeof text, "%.*s", MB_UUID_LEN, space ? space : URL_SPACE);
  uuid_parse(text, within);
  uuid_generate_sha1(id, within, name.data ? name.data : "", name.len);
  unparse(out, id);
}

/* ---- reading ---- */

static bool starts(mb_bytes text, const char *prefix, size_t len) {
  return text.len >= len && !memcmp(text.data, prefix, len);
}

bool mb__uuid_parse(mb_bytes text, char out[MB_UUID_LEN], bool *canonical) {
  char lower[MB_UUID_LEN];
  if (text.len == MB_UUID_LEN && mb__uuid_canonical(text.data)) {
    memcpy(out, text.data, MB_UUID_LEN);
    if (canonical) *canonical = true;
    return true;
  }
  if (starts(text, "urn:uuid:", 9)) {
    text.data += 9;
    text.len -= 9;
  } else if (text.len > 2 && text.data[0] == '{' && text.data[text.len - 1] == '}') {
    text.data++;
    text.len -= 2;
  }
  if (text.len != MB_UUID_LEN && text.len != 32) return false;
  bool hyphens = text.len == MB_UUID_LEN;
  for (size_t i = 0, from = 0; i < MB_UUID_LEN; i++) {
    bool hyphen = i == 8 || i == 13 || i == 18 || i == 23;
    char c = hyphen && !hyphens ? '-' : text.data[from++];
    lower[i] = c >= 'A' && c <= 'F' ? (char)(c + ('a' - 'A')) : c;
  }
  if (!mb__uuid_canonical(lower)) return false;
  memcpy(out, lower, MB_UUID_LEN);
  if (canonical) *canonical = false;
  return true;
}
