// A sparse int8 matrix, packed for one processor's caches and vector width.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "codes.h"
#include "csr.h"
#include "int8_kernel.h"
#include "int8_scales.h"
#include "machine.h"
#include "tiling.h"

namespace pruneonce {

// Which weights of a row make a four, that one instruction adds up.
//
// any: whichever lie in the tile, for zeros in no order. The kernel brings their x together.
// neighbours: those of four neighbouring columns, for zeros in blocks: their x lie together already
// (CodeLayout::fours).
//
// Without VNNI products are added in pairs of 16 bits, which two large weights of one sign overflow. Any: large ones
// are paired with those of the other sign, and where none is left with a zero. Neighbours: such a four is cut in two.
// So sums are exact on every instruction set.
enum class Fours { any, neighbours };

// As PackedWeight, but the non-zeros of a row come in fours.
class Int8Weight {
 public:
  // Throws std::invalid_argument where a rule is broken.
  Int8Weight(const Csr& csr, std::span<const std::int8_t> values, const Int8Quantization& quantization, Fours fours,
             const Machine& machine);

  std::size_t rows() const { return scales_.rows(); }
  std::size_t cols() const { return tiling_.cols(); }
  std::size_t nonzeros() const { return nonzeros_; }
  std::size_t stored() const { return tiling_.steps() * 4; }  // zeros of unfilled fours included
  Isa isa() const { return isa_; }
  Fours fours() const { return fours_; }
  std::size_t bytes() const;
  CodeOf code() const {
    return {scales_.inverse_input_scale(), scales_.input_zero_point(),
            fours_ == Fours::any ? CodeLayout::features : CodeLayout::fours};
  }
  const Int8Scales& scales() const { return scales_; }

  // Into how many parts the rows are cut for as many panels of x, and the rows of one of them: a multiple of four.
  std::size_t parts(std::size_t panels) const;
  RowRange rows_of_part(std::size_t index, std::size_t parts) const;
  // y = factor · (weight · x) + bias + residual for some rows; x: a panel of codes. y: [rows.count(), vectors], bias
  // and residual (may be null): of all rows.
  void multiply(const RowRange& rows, const std::uint8_t* x, std::size_t vectors, const float* bias,
                const float* residual, float* y) const;

 private:
  std::size_t offsets_per_four() const { return fours_ == Fours::any ? 4 : 1; }
  void pack(const Csr& csr, std::span<const std::int8_t> values);
  Int8Tile tile(std::size_t down, std::size_t across) const;

  Int8Scales scales_;
  std::size_t nonzeros_;
  Tiling tiling_;  // a step is a four; with neighbours tiles are multiples of four wide
  Isa isa_;
  Fours fours_;
  std::vector<std::uint16_t> offsets_;
  std::vector<std::int8_t> values_;
};

}  // namespace pruneonce
