// How the rows of a packed tile follow each other.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pruneonce {

// Neighbouring rows (in the tile's own order) of equal length.
struct Run {
  std::uint32_t rows;
  std::uint32_t length;  // of each row: non-zeros, or fours of them where they are int8
};

constexpr std::size_t kRowsAhead = 4;  // places of rows that kernels read beyond the last

}  // namespace pruneonce
