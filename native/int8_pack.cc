#include "int8_pack.h"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "kernels.h"

namespace pruneonce {
namespace {

// |a| + |b| of one sign at most: 255 · 128 fits 16 bits.
constexpr int kLargestPair = 128;

struct Weight {
  std::int32_t col;  // in the tile
  std::int8_t value;
};

// The bytes of one step of the kernel. Neighbours share one offset.
struct Four {
  std::array<std::uint16_t, 4> offset{};
  std::array<std::int8_t, 4> value{};
};

int magnitude(std::int8_t value) { return std::abs(int{value}); }

bool overflows(std::int8_t a, std::int8_t b) {
  return (a > 0) == (b > 0) && magnitude(a) + magnitude(b) > kLargestPair;
}

// Pairs that never overflow, as few as that allows; to fours with two zeros times the first column.
void any_fours(const std::vector<Weight>& weights, std::size_t code_bytes, std::vector<Four>& fours) {
  std::vector<Weight> positive, negative;
  for (const Weight& weight : weights) (weight.value > 0 ? positive : negative).push_back(weight);
  const auto larger = [](const Weight& a, const Weight& b) { return magnitude(a.value) > magnitude(b.value); };
  std::stable_sort(positive.begin(), positive.end(), larger);
  std::stable_sort(negative.begin(), negative.end(), larger);

  std::size_t pairs = 0;
  const auto add_pair = [&](const Weight& a, const Weight& b) {
    if (pairs % 2 == 0) fours.emplace_back();
    const std::size_t place = pairs++ % 2 * 2;
    for (std::size_t i = 0; const Weight& weight : {a, b}) {
      fours.back().offset[place + i] = static_cast<std::uint16_t>(static_cast<std::size_t>(weight.col) * code_bytes);
      fours.back().value[place + i++] = weight.value;
    }
  };
  const std::size_t mixed = std::min(positive.size(), negative.size());
  for (std::size_t i = 0; i < mixed; ++i) add_pair(positive[i], negative[i]);
  // The smallest of the more frequent sign are left: the largest of them each with the smallest.
  const std::vector<Weight>& left = positive.size() > mixed ? positive : negative;
  std::size_t first = mixed, last = left.size();
  while (first < last) {
    const Weight large = left[first++];
    const bool fits = first < last && !overflows(large.value, left[last - 1].value);
    add_pair(large, fits ? left[--last] : Weight{large.col, 0});
  }
}

// One per four neighbouring columns that has a weight; where `exact_pairs`, two if a pair would overflow.
void neighbouring_fours(const std::vector<Weight>& weights, std::size_t vector_bytes, bool exact_pairs,
                        std::vector<Four>& fours) {
  for (std::size_t i = 0; i < weights.size();) {
    const std::int32_t group = weights[i].col / 4;
    Four four, rest;
    four.offset[0] = rest.offset[0] = static_cast<std::uint16_t>(static_cast<std::size_t>(group) * vector_bytes);
    for (; i < weights.size() && weights[i].col / 4 == group; ++i)
      four.value[static_cast<std::size_t>(weights[i].col % 4)] = weights[i].value;
    for (const std::size_t second : {1, 3})
      if (exact_pairs && overflows(four.value[second - 1], four.value[second]))
        std::swap(four.value[second], rest.value[second]);
    fours.push_back(four);
    if (rest.value != std::array<std::int8_t, 4>{}) fours.push_back(rest);
  }
}

std::size_t columns_of(Fours fours, std::size_t cols, const Machine& machine) {
  const Int8Kernel& kernel = kernels(machine.isa).int8;
  if (fours == Fours::any) return columns_per_tile(cols, kernel.code_bytes, machine);
  return 4 * columns_per_tile(divide_up(cols, 4), 4 * kernel.code_bytes, machine);
}

}  // namespace

Int8Weight::Int8Weight(const Csr& csr, std::span<const std::int8_t> values, const Int8Quantization& quantization,
                       Fours fours, const Machine& machine)
    : scales_(quantization, csr.rows(), machine.isa, "Int8Weight"),
      nonzeros_(csr.col.size()),
      tiling_(csr.rows(), csr.cols, rows_per_tile(csr.rows(), machine), columns_of(fours, csr.cols, machine)),
      isa_(machine.isa),
      fours_(fours) {
  check(csr, values.size(), "Int8Weight");
  for (std::size_t r = 0; r < rows(); ++r)
    scales_.set_sum(r, values.subspan(csr.row_ptr[r], csr.row_ptr[r + 1] - csr.row_ptr[r]), "Int8Weight");
  pack(csr, values);
}

void Int8Weight::pack(const Csr& csr, std::span<const std::int8_t> values) {
  const Int8Kernel& kernel = kernels(isa_).int8;
  std::vector<Weight> weights;
  std::vector<std::vector<Four>> packed(tiling_.tile_rows());  // of each row of a tile
  tiling_.cut(
      csr, Tiling::Empty::in_first_and_last,
      [&](const TileRow& row) {
        weights.clear();
        for (std::int64_t i = row.first; i < row.end; ++i)
          if (values[i] != 0) weights.push_back({static_cast<std::int32_t>(csr.col[i] - row.first_col), values[i]});
        packed[row.row].clear();
        if (fours_ == Fours::any) {
          any_fours(weights, kernel.code_bytes, packed[row.row]);
        } else {
          neighbouring_fours(weights, kernel.code_bytes, !kernel.sums_fours, packed[row.row]);
        }
        return packed[row.row].size();
      },
      [&](const TileRow& row) {
        for (const Four& four : packed[row.row]) {
          offsets_.insert(offsets_.end(), four.offset.begin(), four.offset.begin() + offsets_per_four());
          values_.insert(values_.end(), four.value.begin(), four.value.end());
        }
      });
  // The kernel reads neighbours in fours of fours.
  offsets_.insert(offsets_.end(), 3, 0);
  values_.resize(values_.size() + 12);
}

std::size_t Int8Weight::parts(std::size_t panels) const { return row_parts(tiling_, panels); }

RowRange Int8Weight::rows_of_part(std::size_t index, std::size_t parts) const {
  return {part(tiling_.down(), parts, index) * tiling_.tile_rows(),
          std::min(part(tiling_.down(), parts, index + 1) * tiling_.tile_rows(), rows())};
}

void Int8Weight::multiply(const RowRange& range, const std::uint8_t* x, std::size_t vectors, const float* bias,
                          const float* residual, float* y) const {
  const Int8Kernel& kernel = kernels(isa_).int8;
  const bool any = fours_ == Fours::any;
  const auto multiply_tile = (any ? kernel.multiply_any : kernel.multiply_neighbours)[vectors - 1];
  const std::size_t stride = vectors * kernel.code_bytes / 4;  // floats per row of y, and bytes per feature in fours
  const std::size_t tile_bytes = tiling_.tile_cols() * (any ? kernel.code_bytes : stride);
  const std::size_t last = tiling_.across() - 1, tile_rows = tiling_.tile_rows();
  for (std::size_t across = 0; across <= last; ++across, x += tile_bytes)
    for (std::size_t row = range.first; row < range.end; row += tile_rows) {
      const Int8Finish finish{scales_.factor() + row, bias ? bias + row : nullptr,
                              residual ? residual + row * stride : nullptr};
      multiply_tile(tile(row / tile_rows, across), x, across == 0 ? scales_.start() + row : nullptr,
                    across == last ? &finish : nullptr, y + (row - range.first) * stride);
    }
}

Int8Tile Int8Weight::tile(std::size_t down, std::size_t across) const {
  const Tiling::Part part = tiling_.tile(down, across);
  return {part.runs, part.run_count, part.row, offsets_.data() + part.first_step * offsets_per_four(),
          values_.data() + part.first_step * 4};
}

std::size_t Int8Weight::bytes() const {
  return sizeof(*this) + tiling_.bytes() + offsets_.capacity() * sizeof(std::uint16_t) + values_.capacity() +
         scales_.bytes();
}

}  // namespace pruneonce
