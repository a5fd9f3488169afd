// Dense weight times activations: for layers with too few zeros for sparse code.
#pragma once

#include <cstddef>

#include "activations.h"
#include "dense_kernel.h"
#include "elementwise.h"

namespace pruneonce {

// y[rows, vectors] (+)= a · x for any number of rows, in tiles of the kernel. vectors: 1 to kDenseVectors
void multiply_dense(const DenseKernel& kernel, std::size_t rows, std::size_t vectors, DenseTile tile);

// Row blocks of kDenseRows, each [columns, kDenseRows]: what the kernel broadcasts lies side by side.
class DenseWeight {
 public:
  // weight: [rows, cols]
  DenseWeight(const float* weight, std::size_t rows, std::size_t cols, Isa isa);

  std::size_t rows() const { return rows_; }
  std::size_t cols() const { return cols_; }
  Isa isa() const { return isa_; }
  std::size_t bytes() const { return sizeof(*this) + blocks() * kDenseRows * cols_ * sizeof(float); }
  std::size_t blocks() const { return divide_up(rows_, kDenseRows); }
  const float* block(std::size_t index) const { return buffer_.data() + index * kDenseRows * cols_; }

 private:
  std::size_t rows_, cols_;
  Isa isa_;
  Buffer buffer_;
};

// y = f(weight · x + bias + residual), as for a sparse weight.
void multiply(const DenseWeight& weight, const Activations& x, const float* bias, const Activations* residual,
              Nonlinearity f, const Activations& y);

}  // namespace pruneonce
