// Compiled once per instruction set: see spmm_kernel.cc.
#include "elementwise_kernel.h"

#include PRUNEONCE_VEC

namespace pruneonce::PRUNEONCE_ISA_NAMESPACE {
namespace {

#include "vec_math.h"

constexpr std::size_t lanes = Vec::lanes;

template <class Function>
inline void map(float* values, std::size_t count, Function function) {
  for (std::size_t i = 0; i < count; i += lanes) function(Vec::load(values + i)).store(values + i);
}

// x/2 · (1 + erf(x / sqrt 2)), Hendrycks & Gimpel 2016
void gelu(float* values, std::size_t count) {
  map(values, count, [](Vec x) {
    const Vec half = x * Vec::broadcast(0.5f);
    return Vec::multiply_add(half, erf(x * Vec::broadcast(0.70710678f)), half);
  });
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

// Some vectors of every feature at once: rows are then read in order.
template <std::size_t vectors>
void layer_norm_of(float* x, std::size_t features, std::size_t stride, const float* scale, const float* shift, float epsilon) {
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

void exponentials(float* x, std::size_t rows, std::size_t vectors, float scale, float* sums) {
  const Vec factor = Vec::broadcast(scale * 1.44269504f);  // e^x = 2^(x / ln 2)
  const std::size_t stride = vectors * lanes;
  for (std::size_t v = 0; v < vectors; ++v, x += lanes, sums += lanes) {
    Vec largest = Vec::load(x);
    for (std::size_t r = 1; r < rows; ++r) largest = Vec::max(largest, Vec::load(x + r * stride));
    Vec sum = Vec::broadcast(0.0f);
    for (std::size_t r = 0; r < rows; ++r) {
      const Vec value = exp2_of_negative((Vec::load(x + r * stride) - largest) * factor);
      value.store(x + r * stride);
      sum = sum + value;
    }
    sum.store(sums);
  }
}

void divide(float* x, std::size_t rows, std::size_t stride, std::size_t vectors, const float* divisors) {
  for (std::size_t v = 0; v < vectors; ++v, x += lanes) {
    const Vec factor = Vec::broadcast(1.0f) / Vec::load(divisors + v * lanes);
    for (std::size_t r = 0; r < rows; ++r) (Vec::load(x + r * stride) * factor).store(x + r * stride);
  }
}

}  // namespace

extern const ElementwiseKernel elementwise_kernel;
const ElementwiseKernel elementwise_kernel = {lanes, gelu, gelu_tanh, relu, layer_norm, exponentials, divide};

}  // namespace pruneonce::PRUNEONCE_ISA_NAMESPACE
