#include "activations.h"

#include <vector>

#include "kernels.h"
#include "parallel.h"

namespace pruneonce {
namespace {

// Both sides of a transposition are walked in cache lines: `kBlock` features of one token are one.
constexpr std::size_t kBlock = 16;

template <class Move>
void for_each_block(const Activations& activations, Move move) {
  parallel_for(activations.panels(), [&](std::size_t index) {
    const Panel panel = activations.panel(index);
    for (std::size_t first = 0; first < activations.features(); first += kBlock) {
      const std::size_t end = std::min(first + kBlock, activations.features());
      for (std::size_t token = 0; token < panel.tokens; ++token)
        for (std::size_t feature = first; feature < end; ++feature)
          move(panel.data[feature * panel.stride + token], panel.first_token + token, feature);
    }
  });
}

}  // namespace

Panel panel_of(std::size_t index, std::size_t tokens, Isa isa) {
  const std::size_t lanes = kernels(isa).lanes, first = index * kPanelVectors * lanes;
  const std::size_t here = std::min(kPanelVectors * lanes, tokens - first), vectors = divide_up(here, lanes);
  return {nullptr, first, here, vectors, vectors * lanes};
}

Activations::Activations(std::size_t features, Isa isa) : features_(features), isa_(isa), lanes_(kernels(isa).lanes) {}

void Activations::resize(std::size_t tokens) {
  buffer_.at_least((features_ * divide_up(tokens, lanes_) + 1) * lanes_);  // kernels may read a vector too many
  tokens_ = tokens;
}

void clear_spare_lanes(const Activations& activations) {
  if (activations.panels() == 0) return;
  const Panel last = activations.panel(activations.panels() - 1);
  for (std::size_t feature = 0; feature < activations.features(); ++feature)
    std::fill(last.data + feature * last.stride + last.tokens, last.data + (feature + 1) * last.stride, 0.0f);
}

void load_rows(const Activations& to, const float* rows, std::size_t stride) {
  for_each_block(to,
                 [&](float& here, std::size_t token, std::size_t feature) { here = rows[token * stride + feature]; });
  clear_spare_lanes(to);
}

void store_rows(const Activations& from, float* rows, std::size_t stride) {
  for_each_block(from,
                 [&](float& here, std::size_t token, std::size_t feature) { rows[token * stride + feature] = here; });
}

void copy(const Activations& from, const Activations& to) {
  parallel_for(from.panels(), [&](std::size_t index) {
    const Panel panel = from.panel(index);
    std::copy_n(panel.data, from.features() * panel.stride, to.panel(index).data);
  });
}

void take(Activations& from, std::span<const std::int64_t> tokens) {
  std::vector<float> rows(tokens.size() * from.features());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto token = static_cast<std::size_t>(tokens[i]);
    const Panel panel = from.panel(token / from.panel_tokens());
    for (std::size_t feature = 0; feature < from.features(); ++feature)
      rows[i * from.features() + feature] = panel.data[feature * panel.stride + token - panel.first_token];
  }
  from.resize(tokens.size());
  load_rows(from, rows.data(), from.features());
}

}  // namespace pruneonce
