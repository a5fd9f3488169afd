// The interface to layer norm and the nonlinearities, compiled once per instruction set.
#pragma once

#include <cstddef>

namespace pruneonce {

// of a feed-forward layer, by its name in config.json
enum class Nonlinearity { none, gelu, gelu_tanh, relu };

struct ElementwiseKernel {
  std::size_t lanes;
  // In place; count: floats, a multiple of the lanes.
  void (*gelu)(float* values, std::size_t count);
  void (*gelu_tanh)(float* values, std::size_t count);
  void (*relu)(float* values, std::size_t count);
  // Columns of a panel, in place: x = (x - mean) / sqrt(variance + epsilon) * scale + shift over the features.
  void (*layer_norm)(float* x, std::size_t features, std::size_t stride, std::size_t vectors, const float* scale,
                     const float* shift, float epsilon);
  // Columns of scores, in place: x = e^((x - maximum) * scale); sums: [vectors, lanes]
  void (*exponentials)(float* x, std::size_t rows, std::size_t vectors, float scale, float* sums);
  // Every row of x is divided by the divisors: [vectors, lanes]
  void (*divide)(float* x, std::size_t rows, std::size_t stride, std::size_t vectors, const float* divisors);
};

}  // namespace pruneonce
