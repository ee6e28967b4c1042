// The decoder layers of talker and code predictor on a CPU: float32 activations, weights as they are
// kept (products.h). Plain C++ with the compiler's vector types, and the CPU's own instructions where
// they make a difference. decoder.py describes the structs again.
//
// A thread owns the same KV heads and output columns from layer to layer; four barriers a layer.

#include "products.h"

#include <cmath>
#include <vector>

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

// Positions of the cache whose values are summed at once.
constexpr int64_t TOGETHER = 8;

// ---- what stands around the products ----

static void rms_norm(const float* x, const float* weight, float* y, int64_t n, double eps) {
  vec s = all(0.f);
  for (int64_t i = 0; i < n; i += LANES) s = fma(load(x + i), load(x + i), s);
  const vec r = all(1.f / std::sqrt(sum(s) / n + (float)eps));
  for (int64_t i = 0; i < n; i += LANES) store(y + i, load(x + i) * r * load(weight + i));
}

static void rotate(float* head, const float* normed, const float* cos, const float* sin, int64_t d) {
  const int64_t half = d / 2;
  for (int64_t i = 0; i < half; i++) head[i] = __builtin_fmaf(normed[i], cos[i], normed[i + half] * sin[i]);
  for (int64_t i = half; i < d; i++) head[i] = __builtin_fmaf(normed[i], cos[i], normed[i - half] * sin[i]);
}

static float dot(const float* a, const float* b, int64_t n) {
  vec s = all(0.f);
  for (int64_t i = 0; i < n; i += LANES) s = fma(load(a + i), load(b + i), s);
  return sum(s);
}

// In place; what lies behind `count` up to a whole vector is written to.
static void softmax(float* x, int64_t count) {
  float most = -INFINITY, total = 0.f;
  for (int64_t p = 0; p < count; p++) most = std::fmax(most, x[p]);
  for (int64_t p = count; p % LANES; p++) x[p] = -INFINITY;
  for (int64_t p = 0; p < count; p += LANES) store(x + p, exp(load(x + p) - all(most)));
  for (int64_t p = 0; p < count; p++) total += x[p];
  const vec r = all(1.f / total);
  for (int64_t p = 0; p < count; p += LANES) store(x + p, load(x + p) * r);
}

// The queries of one token in some KV heads over the keys before it. A position's heads lie side by side
// and positions apart: so position by position. `weights`: [heads][length].
static void attend(const Net& net, const Batch& b, const float* keys, const float* values, const float* q,
                   int64_t token, Range kv_heads, float* weights, int64_t length, float* out) {
  const int64_t d = net.head_dim, step = net.kv_heads * d, count = b.positions[token] + 1, group = net.heads / net.kv_heads;
  const int64_t first = kv_heads.from * group, heads = (kv_heads.to - kv_heads.from) * group, bytes = (kv_heads.to - kv_heads.from) * d * 4;
  const int64_t* table = b.tables + b.rows[token] * b.table_width;
  const auto at = [&](const float* cache, int64_t p) {
    p = p < count ? p : count - 1;
    return cache + (table[p / b.block_size] * b.block_size + p % b.block_size) * step + kv_heads.from * d;
  };
  const auto prefetch = [&](const float* cache, int64_t p) {
    const char* next = (const char*)at(cache, p);
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(next + i);
  };
  const float scale = 1.f / std::sqrt((float)d);
  for (int64_t p = 0; p < count; p++) {
    const float* key = at(keys, p);
    prefetch(keys, p + TOGETHER);
    for (int64_t h = 0; h < heads; h++) weights[h * length + p] = dot(q + (first + h) * d, key + h / group * d, d) * scale;
  }
  for (int64_t h = 0; h < heads; h++) softmax(weights + h * length, count);
  std::fill(out + first * d, out + (first + heads) * d, 0.f);
  for (int64_t p = 0; p < count; p += TOGETHER) {
    const int64_t number = std::min(TOGETHER, count - p);
    const float* value[TOGETHER];
    for (int64_t n = 0; n < number; n++) value[n] = at(values, p + n);
    for (int64_t n = 0; n < TOGETHER; n++) prefetch(values, p + TOGETHER + n);
    for (int64_t h = 0; h < heads; h++) {
      float* y = out + (first + h) * d;
      for (int64_t i = h / group * d, end = i + d; i < end; i += LANES, y += LANES) {
        vec sum = load(y);
        for (int64_t n = 0; n < number; n++) sum = fma(all(weights[h * length + p + n]), load(value[n] + i), sum);
        store(y, sum);
      }
    }
  }
}

struct Buffers { std::vector<float> qkv, mixed, act; };
// A thread's own.
struct Own {
  std::vector<float> h, weights;
  int64_t length;  // of a head's weights
  Input input;
};

static void run_layer(const Net& net, const Layer& layer, const Batch& b, float* cache, float* x, Buffers& buf,
                      Own& own, int thread, int threads) {
  const int64_t T = b.tokens, H = net.width, d = net.head_dim, I = net.inner;
  const int64_t group = net.heads / net.kv_heads, Q = (net.heads + 2 * net.kv_heads) * d, A = net.heads * d;
  float *keys = cache, *values = cache + b.num_slots * net.kv_heads * d;
  const auto norm = [&](const float* weight) {
    for (int64_t t = 0; t < T; t++) rms_norm(x + t * H, weight, &own.h[t * H], H, net.eps);
  };
  norm(layer.input_norm);
  own.input.take(layer.qkv, own.h.data(), H, T);
  const auto [first, last] = part(net.kv_heads, thread, threads);
  const Out keep{buf.qkv.data(), Q};
  own.input.multiply(layer.qkv, first * group * d, last * group * d, keep);
  for (int64_t at : {net.heads, net.heads + net.kv_heads}) own.input.multiply(layer.qkv, (at + first) * d, (at + last) * d, keep);
  for (int64_t head = first; head < last; head++) {
    for (int64_t t = 0; t < T; t++) {
      float* row = &buf.qkv[t * Q];
      const auto turn = [&](int64_t n) {
        rms_norm(row + n * d, layer.qk_norm + n * d, own.weights.data(), d, net.eps);
        rotate(row + n * d, own.weights.data(), b.cos + b.positions[t] * d, b.sin + b.positions[t] * d, d);
      };
      for (int64_t g = 0; g < group; g++) turn(head * group + g);
      turn(net.heads + head);
      const int64_t at = (b.slots[t] * net.kv_heads + head) * d;
      memcpy(keys + at, row + (net.heads + head) * d, d * 4);
      memcpy(values + at, row + (net.heads + net.kv_heads + head) * d, d * 4);
    }
  }
  for (int64_t t = 0; t < T && first < last; t++)
    attend(net, b, keys, values, &buf.qkv[t * Q], t, {first, last}, own.weights.data(), own.length, &buf.mixed[t * A]);
  const Out add{x, H, ADD};
  const auto [h0, h1] = part(H / PANEL, thread, threads);
  const auto [i0, i1] = part(I / PANEL, thread, threads);
#pragma omp barrier
  own.input.take(layer.o, buf.mixed.data(), A, T);
  own.input.multiply(layer.o, h0 * PANEL, h1 * PANEL, add);
#pragma omp barrier
  norm(layer.post_norm);
  own.input.take(layer.gate_up, own.h.data(), H, T);
  own.input.multiply(layer.gate_up, i0 * PANEL, i1 * PANEL, Out{buf.act.data(), I});
  own.input.multiply(layer.gate_up, I + i0 * PANEL, I + i1 * PANEL, Out{buf.act.data(), I, GATE, I});
#pragma omp barrier
  own.input.take(layer.down, buf.act.data(), I, T);
  own.input.multiply(layer.down, h0 * PANEL, h1 * PANEL, add);
#pragma omp barrier
}

// ---- what Python calls ----

// x [tokens][width] through all layers and the last norm, in place.
extern "C" void qtts_forward(const Net* net, const Batch* batch, float* x, int threads) {
  const int64_t T = batch->tokens, d = net->head_dim;
  int64_t longest = d;
  for (int64_t t = 0; t < T; t++) longest = batch->positions[t] + 1 > longest ? batch->positions[t] + 1 : longest;
  Buffers buf;
  buf.qkv.resize(T * (net->heads + 2 * net->kv_heads) * d);
  buf.mixed.resize(T * net->heads * d);
  buf.act.resize(T * net->inner);
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num(), count = omp_get_num_threads();
    Own own;
    own.h.resize(T * net->width), own.length = longest + LANES, own.weights.resize(net->heads * own.length);
    for (int64_t l = 0; l < net->num_layers; l++)
      run_layer(*net, net->layers[l], *batch, batch->cache + l * 2 * batch->num_slots * net->kv_heads * d, x, buf, own,
                thread, count);
    const auto [t0, t1] = part(T, thread, count);
    for (int64_t t = t0; t < t1; t++) rms_norm(x + t * net->width, net->norm, x + t * net->width, net->width, net->eps);
  }
}

// x [rows][in] -> y [rows][out]
extern "C" void qtts_multiply(const Matrix* m, const float* x, int64_t rows, float* y, int threads) {
#pragma omp parallel num_threads(threads)
  {
    Input input;
    input.take(*m, x, m->in, rows);
    const auto [from, to] = part(m->out / PANEL, omp_get_thread_num(), omp_get_num_threads());
    input.multiply(*m, from * PANEL, to * PANEL, Out{y, m->out});
  }
}
