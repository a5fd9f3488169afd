#include "int8_pack.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <numeric>

#include "int8.h"
#include "spmm.h"

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

bool overflows(std::int8_t a, std::int8_t b) { return (a > 0) == (b > 0) && magnitude(a) + magnitude(b) > kLargestPair; }

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
  const Int8Kernel& kernel = int8_kernel(machine.isa);
  if (fours == Fours::any) return columns_per_tile(cols, kernel.code_bytes, machine.l1_bytes);
  return 4 * columns_per_tile(divide_up(cols, 4), 4 * kernel.code_bytes, machine.l1_bytes);
}

}  // namespace

Int8Weight::Int8Weight(const Csr& csr, std::span<const std::int8_t> values, const Int8Quantization& quantization,
                       Fours fours, const Machine& machine)
    : scales_(quantization, csr.row_ptr.empty() ? 0 : csr.row_ptr.size() - 1, "Int8Weight"),
      cols_(csr.cols),
      nonzeros_(csr.col.size()),
      tile_rows_(rows_per_tile(scales_.rows(), machine.threads)),
      tile_cols_(columns_of(fours, csr.cols, machine)),
      isa_(machine.isa),
      fours_(fours) {
  check(csr, values.size(), "Int8Weight");
  for (std::size_t r = 0; r < rows(); ++r) {
    std::int64_t sum = 0, size = 0;
    for (auto i = csr.row_ptr[r]; i < csr.row_ptr[r + 1]; ++i) sum += values[i], size += std::abs(int{values[i]});
    scales_.set_sum(r, sum, size, "Int8Weight");
  }

  const Int8Kernel& kernel = int8_kernel(isa_);
  std::vector<std::int64_t> next(csr.row_ptr.begin(), csr.row_ptr.end());  // per row: its first non-zero not yet packed
  std::vector<Weight> weights;
  std::vector<std::vector<Four>> packed(tile_rows_);
  std::vector<std::uint16_t> order(tile_rows_);
  for (std::size_t across = 0; across < tiles_across(); ++across) {
    const auto first_col = static_cast<std::int64_t>(across * tile_cols_);
    const auto end_col = first_col + static_cast<std::int64_t>(tile_cols_);
    for (std::size_t down = 0; down < tiles_down(); ++down) {
      starts_.push_back({runs_.size(), row_order_.size(), values_.size() / 4});
      const std::size_t first_row = down * tile_rows_, count = std::min(tile_rows_, rows() - first_row);
      for (std::size_t r = 0; r < count; ++r) {
        weights.clear(), packed[r].clear();
        std::int64_t& i = next[first_row + r];
        for (; i < csr.row_ptr[first_row + r + 1] && csr.col[i] < end_col; ++i)
          if (values[i] != 0) weights.push_back({static_cast<std::int32_t>(csr.col[i] - first_col), values[i]});
        if (fours == Fours::any) {
          any_fours(weights, kernel.code_bytes, packed[r]);
        } else {
          neighbouring_fours(weights, kernel.code_bytes, !kernel.sums_fours, packed[r]);
        }
      }
      std::iota(order.begin(), order.begin() + count, std::uint16_t{0});
      std::stable_sort(order.begin(), order.begin() + count,
                       [&](auto a, auto b) { return packed[a].size() < packed[b].size(); });
      for (std::size_t position = 0; position < count; ++position) {
        const std::uint16_t r = order[position];
        // The first tile of a row gives its sums their start, the last one makes floats of them.
        if (packed[r].empty() && across > 0 && across + 1 < tiles_across()) continue;
        const auto fours_in_row = static_cast<std::uint32_t>(packed[r].size());
        if (runs_.size() == starts_.back().run || runs_.back().nonzeros_per_row != fours_in_row)
          runs_.push_back({0, fours_in_row});
        ++runs_.back().rows;
        row_order_.push_back(r);
        for (const Four& four : packed[r]) {
          offsets_.insert(offsets_.end(), four.offset.begin(), four.offset.begin() + (fours == Fours::any ? 4 : 1));
          values_.insert(values_.end(), four.value.begin(), four.value.end());
        }
      }
    }
  }
  starts_.push_back({runs_.size(), row_order_.size(), values_.size() / 4});
  // The kernel reads ahead: places of rows, and neighbours in fours of fours.
  row_order_.insert(row_order_.end(), kRowsAhead, 0);
  offsets_.insert(offsets_.end(), 3, 0);
  values_.resize(values_.size() + 12);
}

std::size_t Int8Weight::parts(std::size_t panels) const { return row_parts(tile_rows_, tiles_down(), panels); }

RowRange Int8Weight::rows_of_part(std::size_t index, std::size_t parts) const {
  return {part(tiles_down(), parts, index) * tile_rows_,
          std::min(part(tiles_down(), parts, index + 1) * tile_rows_, rows())};
}

void Int8Weight::multiply(const RowRange& range, const std::uint8_t* x, std::size_t vectors, const float* bias,
                          const float* residual, float* y) const {
  const Int8Kernel& kernel = int8_kernel(isa_);
  const bool any = fours_ == Fours::any;
  const auto multiply_tile = (any ? kernel.multiply_any : kernel.multiply_neighbours)[vectors - 1];
  const std::size_t stride = vectors * kernel.code_bytes / 4;  // floats per row of y, and bytes per feature in fours
  const std::size_t tile_bytes = tile_cols_ * (any ? kernel.code_bytes : stride);
  const std::size_t last = tiles_across() - 1;
  for (std::size_t across = 0; across <= last; ++across, x += tile_bytes)
    for (std::size_t row = range.first; row < range.end; row += tile_rows_) {
      const Int8Finish finish{scales_.factor() + row, bias ? bias + row : nullptr,
                              residual ? residual + row * stride : nullptr};
      multiply_tile(tile(row / tile_rows_, across), x, across == 0 ? scales_.start() + row : nullptr,
                    across == last ? &finish : nullptr, y + (row - range.first) * stride);
    }
}

Int8Tile Int8Weight::tile(std::size_t down, std::size_t across) const {
  const TileStart* const start = &starts_[across * tiles_down() + down];
  return {runs_.data() + start->run, start[1].run - start->run, row_order_.data() + start->row,
          offsets_.data() + start->four * (fours_ == Fours::any ? 4 : 1), values_.data() + start->four * 4};
}

std::size_t Int8Weight::bytes() const {
  return sizeof(*this) + starts_.capacity() * sizeof(TileStart) + runs_.capacity() * sizeof(Run) +
         (row_order_.capacity() + offsets_.capacity()) * sizeof(std::uint16_t) + values_.capacity() + scales_.bytes();
}

}  // namespace pruneonce
