// Attention over sequences of any lengths, without padding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "activations.h"

namespace pruneonce {

// out[hidden, tokens] = softmax(Kᵀ Q / sqrt(head size)) applied to V, per sequence and head.
// qkv: [3 · hidden, tokens]: queries, keys, values, each head after head. Sequence i is the tokens starts[i] up to
// starts[i + 1]; starts rise from 0 to the number of tokens.
void attention(const Activations& qkv, std::span<const std::int64_t> starts, std::size_t heads, const Activations& out);

}  // namespace pruneonce
