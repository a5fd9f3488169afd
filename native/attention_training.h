// Attention in training: rows are tokens, and there is a backward pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "isa.h"

namespace pruneonce {

// Arrays are [sequences, tokens, heads, head_size], contiguous. Of each sequence only the first `lengths` tokens are
// real: others are neither read nor attended to, and what is written for them is 0.
struct AttentionShape {
  std::size_t sequences, tokens, heads, head_size;  // head_size: a multiple of 16
  std::span<const std::int64_t> lengths;            // [sequences], 1 to tokens
};

// out = softmax(q · kᵀ · scale) · v for each sequence and head.
void attend(Isa isa, const AttentionShape& shape, const float* q, const float* k, const float* v, float scale,
            float* out);

// Gradients of q, k and v from that of out. The probabilities are computed again rather than kept.
void attend_backward(Isa isa, const AttentionShape& shape, const float* q, const float* k, const float* v, float scale,
                     const float* dout, float* dq, float* dk, float* dv);

}  // namespace pruneonce
