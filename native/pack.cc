#include "pack.h"

#include <limits>

#include "activations.h"
#include "kernels.h"
#include "refuse.h"

namespace pruneonce {

PackedPattern::PackedPattern(const Csr& csr, const Machine& machine, const char* who,
                             std::vector<std::uint32_t>* source)
    : tiling_(csr.rows(), csr.cols, rows_per_tile(csr.rows(), machine),
              columns_per_tile(csr.cols, kernels(machine.isa).lanes * sizeof(float) * kPanelVectors, machine)),
      isa_(machine.isa) {
  check(csr, csr.col.size(), who);
  if (csr.col.size() > std::numeric_limits<std::uint32_t>::max()) refuse(who, "more than 2^32 - 1 non-zeros");
  const std::size_t vector_bytes = kernels(isa_).lanes * sizeof(float);
  offsets_.reserve(csr.col.size() + kValuesAhead);
  if (source) source->reserve(csr.col.size());
  tiling_.cut(
      csr, Tiling::Empty::in_the_first,
      [](const TileRow& row) { return static_cast<std::size_t>(row.end - row.first); },
      [&](const TileRow& row) {
        for (std::int64_t i = row.first; i < row.end; ++i) {
          offsets_.push_back(static_cast<std::uint16_t>((csr.col[i] - row.first_col) * vector_bytes));
          if (source) source->push_back(static_cast<std::uint32_t>(i));
        }
      });
  offsets_.insert(offsets_.end(), kValuesAhead, 0);
}

Tile PackedPattern::tile(std::size_t down, std::size_t across, const float* values) const {
  const Tiling::Part part = tiling_.tile(down, across);
  return {part.runs, part.run_count, part.row, offsets_.data() + part.first_step, values + part.first_step};
}

std::size_t PackedPattern::bytes() const {
  return sizeof(*this) + tiling_.bytes() + offsets_.capacity() * sizeof(std::uint16_t);
}

PackedWeight::PackedWeight(const Csr& csr, std::span<const float> values, const Machine& machine)
    : PackedWeight(csr, values, machine, std::vector<std::uint32_t>{}) {}

PackedWeight::PackedWeight(const Csr& csr, std::span<const float> values, const Machine& machine,
                           std::vector<std::uint32_t> source)
    : PackedPattern(csr, machine, "PackedWeight", &source) {
  check_count(source.size(), values.size(), "PackedWeight");
  values_.reserve(source.size() + kValuesAhead);
  for (const std::uint32_t place : source) values_.push_back(values[place]);
  values_.insert(values_.end(), kValuesAhead, 0.0f);
}

}  // namespace pruneonce
