// The interface to layer norm and the nonlinearities, compiled once per instruction set.
#pragma once

#include <cstddef>

namespace pruneonce {

// of a feed-forward layer, by its name in config.json
enum class Nonlinearity { none, gelu, gelu_tanh, relu, silu };

// Φ(-a), the share of a normal distribution below -a, as cubic polynomials: at a = (n + t) / pieces_per_unit, |t| <=
// 1/2, it is ((c3 t + c2) t + c1) t + c0 with the n-th of each; the last one is 0 (fp32 cannot tell 1 - Φ from 1
// there).
struct NormalTail {
  static constexpr std::size_t pieces = 32;
  static constexpr float pieces_per_unit = 5.8f;  // the last begins at 5.26
  float coefficient[4][pieces];
};

struct ElementwiseKernel {
  // In place; count: floats, a multiple of the lanes.
  void (*gelu)(float* values, std::size_t count, const NormalTail& tail);
  void (*gelu_tanh)(float* values, std::size_t count);
  void (*relu)(float* values, std::size_t count);
  void (*silu)(float* values, std::size_t count);
  // Columns of a panel, in place: x = (x - mean) / sqrt(variance + epsilon) * scale + shift over the features.
  void (*layer_norm)(float* x, std::size_t features, std::size_t stride, std::size_t vectors, const float* scale,
                     const float* shift, float epsilon);
  // Columns of scores, in place: x = e^((x - maximum) * scale); sums: [vectors, lanes]
  void (*exponentials)(float* x, std::size_t rows, std::size_t vectors, float scale, float* sums);
  // Columns of a softmax and of its gradient: dp = p * (dp - the sum of p * dp over the rows) * scale
  void (*softmax_gradient)(const float* p, std::size_t rows, std::size_t vectors, float scale, float* dp);
  // Every row of x is divided by the divisors: [vectors, lanes]
  void (*divide)(float* x, std::size_t rows, std::size_t stride, std::size_t vectors, const float* divisors);
};

}  // namespace pruneonce
