// What the compiled parts share: eight floats at a time, by the compiler's vector types.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#ifdef __AVX2__
#include <immintrin.h>
#endif
#include <omp.h>

typedef float v8 __attribute__((vector_size(32)));
typedef int32_t i8v __attribute__((vector_size(32)));
typedef uint16_t h8 __attribute__((vector_size(16)));
typedef int8_t b8 __attribute__((vector_size(8)));

constexpr int64_t PANEL = 16;  // outputs of a weight that lie side by side

static inline v8 load(const float* p) { v8 v; memcpy(&v, p, 32); return v; }
static inline void store(float* p, v8 v) { memcpy(p, &v, 32); }
static inline v8 all(float f) { return v8{f, f, f, f, f, f, f, f}; }
// a * b + c, said by name: what the compiler fuses by itself (-ffp-contract) may differ from one
// number of rows to the next.
static inline v8 fma8(v8 a, v8 b, v8 c) {
#if defined(__AVX2__) && defined(__FMA__)
  return (v8)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  for (int i = 0; i < 8; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
#endif
}
static inline float sum(v8 v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

struct Range { int64_t from, to; };
// A thread's part of `n` things.
static Range part(int64_t n, int thread, int threads) { return {n * thread / threads, n * (thread + 1) / threads}; }
