// Products of a few rows with a packed weight. decoder.py packs the weights and describes Matrix again.
//
// Weights lie in panels of 16 outputs, so that a product reads them once, in order. Every output is
// one sum in one order, whatever the number of rows and threads: a row's result does not depend on its
// neighbours, bit for bit. float32 and bfloat16 are summed in float32; int8 and int4 in integers
// (integers.h), which are exact in any order.

#pragma once

#include "vectors.h"

enum Form { F32, BF16, INT8, INT4 };

struct Matrix {
  int64_t form, out, in;
  // float32: [out / 16][in][16]; bfloat16: [out / 16][in / 2][16][2]; int8: [out / 16][in / 4][16][4];
  // int4: [out / 16][in / 8][16][4], inputs 0 to 3 of eight in the low half of a byte, 4 to 7 in the high one
  const uint8_t* weight;
  const float *scale;     // int8: [out]; int4: [out / 16][in / 64][16]
  const float *zero;      // int4: as scale
};

static inline vec exp(vec x) {
  x = x < all(-87.f) ? all(-87.f) : x;
  x = x > all(88.f) ? all(88.f) : x;
  const vec magic = all(12582912.f);
  const vec t = fma(x, all(1.44269504f), magic), n = t - magic;
  const vec f = fma(n, all(2.12194440e-4f), fma(n, all(-0.693359375f), x));
  vec p = all(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = fma(p, f, all(c));
  p = fma(p, f * f, f + all(1.f));
  ivec bits, scaled;
  memcpy(&bits, &t, sizeof t);
  memcpy(&scaled, &p, sizeof p);
  scaled += bits << 23;
  memcpy(&p, &scaled, sizeof p);
  return p;
}

// Where the results of a row go, columns counted from `shift` on.
enum Mode { STORE, ADD, GATE };
struct Out {
  float* y;
  int64_t ld;
  Mode mode = STORE;
  int64_t shift = 0;

  inline void operator()(int64_t row, int64_t column, vec v) const {
    float* at = y + row * ld + column - shift;
    if (mode == ADD) v += load(at);
    if (mode == GATE) {  // silu of the gate that lies there, times v
      const vec gate = load(at);
      v *= gate / (all(1.f) + exp(-gate));
    }
    store(at, v);
  }
};

#include "integers.h"
#include "tiles.h"

// The weights of STEP inputs as floats, those of one input after those of the other.
template <int FORM> constexpr int STEP = FORM == F32 ? 1 : 2;
template <int FORM> static inline void widen(const uint8_t* w, vec (&v)[STEP<FORM>][PARTS]) {
  for (int h = 0; h < PARTS; h++) {
    if constexpr (FORM == F32) {
      v[0][h] = load((const float*)w + h * LANES);
    } else {  // two in 32 bits, the first one below
      ivec both;
      memcpy(&both, w + h * sizeof both, sizeof both);
      const ivec first = both << 16, second = both & (int32_t)0xFFFF0000;
      memcpy(&v[0][h], &first, sizeof first);
      memcpy(&v[1][h], &second, sizeof second);
    }
  }
}

// M rows x P panels.
template <int FORM, int M, int P>
static inline void tile(const Matrix& m, const float* x, int64_t ld, int64_t row, int64_t panel, const Out& emit) {
  const int64_t stride = m.in * (FORM == F32 ? 64 : 32);
  const uint8_t* w = m.weight + panel * stride;
  x += row * ld;
  vec acc[M][P][PARTS];
  for (auto& r : acc) for (auto& p : r) for (auto& v : p) v = all(0.f);
  for (int64_t k = 0; k < m.in; k += STEP<FORM>, w += 64)
    for (int p = 0; p < P; p++) {
      vec v[STEP<FORM>][PARTS];
      widen<FORM>(w + p * stride, v);
      for (int s = 0; s < STEP<FORM>; s++)
        for (int i = 0; i < M; i++)
          for (int h = 0; h < PARTS; h++) acc[i][p][h] = fma(v[s][h], all(x[i * ld + k + s]), acc[i][p][h]);
    }
  for (int i = 0; i < M; i++)
    for (int p = 0; p < P; p++)
      for (int h = 0; h < PARTS; h++) emit(row + i, (panel + p) * PANEL + h * LANES, acc[i][p][h]);
}

template <int FORM>
static void float_product(const Matrix& m, const float* x, int64_t ld, int64_t rows, int64_t p, int64_t end, const Out& emit) {
  by_tiles<FLOAT_ROWS>(rows, p, end, [&](auto count, auto width, int64_t r, int64_t at) { tile<FORM, count, width>(m, x, ld, r, at, emit); });
}

template <int FORM>
static void integer_product(const Matrix& m, const Integers& x, int64_t p, int64_t end, const Out& emit) {
  by_tiles<LANES == 16 ? 8 : 2>(x.rows, p, end, [&](auto count, auto width, int64_t r, int64_t at) {
    if constexpr (FORM == INT8) int8_tile<count, width>(m, x, r, at, emit);
    else int4_tile<count, width>(m, x, r, at, emit);
  });
}

// The rows that a product multiplies with, by one thread.
class Input {
 public:
  // x [rows][ld]; `m`: one of the weights they are for, all of one form and width
  void take(const Matrix& m, const float* rows_, int64_t ld_, int64_t count) {
    x = rows_, ld = ld_, rows = count;
    if (m.form == F32) return;
    if (m.form == BF16) {
      is_tiled = suits_thirds(m.in);
      if (is_tiled) thirds.take(x, ld, rows, m.in);
      return;
    }
    is_tiled = suits_tiles(rows, m.in, m.form == INT4);
    integers.take(x, ld, rows, m.in, m.form == INT4);
    if (is_tiled) tiled.take(integers);
  }
  // times the columns [from, to) of W^T, both multiples of 16; the results go to `emit`
  void multiply(const Matrix& m, int64_t from, int64_t to, const Out& emit) const {
    const int64_t p = from / PANEL, end = to / PANEL;
    switch (m.form) {
      case F32: return float_product<F32>(m, x, ld, rows, p, end, emit);
      case BF16: return is_tiled ? product_of_thirds(m, thirds, p, end, emit) : float_product<BF16>(m, x, ld, rows, p, end, emit);
      case INT8: return is_tiled ? tile_product<false>(m, integers, tiled, p, end, emit) : integer_product<INT8>(m, integers, p, end, emit);
      case INT4: return is_tiled ? tile_product<true>(m, integers, tiled, p, end, emit) : integer_product<INT4>(m, integers, p, end, emit);
    }
  }

 private:
  const float* x = nullptr;
  int64_t ld = 0, rows = 0;
  Integers integers;
  bool is_tiled = false;
  TiledRows tiled;
  Thirds thirds;
};
