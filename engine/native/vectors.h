// What the compiled parts share: as many floats at a time as a register of this CPU holds, by the
// compiler's vector types.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif
#ifdef __ARM_NEON
#include <arm_neon.h>
#endif
#include <omp.h>

#if defined(__AVX512F__) && !defined(EIGHT_LANES)
#define SIXTEEN_LANES
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
constexpr int PANEL = 16;             // outputs of a weight that lie side by side
constexpr int PARTS = PANEL / LANES;  // vectors of a panel

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

static inline vec load(const float* p) { vec v; memcpy(&v, p, sizeof v); return v; }
static inline void store(float* p, vec v) { memcpy(p, &v, sizeof v); }
static inline vec all(float f) { return f - vec{}; }
// a * b + c, said by name: what the compiler fuses by itself (-ffp-contract) may differ from one
// number of rows to the next.
static inline vec fma(vec a, vec b, vec c) {
#if defined(SIXTEEN_LANES)
  return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__) && defined(__FMA__)
  return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  for (int i = 0; i < LANES; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
#endif
}
static inline float sum(vec v) {
#if defined(SIXTEEN_LANES)
  return _mm512_reduce_add_ps((__m512)v);
#else
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
#endif
}

struct Range { int64_t from, to; };
// A thread's part of `n` things.
static inline Range part(int64_t n, int thread, int threads) { return {n * thread / threads, n * (thread + 1) / threads}; }

constexpr int FLOAT_ROWS = LANES == 16 ? 8 : 4;  // whose sums of floats fit into the registers

template <int N> using Number = std::integral_constant<int, N>;

// run(rows at once, row) for all rows.
template <int MOST, class F> static inline void by_rows(int64_t rows, F&& run) {
  int64_t r = 0;
  for (; r + MOST <= rows; r += MOST) run(Number<MOST>{}, r);
  if constexpr (MOST > 1) {
    if (r < rows) by_rows<MOST / 2>(rows - r, [&](auto count, int64_t at) { run(count, r + at); });
  }
}

// run(rows at once, panels at once, row, panel) for all of both. MOST: rows of one panel whose sums fit
// into the registers.
template <int MOST, class F> static inline void by_tiles(int64_t rows, int64_t p, int64_t end, F&& run) {
  const auto panels = [&](auto width, auto most) {
    for (; p + width <= end; p += width) by_rows<most>(rows, [&](auto count, int64_t r) { run(count, width, r, p); });
  };
  constexpr bool MANY = LANES == 16;
  if (rows == 1) panels(Number<4>{}, Number<1>{});
  if (rows == 2 || MANY) panels(Number<2>{}, Number<MANY ? MOST : 2>{});
  panels(Number<1>{}, Number<MOST>{});
}
