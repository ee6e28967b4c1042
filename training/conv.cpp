// The codec's convolutions and activations for training on a CPU, forward and backward: vectors
// along time, a tile of the output in registers. Tensors are contiguous float [B, C, L], L % 8 == 0.

#include <cmath>

#define EIGHT_LANES
#include "../engine/native/vectors.h"

template <int N>
static void tile(const float* x, const float* w, const float* bias, float* y, int64_t in, int64_t taps,
                 int64_t dilation, int64_t row, int64_t length) {
  vec sums[4][N];
  for (int o = 0; o < 4; o++)
    for (int n = 0; n < N; n++) sums[o][n] = all(bias ? bias[o] : 0.0f);
  for (int64_t i = 0; i < in; i++, x += row)
    for (int64_t k = 0; k < taps; k++, w += 4) {
      vec seen[N];
      for (int n = 0; n < N; n++) seen[n] = load(x + k * dilation + 8 * n);
      for (int o = 0; o < 4; o++)
        for (int n = 0; n < N; n++) sums[o][n] = fma(all(w[o]), seen[n], sums[o][n]);
    }
  for (int o = 0; o < 4; o++)
    for (int n = 0; n < N; n++) store(y + o * length + 8 * n, sums[o][n]);
}

// x [B, in, length + (taps - 1) * dilation], w [out / 4, in, taps, 4] -> y [B, out, length]
extern "C" void conv(const float* x, const float* w, const float* bias, float* y, int64_t batch, int64_t in,
                     int64_t out, int64_t length, int64_t taps, int64_t dilation) {
  int64_t row = length + (taps - 1) * dilation;
#pragma omp parallel for
  for (int64_t b = 0; b < batch; b++)
    for (int64_t t = 0; t < length; t += 24)
      for (int64_t o = 0; o < out; o += 4) {
        const float *from = x + b * in * row + t, *weight = w + o * in * taps;
        float* to = y + (b * out + o) * length + t;
        auto one = length - t >= 24 ? tile<3> : length - t >= 16 ? tile<2> : tile<1>;
        one(from, weight, bias ? bias + o : nullptr, to, in, taps, dilation, row, length);
      }
}

template <int O, int K>
static void correlate(const float* x, const float* g, float* sums, int64_t count, int64_t length, int64_t step,
                      int64_t next) {
  vec acc[O][K] = {};
  for (int64_t t = 0; t < count; t += 8)
    for (int o = 0; o < O; o++) {
      vec from_above = load(g + o * length + t);
      for (int k = 0; k < K; k++) acc[o][k] = fma(from_above, load(x + k * step + t), acc[o][k]);
    }
  for (int o = 0; o < O; o++)
    for (int k = 0; k < K; k++) sums[o * next + k] += sum(acc[o][k]);
}

// The weight's derivative, [out, in, taps] (added to): g [B, out, length] against x as above.
extern "C" void to_weight(const float* x, const float* g, float* sums, int64_t batch, int64_t in, int64_t out,
                          int64_t length, int64_t taps, int64_t dilation) {
  int64_t row = length + (taps - 1) * dilation;
#pragma omp parallel for
  for (int64_t o = 0; o < out; o += 2)
    for (int64_t b = 0; b < batch; b++)
      for (int64_t t = 0; t < length; t += 512) {
        int64_t count = std::min<int64_t>(512, length - t);
        const float *above = g + (b * out + o) * length + t, *from = x + b * in * row + t;
        float* to = sums + o * in * taps;
        if (taps == 7)
          for (int64_t i = 0; i < in; i++)
            correlate<2, 7>(from + i * row, above, to + i * taps, count, length, dilation, in * taps);
        else  // one tap: six inputs at once
          for (int64_t i = 0; i < in; i += 6)
            correlate<2, 6>(from + i * row, above, to + i, count, length, row, in);
      }
}

// y = x + sin^2(a x) b
extern "C" void snake(const float* x, const float* a, const float* b, float* y, int64_t rows, int64_t channels,
                      int64_t length) {
#pragma omp parallel for
  for (int64_t r = 0; r < rows; r++) {
    float scale = a[r % channels], weight = b[r % channels];
    for (int64_t t = 0; t < length; t++) {
      float wave = std::sin(scale * x[r * length + t]);
      y[r * length + t] = x[r * length + t] + wave * wave * weight;
    }
  }
}

// its derivatives: to x, and added to those of a and b
extern "C" void snake_back(const float* x, const float* a, const float* b, const float* g, float* to_x, float* to_a,
                           float* to_b, int64_t rows, int64_t channels, int64_t length) {
#pragma omp parallel for
  for (int64_t c = 0; c < channels; c++)
    for (int64_t r = c; r < rows; r += channels) {
      float slopes = 0, squares = 0;
      const float *in = x + r * length, *above = g + r * length;
      float* out = to_x + r * length;
      for (int64_t t = 0; t < length; t++) {
        float half = std::sin(a[c] * in[t]), slope = std::sin(2 * a[c] * in[t]) * above[t];
        out[t] = above[t] + slope * a[c] * b[c];
        slopes += slope * in[t];
        squares += half * half * above[t];
      }
      to_a[c] += slopes * b[c];
      to_b[c] += squares;
    }
}
