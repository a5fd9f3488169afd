#include "codes.h"

#include <algorithm>

#include "kernels.h"
#include "parallel.h"

namespace pruneonce {

void Codes::resize(std::size_t features, std::size_t tokens, const CodeOf& code) {
  features_ = features;
  tokens_ = tokens;
  code_ = code;
  const std::size_t code_bytes = kernels(isa_).int8.code_bytes;
  panel_tokens_ = code_bytes;  // a byte each
  panel_bytes_ = 4 * divide_up(features_, 4) * code_bytes;
  buffer_.at_least(panels() * panel_bytes_ / sizeof(float));
}

void Codes::set(const Panel& panel, std::size_t first, std::size_t count, const float* rows) {
  const Int8Kernel& kernel = kernels(isa_).int8;
  const bool fours = code_.layout == CodeLayout::fours;
  const std::size_t feature_bytes = fours ? panel.stride : kernel.code_bytes;
  (fours ? kernel.quantize_fours : kernel.quantize_features)(
      rows, count, panel.vectors, code_.inverse_scale, code_.zero_point,
      data() + panel.first_token / panel_tokens_ * panel_bytes_ + first * feature_bytes);
}

void Codes::quantize(const Activations& x, const CodeOf& code) {
  resize(x.features(), x.tokens(), code);
  const std::size_t parts = panels() < num_threads() ? num_threads() : 1, fours = divide_up(features_, 4);
  parallel_for(panels() * parts, [&](std::size_t task) {
    const Panel panel = x.panel(task / parts);
    const std::size_t first = 4 * part(fours, parts, task % parts);
    const std::size_t end = std::min(features_, 4 * part(fours, parts, task % parts + 1));
    set(panel, first, end - first, panel.data + first * panel.stride);
  });
}

}  // namespace pruneonce
