// Compiled once per instruction set: see spmm_kernel.cc.
#include "elementwise_kernel.h"

#include "vector_isa.h"

#include PRUNEONCE_VEC
#include "vec_math.h"

namespace pruneonce::PRUNEONCE_ISA_NAMESPACE {
namespace {

constexpr std::size_t lanes = Vec::lanes;

template <class Function>
inline void map(float* values, std::size_t count, Function function) {
  for (std::size_t i = 0; i < count; i += lanes) function(Vec::load(values + i)).store(values + i);
}

// x/2 · (1 + erf(x / sqrt 2)), Hendrycks & Gimpel 2016. A template, since of the two ways only one compiles.
template <class Table>
void gelu(float* values, std::size_t count, [[maybe_unused]] const NormalTail& tail) {
  if constexpr (std::same_as<Table, NoTable>) {
    map(values, count, [](Vec x) {
      const Vec half = x * Vec::broadcast(0.5f);
      return Vec::multiply_add(half, erf(x * Vec::broadcast(0.70710678f)), half);
    });
  } else {
    // = max(x, 0) - |x| · Φ(-|x|): no division, and nothing cancels.
    const Table c0(tail.coefficient[0]), c1(tail.coefficient[1]), c2(tail.coefficient[2]), c3(tail.coefficient[3]);
    const Vec zero = Vec::broadcast(0.0f), factor = Vec::broadcast(tail.pieces_per_unit);
    const Vec magic = Vec::broadcast(12582912.0f);  // see exp
    const Vec end =
        Vec::broadcast((NormalTail::pieces - 0.75f) / NormalTail::pieces_per_unit);  // within the last piece
    map(values, count, [&](Vec x) {
      const Vec a = Vec::min(Vec::max(x, zero - x), end);
      const Vec shifted = Vec::multiply_add(a, factor, magic);  // its low bits are n
      const Vec t = Vec::multiply_add(a, factor, magic - shifted);
      Vec below = Vec::multiply_add(c3[shifted], t, c2[shifted]);
      below = Vec::multiply_add(below, t, c1[shifted]);
      below = Vec::multiply_add(below, t, c0[shifted]);
      return Vec::multiply_add(zero - a, below, Vec::max(zero, x));  // in this order a NaN stays one
    });
  }
}

// x/2 · (1 + tanh(u)) = x · (1 - 1 / (e^2u + 1)), u = sqrt(2/π) · (x + 0.044715 x³)
void gelu_tanh(float* values, std::size_t count) {
  map(values, count, [](Vec x) {
    const Vec twice_u = x * Vec::multiply_add(x * x, Vec::broadcast(0.0713548163f), Vec::broadcast(1.59576912f));
    return x - x / (exp(twice_u) + Vec::broadcast(1.0f));
  });
}

void relu(float* values, std::size_t count) {
  map(values, count, [](Vec x) { return Vec::max(x, Vec::broadcast(0.0f)); });
}

// x / (1 + e^-x)
void silu(float* values, std::size_t count) {
  const Vec zero = Vec::broadcast(0.0f), one = Vec::broadcast(1.0f);
  map(values, count, [&](Vec x) { return x / (one + exp(zero - x)); });
}

// Some vectors of every feature at once: rows are then read in order.
template <std::size_t vectors>
void layer_norm_of(float* x, std::size_t features, std::size_t stride, const float* scale, const float* shift,
                   float epsilon) {
  const Vec share = Vec::broadcast(1.0f / static_cast<float>(features)), zero = Vec::broadcast(0.0f);
  Vec mean[vectors], factor[vectors];
  // Two sums each, or every addition would wait for the one before.
  Vec even[vectors], odd[vectors];
  const auto add_up = [&](auto term) {
    for (std::size_t v = 0; v < vectors; ++v) even[v] = odd[v] = zero;
    std::size_t f = 0;
    for (; f + 1 < features; f += 2)
      for (std::size_t v = 0; v < vectors; ++v) {
        even[v] = term(Vec::load(x + f * stride + v * lanes), even[v], v);
        odd[v] = term(Vec::load(x + (f + 1) * stride + v * lanes), odd[v], v);
      }
    if (f < features)
      for (std::size_t v = 0; v < vectors; ++v) even[v] = term(Vec::load(x + f * stride + v * lanes), even[v], v);
  };
  // The mean first: a sum of squares alone would lose what is small beside it.
  add_up([](Vec value, Vec sum, std::size_t) { return sum + value; });
  for (std::size_t v = 0; v < vectors; ++v) mean[v] = (even[v] + odd[v]) * share;
  add_up([&](Vec value, Vec sum, std::size_t v) { return Vec::multiply_add(value - mean[v], value - mean[v], sum); });
  for (std::size_t v = 0; v < vectors; ++v)
    factor[v] = Vec::broadcast(1.0f) / Vec::sqrt((even[v] + odd[v]) * share + Vec::broadcast(epsilon));
  for (std::size_t f = 0; f < features; ++f, x += stride)
    for (std::size_t v = 0; v < vectors; ++v) {
      const Vec normed = (Vec::load(x + v * lanes) - mean[v]) * factor[v];
      Vec::multiply_add(normed, Vec::broadcast(scale[f]), Vec::broadcast(shift[f])).store(x + v * lanes);
    }
}

void layer_norm(float* x, std::size_t features, std::size_t stride, std::size_t vectors, const float* scale,
                const float* shift, float epsilon) {
  for (; vectors >= 4; vectors -= 4, x += 4 * lanes) layer_norm_of<4>(x, features, stride, scale, shift, epsilon);
  for (; vectors > 0; --vectors, x += lanes) layer_norm_of<1>(x, features, stride, scale, shift, epsilon);
}

// Some vectors of every row at once, and two sums and maxima of each: one alone would wait for its own results.
template <std::size_t vectors>
void exponentials_of(float* x, std::size_t rows, std::size_t stride, float scale, float* sums) {
  const Vec factor = Vec::broadcast(scale * 1.44269504f);  // e^x = 2^(x / ln 2)
  Vec even[vectors], odd[vectors], largest[vectors];
  for (std::size_t v = 0; v < vectors; ++v) even[v] = odd[v] = Vec::load(x + v * lanes);
  std::size_t r = 0;
  for (; r + 1 < rows; r += 2)
    for (std::size_t v = 0; v < vectors; ++v) {
      even[v] = Vec::max(even[v], Vec::load(x + r * stride + v * lanes));
      odd[v] = Vec::max(odd[v], Vec::load(x + (r + 1) * stride + v * lanes));
    }
  for (std::size_t v = 0; v < vectors; ++v) {
    if (r < rows) even[v] = Vec::max(even[v], Vec::load(x + r * stride + v * lanes));
    largest[v] = Vec::max(even[v], odd[v]);
    even[v] = odd[v] = Vec::broadcast(0.0f);
  }
  const auto add = [&](float* row, Vec(&sum)[vectors]) {
    for (std::size_t v = 0; v < vectors; ++v) {
      const Vec value = exp2((Vec::load(row + v * lanes) - largest[v]) * factor);
      value.store(row + v * lanes);
      sum[v] = sum[v] + value;
    }
  };
  for (r = 0; r + 1 < rows; r += 2) {
    add(x + r * stride, even);
    add(x + (r + 1) * stride, odd);
  }
  if (r < rows) add(x + r * stride, even);
  for (std::size_t v = 0; v < vectors; ++v) (even[v] + odd[v]).store(sums + v * lanes);
}

void exponentials(float* x, std::size_t rows, std::size_t vectors, float scale, float* sums) {
  const std::size_t stride = vectors * lanes;
  for (; vectors >= 2; vectors -= 2, x += 2 * lanes, sums += 2 * lanes)
    exponentials_of<2>(x, rows, stride, scale, sums);
  if (vectors > 0) exponentials_of<1>(x, rows, stride, scale, sums);
}

template <std::size_t vectors>
void softmax_gradient_of(const float* p, std::size_t rows, std::size_t stride, float scale, float* dp) {
  const Vec factor = Vec::broadcast(scale);
  Vec even[vectors], odd[vectors];
  for (std::size_t v = 0; v < vectors; ++v) even[v] = odd[v] = Vec::broadcast(0.0f);
  const auto add = [&](std::size_t r, Vec(&sum)[vectors]) {
    for (std::size_t v = 0; v < vectors; ++v) {
      const std::size_t at = r * stride + v * lanes;
      sum[v] = Vec::multiply_add(Vec::load(p + at), Vec::load(dp + at), sum[v]);
    }
  };
  std::size_t r = 0;
  for (; r + 1 < rows; r += 2) {
    add(r, even);
    add(r + 1, odd);
  }
  if (r < rows) add(r, even);
  for (std::size_t v = 0; v < vectors; ++v) even[v] = even[v] + odd[v];
  for (r = 0; r < rows; ++r)
    for (std::size_t v = 0; v < vectors; ++v) {
      const std::size_t at = r * stride + v * lanes;
      (Vec::load(p + at) * factor * (Vec::load(dp + at) - even[v])).store(dp + at);
    }
}

void softmax_gradient(const float* p, std::size_t rows, std::size_t vectors, float scale, float* dp) {
  const std::size_t stride = vectors * lanes;
  for (; vectors >= 2; vectors -= 2, p += 2 * lanes, dp += 2 * lanes)
    softmax_gradient_of<2>(p, rows, stride, scale, dp);
  if (vectors > 0) softmax_gradient_of<1>(p, rows, stride, scale, dp);
}

void divide(float* x, std::size_t rows, std::size_t stride, std::size_t vectors, const float* divisors) {
  for (std::size_t v = 0; v < vectors; ++v, x += lanes) {
    const Vec factor = Vec::broadcast(1.0f) / Vec::load(divisors + v * lanes);
    for (std::size_t r = 0; r < rows; ++r) (Vec::load(x + r * stride) * factor).store(x + r * stride);
  }
}

}  // namespace

extern const ElementwiseKernel elementwise_kernel;
const ElementwiseKernel elementwise_kernel = {gelu<Table>,  gelu_tanh,        relu,  silu, layer_norm,
                                              exponentials, softmax_gradient, divide};

}  // namespace pruneonce::PRUNEONCE_ISA_NAMESPACE
