// What turns the whole sums of an int8 weight into floats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "isa.h"

namespace pruneonce {

// Some rows of a weight, computed by one task.
struct RowRange {
  std::size_t first, end;
  std::size_t count() const { return end - first; }
};

// weight = value · scale of its row; x = (code - input_zero_point) · input_scale.
struct Int8Quantization {
  std::span<const float> scale;  // [rows]
  float input_scale;
  std::int32_t input_zero_point;
};

// y = factor · (start + Σ value · code), per row.
class Int8Scales {
 public:
  // Throws std::invalid_argument, in the name of `who`, for scales that mean nothing.
  Int8Scales(const Int8Quantization& quantization, std::size_t rows, Isa isa, const char* who);

  // Of a row's non-zeros, or all of its values; throws where the sums of the row could pass 2^31.
  void set_sum(std::size_t row, std::span<const std::int8_t> values, const char* who);

  std::size_t rows() const { return factor_.size(); }
  const float* factor() const { return factor_.data(); }
  const std::int32_t* start() const { return start_.data(); }  // what the zero point adds too much
  float inverse_input_scale() const { return inverse_input_scale_; }
  std::int32_t input_zero_point() const { return input_zero_point_; }
  std::size_t bytes() const { return factor_.capacity() * (sizeof(float) + sizeof(std::int32_t)); }

 private:
  float inverse_input_scale_;
  std::int32_t input_zero_point_, code_centre_;
  std::vector<float> factor_;
  std::vector<std::int32_t> start_;
};

}  // namespace pruneonce
