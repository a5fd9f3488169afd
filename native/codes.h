// Activations as 8-bit codes, the input of int8 weights.
#pragma once

#include <cstddef>
#include <cstdint>

#include "activations.h"

namespace pruneonce {

// How the codes of a panel lie: feature by feature, a token's byte beside the next token's; or four features together, a
// token's four bytes beside the next token's four.
enum class CodeLayout { features, fours };

// code = round(x / scale) + zero_point, cut to 0 .. 255: halves to the even number, NaN to 0. The division is a product
// with the rounded inverse.
struct CodeOf {
  float inverse_scale = 1.0f;
  std::int32_t zero_point = 0;
  CodeLayout layout = CodeLayout::features;

  bool operator==(const CodeOf&) const = default;
};

// [features, tokens] of a byte each, in the panels of Activations.
class Codes {
 public:
  explicit Codes(Isa isa) : isa_(isa) {}

  void quantize(const Activations& x, const CodeOf& code);

  Isa isa() const { return isa_; }
  std::size_t features() const { return features_; }
  std::size_t tokens() const { return tokens_; }
  std::size_t panels() const { return panels_; }
  const CodeOf& code() const { return code_; }
  const std::uint8_t* panel(std::size_t index) const {
    return reinterpret_cast<const std::uint8_t*>(buffer_.data()) + index * panel_bytes_;
  }

 private:
  Isa isa_;
  CodeOf code_;
  std::size_t features_ = 0, tokens_ = 0, panels_ = 0, panel_bytes_ = 0;
  Buffer buffer_;
};

}  // namespace pruneonce
