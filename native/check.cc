// Runs every kernel on every instruction set without Python, for the sanitizers: `make sanitize`. Results are compared
// with plain loops, so that what is checked is known to have been computed. tests/test_kernels.py does so again through
// the binding, with numpy's twins and many more shapes: no sanitizer can watch a kernel inside of Python.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <new>
#include <random>
#include <thread>
#include <vector>

#if defined(__GLIBC__)
#include <pthread.h>
#endif

#include "attention.h"
#include "attention_training.h"
#include "cpu_isa.h"
#include "dense.h"
#include "elementwise.h"
#include "embeddings.h"
#include "int8.h"
#include "int8_attention.h"
#include "pack.h"
#include "machine.h"
#include "parallel.h"
#include "rice.h"
#include "rotary.h"
#include "sparse_linear.h"
#include "spmm.h"

using namespace pruneonce;

namespace {

struct Random {
  std::mt19937 engine;
  explicit Random(unsigned seed) : engine(seed) {}
  float uniform(float low, float high) { return std::uniform_real_distribution<float>(low, high)(engine); }
  std::vector<float> vector(std::size_t size, float density = 1) {
    std::vector<float> result(size);
    for (float& value : result) value = uniform(0, 1) < density ? uniform(-1, 1) : 0.0f;
    return result;
  }
};

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "native_check: %s\n", what);
  std::exit(1);
}

std::vector<float> rows_of(const Activations& x) {
  std::vector<float> rows(x.tokens() * x.features());
  store_rows(x, rows.data(), x.features());
  return rows;
}

Activations activations(const std::vector<float>& rows, std::size_t features, Isa isa) {
  Activations result(features, isa);
  result.resize(rows.size() / features);
  load_rows(result, rows.data(), features);
  return result;
}

struct SparseRows {
  std::vector<std::int64_t> row_ptr{0};
  std::vector<std::int32_t> col;
  std::vector<float> values;
};

SparseRows sparse_rows(const std::vector<float>& weight, std::size_t cols) {
  SparseRows result;
  for (std::size_t r = 0; r < weight.size() / cols; ++r) {
    for (std::size_t c = 0; c < cols; ++c)
      if (weight[r * cols + c] != 0) {
        result.col.push_back(static_cast<std::int32_t>(c));
        result.values.push_back(weight[r * cols + c]);
      }
    result.row_ptr.push_back(static_cast<std::int64_t>(result.col.size()));
  }
  return result;
}

void check_sparse_linear(const Machine& machine, std::size_t rows, std::size_t cols, std::size_t tokens, float density,
                         Random& random) {
  const std::vector<float> weight = random.vector(rows * cols, density), bias = random.vector(rows);
  const std::vector<float> x = random.vector(tokens * cols), dy = random.vector(tokens * rows);
  const SparseRows sparse = sparse_rows(weight, cols);
  const SparseLinear linear({sparse.row_ptr, sparse.col, cols}, machine);
  // Exactly as large as they must be: a step beyond is seen.
  std::vector<float> y(tokens * rows), dx(tokens * cols), dvalues(sparse.values.size()), dbias(rows);
  linear.forward(sparse.values.data(), bias.data(), x.data(), tokens, y.data());
  linear.backward(sparse.values.data(), x.data(), dy.data(), tokens, dx.data(), dvalues.data(), dbias.data());
  std::vector<double> y_sum(y.size()), dx_sum(dx.size()), dvalues_sum(dvalues.size()), dbias_sum(rows);
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t r = 0; r < rows; ++r) {
      const double gradient = dy[t * rows + r];
      y_sum[t * rows + r] = bias[r];
      dbias_sum[r] += gradient;
      for (auto i = static_cast<std::size_t>(sparse.row_ptr[r]); i < static_cast<std::size_t>(sparse.row_ptr[r + 1]);
           ++i) {
        const auto c = static_cast<std::size_t>(sparse.col[i]);
        y_sum[t * rows + r] += double(sparse.values[i]) * x[t * cols + c];
        dx_sum[t * cols + c] += sparse.values[i] * gradient;
        dvalues_sum[i] += x[t * cols + c] * gradient;
      }
    }
  const auto compare = [](const std::vector<float>& found, const std::vector<double>& sums) {
    for (std::size_t i = 0; i < found.size(); ++i)
      require(std::abs(found[i] - sums[i]) < 1e-3, "a sparse layer or its gradients differ from plain loops");
  };
  compare(y, y_sum);
  compare(dx, dx_sum);
  compare(dvalues, dvalues_sum);
  compare(dbias, dbias_sum);
}

void check_products(const Machine& machine, std::size_t rows, std::size_t cols, std::size_t tokens, float density,
                    Random& random) {
  const std::vector<float> weight = random.vector(rows * cols, density), bias = random.vector(rows);
  const auto [row_ptr, col, values] = sparse_rows(weight, cols);
  const Isa isa = machine.isa;
  const PackedWeight packed({row_ptr, col, cols}, values, machine);
  const DenseWeight dense(weight.data(), rows, cols, isa);
  const Activations x = activations(random.vector(tokens * cols), cols, isa);
  const Activations residual = activations(random.vector(tokens * rows), rows, isa);
  const std::vector<float> x_rows = rows_of(x), residual_rows = rows_of(residual);
  Activations y(rows, isa);
  y.resize(tokens);
  const auto compare = [&](float bias_factor, float residual_factor) {
    const std::vector<float> y_rows = rows_of(y);
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t r = 0; r < rows; ++r) {
        double sum = bias_factor * bias[r] + residual_factor * residual_rows[t * rows + r];
        for (std::size_t c = 0; c < cols; ++c) sum += double(weight[r * cols + c]) * x_rows[t * cols + c];
        require(std::abs(sum - y_rows[t * rows + r]) < 1e-3, "a product differs from plain loops");
      }
  };
  multiply(packed, x, bias.data(), &residual, Nonlinearity::none, y);
  compare(1, 1);
  multiply(dense, x, bias.data(), &residual, Nonlinearity::none, y);
  compare(1, 1);
  multiply(packed, x, nullptr, nullptr, Nonlinearity::none, y);
  compare(0, 0);
  multiply(packed, x, bias.data(), nullptr, Nonlinearity::gelu, y);
  multiply(dense, x, bias.data(), nullptr, Nonlinearity::gelu_tanh, y);
  layer_norm(y, bias.data(), bias.data(), 1e-12f);
  for (float value : rows_of(y)) require(std::isfinite(value), "a layer norm is not finite");
  const std::vector<std::int64_t> kept{0, static_cast<std::int64_t>(tokens) - 1};
  take(y, std::span(kept).first(tokens > 1 ? 2 : 1));
}

void check_int8_products(const Machine& machine, std::size_t rows, std::size_t cols, std::size_t tokens, float density,
                         Random& random) {
  const Isa isa = machine.isa;
  std::vector<std::int64_t> row_ptr{0};
  std::vector<std::int32_t> col;
  std::vector<std::int8_t> weight(rows * cols), values;
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t c = 0; c < cols; ++c)
      if (random.uniform(0, 1) < density) {
        weight[r * cols + c] = static_cast<std::int8_t>(std::clamp(random.uniform(-300, 300), -128.0f, 127.0f));
        col.push_back(static_cast<std::int32_t>(c));
        values.push_back(weight[r * cols + c]);
      }
    row_ptr.push_back(static_cast<std::int64_t>(col.size()));
  }
  const std::vector<float> scale(rows, 0.5f), bias = random.vector(rows);
  const Int8Quantization quantization{scale, 1.0f / 256, 100};  // with many of the largest weights and codes
  std::vector<float> numbers = random.vector(tokens * cols);
  numbers[0] = NAN;
  const Activations x = activations(numbers, cols, isa);
  const std::vector<float> x_rows = rows_of(x);
  const auto whole = [](float value) {
    return value > -100.0f / 256 ? std::min(std::nearbyint(value * 256), 155.0f) : -100.0f;
  };
  const auto compare = [&](const auto& packed) {
    Codes codes(isa);
    codes.quantize(x, packed.code());
    Activations y(rows, isa);
    y.resize(tokens);
    multiply(packed, codes, bias.data(), nullptr, Nonlinearity::none, y);
    for (CodeLayout layout : {CodeLayout::features, CodeLayout::fours}) {
      Codes next(isa);
      multiply_to_codes(packed, codes, bias.data(), Nonlinearity::gelu, {10.0f, 3, layout}, next);
    }
    const std::vector<float> y_rows = rows_of(y);
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t r = 0; r < rows; ++r) {
        double sum = 0;
        for (std::size_t c = 0; c < cols; ++c) sum += weight[r * cols + c] * whole(x_rows[t * cols + c]);
        const double expected = sum * 0.5 / 256 + bias[r];
        require(std::abs(expected - y_rows[t * rows + r]) < 1e-3 + 1e-6 * std::abs(expected),
                "an int8 product differs from plain loops");
      }
  };
  compare(Int8Weight({row_ptr, col, cols}, values, quantization, Fours::any, machine));
  compare(Int8Weight({row_ptr, col, cols}, values, quantization, Fours::neighbours, machine));
  compare(Int8DenseWeight(weight.data(), rows, cols, quantization, isa));
}

void check_embeddings(Isa isa, Random& random) {
  constexpr std::size_t features = 21, rows = 9;
  const std::vector<float> words = random.vector(rows * features), positions = random.vector(rows * features);
  for (std::size_t tokens : {1u, 16u, 45u}) {
    std::vector<std::int64_t> ids(tokens), places(tokens), types(tokens);
    for (std::size_t t = 0; t < tokens; ++t) {
      ids[t] = static_cast<std::int64_t>(t % rows);
      places[t] = static_cast<std::int64_t>((t * 5) % rows);
      types[t] = static_cast<std::int64_t>(t % 2);
    }
    Activations out(features, isa);
    out.resize(tokens);
    embed({words.data(), NumberType::fp32, nullptr}, positions.data(), words.data(), ids, places, types, out);
    const std::vector<float> found = rows_of(out);
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t f = 0; f < features; ++f)
        require(std::abs(words[t % rows * features + f] + positions[(t * 5) % rows * features + f] +
                         words[t % 2 * features + f] - found[t * features + f]) < 1e-5,
                "embeddings differ from plain loops");
  }
}

void check_rice(Random& random) {
  for (unsigned bits = 0; bits <= 9; ++bits)
    for (std::size_t bytes = 0; bytes < 40; ++bytes) {
      std::vector<std::uint8_t> data(bytes);
      for (auto& byte : data) byte = static_cast<std::uint8_t>(random.engine());
      for (std::size_t count = 0; count < 50; ++count) {
        std::vector<std::int32_t> positions(count);
        const bool found = decode_rice(data, bits, positions);
        const std::int64_t extent = rice_extent(data, bits, count);
        require(found == (extent >= 0), "rice codes are read in two ways");
        for (std::size_t i = 0; found && i < count; ++i)
          require(positions[i] > (i ? positions[i - 1] : -1) && positions[i] < extent, "rice codes do not rise");
      }
    }
}

// window 0: a token sees all of its sequence.
void check_attention(Isa isa, std::size_t heads, std::size_t head_size, const std::vector<std::int64_t>& starts,
                     std::size_t window, Random& random) {
  const std::size_t hidden = heads * head_size, tokens = static_cast<std::size_t>(starts.back());
  const Activations qkv = activations(random.vector(tokens * 3 * hidden), 3 * hidden, isa);
  Activations out(hidden, isa);
  out.resize(tokens);
  attention(qkv, starts, heads, window, {}, {}, out);
  const std::vector<float> in = rows_of(qkv), result = rows_of(out);
  for (std::size_t s = 0; s + 1 < starts.size(); ++s)
    for (auto t = static_cast<std::size_t>(starts[s]); t < static_cast<std::size_t>(starts[s + 1]); ++t)
      for (std::size_t f = 0; f < hidden; ++f) {  // an average of values lies between them
        float low = 2, high = -2;
        for (auto k = static_cast<std::size_t>(starts[s]); k < static_cast<std::size_t>(starts[s + 1]); ++k) {
          if (window > 0 && (k > t ? k - t : t - k) > window) continue;
          low = std::min(low, in[k * 3 * hidden + 2 * hidden + f]);
          high = std::max(high, in[k * 3 * hidden + 2 * hidden + f]);
        }
        const float value = result[t * hidden + f];
        require(low - 1e-5f <= value && value <= high + 1e-5f, "attention left its sequence or window");
      }
}

void check_int8_attention(Isa isa, std::size_t heads, std::size_t head_size, const std::vector<std::int64_t>& starts,
                          Random& random) {
  const std::size_t hidden = heads * head_size, tokens = static_cast<std::size_t>(starts.back());
  const Activations qkv = activations(random.vector(tokens * 3 * hidden), 3 * hidden, isa);
  Activations out(hidden, isa);
  out.resize(tokens);
  const CodeScale each[3] = {{0.01f, 100}, {0.012f, 140}, {0.011f, 128}};
  int8_attention(qkv, starts, heads, {each[0], each[1], each[2]}, nullptr, out);
  const std::vector<float> in = rows_of(qkv), result = rows_of(out);
  const auto whole = [&](std::size_t token, std::size_t part, std::size_t feature) {
    const float x = std::nearbyint(in[(token * 3 + part) * hidden + feature] * (1.0f / each[part].scale));
    const auto zero_point = static_cast<float>(each[part].zero_point);
    return std::clamp(x, -zero_point, 255 - zero_point);
  };
  for (std::size_t s = 0; s + 1 < starts.size(); ++s) {
    const auto begin = static_cast<std::size_t>(starts[s]), end = static_cast<std::size_t>(starts[s + 1]);
    for (std::size_t t = begin; t < end; ++t)
      for (std::size_t h = 0; h < heads; ++h) {
        std::vector<double> weights;
        for (std::size_t k = begin; k < end; ++k) {
          double score = 0;
          for (std::size_t f = h * head_size; f < (h + 1) * head_size; ++f) score += whole(t, 0, f) * whole(k, 1, f);
          weights.push_back(score * each[0].scale * each[1].scale / std::sqrt(double(head_size)));
        }
        const double largest = *std::max_element(weights.begin(), weights.end());
        double sum = 0;
        for (double& weight : weights) sum += weight = std::nearbyint(255 * std::exp(weight - largest));
        for (std::size_t f = h * head_size; f < (h + 1) * head_size; ++f) {
          double expected = 0;
          for (std::size_t k = begin; k < end; ++k) expected += weights[k - begin] * whole(k, 2, f) * each[2].scale;
          // Between two codes a float may take the other one.
          require(std::abs(expected / sum - result[t * hidden + f]) < 0.02,
                  "attention in int8 differs from plain loops");
        }
      }
  }
}

void check_rotary_and_gate(Isa isa, std::size_t heads, std::size_t half, std::size_t tokens, Random& random) {
  const std::size_t hidden = heads * 2 * half, rows = 9;
  const Activations qkv = activations(random.vector(tokens * 3 * hidden), 3 * hidden, isa);
  Activations kept(3 * hidden, isa), gated(hidden, isa);
  kept.resize(tokens);
  copy(qkv, kept);
  std::vector<float> cosines = random.vector(rows * half), sines = random.vector(rows * half);
  std::vector<std::int64_t> positions(tokens);
  for (std::size_t t = 0; t < tokens; ++t) positions[t] = static_cast<std::int64_t>(t % rows);
  rotate(qkv, positions, heads, cosines.data(), sines.data());
  const std::vector<float> before = rows_of(kept), after = rows_of(qkv);
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t f = 0; f < 3 * hidden; ++f) {
      const std::size_t place = f % (2 * half), at = t % rows * half + place % half, here = t * 3 * hidden + f;
      const float other = place < half ? -before[here + (f < 2 * hidden ? half : 0)] : before[here - half];
      const float expected = f < 2 * hidden ? before[here] * cosines[at] + other * sines[at] : before[here];
      require(std::abs(expected - after[here]) < 1e-5f, "rotary positions differ from plain loops");
    }
  Activations both(2 * hidden, isa);
  both.resize(tokens);
  load_rows(both, before.data(), 3 * hidden);  // queries are the gates, keys what is gated
  gated.resize(tokens);
  gate(Nonlinearity::relu, both, gated);
  const std::vector<float> found = rows_of(gated);
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t f = 0; f < hidden; ++f) {
      const float* row = before.data() + t * 3 * hidden;
      require(std::abs(std::max(row[f], 0.0f) * row[hidden + f] - found[t * hidden + f]) < 1e-5f, "a gate differs");
    }
}

// Against sums of products in the order of the definition; arrays are exactly as large as they must be.
void check_attention_training(Isa isa, std::size_t tokens, std::size_t heads, std::size_t size,
                              const std::vector<std::int64_t>& lengths, Random& random) {
  const AttentionShape shape{lengths.size(), tokens, heads, size, lengths};
  const std::size_t count = lengths.size() * tokens * heads * size;
  const std::vector<float> q = random.vector(count), k = random.vector(count), v = random.vector(count),
                           dout = random.vector(count);
  std::vector<float> out(count, 7.0f), dq(count, 7.0f), dk(count, 7.0f), dv(count, 7.0f);
  attend(isa, shape, q.data(), k.data(), v.data(), 0.3f, out.data());
  attend_backward(isa, shape, q.data(), k.data(), v.data(), 0.3f, dout.data(), dq.data(), dk.data(), dv.data());
  std::vector<double> out_sum(count), dq_sum(count), dk_sum(count), dv_sum(count);
  for (std::size_t s = 0; s < lengths.size(); ++s)
    for (std::size_t head = 0; head < heads; ++head) {
      const auto at = [&](std::size_t token) { return ((s * tokens + token) * heads + head) * size; };
      const auto dot = [&](const std::vector<float>& a, std::size_t i, const std::vector<float>& b, std::size_t j) {
        double sum = 0;
        for (std::size_t f = 0; f < size; ++f) sum += double(a[at(i) + f]) * b[at(j) + f];
        return sum;
      };
      const auto length = static_cast<std::size_t>(lengths[s]);
      for (std::size_t i = 0; i < length; ++i) {
        std::vector<double> p(length), dp(length);
        double total = 0, mean = 0;
        for (std::size_t j = 0; j < length; ++j) total += p[j] = std::exp(0.3 * dot(q, i, k, j));
        for (std::size_t j = 0; j < length; ++j) mean += (p[j] /= total) * (dp[j] = dot(dout, i, v, j));
        for (std::size_t j = 0; j < length; ++j)
          for (std::size_t f = 0; f < size; ++f) {
            const double ds = 0.3 * p[j] * (dp[j] - mean);
            out_sum[at(i) + f] += p[j] * v[at(j) + f];
            dv_sum[at(j) + f] += p[j] * dout[at(i) + f];
            dq_sum[at(i) + f] += ds * k[at(j) + f];
            dk_sum[at(j) + f] += ds * q[at(i) + f];
          }
      }
    }
  for (std::size_t i = 0; i < count; ++i)
    require(std::abs(out[i] - out_sum[i]) + std::abs(dq[i] - dq_sum[i]) + std::abs(dk[i] - dk_sum[i]) +
                    std::abs(dv[i] - dv_sum[i]) <
                1e-4,
            "attention in training or its gradients differ from plain loops");
}

void check_everything(unsigned seed) {
  Random random(seed);
  check_rice(random);
  for (Isa isa : available_isas()) {
    // Any machine's tiles, on this one.
    Machine machine = this_machine(isa);
    for (std::size_t tokens : {1u, 7u, 33u, 70u}) {
      machine.l1_bytes = (tokens == 1 ? 32 : tokens == 7 ? 48 : 64) << 10;
      for (auto [rows, cols] : {std::pair{1u, 1u}, {5u, 97u}, {97u, 193u}, {390u, 70u}, {12u, 400u}})
        for (float density : {0.0f, 0.1f, 1.0f}) {
          check_products(machine, rows, cols, tokens, density, random);
          check_sparse_linear(machine, rows, cols, tokens, density, random);
          check_int8_products(machine, rows, cols, tokens, density, random);
        }
    }
    for (std::size_t window : {0u, 1u, 5u, 64u}) {
      check_attention(isa, 3, 7, {0, 7, 38, 40, 75}, window, random);
      check_attention(isa, 2, 64, {0, 1, 66}, window, random);
      check_attention(isa, 1, 4, {0, 700}, window, random);
    }
    check_int8_attention(isa, 3, 7, {0, 7, 38, 40, 75}, random);
    check_int8_attention(isa, 2, 64, {0, 1, 66}, random);
    check_int8_attention(isa, 1, 4, {0, 300}, random);
    check_rotary_and_gate(isa, 3, 5, 75, random);
    check_rotary_and_gate(isa, 1, 1, 1, random);
    check_attention_training(isa, 70, 2, 16, {70, 1, 33}, random);
    check_attention_training(isa, 20, 1, 48, {17}, random);
    check_embeddings(isa, random);
  }
}

}  // namespace

// As an OpenMP library would, but for keeping its threads.
void lend_threads(void (*task)(void*), void* data, unsigned threads, unsigned) {
  std::vector<std::thread> team;
  for (unsigned i = 1; i < threads; ++i) team.emplace_back(task, data);
  task(data);
  for (std::thread& thread : team) thread.join();
}

// Tasks that throw, on every thread in turn: the caller gets the exception, and the next job runs as ever.
void check_failing_tasks() {
  for (std::size_t failing = 0; failing < 64; ++failing) {
    std::atomic<std::size_t> running{0};
    bool caught = false;
    try {
      parallel_for(64, [&](std::size_t i) {
        ++running;
        std::this_thread::yield();
        --running;
        if (i % 32 == failing % 32) throw std::bad_alloc();
      });
    } catch (const std::bad_alloc&) {
      caught = true;
    }
    require(caught && running == 0, "a task's exception is lost, or the caller goes on before all threads are done");
    std::atomic<std::size_t> done{0};
    parallel_for(64, [&](std::size_t) { ++done; });
    require(done == 64, "after a task's exception, tasks are left out");
  }
}

// A task that waits until `count` threads are in it at once; false if they do not come.
class Meeting {
 public:
  explicit Meeting(std::size_t count) : count_(count) {}
  bool wait() {
    ++present_;
    for (int ms = 0; present_ < count_ && ms < 30'000; ++ms) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return present_ >= count_;
  }

 private:
  const std::size_t count_;
  std::atomic<std::size_t> present_{0};
};

// Callers at once: each gets a second of four threads, whether it comes first, or while the others' long job has all.
void check_sharing() {
  set_num_threads(4);
  Meeting both(2), first(2), second(2);
  const auto call = [&](Meeting& meeting) {
    both.wait();
    parallel_for(
        2, [&](std::size_t) { require(meeting.wait(), "of two callers, one has to do without a second thread"); });
  };
  std::thread other(call, std::ref(second));
  call(first);
  other.join();

  std::atomic<bool> met{false};
  Meeting begun(5), late(2);  // the long job's four threads, and who waits for them
  std::thread long_job([&] {
    parallel_for(100'000, [&](std::size_t task) {
      if (task < 4) begun.wait();
      if (!met) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    });
  });
  begun.wait();
  parallel_for(2, [&](std::size_t) { require(late.wait(), "who comes while a long job runs gets no second thread"); });
  met = true;
  long_job.join();
}

// More callers than threads, whose jobs are over at once.
void check_many_callers() {
  set_num_threads(2);
  std::atomic<std::size_t> done{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < 8; ++i)
    callers.emplace_back([&] {
      for (int job = 0; job < 500; ++job) parallel_for(3, [&](std::size_t) { ++done; });
    });
  for (std::thread& caller : callers) caller.join();
  require(done == 8 * 500 * 3, "where many call at once, tasks are left out or done twice");
}

// Where the system grants no thread, the caller does the tasks.
void check_no_threads() {
#if defined(__GLIBC__)
  pthread_attr_t before, huge;
  pthread_getattr_default_np(&before);
  pthread_getattr_default_np(&huge);
  pthread_attr_setstacksize(&huge, std::size_t{1} << 47);  // no address space has room for it
  pthread_setattr_default_np(&huge);
  set_num_threads(3);
  std::size_t done = 0;
  for (int job = 0; job < 2; ++job) parallel_for(64, [&](std::size_t) { ++done; });
  pthread_setattr_default_np(&before);
  require(done == 128, "without threads, tasks are left out");
#endif
}

int main() {
  check_no_threads();
  for (std::size_t threads : {1u, 2u, 5u}) {
    set_num_threads(threads);
    check_failing_tasks();
    check_everything(static_cast<unsigned>(threads));
  }
  borrow_threads(lend_threads);
  check_failing_tasks();
  Random random(7);
  for (Isa isa : available_isas()) check_sparse_linear(this_machine(isa), 97, 193, 400, 0.1f, random);
  borrow_threads(nullptr);
  check_sharing();
  check_many_callers();
  // Callers that meet, and the pool is resized under them.
  std::vector<std::thread> callers;
  for (unsigned seed = 0; seed < 3; ++seed) callers.emplace_back(check_everything, seed);
  for (std::size_t threads = 1; threads < 6; ++threads) {
    set_num_threads(threads);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  for (std::thread& caller : callers) caller.join();
  std::fputs("native_check: every kernel, several threads, on", stdout);
  for (Isa isa : available_isas()) std::printf(" %s", name_of(isa));
  std::puts(": in order");
}
