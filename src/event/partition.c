/* event/partition.c: the hash by which Kafka's Java client, and eventsource-py, pick a partition.
 * Must not know what a key means.
 * Called by the tests and by the Lua side, to show the partition of a key. */
#include "event/partition.h"

uint32_t mb__murmur2(mb_bytes key) {
  const uint32_t mix = 0x5bd1e995;
  const unsigned char *at = (const unsigned char *)key.data;
  size_t left = key.len;
  uint32_t hash = 0x9747b28cu ^ (uint32_t)key.len;
  for (; left >= 4; at += 4, left -= 4) {
    uint32_t k =
        (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
    k *= mix;
    k ^= k >> 24;
    hash = hash * mix ^ k * mix;
  }
  if (left) {
    for (size_t i = 0; i < left; i++) hash ^= (uint32_t)at[i] << (8 * i);
    hash *= mix;
  }
  hash ^= hash >> 13;
  hash *= mix;
  return hash ^ hash >> 15;
}

int32_t mb__partition_of(mb_bytes key, int32_t partition_count) {
  if (partition_count <= 0) return -1;
  return (int32_t)(mb__murmur2(key) & 0x7fffffffu) % partition_count;
}
