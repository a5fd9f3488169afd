// A matrix cut into tiles.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "csr.h"
#include "function_ref.h"
#include "machine.h"
#include "parts.h"
#include "tile.h"

namespace pruneonce {

// The width of tiles, all nearly equal, of which a panel's x fits the L1 cache; y rows and weights pass through it
// beside that, which costs less than more and narrower tiles. bytes: of a column of x. Offsets in a tile have 16 bits.
std::size_t columns_per_tile(std::size_t cols, std::size_t bytes, const Machine& machine);

// The more rows are sorted together, the longer the runs; but every thread must find a tile, even for one panel.
std::size_t rows_per_tile(std::size_t rows, const Machine& machine);

// The entries of a CSR that one row has in one tile.
struct TileRow {
  std::size_t row;          // in the tile
  std::int64_t first, end;  // in the CSR
  std::int64_t first_col;   // of the tile
};

// Tiles of `tile_rows` × `tile_cols`, packed one below the other and then to the right. The x rows of one tile stay in
// the L1 cache while all its matrix rows pass; these are sorted by their length, the steps of the kernel's inner loop,
// so that it hardly ever changes and the loop's exit is predicted.
class Tiling {
 public:
  Tiling(std::size_t rows, std::size_t cols, std::size_t tile_rows, std::size_t tile_cols)
      : rows_(rows), cols_(cols), tile_rows_(tile_rows), tile_cols_(tile_cols) {}

  // Which tiles need rows without a step: the first gives sums their start, and the last may make something else of
  // them.
  enum class Empty { in_the_first, in_first_and_last };

  // To be called once, with a CSR that was checked. For each tile: length_of(row) of every row, in order, then
  // append(row) of those that are packed, in the packing's order.
  void cut(const Csr& csr, Empty empty, FunctionRef<std::size_t(const TileRow&)> length_of,
           FunctionRef<void(const TileRow&)> append);

  std::size_t rows() const { return rows_; }
  std::size_t cols() const { return cols_; }
  std::size_t tile_rows() const { return tile_rows_; }
  std::size_t tile_cols() const { return tile_cols_; }
  std::size_t down() const { return divide_up(rows_, tile_rows_); }
  std::size_t across() const { return std::max<std::size_t>(1, divide_up(cols_, tile_cols_)); }
  std::size_t steps() const { return starts_.back().step; }
  std::size_t bytes() const;  // beside sizeof(Tiling)

  struct Part {
    const Run* runs;
    std::size_t run_count;
    const std::uint16_t* row;  // place in the tile; kRowsAhead more can be read
    std::size_t first_step, end_step;
  };
  Part tile(std::size_t down_index, std::size_t across_index) const;

 private:
  struct Start {
    std::size_t run, row, step;
  };

  std::size_t rows_, cols_, tile_rows_, tile_cols_;
  std::vector<Start> starts_;  // [across, down] and one past the end
  std::vector<Run> runs_;
  std::vector<std::uint16_t> row_order_;
};

// Into how many parts to cut the rows: as few as keep every thread equally busy and y in its cache.
std::size_t row_parts(const Tiling& tiling, std::size_t panels);

}  // namespace pruneonce
