// The convolutions of the codec decoder on a CPU: latents at 50 Hz to samples, in float32.
// codec.py packs the weights and describes the structs again; models/codec_layers.py has the same in
// torch, and the names of the states.
//
// A stream at a time, time-major: activations are [time][channels], channels rounded up to 16 and the
// rest 0. Weights lie in panels of 16 outputs, input by input. Every output is one sum in one order, so
// samples are the same bits for every cut, in any company and for every number of threads.
//
// A stage goes depth-first: a piece that fits into the cache runs through all later stages before the
// next piece begins.

#include "vectors.h"

#include <vector>

namespace {

struct Snake { const float *alpha, *beta; };  // x + sin^2(alpha x) * beta, [channels]
struct Conv {
  int64_t in, out, kernel, dilation;
  const float *weight, *bias;  // [out / 16][kernel][in][16], [out]
};
struct Unit {
  Snake act1;
  Conv conv1;
  Snake act2;
  Conv conv2;
};
struct Block {
  Snake act;
  Conv up;  // one row in, 2 * rate rows out: its own, and what it adds to the next one's
  int64_t rate;
  Unit units[3];
};
struct Codec {
  Conv first;
  int64_t num_blocks;
  const Block* blocks;
  Snake last_act;
  Conv last;
};
// A state tensor [rows][channels][time] before and after; `stride`: from one row to the next before.
struct State {
  const float* before;
  int64_t stride;
  float* after;
  int64_t channels, length;
};

static inline int64_t padded(int64_t n) { return (n + PANEL - 1) / PANEL * PANEL; }

// sin^2 has period pi, so it is enough to know the sine between -pi/2 and pi/2.
static inline v8 snake(v8 x, v8 alpha, v8 beta) {
  const v8 magic = all(12582912.f), z = x * alpha;
  const v8 n = fma8(z, all(0.318309886f), magic) - magic;
  v8 r = fma8(n, all(-3.140625f), z);
  r = fma8(n, all(-9.67502593994140625e-4f), r);
  r = fma8(n, all(-1.509957990978376e-7f), r);
  const v8 q = r * r;
  v8 p = all(-2.50521084e-8f);
  for (float c : {2.75573192e-6f, -1.98412698e-4f, 8.33333333e-3f, -1.66666667e-1f}) p = fma8(p, q, all(c));
  const v8 sine = fma8(r * q, p, r);
  return fma8(sine * sine, beta, x);
}

static void snake(const Snake& s, const float* x, float* y, int64_t rows, int64_t channels) {
  for (int64_t t = 0; t < rows; t++, x += channels, y += channels)
    for (int64_t c = 0; c < channels; c += 8) store(y + c, snake(load(x + c), load(s.alpha + c), load(s.beta + c)));
}

// M rows of time x one panel. A row's tap k begins at x + k * step.
template <int M>
static inline void tile(const Conv& c, const float* x, int64_t ld, int64_t step, const float* w, v8 (&y)[M][2]) {
  v8 acc[M][2];
  for (auto& row : acc) row[0] = row[1] = all(0.f);
  for (int64_t k = 0; k < c.kernel; k++, x += step)
    for (int64_t i = 0; i < c.in; i++, w += PANEL) {
      const v8 a = load(w), b = load(w + 8);
      for (int m = 0; m < M; m++) {
        const v8 v = all(x[m * ld + i]);
        acc[m][0] = fma8(a, v, acc[m][0]);
        acc[m][1] = fma8(b, v, acc[m][1]);
      }
    }
  for (int m = 0; m < M; m++) y[m][0] = acc[m][0], y[m][1] = acc[m][1];
}

// What becomes of 8 sums of row t, from channel `c` on: the bias is added, then this.
enum Then { STORE, SNAKE, ADD };
struct Out {
  float* y;
  int64_t ld;
  Then then = STORE;
  Snake act{};
};

template <int M>
static inline void run_tile(const Conv& c, const float* x, int64_t ld, int64_t step, int64_t t, int64_t panel, const Out& out) {
  v8 sums[M][2];
  tile<M>(c, x + t * ld, ld, step, c.weight + panel * c.kernel * c.in * PANEL, sums);
  for (int m = 0; m < M; m++)
    for (int half = 0; half < 2; half++) {
      const int64_t at = panel * PANEL + half * 8;
      float* y = out.y + (t + m) * out.ld + at;
      v8 v = sums[m][half];
      if (c.bias) v += load(c.bias + at);
      if (out.then == SNAKE) v = snake(v, load(out.act.alpha + at), load(out.act.beta + at));
      if (out.then == ADD) v += load(y);
      store(y, v);
    }
}

static void panel_of_rows(const Conv& c, const float* x, int64_t ld, int64_t step, Range rows, int64_t panel, const Out& out) {
  int64_t t = rows.from;
  for (; t + 6 <= rows.to; t += 6) run_tile<6>(c, x, ld, step, t, panel, out);
  switch (rows.to - t) {
    case 5: return run_tile<5>(c, x, ld, step, t, panel, out);
    case 4: return run_tile<4>(c, x, ld, step, t, panel, out);
    case 3: return run_tile<3>(c, x, ld, step, t, panel, out);
    case 2: return run_tile<2>(c, x, ld, step, t, panel, out);
    case 1: return run_tile<1>(c, x, ld, step, t, panel, out);
  }
}

// x [history + rows][ld] -> rows of `out`.
static void convolve(const Conv& c, const float* x, int64_t ld, int64_t rows, const Out& out, int threads) {
  const int64_t panels = padded(c.out) / PANEL, step = c.dilation * ld;
  const bool is_small = rows * c.kernel * c.in * c.out < 1 << 20, by_panel = panels >= threads;
#pragma omp parallel num_threads(is_small ? 1 : threads)
  {
    const int thread = omp_get_thread_num(), count = omp_get_num_threads();
    const Range p = by_panel ? part(panels, thread, count) : Range{0, panels};
    const Range t = by_panel ? Range{0, rows} : part(rows, thread, count);
    for (int64_t panel = p.from; panel < p.to; panel++) panel_of_rows(c, x, ld, step, t, panel, out);
  }
}

// One stream on its way through the net.
class Stream {
 public:
  Stream(const Codec& net, const State* states, int64_t row, int threads)
      : net(net), states(states), row(row), threads(threads) {}

  // x [latent][time] -> wave; ends with the states that come after.
  void run(const float* x, int64_t time, float* wave) {
    for (int64_t s = 0; s < num_states(); s++) kept.push_back(read(states[s]));
    out = wave;
    const int64_t ld = padded(net.first.in), width = padded(net.first.out);
    std::vector<float> input(time * ld, 0.f);
    for (int64_t c = 0; c < net.first.in; c++)
      for (int64_t t = 0; t < time; t++) input[t * ld + c] = x[c * time + t];
    std::vector<float> y(time * width);
    with_history(0, input.data(), time, ld, nullptr, [&](const float* joined) {
      convolve(net.first, joined, ld, time, Out{y.data(), width}, threads);
    });
    block(0, y.data(), time);
    for (int64_t s = 0; s < num_states(); s++) write(states[s], kept[s]);
  }

 private:
  const Codec& net;
  const State* states;
  const int64_t row;
  const int threads;
  float* out = nullptr;
  std::vector<std::vector<float>> kept;  // states, time-major

  // first, then of each block its overlap and its three units, then last
  int64_t num_states() const { return 2 + 4 * net.num_blocks; }

  std::vector<float> read(const State& s) const {
    const int64_t ld = padded(s.channels);
    std::vector<float> y(s.length * ld, 0.f);
    const float* x = s.before + row * s.stride;
    for (int64_t c = 0; c < s.channels; c++)
      for (int64_t t = 0; t < s.length; t++) y[t * ld + c] = x[c * s.length + t];
    return y;
  }
  void write(const State& s, const std::vector<float>& x) const {
    const int64_t ld = padded(s.channels);
    float* y = s.after + row * s.channels * s.length;
    for (int64_t c = 0; c < s.channels; c++)
      for (int64_t t = 0; t < s.length; t++) y[c * s.length + t] = x[t * ld + c];
  }

  // What lies before x and then x, activated where `act` says so; the end of it is the next history.
  template <class F>
  void with_history(int64_t state, const float* x, int64_t rows, int64_t ld, const Snake* act, F use) {
    std::vector<float>& before = kept[state];
    std::vector<float> joined(before.size() + rows * ld);
    std::copy(before.begin(), before.end(), joined.begin());
    float* fresh = joined.data() + before.size();
    if (act) snake(*act, x, fresh, rows, ld);
    else std::copy(x, x + rows * ld, fresh);
    use(joined.data());
    std::copy(joined.end() - before.size(), joined.end(), before.begin());
  }

  void block(int64_t b, float* x, int64_t rows) {
    if (b == net.num_blocks) return last(x, rows);
    const Block& block = net.blocks[b];
    const int64_t in = padded(block.up.in), piece = std::max<int64_t>(6, PIECE / (in * block.rate));
    for (int64_t t = 0; t < rows; t += piece) upsample(b, x + t * in, std::min(piece, rows - t));
  }

  void upsample(int64_t b, float* x, int64_t rows) {
    const Block& block = net.blocks[b];
    const int64_t in = padded(block.up.in), width = padded(block.up.out) / 2, channels = width / block.rate;
    std::vector<float> both(rows * 2 * width), y(rows * width);
    snake(block.act, x, x, rows, in);
    convolve(Conv{block.up.in, 2 * width, 1, 1, block.up.weight, nullptr}, x, in, rows, Out{both.data(), 2 * width}, threads);
    std::vector<float>& late = kept[1 + 4 * b];
    for (int64_t t = 0; t < rows; t++) {
      const float *own = &both[t * 2 * width], *added = t ? own - width : late.data();
      for (int64_t i = 0; i < width; i += 8)
        store(&y[t * width + i], load(own + i) + load(added + i) + load(block.up.bias + i % channels));
    }
    late.assign(both.end() - width, both.end());
    for (int64_t u = 0; u < 3; u++) unit(block.units[u], 2 + 4 * b + u, y.data(), rows * block.rate, channels);
    this->block(b + 1, y.data(), rows * block.rate);
  }

  void unit(const Unit& unit, int64_t state, float* x, int64_t rows, int64_t ld) {
    std::vector<float> hidden(rows * ld);
    with_history(state, x, rows, ld, &unit.act1, [&](const float* joined) {
      convolve(unit.conv1, joined, ld, rows, Out{hidden.data(), ld, SNAKE, unit.act2}, threads);
    });
    convolve(unit.conv2, hidden.data(), ld, rows, Out{x, ld, ADD}, threads);
  }

  // One output: a sum over channels side by side.
  void last(float* x, int64_t rows) {
    const Conv& c = net.last;
    const int64_t ld = padded(c.in);
    with_history(num_states() - 1, x, rows, ld, &net.last_act, [&](const float* joined) {
      for (int64_t t = 0; t < rows; t++) {
        v8 acc = all(0.f);
        for (int64_t i = 0; i < c.kernel * ld; i += 8) acc = fma8(load(joined + t * ld + i), load(c.weight + i), acc);
        const float y = sum(acc) + c.bias[0];
        *out++ = y < -1.f ? -1.f : y > 1.f ? 1.f : y;
      }
    });
  }

  static constexpr int64_t PIECE = 1 << 15;  // floats that a stage makes at a time
};

}  // namespace

// x [rows][latent][time] -> wave [rows][samples]; the states move on.
extern "C" void qtts_convolve(const Codec* net, const State* states, const float* x, int64_t rows, int64_t time,
                              float* wave, int64_t samples, int threads) {
  for (int64_t row = 0; row < rows; row++)
    Stream(*net, states, row, threads).run(x + row * net->first.in * time, time, wave + row * samples);
}
