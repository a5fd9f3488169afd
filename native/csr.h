// Compressed sparse rows, as callers give them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace pruneonce {

// Where the non-zeros are: nothing is trusted yet.
struct Csr {
  std::span<const std::int64_t> row_ptr;  // [rows + 1]
  std::span<const std::int32_t> col;      // [non-zeros]
  std::size_t cols;

  std::size_t rows() const { return row_ptr.empty() ? 0 : row_ptr.size() - 1; }
};

// Throws std::invalid_argument, in the name of `who`, where a rule is broken or there are not as many values.
void check(const Csr& csr, std::size_t values, const char* who);
void check_count(std::size_t nonzeros, std::size_t values, const char* who);

}  // namespace pruneonce
