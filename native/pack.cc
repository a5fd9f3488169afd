#include "pack.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

#include "spmm.h"

namespace pruneonce {
namespace {

constexpr std::size_t kMaxSide = std::numeric_limits<std::int32_t>::max();

}  // namespace

void check_count(std::size_t nonzeros, std::size_t values, const char* who) {
  if (values != nonzeros)
    throw std::invalid_argument("[" + std::string(who) + "] col has " + std::to_string(nonzeros) +
                                " entries but values has " + std::to_string(values));
}

void check(const Csr& csr, std::size_t values, const char* who) {
  using std::to_string;
  const auto refuse = [who](const std::string& why) {
    throw std::invalid_argument("[" + std::string(who) + "] " + why);
  };
  const std::size_t nonzeros = csr.col.size();
  if (csr.row_ptr.empty()) refuse("row_ptr is empty; it needs one entry more than there are rows");
  if (csr.row_ptr.size() - 1 > kMaxSide || csr.cols > kMaxSide) refuse("more than 2^31 - 1 rows or columns");
  check_count(nonzeros, values, who);
  if (csr.row_ptr.front() != 0) refuse("row_ptr[0] is " + to_string(csr.row_ptr.front()) + ", expected 0");
  // Before any entry is used as an index: all of them lie between the first and the last.
  for (std::size_t r = 0; r + 1 < csr.row_ptr.size(); ++r)
    if (csr.row_ptr[r + 1] < csr.row_ptr[r])
      refuse("row_ptr falls from " + to_string(csr.row_ptr[r]) + " to " + to_string(csr.row_ptr[r + 1]) + " after row " +
             to_string(r));
  if (static_cast<std::uint64_t>(csr.row_ptr.back()) != nonzeros)
    refuse("row_ptr ends with " + to_string(csr.row_ptr.back()) + " but there are " + to_string(nonzeros) +
           " non-zeros");
  for (std::size_t r = 0; r + 1 < csr.row_ptr.size(); ++r) {
    std::int64_t previous = -1;
    for (std::int64_t i = csr.row_ptr[r]; i < csr.row_ptr[r + 1]; ++i) {
      const std::int64_t col = csr.col[i];
      if (col <= previous)
        refuse("columns of row " + to_string(r) + " must be 0 or more and rise; " + to_string(col) +
               (previous < 0 ? " comes first" : " follows " + to_string(previous)));
      if (static_cast<std::uint64_t>(col) >= csr.cols)
        refuse("row " + to_string(r) + " has column " + to_string(col) + " of " + to_string(csr.cols));
      previous = col;
    }
  }
}

std::size_t columns_per_tile(std::size_t cols, std::size_t bytes, std::size_t l1_bytes) {
  const std::size_t most = std::min(l1_bytes, std::numeric_limits<std::uint16_t>::max() + std::size_t{1}) / bytes;
  return std::max<std::size_t>(1, divide_up(cols, std::max<std::size_t>(1, divide_up(cols, most))));
}

std::size_t rows_per_tile(std::size_t rows, std::size_t threads) {
  return std::clamp<std::size_t>(divide_up(rows, threads * 32) * 32, 96, 384);
}

PackedPattern::PackedPattern(const Csr& csr, const Machine& machine, const char* who,
                             std::vector<std::uint32_t>* source)
    : rows_(csr.row_ptr.empty() ? 0 : csr.row_ptr.size() - 1),
      cols_(csr.cols),
      tile_rows_(rows_per_tile(rows_, machine.threads)),
      tile_cols_(columns_per_tile(cols_, spmm_kernel(machine.isa).lanes * sizeof(float) * kPanelVectors,
                                  machine.l1_bytes)),
      isa_(machine.isa) {
  check(csr, csr.col.size(), who);
  if (csr.col.size() > std::numeric_limits<std::uint32_t>::max())
    throw std::invalid_argument("[" + std::string(who) + "] more than 2^32 - 1 non-zeros");
  const std::size_t vector_bytes = spmm_kernel(isa_).lanes * sizeof(float);
  offsets_.reserve(csr.col.size() + kValuesAhead);
  if (source) source->reserve(csr.col.size());
  starts_.reserve(tiles_across() * tiles_down() + 1);

  std::vector<std::int64_t> next(csr.row_ptr.begin(), csr.row_ptr.end());  // per row: its first non-zero not yet packed
  std::vector<std::uint32_t> count(tile_rows_);
  std::vector<std::uint16_t> order(tile_rows_);
  for (std::size_t across = 0; across < tiles_across(); ++across) {
    const auto first_col = static_cast<std::int64_t>(across * tile_cols_);
    const auto end_col = first_col + static_cast<std::int64_t>(tile_cols_);
    for (std::size_t down = 0; down < tiles_down(); ++down) {
      starts_.push_back({runs_.size(), row_order_.size(), offsets_.size()});
      const std::size_t first_row = down * tile_rows_;
      const std::size_t rows = std::min(tile_rows_, rows_ - first_row);
      for (std::size_t r = 0; r < rows; ++r) {
        const std::int64_t* const from = csr.row_ptr.data() + first_row + r;
        std::int64_t end = next[first_row + r];
        while (end < from[1] && csr.col[end] < end_col) ++end;
        count[r] = static_cast<std::uint32_t>(end - next[first_row + r]);
      }
      std::iota(order.begin(), order.begin() + rows, std::uint16_t{0});
      std::stable_sort(order.begin(), order.begin() + rows, [&](auto a, auto b) { return count[a] < count[b]; });
      for (std::size_t position = 0; position < rows; ++position) {
        const std::uint16_t r = order[position];
        if (count[r] == 0 && across > 0) continue;  // the first tile of a row gives it its bias
        if (runs_.size() == starts_.back().run || runs_.back().nonzeros_per_row != count[r])
          runs_.push_back({0, count[r]});
        ++runs_.back().rows;
        row_order_.push_back(r);
        for (std::uint32_t i = 0; i < count[r]; ++i, ++next[first_row + r]) {
          const std::int64_t from = next[first_row + r];
          offsets_.push_back(static_cast<std::uint16_t>((csr.col[from] - first_col) * vector_bytes));
          if (source) source->push_back(static_cast<std::uint32_t>(from));
        }
      }
    }
  }
  starts_.push_back({runs_.size(), row_order_.size(), offsets_.size()});
  // The kernel reads ahead: places of rows, and weights in fours.
  row_order_.insert(row_order_.end(), kRowsAhead, 0);
  offsets_.insert(offsets_.end(), kValuesAhead, 0);
}

Tile PackedPattern::tile(std::size_t down, std::size_t across, const float* values) const {
  const TileStart* const from = start(down, across);
  return {runs_.data() + from->run, from[1].run - from->run, row_order_.data() + from->row,
          offsets_.data() + from->nonzero, values + from->nonzero};
}

std::size_t PackedPattern::bytes() const {
  return sizeof(*this) + starts_.capacity() * sizeof(TileStart) + runs_.capacity() * sizeof(Run) +
         row_order_.capacity() * sizeof(std::uint16_t) + offsets_.capacity() * sizeof(std::uint16_t);
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
