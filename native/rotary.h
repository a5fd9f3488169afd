// Rotary position embeddings (Su et al. 2021, arXiv 2104.09864), as transformers' `rotate_half` pairs the features.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "activations.h"

namespace pruneonce {

// Turns queries and keys, in place: of every head, features f and f + half by the angle of f at the token's position.
// qkv: [3 · hidden, tokens], values stay; positions: of each token. cosines, sines: [positions, half], half = head
// size / 2.
void rotate(const Activations& qkv, std::span<const std::int64_t> positions, std::size_t heads, const float* cosines,
            const float* sines);

}  // namespace pruneonce
