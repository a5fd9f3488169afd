#include "int8_pack.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <string>

#include "int8.h"

namespace pruneonce {
namespace {

// |a| + |b| of one sign at most: 255 · 128 fits 16 bits.
constexpr int kLargestPair = 128;

struct Weight {
  std::uint16_t offset;
  std::int8_t value;
};

using Pair = std::pair<Weight, Weight>;

// Pairs that never overflow, as few as that allows.
void make_pairs(std::vector<Weight>& positive, std::vector<Weight>& negative, std::vector<Pair>& pairs) {
  const auto larger = [](const Weight& a, const Weight& b) { return std::abs(int{a.value}) > std::abs(int{b.value}); };
  std::stable_sort(positive.begin(), positive.end(), larger);
  std::stable_sort(negative.begin(), negative.end(), larger);
  const std::size_t mixed = std::min(positive.size(), negative.size());
  for (std::size_t i = 0; i < mixed; ++i) pairs.emplace_back(positive[i], negative[i]);
  // The smallest of the more frequent sign are left: the largest of them each with the smallest.
  const std::vector<Weight>& left = positive.size() > mixed ? positive : negative;
  std::size_t first = mixed, last = left.size();
  while (first < last) {
    const Weight large = left[first++];
    const bool fits = first < last && std::abs(int{large.value}) + std::abs(int{left[last - 1].value}) <= kLargestPair;
    pairs.emplace_back(large, fits ? left[--last] : Weight{large.offset, 0});
  }
}

}  // namespace

Int8Weight::Int8Weight(const Csr& csr, std::span<const std::int8_t> values, std::span<const float> scale,
                       float input_scale, std::int32_t input_zero_point, Isa isa)
    : cols_(csr.cols),
      nonzeros_(csr.col.size()),
      tile_rows_(rows_per_tile(scale.size())),
      tile_cols_(columns_per_tile(cols_, int8_kernel(isa).code_bytes)),
      isa_(isa),
      inverse_input_scale_(1.0f / input_scale),
      input_zero_point_(input_zero_point) {
  const auto refuse = [](const std::string& why) { throw std::invalid_argument("[Int8Weight] " + why); };
  check(csr, values.size(), "Int8Weight");
  const std::size_t rows = csr.row_ptr.size() - 1;
  if (scale.size() != rows) refuse("scale has " + std::to_string(scale.size()) + " entries, expected " + std::to_string(rows));
  if (!(std::isfinite(input_scale) && input_scale > 0 && std::isfinite(inverse_input_scale_)))
    refuse("input_scale must be a positive number");
  if (input_zero_point < 0 || input_zero_point > 255) refuse("input_zero_point must be 0 to 255");
  scale_.reserve(rows);
  start_.reserve(rows);
  for (std::size_t r = 0; r < rows; ++r) {
    const float factor = scale[r] * input_scale;
    if (!(std::isfinite(factor) && factor > 0)) refuse("scale[" + std::to_string(r) + "] must be a positive number");
    std::int64_t sum = 0, size = 0;
    for (auto i = csr.row_ptr[r]; i < csr.row_ptr[r + 1]; ++i) sum += values[i], size += std::abs(int{values[i]});
    if (size * 255 > INT32_MAX) refuse("row " + std::to_string(r) + " is so long that its sums could overflow");
    scale_.push_back(factor);
    start_.push_back(static_cast<std::int32_t>(-input_zero_point * sum));
  }

  const std::size_t code_bytes = int8_kernel(isa).code_bytes;
  std::vector<std::int64_t> next(csr.row_ptr.begin(), csr.row_ptr.end());  // per row: its first non-zero not yet packed
  std::vector<Weight> positive, negative;
  std::vector<std::vector<Pair>> pairs(tile_rows_);
  std::vector<std::uint16_t> order(tile_rows_);
  for (std::size_t across = 0; across < tiles_across(); ++across) {
    const auto first_col = static_cast<std::int64_t>(across * tile_cols_);
    const auto end_col = first_col + static_cast<std::int64_t>(tile_cols_);
    for (std::size_t down = 0; down < tiles_down(); ++down) {
      starts_.push_back({runs_.size(), row_order_.size(), values_.size()});
      const std::size_t first_row = down * tile_rows_, count = std::min(tile_rows_, rows - first_row);
      for (std::size_t r = 0; r < count; ++r) {
        positive.clear(), negative.clear(), pairs[r].clear();
        std::int64_t& i = next[first_row + r];
        for (; i < csr.row_ptr[first_row + r + 1] && csr.col[i] < end_col; ++i) {
          if (values[i] == 0) continue;
          const auto offset = static_cast<std::uint16_t>(static_cast<std::size_t>(csr.col[i] - first_col) * code_bytes);
          (values[i] > 0 ? positive : negative).push_back({offset, values[i]});
        }
        make_pairs(positive, negative, pairs[r]);
        if (pairs[r].size() % 2) pairs[r].emplace_back();  // to fours: two zeros times the first column
      }
      std::iota(order.begin(), order.begin() + count, std::uint16_t{0});
      std::stable_sort(order.begin(), order.begin() + count,
                       [&](auto a, auto b) { return pairs[a].size() < pairs[b].size(); });
      for (std::size_t position = 0; position < count; ++position) {
        const std::uint16_t r = order[position];
        // The first tile of a row gives its sums their start, the last one makes floats of them.
        if (pairs[r].empty() && across > 0 && across + 1 < tiles_across()) continue;
        const auto fours = static_cast<std::uint32_t>(pairs[r].size() / 2);
        if (runs_.size() == starts_.back().run || runs_.back().nonzeros_per_row != fours) runs_.push_back({0, fours});
        ++runs_.back().rows;
        row_order_.push_back(r);
        for (const auto& [a, b] : pairs[r])
          for (const Weight& weight : {a, b}) {
            offsets_.push_back(weight.offset);
            values_.push_back(weight.value);
          }
      }
    }
  }
  starts_.push_back({runs_.size(), row_order_.size(), values_.size()});
  row_order_.insert(row_order_.end(), kRowsAhead, 0);
}

Int8Tile Int8Weight::tile(std::size_t down, std::size_t across) const {
  const TileStart* const start = &starts_[across * tiles_down() + down];
  return {runs_.data() + start->run, start[1].run - start->run, row_order_.data() + start->row,
          offsets_.data() + start->value, values_.data() + start->value};
}

std::size_t Int8Weight::bytes() const {
  return sizeof(*this) + starts_.capacity() * sizeof(TileStart) + runs_.capacity() * sizeof(Run) +
         (row_order_.capacity() + offsets_.capacity()) * sizeof(std::uint16_t) + values_.capacity() +
         scale_.capacity() * (sizeof(float) + sizeof(std::int32_t));
}

}  // namespace pruneonce
