// A sparse matrix, packed for one machine's caches and vector width: where its non-zeros are, and with their values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "csr.h"
#include "machine.h"
#include "tile.h"
#include "tiling.h"

namespace pruneonce {

// Where the non-zeros are, in tiles. A row's non-zeros stay next to each other within a tile, in the order of the CSR.
class PackedPattern {
 public:
  // source: if not null, becomes the place in the CSR of each packed non-zero. Throws std::invalid_argument, in the
  // name of `who`, where the CSR breaks a rule.
  PackedPattern(const Csr& csr, const Machine& machine, const char* who, std::vector<std::uint32_t>* source = nullptr);

  std::size_t rows() const { return tiling_.rows(); }
  std::size_t cols() const { return tiling_.cols(); }
  std::size_t nonzeros() const { return tiling_.steps(); }
  Isa isa() const { return isa_; }
  std::size_t bytes() const;

  const Tiling& tiling() const { return tiling_; }
  // values: of the whole matrix, in packed order; kValuesAhead more can be read.
  Tile tile(std::size_t down, std::size_t across, const float* values) const;

 private:
  Tiling tiling_;  // a step is a non-zero
  Isa isa_;
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
