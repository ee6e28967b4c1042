// Products of int8 and int4 weights with rows of 16-bit integers. Sums are exact, so that every CPU and
// every number of rows has the same ones; floats come in once for each X_GROUP inputs, in order.
//
// A row's inputs become integers of -TOP to TOP, with a scale for each X_GROUP of them: no sum of
// X_GROUP products with int8 leaves 32 bits, and one large input makes only its own group coarse.

#pragma once

#include <cmath>
#include <vector>

constexpr int64_t X_GROUP = 256, W_GROUP = 64;
constexpr float TOP = 32512.f;  // whose high byte is 127 when it is rounded

class Integers {
 public:
  int64_t rows = 0, in = 0, groups = 0;

  // `halves`: high and low bytes, too, and the sums that int4 needs
  void take(const float* x, int64_t ld, int64_t count, int64_t width, bool halves) {
    rows = count, in = width, groups = (in + X_GROUP - 1) / X_GROUP;
    values.resize(rows * in);
    scales.resize(rows * groups);
    for (int64_t r = 0; r < rows; r++)
      for (int64_t g = 0; g < groups; g++) round(x + r * ld, r, g);
    if (halves) {
      high.resize(rows * in), low.resize(rows * in), sums.resize(rows * in / W_GROUP);
      for (int64_t i = 0; i < rows * in; i++) high[i] = high_byte(values[i]), low[i] = (int8_t)(values[i] - 256 * high[i]);
      for (int64_t g = 0; g < (int64_t)sums.size(); g++) {
        int32_t total = 0;
        for (int64_t i = 0; i < W_GROUP; i++) total += values[g * W_GROUP + i];
        sums[g] = (float)total;
      }
    }
  }
  static int8_t high_byte(int16_t value) { return (int8_t)((value + 128) >> 8); }

  const int16_t* row(int64_t r) const { return &values[r * in]; }
  const int8_t* high_row(int64_t r) const { return &high[r * in]; }
  const int8_t* low_row(int64_t r) const { return &low[r * in]; }
  float scale(int64_t r, int64_t group) const { return scales[r * groups + group]; }
  float sum(int64_t r, int64_t group) const { return sums[r * (in / W_GROUP) + group]; }

 private:
  std::vector<int16_t> values;  // [rows][in]
  std::vector<int8_t> high, low;
  std::vector<float> scales, sums;  // [rows][groups], [rows][in / W_GROUP]

  void round(const float* x, int64_t r, int64_t g) {
    const int64_t from = g * X_GROUP, to = std::min(in, from + X_GROUP);
    vec most = all(1e-30f), nothing = all(0.f);  // NaN if an input is NaN or infinite
    for (int64_t i = from; i < to; i += LANES) {
      const vec v = load(x + i), size = v < all(0.f) ? -v : v;
      most = most > size ? most : size;
      nothing = fma(v, all(0.f), nothing);
    }
    float largest = most[0];
    for (int l = 1; l < LANES; l++) largest = largest > most[l] ? largest : most[l];
    scales[r * groups + g] = largest / TOP + ::sum(nothing);  // so it is not lost among integers
    const vec inverse = all(TOP / largest), magic = all(12582912.f);
    for (int64_t i = from; i < to; i += LANES) {
      const vec shifted = fma(load(x + i), inverse, magic);  // its low bits are the rounded number
      ivec bits;
      memcpy(&bits, &shifted, sizeof bits);
      bits -= 0x4B400000;
      int16_t* out = &values[r * in + i];
#if defined(SIXTEEN_LANES)
      _mm256_storeu_si256((__m256i*)out, _mm512_cvtepi32_epi16((__m512i)bits));
#else
      for (int l = 0; l < LANES; l++) out[l] = (int16_t)bits[l];
#endif
    }
  }
};

static inline vec to_float(const int32_t* p) {
  ivec v;
  memcpy(&v, p, sizeof v);
#if defined(SIXTEEN_LANES)
  return (vec)_mm512_cvtepi32_ps((__m512i)v);
#else
  return __builtin_convertvector(v, vec);
#endif
}

// A panel's 16 sums of weights times one row's integers.
struct Sums8 {
#if defined(__AVX512BW__)
  static constexpr int N = 2;
  using Sum = __m512i;
  static Sum zero() { return _mm512_setzero_si512(); }
  static __m512i weights(const uint8_t* w) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)w)); }
  static __m512i inputs(const int16_t* x) { int64_t four; memcpy(&four, x, 8); return _mm512_set1_epi64(four); }
  static Sum add(Sum sums, __m512i w, __m512i x) {
#ifdef __AVX512VNNI__
    return _mm512_dpwssd_epi32(sums, w, x);
#else
    return _mm512_add_epi32(sums, _mm512_madd_epi16(w, x));
#endif
  }
  static void finish(const Sum (&s)[N], int32_t* out) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    const __m512i all = _mm512_add_epi32(_mm512_permutex2var_epi32(s[0], even, s[1]), _mm512_permutex2var_epi32(s[0], odd, s[1]));
    _mm512_storeu_si512(out, all);
  }
#elif defined(__AVX2__)
  static constexpr int N = 4;
  using Sum = __m256i;
  static Sum zero() { return _mm256_setzero_si256(); }
  static __m256i weights(const uint8_t* w) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)w)); }
  static __m256i inputs(const int16_t* x) { int64_t four; memcpy(&four, x, 8); return _mm256_set1_epi64x(four); }
  static Sum add(Sum sums, __m256i w, __m256i x) {
#ifdef __AVXVNNI__
    return _mm256_dpwssd_avx_epi32(sums, w, x);
#else
    return _mm256_add_epi32(sums, _mm256_madd_epi16(w, x));
#endif
  }
  static void finish(const Sum (&s)[N], int32_t* out) {
    for (int i = 0; i < 2; i++) {
      const __m256i both = _mm256_hadd_epi32(s[2 * i], s[2 * i + 1]);
      _mm256_storeu_si256((__m256i*)out + i, _mm256_permute4x64_epi64(both, 0xD8));
    }
  }
#elif defined(__ARM_NEON) && defined(__aarch64__)
  static constexpr int N = 4;
  struct Sum { int32x4_t of[4]; };  // of an output, one for each of four inputs
  static Sum zero() { return {{vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)}}; }
  static int16x8x2_t weights(const uint8_t* w) {
    const int8x16_t v = vld1q_s8((const int8_t*)w);
    return {{vmovl_s8(vget_low_s8(v)), vmovl_s8(vget_high_s8(v))}};
  }
  static int16x4_t inputs(const int16_t* x) { return vld1_s16(x); }
  static Sum add(Sum s, int16x8x2_t w, int16x4_t x) {
    for (int i = 0; i < 2; i++) {
      s.of[2 * i] = vmlal_s16(s.of[2 * i], vget_low_s16(w.val[i]), x);
      s.of[2 * i + 1] = vmlal_s16(s.of[2 * i + 1], vget_high_s16(w.val[i]), x);
    }
    return s;
  }
  static void finish(const Sum (&s)[N], int32_t* out) {
    for (int n = 0; n < N; n++)
      vst1q_s32(out + 4 * n, vpaddq_s32(vpaddq_s32(s[n].of[0], s[n].of[1]), vpaddq_s32(s[n].of[2], s[n].of[3])));
  }
#else
  static constexpr int N = 16;
  using Sum = int32_t;
  struct Four { int16_t of[4]; };
  static Sum zero() { return 0; }
  static Four weights(const uint8_t* w) {
    const int8_t* p = (const int8_t*)w;
    return {{p[0], p[1], p[2], p[3]}};
  }
  static Four inputs(const int16_t* x) { return {{x[0], x[1], x[2], x[3]}}; }
  static Sum add(Sum s, Four w, Four x) {
    for (int i = 0; i < 4; i++) s += (int32_t)w.of[i] * x.of[i];
    return s;
  }
  static void finish(const Sum (&s)[N], int32_t* out) { memcpy(out, s, sizeof s); }
#endif
  static constexpr int BYTES = 64 / N;  // of weights in a register
};

template <int M, int P>
static inline void int8_tile(const Matrix& m, const Integers& x, int64_t row, int64_t panel, const Out& emit) {
  constexpr int N = Sums8::N;
  const int64_t stride = m.in * PANEL;
  const uint8_t* w = m.weight + panel * stride;
  vec y[M][P][PARTS];
  for (auto& r : y) for (auto& p : r) for (auto& v : p) v = all(0.f);
  for (int64_t g = 0, k = 0; k < m.in; g++) {
    Sums8::Sum sums[M][P][N];
    for (auto& r : sums) for (auto& p : r) for (auto& s : p) s = Sums8::zero();
    for (const int64_t end = std::min(m.in, k + X_GROUP); k < end; k += 4, w += 4 * PANEL)
      for (int p = 0; p < P; p++) {
        __builtin_prefetch(w + p * stride + 1024);
        for (int n = 0; n < N; n++) {
          const auto weights = Sums8::weights(w + p * stride + n * Sums8::BYTES);
          for (int i = 0; i < M; i++) sums[i][p][n] = Sums8::add(sums[i][p][n], weights, Sums8::inputs(x.row(row + i) + k));
        }
      }
    for (int i = 0; i < M; i++)
      for (int p = 0; p < P; p++) {
        int32_t exact[PANEL];
        Sums8::finish(sums[i][p], exact);
        for (int h = 0; h < PARTS; h++) y[i][p][h] = fma(to_float(exact + h * LANES), all(x.scale(row + i, g)), y[i][p][h]);
      }
  }
  for (int i = 0; i < M; i++)
    for (int p = 0; p < P; p++)
      for (int h = 0; h < PARTS; h++) {
        const int64_t column = (panel + p) * PANEL + h * LANES;
        emit(row + i, column, y[i][p][h] * load(m.scale + column));
      }
}

// As Sums8, for eight inputs in four bits; high and low bytes of the row's integers are summed apart.
struct Sums4 {
#if defined(__AVX512VNNI__)
  __m512i high = _mm512_setzero_si512(), low = _mm512_setzero_si512();
  struct Weights { __m512i first, last; };
  static Weights weights(const uint8_t* w) {
    const __m512i both = _mm512_loadu_si512(w), mask = _mm512_set1_epi8(15);
    return {_mm512_and_si512(both, mask), _mm512_and_si512(_mm512_srli_epi16(both, 4), mask)};
  }
  static __m512i inputs(const int8_t* x) { int32_t four; memcpy(&four, x, 4); return _mm512_set1_epi32(four); }
  void add(const Weights& w, const int8_t* h, const int8_t* l) {
    high = _mm512_dpbusd_epi32(high, w.first, inputs(h));
    low = _mm512_dpbusd_epi32(low, w.first, inputs(l));
    high = _mm512_dpbusd_epi32(high, w.last, inputs(h + 4));
    low = _mm512_dpbusd_epi32(low, w.last, inputs(l + 4));
  }
  void finish(int32_t* out) const { _mm512_storeu_si512(out, _mm512_add_epi32(_mm512_slli_epi32(high, 8), low)); }
#elif defined(__AVX2__)
  __m256i high[2] = {}, low[2] = {};
  struct Weights { __m256i first[2], last[2]; };
  static Weights weights(const uint8_t* w) {
    Weights found;
    for (int i = 0; i < 2; i++) {
      const __m256i both = _mm256_loadu_si256((const __m256i*)w + i), mask = _mm256_set1_epi8(15);
      found.first[i] = _mm256_and_si256(both, mask);
      found.last[i] = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
    }
    return found;
  }
  static __m256i inputs(const int8_t* x) { int32_t four; memcpy(&four, x, 4); return _mm256_set1_epi32(four); }
  // Two products of at most 15 * 128 fit into 16 bits, and four do.
  static __m256i four(__m256i sum, __m256i w, __m256i x, __m256i w2, __m256i x2) {
    const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(w, x), _mm256_maddubs_epi16(w2, x2));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  void add(const Weights& w, const int8_t* h, const int8_t* l) {
    for (int i = 0; i < 2; i++) {
      high[i] = four(high[i], w.first[i], inputs(h), w.last[i], inputs(h + 4));
      low[i] = four(low[i], w.first[i], inputs(l), w.last[i], inputs(l + 4));
    }
  }
  void finish(int32_t* out) const {
    for (int i = 0; i < 2; i++)
      _mm256_storeu_si256((__m256i*)out + i, _mm256_add_epi32(_mm256_slli_epi32(high[i], 8), low[i]));
  }
#elif defined(__ARM_NEON) && defined(__aarch64__)
  int32x4_t sums[PANEL] = {};  // of an output, one for each of four inputs
  struct Weights { const uint8_t* at; };
  static Weights weights(const uint8_t* w) { return {w}; }
  void four(int first, uint8x16_t w, int16x4_t x) {
    const int16x8_t a = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(w))), b = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(w)));
    sums[first] = vmlal_s16(sums[first], vget_low_s16(a), x);
    sums[first + 1] = vmlal_s16(sums[first + 1], vget_high_s16(a), x);
    sums[first + 2] = vmlal_s16(sums[first + 2], vget_low_s16(b), x);
    sums[first + 3] = vmlal_s16(sums[first + 3], vget_high_s16(b), x);
  }
  void add(const Weights& w, const int8_t* h, const int8_t* l) {
    const int16x8_t x = vaddw_s8(vshlq_n_s16(vmovl_s8(vld1_s8(h)), 8), vld1_s8(l));
    for (int q = 0; q < 4; q++) {
      const uint8x16_t both = vld1q_u8(w.at + 16 * q);
      four(4 * q, vandq_u8(both, vdupq_n_u8(15)), vget_low_s16(x));
      four(4 * q, vshrq_n_u8(both, 4), vget_high_s16(x));
    }
  }
  void finish(int32_t* out) const {
    for (int q = 0; q < PANEL; q += 4)
      vst1q_s32(out + q, vpaddq_s32(vpaddq_s32(sums[q], sums[q + 1]), vpaddq_s32(sums[q + 2], sums[q + 3])));
  }
#else
  int32_t sums[PANEL] = {};
  struct Weights { const uint8_t* at; };
  static Weights weights(const uint8_t* w) { return {w}; }
  void add(const Weights& w, const int8_t* h, const int8_t* l) {
    for (int o = 0; o < PANEL; o++)
      for (int i = 0; i < 4; i++) {
        const int both = w.at[o * 4 + i];
        sums[o] += (both & 15) * (256 * h[i] + l[i]) + (both >> 4) * (256 * h[i + 4] + l[i + 4]);
      }
  }
  void finish(int32_t* out) const { memcpy(out, sums, sizeof sums); }
#endif
};

// A group of int4 weights: w = value * scale + zero, so sums of value * x and of x are kept apart.
static inline vec with_group(const Matrix& m, const Integers& x, int64_t row, int64_t panel, int64_t g, int h, vec exact, vec y) {
  const int64_t at = (panel * (m.in / W_GROUP) + g) * PANEL + h * LANES;
  const vec unit = all(x.scale(row, g * W_GROUP / X_GROUP));
  y = fma(exact * unit, load(m.scale + at), y);
  return fma(all(x.sum(row, g)) * unit, load(m.zero + at), y);
}

template <int M, int P>
static inline void int4_tile(const Matrix& m, const Integers& x, int64_t row, int64_t panel, const Out& emit) {
  const int64_t stride = m.in * PANEL / 2;
  const uint8_t* w = m.weight + panel * stride;
  vec y[M][P][PARTS];
  for (auto& r : y) for (auto& p : r) for (auto& v : p) v = all(0.f);
  for (int64_t g = 0, k = 0; k < m.in; g++) {
    Sums4 sums[M][P];
    for (const int64_t end = k + W_GROUP; k < end; k += 8, w += 4 * PANEL)
      for (int p = 0; p < P; p++) {
        __builtin_prefetch(w + p * stride + 1024);
        const auto weights = Sums4::weights(w + p * stride);
        for (int i = 0; i < M; i++) sums[i][p].add(weights, x.high_row(row + i) + k, x.low_row(row + i) + k);
      }
    for (int i = 0; i < M; i++)
      for (int p = 0; p < P; p++) {
        int32_t exact[PANEL];
        sums[i][p].finish(exact);
        for (int h = 0; h < PARTS; h++) y[i][p][h] = with_group(m, x, row + i, panel + p, g, h, to_float(exact + h * LANES), y[i][p][h]);
      }
  }
  for (int i = 0; i < M; i++)
    for (int p = 0; p < P; p++)
      for (int h = 0; h < PARTS; h++) emit(row + i, (panel + p) * PANEL + h * LANES, y[i][p][h]);
}
