// A packed tile, as kernels read it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pruneonce {

// Neighbouring rows (in the tile's own order) of equal length.
struct Run {
  std::uint32_t rows;
  std::uint32_t length;  // of each row: non-zeros, or fours of them where they are int8
};

constexpr std::size_t kRowsAhead = 4;    // places of rows that kernels read beyond the last
constexpr std::size_t kValuesAhead = 3;  // … and offsets and values

// The non-zeros of some rows in some columns.
struct Tile {
  const Run* runs;
  std::size_t run_count;
  const std::uint16_t* row;     // place in the tile; kRowsAhead more can be read
  const std::uint16_t* offset;  // [non-zeros] column in the tile, times a vector's bytes; kValuesAhead more can be read
  const float* value;           // [non-zeros] kValuesAhead more can be read
};

}  // namespace pruneonce
