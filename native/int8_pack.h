// A sparse int8 matrix, packed for one processor's caches and vector width.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cpu_isa.h"
#include "int8_kernel.h"
#include "pack.h"

namespace pruneonce {

// As PackedWeight, but the non-zeros of a row come in fours, which one instruction adds up, first in pairs of 16 bits. A
// pair overflows if both weights are large and of one sign; since any two non-zeros of a row may stand together, large
// ones are paired with those of the other sign, and where none is left with a zero. So sums are exact on every
// instruction set.
class Int8Weight {
 public:
  // y = scale · (weight · (codes - zero_point)), scale: [rows]. Throws std::invalid_argument where a rule is broken.
  Int8Weight(const Csr& csr, std::span<const std::int8_t> values, std::span<const float> scale, float input_scale,
             std::int32_t input_zero_point, Isa isa);

  std::size_t rows() const { return scale_.size(); }
  std::size_t cols() const { return cols_; }
  std::size_t nonzeros() const { return nonzeros_; }
  std::size_t stored() const { return values_.size(); }  // zeros of unfilled fours included
  Isa isa() const { return isa_; }
  float inverse_input_scale() const { return inverse_input_scale_; }
  std::int32_t input_zero_point() const { return input_zero_point_; }
  std::size_t bytes() const;

  std::size_t tile_rows() const { return tile_rows_; }
  std::size_t tile_cols() const { return tile_cols_; }
  std::size_t tiles_down() const { return (rows() + tile_rows_ - 1) / tile_rows_; }
  std::size_t tiles_across() const { return std::max<std::size_t>(1, (cols_ + tile_cols_ - 1) / tile_cols_); }
  Int8Tile tile(std::size_t down, std::size_t across) const;
  const float* scale() const { return scale_.data(); }          // of the sums: weight scale · input scale
  const std::int32_t* start() const { return start_.data(); }  // of the sums: what the zero point adds too much

 private:
  struct TileStart {
    std::size_t run, row, value;
  };

  std::size_t cols_;
  std::size_t nonzeros_;
  std::size_t tile_rows_;
  std::size_t tile_cols_;
  Isa isa_;
  float inverse_input_scale_;
  std::int32_t input_zero_point_;
  std::vector<float> scale_;
  std::vector<std::int32_t> start_;
  std::vector<TileStart> starts_;  // [tiles_across, tiles_down] and one past the end
  std::vector<Run> runs_;
  std::vector<std::uint16_t> row_order_;
  std::vector<std::uint16_t> offsets_;
  std::vector<std::int8_t> values_;
};

}  // namespace pruneonce
