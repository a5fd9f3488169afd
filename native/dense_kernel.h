// The interface to the dense micro-kernel, compiled once per instruction set.
#pragma once

#include <cstddef>

namespace pruneonce {

constexpr std::size_t kDenseRows = 6;  // with two vectors: 12 sums, which fit 16 registers beside what is loaded
constexpr std::size_t kDenseVectors = 2;

// y[rows, vectors] (+)= a[rows, depth] · x[depth, vectors]
struct DenseTile {
  std::size_t depth;
  const float* a;  // element (r, k) at a[r * a_row + k * a_depth]
  std::size_t a_row, a_depth;
  const float* x;
  std::size_t x_stride;
  float* y;
  std::size_t y_stride;
  bool add;  // to what y holds; else y need not be initialised
};

struct DenseKernel {
  void (*multiply[kDenseRows][kDenseVectors])(const DenseTile& tile);  // by rows - 1 and vectors - 1
};

}  // namespace pruneonce
