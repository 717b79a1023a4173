/* scan.h: finds the end of a run of plain string bytes. Shared by the reader, which stops there to
 * unescape, and by the writer, which stops there to escape. */
#ifndef MB_SCAN_H
#define MB_SCAN_H

#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* The first quote, backslash or control character from at on, or end. *high turns non-zero when a
 * byte of 0x80 or above lies before it. */
static inline const char *mb__scan_plain(const char *at, const char *end, unsigned *high) {
#ifdef __SSE2__
  const __m128i quote = _mm_set1_epi8('"'), slash = _mm_set1_epi8('\\'), c0 = _mm_set1_epi8(0x1f);
  for (; end - at >= 16; at += 16) {
    __m128i v = _mm_loadu_si128((const __m128i *)(const void *)at);
    __m128i stop = _mm_or_si128(_mm_cmpeq_epi8(v, quote), _mm_cmpeq_epi8(v, slash));
    stop = _mm_or_si128(stop, _mm_cmpeq_epi8(_mm_max_epu8(v, c0), c0));
    unsigned stops = (unsigned)_mm_movemask_epi8(stop), highs = (unsigned)_mm_movemask_epi8(v);
    if (stops) {
      unsigned n = (unsigned)__builtin_ctz(stops);
      *high |= highs & ((1u << n) - 1);
      return at + n;
    }
    *high |= highs;
  }
#else
  const uint64_t ones = UINT64_C(0x0101010101010101), tops = ones * 0x80;
  for (; end - at >= 8; at += 8) {
    uint64_t v;
    memcpy(&v, at, 8);
    uint64_t q = v ^ ones * '"', s = v ^ ones * '\\';
    /* exact as to whether there is a stop among the eight, not as to where */
    uint64_t stop = ((q - ones) & ~q) | ((s - ones) & ~s) | ((v - ones * 0x20) & ~v);
    if (stop & tops) break;
    *high |= (v & tops) != 0;
  }
#endif
  for (; at < end; at++) {
    unsigned char c = (unsigned char)*at;
    if (c == '"' || c == '\\' || c < 0x20) break;
    *high |= c & 0x80u;
  }
  return at;
}

#endif
