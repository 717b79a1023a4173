/* base/scan.h: looks at many bytes of text at once: where a run of plain string bytes ends (the
 * reader stops there to unescape, the writer to escape), and whether text is a UUID. */
#ifndef MB_SCAN_H
#define MB_SCAN_H

#include <stdbool.h>
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

/* at has 36 bytes: are they a UUID in lower case, with hyphens? */
static inline bool mb__uuid_canonical(const char *at) {
#ifdef __SSE2__
  /* three windows, the last two overlap; a hyphen has to be where h is all ones, nowhere else */
  static const signed char h[36] = {[8] = -1, [13] = -1, [18] = -1, [23] = -1};
  static const int begin[3] = {0, 16, 20};
  __m128i right = _mm_set1_epi8(-1);
  for (int i = 0; i < 3; i++) {
    __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(at + begin[i]));
    __m128i hyphen = _mm_loadu_si128((const __m128i *)(const void *)(h + begin[i]));
    /* '0'..'9' and 'a'..'f', each moved to the lowest signed bytes */
    __m128i digit = _mm_cmplt_epi8(_mm_add_epi8(v, _mm_set1_epi8((char)(-128 - '0'))),
                                   _mm_set1_epi8(-128 + 10));
    __m128i letter =
        _mm_cmplt_epi8(_mm_add_epi8(v, _mm_set1_epi8((char)(-128 - 'a'))), _mm_set1_epi8(-128 + 6));
    __m128i is_hyphen = _mm_cmpeq_epi8(v, _mm_set1_epi8('-'));
    __m128i hex = _mm_andnot_si128(hyphen, _mm_or_si128(digit, letter));
    right = _mm_and_si128(right, _mm_or_si128(hex, _mm_and_si128(hyphen, is_hyphen)));
  }
  return _mm_movemask_epi8(right) == 0xffff;
#else
  for (int i = 0; i < 36; i++) {
    unsigned c = (unsigned char)at[i];
    bool hyphen = i == 8 || i == 13 || i == 18 || i == 23;
    if (hyphen ? c != '-' : c - '0' > 9 && c - 'a' > 5) return false;
  }
  return true;
#endif
}

#endif
