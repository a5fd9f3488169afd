#include "int8_scales.h"

#include <cmath>
#include <cstdlib>
#include <string>

#include "kernels.h"
#include "refuse.h"

namespace pruneonce {

Int8Scales::Int8Scales(const Int8Quantization& quantization, std::size_t rows, Isa isa, const char* who)
    : inverse_input_scale_(1.0f / quantization.input_scale),
      input_zero_point_(quantization.input_zero_point),
      code_centre_(kernels(isa).int8.code_centre) {
  using std::to_string;
  const auto [scale, input_scale, zero_point] = quantization;
  if (scale.size() != rows)
    refuse(who, "scale has " + to_string(scale.size()) + " entries, expected " + to_string(rows));
  if (!(std::isfinite(input_scale) && input_scale > 0 && std::isfinite(inverse_input_scale_)))
    refuse(who, "input_scale must be a positive number");
  if (zero_point < 0 || zero_point > 255) refuse(who, "input_zero_point must be 0 to 255");
  factor_.reserve(rows);
  start_.resize(rows);
  for (std::size_t r = 0; r < rows; ++r) {
    const float factor = scale[r] * input_scale;
    if (!(std::isfinite(factor) && factor > 0)) refuse(who, "scale[" + to_string(r) + "] must be a positive number");
    factor_.push_back(factor);
  }
}

void Int8Scales::set_sum(std::size_t row, std::span<const std::int8_t> values, const char* who) {
  std::int64_t sum = 0, magnitudes = 0;
  for (const std::int8_t value : values) {
    sum += value;
    magnitudes += std::abs(int{value});
  }
  if (magnitudes * 255 > INT32_MAX)
    refuse(who, "row " + std::to_string(row) + " is so long that its sums could overflow");
  start_[row] = static_cast<std::int32_t>((code_centre_ - input_zero_point_) * sum);
}

}  // namespace pruneonce
