// Attention in whole numbers of 8 bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "activations.h"

namespace pruneonce {

// What a projection's result is rounded to: x = (code - zero_point) · scale, code 0 ... 255.
struct CodeScale {
  float scale;
  std::int32_t zero_point;
};

struct Int8AttentionScales {
  CodeScale query, key, value;
};

// Of a head, and of a sequence: what sums of 32 bits hold.
constexpr std::size_t kInt8HeadSize = 1 << 14, kInt8Tokens = 1 << 16;

// As attention() without window and bias, of queries, keys and values that are rounded to codes: a key's weight is the
// code of e^(score - the largest), 255 times it and rounded, over the sum of all keys' codes. Both products are whole
// numbers. A token's result has the same bits wherever its sequence lies. scored: LiveFeatures', or null.
void int8_attention(const Activations& qkv, std::span<const std::int64_t> starts, std::size_t heads,
                    const Int8AttentionScales& scales, const std::int64_t* scored, const Activations& out);

}  // namespace pruneonce
