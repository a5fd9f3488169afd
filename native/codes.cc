#include "codes.h"

#include <algorithm>

#include "int8.h"
#include "parallel.h"

namespace pruneonce {

void Codes::quantize(const Activations& x, const CodeOf& code) {
  const Int8Kernel& kernel = int8_kernel(isa_);
  features_ = x.features();
  tokens_ = x.tokens();
  panels_ = x.panels();
  code_ = code;
  const std::size_t fours = divide_up(features_, 4);  // no part begins within one
  panel_bytes_ = 4 * fours * kernel.code_bytes;
  auto* const codes = reinterpret_cast<std::uint8_t*>(buffer_.at_least(panels_ * panel_bytes_ / sizeof(float)));
  const std::size_t parts = panels_ < num_threads() ? num_threads() : 1;
  parallel_for(panels_ * parts, [&](std::size_t task) {
    const Panel panel = x.panel(task / parts);
    const std::size_t first = 4 * part(fours, parts, task % parts);
    const std::size_t end = std::min(features_, 4 * part(fours, parts, task % parts + 1));
    const bool together = code.layout == CodeLayout::fours;
    const auto quantize = together ? kernel.quantize_fours : kernel.quantize_features;
    const std::size_t row_bytes = together ? panel.stride : kernel.code_bytes;  // of a feature
    quantize(panel.data + first * panel.stride, end - first, panel.vectors, code.inverse_scale, code.zero_point,
             codes + task / parts * panel_bytes_ + first * row_bytes);
  });
}

}  // namespace pruneonce
