// Embeddings: the rows that token ids, positions and token types name, added up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "activations.h"

namespace pruneonce {

enum class NumberType { fp32, fp16, bf16, int8 };

// [rows, columns] as stored; fp16 and bf16 as their bits.
struct Table {
  const void* data;
  NumberType type;
  const float* scale;  // of each row; int8 only
};

// out[features, tokens] = word rows + position rows + type rows; positions and types may be null. All numbers are below
// the tables' lengths. fp16 must be finite.
void embed(const Table& words, const float* positions, const float* types, std::span<const std::int64_t> token_ids,
           std::span<const std::int64_t> position_ids, std::span<const std::int64_t> token_types,
           const Activations& out);

}  // namespace pruneonce
