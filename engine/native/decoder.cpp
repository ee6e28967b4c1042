// The decoder layers of talker and code predictor on a CPU: float32 activations, weights as they are
// kept (float32, bfloat16, int8 or int4). Plain C++ with the compiler's vector types: it becomes AVX2,
// AVX-512 or NEON by -march=native. decoder.py packs the weights and describes the structs again.
//
// Weights lie in panels of 16 outputs, input by input, so that a product reads them once, in order.
// Every sum runs over its inputs in order, whatever the number of rows and threads: a row's result
// does not depend on its neighbours, bit for bit.
//
// A thread owns the same KV heads and output columns from layer to layer; four barriers a layer.

#include "vectors.h"

#include <cmath>
#include <vector>

enum Form { F32, BF16, INT8, INT4 };
constexpr int64_t GROUP = 64;

struct Matrix {
  int64_t form, out, in;
  const uint8_t* weight;  // [out / 16][in][16], int4: [out / 16][in / 2][16], two inputs a byte
  const float *scale;     // int8: [out]; int4: [out / 16][in / 64][16]
  const float *zero;      // int4: as scale
};
struct Layer {
  const float *input_norm, *post_norm, *qk_norm;
  Matrix qkv, o, gate_up, down;
};
struct Net {
  int64_t num_layers, width, heads, kv_heads, head_dim, inner;
  double eps;
  const float* norm;
  const Layer* layers;
};
struct Batch {
  int64_t tokens;
  const int64_t *rows, *positions, *slots, *tables;
  int64_t table_width, block_size, num_slots;
  const float *cos, *sin;  // [positions][head_dim], sin with rotate_half's sign
  float* cache;  // [layers][2][slots][kv_heads][head_dim]
};

// Eight bytes as floats. GCC 12 takes conversions of vector types apart here, so x86 says them itself.
static inline v8 from_int8(const uint8_t* p) {
#ifdef __AVX2__
  return (v8)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#else
  b8 b;
  memcpy(&b, p, 8);
  return __builtin_convertvector(__builtin_convertvector(b, i8v), v8);
#endif
}
// Sixteen bytes of int4, two inputs each: the first one's 16 values in a and b, the second's in c and d.
static inline void from_int4(const uint8_t* p, v8& a, v8& b, v8& c, v8& d) {
#ifdef __AVX2__
  const __m128i both = _mm_loadu_si128((const __m128i*)p), mask = _mm_set1_epi8(15);
  const __m128i lo = _mm_and_si128(both, mask), hi = _mm_and_si128(_mm_srli_epi16(both, 4), mask);
  const auto wide = [](__m128i bytes) { return (v8)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)); };
  a = wide(lo);
  b = wide(_mm_srli_si128(lo, 8));
  c = wide(hi);
  d = wide(_mm_srli_si128(hi, 8));
#else
  for (int i = 0; i < 8; i++) {
    a[i] = p[i] & 15;
    b[i] = p[i + 8] & 15;
    c[i] = p[i] >> 4;
    d[i] = p[i + 8] >> 4;
  }
#endif
}

static inline v8 exp8(v8 x) {
  x = x < all(-87.f) ? all(-87.f) : x;
  x = x > all(88.f) ? all(88.f) : x;
  const v8 magic = all(12582912.f);
  v8 t = fma8(x, all(1.44269504f), magic), n = t - magic;
  v8 f = fma8(n, all(2.12194440e-4f), fma8(n, all(-0.693359375f), x));
  v8 p = all(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = fma8(p, f, all(c));
  p = fma8(p, f * f, f + all(1.f));
  i8v bits, scaled;
  memcpy(&bits, &t, 32);
  memcpy(&scaled, &p, 32);
  scaled += bits << 23;
  memcpy(&p, &scaled, 32);
  return p;
}

// ---- one input's 16 weights as floats ----

template <int FORM> struct Step;
template <> struct Step<F32> {
  static constexpr int BYTES = 64;
  static inline void read(const uint8_t* w, v8& a, v8& b) { memcpy(&a, w, 32); memcpy(&b, w + 32, 32); }
};
template <> struct Step<BF16> {
  static constexpr int BYTES = 32;
  static inline v8 wide(const uint8_t* w) {
    h8 h; memcpy(&h, w, 16);
    i8v i = __builtin_convertvector(h, i8v) << 16;
    v8 f; memcpy(&f, &i, 32);
    return f;
  }
  static inline void read(const uint8_t* w, v8& a, v8& b) { a = wide(w); b = wide(w + 16); }
};
template <> struct Step<INT8> {
  static constexpr int BYTES = 16;
  static inline void read(const uint8_t* w, v8& a, v8& b) { a = from_int8(w); b = from_int8(w + 8); }
};

// Where 8 results of a row go, columns counted from `shift` on.
enum Mode { STORE, ADD, GATE };
struct Out {
  float* y;
  int64_t ld;
  Mode mode = STORE;
  int64_t shift = 0;

  inline void operator()(int64_t row, int64_t column, v8 v) const {
    float* at = y + row * ld + column - shift;
    if (mode == ADD) v += load(at);
    if (mode == GATE) {  // silu of the gate that lies there, times v
      const v8 gate = load(at);
      v *= gate / (all(1.f) + exp8(-gate));
    }
    store(at, v);
  }
};

// M rows x P panels, one pair of accumulators each.
template <int FORM, int M, int P>
static inline void tile(const Matrix& m, const float* x, int64_t ldx, int64_t panel, v8 (&y)[M][P][2]) {
  constexpr int BYTES = Step<FORM>::BYTES;
  const int64_t K = m.in, stride = K * BYTES;
  const uint8_t* w = m.weight + panel * stride;
  v8 acc[M][P][2];  // of its own, so that it stays in registers
  for (auto& row : acc) for (auto& p : row) p[0] = p[1] = all(0.f);
  for (int64_t k = 0; k < K; k++, w += BYTES)
    for (int p = 0; p < P; p++) {
      v8 a, b;
      Step<FORM>::read(w + p * stride, a, b);
      for (int i = 0; i < M; i++) {
        v8 v = all(x[i * ldx + k]);
        acc[i][p][0] = fma8(a, v, acc[i][p][0]);
        acc[i][p][1] = fma8(b, v, acc[i][p][1]);
      }
    }
  for (int p = 0; p < P; p++)
    for (int h = 0; h < 2; h++) {
      const v8 s = FORM == INT8 ? load(m.scale + (panel + p) * PANEL + 8 * h) : all(1.f);
      for (int i = 0; i < M; i++) y[i][p][h] = FORM == INT8 ? acc[i][p][h] * s : acc[i][p][h];
    }
}

// int4: w = value * scale + zero by groups of inputs, so sums of value * x and of x are kept apart.
template <int M, int P>
static inline void tile4(const Matrix& m, const float* x, int64_t ldx, int64_t panel, v8 (&y)[M][P][2]) {
  const int64_t K = m.in, stride = K * 8, groups = K / GROUP;
  const uint8_t* w = m.weight + panel * stride;
  for (auto& row : y) for (auto& p : row) p[0] = p[1] = all(0.f);
  for (int64_t g = 0; g < groups; g++, w += GROUP * 8) {
    v8 acc[M][P][2], xs[M];
    for (int i = 0; i < M; i++) {
      xs[i] = all(0.f);
      for (int64_t k = 0; k < GROUP; k += 8) xs[i] += load(x + i * ldx + g * GROUP + k);
      for (int p = 0; p < P; p++) acc[i][p][0] = acc[i][p][1] = all(0.f);
    }
    for (int64_t k = 0; k < GROUP; k += 2)
      for (int p = 0; p < P; p++) {
        v8 a, b, c, d;
        from_int4(w + p * stride + k * 8, a, b, c, d);
        for (int i = 0; i < M; i++) {
          v8 v = all(x[i * ldx + g * GROUP + k]), u = all(x[i * ldx + g * GROUP + k + 1]);
          acc[i][p][0] = fma8(a, v, acc[i][p][0]);
          acc[i][p][1] = fma8(b, v, acc[i][p][1]);
          acc[i][p][0] = fma8(c, u, acc[i][p][0]);
          acc[i][p][1] = fma8(d, u, acc[i][p][1]);
        }
      }
    for (int p = 0; p < P; p++)
      for (int h = 0; h < 2; h++) {
        const int64_t at = ((panel + p) * groups + g) * PANEL + 8 * h;
        v8 s = load(m.scale + at), z = load(m.zero + at);
        for (int i = 0; i < M; i++) {
          y[i][p][h] = fma8(acc[i][p][h], s, y[i][p][h]);
          y[i][p][h] = fma8(z, all(sum(xs[i])), y[i][p][h]);
        }
      }
  }
}

template <int FORM, int M, int P>
static inline void run_tile(const Matrix& m, const float* x, int64_t ldx, int64_t row, int64_t panel, const Out& emit) {
  v8 y[M][P][2];
  if constexpr (FORM == INT4) tile4<M, P>(m, x + row * ldx, ldx, panel, y);
  else tile<FORM, M, P>(m, x + row * ldx, ldx, panel, y);
  for (int i = 0; i < M; i++)
    for (int p = 0; p < P; p++)
      for (int h = 0; h < 2; h++) emit(row + i, (panel + p) * PANEL + 8 * h, y[i][p][h]);
}

template <int FORM, int P>
static inline void panels(const Matrix& m, const float* x, int64_t ldx, int64_t rows, int64_t panel, const Out& emit) {
  constexpr int MOST = P == 1 ? 6 : P == 2 ? 2 : 1;  // by the number of registers
  int64_t r = 0;
  for (; r + MOST <= rows; r += MOST) run_tile<FORM, MOST, P>(m, x, ldx, r, panel, emit);
  switch (rows - r) {
    case 5: if constexpr (MOST > 5) run_tile<FORM, 5, P>(m, x, ldx, r, panel, emit); break;
    case 4: if constexpr (MOST > 4) run_tile<FORM, 4, P>(m, x, ldx, r, panel, emit); break;
    case 3: if constexpr (MOST > 3) run_tile<FORM, 3, P>(m, x, ldx, r, panel, emit); break;
    case 2: if constexpr (MOST > 2) run_tile<FORM, 2, P>(m, x, ldx, r, panel, emit); break;
    case 1: if constexpr (MOST > 1) run_tile<FORM, 1, P>(m, x, ldx, r, panel, emit); break;
  }
}

// x [rows][ldx] times the columns [from, to) of W^T, both multiples of 16; the results go to `emit`.
template <int FORM>
static void product(const Matrix& m, const float* x, int64_t ldx, int64_t rows, int64_t from, int64_t to, const Out& emit) {
  int64_t p = from / PANEL, end = to / PANEL;
  if (rows == 1) for (; p + 4 <= end; p += 4) panels<FORM, 4>(m, x, ldx, rows, p, emit);
  if (rows <= 2) for (; p + 2 <= end; p += 2) panels<FORM, 2>(m, x, ldx, rows, p, emit);
  for (; p < end; p++) panels<FORM, 1>(m, x, ldx, rows, p, emit);
}
static void product(const Matrix& m, const float* x, int64_t ldx, int64_t rows, int64_t from, int64_t to, const Out& emit) {
  switch (m.form) {
    case F32: return product<F32>(m, x, ldx, rows, from, to, emit);
    case BF16: return product<BF16>(m, x, ldx, rows, from, to, emit);
    case INT8: return product<INT8>(m, x, ldx, rows, from, to, emit);
    case INT4: return product<INT4>(m, x, ldx, rows, from, to, emit);
  }
}

// ---- what stands around the products ----

static void rms_norm(const float* x, const float* weight, float* y, int64_t n, double eps) {
  v8 s = all(0.f);
  for (int64_t i = 0; i < n; i += 8) s = fma8(load(x + i), load(x + i), s);
  const v8 r = all(1.f / std::sqrt(sum(s) / n + (float)eps));
  for (int64_t i = 0; i < n; i += 8) store(y + i, load(x + i) * r * load(weight + i));
}

static void rotate(float* head, const float* normed, const float* cos, const float* sin, int64_t d) {
  for (int64_t i = 0; i < d; i += 8) {
    const int64_t other = i < d / 2 ? i + d / 2 : i - d / 2;
    store(head + i, fma8(load(normed + i), load(cos + i), load(normed + other) * load(sin + i)));
  }
}

// q of one token and head over the keys before it. `weights` has room for one number per key.
static void attend(const Net& net, const Batch& b, const float* keys, const float* values, const float* q,
                   int64_t token, float* weights, float* out) {
  const int64_t d = net.head_dim, step = net.kv_heads * d, count = b.positions[token] + 1;
  const int64_t* table = b.tables + b.rows[token] * b.table_width;
  const auto slot = [&](int64_t p) { return (table[p / b.block_size] * b.block_size + p % b.block_size) * step; };
  const float scale = 1.f / std::sqrt((float)d);
  float most = -INFINITY, total = 0.f;
  for (int64_t p = 0; p < count; p++) {
    const float* key = keys + slot(p);
    v8 s = all(0.f);
    for (int64_t i = 0; i < d; i += 8) s = fma8(load(q + i), load(key + i), s);
    weights[p] = sum(s) * scale;
    most = std::fmax(most, weights[p]);
  }
  for (int64_t p = count; p % 8; p++) weights[p] = -INFINITY;
  for (int64_t p = 0; p < count; p += 8) store(weights + p, exp8(load(weights + p) - all(most)));
  for (int64_t p = 0; p < count; p++) total += weights[p];
  for (int64_t i = 0; i < d; i += 8) store(out + i, all(0.f));
  for (int64_t p = 0; p < count; p++) {
    const float* value = values + slot(p);
    const v8 w = all(weights[p]);
    for (int64_t i = 0; i < d; i += 8) store(out + i, fma8(w, load(value + i), load(out + i)));
  }
  const v8 r = all(1.f / total);
  for (int64_t i = 0; i < d; i += 8) store(out + i, load(out + i) * r);
}

struct Buffers { std::vector<float> qkv, mixed, act; };

static void run_layer(const Net& net, const Layer& layer, const Batch& b, float* cache, float* x, Buffers& buf,
                      std::vector<float>& h, std::vector<float>& weights, int thread, int threads) {
  const int64_t T = b.tokens, H = net.width, d = net.head_dim, I = net.inner;
  const int64_t group = net.heads / net.kv_heads, Q = (net.heads + 2 * net.kv_heads) * d, A = net.heads * d;
  float *keys = cache, *values = cache + b.num_slots * net.kv_heads * d;
  const auto norm = [&](const float* weight) {
    for (int64_t t = 0; t < T; t++) rms_norm(x + t * H, weight, &h[t * H], H, net.eps);
  };
  norm(layer.input_norm);
  const auto [first, last] = part(net.kv_heads, thread, threads);
  const Out keep{buf.qkv.data(), Q};
  product(layer.qkv, h.data(), H, T, first * group * d, last * group * d, keep);
  for (int64_t at : {net.heads, net.heads + net.kv_heads})
    product(layer.qkv, h.data(), H, T, (at + first) * d, (at + last) * d, keep);
  for (int64_t head = first; head < last; head++) {
    for (int64_t t = 0; t < T; t++) {
      float* row = &buf.qkv[t * Q];
      const auto turn = [&](int64_t n) {
        rms_norm(row + n * d, layer.qk_norm + n * d, weights.data(), d, net.eps);
        rotate(row + n * d, weights.data(), b.cos + b.positions[t] * d, b.sin + b.positions[t] * d, d);
      };
      for (int64_t g = 0; g < group; g++) turn(head * group + g);
      turn(net.heads + head);
      const int64_t at = (b.slots[t] * net.kv_heads + head) * d;
      memcpy(keys + at, row + (net.heads + head) * d, d * 4);
      memcpy(values + at, row + (net.heads + net.kv_heads + head) * d, d * 4);
    }
    for (int64_t t = 0; t < T; t++)
      for (int64_t n = head * group; n < (head + 1) * group; n++)
        attend(net, b, keys + head * d, values + head * d, &buf.qkv[t * Q + n * d], t, weights.data(), &buf.mixed[t * A + n * d]);
  }
  const Out add{x, H, ADD};
  const auto [h0, h1] = part(H / PANEL, thread, threads);
  const auto [i0, i1] = part(I / PANEL, thread, threads);
#pragma omp barrier
  product(layer.o, buf.mixed.data(), A, T, h0 * PANEL, h1 * PANEL, add);
#pragma omp barrier
  norm(layer.post_norm);
  product(layer.gate_up, h.data(), H, T, i0 * PANEL, i1 * PANEL, Out{buf.act.data(), I});
  product(layer.gate_up, h.data(), H, T, I + i0 * PANEL, I + i1 * PANEL, Out{buf.act.data(), I, GATE, I});
#pragma omp barrier
  product(layer.down, buf.act.data(), I, T, h0 * PANEL, h1 * PANEL, add);
#pragma omp barrier
}

// ---- what Python calls ----

// x [tokens][width] through all layers and the last norm, in place.
extern "C" void qtts_forward(const Net* net, const Batch* batch, float* x, int threads) {
  const int64_t T = batch->tokens, d = net->head_dim;
  int64_t longest = d;
  for (int64_t t = 0; t < T; t++) longest = batch->positions[t] + 8 > longest ? batch->positions[t] + 8 : longest;
  Buffers buf;
  buf.qkv.resize(T * (net->heads + 2 * net->kv_heads) * d);
  buf.mixed.resize(T * net->heads * d);
  buf.act.resize(T * net->inner);
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num(), count = omp_get_num_threads();
    std::vector<float> h(T * net->width), weights(longest + 8);
    for (int64_t l = 0; l < net->num_layers; l++)
      run_layer(*net, net->layers[l], *batch, batch->cache + l * 2 * batch->num_slots * net->kv_heads * d, x, buf, h,
                weights, thread, count);
    const auto [t0, t1] = part(T, thread, count);
    for (int64_t t = t0; t < t1; t++) rms_norm(x + t * net->width, net->norm, x + t * net->width, net->width, net->eps);
  }
}

// x [rows][in] -> y [rows][out]
extern "C" void qtts_multiply(const Matrix* m, const float* x, int64_t rows, float* y, int threads) {
#pragma omp parallel num_threads(threads)
  {
    const auto [p0, p1] = part(m->out / PANEL, omp_get_thread_num(), omp_get_num_threads());
    product(*m, x, m->in, rows, p0 * PANEL, p1 * PANEL, Out{y, m->out});
  }
}
