// Activations as 8-bit codes, the input of int8 weights.
#pragma once

#include <cstddef>
#include <cstdint>

#include "activations.h"

namespace pruneonce {

// How the codes of a panel lie: feature by feature, a token's byte beside the next token's; or four features together,
// a token's four bytes beside the next token's four.
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

  // Makes room; then every panel's features must be set, parts of them in any order and by any threads.
  void resize(std::size_t features, std::size_t tokens, const CodeOf& code);
  // rows: [count, panel.stride]. `first` is a multiple of four, and so is `count` unless it ends with the last feature.
  void set(const Panel& panel, std::size_t first, std::size_t count, const float* rows);

  Isa isa() const { return isa_; }
  std::size_t features() const { return features_; }
  std::size_t tokens() const { return tokens_; }
  std::size_t panels() const { return divide_up(tokens_, panel_tokens_); }
  const CodeOf& code() const { return code_; }
  const std::uint8_t* panel(std::size_t index) const { return data() + index * panel_bytes_; }

 private:
  std::uint8_t* data() const { return reinterpret_cast<std::uint8_t*>(buffer_.data()); }

  Isa isa_;
  CodeOf code_;
  std::size_t features_ = 0, tokens_ = 0, panel_tokens_ = 1, panel_bytes_ = 0;
  Buffer buffer_;
};

}  // namespace pruneonce
