// A sparse matrix, packed for one processor's caches and vector width: where its non-zeros are, and with their values.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "activations.h"
#include "machine.h"
#include "spmm_kernel.h"

namespace pruneonce {

// Where the non-zeros of compressed sparse rows are, as a caller gives it: nothing is trusted yet.
struct Csr {
  std::span<const std::int64_t> row_ptr;  // [rows + 1]
  std::span<const std::int32_t> col;      // [non-zeros]
  std::size_t cols;
};

// Throws std::invalid_argument, in the name of `who`, where a rule is broken or there are not as many values.
void check(const Csr& csr, std::size_t values, const char* who);
void check_count(std::size_t nonzeros, std::size_t values, const char* who);

// The width of tiles, all nearly equal, of which a panel's x fits the L1 cache; y rows and weights pass through it beside
// that, which costs less than more and narrower tiles. bytes: of a column of x. Offsets in a tile have 16 bits.
std::size_t columns_per_tile(std::size_t cols, std::size_t bytes, std::size_t l1_bytes);

// The more rows are sorted together, the longer the runs; but every thread must find a tile, even for one panel.
std::size_t rows_per_tile(std::size_t rows, std::size_t threads);

// Where the non-zeros are, cut into tiles of `tile_rows` × `tile_cols`. The x rows of one tile stay in the L1 cache while
// all its matrix rows pass; these are sorted by their number of non-zeros, so that the inner loop's length hardly ever
// changes and its exit is predicted. A row's non-zeros stay next to each other within a tile, in the order of the CSR.
class PackedPattern {
 public:
  // source: if not null, becomes the place in the CSR of each packed non-zero. Throws std::invalid_argument, in the name
  // of `who`, where the CSR breaks a rule.
  PackedPattern(const Csr& csr, const Machine& machine, const char* who, std::vector<std::uint32_t>* source = nullptr);

  std::size_t rows() const { return rows_; }
  std::size_t cols() const { return cols_; }
  std::size_t nonzeros() const { return starts_.back().nonzero; }
  Isa isa() const { return isa_; }
  std::size_t bytes() const;

  std::size_t tile_rows() const { return tile_rows_; }
  std::size_t tile_cols() const { return tile_cols_; }
  std::size_t tiles_down() const { return (rows_ + tile_rows_ - 1) / tile_rows_; }
  std::size_t tiles_across() const { return std::max<std::size_t>(1, (cols_ + tile_cols_ - 1) / tile_cols_); }
  // values: of the whole matrix, in packed order; kValuesAhead more can be read.
  Tile tile(std::size_t down, std::size_t across, const float* values) const;
  std::size_t first_nonzero(std::size_t down, std::size_t across) const { return start(down, across)->nonzero; }
  std::size_t end_nonzero(std::size_t down, std::size_t across) const { return start(down, across)[1].nonzero; }

 private:
  struct TileStart {
    std::size_t run, row, nonzero;
  };
  const TileStart* start(std::size_t down, std::size_t across) const { return &starts_[across * tiles_down() + down]; }

  std::size_t rows_;
  std::size_t cols_;
  std::size_t tile_rows_;
  std::size_t tile_cols_;
  Isa isa_;
  std::vector<TileStart> starts_;  // [tiles_across, tiles_down] and one past the end
  std::vector<Run> runs_;
  std::vector<std::uint16_t> row_order_;
  std::vector<std::uint16_t> offsets_;
};

class PackedWeight : public PackedPattern {
 public:
  // Throws std::invalid_argument where the CSR breaks a rule.
  PackedWeight(const Csr& csr, std::span<const float> values, const Machine& machine);

  std::size_t bytes() const { return PackedPattern::bytes() + values_.capacity() * sizeof(float); }
  const float* values() const { return values_.data(); }

 private:
  PackedWeight(const Csr& csr, std::span<const float> values, const Machine& machine,
               std::vector<std::uint32_t> source);

  std::vector<float> values_;
};

}  // namespace pruneonce
