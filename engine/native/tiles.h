// Products by the tile registers of AMX. Panels of int8 and bfloat16 lie in memory as tiles want them.
//
// int8, int4: the same sums as integers.h, 8 rows, high bytes and low bytes of their integers, times 16
// outputs and 64 inputs at once. bfloat16: 5 rows in three parts times 16 outputs and 32 inputs.

#pragma once

#include "amx.h"

#ifdef QTTS_AMX
constexpr int64_t TILE_ROWS = 8, TILE_INPUTS = 64;
// Fewer rows gain nothing: weights come no faster from memory, and those in four bits must be widened.
constexpr int64_t TILES_FROM = 3, TILES_FROM_FOUR_BITS = 6;

// Rows as tiles: [rows / 8][in / 64][16][64], the high bytes of 8 rows and then their low bytes.
class TiledRows {
 public:
  void take(const Integers& x) {
    const int64_t steps = x.in / TILE_INPUTS;
    bytes.assign((x.rows + TILE_ROWS - 1) / TILE_ROWS * steps * SIZE, 0);
    per_block = steps * SIZE;
    for (int64_t r = 0; r < x.rows; r++)
      for (int64_t s = 0; s < steps; s++) {
        int8_t* out = &bytes[r / TILE_ROWS * per_block + s * SIZE + r % TILE_ROWS * TILE_INPUTS];
        for (int64_t i = 0; i < TILE_INPUTS; i += 32) {
          const __m512i v = _mm512_loadu_si512(x.row(r) + s * TILE_INPUTS + i);
          const __m512i high = _mm512_srai_epi16(_mm512_add_epi16(v, _mm512_set1_epi16(128)), 8);
          const __m512i low = _mm512_sub_epi16(v, _mm512_slli_epi16(high, 8));
          _mm256_storeu_si256((__m256i*)(out + i), _mm512_cvtepi16_epi8(high));
          _mm256_storeu_si256((__m256i*)(out + TILE_ROWS * TILE_INPUTS + i), _mm512_cvtepi16_epi8(low));
        }
      }
  }
  const int8_t* at(int64_t block, int64_t step) const { return &bytes[block * per_block + step * SIZE]; }

 private:
  static constexpr int64_t SIZE = 2 * TILE_ROWS * TILE_INPUTS;
  std::vector<int8_t> bytes;
  int64_t per_block = 0;
};

static inline bool suits_tiles(int64_t rows, int64_t in, bool four_bits) {
  return rows >= (four_bits ? TILES_FROM_FOUR_BITS : TILES_FROM) && in % TILE_INPUTS == 0 && has_tiles();
}

// Sums of `steps` tiles of inputs for P panels that are `stride` bytes apart.
template <int P>
static inline void tile_sums(const TiledRows& x, int64_t block, int64_t step, int64_t steps, const uint8_t* w, int64_t stride, int32_t (&sums)[P][16][16]) {
  _tile_zero(0);
  if constexpr (P == 4) { _tile_zero(1); _tile_zero(2); _tile_zero(3); }
  for (const int64_t end = step + steps; step < end; step++, w += TILE_INPUTS * PANEL) {
    if (block == 0)  // for the others they have come
      for (int p = 0; p < P; p++)
        for (int i = 0; i < 1024; i += 64) __builtin_prefetch(w + p * stride + 1024 + i);
    _tile_loadd(4, x.at(block, step), 64);
    _tile_loadd(5, w, 64);
    _tile_dpbssd(0, 4, 5);
    if constexpr (P == 4) {
      _tile_loadd(6, w + stride, 64);
      _tile_dpbssd(1, 4, 6);
      _tile_loadd(7, w + 2 * stride, 64);
      _tile_dpbssd(2, 4, 7);
      _tile_loadd(5, w + 3 * stride, 64);
      _tile_dpbssd(3, 4, 5);
    }
  }
  _tile_stored(0, sums[0], 64);
  if constexpr (P == 4) { _tile_stored(1, sums[1], 64); _tile_stored(2, sums[2], 64); _tile_stored(3, sums[3], 64); }
}

struct TileBuffers {
  std::vector<uint8_t> wide;  // int4 panels as int8 ones
  std::vector<float> sums;  // [rows][panels][16]
};

// int4 panels as int8 ones: [P][in / 4][16][4].
static inline void widen_panels(const Matrix& m, int64_t panel, int panels, std::vector<uint8_t>& out) {
  const int64_t size = m.in * PANEL / 2;
  out.resize(panels * 2 * size);
  const __m512i mask = _mm512_set1_epi8(15);
  for (int64_t i = 0; i < panels * size; i += 64) {
    const __m512i both = _mm512_loadu_si512(m.weight + panel * size + i);
    _mm512_storeu_si512(&out[2 * i], _mm512_and_si512(both, mask));
    _mm512_storeu_si512(&out[2 * i + 64], _mm512_and_si512(_mm512_srli_epi16(both, 4), mask));
  }
}

// P panels. A group of inputs of theirs stays in the nearest cache while all rows come by.
template <int P, bool FOUR_BITS>
static inline void panels_of_tiles(const Matrix& m, const Integers& x, const TiledRows& tiled, int64_t panel, TileBuffers& buffers, const Out& emit) {
  const int64_t stride = m.in * PANEL, per_group = (FOUR_BITS ? W_GROUP : X_GROUP) / TILE_INPUTS, steps = m.in / TILE_INPUTS;
  const uint8_t* w = m.weight + panel * stride;
  if (FOUR_BITS) widen_panels(m, panel, P, buffers.wide), w = buffers.wide.data();
  buffers.sums.assign(x.rows * P * PANEL, 0.f);
  const auto sum_of = [&](int64_t r, int p) { return &buffers.sums[(r * P + p) * PANEL]; };
  alignas(64) int32_t sums[P][16][16];
  for (int64_t g = 0, step = 0; step < steps; g++, step += per_group)
    for (int64_t first = 0; first < x.rows; first += TILE_ROWS) {
      tile_sums<P>(tiled, first / TILE_ROWS, step, std::min(per_group, steps - step), w + step * TILE_INPUTS * PANEL, stride, sums);
      for (int64_t r = 0; r < std::min(TILE_ROWS, x.rows - first); r++)
        for (int p = 0; p < P; p++) {
          const __m512i high = _mm512_load_si512(sums[p][r]), low = _mm512_load_si512(sums[p][r + TILE_ROWS]);
          const vec exact = (vec)_mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high, 8), low));
          float* y = sum_of(first + r, p);
          store(y, FOUR_BITS ? with_group(m, x, first + r, panel + p, g, 0, exact, load(y)) : fma(exact, all(x.scale(first + r, g)), load(y)));
        }
    }
  for (int64_t r = 0; r < x.rows; r++)
    for (int p = 0; p < P; p++) {
      const int64_t column = (panel + p) * PANEL;
      const vec y = load(sum_of(r, p));
      emit(r, column, FOUR_BITS ? y : y * load(m.scale + column));
    }
}

template <bool FOUR_BITS>
static void tile_product(const Matrix& m, const Integers& x, const TiledRows& tiled, int64_t p, int64_t end, const Out& emit) {
  const TileShapes shapes;
  thread_local TileBuffers buffers;
  for (; p + 4 <= end; p += 4) panels_of_tiles<4, FOUR_BITS>(m, x, tiled, p, buffers, emit);
  for (; p < end; p++) panels_of_tiles<1, FOUR_BITS>(m, x, tiled, p, buffers, emit);
}

// float32 rows as sums of three bfloat16, which are exact: [rows / 5][in / 32][16][32], the first parts of
// five rows, then the second and third ones.
class Thirds {
 public:
  static constexpr int64_t ROWS = 5, INPUTS = 32;

  void take(const float* x, int64_t ld, int64_t count, int64_t in) {
    rows = count, per_block = in / INPUTS * SIZE;
    parts.assign((rows + ROWS - 1) / ROWS * per_block, 0);
    for (int64_t r = 0; r < rows; r++)
      for (int64_t i = 0; i < in; i += LANES) {
        uint16_t* out = &parts[r / ROWS * per_block + i / INPUTS * SIZE + r % ROWS * INPUTS + i % INPUTS];
        vec left = load(x + r * ld + i);
        for (int n = 0; n < 3; n++, out += ROWS * INPUTS) {
          const __m256bh part = _mm512_cvtneps_pbh((__m512)left);
          memcpy(out, &part, sizeof part);
          left -= (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)part), 16);
        }
      }
  }
  const uint16_t* at(int64_t block, int64_t step) const { return &parts[block * per_block + step * SIZE]; }
  int64_t rows = 0;

 private:
  static constexpr int64_t SIZE = 16 * INPUTS;
  std::vector<uint16_t> parts;
  int64_t per_block = 0;
};

// Every number of rows takes them, since sums of floats depend on their order.
static inline bool suits_thirds(int64_t in) { return in % Thirds::INPUTS == 0 && has_tiles(); }

// B blocks of rows x P panels, four tiles of sums or one.
template <int B, int P>
static inline void panels_of_thirds(const Matrix& m, const Thirds& x, int64_t block, int64_t panel, const Out& emit) {
  static_assert(B * P == 4 || B * P == 1);
  const int64_t stride = m.in * PANEL * 2, steps = m.in / Thirds::INPUTS;
  const uint8_t* w = m.weight + panel * stride;
  _tile_zero(0);
  if constexpr (B * P == 4) { _tile_zero(1); _tile_zero(2); _tile_zero(3); }
  for (int64_t s = 0; s < steps; s++, w += 1024) {
    if (block == 0)  // for the others they have come
      for (int p = 0; p < P; p++)
        for (int i = 0; i < 1024; i += 64) __builtin_prefetch(w + p * stride + 1024 + i);
    _tile_loadd(4, x.at(block, s), 64);
    _tile_loadd(5, w, 64);
    _tile_dpbf16ps(0, 4, 5);
    if constexpr (P == 4) {
      _tile_loadd(6, w + stride, 64);
      _tile_dpbf16ps(1, 4, 6);
      _tile_loadd(7, w + 2 * stride, 64);
      _tile_dpbf16ps(2, 4, 7);
      _tile_loadd(5, w + 3 * stride, 64);
      _tile_dpbf16ps(3, 4, 5);
    }
    if constexpr (B == 2) {
      _tile_loadd(6, w + stride, 64);
      _tile_dpbf16ps(1, 4, 6);
      _tile_loadd(7, x.at(block + 1, s), 64);
      _tile_dpbf16ps(2, 7, 5);
      _tile_dpbf16ps(3, 7, 6);
    }
  }
  alignas(64) float sums[B][P][16][PANEL];
  float* at = sums[0][0][0];
  _tile_stored(0, at, 64);
  if constexpr (B * P == 4) { _tile_stored(1, at + 256, 64); _tile_stored(2, at + 512, 64); _tile_stored(3, at + 768, 64); }
  for (int b = 0; b < B; b++)
    for (int64_t r = 0, row = (block + b) * Thirds::ROWS; r < Thirds::ROWS && row + r < x.rows; r++)
      for (int p = 0; p < P; p++) {
        const auto third = [&](int n) { return load(sums[b][p][r + n * Thirds::ROWS]); };
        emit(row + r, (panel + p) * PANEL, third(0) + (third(1) + third(2)));
      }
}

static void product_of_thirds(const Matrix& m, const Thirds& x, int64_t p, int64_t end, const Out& emit) {
  const TileShapes shapes;
  const int64_t blocks = (x.rows + Thirds::ROWS - 1) / Thirds::ROWS;
  const auto one_by_one = [&](int64_t block, int64_t at, int64_t to) {
    for (; at < to; at++) panels_of_thirds<1, 1>(m, x, block, at, emit);
  };
  if (blocks == 1) {
    for (; p + 4 <= end; p += 4) panels_of_thirds<1, 4>(m, x, 0, p, emit);
    return one_by_one(0, p, end);
  }
  for (; p < end; p += 2) {
    int64_t block = 0;
    if (p + 2 <= end)
      for (; block + 2 <= blocks; block += 2) panels_of_thirds<2, 2>(m, x, block, p, emit);
    for (; block < blocks; block++) one_by_one(block, p, std::min(end, p + 2));
  }
}
#else
class TiledRows {
 public:
  void take(const Integers&) {}
};
static inline bool suits_tiles(int64_t, int64_t, bool) { return false; }
template <bool FOUR_BITS>
static void tile_product(const Matrix&, const Integers&, const TiledRows&, int64_t, int64_t, const Out&) {}
class Thirds {
 public:
  void take(const float*, int64_t, int64_t, int64_t) {}
};
static inline bool suits_thirds(int64_t) { return false; }
static void product_of_thirds(const Matrix&, const Thirds&, int64_t, int64_t, const Out&) {}
#endif
