// Sparse int8 weight times activations, which become codes of 8 bits first.
#pragma once

#include <cstddef>
#include <cstdint>

#include "activations.h"
#include "elementwise.h"
#include "int8_kernel.h"
#include "int8_pack.h"

namespace pruneonce {

const Int8Kernel& int8_kernel(Isa isa);

// [features, tokens] of a byte each, in the panels of Activations.
class Codes {
 public:
  explicit Codes(Isa isa) : isa_(isa) {}

  // code = round(x / scale) + zero_point, cut to 0 .. 255: halves to the even number, NaN to 0. The division is a
  // product with the rounded inverse.
  void quantize(const Activations& x, float inverse_scale, std::int32_t zero_point);

  Isa isa() const { return isa_; }
  std::size_t features() const { return features_; }
  std::size_t tokens() const { return tokens_; }
  std::size_t panels() const { return panels_; }
  const std::uint8_t* panel(std::size_t index) const {
    return reinterpret_cast<const std::uint8_t*>(buffer_.data()) + index * panel_bytes_;
  }

 private:
  Isa isa_;
  std::size_t features_ = 0, tokens_ = 0, panels_ = 0, panel_bytes_ = 0;
  Buffer buffer_;
};

// y = f(scale · (weight · (codes - zero point)) + bias + residual); bias [rows] and residual may be null. Sums are exact.
void multiply(const Int8Weight& weight, const Codes& x, const float* bias, const Activations* residual, Nonlinearity f,
              const Activations& y);

}  // namespace pruneonce
