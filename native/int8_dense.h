// A dense int8 matrix, for layers with too few zeros for sparse code.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "codes.h"
#include "int8_dense_kernel.h"
#include "int8_scales.h"

namespace pruneonce {

// Blocks of rows, the last one of what remains, each packed as the kernel wants it. Sums are whole numbers, the same as
// a sparse weight's.
class Int8DenseWeight {
 public:
  // weight: [rows, cols]. Throws std::invalid_argument where the quantisation means nothing.
  Int8DenseWeight(const std::int8_t* weight, std::size_t rows, std::size_t cols, const Int8Quantization& quantization,
                  Isa isa);

  std::size_t rows() const { return scales_.rows(); }
  std::size_t cols() const { return cols_; }
  Isa isa() const { return isa_; }
  std::size_t bytes() const { return sizeof(*this) + words_.capacity() * sizeof(std::int32_t) + scales_.bytes(); }
  CodeOf code() const { return {scales_.inverse_input_scale(), scales_.input_zero_point(), CodeLayout::fours}; }
  const Int8Scales& scales() const { return scales_; }

  // As Int8Weight's.
  std::size_t parts(std::size_t panels) const;
  RowRange rows_of_part(std::size_t index, std::size_t parts) const;
  void multiply(const RowRange& rows, const std::uint8_t* x, std::size_t vectors, const float* bias,
                const float* residual, float* y) const;

 private:
  Int8Scales scales_;
  std::size_t cols_;
  Isa isa_;
  std::vector<std::int32_t> words_;
};

}  // namespace pruneonce
