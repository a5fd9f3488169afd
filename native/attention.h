// Attention over sequences of any lengths, without padding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "activations.h"

namespace pruneonce {

// What is added to a score, by head and by how many tokens the key lies behind the query, cut to `reach` on either
// side.
struct DistanceBias {
  const float* values = nullptr;  // [heads, 2 · reach + 1], of the distances -reach ... reach; null: nothing
  std::size_t reach = 0;
};

// How many of a head's features count, its first ones; the others are the same for all tokens of a model, as those are
// whose weights are all zero. Of keys they change no weight, of values they are what the weighted mean of them is.
struct LiveFeatures {
  const std::int64_t* scored = nullptr;  // [heads], of queries and keys; null: all
  const std::int64_t* mixed = nullptr;   // [heads], of values; null: all
};

// out[hidden, tokens] = softmax(Kᵀ Q / sqrt(head size) + bias) applied to V, per sequence and head.
// qkv: [3 · hidden, tokens]: queries, keys, values, each head after head. Sequence i is the tokens starts[i] up to
// starts[i + 1]; starts rise from 0 to the number of tokens. window: a token sees so many on either side, and itself;
// 0: all of its sequence. A token's result has the same bits wherever its sequence lies.
void attention(const Activations& qkv, std::span<const std::int64_t> starts, std::size_t heads, std::size_t window,
               const DistanceBias& bias, const LiveFeatures& live, const Activations& out);

}  // namespace pruneonce
