// One convolution of the codec decoder, activation, bias and residual in the same pass: as float32 sums,
// or with the tile registers of AMX. codec.py describes the structs again.

#pragma once

#include "amx.h"
#include "vectors.h"

#include <memory>
#include <vector>

namespace {

struct Snake { const float *alpha, *beta; };  // x + sin^2(alpha x) * beta, [channels]
struct Conv {
  int64_t in, out, kernel, dilation;
  const float *weight, *bias;  // [out / 16][kernel][in][16], [out]
  // In place of weight where this CPU has tiles: [out / 16][in / 32][kernel][2][16][16][2], the sum of two
  // bfloat16 for every weight, the larger ones of 32 inputs first
  const uint16_t* halves;
};

static inline int64_t padded(int64_t n) { return (n + PANEL - 1) / PANEL * PANEL; }

// sin^2 has period pi, so it is enough to know the sine between -pi/2 and pi/2. Right for arguments up to
// about 3e6, which is far beyond what a net makes.
static inline vec snake(vec x, vec alpha, vec beta) {
  const vec magic = all(12582912.f), z = x * alpha;
  const vec n = fma(z, all(0.318309886f), magic) - magic;
  vec r = fma(n, all(-3.140625f), z);
  r = fma(n, all(-9.67502593994140625e-4f), r);
  r = fma(n, all(-1.509957990978376e-7f), r);
  const vec q = r * r;
  vec p = all(-2.50521084e-8f);
  for (float c : {2.75573192e-6f, -1.98412698e-4f, 8.33333333e-3f, -1.66666667e-1f}) p = fma(p, q, all(c));
  const vec sine = fma(r * q, p, r);
  return fma(sine * sine, beta, x);
}

// What becomes of the sums of row t, from channel `at` on: the bias is added, then this.
enum Then { STORE, SNAKE, ADD };
struct Out {
  float* y;
  int64_t ld;
  Then then = STORE;
  Snake act{};

  inline void operator()(int64_t t, int64_t at, vec v, const float* bias) const {
    float* to = y + t * ld + at;
    if (bias) v += load(bias + at);
    if (then == SNAKE) v = snake(v, load(act.alpha + at), load(act.beta + at));
    if (then == ADD) v += load(to);
    store(to, v);
  }
};

// M rows of time x P panels. A row's tap k begins at x + k * step.
template <int M, int P>
static inline void tile(const Conv& c, const float* x, int64_t ld, int64_t step, int64_t t, int64_t panel, const Out& out) {
  const int64_t stride = c.kernel * c.in * PANEL;
  const float* w = c.weight + panel * stride;
  x += t * ld;
  vec acc[M][P][PARTS];
  for (auto& row : acc) for (auto& p : row) for (auto& v : p) v = all(0.f);
  for (int64_t k = 0; k < c.kernel; k++, x += step)
    for (int64_t i = 0; i < c.in; i++, w += PANEL)
      for (int p = 0; p < P; p++)
        for (int h = 0; h < PARTS; h++) {
          const vec v = load(w + p * stride + h * LANES);
          for (int m = 0; m < M; m++) acc[m][p][h] = fma(v, all(x[m * ld + i]), acc[m][p][h]);
        }
  for (int m = 0; m < M; m++)
    for (int p = 0; p < P; p++)
      for (int h = 0; h < PARTS; h++) out(t + m, (panel + p) * PANEL + h * LANES, acc[m][p][h], c.bias);
}

#ifdef QTTS_AMX
// Activations [in / 32][time][32] as sums of two bfloat16. Of the four products of halves the smallest is
// left out: a sample is about as far from float32's as 16-bit PCM is from it.
struct Halves {
  std::vector<uint16_t> high, low;
  int64_t length = 0;  // in time

  void resize(int64_t rows, int64_t ld) {
    length = rows + 32;  // tiles read on behind the last row
    if ((int64_t)high.size() < length * ld) high.resize(length * ld), low.resize(length * ld);
  }
  int64_t at(int64_t t, int64_t channel) const { return (channel / 32 * length + t) * 32 + channel % 32; }
  void put(int64_t t, int64_t channel, vec v) {
    const __m256bh above = _mm512_cvtneps_pbh((__m512)v);
    const __m512 rounded = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)above), 16));
    const __m256bh below = _mm512_cvtneps_pbh(_mm512_sub_ps((__m512)v, rounded));
    memcpy(&high[at(t, channel)], &above, sizeof above);
    memcpy(&low[at(t, channel)], &below, sizeof below);
  }
};

// 32 rows of time x P panels.
template <int P>
static inline void tile_of_halves(const Conv& c, const Halves& x, int64_t t, int64_t rows, int64_t panel, const Out& out) {
  const int64_t stride = c.kernel * c.in * PANEL * 2;
  const uint16_t* w = c.halves + panel * stride;
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (P == 2) { _tile_zero(2); _tile_zero(3); }
  for (int64_t i = 0; i < c.in; i += 32)
    for (int64_t k = 0; k < c.kernel; k++, w += 1024) {
      const int64_t first = x.at(t + k * c.dilation, i), second = first + 16 * 32;
      for (int p = 0; p < P; p++)
        for (int64_t ahead = 2048; ahead < 3072; ahead += 32) __builtin_prefetch(w + p * stride + ahead);
      _tile_loadd(4, &x.high[first], 64);
      _tile_loadd(5, &x.high[second], 64);
      _tile_loadd(6, w + 512, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 5, 6);
      _tile_loadd(6, w, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 5, 6);
      if constexpr (P == 2) {
        _tile_loadd(7, w + stride + 512, 64);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(7, w + stride, 64);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
      }
      _tile_loadd(4, &x.low[first], 64);
      _tile_loadd(5, &x.low[second], 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 5, 6);
      if constexpr (P == 2) {
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
  alignas(64) float sums[2][32][PANEL];
  _tile_stored(0, sums[0], 64);
  _tile_stored(1, sums[0][16], 64);
  if constexpr (P == 2) { _tile_stored(2, sums[1], 64); _tile_stored(3, sums[1][16], 64); }
  for (int64_t r = 0; r < std::min<int64_t>(32, rows - t); r++)
    for (int p = 0; p < P; p++) out(t + r, (panel + p) * PANEL, load(sums[p][r]), c.bias);
}

static void convolve_halves(const Conv& c, const Halves& x, int64_t rows, Range panels, const Out& out) {
  const TileShapes shapes;
  int64_t p = panels.from;
  for (; p + 2 <= panels.to; p += 2)
    for (int64_t t = 0; t < rows; t += 32) tile_of_halves<2>(c, x, t, rows, p, out);
  for (; p < panels.to; p++)
    for (int64_t t = 0; t < rows; t += 32) tile_of_halves<1>(c, x, t, rows, p, out);
}
#else
struct Halves {
  void resize(int64_t, int64_t) {}
  void put(int64_t, int64_t, vec) {}
};
static void convolve_halves(const Conv&, const Halves&, int64_t, Range, const Out&) {}
#endif

// Room that grows and is kept.
class Room {
 public:
  float* of(int64_t size) {
    if (size > held) floats.reset(new float[held = size]);
    return floats.get();
  }

 private:
  std::unique_ptr<float[]> floats;
  int64_t held = 0;
};
// A thread's, from one call to the next. `both`, `fresh`: of each block.
struct Rooms {
  Room input, joined, hidden;
  std::vector<Room> both, fresh;
  Halves halves;
};

// [rows][ld] as it comes to a convolution: after `history` floats of what came before, activated where
// `act` says so.
struct Source {
  const float* x;
  int64_t ld, rows;
  const float* before = nullptr;
  int64_t history = 0;
  const Snake* act = nullptr;

  bool is_plain() const { return history == 0 && !act; }
  int64_t length() const { return history / ld + rows; }
  // Its rows [from, to), to `joined` or to `halves`, or to both.
  void write(Range range, float* joined, Halves* halves) const {
    for (int64_t t = range.from; t < range.to; t++) {
      const int64_t at = t * ld;
      const bool is_new = at >= history;
      const float* row = is_new ? x + at - history : before + at;
      for (int64_t c = 0; c < ld; c += LANES) {
        vec v = load(row + c);
        if (act && is_new) v = snake(v, load(act->alpha + c), load(act->beta + c));
        if (joined) store(joined + at + c, v);
        if (halves) halves->put(t, c, v);
      }
    }
  }
};

// -> `joined`, where it is asked for or needed: history and rows.
static void convolve(const Conv& c, const Source& source, float* joined, const Out& out, Rooms& rooms, int threads) {
  const int64_t rows = source.rows, ld = source.ld, panels = padded(c.out) / PANEL;
  const bool is_small = rows * c.kernel * c.in * c.out < 1 << 20, by_panel = panels >= threads || c.halves;
  const float* x = source.is_plain() ? source.x : joined;
  Halves* halves = c.halves ? &rooms.halves : nullptr;
  if (halves) halves->resize(source.length(), ld);
#pragma omp parallel num_threads(is_small ? 1 : threads)
  {
    const int thread = omp_get_thread_num(), count = omp_get_num_threads();
    const Range p = by_panel ? part(panels, thread, count) : Range{0, panels};
    const Range t = by_panel ? Range{0, rows} : part(rows, thread, count);
    if (halves || !source.is_plain()) {
      source.write(part(source.length(), thread, count), source.is_plain() ? nullptr : joined, halves);
#pragma omp barrier
    }
    if (halves)
      convolve_halves(c, *halves, rows, p, out);
    else
      by_tiles<FLOAT_ROWS>(t.to - t.from, p.from, p.to, [&](auto count, auto width, int64_t row, int64_t panel) {
        tile<count, width>(c, x, ld, c.dilation * ld, t.from + row, panel, out);
      });
  }
}

}  // namespace
