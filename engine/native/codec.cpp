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

#include "convolution.h"

namespace {

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

static Rooms& own_rooms() {
  static thread_local Rooms rooms;
  return rooms;
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
    rooms.both.resize(net.num_blocks), rooms.fresh.resize(net.num_blocks + 1);
    const int64_t ld = padded(net.first.in), width = padded(net.first.out);
    float *input = rooms.input.of(time * ld), *y = rooms.fresh[0].of(time * width);
    std::fill(input, input + time * ld, 0.f);
    for (int64_t c = 0; c < net.first.in; c++)
      for (int64_t t = 0; t < time; t++) input[t * ld + c] = x[c * time + t];
    with_history(net.first, 0, input, time, nullptr, Out{y, width});
    block(0, y, time);
    for (int64_t s = 0; s < num_states(); s++) write(states[s], kept[s]);
  }

 private:
  const Codec& net;
  const State* states;
  const int64_t row;
  const int threads;
  Rooms& rooms = own_rooms();
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

  // x [rows], activated where `act` says so, after what lies before it; the end of both is the next history.
  void with_history(const Conv& c, int64_t state, const float* x, int64_t rows, const Snake* act, const Out& out) {
    std::vector<float>& before = kept[state];
    const int64_t ld = padded(c.in), history = before.size();
    float* joined = rooms.joined.of(history + rows * ld);
    convolve(c, Source{x, ld, rows, before.data(), history, act}, joined, out, rooms, threads);
    std::copy(joined + rows * ld, joined + rows * ld + history, before.begin());
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
    float *both = rooms.both[b].of(rows * 2 * width), *y = rooms.fresh[b + 1].of(rows * width);
    const Conv up{block.up.in, 2 * width, 1, 1, block.up.weight, nullptr, block.up.halves};
    convolve(up, Source{x, in, rows, nullptr, 0, &block.act}, rooms.joined.of(rows * in), Out{both, 2 * width}, rooms, threads);
    std::vector<float>& late = kept[1 + 4 * b];
    for (int64_t t = 0; t < rows; t++) {
      const float *own = both + t * 2 * width, *added = t ? own - width : late.data();
      for (int64_t i = 0; i < width; i += LANES)
        store(y + t * width + i, load(own + i) + load(added + i) + load(block.up.bias + i % channels));
    }
    late.assign(both + (rows * 2 - 1) * width, both + rows * 2 * width);
    for (int64_t u = 0; u < 3; u++) unit(block.units[u], 2 + 4 * b + u, y, rows * block.rate, channels);
    this->block(b + 1, y, rows * block.rate);
  }

  void unit(const Unit& unit, int64_t state, float* x, int64_t rows, int64_t ld) {
    float* hidden = rooms.hidden.of(rows * ld);
    with_history(unit.conv1, state, x, rows, &unit.act1, Out{hidden, ld, SNAKE, unit.act2});
    convolve(unit.conv2, Source{hidden, ld, rows}, nullptr, Out{x, ld, ADD}, rooms, threads);
  }

  // One output: a sum over channels side by side.
  void last(float* x, int64_t rows) {
    const Conv& c = net.last;
    std::vector<float>& before = kept[num_states() - 1];
    const int64_t ld = padded(c.in), history = before.size();
    float* joined = rooms.joined.of(history + rows * ld);
    const Source source{x, ld, rows, before.data(), history, &net.last_act};
#pragma omp parallel num_threads(threads)
    {
      const int thread = omp_get_thread_num(), count = omp_get_num_threads();
      const Range t = part(rows, thread, count);
      source.write(part(source.length(), thread, count), joined, nullptr);
#pragma omp barrier
      for (int64_t r = t.from; r < t.to; r++) {
        vec acc = all(0.f);
        for (int64_t i = 0; i < c.kernel * ld; i += LANES) acc = fma(load(joined + r * ld + i), load(c.weight + i), acc);
        const float y = sum(acc) + c.bias[0];
        out[r] = y < -1.f ? -1.f : y > 1.f ? 1.f : y;
      }
    }
    out += rows;
    std::copy(joined + rows * ld, joined + rows * ld + history, before.begin());
  }

  static constexpr int64_t PIECE = 1 << 18;  // floats that a stage makes at a time
};

}  // namespace

// x [rows][latent][time] -> wave [rows][samples]; the states move on. Streams side by side where there are
// enough of them.
extern "C" void qtts_convolve(const Codec* net, const State* states, const float* x, int64_t rows, int64_t time,
                              float* wave, int64_t samples, int threads) {
  const auto run = [&](int64_t row, int inner) {
    Stream(*net, states, row, inner).run(x + row * net->first.in * time, time, wave + row * samples);
  };
  if (rows < threads) {
    for (int64_t row = 0; row < rows; row++) run(row, threads);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t row = 0; row < rows; row++) run(row, 1);
}

extern "C" int qtts_has_tiles() { return has_tiles(); }
