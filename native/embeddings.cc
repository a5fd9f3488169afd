#include "embeddings.h"

#include <bit>

#include "parallel.h"

namespace pruneonce {
namespace {

constexpr std::size_t kTokensPerTask = 16;  // a cache line of each feature

struct Half {
  std::uint16_t bits;
};
struct Brain {
  std::uint16_t bits;
};

inline float decode(float value) { return value; }
inline float decode(std::int8_t value) { return value; }
inline float decode(Brain value) { return std::bit_cast<float>(std::uint32_t{value.bits} << 16); }
// Exponents are 112 apart; the product also makes subnormal numbers right.
inline float decode(Half value) {
  const float magnitude = std::bit_cast<float>((value.bits & 0x7FFFu) << 13) * 0x1p112f;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | (value.bits & 0x8000u) << 16);
}

template <class Stored>
void add_rows(const Stored* word, float scale, const float* position, const float* type, std::size_t features,
              float* row) {
  for (std::size_t f = 0; f < features; ++f) row[f] = decode(word[f]) * scale;
  for (const float* added : {position, type})
    if (added)
      for (std::size_t f = 0; f < features; ++f) row[f] += added[f];
}

template <class Stored>
void embed(const Table& words, const float* positions, const float* types, std::span<const std::int64_t> token_ids,
           std::span<const std::int64_t> position_ids, std::span<const std::int64_t> token_types,
           const Activations& out) {
  const auto* table = static_cast<const Stored*>(words.data);
  const std::size_t features = out.features();
  parallel_for(divide_up(token_ids.size(), kTokensPerTask), [&](std::size_t task) {
    const std::size_t first = task * kTokensPerTask, count = std::min(kTokensPerTask, token_ids.size() - first);
    thread_local Buffer buffer;
    float* const rows = buffer.at_least(kTokensPerTask * features);
    for (std::size_t t = 0; t < count; ++t) {
      const auto word = static_cast<std::size_t>(token_ids[first + t]);
      add_rows(table + word * features, words.scale ? words.scale[word] : 1.0f,
               positions ? positions + static_cast<std::size_t>(position_ids[first + t]) * features : nullptr,
               types ? types + static_cast<std::size_t>(token_types[first + t]) * features : nullptr, features,
               rows + t * features);
    }
    // Panels hold a multiple of 16 tokens on every instruction set.
    const Panel panel = out.panel(first / out.panel_tokens());
    float* to = panel.data + first - panel.first_token;
    for (std::size_t f = 0; f < features; ++f, to += panel.stride)
      for (std::size_t t = 0; t < count; ++t) to[t] = rows[t * features + f];
  });
  clear_spare_lanes(out);
}

}  // namespace

void embed(const Table& words, const float* positions, const float* types, std::span<const std::int64_t> token_ids,
           std::span<const std::int64_t> position_ids, std::span<const std::int64_t> token_types,
           const Activations& out) {
  const auto run = [&](auto stored) {
    embed<decltype(stored)>(words, positions, types, token_ids, position_ids, token_types, out);
  };
  switch (words.type) {
    case NumberType::fp32:
      return run(float{});
    case NumberType::fp16:
      return run(Half{});
    case NumberType::bf16:
      return run(Brain{});
    case NumberType::int8:
      return run(std::int8_t{});
  }
}

}  // namespace pruneonce
